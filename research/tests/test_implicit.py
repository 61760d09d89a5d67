"""Strides that are solved for: the exact harmonic map, the guess, the way back, thermostats around it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from actions import EXACT, phase_point, tiny_action
from torch import Generator, Tensor

from laws import assert_close
from mdistill.derivatives import Conservative
from mdistill.errors import BadInput
from mdistill.graph import make_system
from mdistill.simulation.evaluator import Evaluator
from mdistill.simulation.initial_state import standard_masses
from mdistill.simulation.langevin import Obabo
from mdistill.simulation.verlet import VelocityVerlet
from mdistill.teachers.models import load, load_stride
from mdistill.types import Prediction, State, System
from mdistill.units import ACCELERATION
from research.action_net import SolverSettings
from research.implicit import Implicit, implicit
from systems import random_box

GOLDEN = Path(__file__).parents[2] / "tests" / "golden" / "ca4b391"
STIFFNESS = 2.0
"""eV/Å², of springs to the origin."""
TIME = 6.0


def springs(system: System) -> Prediction:
    positions = system.positions
    energy = 0.5 * STIFFNESS * positions.square().sum().reshape(1)
    return Prediction(energy=energy, forces=-STIFFNESS * positions)


def oscillators(angles: list[float]) -> State:
    """Atoms on springs, each of the mass that turns it by an angle ωt in a stride."""
    masses = torch.tensor([STIFFNESS * ACCELERATION * (TIME / angle) ** 2 for angle in angles], dtype=torch.float64)
    positions = np.random.default_rng(0).normal(0.0, 0.3, (len(angles), 3))
    system = make_system(positions, np.full(len(angles), 3), np.zeros((3, 3)), [False] * 3)
    momenta = masses.unsqueeze(1) * 0.02 * torch.randn(len(angles), 3, generator=Generator().manual_seed(1), dtype=torch.float64)
    return State(system=system, momenta=momenta, masses=masses)


def exact_action(middle: System, momenta: Tensor, masses: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives of (2/ω) tan(ωt/2) H(q̄, p̄)."""
    omega = (STIFFNESS * ACCELERATION / masses).sqrt().unsqueeze(1)
    factor = 2.0 / omega * torch.tan(0.5 * omega * TIME)
    return factor * momenta / masses.unsqueeze(1), -factor * STIFFNESS * ACCELERATION * middle.positions


def harmonic(**changes) -> Implicit:
    usual = {"increments": exact_action, "evaluate": springs, "time": TIME, "small_step": 0.5, "solver": EXACT}
    return Implicit(**(usual | changes))


def test_the_exact_action_gives_the_exact_harmonic_map() -> None:
    """Angles below and above the 2 at which the plain iteration begins to diverge."""
    angles = [0.5, 1.2, 2.0, 2.4]
    state, propagator = oscillators(angles), harmonic()
    after = propagator.step(state, Generator())
    angle = torch.tensor(angles, dtype=torch.float64).unsqueeze(1)
    omega, masses = angle / TIME, state.masses.unsqueeze(1)
    cosine, sine, start = torch.cos(angle), torch.sin(angle), state.system.positions
    assert propagator.counts.fallbacks == 0
    assert_close(after.system.positions, cosine * start + sine * state.momenta / (masses * omega), absolute=1e-11)
    assert_close(after.momenta, cosine * state.momenta - masses * omega * sine * start, absolute=1e-11)
    assert after.time == TIME


def test_the_tolerance_is_kept() -> None:
    state, exact = oscillators([0.5, 1.2, 2.0, 2.4]), harmonic().step(oscillators([0.5, 1.2, 2.0, 2.4]), Generator())
    for tolerance in (1e-4, 1e-6, 1e-8):
        propagator = harmonic(solver=SolverSettings(tolerance=tolerance))
        after = propagator.step(state, Generator())
        assert float((after.system.positions - exact.system.positions).abs().max()) < 30.0 * tolerance
        assert propagator.counts.evaluations <= 20


def test_a_better_guess_costs_less_and_ends_at_the_same_place() -> None:
    state, plain = oscillators([0.5, 0.9, 1.2]), harmonic()
    first = plain.step(state, Generator())
    fine = harmonic(guess=harmonic())
    guessed = fine.step(state, Generator())
    assert_close(guessed.system.positions, first.system.positions, absolute=1e-11)
    assert fine.counts.evaluations < plain.counts.evaluations
    with pytest.raises(BadInput, match="6 fs"):
        harmonic(guess=VelocityVerlet(evaluate=springs, time_step=1.0))


@pytest.mark.parametrize("how", ["too few evaluations", "not finite"])
def test_a_stride_that_does_not_converge_is_taken_in_small_steps_and_counted(how: str) -> None:
    def broken(middle: System, momenta: Tensor, masses: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full_like(momenta, torch.nan), torch.full_like(momenta, torch.nan)

    state = oscillators([0.5, 1.2])
    changes = {"increments": broken} if how == "not finite" else {"solver": SolverSettings(most_evaluations=2)}
    propagator = harmonic(**changes)
    after = propagator.step(state, Generator())
    expected = state
    for _ in range(12):
        expected = VelocityVerlet(evaluate=springs, time_step=0.5).step(expected, Generator())
    assert (propagator.counts.strides, propagator.counts.fallbacks) == (1, 1)
    assert torch.equal(after.system.positions, expected.system.positions)
    assert torch.equal(after.momenta, expected.momenta)
    assert after.prediction is not None
    assert after.time == TIME


def test_a_stride_that_changes_the_energy_too_much_falls_back() -> None:
    """Planted: one kick too strong by half. The exact map keeps the energy, and no limit means no check."""

    def strong(middle: System, momenta: Tensor, masses: Tensor) -> tuple[Tensor, Tensor]:
        moved, kicked = exact_action(middle, momenta, masses)
        return moved, 1.5 * kicked

    state = oscillators([0.5, 1.2])
    for increments, limit, expected in ((strong, 1e-3, 1), (strong, math.inf, 0), (exact_action, 1e-9, 0)):
        propagator = harmonic(increments=increments, largest_change=limit)
        after = propagator.step(state, Generator())
        assert propagator.counts.fallbacks == expected
        assert after.prediction is not None
        assert after.time == TIME


def test_a_network_as_a_propagator_is_its_own_map() -> None:
    """The potential on its compiled kernel, neighbour lists kept, against plain torch; forth and back over 20 strides."""
    system, net = random_box(1), tiny_action(stride_fs=2.0)
    net.potential.scale.fill_(0.1)
    net.motion.scale.fill_(0.02)
    momenta, masses = phase_point(system, speed=0.005)
    evaluate = Evaluator(Conservative(net.potential))
    propagator = implicit(net, system, evaluate, skin=0.5, small_step=0.5, solver=replace(EXACT, tolerance=1e-12))
    state = start = State(system=system, momenta=momenta, masses=masses)
    after = propagator.step(start, Generator())
    positions, there = net(system, momenta, masses, 2.0)
    assert_close(after.system.positions, positions, absolute=1e-7)
    assert_close(after.momenta, there, absolute=1e-6)
    for _ in range(20):
        state = propagator.step(state, Generator())
    state = replace(state, momenta=-state.momenta)
    for _ in range(20):
        state = propagator.step(state, Generator())
    assert propagator.counts.fallbacks == 0
    assert_close(state.system.positions, system.positions, absolute=1e-8)
    assert_close(state.momenta, -momenta, absolute=1e-7)
    with pytest.raises(BadInput, match="float32"):
        implicit(net.in_type(torch.float32), system, evaluate, skin=0.5, small_step=0.5)


def test_a_thermostat_around_it_keeps_the_temperature() -> None:
    """400 oscillators under Langevin: equipartition of positions and momenta, which the exact map does not disturb."""
    state = oscillators([0.8] * 300)
    propagator = Obabo(inner=harmonic(solver=SolverSettings()), temperature_K=300.0, friction_per_ps=50.0)
    generator, found = Generator().manual_seed(0), []
    for k in range(200):
        state = propagator.step(state, generator)
        if k >= 80:
            kinetic = (state.momenta.square() / state.masses.unsqueeze(1)).mean() / ACCELERATION
            found.append([float(kinetic), STIFFNESS * float(state.system.positions.square().mean())])
    kinetic, potential = np.mean(found, axis=0) / (8.617333262e-5 * 300.0)
    assert abs(kinetic - 1.0) < 0.05
    assert abs(potential - 1.0) < 0.05


def test_settings_are_checked() -> None:
    for wrong in (
        {"small_step": 7.0},
        {"largest_change": math.nan},
        {"solver": SolverSettings(tolerance=0.0)},
        {"solver": SolverSettings(most_evaluations=0)},
    ):
        with pytest.raises(BadInput):
            harmonic(**wrong)


def test_a_map_of_commit_ca4b391_ends_where_it_ended_there() -> None:
    """Golden files of `tests/golden/make_ca4b391.py`: two strides of 4 fs."""
    expected = json.loads((GOLDEN / "map_action.json").read_text(encoding="utf-8"))
    evaluate = Evaluator(load(GOLDEN / "taught_maps.mdistill"), skin=0.5)
    begin, end = (
        {name: torch.tensor(values, dtype=torch.float64) for name, values in expected[when].items()} for when in ("start", "end")
    )
    system = replace(random_box(1), positions=begin["positions"])
    state = State(system=system, momenta=begin["momenta"], masses=standard_masses(system))
    net = load_stride(GOLDEN / "map_action.mdistill", student=GOLDEN / "taught_maps.mdistill", precision="float64")
    long = implicit(net, system, evaluate, skin=0.5, small_step=1.0)
    for _ in range(2):
        state = long.step(state, Generator())
    assert long.counts.fallbacks == 0
    assert_close(state.system.positions, end["positions"], absolute=1e-10)
    assert_close(state.momenta, end["momenta"], absolute=1e-10)
