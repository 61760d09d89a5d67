r"""Long strides: NVE dynamics by a learned splitting map (`nets/splitting_map.py`), with a fallback to time steps.

A stride is replaced by time steps of velocity Verlet with the student, and counted, in three cases: a kick's force exceeds its
range in accurate strides of the training data, the energy changes by more than in these, or a number is not finite. The energy
costs two evaluations, so it is checked for one stride in fifty: those that change K + V₀ most (V₀: the first kick's potential,
known at both ends).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from mdistill.derivatives import Conservative
from mdistill.errors import BadInput
from mdistill.kernels.moment import Engine
from mdistill.kernels.motion import Ensemble
from mdistill.kernels.splitting_map import Strides
from mdistill.nets.compiled import compiled
from mdistill.nets.splitting_map import SplittingMap
from mdistill.settings import within
from mdistill.simulation.evaluator import EngineEvaluator, make_evaluator
from mdistill.simulation.guard import Guard
from mdistill.simulation.kinetics import kinetic_energy
from mdistill.simulation.propagators import Evaluate, Mover, StrideCounts
from mdistill.simulation.verlet import evaluated, small_steps
from mdistill.types import Prediction, State, System
from mdistill.units import ACCELERATION


@dataclass(frozen=True, slots=True, kw_only=True)
class SplittingStrides:
    """NVE, one long stride per step. Symplectic, reversible and momentum-conserving, except in fallbacks.

    Attributes:
        stages: Forces of each kick's potential, the outermost first; kick k of K uses number min(k, K − k).
        evaluate: Its student: energies, and forces of time steps.
        stride_fs: t.
        kicks: K, force evaluations per stride.
        largest_force: [stage, atom] eV/Å; beyond it a stride falls back.
        looked_at: Change of K + V₀ in a stride, eV, beyond which its energy is checked.
        largest_change: Largest energy change of a checked stride, eV; beyond it a stride falls back.
        small_step: Longest time step of velocity Verlet in a fallback, fs.
    """

    splits: ClassVar[bool] = False
    keeps_energy: ClassVar[bool] = False
    stages: Sequence[Evaluate]
    evaluate: Evaluate
    stride_fs: float
    kicks: int
    largest_force: Float[Tensor, "stage atom"]
    small_step: float
    looked_at: float = math.inf
    largest_change: float = math.inf
    counts: StrideCounts = field(default_factory=StrideCounts, compare=False)

    def __post_init__(self) -> None:
        within("small_step", self.small_step, 0.0, self.stride_fs, unit="fs")
        if len(self.stages) != self.kicks // 2 + 1:
            raise BadInput("stages", f"{len(self.stages)}", allowed=f"{self.kicks // 2 + 1} for {self.kicks} kicks", fix="check")

    def uncorrected(self) -> SplittingStrides:
        return self

    def mover(self, evaluate: EngineEvaluator) -> Mover | None:
        """Compiled strides, where all potentials have engines on the CPU."""
        stages = [engine for stage in self.stages if (engine := _cpu_engine(stage)) is not None]
        student = _cpu_engine(evaluate)
        if len(stages) < len(self.stages) or student is None or self.evaluate is not evaluate:
            return None
        strides = Strides(
            stages, student, kicks=self.kicks, largest_force=self.largest_force.numpy(), looked_at=self.looked_at,
            largest_change=self.largest_change, small_steps=math.ceil(self.stride_fs / self.small_step - 1e-9),
        )  # fmt: skip
        return Mover(strides, self.counts)

    def motion(self, state: State, generator: Generator, steps: int) -> dict[str, Any]:
        return {"ensemble": Ensemble.NVE}

    def step(self, state: State, generator: Generator) -> State:
        self.counts.strides += 1
        moved = self._moved(state)
        if moved is None:
            self.counts.fallbacks += 1
            moved = self._in_small_steps(state, generator)
        return evaluated(moved, self.evaluate)

    def _moved(self, state: State) -> State | None:
        """The state after a stride of the map, None where it fails a check."""
        drift, state = self.stride_fs / self.kicks, replace(state, middle_momenta=None)
        before = state
        inverse = 1.0 / state.masses.unsqueeze(1)
        energies = []
        for k in range(self.kicks + 1):
            if k:
                positions = state.system.positions + drift * inverse * state.momenta
                state = replace(state, system=replace(state.system, positions=positions))
            stage = min(k, self.kicks - k)
            prediction = _balanced(self.stages[stage](state.system))
            forces = prediction.forces
            if not bool((forces.norm(dim=1) <= self.largest_force[stage]).all()):
                return None
            share = 0.5 if k in (0, self.kicks) else 1.0
            kicked = replace(state, momenta=state.momenta + (share * drift * ACCELERATION) * forces)
            energies.append(float((prediction.energy + kinetic_energy(kicked if k else state)).sum()))
            state = kicked
        if not abs(energies[-1] - energies[0]) <= self.looked_at and not self._right(before, state):
            return None
        return replace(state, time=state.time + self.stride_fs, prediction=None)

    def _right(self, before: State, after: State) -> bool:
        """Whether the energy change of a stride is within its limit."""
        change = [float((self.evaluate(s.system).energy + kinetic_energy(s)).sum()) for s in (before, after)]
        return abs(change[1] - change[0]) <= self.largest_change

    def _in_small_steps(self, state: State, generator: Generator) -> State:
        def evaluate(system: System) -> Prediction:
            return _balanced(self.evaluate(system))

        state = replace(state, prediction=None)
        return small_steps(state, evaluate, generator, time=self.stride_fs, longest=self.small_step)


def _cpu_engine(evaluate: Evaluate) -> Engine | None:
    return evaluate.engine if isinstance(evaluate, EngineEvaluator) and isinstance(evaluate.engine, Engine) else None


def _balanced(prediction: Prediction) -> Prediction:
    """Forces minus their mean: rounding in single precision would otherwise let the centre of mass drift."""
    return replace(prediction, forces=prediction.forces - prediction.forces.mean(0))


def splitting_strides(
    net: SplittingMap, system: System, evaluate: Evaluate, *, time: float, skin: float, small_step: float,
    guard: Guard | None = None,
) -> SplittingStrides:  # fmt: skip
    """A map as a propagator; arguments as `simulation.stride_maps.long_strides`. Kicks run on compiled kernels where possible,
    and share one neighbour list where their cutoffs are equal."""
    potentials = net.potentials()
    double = potentials[0].mixing.dtype == torch.float64
    fast = [compiled(Conservative(potential), double=double) for potential in potentials]
    stages = [make_evaluator(one, system, skin=skin, guard=None if k else guard) for k, one in enumerate(fast)]
    engines = [engine for one in (evaluate, *stages) if (engine := _cpu_engine(one)) is not None]
    for k, engine in enumerate(engines):
        any(engine.share_list(other) for other in engines[:k])
    return SplittingStrides(
        stages=stages, evaluate=evaluate, stride_fs=time, kicks=net.settings.kicks,
        largest_force=net.largest_force.to(torch.float64).index_select(1, net.species(system.numbers)), small_step=small_step,
        looked_at=float(net.looked_at) * system.n_atoms**0.5, largest_change=float(net.largest_change) * system.n_atoms**0.5,
    )  # fmt: skip
