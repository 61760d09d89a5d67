"""judge/replay.py: the student repeats the teacher's short dynamics, so that what has not come to rest is compared alike."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Generator

from mdistill.analysis.gates import Overlap, overlap, rdf_gate
from mdistill.analysis.rdf import largest_radius, rdf
from mdistill.analysis.settings import GateLimits
from mdistill.derivatives import Conservative
from mdistill.errors import BlowUp, Interrupted
from mdistill.graph import make_system
from mdistill.interrupt import StopRequest
from mdistill.judge.replay import replay
from mdistill.labelling.settings import LabelSettings
from mdistill.simulation.evaluator import Evaluator
from mdistill.simulation.initial_state import initial_state
from mdistill.simulation.langevin import Baoab
from mdistill.simulation.rollout import Collect, rollout
from mdistill.types import Graph, System, Trajectory

KELVIN, FRAMES, TIMES, SPACING = 600.0, 15, 8, 3.2
TAUGHT = LabelSettings(temperatures_K=(KELVIN,), frames=FRAMES, every_fs=20.0, equilibration_fs=40.0, friction_per_ps=1.0)


@dataclass(frozen=True)
class Soft:
    """u(r) = height (r_c²/r² − 1)² eV: soft spheres."""

    height: float = 0.05
    cutoff: float = 4.0
    elements: frozenset[int] = frozenset({86})
    name: str = "soft spheres"

    def __call__(self, graph: Graph, vectors: torch.Tensor) -> torch.Tensor:
        inside = (self.cutoff**2 / vectors.square().sum(1) - 1.0).clamp_min(0.0)
        return vectors.new_zeros(graph.system.n_atoms).index_add(0, graph.receiver, 0.5 * self.height * inside.square())


def soft(height: float = 0.05) -> Conservative:
    return Conservative(Soft(height=height))


def lattice() -> System:
    """Heavy atoms on a lattice above its melting point: it melts over picoseconds, long after the teacher stopped."""
    sites = np.array([[x, y, z] for x in range(4) for y in range(4) for z in range(4)], dtype=float)
    return make_system(SPACING * sites, np.full(len(sites), 86), 4.0 * SPACING * np.eye(3), [True] * 3)


def teacher(seed: int, *, frames: int = FRAMES, before: int = 20) -> Trajectory:
    """Its dynamics, by hand."""
    generator = Generator().manual_seed(seed)
    step = Baoab(evaluate=Evaluator(soft()), time_step=2.0, temperature_K=KELVIN, friction_per_ps=1.0)
    state = initial_state(lattice(), temperature_K=KELVIN, generator=generator)
    state = rollout(state, step, steps=before, generator=generator)
    kept = Collect(every=10)
    rollout(state, step, steps=10 * frames, generator=generator, observers=[kept])
    return kept.trajectory()


def alike(theirs: Trajectory, ours: Trajectory, blocks: int) -> Overlap:
    reach = min(largest_radius(theirs), largest_radius(ours))
    first, second = (rdf(run, pair=("Rn", "Rn"), r_max=reach, bins=40, blocks=blocks) for run in (theirs, ours))
    found = overlap(first, second, segments=second)
    assert found is not None
    return found


def passes(found: Overlap) -> bool:
    return rdf_gate({"Rn–Rn": found}, GateLimits()).passed


def repeated(student: Conservative, **more) -> Trajectory:
    return replay(student, lattice(), TAUGHT, {KELVIN: FRAMES}, repeats=TIMES, **more)[KELVIN]


def test_a_student_like_its_teacher_passes_before_anything_has_come_to_rest(trust) -> None:
    found = [alike(teacher(seed), repeated(soft(), seed=seed), TIMES) for seed in range(3)]
    assert all(map(passes, found)), found
    worst = max(max(0.0, one.divergence - one.noise) for one in found)
    trust("T28", "RDF divergence beyond sampling of a student that is its teacher, far from equilibrium", worst, "< 0.02")


@pytest.mark.planted
def test_planted_longer_dynamics_and_another_student_are_caught(trust) -> None:
    theirs = teacher(0)
    later = teacher(1, frames=TIMES * FRAMES, before=1500)
    assert not passes(alike(theirs, later, TIMES)), "the teacher itself, followed for longer"
    assert not passes(alike(theirs, repeated(soft(height=0.5)), TIMES))
    trust(
        "T28",
        "RDFs: the teacher itself, followed for longer; atoms that repel ten times as much",
        "caught",
        "caught",
        planted=True,
    )


def test_it_is_the_protocol_of_the_teacher() -> None:
    ladder = replace(TAUGHT, temperatures_K=(300.0, 400.0, 600.0, 1e4))
    counts = {400.0: 7, 600.0: 4}
    found = replay(soft(), lattice(), ladder, counts, repeats=3, seed=1)
    assert {kelvin: len(run.times) for kelvin, run in found.items()} == {400.0: 21, 600.0: 12}
    again = replay(soft(), lattice(), ladder, counts, repeats=3, seed=1)
    torch.testing.assert_close(again[600.0].positions, found[600.0].positions, rtol=0, atol=0)
    first, second = found[400.0].positions[6], found[400.0].positions[13]
    assert not torch.allclose(first, second), "other random numbers each time"
    gone_on = (found[600.0].positions[0] - first).norm(dim=1).mean()
    afresh = (found[600.0].positions[0] - lattice().positions).norm(dim=1).mean()
    assert gone_on < 0.7 * afresh, "each temperature begins where the one before ended"


def test_a_student_that_breaks_says_where() -> None:
    with pytest.raises(BlowUp, match=r"600 K, run 1 of 2"):
        replay(soft(), lattice(), replace(TAUGHT, largest_force=1e-3), {KELVIN: 2}, repeats=2)


def test_it_stops_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = StopRequest()
    monkeypatch.setattr(StopRequest, "pending", lambda _: True)
    with pytest.raises(Interrupted):
        repeated(soft(), stop=stop)
