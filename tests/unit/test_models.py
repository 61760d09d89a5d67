"""Models as workflows read them: a long-stride map in the float type that it can compute in."""

from __future__ import annotations

import torch

from mdistill.nets.model_files import save_model
from mdistill.teachers.models import load_stride
from systems import tiny_map


def test_a_map_computes_in_single_precision(tmp_path):
    save_model(tmp_path / "stride.mdistill", tiny_map())
    found = load_stride(tmp_path)
    assert {parameter.dtype for parameter in found.parameters()} == {torch.float32}
    assert not any(parameter.requires_grad for parameter in found.parameters())
