"""Files, structures and models are told apart by their content."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import torch

from mdistill.derivatives import Conservative
from mdistill.io.files import sha256
from mdistill.runs.identity import contents, model_id, structure_sha256, weights_sha256
from systems import fcc


class Net(torch.nn.Module):
    cutoff, elements, name = 3.0, frozenset({3}), "net"

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([weight]))


def test_models_of_one_name_are_told_apart_by_their_weights() -> None:
    one, same, other = (weights_sha256(Net(weight)) for weight in (1.0, 1.0, 2.0))
    assert one == same != other and len(one) == 64
    assert weights_sha256(Net(1.0), mode="PBE") not in (one, other)
    assert weights_sha256(Conservative(Net(1.0))) == one == model_id(Conservative(Net(1.0)))


def test_models_without_weights_go_by_their_own_sha256_or_their_name() -> None:
    assert (
        weights_sha256(SimpleNamespace(name="calculator")) == "" and model_id(SimpleNamespace(name="calculator")) == "calculator"
    )
    assert model_id(SimpleNamespace(name="x", sha256="abc")) == "abc"
    assert model_id(SimpleNamespace(name="x", net=SimpleNamespace(sha256="abc"))) == "abc"


def test_structures_and_files(tmp_path) -> None:
    system = fcc()
    moved = replace(system, positions=system.positions + 1e-9)
    assert len({structure_sha256(system), structure_sha256(moved), structure_sha256(system, moved)}) == 3
    assert structure_sha256(system) == structure_sha256(replace(system))
    one = torch.tensor([1])
    charged, unpaired, both = (
        structure_sha256(replace(system, **stated))
        for stated in ({"charge": one}, {"unpaired": one}, {"charge": one, "unpaired": one})
    )
    assert len({structure_sha256(system), charged, unpaired, both}) == 4
    (tmp_path / "a").write_text("x")
    assert contents(tmp_path / "a") == {"a": sha256(tmp_path / "a")}
