"""judge/check.py: which frames are drawn, what is measured on them, and students that its gates must and must not flag."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_judge_potential import SoftSalt, labels, rock_salt

from mdistill.analysis.gates import diffusive_gate, force_gates, overlap_gate, production_gates, softening_gate
from mdistill.analysis.reweighting import Spread, energy_spread, force_slope, reweighted
from mdistill.analysis.settings import GateLimits
from mdistill.derivatives import Conservative
from mdistill.errors import BadInput, BlowUp
from mdistill.estimates import Estimate
from mdistill.io.trajectories import read_hdf5
from mdistill.judge.check import check_production
from mdistill.judge.production_frames import between_sites, draw_frames, production_runs
from mdistill.judge.settings import CheckSettings
from mdistill.labelling.settings import LabelSettings
from mdistill.runs.results import Results, read_results, write_results
from mdistill.settings import stream
from mdistill.simulation.settings import SimulateSettings
from mdistill.simulation.simulate import simulate
from mdistill.teachers.models import load
from mdistill.training.potential import TrainingResult, train_potential
from mdistill.training.settings import FitSettings, TrainSettings
from mdistill.types import Graph, LabelledFrame, Potential, Prediction
from walks import lattice, trajectory_of

LIMITS = GateLimits()
TEMPERATURES = (300.0, 600.0)
LABEL = LabelSettings(temperatures_K=TEMPERATURES)
LIKE = rock_salt()


@dataclass(frozen=True)
class Scaled:
    """The salt with scaled energies and another bond length."""

    factor: float = 1.0
    bond: float = 2.6
    net: SoftSalt = field(default_factory=SoftSalt)
    elements: frozenset[int] = frozenset({11, 17})
    cutoff: float = 4.2
    name: str = "scaled"

    def __call__(self, graph: Graph) -> Prediction:
        found = Conservative(replace(self.net, bond=self.bond))(graph)
        stress = None if found.stress is None else self.factor * found.stress
        return Prediction(energy=self.factor * found.energy, forces=self.factor * found.forces, stress=stress)


TEACHER = Scaled(name="teacher")


def produced(
    folder: Path, students: Sequence[Potential], seed: int, *, runs: int = 2, time_ps: float = 0.6,
    temperatures: tuple[float, ...] = TEMPERATURES,
) -> Path:  # fmt: skip
    """Production of the salt."""
    for kelvin in temperatures:
        for k in range(runs):
            md = SimulateSettings(
                ensemble="nvt", thermostat="langevin", friction_per_ps=10.0, temperature_K=kelvin, time_ps=time_ps,
                equilibration_ps=0.12, time_step_fs=4.0, every_fs=40.0, seed=1000 * seed + 10 * k + int(kelvin),
            )  # fmt: skip
            simulate(rock_salt(), students[k % len(students)], md, folder / f"{kelvin:g}K" / f"run-{k + 1}")
    return folder


def checked(
    production: Path, students: Sequence[Potential], folder: Path, *, frames: int = 12, slopes: dict[str, Estimate] | None = None,
    temperatures: tuple[float, ...] = TEMPERATURES,
) -> Results:  # fmt: skip
    return check_production(
        production, students, TEACHER, CheckSettings(frames=frames), folder, temperatures_K=temperatures, mobile=11,
        limits=LIMITS, label=LABEL, like=LIKE, slopes=slopes,
    )  # fmt: skip


def failed(results: Results) -> set[str]:
    return {gate.name for gate in results.gates if not gate.passed}


def walk_with_a_hop(*, hop: float = 3.0, frames: int = 200, seed: int = 0) -> np.ndarray:
    """[frame, ion, 3] three vibrating ions; the second hops along x around frame 100 (50 fs apart)."""
    rng = np.random.default_rng(seed)
    places = lattice(3, 4.0)[:3] + 0.15 * rng.normal(size=(frames, 3, 3))
    places[:, 1, 0] += hop / (1.0 + np.exp(-(np.arange(frames) - 100) / 1.0))
    return places


def test_an_ion_is_between_sites_while_it_hops_and_at_no_other_time() -> None:
    host = np.broadcast_to(lattice(2, 6.0) + 1.5, (200, 8, 3))
    passing = between_sites(trajectory_of(walk_with_a_hop(), host, 12.0 * np.eye(3), spacing=50.0), "Li", distance=1.5)
    assert set(np.flatnonzero(passing.any(1))) <= set(range(97, 104)) and passing[100, 1] and passing.sum() >= 2
    still = between_sites(trajectory_of(walk_with_a_hop(hop=1.0), host, 12.0 * np.eye(3), spacing=50.0), "Li", distance=1.5)
    assert not still.any(), "rattling is no hop"
    short = trajectory_of(walk_with_a_hop(frames=20), host[:20], 12.0 * np.eye(3), spacing=50.0)
    assert not between_sites(short, "Li", distance=1.5).any()


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Potential]]:
    students: list[Potential] = [Scaled(bond=2.602, name="one"), Scaled(bond=2.599, name="two")]
    return produced(tmp_path_factory.mktemp("production"), students, 0), students


def test_frames_are_drawn_from_every_run_and_stand_for_their_share(right: tuple[Path, list[Potential]]) -> None:
    runs = production_runs(right[0], TEMPERATURES)
    assert [(run.temperature_K, run.number) for run in runs] == [(300.0, 1), (300.0, 2), (600.0, 1), (600.0, 2)]
    drawn = draw_frames(runs[:2], 7, mobile=11, distance=1.5, pbc=[True] * 3)
    assert [frame.run for frame in drawn] == [1] * 4 + [2] * 3
    assert sum(frame.share for frame in drawn) == pytest.approx(1.0)
    assert torch.equal(drawn[0].system.positions, read_hdf5(runs[0].path).positions[2])
    assert draw_frames(runs[:2], 0, mobile=11, distance=1.5, pbc=[True] * 3) == []


def test_half_of_the_frames_have_a_hop_where_there_are_any(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = np.broadcast_to(lattice(2, 6.0) + 1.5, (200, 8, 3))
    hopper = trajectory_of(walk_with_a_hop(), host, 12.0 * np.eye(3), spacing=50.0)
    path = tmp_path / "700K" / "trajectory.h5"
    path.parent.mkdir()
    path.touch()
    monkeypatch.setattr("mdistill.judge.production_frames.read_hdf5", lambda path: hopper)
    runs = production_runs(tmp_path, [700.0, 900.0])
    assert [(run.temperature_K, run.number) for run in runs] == [(700.0, 1)], "a run of an earlier version"
    drawn = draw_frames(runs, 4, mobile=3, distance=1.5, pbc=[True] * 3)
    assert [bool(frame.hopping) for frame in drawn].count(True) == 2 and {frame.hopping for frame in drawn} == {(), (1,)}
    hops = int(between_sites(hopper, "Li", distance=1.5).any(1).sum())
    assert sum(frame.share for frame in drawn if frame.hopping) == pytest.approx(hops / 200)
    few = draw_frames(runs, 40, mobile=3, distance=1.5, pbc=[True] * 3)
    assert len(few) == 40 and sum(bool(frame.hopping) for frame in few) == hops, "no more hops than there are"


def test_spread_of_a_gaussian_is_covered_by_its_error_and_offsets_do_not_count() -> None:
    hits = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        runs = np.repeat([1, 2, 3], 8)
        reduced = 1.5 * rng.normal(size=24) + 40.0 * runs
        found = energy_spread(reduced, np.full(24, 1 / 24), runs)
        hits += abs(found.width.value - 1.5) < 1.96 * found.width.error
        assert found.useful.value == pytest.approx(math.exp(-(found.width.value**2)))
    assert 0.88 <= hits / 200 <= 0.99
    assert energy_spread(np.zeros(3), np.full(3, 1 / 3), np.array([1, 2, 3])).width.value is None


def test_spread_follows_the_shares_of_the_frames() -> None:
    """Hops, a hundredth of production but half of the labels, with an error ten times as large."""
    widths = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        reduced = np.concatenate([rng.normal(size=30), 10.0 * rng.normal(size=30)])
        shares = np.concatenate([np.full(30, 0.99 / 30), np.full(30, 0.01 / 30)])
        widths.append(energy_spread(reduced, shares, np.ones(60)).width.value ** 2)
    assert np.mean(widths) == pytest.approx(0.99 + 0.01 * 100, rel=0.1)


def test_reweighting_gives_the_mean_of_the_other_ensemble() -> None:
    """Harmonic student E = x²/2, teacher E = x²: ⟨x²⟩ falls from 1 to 1/2 k_BT, and the weights count as √(3)/2 of the frames."""
    x = np.random.default_rng(0).normal(size=20_000)
    weights, effective = reweighted(x**2 / 2 - x**2, np.full(20_000, 1 / 20_000), np.zeros(20_000))
    assert np.average(x**2, weights=weights) == pytest.approx(0.5, abs=0.02)
    assert effective / 20_000 == pytest.approx(math.sqrt(3) / 2, abs=0.01)


def test_slope_of_a_soft_student_with_noise_is_covered() -> None:
    hits = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        teacher = [rng.normal(size=(20, 3)) for _ in range(12)]
        slope, reverse = force_slope(teacher, [0.9 * f + 0.1 * rng.normal(size=(20, 3)) for f in teacher])
        hits.append(abs(slope.value - 0.9) < 2.2 * slope.error)
        assert reverse is not None and reverse > slope.value
    assert 0.88 <= np.mean(hits) <= 0.99


def test_gates_of_the_check() -> None:
    def wide(width: float, error: float) -> Spread:
        estimate = Estimate(value=width, error=error, unit="k_BT")
        return Spread(width=estimate, useful=replace(estimate, value=math.exp(-(width**2)), unit=""), frames=10)

    assert (
        overlap_gate({"500 K": (wide(2.3, 0.3), 52)}, LIMITS).passed
        and not overlap_gate({"500 K": (wide(2.8, 0.3), 52)}, LIMITS).passed
    )
    open_gate = overlap_gate({"500 K": (energy_spread(np.zeros(1), np.ones(1), np.ones(1)), 52)}, LIMITS)
    assert open_gate.passed and not open_gate.judged
    assert not overlap_gate({}, LIMITS).passed

    def energy(value: float, error: float) -> bool:
        errors = {
            "500 K": Estimate(value=value, error=error, unit="meV/atom"),
            "700 K": Estimate(value=1.0, error=0.1, unit="meV/atom"),
        }
        return production_gates({}, errors, LIMITS)[1].passed

    assert energy(3.3, 0.4) and not energy(3.5, 0.4) and not production_gates({}, {}, LIMITS)[1].passed

    def slope(value: float, error: float) -> Estimate:
        return Estimate(value=value, error=error, unit="")

    assert softening_gate({"all": slope(0.93, 0.02), "Li": slope(1.2, 0.1)}, LIMITS).passed
    soft = softening_gate({"all": slope(0.97, 0.02), "Li": slope(0.9, 0.01)}, LIMITS)
    assert not soft.passed and "Li" in soft.detail and not softening_gate({}, LIMITS).passed
    slopes = {"500 K": slope(0.6, 0.1), "700 K": slope(0.95, 0.1)}
    bound = diffusive_gate(slopes, LIMITS)
    assert bound.passed and not bound.judged and "upper bounds at 500 K" in bound.detail and set(bound.parts) == set(slopes)
    assert diffusive_gate({"700 K": slopes["700 K"]}, LIMITS).judged
    assert not diffusive_gate({"700 K": slopes["700 K"]}, LIMITS, bounds=["700 K"]).judged
    assert "at 500 K" in diffusive_gate({}, LIMITS, bounds=["500 K"]).detail


def test_the_right_student_passes_and_all_is_told(right: tuple[Path, list[Potential]], tmp_path: Path) -> None:
    production, students = right
    results = checked(production, students, tmp_path, slopes={"600 K": Estimate(value=0.2, error=0.1, unit="")})
    assert failed(results) == set(), [(gate.name, gate.detail) for gate in results.gates]
    assert [gate.name for gate in results.gates] == [
        "force error in production", "energy error in production", "overlap with the teacher", "softening", "diffusive",
    ]  # fmt: skip
    assert read_results(write_results(tmp_path, results)).gates == results.gates
    assert [table.name for table in results.tables] == ["check", "overlap", "softening"]
    rows = {(row[0], row[1]): row for row in results.tables[0].rows}
    assert rows["600", "vibrations"][2] == 12 and rows["600", "vibrations"][3] == pytest.approx(100.0)
    assert results.values["force_slope all"].value == pytest.approx(1.0, abs=0.02)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")}
    again = checked(production, students, tmp_path)
    assert again.values == results.values and {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.npz")} == before


def test_each_run_is_compared_with_its_own_student(right: tuple[Path, list[Potential]], tmp_path: Path) -> None:
    """The second student is off by 30 meV/atom: an offset of its runs, and no error."""
    production, students = right
    shifted = [students[0], Scaled(bond=2.599, net=SoftSalt(shift=0.03), name="two")]
    assert failed(checked(production, shifted, tmp_path / "own")) == set()
    halves = checked(production, [TEACHER, Scaled(factor=0.9)], tmp_path / "soft")
    assert halves.values["force_slope all"].value == pytest.approx(0.95, abs=0.01)


def test_reweighted_means_are_shown_where_frames_allow(right: tuple[Path, list[Potential]], tmp_path: Path) -> None:
    production, students = right
    few = checked(production, students, tmp_path / "few", frames=6)
    assert not few.figures and any("reweighted energy and RDFs need 10" in note for note in few.notes)
    many = checked(production, students, tmp_path / "many", frames=24)
    assert len(many.figures) == 2 and not many.notes
    assert all(row[6].value is not None and "(" in row[7] for row in many.tables[1].rows)


def test_an_energy_error_is_not_known_from_a_frame_of_each_run(right: tuple[Path, list[Potential]], tmp_path: Path) -> None:
    """One frame of a student is its own mean, and two frames are equally far from theirs: neither is 0 ± 0."""
    production, _ = right
    alone = checked(production, [TEACHER, Scaled(factor=0.9)], tmp_path / "alone", frames=2, temperatures=(300.0,))
    assert [row[7].value for row in alone.tables[0].rows] == [None] and not any("energy_mae" in name for name in alone.values)
    gate = next(gate for gate in alone.gates if gate.name == "energy error in production")
    assert gate.passed and not gate.judged and gate.measured.value is None and "--check.frames" in gate.detail
    assert read_results(write_results(tmp_path / "alone", alone)).gates == alone.gates
    pair = checked(production, [Scaled(factor=0.9)], tmp_path / "pair", frames=2, temperatures=(300.0,))
    found = pair.values["production_energy_mae 300 K"]
    assert found.value > 0.0 and found.error is None
    more = checked(production, [Scaled(factor=0.9)], tmp_path / "more", frames=6, temperatures=(300.0,))
    assert more.values["production_energy_mae 300 K"].error > 0.0


def test_a_folder_without_production_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds no trajectory"):
        checked(tmp_path, [TEACHER], tmp_path / "check")


SEEDS = range(10)


def flagged(results: Results, *names: str) -> None:
    """The claim: one of these gates is shown as failed."""
    assert failed(results) & set(names), [(gate.name, gate.measured.value, gate.limit) for gate in results.gates]


@pytest.mark.planted
@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_a_student_that_is_ten_percent_too_soft_is_caught_and_a_right_one_is_not(seed: int, tmp_path: Path, trust) -> None:
    bond = 2.6 + 0.004 * float(torch.rand(1, generator=stream(seed, "bond"))) - 0.002
    soft, good = Scaled(factor=0.9, name="soft"), Scaled(bond=bond, name="right")
    found = {s.name: checked(produced(tmp_path / s.name, [s], seed), [s], tmp_path / f"{s.name}-check") for s in (soft, good)}
    flagged(found["soft"], "softening")
    assert failed(found["right"]) == set(), [(g.name, g.detail) for g in found["right"].gates]
    trust("T28", "check of production: a student 10 % too soft, ten seeds", "caught; a right one passes", "caught", planted=True)


@pytest.fixture(scope="module")
def taught() -> list[LabelledFrame]:
    return labels(300.0, 0) + labels(600.0, 3)


def fitted(frames: list[LabelledFrame], folder: Path, *, steps: int, seed: int) -> TrainingResult:
    fit = FitSettings(steps=steps, seed=seed, batch_size=8)
    size = TrainSettings(cutoff=4.2, channels=6, radial=8, hidden=16, curvature="none", fit=fit)
    return train_potential(frames, size, folder)


@pytest.mark.planted
@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_a_student_of_fifty_steps_is_caught(seed: int, taught: list[LabelledFrame], tmp_path: Path, trust) -> None:
    """Its forces fail on held-out labels. At 300 K either its MD blows up, or its production fails the check."""
    student = fitted(taught, tmp_path / "train", steps=50, seed=seed)
    assert not force_gates(student.accuracy.force, LIMITS)[0].passed, student.accuracy.force["all"]
    cold = (300.0,)
    try:
        production = produced(tmp_path / "production", [load(student.path)], seed, temperatures=cold)
    except BlowUp:
        return
    flagged(checked(production, [load(student.path)], tmp_path / "check", temperatures=cold), "force error in production")
    trust("T28", "check of production: a student of 50 steps, ten seeds", "caught", "caught", planted=True)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS[:2])
def test_a_student_that_was_fitted_well_passes(seed: int, taught: list[LabelledFrame], tmp_path: Path) -> None:
    student = fitted(taught, tmp_path / "train", steps=300, seed=seed)
    assert all(gate.passed for gate in force_gates(student.accuracy.force, LIMITS))
    production = produced(tmp_path / "production", [load(student.path)], seed)
    results = checked(production, [load(student.path)], tmp_path / "check")
    assert failed(results) == set(), [(gate.name, gate.detail) for gate in results.gates]
