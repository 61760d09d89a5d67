"""Models as workflows read them: a long-stride map in the float type that it can compute in."""

from __future__ import annotations

import torch

from actions import tiny_action
from mdistill.nets.action import ActionNet
from mdistill.nets.model_files import save_model
from mdistill.teachers.models import load_stride
from systems import tiny_map


def test_a_composition_computes_in_single_precision_and_a_generating_function_in_double(tmp_path):
    for name, net in (("kicks", tiny_map()), ("action", tiny_action())):
        save_model(tmp_path / name / "stride.mdistill", net)
        found = load_stride(tmp_path / name)
        kinds = {parameter.dtype for parameter in found.parameters()}
        assert kinds == {torch.float64 if isinstance(found, ActionNet) else torch.float32}
        assert not any(parameter.requires_grad for parameter in found.parameters())
