"""One label: what is kept, what is refused, and calls that hang."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from mdistill.data.label import BrokenLabel, TimedPotential, curvature, draw_probes, label
from mdistill.errors import BadInput
from mdistill.graph import make_system
from mdistill.types import CurvedPotential, Graph, Prediction

SYSTEM = make_system(np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]), np.array([3, 3, 17]), np.eye(3) * 5, [True] * 3)
ENTRIES = torch.from_numpy(np.random.default_rng(0).normal(size=(9, 9)))
HESSIAN = ENTRIES + ENTRIES.T
STILL = Prediction(
    energy=torch.zeros(1, dtype=torch.float64), forces=torch.zeros((3, 3), dtype=torch.float64), stress=torch.zeros((1, 3, 3))
)


@dataclass(frozen=True)
class Quadratic:
    """E = ½ rᵀHr; `change` plants faults."""

    change: Callable[[Prediction], Prediction] = lambda p: p
    cutoff: float = 0.0
    elements: frozenset[int] = frozenset()
    name: str = "quadratic"

    def __call__(self, graph: Graph) -> Prediction:
        r = graph.system.positions.reshape(-1)
        return self.change(Prediction(energy=(0.5 * r @ HESSIAN @ r).reshape(1), forces=-(HESSIAN @ r).reshape(-1, 3)))


@dataclass(frozen=True)
class Curved(Quadratic):
    """The same with exact curvature."""

    def curvature(self, graph: Graph, probes: Tensor) -> Tensor:
        return (probes.reshape(len(probes), -1) @ HESSIAN).reshape(probes.shape)


def seed(number: int) -> Generator:
    return Generator().manual_seed(number)


def test_label_holds_the_answer() -> None:
    frame = label(SYSTEM, Quadratic(), source="strain", temperature_K=300.0, block=7)
    r = SYSTEM.positions.reshape(-1)
    torch.testing.assert_close(frame.target.forces, -(HESSIAN @ r).reshape(3, 3))
    assert (frame.source, frame.temperature_K, frame.block) == ("strain", 300.0, 7)
    assert frame.probes is None and frame.products is None


@pytest.mark.parametrize("potential", [Quadratic(), Curved()])
def test_curvature_products(potential: Any) -> None:
    frame = label(SYSTEM, potential, probes=4, generator=seed(1))
    assert frame.probes is not None and frame.products is not None
    expected = (frame.probes.reshape(4, 9) @ HESSIAN).reshape(4, 3, 3)
    torch.testing.assert_close(frame.products, expected, rtol=0, atol=1e-9)
    assert set(frame.probes.unique().tolist()) == {-1.0, 1.0}
    again = label(SYSTEM, potential, probes=4, generator=seed(1))
    assert again.probes is not None and torch.equal(again.probes, frame.probes)


def test_probes_estimate_the_trace_without_bias() -> None:
    probes = draw_probes(SYSTEM, 4000, seed(2)).reshape(4000, 9)
    products = curvature(Curved(), SYSTEM, probes.reshape(-1, 3, 3)).reshape(4000, 9)
    samples = (probes * products).sum(1)
    assert abs(float(samples.mean() - HESSIAN.trace())) < 4 * float(samples.std()) / 4000**0.5


def test_probes_need_a_generator() -> None:
    with pytest.raises(BadInput, match="generator"):
        label(SYSTEM, Quadratic(), probes=1)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda p: replace(p, energy=p.energy * torch.nan), "not finite"),
        (lambda p: replace(p, forces=p.forces / 0.0), "not finite"),
        (lambda p: replace(p, stress=torch.full((1, 3, 3), torch.nan)), "not finite"),
        (lambda p: replace(p, forces=p.forces[:2]), "shapes"),
        (lambda p: replace(p, energy=p.energy.expand(2)), "shapes"),
        (lambda p: replace(p, forces=p.forces.half()), "half-precision"),
        (lambda p: replace(p, forces=p.forces * 1e4), "above the cap"),
        (lambda p: {}["x"], "KeyError"),
        (lambda p: (_ for _ in ()).throw(MemoryError("16 GiB")), "MemoryError: 16 GiB"),
    ],
)
def test_broken_answers(fault: Any, message: str, trust: Any) -> None:
    with pytest.raises(BrokenLabel, match=message) as error:
        label(SYSTEM, Quadratic(fault))
    assert error.value.system is SYSTEM
    assert error.value.beyond_cap == (message == "above the cap")
    trust("T37", f"label: teacher's answer is broken ({message})", "refused with its structure", "skipped", planted=True)


def test_a_known_answer_is_not_asked_for_again() -> None:
    def never(prediction: Prediction) -> Prediction:
        raise AssertionError("asked")

    assert label(SYSTEM, Quadratic(never), target=STILL).target is STILL


def test_unknown_elements_are_no_broken_label() -> None:
    def unknown(prediction: Prediction) -> Prediction:
        raise BadInput("structure", "Cl", allowed="Li", fix="another teacher")

    with pytest.raises(BadInput):
        label(SYSTEM, Quadratic(unknown))


def test_a_call_that_hangs_is_given_up_and_the_next_one_is_served(trust: Any) -> None:
    naps = iter([0.0, 30.0, 0.0])

    def nap(prediction: Prediction) -> Prediction:
        time.sleep(next(naps))
        return prediction

    timed = TimedPotential(Quadratic(nap), 1.0)
    label(SYSTEM, timed)
    begin = time.monotonic()
    with pytest.raises(BrokenLabel, match=r"no answer within 1 s"):
        label(SYSTEM, timed)
    waited = time.monotonic() - begin
    assert 0.9 < waited < 10.0
    label(SYSTEM, timed)
    trust("T37", "a teacher that hangs is given up after (s; limit 1)", waited, "frame skipped, next call served", planted=True)


def test_timed_potential_changes_nothing() -> None:
    for inner in (Quadratic(), Curved()):
        timed = TimedPotential(inner, 5.0)
        assert isinstance(timed, CurvedPotential)
        plain, same = (label(SYSTEM, p, probes=2, generator=seed(3)) for p in (inner, timed))
        assert plain.products is not None and same.products is not None
        assert torch.equal(plain.target.forces, same.target.forces) and torch.equal(plain.products, same.products)
        assert (timed.cutoff, timed.elements, timed.name) == (inner.cutoff, inner.elements, inner.name)
