r"""Velocity Verlet: energy-conserving dynamics, time-reversible and symplectic, second order in the time step.

p ← p + (h/2) F(r);   r ← r + h p/m;   p ← p + (h/2) F(r)

r: positions   p: momenta   m: masses   F: forces   h: time step

Reference: Swope, Andersen, Berens, Wilson, J. Chem. Phys. 76, 637 (1982), doi 10.1063/1.442716.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Generator

from mdistill.kernels.motion import Ensemble
from mdistill.settings import LONGEST_STEP, within
from mdistill.simulation.evaluator import EngineEvaluator
from mdistill.simulation.kinetics import held, prediction_of
from mdistill.simulation.propagators import Evaluate, Mover
from mdistill.types import State
from mdistill.units import ACCELERATION


@dataclass(frozen=True, slots=True, kw_only=True)
class VelocityVerlet:
    """NVE. Conserves total momentum where the forces sum to zero.

    Attributes:
        evaluate: Forces of a system.
        time_step: h, fs.
    """

    splits: ClassVar[bool] = True
    keeps_energy: ClassVar[bool] = True
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

    def mover(self, evaluate: EngineEvaluator) -> Mover:
        return Mover(evaluate.engine)

    def motion(self, state: State, generator: Generator, steps: int) -> dict[str, Any]:
        return {"ensemble": Ensemble.NVE}


def evaluated(state: State, evaluate: Evaluate) -> State:
    """The state with its prediction; evaluated only where it has none."""
    return state if state.prediction is not None else replace(state, prediction=evaluate(state.system))


def kick(state: State, interval: float) -> State:
    """p ← p + interval·F: momenta after the forces acted for `interval` (fs)."""
    forces = torch.where(held(state.masses).unsqueeze(1), 0.0, prediction_of(state).forces)
    return replace(state, momenta=state.momenta + (interval * ACCELERATION) * forces)


def drift(state: State, interval: float) -> State:
    """r ← r + interval·p/m: free flight for `interval` (fs); the prediction, no longer valid, is dropped."""
    positions = state.system.positions + interval * state.momenta / state.masses.unsqueeze(1)
    return replace(state, system=replace(state.system, positions=positions), prediction=None)


def small_steps(state: State, evaluate: Evaluate, generator: Generator, *, time: float, longest: float) -> State:
    """The state after `time` (fs) in equal steps of velocity Verlet, none longer than `longest` (fs)."""
    steps, now = math.ceil(time / longest - 1e-9), state.time
    verlet = VelocityVerlet(evaluate=evaluate, time_step=time / steps)
    for _ in range(steps):
        state = verlet.step(state, generator)
    return replace(state, time=now + time)
