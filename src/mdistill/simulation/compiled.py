"""Dynamics in compiled code: the same propagators, many steps per call, for potentials that bring an engine.

Momenta, noise and order of operations are those of the plain propagators: the same seed gives the same trajectory but for
rounding. A state depends on the one before alone, not on how a run was cut into leaps.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Generator

from mdistill.graph import checked_box
from mdistill.kernels.spline import Engine, Motion, Point, threads_for
from mdistill.simulation.barostat import StochasticCellRescaling
from mdistill.simulation.bussi import Bussi, rescaling_noise
from mdistill.simulation.evaluate import Evaluator
from mdistill.simulation.guard import Guard
from mdistill.simulation.langevin import Baoab
from mdistill.simulation.noise import keys
from mdistill.simulation.start import degrees_of_freedom
from mdistill.simulation.tally import no_steps
from mdistill.simulation.verlet import VelocityVerlet
from mdistill.types import Potential, Prediction, Propagator, State, System, Tally
from mdistill.units import PS

_LONGEST_LEAP_S = 0.25


@runtime_checkable
class CompiledPotential(Potential, Protocol):
    """A potential with compiled dynamics of one structure."""

    def engine(self, system: System, *, threads: int, skin: float) -> Engine: ...
    def answer(self, system: System, energy: float, forces: np.ndarray, virial: np.ndarray) -> Prediction: ...


@dataclass(frozen=True, slots=True)
class EngineEvaluator:
    """evaluate(system) -> Prediction by an engine that keeps its neighbour list; as `Evaluator` otherwise."""

    potential: CompiledPotential
    engine: Engine

    def __call__(self, system: System) -> Prediction:
        positions, cell = system.positions.numpy(), system.cell[0].numpy()
        if not (np.isfinite(positions).all() and np.isfinite(cell).all()):
            nothing = torch.full_like(system.cell, torch.nan)
            return Prediction(energy=nothing[:, 0, 0], forces=torch.full_like(system.positions, torch.nan), stress=nothing)
        box = checked_box(system, self.potential.cutoff)
        return self.potential.answer(system, *self.engine.evaluate(positions, box, system.pbc[0].numpy()))


@dataclass(slots=True)
class CompiledDynamics:
    """Velocity Verlet, BAOAB or Bussi in compiled code.

    Attributes:
        plain: The propagator to be like.
        evaluate: Energy and forces; its engine takes the steps.
        guard: Whose limits end a leap; None to go on regardless.
    """

    plain: VelocityVerlet | Baoab | Bussi
    evaluate: EngineEvaluator
    guard: Guard | None = None
    _seconds_per_step: float = field(default=0.0, init=False)
    _box: tuple[torch.Tensor, np.ndarray] | None = field(default=None, init=False)

    @property
    def stride(self) -> float:
        return self.plain.stride

    def step(self, state: State, generator: Generator) -> State:
        return self.leap(state, generator, round(state.time / self.stride), 1)[0]

    def leap(self, state: State, generator: Generator, step: int, steps: int) -> tuple[State, int]:
        if self._seconds_per_step:
            steps = max(1, min(steps, int(_LONGEST_LEAP_S / self._seconds_per_step)))
        point, motion = self._point(state), self._motion(state, generator, step, steps)
        began = time.monotonic()
        taken = self.evaluate.engine.run(motion, point)
        self._seconds_per_step = (time.monotonic() - began) / taken
        return self._state(state, point, taken), taken

    def _box_of(self, system: System) -> np.ndarray:
        """The checked cell; checked again only where it is another tensor than last time."""
        if self._box is None or self._box[0] is not system.cell:
            self._box = (system.cell, checked_box(system, self.evaluate.potential.cutoff))
        return self._box[1]

    def _motion(self, state: State, generator: Generator, step: int, steps: int) -> Motion:
        plain = self.plain
        motion = Motion(ensemble="verlet", steps=steps, first_step=step, time_step=plain.stride)
        if self.guard is not None:
            motion = replace(motion, **self.guard.limits(state))
        if isinstance(plain, VelocityVerlet):
            return motion
        motion, drawn = replace(motion, temperature_K=plain.temperature_K), keys(generator, steps)
        if isinstance(plain, Baoab):
            keep = math.exp(-plain.friction_per_ps * plain.time_step / PS)
            return replace(motion, ensemble="baoab", keep=keep, keys=drawn)
        freedom = degrees_of_freedom(state).numpy()
        normal, others = rescaling_noise(drawn, np.zeros(steps), freedom)
        keep = math.exp(-plain.stride / plain.relaxation_fs)
        return replace(motion, ensemble="bussi", keep=keep, normal=normal, others=others)

    def _state(self, before: State, point: Point, taken: int) -> State:
        now = before.time
        for _ in range(taken):
            now += self.plain.stride
        system = replace(before.system, positions=torch.from_numpy(point.positions))
        return replace(
            before,
            system=system,
            momenta=torch.from_numpy(point.momenta),
            middle_momenta=torch.from_numpy(point.middle) if isinstance(self.plain, Baoab) else None,
            time=now,
            tally=self._tally(before, point.sums, taken),
            prediction=self.evaluate.potential.answer(system, point.energy, point.forces, point.virial),
        )

    def _point(self, state: State) -> Point:
        """Copies of a state's arrays."""
        answer, tally = state.prediction, state.tally or no_steps(state.system)
        positions = state.system.positions.numpy().copy()
        sums = np.zeros(2 + len(self.evaluate.potential.elements))
        sums[:2] = tally.potential, tally.pressure
        sums[2 + self._kinds(state)] = tally.kinetic.numpy()
        return Point(
            positions=positions,
            momenta=state.momenta.numpy().copy(),
            cell=self._box_of(state.system),
            pbc=state.system.pbc[0].numpy(),
            masses=np.ascontiguousarray(state.masses.numpy()),
            middle=np.empty_like(positions),
            forces=np.zeros_like(positions) if answer is None else answer.forces.numpy().copy(),
            energy=np.nan if answer is None else float(answer.energy[0]),
            virial=np.zeros((3, 3)),
            known=answer is not None,
            sums=sums,
        )

    def _tally(self, before: State, sums: np.ndarray, taken: int) -> Tally:
        steps = taken + (before.tally.steps if before.tally else 0)
        kinetic = torch.from_numpy(sums[2 + self._kinds(before)])
        return Tally(steps=steps, potential=float(sums[0]), pressure=float(sums[1]), kinetic=kinetic)

    def _kinds(self, state: State) -> np.ndarray:
        """Which of the potential's elements are in the structure."""
        return np.searchsorted(sorted(self.evaluate.potential.elements), np.unique(state.system.numbers.numpy()))


@dataclass(frozen=True, slots=True)
class LeapingBarostat:
    """Constant pressure with compiled dynamics between two strains."""

    plain: StochasticCellRescaling
    inner: CompiledDynamics

    @property
    def stride(self) -> float:
        return self.inner.stride

    def step(self, state: State, generator: Generator) -> State:
        return self.leap(state, generator, round(state.time / self.stride), 1)[0]

    def leap(self, state: State, generator: Generator, step: int, steps: int) -> tuple[State, int]:
        self.plain.check(state)
        every = self.plain.every
        wanted = min(steps, every - round(state.time / self.stride) % every)
        state, taken = self.inner.leap(state, generator, step, wanted)
        if round(state.time / self.stride) % every == 0:
            state = self.plain.strained(state, generator)
        return state, taken


def make_evaluator(
    potential: Potential, system: System, *, skin: float = 1.2, guard: Guard | None = None
) -> Evaluator | EngineEvaluator:
    """What evaluates the atoms of a system along a trajectory: an engine, watching the guard's closest distances, where the
    potential brings one and the system is one struct; else an `Evaluator`."""
    if not isinstance(potential, CompiledPotential) or system.n_structs != 1:
        return Evaluator(potential, skin)
    engine = potential.engine(system, threads=threads_for(system.n_atoms, torch.get_num_threads()), skin=skin)
    if guard is not None:
        engine.set_limits(guard.closest_allowed(sorted(potential.elements)))
    return EngineEvaluator(potential, engine)


def compile_propagator(plain: Propagator, evaluate: Evaluator | EngineEvaluator, guard: Guard | None = None) -> Propagator:
    """A propagator like the plain one with compiled steps; the plain one where there is none like it."""
    if not isinstance(evaluate, EngineEvaluator):
        return plain
    if isinstance(plain, StochasticCellRescaling):
        inner = compile_propagator(plain.inner, evaluate, guard)
        return LeapingBarostat(plain, inner) if isinstance(inner, CompiledDynamics) else plain
    if isinstance(plain, VelocityVerlet | Baoab) or (isinstance(plain, Bussi) and isinstance(plain.inner, VelocityVerlet)):
        return CompiledDynamics(plain, evaluate, guard)
    return plain
