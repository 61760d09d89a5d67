"""One label: what is kept, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from mdistill.data.probes import draw_probes
from mdistill.derivatives import curvature_products
from mdistill.errors import BadInput
from mdistill.graph import make_system
from mdistill.labelling.engine import Failure, as_engine
from mdistill.labelling.executor import Serial
from mdistill.labelling.tasks import Question, frame_of
from mdistill.types import Graph, LabelledFrame, Prediction

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


def label(potential: Any, *, largest_force: float = 50.0, **asked: Any) -> LabelledFrame | Failure:
    """One structure labelled as `label_run` does it."""
    question = Question(**({"name": "x", "index": 0, "system": SYSTEM} | asked))
    (answer,) = Serial(as_engine(potential), 30.0, Path()).answers([question])
    return frame_of(question, answer, largest_force=largest_force)


def test_label_holds_the_answer() -> None:
    frame = label(Quadratic(), source="strain", temperature_K=300.0, block=7)
    assert isinstance(frame, LabelledFrame)
    r = SYSTEM.positions.reshape(-1)
    torch.testing.assert_close(frame.target.forces, -(HESSIAN @ r).reshape(3, 3))
    assert (frame.source, frame.temperature_K, frame.block) == ("strain", 300.0, 7)
    assert frame.probes is None and frame.products is None


@pytest.mark.parametrize("potential", [Quadratic(), Curved()])
def test_curvature_products(potential: Any) -> None:
    probes = draw_probes(SYSTEM, 4, seed(1))
    frame = label(potential, probes=probes)
    assert isinstance(frame, LabelledFrame) and frame.probes is probes and frame.products is not None
    expected = (probes.reshape(4, 9) @ HESSIAN).reshape(4, 3, 3)
    torch.testing.assert_close(frame.products, expected, rtol=0, atol=1e-9)
    assert set(probes.unique().tolist()) == {-1.0, 1.0}
    assert torch.equal(draw_probes(SYSTEM, 4, seed(1)), probes)


def test_probes_estimate_the_trace_without_bias() -> None:
    probes = draw_probes(SYSTEM, 4000, seed(2)).reshape(4000, 9)
    products = curvature_products(Curved(), SYSTEM, probes.reshape(-1, 3, 3)).reshape(4000, 9)
    samples = (probes * products).sum(1)
    assert abs(float(samples.mean() - HESSIAN.trace())) < 4 * float(samples.std()) / 4000**0.5


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
    failure = label(Quadratic(fault))
    assert isinstance(failure, Failure) and message in failure.reason
    assert failure.engine_failed == (message != "above the cap")
    trust("T37", f"label: teacher's answer is broken ({message})", "refused with its structure", "skipped", planted=True)


def test_curvature_that_is_not_finite_is_refused() -> None:
    @dataclass(frozen=True)
    class Broken(Curved):
        def curvature(self, graph: Graph, probes: Tensor) -> Tensor:
            return probes * torch.nan

    failure = label(Broken(), probes=draw_probes(SYSTEM, 2, seed(1)))
    assert isinstance(failure, Failure) and "curvature" in failure.reason


def test_a_known_answer_is_not_asked_for_again() -> None:
    def never(prediction: Prediction) -> Prediction:
        raise AssertionError("asked")

    frame = label(Quadratic(never), known=STILL)
    assert isinstance(frame, LabelledFrame) and frame.target is STILL


def test_unknown_elements_are_no_broken_label() -> None:
    def unknown(prediction: Prediction) -> Prediction:
        raise BadInput("structure", "Cl", allowed="Li", fix="another teacher")

    with pytest.raises(BadInput):
        label(Quadratic(unknown))
