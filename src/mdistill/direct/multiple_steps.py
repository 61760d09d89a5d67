r"""Multiple time steps: direct forces inside, the gradient of the energy head outside, so that the energy is conserved.

    p ← p + (H/2) (F_E − F_d)(r);   M × velocity Verlet with F_d and h = H/M;   p ← p + (H/2) (F_E − F_d)(r)

F_d: direct forces   F_E = −∇E of the energy head   H: time step   M: inner steps. The step is symmetric, and conserves
E but for the error of (F_E − F_d) over H: where the two agree well, H can be several times as long as h. A step takes M forces
and one gradient.

References: M. Tuckerman, B. J. Berne, G. J. Martyna, J. Chem. Phys. 97, 1990 (1992), doi 10.1063/1.463137; F. Bigi, M. Langer,
M. Ceriotti, The dark side of the forces, ICML 2025, arXiv 2412.11569.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Generator

from mdistill.derivatives import Conservative, DirectNet, NetPotential
from mdistill.runs.identity import weights_sha256
from mdistill.settings import LONGEST_STEP, within
from mdistill.simulation.evaluator import Evaluator
from mdistill.simulation.kinetics import prediction_of
from mdistill.simulation.propagators import Evaluate
from mdistill.simulation.verlet import VelocityVerlet, evaluated, kick
from mdistill.types import Graph, Potential, Prediction, State, System


@dataclass(frozen=True, slots=True, kw_only=True)
class MultipleTimeSteps:
    """NVE of the energy of `evaluate`, in inner steps of other forces.

    Attributes:
        evaluate: Energy and its forces.
        fast: Forces of the inner steps.
        time_step: H, fs.
        inner_steps: M.
    """

    splits: ClassVar[bool] = False
    keeps_energy: ClassVar[bool] = True
    evaluate: Evaluate
    fast: Evaluate
    time_step: float
    inner_steps: int

    def __post_init__(self) -> None:
        within("time_step", self.time_step, 0.0, LONGEST_STEP, unit="fs")
        within("inner_steps", self.inner_steps, 1, 1000, open_low=False)

    @property
    def stride_fs(self) -> float:
        return self.time_step

    def step(self, state: State, generator: Generator) -> State:
        time = state.time + self.time_step
        state = evaluated(state, self.evaluate)
        state = self._slow(state, prediction_of(state), self.fast(state.system))
        verlet = VelocityVerlet(evaluate=self.fast, time_step=self.time_step / self.inner_steps)
        for _ in range(self.inner_steps):
            state = verlet.step(state, generator)
        answer = self.evaluate(state.system)
        return replace(self._slow(state, answer, prediction_of(state)), time=time, prediction=answer)

    def _slow(self, state: State, slow: Prediction, fast: Prediction) -> State:
        """Half a kick of F_E − F_d; the state then holds the fast prediction."""
        kicked = kick(replace(state, prediction=replace(slow, forces=slow.forces - fast.forces)), 0.5 * self.time_step)
        return replace(kicked, prediction=fast)


@dataclass(slots=True)
class _Remembered:
    """An evaluation that knows its last answer: the force at the end of a step is that at the begin of the next."""

    evaluate: Evaluate
    _last: tuple[System, Prediction] | None = field(default=None)

    def __call__(self, system: System) -> Prediction:
        last = self._last
        if last is None or not (torch.equal(last[0].positions, system.positions) and torch.equal(last[0].cell, system.cell)):
            self._last = last = system, self.evaluate(system)
        return last[1]


@dataclass(frozen=True, slots=True)
class EnergyBetweenSteps(NetPotential):
    """The energy head of a network as a potential, whose time steps are `MultipleTimeSteps` with its direct forces.

    Attributes:
        net: The network.
        fast: Its direct forces.
        inner_steps: M.
    """

    conservative: ClassVar[bool] = True
    net: DirectNet
    fast: Potential
    inner_steps: int

    @property
    def sha256(self) -> str:
        """Identity of the weights, the inner forces and their number."""
        return weights_sha256(self.fast, mode=f"{self.inner_steps} inner steps of {getattr(self.fast, 'sha256', '')}")

    def __call__(self, graph: Graph) -> Prediction:
        return Conservative(self.net)(graph)

    def nve_step(self, *, evaluate: Evaluate, time_step: float) -> MultipleTimeSteps:
        """The step of a run; `simulate` takes it in place of velocity Verlet."""
        fast = _Remembered(Evaluator(self.fast))
        return MultipleTimeSteps(evaluate=evaluate, fast=fast, time_step=time_step, inner_steps=self.inner_steps)
