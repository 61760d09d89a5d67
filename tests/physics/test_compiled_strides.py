"""Runs with long strides in compiled code are those of the plain propagators: ensembles, restarts, tallies, guard (T7, T12, T17)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mdistill.derivatives import Conservative
from mdistill.errors import BlowUp, Interrupted
from mdistill.io.logs import read_log
from mdistill.io.trajectories import read_series
from mdistill.kernels import build
from mdistill.nets.compiled import compiled
from mdistill.simulation import sample as running
from mdistill.simulation.barostat import strain_interval
from mdistill.simulation.compiled import compile_propagator
from mdistill.simulation.evaluator import make_evaluator
from mdistill.simulation.guard import Guard
from mdistill.simulation.initial_state import initial_state
from mdistill.simulation.kinetics import temperature
from mdistill.simulation.settings import GuardSettings, SimulateSettings
from mdistill.simulation.simulate import simulate
from mdistill.simulation.stride_maps import long_strides
from systems import random_box, tiny_map, tiny_net

pytestmark = pytest.mark.skipif(build.compiler() is None, reason="no C++ compiler here")

ENSEMBLES = {
    "nve": SimulateSettings(ensemble="nve", temperature_K=300.0),
    "langevin": SimulateSettings(ensemble="nvt", thermostat="langevin", temperature_K=300.0, friction_per_ps=5.0),
    "bussi": SimulateSettings(ensemble="nvt", thermostat="bussi", temperature_K=300.0),
    "npt": SimulateSettings(ensemble="npt", thermostat="bussi", temperature_K=300.0, barostat="isotropic"),
    "npt anisotropic": SimulateSettings(ensemble="npt", thermostat="langevin", temperature_K=300.0, barostat="anisotropic"),
}
SHORT = {"time_ps": 0.4, "equilibration_ps": 0.08, "every_fs": 28.0}
"""Strides of 4 fs: 20 before, 100 of the run, a frame every 7."""


def cold_box():
    return random_box(21, atoms=12, length=7.0, closest=2.3)


def student(*, double: bool = True):
    return compiled(Conservative(tiny_net()), double=double)


def limited_map(limit: float = 2.2, *, double: bool = True):
    """A map that falls back now and then."""
    net = tiny_map(stride_fs=4.0)
    net.largest_force.fill_(limit)
    return net if double else net.in_type(torch.float32)


def both(settings: SimulateSettings, folder, monkeypatch):
    """The same run with plain strides and with compiled ones."""
    fast = simulate(cold_box(), student(), settings, folder / "fast", stride=limited_map())
    monkeypatch.setattr(running, "compile_propagator", lambda plain, evaluate, guard: plain)
    plain = simulate(cold_box(), student(), settings, folder / "plain", stride=limited_map())
    return plain, fast


@pytest.mark.parametrize("name", ENSEMBLES)
def test_the_run_is_that_of_the_plain_propagator(name, tmp_path, trust, monkeypatch):
    plain, fast = both(replace(ENSEMBLES[name], **SHORT), tmp_path, monkeypatch)
    logs = [read_log(done.log) for done in (plain, fast)]
    assert np.array_equal(logs[0]["step"], logs[1]["step"]) and np.array_equal(logs[0]["time_fs"], logs[1]["time_fs"])
    at_ends = ("mean_potential_eV", "mean_pressure_GPa")
    for column in logs[0]:
        if column not in at_ends:
            assert np.allclose(logs[0][column], logs[1][column], rtol=1e-7, atol=1e-7, equal_nan=True), column
    assert sum(column.startswith("mean_T_") for column in logs[0]) >= 3
    apart = float((plain.state.system.positions - fast.state.system.positions).abs().max())
    assert apart < 1e-9
    assert fast.values["fallbacks"] == plain.values["fallbacks"]
    assert fast.values["fallbacks"].samples == 120 and 0.0 < fast.values["fallbacks"].value < 1.0
    trust("T7", f"compiled long strides against plain, {name}, 120 strides, largest distance (Å)", apart, "1e-9")


@pytest.mark.parametrize("name", ["nve", "npt"])
def test_potential_and_pressure_are_averaged_over_the_ends_of_leaps(name, tmp_path):
    done = simulate(cold_box(), student(), replace(ENSEMBLES[name], **SHORT), tmp_path / "run", stride=limited_map())
    log, tally = read_log(done.log), done.state.running_sums
    assert tally.steps == 120
    # frames every seventh stride and at the end; at constant pressure some are strained
    every = strain_interval(limited_map().settings.stride_fs)
    assert tally.evaluated == len(
        [step for step in range(-19, 101) if step % 7 == 0 or step == 100 or (step % every == 0 and name == "npt")]
    )
    if name == "nve":
        after = [k for k, step in enumerate(log["step"]) if step > 0]
        assert after and np.allclose(log["mean_potential_eV"][after], log["potential_eV"][after], rtol=0, atol=1e-10)


class StopAt:
    """Asks to stop at the n-th question."""

    def __init__(self, question: int) -> None:
        self.left = question

    def pending(self) -> bool:
        self.left -= 1
        return self.left <= 0

    def raise_if_pending(self) -> None:
        raise Interrupted("stopped by the test")


@pytest.mark.parametrize("longest", [0.25, 1e-9], ids=["whole leaps", "cut short"])
@pytest.mark.parametrize("name", ENSEMBLES)
def test_restarted_is_uninterrupted_bit_for_bit(name, longest, tmp_path, trust, monkeypatch):
    settings, net = replace(ENSEMBLES[name], **SHORT), limited_map(double=False)
    whole = simulate(cold_box(), student(double=False), settings, tmp_path / "whole", stride=net)
    monkeypatch.setattr("mdistill.simulation.compiled._LONGEST_LEAP_S", longest)
    for question in (3, 8):
        with pytest.raises(Interrupted):
            simulate(cold_box(), student(double=False), settings, tmp_path / "parts", stride=net, stop=StopAt(question))
    resumed = simulate(cold_box(), student(double=False), settings, tmp_path / "parts", stride=net)
    assert resumed.resumed
    assert torch.equal(resumed.state.system.positions, whole.state.system.positions)
    assert torch.equal(resumed.state.momenta, whole.state.momenta)
    frames = [read_series(tmp_path / kind / "trajectory.h5", "position") for kind in ("whole", "parts")]
    assert np.array_equal(*frames)
    assert (tmp_path / "parts" / "log.csv").read_bytes() == (tmp_path / "whole" / "log.csv").read_bytes()
    assert resumed.values["fallbacks"] == whole.values["fallbacks"] and whole.values["fallbacks"].value > 0.0
    trust("T17", f"compiled long strides, {name}, {longest:g} s a leap: bits changed by two restarts", 0, "0")


def test_the_guard_stops_at_the_same_stride(tmp_path, monkeypatch):
    """Distances are watched inside."""
    settings = replace(ENSEMBLES["langevin"], **SHORT | {"equilibration_ps": 0.0, "temperature_K": 1500.0})
    settings, stops = replace(settings, guard=GuardSettings(closest_pair=0.98, every=1)), []
    for kind in ("fast", "plain"):
        if kind == "plain":
            monkeypatch.setattr(running, "compile_propagator", lambda plain, evaluate, guard: plain)
        with pytest.raises(BlowUp) as error:
            simulate(cold_box(), student(), settings, tmp_path / kind, stride=limited_map())
        stops.append((error.value.step, error.value.reason))
        assert (tmp_path / kind / "offending.extxyz").is_file()
    assert stops[0] == stops[1] and stops[0][0] > 0 and stops[0][0] % 7


def test_a_leap_ends_at_the_first_stride_that_is_too_hot():
    state = initial_state(cold_box(), temperature_K=300.0, generator=torch.Generator().manual_seed(3))
    plain = long_strides(limited_map(), cold_box(), make_evaluator(student(), cold_box()), time=4.0, skin=1.2, small_step=1.0)
    kelvin, now = [], state
    for _ in range(40):
        now = plain.step(now, torch.Generator())
        kelvin.append(float(temperature(now)[0]))
    first = next(k for k, found in enumerate(kelvin) if k > 2 and found > max(kelvin[:k]) and max(kelvin[:k]) > 200.0)
    limit = 0.5 * (kelvin[first] + max(kelvin[:first]))
    guard = Guard(settings=GuardSettings(every=1, temperature_margin_K=limit), temperature_K=1e-6)
    fast = compile_propagator(plain, plain.evaluate, guard)
    end, taken, suspect = fast.leap(state, torch.Generator(), 0, 40)
    assert (taken, suspect) == (first + 1, True)
    assert float(temperature(end)[0]) == pytest.approx(kelvin[first], rel=1e-6)


@pytest.mark.parametrize("guard", [GuardSettings(largest_force=1.5, every=1), GuardSettings(energy_change=1e-7, every=1)])
def test_force_and_energy_are_looked_at_where_a_leap_ends(guard, tmp_path):
    ensemble = ENSEMBLES["nve" if guard.energy_change < 1e-3 else "langevin"]
    settings = replace(ensemble, **SHORT | {"equilibration_ps": 0.0, "temperature_K": 1500.0}, guard=guard)
    with pytest.raises(BlowUp) as error:
        simulate(cold_box(), student(), settings, tmp_path / "run", stride=limited_map())
    assert error.value.step > 0 and error.value.step % 7 == 0


def test_what_is_not_finite_stops_the_run(tmp_path):
    crowded = replace(cold_box(), positions=0.3 * cold_box().positions, cell=0.3 * cold_box().cell)
    settings = replace(ENSEMBLES["nve"], **SHORT | {"equilibration_ps": 0.0, "temperature_K": 20000.0})
    settings = replace(settings, guard=GuardSettings(on=False), time_ps=2000.0, every_fs=20000.0)
    with pytest.raises(BlowUp, match="finite"):
        simulate(crowded, student(), settings, tmp_path / "run", stride=tiny_map(stride_fs=100.0))


@pytest.mark.planted
def test_a_friction_slightly_off_is_noticed(tmp_path, trust):
    ends = []
    for friction in (5.0, 5.005):
        settings = replace(ENSEMBLES["langevin"], **SHORT | {"friction_per_ps": friction})
        done = simulate(cold_box(), student(), settings, tmp_path / f"{friction}", stride=limited_map())
        ends.append(done.state.system.positions)
    assert float((ends[0] - ends[1]).abs().max()) > 1e-9
    trust("T7", "compiled half-steps of Langevin with friction 0.1 % off", "caught", "caught", planted=True)
