r"""Velocity Verlet: energy-conserving dynamics, time-reversible and symplectic, second order in the time step.

p ← p + (h/2) F(r);   r ← r + h p/m;   p ← p + (h/2) F(r)

r: positions   p: momenta   m: masses   F: forces   h: time step

Reference: Swope, Andersen, Berens, Wilson, J. Chem. Phys. 76, 637 (1982), doi 10.1063/1.442716.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Generator

from mdistill.settings import LONGEST_STEP, within
from mdistill.simulation.kinetics import prediction_of
from mdistill.types import Prediction, State, System
from mdistill.units import ACCELERATION

Evaluate = Callable[[System], Prediction]
"""evaluate(system) -> Prediction: an `Evaluator`, or any function like it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VelocityVerlet:
    """NVE. Conserves total momentum where the forces sum to zero.

    Attributes:
        evaluate: Forces of a system.
        time_step: h, fs.
    """

    evaluate: Evaluate
    time_step: float

    def __post_init__(self) -> None:
        within("time_step", self.time_step, 0.0, LONGEST_STEP, unit="fs")

    @property
    def stride_fs(self) -> float:
        return self.time_step

    def step(self, state: State, generator: Generator) -> State:
        state = evaluated(state, self.evaluate)
        state = drift(kick(state, 0.5 * self.time_step), self.time_step)
        state = kick(evaluated(state, self.evaluate), 0.5 * self.time_step)
        return replace(state, time=state.time + self.time_step, middle_momenta=None)


def evaluated(state: State, evaluate: Evaluate) -> State:
    """The state with its prediction; evaluated only where it has none."""
    return state if state.prediction is not None else replace(state, prediction=evaluate(state.system))


def kick(state: State, interval: float) -> State:
    """p ← p + interval·F: momenta after the forces acted for `interval` (fs)."""
    return replace(state, momenta=state.momenta + (interval * ACCELERATION) * prediction_of(state).forces)


def drift(state: State, interval: float) -> State:
    """r ← r + interval·p/m: free flight for `interval` (fs); the prediction, no longer valid, is dropped."""
    positions = state.system.positions + interval * state.momenta / state.masses.unsqueeze(1)
    return replace(state, system=replace(state.system, positions=positions), prediction=None)
