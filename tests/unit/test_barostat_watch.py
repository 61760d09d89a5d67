"""An NpT run tells where its barostat did not work, and one whose cell explodes or collapses is stopped."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torch import Generator, Tensor

from mdistill import api
from mdistill.errors import BlowUp
from mdistill.estimates import Estimate
from mdistill.graph import volumes
from mdistill.observables import production
from mdistill.observables.barostat import accepted_share, barostat_notes, off_target
from mdistill.report.page import write_report
from mdistill.runs.results import read_results
from mdistill.simulation import barostat, verlet
from mdistill.simulation.evaluator import Evaluator
from mdistill.simulation.guard import Guard
from mdistill.simulation.initial_state import initial_state
from mdistill.simulation.settings import GuardSettings, SimulateSettings
from mdistill.simulation.simulate import simulate
from mdistill.simulation.verlet import evaluated
from mdistill.types import Prediction, State, System
from mdistill.workflows.production import produce
from mdistill.workflows.settings import ProductionSettings

sys.path.insert(0, str(Path(__file__).parent.parent / "physics"))
from potentials import IdealGas, LennardJones, fcc

NPT = {"ensemble": "npt", "temperature_K": 40.0, "time_ps": 0.42, "every_fs": 20.0}
LENNARD_JONES = LennardJones(cutoff=5.0)


def settings(**changed: object) -> SimulateSettings:
    return SimulateSettings(**NPT | changed)


def notes(folder: Path, **changed: object) -> list[str]:
    chosen = settings(**changed)
    return barostat_notes(simulate(fcc(1, 5.3), LENNARD_JONES, chosen, folder).log, chosen)


def never(old: State, trial: System, answer: Prediction, accepted: Tensor) -> State:
    """`_choose` of a barostat that accepts nothing."""
    return old


@pytest.mark.planted
def test_a_barostat_that_never_accepts_is_told_in_results_and_report(tmp_path, monkeypatch):
    monkeypatch.setattr(barostat, "_choose", never)
    done = api.simulate(fcc(1, 5.3), LENNARD_JONES, out=tmp_path, report=False, **NPT)
    stuck = [note for note in read_results(tmp_path).notes if "the barostat is stuck: 0.0 % of its strains" in note]
    assert stuck and stuck[0] in str(done)
    write_report(tmp_path)
    assert "the barostat is stuck" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_healthy_barostat_is_not_stuck_and_one_at_minus_100_gpa_is(tmp_path):
    assert not any("stuck" in note for note in notes(tmp_path / "healthy"))
    found = notes(tmp_path / "torn", pressure_GPa=-100.0)
    assert "stuck" in found[0] and "not the -100 GPa set" in found[1]
    assert barostat_notes(tmp_path / "absent", replace(settings(), ensemble="nvt")) == []


def log(pressures: np.ndarray, folder: Path) -> Path:
    """A log with these pressures and a cell that moves."""
    path = folder / "log.csv"
    rows = [f"{10 * k},{20.0 * k},{1000.0 + k},{p}" for k, p in enumerate(pressures)]
    path.write_text("\n".join(["step,time_fs,volume_A3,pressure_GPa", *rows]) + "\n")
    return path


@pytest.mark.parametrize(
    ("off", "noise", "told"),
    [(2.0, 1.0, True), (2.0, 60.0, False), (0.1, 0.01, False), (0.3, 0.01, True), (0.0, 1.0, False)],
)
def test_a_mean_pressure_off_by_more_than_its_error_and_the_floor_is_told(off, noise, told, tmp_path):
    pressures = off + noise * np.random.default_rng(0).normal(size=500)
    found = barostat_notes(log(pressures, tmp_path), settings())
    assert bool(found) == told
    assert not told or "GPa, not the 0 GPa set" in found[0]


@pytest.mark.parametrize("softness", [0.03, 0.1])
@pytest.mark.parametrize(("rows_apart", "acceptance"), [(1, 0.1), (1, 0.9), (5, 0.1), (5, 0.4), (0.5, 0.3)])
def test_the_acceptance_is_that_of_the_strains_between_rows(rows_apart, acceptance, softness):
    moved = np.random.default_rng(1).random(20000) < acceptance
    every = barostat.strain_interval(2.0, softness)
    steps = (every * np.arange(0, 20000, rows_apart)).astype(int)
    volume = 1000.0 + np.concatenate([[0], np.cumsum(moved)])[steps // every]
    columns = {"step": steps.astype(float), "time_fs": 2.0 * steps, "volume_A3": volume}
    assert accepted_share(columns, softness) == pytest.approx(acceptance, abs=0.03)


def test_soft_matter_is_strained_more_often():
    assert [barostat.strain_interval(0.5, softness) for softness in (0.003, 0.03, 0.1, 0.5)] == [100, 100, 55, 24]
    assert barostat.strain_interval(1.0, 0.5) == 12 and barostat.strain_interval(8.0, 0.5) == 10


def sized(ratio: float) -> State:
    system = fcc(2, 5.3)
    factor = ratio ** (1.0 / 3.0)
    system = replace(system, cell=factor * system.cell, positions=factor * system.positions)
    state = initial_state(system, temperature_K=40.0, generator=Generator().manual_seed(0))
    return evaluated(state, Evaluator(LENNARD_JONES))


@pytest.mark.parametrize(("ratio", "does"), [(26.0, "expanded to 26 "), (0.1, "collapsed to 0.1 ")])
def test_a_cell_that_explodes_or_collapses_is_a_blow_up(ratio, does):
    state, first = sized(ratio), volumes(fcc(2, 5.3))
    with pytest.raises(BlowUp, match=f"the cell {does}times its first volume") as told:
        Guard(reference_volume=first)(20, state)
    assert told.value.exit_status == 3 and "check the pressure" in str(told.value)
    Guard(reference_volume=first)(20, sized(1.5))
    if ratio > 1.0:
        Guard(settings=GuardSettings(on=False), reference_volume=first)(20, state)
        Guard()(20, state)


def test_a_run_that_tears_its_crystal_apart_ends_with_status_3(tmp_path):
    with pytest.raises(BlowUp, match="the cell expanded to"):
        simulate(fcc(1, 5.3), IdealGas(), settings(temperature_K=900.0, time_ps=5.0, compressibility_per_GPa=10.0), tmp_path)
    assert (tmp_path / "offending.extxyz").exists()


@pytest.mark.planted
def test_production_tells_of_the_barostat_that_gave_its_cell(tmp_path, monkeypatch):
    monkeypatch.setattr(barostat, "_choose", never)
    crystal = fcc(1, 5.3, number=3)
    short = ProductionSettings(
        runs=1, time_ps=0.1, equilibration_ps=0.1, cell_ps=2.0, atoms=1, ions=1, every_fs=20.0, max_minutes=1e-4, time_step_fs=4.0,
        size_check=False,
    )  # fmt: skip
    free = replace(LENNARD_JONES, elements=frozenset())
    found = produce([crystal], [free], [30.0], short, tmp_path, mobile=None).notes
    assert any(note.startswith("30 K, run 1, NpT for its cell: the barostat is stuck") for note in found)


@pytest.mark.parametrize("pressure_GPa", [10_000.0, -900.0])
def test_a_strain_that_would_collapse_the_cell_is_a_blow_up(pressure_GPa):
    evaluate = Evaluator(LENNARD_JONES)
    inner = verlet.VelocityVerlet(evaluate=evaluate, time_step=2.0)
    squeeze = barostat.StochasticCellRescaling(
        inner=inner, evaluate=evaluate, temperature_K=40.0, pressure_GPa=pressure_GPa, compressibility_per_GPa=1.0
    )
    with pytest.raises(BlowUp, match=r"step 0.*strains the cell by .* at once"):
        squeeze.strained(sized(1.0), Generator().manual_seed(0))


def test_a_strain_that_is_not_finite_is_a_blow_up():
    evaluate = Evaluator(LENNARD_JONES)
    inner = verlet.VelocityVerlet(evaluate=evaluate, time_step=2.0)
    squeeze = barostat.StochasticCellRescaling(inner=inner, evaluate=evaluate, temperature_K=40.0)
    state = sized(1.0)
    spoilt = replace(state.prediction, stress=state.prediction.stress * float("nan"))
    with pytest.raises(BlowUp, match="by nan at once"):
        squeeze.strained(replace(state, prediction=spoilt), Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("value", "error", "target", "off"),
    [
        (0.15, 0.0, 0.0, False),
        (0.3, 0.05, 0.0, True),
        (0.3, 0.1, 0.0, False),
        (101.0, 0.0, 100.0, False),
        (None, None, 1.0, True),
    ],
)
def test_one_rule_tells_whether_a_pressure_is_off(value, error, target, off):
    """0.2 GPa, 4 errors and 2 % must all be exceeded; production and single runs use the same rule."""
    assert off_target(Estimate(value=value, error=error, unit="GPa"), target) == off
    assert production.off_target is off_target
