"""Long strides by a direct map: what is conserved exactly, what is clipped and owed, and the way back to small steps."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from torch import Generator

from laws import assert_close
from maps import at_rest, tiny_attention, tiny_direct
from mdistill.derivatives import Conservative
from mdistill.errors import BadInput
from mdistill.graph import concatenate
from mdistill.nets.one_step import Arrival
from mdistill.nets.uncertainty import LastLayerUncertainty
from mdistill.simulation.bussi import Bussi
from mdistill.simulation.evaluator import Evaluator
from mdistill.simulation.guard import total_energy
from mdistill.simulation.kinetics import internal_momenta, temperature
from mdistill.simulation.langevin import Obabo
from mdistill.simulation.one_step_map import OneStepStrides
from mdistill.simulation.propagators import StrideCounts
from mdistill.simulation.restart import RestartPoint, load_restart, save_restart
from mdistill.simulation.rollout import rollout
from mdistill.simulation.settings import SimulateSettings
from mdistill.simulation.simulate import simulate
from mdistill.simulation.verlet import VelocityVerlet, evaluated
from mdistill.types import Prediction, State
from systems import MorseNet, isolated_atom, random_box

DOUBLE = torch.float64


def nothing(system):
    """The potential of free particles."""
    return Prediction(energy=torch.zeros(system.n_structs, dtype=DOUBLE), forces=torch.zeros_like(system.positions))


@dataclass
class Scripted:
    """A map that flies freely and multiplies momenta by the next of its factors (1 at their end)."""

    factors: list[float] = field(default_factory=list)
    drift: float = 0.0
    cutoff: float = 3.0
    doubt: LastLayerUncertainty = field(default_factory=lambda: LastLayerUncertainty(1, 1))

    def species(self, numbers):
        return torch.zeros_like(numbers)

    def leap(self, system, momenta, masses, stride_fs, *, forces=None, graph=None):
        factor = self.factors.pop(0) if self.factors else 1.0
        weight = masses.unsqueeze(1)
        positions = system.positions + stride_fs * momenta / weight + self.drift
        return Arrival(positions=positions, momenta=factor * momenta + self.drift * weight, features=torch.ones(len(masses), 1))


def flight(net, evaluate=nothing, **changed) -> OneStepStrides:
    chosen = {"stride_fs": 8.0, "small_step": 2.0, "clip": 0.1, "worst": 1.0} | changed
    return OneStepStrides(net=net, evaluate=evaluate, **chosen)


def box(**changed) -> State:
    return at_rest(random_box(1, atoms=8, closest=2.2), **changed)


def run(propagator, state: State, steps: int, seed: int = 0) -> State:
    return rollout(state, propagator, steps=steps, generator=Generator().manual_seed(seed))


def morse():
    return Evaluator(Conservative(MorseNet()))


def small_direct():
    """A random map whose impulses are small, so that few strides need more than a small rescale."""
    net = tiny_direct()
    net.scale.mul_(0.02)
    return net


def test_energy_and_momentum_are_kept_where_nothing_is_clipped():
    evaluate = morse()
    state = evaluated(box(), evaluate)
    state = replace(state, momenta=state.momenta + 0.005 * state.masses.unsqueeze(1))
    propagator = flight(small_direct(), evaluate, stride_fs=4.0)
    after = run(propagator, state, 20)
    assert propagator.counts == StrideCounts(strides=20)
    assert_close(total_energy(after), total_energy(state), absolute=1e-9)
    assert_close(after.momenta.sum(0), state.momenta.sum(0), absolute=1e-10)
    centre = ((after.system.positions - state.system.positions) * state.masses.unsqueeze(1)).sum(0)
    assert_close(centre, 80.0 * state.momenta.sum(0), absolute=1e-8)
    assert after.time == 80.0
    raw = run(replace(propagator, rescale=False), state, 20)
    assert float((total_energy(raw) - total_energy(state)).abs()) > 1e-4, "the map conserves energy by itself: this tells nothing"
    assert raw.energy_debt is None


def test_what_is_clipped_is_counted_owed_and_paid():
    state = evaluated(box(), nothing)
    begun = total_energy(state)
    propagator = flight(Scripted([0.8]))
    first = run(propagator, state, 1)
    assert (propagator.counts.clips, propagator.counts.fallbacks) == (1, 0)
    assert_close(total_energy(first), (0.8 * 1.1) ** 2 * begun, absolute=1e-12)
    assert_close(first.energy_debt, begun - total_energy(first), absolute=1e-12)
    second = run(propagator, first, 1)
    assert_close(total_energy(second), (0.8 * 1.1 * 1.1) ** 2 * begun, absolute=1e-12)
    third = run(propagator, second, 1)
    assert propagator.counts.clips == 2
    assert_close(total_energy(third), begun, absolute=1e-12)
    assert_close(third.energy_debt, torch.zeros(1, dtype=DOUBLE), absolute=1e-12)


def test_too_much_is_owed_the_other_way_too():
    state = evaluated(box(), nothing)
    propagator = flight(Scripted([1.3]))
    first = run(propagator, state, 1)
    assert propagator.counts.clips == 1 and float(first.energy_debt) < 0.0
    assert_close(total_energy(run(propagator, first, 2)), total_energy(state), absolute=1e-12)


def test_drift_of_the_map_is_taken_off():
    state = evaluated(box(), nothing)
    after = run(flight(Scripted(drift=0.1)), state, 3)
    free = state.system.positions + 24.0 * state.momenta / state.masses.unsqueeze(1)
    assert_close(after.system.positions, free, absolute=1e-12)
    assert_close(after.momenta, state.momenta, absolute=1e-12)


def small_steps(state: State, evaluate, strides: int) -> State:
    return run(VelocityVerlet(evaluate=evaluate, time_step=2.0), state, 4 * strides)


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), 0.0, 1e-3, 3.0])
def test_what_is_not_finite_or_far_off_is_taken_anew_in_small_steps(factor):
    evaluate = morse()
    state = evaluated(box(), evaluate)
    propagator = flight(Scripted([factor]), evaluate, worst=0.2)
    after, expected = run(propagator, state, 1), small_steps(state, evaluate, 1)
    counts = propagator.counts
    assert (counts.strides, counts.fallbacks, counts.broken + counts.energetic) == (1, 1, 1)
    assert torch.equal(after.system.positions, expected.system.positions)
    assert torch.equal(after.momenta, expected.momenta)
    assert after.time == expected.time


def test_a_potential_that_breaks_at_the_arrival_is_not_believed():
    calls = []

    def breaks_once(system):
        calls.append(0)
        found = nothing(system)
        return replace(found, energy=found.energy + float("nan")) if len(calls) == 2 else found

    propagator = flight(Scripted(), breaks_once)
    after = run(propagator, box(), 2)
    assert propagator.counts.broken == 1
    assert bool(torch.isfinite(after.momenta).all() & torch.isfinite(total_energy(after)).all())


def test_a_doubtful_map_is_velocity_verlet():
    evaluate, net = morse(), small_direct()
    net.doubt.largest.zero_()
    propagator = flight(net, evaluate)
    state = evaluated(box(), evaluate)
    after, expected = run(propagator, state, 5), small_steps(state, evaluate, 5)
    assert propagator.counts == StrideCounts(strides=5, fallbacks=5, doubtful=5)
    assert torch.equal(after.system.positions, expected.system.positions)


def test_what_stands_still_stays():
    state = replace(box(), momenta=torch.zeros(8, 3, dtype=DOUBLE))
    propagator = flight(Scripted())
    after = run(propagator, state, 3)
    assert propagator.counts == StrideCounts(strides=3)
    assert torch.equal(after.momenta, state.momenta) and torch.equal(after.system.positions, state.system.positions)


def test_every_struct_has_a_factor_of_its_own():
    def parts(state):
        return [
            State(system=random_box(1, atoms=8, closest=2.2), momenta=state.momenta[:8], masses=state.masses[:8]),
            State(system=isolated_atom(), momenta=state.momenta[8:], masses=state.masses[8:]),
        ]

    evaluate, net = morse(), small_direct()
    both = at_rest(concatenate([random_box(1, atoms=8, closest=2.2), isolated_atom()]))
    together = run(flight(net, evaluate, stride_fs=4.0), both, 4)
    alone = [run(flight(net, evaluate, stride_fs=4.0), part, 4) for part in parts(both)]
    assert_close(together.momenta, torch.cat([a.momenta for a in alone]), absolute=1e-11)
    assert_close(alone[1].momenta, both.momenta[8:], absolute=1e-12)


def test_a_turned_frame_changes_only_what_is_not_equivariant():
    evaluate = morse()
    state = evaluated(box(), evaluate)
    for net, equal in ((small_direct(), True), (tiny_attention(), False)):
        usual = flight(net, evaluate, rescale=False)
        found = [
            run(replace(usual, random_frame=turning), state, 1, seed=seed) for turning, seed in ((False, 1), (True, 1), (True, 2))
        ]
        gap = max(float((a.momenta - found[0].momenta).abs().max()) for a in found[1:])
        assert (gap < 1e-10) == equal, gap
        assert equal or gap > 1e-3
        again = run(replace(usual, random_frame=True), state, 1, seed=1)
        assert torch.equal(again.momenta, found[1].momenta)


def test_thermostats_around_it_are_not_undone():
    state = evaluated(box(kelvin=300.0), nothing)
    strong = Bussi(inner=flight(Scripted([0.95, 1.02] * 20)), temperature_K=900.0, relaxation_fs=1e-3)
    kelvins, generator = [], Generator().manual_seed(0)
    for _ in range(400):
        state = strong.step(state, generator)
        kelvins.append(float(temperature(state)))
    assert_close(state.momenta.sum(0), torch.zeros(3, dtype=DOUBLE), absolute=1e-10)
    error = 900.0 * (2.0 / 21.0 / 400.0) ** 0.5
    assert abs(sum(kelvins) / 400.0 - 900.0) < 4.0 * error
    assert float(state.energy_debt.abs().max()) < 1e-10
    cold = run(Obabo(inner=flight(Scripted()), temperature_K=100.0, friction_per_ps=1000.0), state, 200)
    assert float(temperature(cold)) < 300.0 and float(internal_momenta(cold, cold.momenta).abs().max()) > 0.0


def test_a_restart_keeps_the_debt(tmp_path: Path):
    propagator = flight(Scripted([0.8, 0.9]))
    state = run(propagator, evaluated(box(), nothing), 2)
    assert float(state.energy_debt) > 0.0
    generator = Generator().manual_seed(0)
    save_restart(tmp_path / "r.npz", RestartPoint(step=2, state=state, generator_state=generator.get_state()))
    loaded = load_restart(tmp_path / "r.npz").state
    assert torch.equal(loaded.energy_debt, state.energy_debt)
    assert torch.equal(run(flight(Scripted()), loaded, 3).momenta, run(flight(Scripted()), state, 3).momenta)


@pytest.mark.parametrize("wrong", [{"clip": 0.0}, {"clip": 0.9}, {"worst": 0.05}, {"small_step": 9.0}, {"small_step": 0.0}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(BadInput):
        flight(Scripted(), **wrong)


def test_simulations_take_it_and_go_on_as_if_never_stopped(tmp_path: Path):
    system, potential = random_box(1, atoms=8, closest=2.2), Conservative(MorseNet())

    def ran(folder: str, *times: float):
        for time_ps in times:
            settings = SimulateSettings(ensemble="nvt", thermostat="bussi", time_ps=time_ps, equilibration_ps=0.08,
                                        time_step_fs=8.0, every_fs=8.0, temperature_K=200.0)  # fmt: skip
            result = simulate(system, potential, settings, tmp_path / folder, stride=small_direct())
        return result

    once, twice = ran("once", 0.16), ran("twice", 0.08, 0.16)
    assert once.steps == 20 and twice.resumed
    assert torch.equal(once.state.momenta, twice.state.momenta)
    assert once.state.energy_debt is not None and torch.equal(once.state.energy_debt, twice.state.energy_debt)
