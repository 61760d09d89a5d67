"""judge/vibrations.py: a student off by a known share in its curvature, resuming, what is added to a run, bad input."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from mdistill.data.relax import relax
from mdistill.derivatives import Conservative
from mdistill.errors import BadInput, Interrupted
from mdistill.estimates import Estimate
from mdistill.graph import make_system
from mdistill.interrupt import StopRequest
from mdistill.judge import vibrations as module
from mdistill.judge.settings import VibrationSettings
from mdistill.judge.vibrations import distance_between, vibrations
from mdistill.runs.results import Figure, Results, Section, Table, add_to_run, read_results, write_results
from mdistill.types import Graph, Prediction, System
from mdistill.workflows.run_parts import relaxed_systems
from toy_teacher import Born

SHARE = 0.19
QUICK = VibrationSettings(displaced=4, bands_up_to=0, teacher_steps=5)


@dataclass(frozen=True)
class Softer:
    """The teacher's energy times a share: a Hessian off by 1 − share everywhere, frequencies by √share, the same minimum."""

    share: float = 1.0 - SHARE
    net: Born = field(default_factory=Born)
    name: str = "softer"

    @property
    def cutoff(self) -> float:
        return self.net.cutoff

    @property
    def elements(self) -> frozenset[int]:
        return self.net.elements

    def __call__(self, graph: Graph, vectors: Tensor) -> Tensor:
        return self.share * self.net(graph, vectors)


@dataclass
class Counted:
    """A teacher that counts what it is asked, and may ask to stop."""

    inner: Conservative = field(default_factory=lambda: Conservative(Born()))
    products: int = 0
    stop: StopRequest = field(default_factory=StopRequest)
    stop_after: int = 10**9

    @property
    def cutoff(self) -> float:
        return self.inner.cutoff

    @property
    def elements(self) -> frozenset[int]:
        return self.inner.elements

    name = "counted"

    def __call__(self, graph: Graph) -> Prediction:
        return self.inner(graph)

    def curvature(self, graph: Graph, probes: Float[Tensor, "probe atom 3"]) -> Float[Tensor, "probe atom 3"]:
        self.products += len(probes)
        if self.products >= self.stop_after:
            self.stop.signal_number = 2
        return self.inner.curvature(graph, probes)


@pytest.fixture(scope="module")
def salt() -> System:
    """LiCl, rocksalt, 8 atoms, at the toy teacher's minimum; disturbed first, so that nothing is there by symmetry alone."""
    grid = np.array([[i, j, k] for i in range(2) for j in range(2) for k in range(2)], dtype=float)
    numbers = np.where(grid.sum(1) % 2 == 0, 3, 17)
    start = make_system(2.5 * grid, numbers, 5.0 * np.eye(3), [True] * 3)
    noise = 0.02 * torch.randn(start.positions.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rest, way = relax(replace(start, positions=start.positions + noise), Conservative(Born()), max_steps=2000, largest_force=1e-5,
                      stress_GPa=1e-3)  # fmt: skip
    assert way.converged
    return rest


@pytest.fixture(scope="module")
def whole(salt: System) -> Results:
    return vibrations(Conservative(Softer()), Conservative(Born()), salt, QUICK)


def value(results: Results, name: str) -> Estimate:
    return results.values[f"vibrations {name}"]


def check_known_share(results: Results) -> float:
    """Everything that follows from E → share · E; the largest relative error."""
    table = next(t for t in results.tables if t.name == "curvature")
    highest = next(row for row in table.rows if str(row[0]).startswith("highest"))
    frequencies = next(f for f in results.figures if f.name == "vibrational-density")
    displaced = next(t for t in results.tables if t.name == "displaced").rows[0]
    off = [
        (value(results, "hessian_error").value or 0.0) / SHARE - 1.0,
        highest[2] / highest[1] / math.sqrt(1.0 - SHARE) - 1.0,  # type: ignore[operator]
    ]
    worst = max(map(abs, off))
    assert worst < 1e-6, off
    assert displaced[1].value < SHARE * displaced[3] < 3.0 * displaced[1].value
    assert [s.label for s in frequencies.series] == ["teacher", "student"]
    for series in frequencies.series:
        assert np.trapezoid(series.y, series.x) == pytest.approx(21.0, rel=1e-3)
    return worst


def test_a_student_softer_by_a_known_share_is_seen_to_be(whole: Results, trust) -> None:
    worst = check_known_share(whole)
    assert value(whole, "hessian_error").error is None
    assert value(whole, "imaginary teacher").value == value(whole, "imaginary student").value == 0.0
    assert (value(whole, "relaxed_rmsd").value or 0.0) < 1e-3
    assert abs(value(whole, "relaxed_energy").value or 0.0) < 1e-3
    mean = value(whole, "frequency_mae").value or 0.0
    assert 0.0 < mean < (1.0 - math.sqrt(1.0 - SHARE)) * 15.0
    assert value(whole, "displaced_force_mae").error is not None
    trust("T28", "Hessian error and frequencies of a student 19 % too soft (relative error of both)", worst, "1e-6")


@pytest.mark.planted
def test_products_of_another_structure_are_noticed(salt: System, monkeypatch: pytest.MonkeyPatch) -> None:
    right = module.curvature_products

    def elsewhere(potential, system, directions, *, step):  # type: ignore[no-untyped-def]
        moved = replace(system, positions=1.02 * system.positions) if potential.name == "softer" else system
        return right(potential, moved, directions, step=step)

    monkeypatch.setattr(module, "curvature_products", elsewhere)
    with pytest.raises(AssertionError):
        check_known_share(vibrations(Conservative(Softer()), Conservative(Born()), salt, QUICK))


def test_the_teacher_itself_as_student_is_perfect(salt: System) -> None:
    results = vibrations(Conservative(Born()), Conservative(Born()), salt, QUICK)
    for name in ("hessian_error", "frequency_mae", "displaced_force_mae", "relaxed_rmsd"):
        assert (value(results, name).value or 0.0) < 1e-6, name


def test_a_large_structure_is_judged_by_random_directions(salt: System) -> None:
    settings = replace(QUICK, whole_up_to=0, probes=16)
    teacher = Counted()
    results = vibrations(Conservative(Softer(net=Born(strength=0.33))), teacher, salt, settings)
    exact = vibrations(Conservative(Softer(net=Born(strength=0.33))), Conservative(Born()), salt, QUICK)
    found = value(results, "hessian_error")
    assert teacher.products == 16 and found.samples == 16 and found.error is not None
    assert abs((found.value or 0.0) - (value(exact, "hessian_error").value or 0.0)) < 4.0 * found.error
    assert "vibrations frequency_mae" not in results.values and not results.figures
    assert any("of the student's 21 modes" in t.caption for t in results.tables)


def test_a_teacher_without_derivatives_serves(salt: System, whole: Results) -> None:
    """Central differences of its forces give what its own derivatives give."""

    class Plain:
        cutoff, elements, name = Born().cutoff, Born().elements, "plain"

        def __call__(self, graph: Graph) -> Prediction:
            return Conservative(Born())(graph)

    results = vibrations(Conservative(Softer()), Plain(), salt, QUICK)
    assert value(results, "hessian_error").value == pytest.approx(SHARE, rel=5e-3)
    assert value(results, "frequency_mae").value == pytest.approx(value(whole, "frequency_mae").value, rel=5e-3)


def test_a_stop_is_honoured_and_the_rest_resumes(salt: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK", 5)
    stopping = Counted(stop_after=10)
    with pytest.raises(Interrupted):
        vibrations(Conservative(Softer()), stopping, salt, QUICK, tmp_path, stop=stopping.stop)
    assert stopping.products == 10
    resumed, fresh = Counted(), Counted()
    again = vibrations(Conservative(Softer()), resumed, salt, QUICK, tmp_path)
    direct = vibrations(Conservative(Softer()), fresh, salt, QUICK)
    assert (resumed.products, fresh.products) == (14, 24)
    assert again.values == direct.values
    done = Counted()
    vibrations(Conservative(Softer(share=0.5)), done, salt, QUICK, tmp_path)
    assert done.products == 0
    moved = replace(salt, positions=salt.positions + 0.01)
    vibrations(Conservative(Softer()), other := Counted(), moved, QUICK, tmp_path)
    assert other.products == 24
    (tmp_path / "teacher_curvature.npz").write_bytes(b"PK\x03\x04 torn")
    vibrations(Conservative(Softer()), torn := Counted(), salt, QUICK, tmp_path)
    assert torn.products == 24


def test_bands_of_a_small_crystal_are_drawn(salt: System) -> None:
    settings = replace(QUICK, bands_up_to=2, supercell_A=5.0)
    results = vibrations(Conservative(Softer()), Conservative(Born()), salt, settings)
    figure = next(f for f in results.figures if f.kind == "bands")
    assert [s.label for s in figure.series] == ["teacher", "student"] and figure.x_ticks[0] == ("Γ", 0.0)
    theirs, ours = (np.array(s.y) for s in figure.series)
    stiff = theirs > 2.0
    assert int(np.isnan(theirs).sum()) == 6
    np.testing.assert_allclose(ours[stiff] / theirs[stiff], math.sqrt(1.0 - SHARE), rtol=1e-3)
    assert (value(results, "bands_mae").value or 0.0) > 0.1 and "phonopy" in results.citations
    assert any("more than 1" in note for note in vibrations(
        Conservative(Softer()), Conservative(Born()), salt, replace(settings, bands_up_to=1)).notes)  # fmt: skip


def test_the_section_of_a_run_is_replaced_and_the_rest_stays(whole: Results, tmp_path: Path) -> None:
    table = Table(name="ladder", title="t", section="ladder", columns=["a"], rows=[["b"]])
    figure = Figure(name="f", title="t", section="accuracy", x_label="x", y_label="y", series=[])
    stale = {"vibrations stale": Estimate(value=1.0, error=None, unit=""), "speed_up": Estimate(value=9.0, error=None, unit="×")}
    old = Section(name="vibrations", values=["vibrations stale"])
    write_results(tmp_path, Results(command="distill", tables=[table], figures=[figure], values=stale, sections=[old]))
    for _ in range(2):
        add_to_run(tmp_path, whole)
    results = read_results(tmp_path)
    assert results.command == "distill" and results.values["speed_up"].value == 9.0
    assert "vibrations stale" not in results.values and "vibrations hessian_error" in results.values
    assert [t.name for t in results.tables] == ["ladder", "curvature", "minimum", "displaced"]
    assert [f.name for f in results.figures] == ["f", "vibrational-density"]


def test_distance_between_leaves_out_shift_and_cell(salt: System) -> None:
    strain = torch.tensor([[1.02, 0.01, 0.0], [0.01, 0.99, 0.0], [0.0, 0.0, 1.05]], dtype=torch.float64)
    other = replace(salt, positions=(salt.positions + 0.7) @ strain, cell=salt.cell @ strain)
    assert distance_between(salt, other) < 1e-12
    bumped = salt.positions.clone()
    bumped[0, 0] += 0.8
    expected = 0.8 * math.sqrt(7.0 / 64.0)
    assert distance_between(salt, replace(salt, positions=bumped)) == pytest.approx(expected)


def test_what_cannot_be_compared_is_refused(salt: System, tmp_path: Path) -> None:
    alone = make_system(np.zeros((1, 3)), np.array([3]), 6.0 * np.eye(3), [True] * 3)
    with pytest.raises(BadInput, match="two atoms or more"):
        vibrations(Conservative(Softer()), Conservative(Born()), alone, QUICK)
    with pytest.raises(BadInput, match=r"holds no prepare/structures\.extxyz"):
        relaxed_systems(tmp_path)
    for name, bad in (("probes", 1), ("temperature_K", 0.0), ("width_THz", math.nan), ("whole_up_to", -1), ("seed", -3)):
        with pytest.raises(BadInput, match=name):
            VibrationSettings(**{name: bad})
