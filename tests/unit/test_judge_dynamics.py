"""How long a map's dynamics is judged: until the errors of its mean temperatures are small enough, and no longer."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from ase.build import bulk
from torch import Generator

from mdistill.derivatives import Conservative
from mdistill.estimates import Estimate
from mdistill.graph import make_system
from mdistill.interrupt import NEVER
from mdistill.judge import dynamics, stride
from mdistill.judge.dynamics import Longer, judged, mean_temperatures
from mdistill.judge.settings import JudgeSettings
from mdistill.simulation.evaluator import Evaluator
from mdistill.simulation.initial_state import initial_state
from mdistill.simulation.kinetics import internal_momenta, temperature
from mdistill.simulation.verlet import VelocityVerlet, evaluated
from mdistill.types import Propagator, State
from springs import NearestSprings

KELVIN, STEP_FS = 300.0, 4.0


@pytest.fixture
def springs():
    evaluate = Evaluator(Conservative(NearestSprings(length=3.5, cutoff=4.5)))
    atoms = bulk("Ar", "fcc", a=3.5 * 2**0.5, cubic=True)
    system = make_system(atoms.positions, atoms.numbers, atoms.cell.array, [True] * 3)
    start = initial_state(system, temperature_K=KELVIN, generator=Generator().manual_seed(0))
    return VelocityVerlet(evaluate=evaluate, time_step=STEP_FS), evaluated(start, evaluate)


def run(springs, limit_K: float, *, longer: Longer = "elements", of_all_K: float | None = None, target_K: float | None = None):
    step, start = springs
    all_K = limit_K if of_all_K is None else of_all_K
    how = JudgeSettings(
        temperature_K=KELVIN, time_ps=0.8, longest_ps=2.0, every_fs=8.0, temperature_limit_K=all_K, element_limit_K=limit_K
    )
    return judged(step, "Langevin", start, step.evaluate, how, longer=longer, target_K=target_K)


def test_it_goes_on_until_the_means_are_known_or_time_is_up(springs):
    short, long = run(springs, 1e5), run(springs, 0.01)
    assert (short.steps, long.steps) == (200, 500)
    assert short.temperatures["all"].samples <= 20 and long.temperatures["all"].samples <= 50
    between = run(springs, 2.1 * short.temperatures["all"].error)
    assert 200 < between.steps <= 500
    assert run(springs, 0.01, longer="").steps == 200
    assert run(springs, 0.01, longer="all", of_all_K=1e5).steps == 200 < run(springs, 0.01, of_all_K=1e5).steps
    assert run(springs, 1e5, longer="all", of_all_K=0.01).steps == 500


def test_it_goes_on_while_a_mean_is_within_its_error_of_a_limit(springs):
    """On either side of a limit, above or below the target; its error is small beside the limit."""
    found = run(springs, 1e5).temperatures["Ar"]
    assert found.error is not None and found.value is not None
    limit = 10.0 * found.error
    for side in (-1.0, 1.0):
        for errors_away in (-2.0, -0.5, 0.5, 2.0):
            target = found.value + side * (limit + errors_away * found.error)
            steps = run(springs, limit, of_all_K=1e5, target_K=target).steps
            assert (steps > 200) == (abs(errors_away) < 1.0), (side, errors_away)
    assert run(springs, 10.0 * found.error, of_all_K=1e5).steps == 200, "without a target only errors count"


def test_blocks_that_are_alike_count_less():
    """Au of Cu3Au in NVE, 30 ps a block, K above the mean: what it began with lasts for 100 ps."""
    slow = np.array([31, 24, 27, -6, -2, 16, 15, 9, 5, 9, -2, -12, 6, -9, -13, 6, -3, -4, -3, -15], dtype=float)
    mixed = np.random.default_rng(0).permutation(slow)
    errors = [mean_temperatures([{"mean_T_Au_K": 600.0 + t} for t in series])["Au"].error for series in (slow, mixed)]
    assert errors[0] > 1.3 * errors[1] and errors[1] < 1.2 * slow.std(ddof=1) / 20**0.5


def test_frames_are_those_of_the_time_asked_for(springs):
    short, long = run(springs, 1e5), run(springs, 0.01)
    assert short.trajectory is not None and long.trajectory is not None
    torch.testing.assert_close(long.trajectory.positions, short.trajectory.positions, rtol=0, atol=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Heating:
    """Steps after each of which the kinetic energy relative to the centre of mass is a thousandth larger."""

    inner: Propagator
    growth: float = 1e-3

    @property
    def stride_fs(self) -> float:
        return self.inner.stride_fs

    def step(self, state: State, generator: Generator) -> State:
        state = self.inner.step(state, generator)
        more = (1.0 + self.growth) ** 0.5 - 1.0
        return replace(state, momenta=state.momenta + more * internal_momenta(state, state.momenta))


def off_by(springs, ensemble: str) -> tuple[float, float, float]:
    """What steps that heat are told to be too hot by, with its error, and what they must be: heat and cooling are in balance."""
    step, start = springs
    how = JudgeSettings(temperature_K=KELVIN, time_ps=20.0, longest_ps=20.0, every_fs=100.0, relaxation_fs=500.0)
    share = 2.0 * (1.0 - np.exp(-STEP_FS / 1000.0)) if ensemble == "Langevin" else 1.0 - np.exp(-STEP_FS / 500.0)
    exact = KELVIN / (1.0 - 1e-3 / share)
    settled = (2.0 * exact / float(temperature(start)[0])) ** 0.5  # the atoms begin at rest places: half becomes potential energy
    start = replace(start, momenta=settled * start.momenta)
    found = judged(Heating(inner=step), ensemble, start, step.evaluate, how).temperatures["all"]
    return found.value - KELVIN, found.error, exact - KELVIN


@pytest.mark.slow
@pytest.mark.parametrize("ensemble", ["Langevin", "Bussi"])
def test_the_heat_of_the_thermostat_tells_the_temperature(springs, ensemble, trust):
    """Nine degrees of freedom for 20 ps: by itself the mean temperature has an error of some 30 K (of 11 K after 200 ps)."""
    found, error, exact = off_by(springs, ensemble)
    assert exact > 40.0 and error < 12.0 and abs(found - exact) < 3.0 * error
    trust(
        "S", f"{ensemble}, steps that heat: temperature told by the thermostat's heat off by (K)", abs(found - exact), "3 errors"
    )


@pytest.mark.slow
@pytest.mark.planted
def test_a_wrong_share_of_heat_is_noticed(springs, monkeypatch, trust):
    share = dynamics._replaced
    monkeypatch.setattr(dynamics, "_replaced", lambda step: 0.5 * share(step))
    found, error, exact = off_by(springs, "Langevin")
    assert abs(found - exact) > 3.0 * error
    trust("S", "half the share that a thermostat replaces", "caught", "caught", planted=True)


def test_gated_runs_are_held_against_the_thermostat_or_small_steps(monkeypatch):
    calls: list[tuple[str, str, object, object]] = []

    def noted(step, ensemble, start, evaluate, how, *, seed, longer, target_K, **_):
        assert seed == 5
        calls.append((step, ensemble, longer, target_K))
        return dynamics.Judged(temperatures={"all": Estimate(value=290.0 if ensemble == "NVE" else 0.0, error=1.0, unit="K")})

    monkeypatch.setattr(stride, "judged", noted)
    kinds = {"small steps": {"NVE": "small"}, "long strides": {"NVE": "long", "Bussi": "long"}, "other": {"NVE": "other"}}
    stride._run_all(kinds, None, None, JudgeSettings(temperature_K=KELVIN), seed=5, stop=NEVER)
    assert calls == [
        ("small", "NVE", "all", None),
        ("long", "NVE", "elements", 290.0),
        ("long", "Bussi", "elements", KELVIN),
        ("other", "NVE", "", None),
    ]
