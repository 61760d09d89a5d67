"""The guard stops each kind of broken run, names the step and the reason, and lets healthy runs pass."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from mdistill.errors import BadInput, BlowUp
from mdistill.graph import make_system
from mdistill.simulation.guard import Guard, total_energy
from mdistill.simulation.initial_state import initial_state
from mdistill.simulation.settings import GuardSettings
from mdistill.types import Prediction, State


def healthy(kelvin: float = 600.0) -> State:
    grid = np.stack(np.meshgrid(*[np.arange(3)] * 3, indexing="ij"), -1).reshape(-1, 3) * 2.6
    system = make_system(grid, np.tile([3, 16, 15], 9), 7.8 * np.eye(3), [True] * 3)
    state = initial_state(system, temperature_K=kelvin, generator=Generator().manual_seed(0))
    energy = torch.full((1,), -50.0, dtype=torch.float64)
    return replace(state, prediction=Prediction(energy=energy, forces=torch.ones_like(state.momenta)))


def with_prediction(state: State, **changes: Tensor) -> State:
    assert state.prediction is not None
    return replace(state, prediction=replace(state.prediction, **changes))


def spoilt(tensor: Tensor, place: tuple[int, ...], value: float) -> Tensor:
    copy = tensor.clone()
    copy[place] = value
    return copy


def moved(state: State) -> State:
    positions = spoilt(state.system.positions, (4, 2), float(state.system.positions[3, 2]) + 0.9)
    return replace(state, system=replace(state.system, positions=positions))


BROKEN = {
    "energy": (lambda s: with_prediction(s, energy=torch.tensor([math.nan])), "energy is not finite", 7),
    "force": (
        lambda s: with_prediction(s, forces=spoilt(s.momenta, (5, 1), math.inf)),
        r"force on atom 5 \(P\) is not finite",
        7,
    ),
    "momentum": (lambda s: replace(s, momenta=spoilt(s.momenta, (5, 1), math.nan)), "momenta are not finite", 7),
    "large force": (lambda s: with_prediction(s, forces=spoilt(s.momenta, (4, 0), 60.0)), r"force on atom 4 \(S\) is 60", 20),
    "close pair": (moved, r"atoms 3 \(Li\) and 4 \(S\)|atoms 4 \(S\) and 3 \(Li\)", 20),
    "heat": (lambda s: replace(s, momenta=2.5 * s.momenta), "temperature is", 20),
    "drift": (
        lambda s: with_prediction(s, energy=torch.tensor([-49.0], dtype=torch.float64)),
        r"changed by \+0.03704 eV/atom",
        20,
    ),
}


def guard(state: State, **settings: float) -> Guard:
    return Guard(settings=GuardSettings(**settings), temperature_K=600.0, reference_energy=total_energy(state))


@pytest.mark.parametrize("kind", list(BROKEN))
def test_each_kind_of_broken_state_is_stopped(kind: str, trust: Callable[..., None]) -> None:
    spoil, message, step = BROKEN[kind]
    state = healthy()
    watch = guard(state)
    watch(step, state)
    with pytest.raises(BlowUp, match=message) as caught:
        watch(step, spoil(state))
    assert caught.value.step == step and caught.value.exit_status == 3
    trust("G", f"guard stops: {kind}", "stopped", "stopped")


@pytest.mark.parametrize(("step", "fix"), [(0, "relax the structure first"), (70, "a shorter time step, a lower temperature")])
def test_a_blow_up_says_what_to_do(step: int, fix: str) -> None:
    assert f"fix: {fix}" in str(BlowUp(step, "too hot"))


def test_a_closer_pair_in_the_labels_moves_the_limit() -> None:
    state = moved(healthy())
    between = float((state.system.positions[3] - state.system.positions[4]).norm())
    Guard(distances={(3, 16): 1.9 * between})(10, state)
    with pytest.raises(BlowUp, match="apart"):
        Guard(distances={(3, 16): 2.1 * between})(10, state)


def test_other_checks_wait_for_their_turn_and_can_be_switched_off() -> None:
    hot = replace(healthy(), momenta=9.0 * healthy().momenta)
    guard(healthy())(7, hot)
    guard(healthy(), on=False)(10, hot)
    with pytest.raises(BlowUp):
        guard(healthy(), on=False)(3, with_prediction(hot, energy=torch.tensor([math.nan])))


def test_heat_limit_follows_the_number_of_atoms() -> None:
    state = healthy()
    limit = 600.0 * (1.0 + 8.0 * math.sqrt(2.0 / 78.0)) + 200.0
    from mdistill.simulation.kinetics import temperature

    for factor, stops in ((0.99, False), (1.01, True)):
        scale = math.sqrt(factor * limit / float(temperature(state)[0]))
        hot = replace(state, momenta=scale * state.momenta)
        if stops:
            with pytest.raises(BlowUp, match="temperature"):
                Guard(temperature_K=600.0)(10, hot)
        else:
            Guard(temperature_K=600.0)(10, hot)


@pytest.mark.parametrize("bad", [{"every": 0}, {"largest_force": -1.0}, {"closest_pair": 2.0}, {"energy_change": math.nan}])
def test_bad_settings(bad: dict[str, float]) -> None:
    with pytest.raises(BadInput, match=rf"GuardSettings\.{next(iter(bad))}: "):
        GuardSettings(**bad)
