"""The energy of long strides, put right now and then: it stays, thermal motion is all that changes, compiled as plain."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from mdistill.derivatives import Conservative
from mdistill.errors import BadInput
from mdistill.estimates import Estimate, mean_of
from mdistill.nets.compiled import compiled
from mdistill.simulation.bussi import Bussi
from mdistill.simulation.compiled import compile_propagator
from mdistill.simulation.energy_correction import CorrectEnergy, LeapingCorrectEnergy, unheated
from mdistill.simulation.evaluator import make_evaluator
from mdistill.simulation.guard import total_energy
from mdistill.simulation.initial_state import initial_state, standard_masses
from mdistill.simulation.kinetics import temperature
from mdistill.simulation.langevin import Obabo
from mdistill.simulation.rollout import Calling, rollout
from mdistill.simulation.splitting_map import SplittingStrides, splitting_strides
from mdistill.simulation.verlet import VelocityVerlet, evaluated
from mdistill.types import Prediction, Propagator, State, System
from mdistill.units import ACCELERATION
from systems import random_box, tiny_map, tiny_net

BOX = random_box(3, atoms=20, length=8.0)


def strides() -> SplittingStrides:
    evaluate = make_evaluator(compiled(Conservative(tiny_net(1)), double=True), BOX)
    return splitting_strides(tiny_map(), BOX, evaluate, time=8.0, skin=1.0, small_step=1.0)


def begin(inner: SplittingStrides) -> State:
    state = initial_state(BOX, temperature_K=300.0, generator=Generator().manual_seed(0))
    drifting = replace(state, momenta=state.momenta + 0.01 * state.masses.unsqueeze(1))
    return evaluated(drifting, inner.evaluate)


def test_the_energy_stays_where_strides_alone_change_it(trust):
    inner = strides()
    start = begin(inner)
    kept = CorrectEnergy(inner=inner, evaluate=inner.evaluate, every=5)
    last = max(number for number in range(41) if kept.due(number))
    free, end = (rollout(start, p, steps=last, generator=Generator()) for p in (inner, kept))
    moved, left = (float((total_energy(s) - total_energy(start)).abs()) for s in (free, end))
    assert moved > 1e-4 and left < 1e-9 * moved + 1e-10
    torch.testing.assert_close(end.momenta.sum(0), start.momenta.sum(0), rtol=0, atol=1e-10)
    trust("S", "energy of long strides, put right one in 5 (eV)", left, "1e-10")


def test_what_is_missing_between_is_carried():
    inner = strides()
    kept, state = CorrectEnergy(inner=inner, evaluate=inner.evaluate, every=7), begin(inner)
    target = total_energy(state)
    for _ in range(20):
        state = kept.step(state, Generator())
        assert float(total_energy(state) + state.energy_debt - target) == pytest.approx(0.0, abs=1e-10)


def test_a_correction_beyond_the_clip_is_a_debt():
    inner = strides()
    kept = CorrectEnergy(inner=inner, evaluate=inner.evaluate, every=1, clip=0.01)
    state = replace(begin(inner), energy_debt=torch.tensor([5.0], dtype=torch.float64))
    after = kept.step(state, Generator())
    assert 0.0 < float(after.energy_debt) < 5.0
    still = replace(begin(inner), momenta=torch.zeros_like(BOX.positions))
    corrected = kept.corrected(evaluated(still, inner.evaluate), total_energy(still) + 1.0)
    assert bool(torch.isfinite(corrected.momenta).all()) and float(corrected.energy_debt) == pytest.approx(1.0)
    for wrong in ({"every": 0}, {"clip": 0.0}, {"clip": float("nan")}):
        with pytest.raises(BadInput):
            replace(kept, **wrong)


def thermostatted(inner: Propagator, kind: str) -> Propagator:
    if kind == "langevin":
        return Obabo(inner=inner, temperature_K=300.0, friction_per_ps=5.0)
    return Bussi(inner=inner, temperature_K=300.0, relaxation_fs=200.0) if kind == "bussi" else inner


@pytest.mark.parametrize("kind", ["langevin", "bussi"])
def test_the_heat_of_a_thermostat_stays(kind):
    evaluate = strides().evaluate
    warm = thermostatted(VelocityVerlet(evaluate=evaluate, time_step=0.25), kind)
    kept = CorrectEnergy(inner=warm, evaluate=evaluate, every=5)
    start = begin(strides())
    free, end = (rollout(start, p, steps=60, generator=Generator().manual_seed(3)) for p in (warm, kept))
    given = float((total_energy(free) - total_energy(start)).abs())
    apart = float((total_energy(end) - total_energy(free)).abs())
    assert given > 0.02 and apart < 0.02 * given and end.heat is None
    counted = rollout(unheated(start), warm, steps=60, generator=Generator().manual_seed(3))
    torch.testing.assert_close(counted.heat, total_energy(free) - total_energy(start), rtol=0, atol=0.02 * given)


@dataclass(frozen=True, slots=True, kw_only=True)
class Heating:
    """A spring for every coordinate, moved exactly, then heated by a thousandth."""

    periods_fs: tuple[float, float] = (60.0, 140.0)
    stride_fs: float = 10.0

    def step(self, state: State, generator: Generator) -> State:
        rates = frequencies(state.system, self.periods_fs)
        angle, scale = self.stride_fs * rates, state.masses.unsqueeze(1) * rates
        place, momenta = state.system.positions, state.momenta
        moved = angle.cos() * place + angle.sin() * momenta / scale
        momenta = 1.001 * (angle.cos() * momenta - angle.sin() * scale * place)
        return evaluated(
            replace(state, system=replace(state.system, positions=moved), momenta=momenta, time=state.time + 10.0), self.springs
        )

    def springs(self, system: System) -> Prediction:
        """The energy of those springs."""
        stiffness = standard_masses(system).unsqueeze(1) * frequencies(system, self.periods_fs) ** 2 / ACCELERATION
        energy = 0.5 * (stiffness * system.positions.square()).sum().reshape(1)
        return Prediction(energy=energy, forces=-stiffness * system.positions)


def frequencies(system: System, periods_fs: tuple[float, float]) -> Tensor:
    """Angular frequencies whose periods are evenly spread."""
    return 2.0 * torch.pi / torch.linspace(*periods_fs, 3 * system.n_atoms, dtype=torch.float64).reshape(-1, 3)


def too_hot_by(heating: Heating, propagator: Propagator) -> Estimate:
    """Mean temperature less 300 K over 20,000 steps."""
    origin = replace(BOX, positions=torch.zeros_like(BOX.positions))
    start = evaluated(initial_state(origin, temperature_K=300.0, generator=Generator().manual_seed(1)), heating.springs)
    kelvins: list[float] = []
    look = Calling(lambda step, state: kelvins.append(float(temperature(state)[0])), every=5)
    rollout(start, propagator, steps=20000, generator=Generator().manual_seed(2), observers=[look])
    return mean_of(np.array(kelvins[200:]) - 300.0, unit="K")


def langevin(heating: Heating) -> Obabo:
    """With friction of 1/ps: a map that heats by a fifth per ps is too hot by a tenth."""
    return Obabo(inner=heating, temperature_K=300.0, friction_per_ps=1.0)


@pytest.mark.slow
@pytest.mark.parametrize("periods_fs", [(60.0, 140.0), (100.0, 100.0)])
def test_a_map_that_heats_samples_the_right_temperature(trust, periods_fs):
    """Even where all vibrate with the period that is between two corrections."""
    heating = Heating(periods_fs=periods_fs)
    kept = too_hot_by(heating, CorrectEnergy(inner=langevin(heating), evaluate=heating.springs))
    assert abs(kept.value) < 3.0 * kept.error and kept.error < 5.0
    what = "Langevin around a map that heats by 0.2/ps, energy put right, periods of {:g} to {:g} fs: mean temperature off by (K)"
    trust("S", what.format(*periods_fs), abs(kept.value), "3 errors")


@dataclass(frozen=True, slots=True, kw_only=True)
class AtEqualIntervals(CorrectEnergy):
    """As it was first."""

    def due(self, number: int) -> bool:
        return number % self.every == 0


@pytest.mark.slow
@pytest.mark.planted
def test_left_alone_it_is_too_hot_and_at_equal_intervals_too_cold(trust):
    heating = Heating(periods_fs=(100.0, 100.0))
    alone = too_hot_by(heating, langevin(heating))
    in_step = too_hot_by(heating, AtEqualIntervals(inner=langevin(heating), evaluate=heating.springs))
    assert alone.value > max(15.0, 3.0 * alone.error) and in_step.value < -3.0 * in_step.error
    trust("S", "energy left alone, or put right in step with a vibration", "caught", "caught", planted=True)


@pytest.mark.parametrize("kind", ["nve", "langevin", "bussi"])
@pytest.mark.parametrize("leap", [1, 4, 30])
def test_compiled_is_as_plain_however_it_is_cut(leap, kind):
    inner = strides()
    plain = CorrectEnergy(inner=thermostatted(inner, kind), evaluate=inner.evaluate, every=5)
    fast = compile_propagator(plain, inner.evaluate)
    assert isinstance(fast, LeapingCorrectEnergy)
    slow = rollout(begin(inner), plain, steps=30, generator=Generator().manual_seed(4))
    quick = rollout(begin(inner), fast, steps=30, generator=Generator().manual_seed(4), leap=leap)
    torch.testing.assert_close(quick.system.positions, slow.system.positions, rtol=0, atol=1e-8)
    torch.testing.assert_close(quick.momenta, slow.momenta, rtol=0, atol=1e-8)
