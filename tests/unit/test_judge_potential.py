"""judge/potential.py: a good student passes every gate on real dynamics, bad ones fail theirs (T28); stops and resumes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mdistill.analysis.gates import force_flips
from mdistill.analysis.settings import GateLimits
from mdistill.derivatives import Conservative
from mdistill.errors import BadInput, BlowUp, Interrupted
from mdistill.graph import make_system
from mdistill.interrupt import StopRequest
from mdistill.judge.potential import closest_distances, pair_name, scan_pairs, validate
from mdistill.judge.settings import ValidateSettings
from mdistill.judge.timing import compare_speed
from mdistill.labelling.settings import LabelSettings
from mdistill.matter.masses import usual_time_step
from mdistill.runs.hardware import instructions
from mdistill.runs.results import Results, read_results, write_results
from mdistill.simulation.evaluator import Evaluator
from mdistill.simulation.initial_state import initial_state
from mdistill.simulation.langevin import Baoab
from mdistill.simulation.rollout import Collect, rollout
from mdistill.types import Graph, LabelledFrame, Prediction, System

QUICK = ValidateSettings(replays=4, equilibration_ps=0.15, drift_ps=0.6, stability_ps=0.2, speed_repeats=3)
SHORT = replace(QUICK, equilibration_ps=0.05, drift_ps=0.2, stability_ps=0.1)
TAUGHT = LabelSettings(temperatures_K=(300.0, 600.0), frames=30, every_fs=16.0, equilibration_fs=200.0, friction_per_ps=5.0)
AT_ONCE = replace(TAUGHT, temperatures_K=(600.0,), every_fs=2.0, equilibration_fs=0.0)
"""For what does not look at RDFs."""


@dataclass(frozen=True)
class SoftSalt:
    """Two ions, u(r) = (0.12 (bond/r)⁸ ± 1.5 e^{−r/2.5}) (1 − r²/r_c²)³ eV, with faults on demand."""

    bond: float = 2.6
    hole: float = 0.0
    shift: float = 0.0
    cutoff: float = 4.2
    elements: frozenset[int] = frozenset({11, 17})
    name: str = "salt"

    def __call__(self, graph: Graph, vectors: torch.Tensor) -> torch.Tensor:
        r = vectors.norm(dim=1)
        numbers = graph.system.numbers
        like = numbers[graph.receiver] == numbers[graph.sender]
        well = torch.where(like, 1.0, -1.0) * 1.5 * (-r / 2.5).exp() + 0.12 * (self.bond / r) ** 8
        hole = -self.hole * (-((r - 1.2) ** 2) / 0.02).exp()
        energy = 0.5 * (well + hole) * (1.0 - (r / self.cutoff).square()).clamp_min(0.0) ** 3
        return (energy.new_zeros(graph.system.n_atoms) + self.shift).index_add(0, graph.receiver, energy)


@dataclass(frozen=True)
class Student:
    """The salt with a fault: see `FAULTS`."""

    net: SoftSalt = field(default_factory=SoftSalt)
    fault: str = ""
    elements: frozenset[int] = frozenset({11, 17})
    cutoff: float = 4.2

    @property
    def name(self) -> str:
        return f"student {self.fault}"

    def __call__(self, graph: Graph) -> Prediction:
        found = Conservative(self.net)(graph)
        if self.fault == "slow":
            time.sleep(0.06)
        if self.fault == "stress" and found.stress is not None:
            return replace(found, stress=found.stress + 0.02 * torch.eye(3, dtype=torch.float64))
        if self.fault == "one element":
            return replace(found, forces=found.forces + 0.2 * (graph.system.numbers == 11).unsqueeze(1))
        if self.fault == "not conservative":
            return replace(found, forces=found.forces + 0.02 * torch.sin(1e5 * graph.system.positions))
        if self.fault == "explodes":
            return replace(found, forces=1.5 * found.forces + 30.0 * torch.sin(1e3 * graph.system.positions))
        return found


@dataclass(frozen=True)
class SlowTeacher:
    """The same physics at ten times the price, also where other processes slow the student down."""

    elements: frozenset[int] = frozenset({11, 17})
    cutoff: float = 4.2
    name: str = "teacher"

    def __call__(self, graph: Graph) -> Prediction:
        time.sleep(0.06)
        return Conservative(SoftSalt())(graph)


def rock_salt() -> System:
    grid = np.array([[i, j, k] for i in range(4) for j in range(4) for k in range(2)], dtype=float)
    grid = np.vstack([grid, grid + np.array([0, 0, 2])])
    numbers = np.where(grid.sum(1) % 2 == 0, 11, 17)
    return make_system(2.35 * grid, numbers, 9.4 * np.eye(3), [True] * 3)


def labels(temperature: float, first_block: int) -> list[LabelledFrame]:
    """30 frames of the teacher's dynamics at one temperature, in three blocks."""
    potential = Conservative(SoftSalt())
    generator = torch.Generator().manual_seed(int(temperature))
    state = initial_state(rock_salt(), temperature_K=temperature, generator=generator)
    propagator = Baoab(evaluate=Evaluator(potential), time_step=2.0, temperature_K=temperature, friction_per_ps=5.0)
    state = rollout(state, propagator, steps=100, generator=generator)
    kept = Collect(every=8)
    rollout(state, propagator, steps=240, generator=generator, observers=[kept])
    return [
        LabelledFrame(system=s.system, target=s.prediction, temperature_K=temperature, block=first_block + k // 10)
        for k, s in enumerate(kept.states)
    ]


@pytest.fixture(scope="module")
def held_out() -> list[LabelledFrame]:
    return labels(300.0, 0) + labels(600.0, 3)


def run(
    student: Student, frames: list[LabelledFrame], folder: Path, settings: ValidateSettings = SHORT, *,
    taught: LabelSettings = AT_ONCE, **more: object,
) -> Results:  # fmt: skip
    return validate(student, SlowTeacher(), frames, rock_salt(), settings, folder, taught=taught, **more)


def failed(results: Results) -> set[str]:
    return {gate.name for gate in results.gates if not gate.passed}


def check_flagged(results: Results, gate: str) -> None:
    """The claim of T28 on a whole validation: the gate meant for this fault is shown as failed."""
    assert gate in failed(results), f"{gate} passed: {[g.detail for g in results.gates if g.name == gate]}"


@pytest.fixture(scope="module")
def good(held_out: list[LabelledFrame], tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Path]:
    folder = tmp_path_factory.mktemp("good")
    return run(Student(net=SoftSalt(bond=2.601)), held_out, folder, QUICK, taught=TAUGHT), folder


def test_good_student_passes_every_gate(good: tuple[Results, Path], trust) -> None:
    results = good[0]
    assert failed(results) == set(), [(g.name, g.detail) for g in results.gates]
    assert len(results.gates) == 9
    trust("T28", "gates that flag a good student in a whole validation", 0, "none of 9")


def test_results_hold_what_the_report_needs(good: tuple[Results, Path], tmp_path: Path) -> None:
    results = good[0]
    assert read_results(write_results(tmp_path, results)).gates[0].name == "force error"
    assert [(rung.kind, rung.name) for rung in results.rungs] == [("teacher", "teacher"), ("potential", "student ")]
    assert results.rungs[1].speed_up.value > 2.0 and list(results.rungs[1].errors) == ["force MAE", "energy MAE", "NVE drift"]
    assert {f.kind for f in results.figures} >= {"parity", "line", "logy"}
    assert all(len(s.x) <= 1500 for f in results.figures if f.kind == "parity" for s in f.series)
    assert {"force_mae", "force_mae 600 K", "force_mae Na", "energy_mae 300 K", "stress_mae", "speed_up"} <= set(results.values)
    assert any(name.startswith("rdf-") for name in (f.name for f in results.figures))
    assert f"student in its own code on a processor with {instructions() or 'unknown'}" in results.gates[-1].detail


@pytest.mark.slow
def test_second_call_repeats_nothing_and_says_the_same(good: tuple[Results, Path], held_out: list[LabelledFrame]) -> None:
    results, folder = good
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("trajectory.h5")}
    again = run(Student(net=SoftSalt(bond=2.601)), held_out, folder, QUICK, taught=TAUGHT)
    assert again.gates == results.gates and again.values == results.values
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("trajectory.h5")} == before


FAULTS: dict[str, tuple[Student, str, dict[str, object]]] = {
    "wrong bond": (Student(net=SoftSalt(bond=2.75)), "force error", {}),
    "one element": (Student(fault="one element"), "force error per element", {}),
    "energy off by 10 meV": (Student(net=SoftSalt(shift=0.01)), "energy error", {}),
    "stress off by 3 GPa": (Student(fault="stress"), "stress error", {}),
    "other structure": (Student(net=SoftSalt(bond=3.1)), "RDF overlap", {}),
    "not conservative": (Student(fault="not conservative"), "NVE drift", {"drift_ps": 0.6}),
    "explodes": (Student(fault="explodes"), "stability", {}),
    "hole in the wall": (Student(net=SoftSalt(hole=40.0)), "short-range repulsion", {}),
    "slow": (Student(fault="slow"), "speed-up", {"stability_ps": 0.02, "drift_ps": 0.1, "equilibration_ps": 0.0}),
}


LONG = ("other structure", "slow")


@pytest.mark.planted
@pytest.mark.parametrize("fault", [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in FAULTS])
def test_bad_student_fails_its_gate(fault: str, held_out: list[LabelledFrame], tmp_path: Path, trust) -> None:
    student, gate, more = FAULTS[fault]
    frames = [f for f in held_out if f.temperature_K == 600.0][:: 1 if gate == "RDF overlap" else 2]
    taught = replace(TAUGHT, temperatures_K=(600.0,)) if gate == "RDF overlap" else AT_ONCE
    results = run(student, frames, tmp_path, replace(SHORT, **more), taught=taught)
    check_flagged(results, gate)
    write_results(tmp_path, results)
    trust("T28", f"student with a fault: {fault}", f"gate '{gate}' failed", "flagged", planted=True)


def test_check_can_fail(good: tuple[Results, Path]) -> None:
    with pytest.raises(AssertionError, match="NVE drift passed"):
        check_flagged(good[0], "NVE drift")


def test_stop_is_honoured_and_the_rest_resumes(held_out: list[LabelledFrame], tmp_path: Path) -> None:
    frames, stop = held_out[30::2], StopRequest()
    asked = 0

    def pending(self: StopRequest) -> bool:
        nonlocal asked
        asked += 1
        return asked > 300

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StopRequest, "pending", pending)
        with pytest.raises(Interrupted):
            run(Student(), frames, tmp_path / "stopped", stop=stop)
    assert (tmp_path / "stopped" / "nve-600K" / "restart.npz").exists()
    resumed, whole = (run(Student(), frames, tmp_path / name) for name in ("stopped", "whole"))
    for name in ("RDF overlap", "NVE drift"):
        one, other = (next(g for g in r.gates if g.name == name) for r in (resumed, whole))
        assert one == other, f"{name} depends on the interruption"


def test_without_dynamics_of_the_teacher_there_is_no_rdf_gate(held_out: list[LabelledFrame], tmp_path: Path) -> None:
    strained = [replace(f, source="strain", temperature_K=0.0) for f in held_out[:6]]
    results = run(Student(), strained, tmp_path, replace(SHORT, drift_ps=0.1))
    assert "RDF overlap" not in {g.name for g in results.gates}
    assert {"force error", "NVE drift", "stability"} <= {g.name for g in results.gates}


@pytest.mark.parametrize(("heavy_h", "step"), [(0.0, 0.5), (3.0, 1.0)])
def test_gates_run_with_the_hydrogen_and_time_step_of_production(
    heavy_h: float, step: float, tmp_path: Path, monkeypatch
) -> None:
    from mdistill.judge import potential

    runs = list[tuple[object, ...]]()

    def simulate(system: System, student: object, md: object, folder: Path, *, masses: object, **_: object) -> None:
        runs.append((md.time_step_fs or usual_time_step(system), masses))
        raise BlowUp(1, "seen")

    monkeypatch.setattr(potential, "simulate", simulate)
    water = make_system(
        np.array([[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]), np.array([8, 1, 1]), np.zeros((3, 3)), [False] * 3
    )
    frame = LabelledFrame(
        system=water,
        target=Prediction(energy=torch.zeros(1), forces=torch.zeros(3, 3)),
        block=0,
        temperature_K=300.0,
        source="md",
    )
    taught = replace(AT_ONCE, heavy_h=heavy_h)
    student = Conservative(SoftSalt(elements=frozenset({1, 8})))
    validate(student, student, [frame], water, SHORT, tmp_path, taught=taught)
    assert len(runs) == 2 and {one[0] for one in runs} == {step}
    assert all((masses is None) == (heavy_h == 0.0) for _, masses in runs)
    assert all(masses is None or masses.tolist()[1:] == [3.0, 3.0] for _, masses in runs)


def test_nothing_held_out_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="held-out"):
        run(Student(), [], tmp_path)


@pytest.mark.parametrize(
    ("name", "value"), [("replays", 1), ("stability_factor", 0.5), ("speed_repeats", 1), ("scan_from_A", 3.0)]
)
def test_settings_are_checked(name: str, value: float) -> None:
    with pytest.raises(BadInput, match=name):
        ValidateSettings(**{name: value})


def check_core(make: Callable[[], SoftSalt]) -> int:
    """The claim of T11: from 0.3 Å to the closest labelled distance every pair repels, with one change of sign at most."""
    scans = scan_pairs(Conservative(make()), {(11, 11): 3.2, (11, 17): 2.3, (17, 17): 3.2})
    worst = max(force_flips(scan) for scan in scans.values())
    assert worst <= GateLimits().force_flips, f"{worst} flips"
    assert all(np.isfinite(s.energy).all() and np.isfinite(s.force).all() for s in scans.values())
    return worst


def test_pair_scan_sees_a_sound_wall(trust) -> None:
    trust(
        "T11",
        "pair scan of the gate: force flips from 0.3 Å to the closest labelled distance",
        check_core(SoftSalt),
        "≤ 1, no NaN",
    )


@pytest.mark.planted
def test_planted_hole_in_the_wall_is_caught(trust) -> None:
    with pytest.raises(AssertionError, match="flips"):
        check_core(lambda: SoftSalt(hole=40.0))
    trust("T11", "pair scan: a hole in the repulsive wall", "caught", "caught", planted=True)


def test_scan_equals_the_formula() -> None:
    scan = scan_pairs(Conservative(SoftSalt()), {(11, 17): 2.3})["Cl–Na"]
    r = scan.distance
    energy = (0.12 * (2.6 / r) ** 8 - 1.5 * np.exp(-r / 2.5)) * (1 - (r / 4.2) ** 2) ** 3
    assert np.allclose(scan.energy, energy, rtol=1e-10)
    assert np.allclose(scan.force[1:-1], -np.gradient(energy, r)[1:-1], rtol=0.05)


def test_closest_distances_and_names(held_out: list[LabelledFrame]) -> None:
    closest = closest_distances(held_out[:2])
    positions = held_out[0].system.positions.numpy()
    apart = positions[:, None] - positions[None]
    apart -= 9.4 * np.round(apart / 9.4)
    unlike = held_out[0].system.numbers.numpy()[:, None] != held_out[0].system.numbers.numpy()[None]
    assert closest[(11, 17)] <= np.linalg.norm(apart, axis=-1)[unlike].min() + 1e-12
    assert set(closest) == {(11, 11), (11, 17), (17, 17)} and closest[(11, 11)] > closest[(11, 17)]
    assert pair_name(17, 11) == "Cl–Na"


def test_speed_ratio_of_known_sleeps() -> None:
    speed = compare_speed(SlowTeacher(), Student(), rock_salt(), repeats=5)
    assert speed.teacher.value * 64 > 20_000.0 and speed.ratio.value > 2.0
    assert speed.ratio.error is not None and speed.ratio.samples == 5
