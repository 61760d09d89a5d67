"""Compiled dynamics is the plain dynamics: same trajectories, same guard, same restarts (T7, T12, T17)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_thermostats import check_kinetic, sample

from mdistill.derivatives import Conservative
from mdistill.errors import BadInput, BlowUp, Interrupted
from mdistill.io.logs import read_log
from mdistill.io.trajectories import read_series
from mdistill.kernels import build
from mdistill.nets.compiled import CompiledMoment, compiled
from mdistill.simulation.bussi import Bussi
from mdistill.simulation.compiled import CompiledDynamics, compile_propagator
from mdistill.simulation.evaluator import make_evaluator
from mdistill.simulation.initial_state import initial_state
from mdistill.simulation.langevin import Baoab
from mdistill.simulation.rollout import rollout
from mdistill.simulation.settings import GuardSettings, SimulateSettings
from mdistill.simulation.simulate import simulate
from mdistill.simulation.verlet import VelocityVerlet, evaluated
from systems import random_box, tiny_net

pytestmark = pytest.mark.skipif(build.compiler() is None, reason="no C++ compiler here")

ENSEMBLES = {
    "nve": SimulateSettings(ensemble="nve", temperature_K=300.0),
    "langevin": SimulateSettings(ensemble="nvt", thermostat="langevin", temperature_K=300.0, friction_per_ps=5.0),
    "bussi": SimulateSettings(ensemble="nvt", thermostat="bussi", temperature_K=300.0),
    "npt": SimulateSettings(ensemble="npt", thermostat="bussi", temperature_K=300.0, barostat="isotropic"),
    "npt anisotropic": SimulateSettings(ensemble="npt", thermostat="langevin", temperature_K=300.0, barostat="anisotropic"),
}
SHORT = {"time_ps": 0.2, "equilibration_ps": 0.05, "time_step_fs": 1.0, "every_fs": 7.0}


def potentials(*, double: bool = True) -> tuple[Conservative, CompiledMoment]:
    plain = Conservative(tiny_net())
    fast = compiled(plain, double=double)
    assert isinstance(fast, CompiledMoment)
    return plain, fast


def cold_box():
    return random_box(21, atoms=12, length=7.0, closest=2.3)


@pytest.mark.parametrize("name", ENSEMBLES)
def test_the_trajectory_is_that_of_the_plain_propagator(name, tmp_path, trust):
    settings = replace(ENSEMBLES[name], **SHORT)
    logs, ends = [], []
    for kind, potential in zip(("plain", "fast"), potentials(), strict=True):
        done = simulate(cold_box(), potential, settings, tmp_path / kind)
        logs.append(read_log(done.log))
        ends.append(done.state)
    assert np.array_equal(logs[0]["step"], logs[1]["step"])
    assert np.array_equal(logs[0]["time_fs"], logs[1]["time_fs"])
    assert np.abs(logs[0]["total_eV"] - logs[1]["total_eV"]).max() < 1e-8
    assert np.nanmax(np.abs(logs[0]["temperature_K"] - logs[1]["temperature_K"])) < 1e-6
    averaged = [column for column in logs[0] if column.startswith("mean_")]
    assert len(averaged) >= 5
    for column in averaged:
        assert np.allclose(logs[0][column], logs[1][column], rtol=1e-9, atol=1e-9, equal_nan=True), column
        assert np.isfinite(logs[0][column][1:]).all()
    apart = float((ends[0].system.positions - ends[1].system.positions).abs().max())
    assert apart < 1e-9
    trust("T7", f"compiled dynamics against plain, {name}, 250 steps, largest distance (Å)", apart, "1e-9")


@pytest.mark.planted
def test_another_time_step_is_noticed(tmp_path, trust):
    ends = []
    for step, potential in zip((1.0, 1.001), potentials(), strict=True):
        settings = replace(ENSEMBLES["nve"], **SHORT | {"time_step_fs": step})
        ends.append(simulate(cold_box(), potential, settings, tmp_path / str(step)).state)
    assert float((ends[0].system.positions - ends[1].system.positions).abs().max()) > 1e-9
    trust("T7", "compiled dynamics with a time step 0.1 % too long", "caught", "caught", planted=True)


@pytest.mark.parametrize("double", [True, False], ids=["float64", "float32"])
def test_how_a_run_is_cut_into_leaps_changes_no_bit(double):
    _, fast = potentials(double=double)
    system, ends = cold_box(), []
    for leap in (1, 7, 100):
        evaluate = make_evaluator(fast, system)
        propagator = compile_propagator(VelocityVerlet(evaluate=evaluate, time_step=2.0), evaluate)
        assert isinstance(propagator, CompiledDynamics)
        generator = torch.Generator().manual_seed(5)
        state = initial_state(system, temperature_K=800.0, generator=generator)
        ends.append(rollout(state, propagator, steps=100, generator=generator, leap=leap))
    for other in ends[1:]:
        assert torch.equal(ends[0].system.positions, other.system.positions)
        assert torch.equal(ends[0].momenta, other.momenta)
        assert ends[0].time == other.time


LIMITS = {
    "force": GuardSettings(largest_force=2.2),
    "distance": GuardSettings(closest_pair=0.98),
    "energy": GuardSettings(energy_change=1e-7),
}


class StopAt:
    """Asks to stop at the n-th question."""

    def __init__(self, question: int) -> None:
        self.left = question

    def pending(self) -> bool:
        self.left -= 1
        return self.left <= 0

    def raise_if_pending(self) -> None:
        raise Interrupted("stopped by the test")


@pytest.mark.parametrize("name", ENSEMBLES)
def test_restarted_is_uninterrupted_bit_for_bit(name, tmp_path, trust):
    _, fast = potentials(double=False)
    settings = replace(ENSEMBLES[name], **SHORT)
    whole = simulate(cold_box(), fast, settings, tmp_path / "whole").state
    for question in (3, 20):
        with pytest.raises(Interrupted):
            simulate(cold_box(), fast, settings, tmp_path / "parts", stop=StopAt(question))
    resumed = simulate(cold_box(), fast, settings, tmp_path / "parts")
    assert resumed.resumed
    assert torch.equal(resumed.state.system.positions, whole.system.positions)
    assert torch.equal(resumed.state.momenta, whole.momenta)
    frames = [read_series(tmp_path / kind / "trajectory.h5", "position") for kind in ("whole", "parts")]
    assert np.array_equal(*frames)
    assert (tmp_path / "parts" / "log.csv").read_bytes() == (tmp_path / "whole" / "log.csv").read_bytes()
    trust("T17", f"compiled dynamics, {name}: bits changed by two restarts", 0, "0")


def test_the_guard_stops_at_the_same_step_and_keeps_the_frame(tmp_path):
    for name, guard in LIMITS.items():
        ensemble = ENSEMBLES["nve" if name == "energy" else "langevin"]
        settings = replace(ensemble, **SHORT | {"equilibration_ps": 0.0, "temperature_K": 1500.0})
        stops = []
        for kind, potential in zip(("plain", "fast"), potentials(), strict=True):
            with pytest.raises(BlowUp) as error:
                simulate(cold_box(), potential, replace(settings, guard=guard), tmp_path / name / kind)
            stops.append((error.value.step, error.value.reason))
            assert (tmp_path / name / kind / "offending.extxyz").is_file()
        assert stops[0] == stops[1]
        assert stops[0][0] > 0


def test_without_the_guard_what_is_not_finite_still_stops_the_run(tmp_path):
    _, fast = potentials()
    settings = replace(ENSEMBLES["nve"], **SHORT | {"equilibration_ps": 0.0, "time_step_fs": 10.0, "temperature_K": 20000.0})
    settings = replace(settings, guard=GuardSettings(on=False), time_ps=2000.0, every_fs=20000.0)
    crowded = replace(cold_box(), positions=0.3 * cold_box().positions, cell=0.3 * cold_box().cell)
    with pytest.raises(BlowUp, match="finite") as error:
        simulate(crowded, fast, settings, tmp_path / "run")
    assert error.value.step >= 1
    assert Path(tmp_path / "run" / "offending.extxyz").is_file()


def test_npt_needs_a_crystal(tmp_path):
    _, fast = potentials()
    molecule = random_box(4, periodic=False)
    with pytest.raises(BadInput, match="periodic"):
        simulate(molecule, fast, replace(ENSEMBLES["npt"], **SHORT), tmp_path / "run")


def test_open_directions_and_one_atom(tmp_path):
    plain, fast = potentials()
    ends = [
        simulate(random_box(4, periodic=False), potential, replace(ENSEMBLES["langevin"], **SHORT), tmp_path / name).state
        for name, potential in (("plain", plain), ("fast", fast))
    ]
    assert float((ends[0].system.positions - ends[1].system.positions).abs().max()) < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("thermostat", ["langevin", "bussi"])
def test_long_compiled_runs_sample_the_canonical_kinetic_energy(thermostat, trust):
    """Sixty thousand steps in leaps of a hundred: noise and order of operations far from where they are compared step by step."""
    potential, kelvin = potentials()[1], 300.0
    evaluate = make_evaluator(potential, cold_box())
    steps = {
        "langevin": Baoab(evaluate=evaluate, time_step=1.0, temperature_K=kelvin, friction_per_ps=30.0),
        "bussi": Bussi(inner=VelocityVerlet(evaluate=evaluate, time_step=1.0), temperature_K=kelvin, relaxation_fs=30.0),
    }
    propagator = compile_propagator(steps[thermostat], evaluate)
    assert isinstance(propagator, CompiledDynamics)
    state = initial_state(cold_box(), temperature_K=kelvin, generator=torch.Generator().manual_seed(0))
    samples = sample(evaluated(state, evaluate), propagator, before=5_000, every=100, count=600, leap=100)
    kinetic, freedom = (samples.kinetic, 36) if thermostat == "langevin" else (samples.internal, 33)
    mean, width, fit = check_kinetic(kinetic, kelvin, freedom)
    trust("T14", f"{thermostat}, 60,000 compiled steps: kinetic mean off (σ)", mean, "< 3")
    trust("T14", f"{thermostat}, 60,000 compiled steps: kinetic width off (σ)", width, "< 3")
    trust("T14", f"{thermostat}, 60,000 compiled steps: KS p", fit, "> 0.01")
    with pytest.raises(AssertionError):
        check_kinetic([0.95 * energy for energy in kinetic], kelvin, freedom)
