"""Dynamics in compiled code: the same propagators, many steps per call, for potentials with an engine.

Momenta, noise and order of operations are those of the plain propagators: the same seed gives the same trajectory up to
rounding. A state depends on the one before, not on the lengths of leaps.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Generator

from mdistill.graph import checked_box
from mdistill.kernels.motion import Ensemble, Motion, Point
from mdistill.simulation.evaluator import EngineEvaluator
from mdistill.simulation.guard import Guard
from mdistill.simulation.propagators import BetweenSteps, Compilable, Evaluate, Mover
from mdistill.simulation.running_sums import no_steps
from mdistill.types import LeapingPropagator, Propagator, RunningSums, State, System

_LONGEST_LEAP_S = 0.25


@dataclass(slots=True)
class CompiledDynamics:
    """Steps of a `Compilable` propagator in compiled code.

    Attributes:
        plain: The plain propagator.
        evaluate: Energy and forces.
        mover: The engine or strides that take the steps.
        guard: Guard whose limits end a leap; None: no limits. Strides check all limits where a leap ends, and distances and
            temperature on the way.
    """

    plain: Compilable
    evaluate: EngineEvaluator
    mover: Mover
    guard: Guard | None = None
    _seconds_per_step: float = field(default=0.0, init=False)
    _box: tuple[torch.Tensor, np.ndarray] | None = field(default=None, init=False)
    _kinds: tuple[torch.Tensor, np.ndarray] | None = field(default=None, init=False)

    @property
    def stride_fs(self) -> float:
        return self.plain.stride_fs

    def step(self, state: State, generator: Generator) -> State:
        return self.leap(state, generator, round(state.time / self.stride_fs), 1)[0]

    def leap(self, state: State, generator: Generator, step: int, steps: int, **correction: float) -> tuple[State, int, bool]:
        """The state after at most this many steps; `correction`: energy correction of strides, as fields of `Motion`."""
        asked = steps
        if self._seconds_per_step:
            steps = max(1, min(steps, int(_LONGEST_LEAP_S / self._seconds_per_step)))
        motion = replace(self._motion(state, generator, step, steps), whole=steps == asked, **correction)  # type: ignore[arg-type]
        point = self._point(state)
        began = time.monotonic()
        taken, stopped = self.mover.loop.run(motion, point)
        self._seconds_per_step = (time.monotonic() - began) / taken
        return self._state(state, point, motion, taken), taken, stopped

    def _evaluated(self, motion: Motion, taken: int) -> int:
        """Number of steps with energy and pressure: for strides only the requested last step, independent of leaps."""
        counts = self.mover.counts
        if counts is None:
            return taken
        counts.strides += taken
        counts.fallbacks += self.mover.loop.new_fallbacks()  # type: ignore[union-attr]
        return int(motion.whole and taken == motion.steps)

    def _box_of(self, system: System) -> np.ndarray:
        """The checked cell; a new check only for a new tensor."""
        if self._box is None or self._box[0] is not system.cell:
            self._box = (system.cell, checked_box(system, self.evaluate.potential.cutoff))
        return self._box[1]

    def _motion(self, state: State, generator: Generator, step: int, steps: int) -> Motion:
        limits = {} if self.guard is None else self.guard.limits(state)
        told = self.plain.motion(state, generator, steps)
        return Motion(steps=steps, first_step=step, time_step=self.stride_fs, **limits, **told)

    def _state(self, before: State, point: Point, motion: Motion, taken: int) -> State:
        now = before.time
        for _ in range(taken):
            now += self.stride_fs
        system = replace(before.system, positions=torch.from_numpy(point.positions))
        baoab = motion.ensemble == Ensemble.LANGEVIN and self.mover.counts is None
        return replace(
            before, system=system, momenta=torch.from_numpy(point.momenta),
            middle_momenta=torch.from_numpy(point.middle) if baoab else None, time=now,
            running_sums=self._running_sums(before, point.sums, taken, self._evaluated(motion, taken)),
            heat=None if before.heat is None else torch.tensor([point.sums[2]], dtype=torch.float64),
            prediction=self.evaluate.potential.answer(system, point.energy, point.forces, point.virial),
        )  # fmt: skip

    def _point(self, state: State) -> Point:
        """Copies of a state's arrays."""
        answer, so_far = state.prediction, state.running_sums or no_steps(state.system)
        positions = state.system.positions.numpy().copy()
        sums = np.zeros(3 + len(self.evaluate.potential.elements))
        sums[:3] = so_far.potential, so_far.pressure, 0.0 if state.heat is None else float(state.heat[0])
        sums[3 + self._kinds_of(state.system)] = so_far.kinetic.numpy()
        return Point(
            positions=positions, momenta=state.momenta.numpy().copy(), cell=self._box_of(state.system),
            pbc=state.system.pbc[0].numpy(), masses=np.ascontiguousarray(state.masses.numpy()), middle=np.empty_like(positions),
            forces=np.zeros_like(positions) if answer is None else answer.forces.numpy().copy(),
            energy=np.nan if answer is None else float(answer.energy[0]), virial=np.zeros((3, 3)), known=answer is not None,
            sums=sums,
        )  # fmt: skip

    def _running_sums(self, before: State, sums: np.ndarray, taken: int, evaluated: int) -> RunningSums:
        earlier, kinetic = (
            before.running_sums or no_steps(before.system),
            torch.from_numpy(sums[3 + self._kinds_of(before.system)]),
        )
        steps, evaluated = earlier.steps + taken, earlier.evaluated + evaluated
        return RunningSums(steps=steps, evaluated=evaluated, potential=float(sums[0]), pressure=float(sums[1]), kinetic=kinetic)

    def _kinds_of(self, system: System) -> np.ndarray:
        """The potential's elements that are in the structure; sought only for a new tensor."""
        if self._kinds is None or self._kinds[0] is not system.numbers:
            found = np.searchsorted(sorted(self.evaluate.potential.elements), np.unique(system.numbers.numpy()))
            self._kinds = (system.numbers, found)
        return self._kinds[1]


def compile_propagator(plain: Propagator, evaluate: Evaluate, guard: Guard | None = None) -> Propagator:
    """The propagator with compiled steps, or the plain one where there are none."""
    if not isinstance(evaluate, EngineEvaluator):
        return plain
    if isinstance(plain, BetweenSteps):
        inner = compile_propagator(plain.inner, evaluate, guard)
        return plain.leaping(inner) if isinstance(inner, LeapingPropagator) else plain
    mover = plain.mover(evaluate) if isinstance(plain, Compilable) else None
    return plain if mover is None else CompiledDynamics(plain, evaluate, mover, guard)  # type: ignore[arg-type]
