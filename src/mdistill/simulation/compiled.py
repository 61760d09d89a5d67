"""Dynamics in compiled code: the same propagators, many steps per call, for potentials that bring an engine.

Momenta, noise and order of operations are those of the plain propagators: the same seed gives the same trajectory but for
rounding. A state depends on the one before alone, not on how a run was cut into leaps.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Generator

from mdistill.graph import checked_box
from mdistill.kernels.moment import Engine
from mdistill.kernels.motion import Ensemble, Motion, Point
from mdistill.kernels.splitting_map import Strides
from mdistill.simulation.barostat import StochasticCellRescaling
from mdistill.simulation.bussi import Bussi, rescaling_noise
from mdistill.simulation.energy_correction import CorrectEnergy, unheated
from mdistill.simulation.evaluator import EngineEvaluator
from mdistill.simulation.guard import Guard
from mdistill.simulation.kinetics import degrees_of_freedom
from mdistill.simulation.langevin import Baoab, Obabo
from mdistill.simulation.noise import keys
from mdistill.simulation.running_sums import no_steps
from mdistill.simulation.splitting_map import SplittingStrides
from mdistill.simulation.verlet import Evaluate, VelocityVerlet, evaluated
from mdistill.types import Propagator, RunningSums, State, System
from mdistill.units import PS

Plain = VelocityVerlet | SplittingStrides | Baoab | Obabo | Bussi
_LONGEST_LEAP_S = 0.25


@dataclass(slots=True)
class CompiledDynamics:
    """Velocity Verlet or a long stride, with BAOAB, half-steps of Langevin around it (OBABO) or Bussi, in compiled code.

    Attributes:
        plain: The propagator to be like.
        evaluate: Energy and forces.
        mover: What takes the steps: the engine of `evaluate`, or strides.
        guard: Whose limits end a leap; None to go on regardless. Strides look at all of them where a leap ends, at distances
            and temperature on the way.
    """

    plain: Plain
    evaluate: EngineEvaluator
    mover: Engine | Strides
    guard: Guard | None = None
    _seconds_per_step: float = field(default=0.0, init=False)
    _box: tuple[torch.Tensor, np.ndarray] | None = field(default=None, init=False)

    @property
    def stride_fs(self) -> float:
        return self.plain.stride_fs

    def step(self, state: State, generator: Generator) -> State:
        return self.leap(state, generator, round(state.time / self.stride_fs), 1)[0]

    def leap(self, state: State, generator: Generator, step: int, steps: int, **kept: float) -> tuple[State, int, bool]:
        """The state after at most so many steps; `kept`: what a `Motion` needs to know of the energy that strides keep."""
        wanted = steps
        if self._seconds_per_step:
            steps = max(1, min(steps, int(_LONGEST_LEAP_S / self._seconds_per_step)))
        motion = replace(self._motion(state, generator, step, steps), whole=steps == wanted, **kept)  # type: ignore[arg-type]
        point = self._point(state)
        began = time.monotonic()
        taken, stopped = self.mover.run(motion, point)
        self._seconds_per_step = (time.monotonic() - began) / taken
        return self._state(state, point, taken, evaluated=self._evaluated(motion, taken)), taken, stopped

    def _evaluated(self, motion: Motion, taken: int) -> int:
        """Of how many steps energy and pressure were added up: of strides at the end asked for alone, wherever a leap was cut."""
        nve = self.plain.inner if isinstance(self.plain, Obabo | Bussi) else self.plain
        if not isinstance(self.mover, Strides) or not isinstance(nve, SplittingStrides):
            return taken
        nve.counts.strides += taken
        nve.counts.fallbacks += self.mover.new_fallbacks()
        return int(motion.whole and taken == motion.steps)

    def _box_of(self, system: System) -> np.ndarray:
        """The checked cell; checked again only where it is another tensor than last time."""
        if self._box is None or self._box[0] is not system.cell:
            self._box = (system.cell, checked_box(system, self.evaluate.potential.cutoff))
        return self._box[1]

    def _motion(self, state: State, generator: Generator, step: int, steps: int) -> Motion:
        plain = self.plain
        motion = Motion(ensemble=Ensemble.NVE, steps=steps, first_step=step, time_step=plain.stride_fs)
        if self.guard is not None:
            motion = replace(motion, **self.guard.limits(state))
        if isinstance(plain, VelocityVerlet | SplittingStrides):
            return motion
        motion = replace(motion, temperature_K=plain.temperature_K)
        if isinstance(plain, Baoab):
            keep = math.exp(-plain.friction_per_ps * plain.time_step / PS)
            return replace(motion, ensemble=Ensemble.LANGEVIN, keep=keep, keys=keys(generator, steps))
        if isinstance(plain, Obabo):
            keep = math.exp(-0.5 * plain.friction_per_ps * plain.stride_fs / PS)
            return replace(motion, ensemble=Ensemble.LANGEVIN, keep=keep, keys=keys(generator, 2 * steps))
        normal, chi_square = rescaling_noise(keys(generator, steps), np.zeros(steps), degrees_of_freedom(state).numpy())
        keep = math.exp(-plain.stride_fs / plain.relaxation_fs)
        return replace(motion, ensemble=Ensemble.BUSSI, keep=keep, normal=normal, chi_square=chi_square)

    def _state(self, before: State, point: Point, taken: int, *, evaluated: int) -> State:
        now = before.time
        for _ in range(taken):
            now += self.plain.stride_fs
        system = replace(before.system, positions=torch.from_numpy(point.positions))
        return replace(
            before,
            system=system,
            momenta=torch.from_numpy(point.momenta),
            middle_momenta=torch.from_numpy(point.middle) if isinstance(self.plain, Baoab) else None,
            time=now,
            running_sums=self._tally(before, point.sums, taken, evaluated),
            heat=None if before.heat is None else torch.tensor([point.sums[2]], dtype=torch.float64),
            prediction=self.evaluate.potential.answer(system, point.energy, point.forces, point.virial),
        )

    def _point(self, state: State) -> Point:
        """Copies of a state's arrays."""
        answer, tally = state.prediction, state.running_sums or no_steps(state.system)
        positions = state.system.positions.numpy().copy()
        sums = np.zeros(3 + len(self.evaluate.potential.elements))
        sums[:3] = tally.potential, tally.pressure, 0.0 if state.heat is None else float(state.heat[0])
        sums[3 + self._kinds(state)] = tally.kinetic.numpy()
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

    def _tally(self, before: State, sums: np.ndarray, taken: int, evaluated: int) -> RunningSums:
        earlier, kinetic = before.running_sums or no_steps(before.system), torch.from_numpy(sums[3 + self._kinds(before)])
        steps, evaluated = earlier.steps + taken, earlier.evaluated + evaluated
        return RunningSums(steps=steps, evaluated=evaluated, potential=float(sums[0]), pressure=float(sums[1]), kinetic=kinetic)

    def _kinds(self, state: State) -> np.ndarray:
        """Which of the potential's elements are in the structure."""
        return np.searchsorted(sorted(self.evaluate.potential.elements), np.unique(state.system.numbers.numpy()))


@dataclass(frozen=True, slots=True)
class LeapingCorrectEnergy:
    """Strides whose energy is put right inside; however they are cut, what it is to be is found once a leap."""

    plain: CorrectEnergy
    inner: CompiledDynamics

    @property
    def stride_fs(self) -> float:
        return self.inner.stride_fs

    def step(self, state: State, generator: Generator) -> State:
        return self.leap(state, generator, round(state.time / self.stride_fs), 1)[0]

    def leap(self, state: State, generator: Generator, step: int, steps: int) -> tuple[State, int, bool]:
        state, plain, taken, suspect = unheated(evaluated(state, self.plain.evaluate)), self.plain, 0, False
        target = plain.target(state)
        kept = {"correct_every": plain.every, "total_energy": float(target[0]), "largest_correction": plain.clip}
        while taken < steps and not suspect:
            number = round(state.time / self.stride_fs)
            state, more, suspect = self.inner.leap(state, generator, step + taken, steps - taken, correct_from=number, **kept)
            taken += more
        return plain.owing(state, target), taken, suspect


@dataclass(frozen=True, slots=True)
class LeapingBarostat:
    """Constant pressure with compiled dynamics between two strains."""

    plain: StochasticCellRescaling
    inner: CompiledDynamics | LeapingCorrectEnergy

    @property
    def stride_fs(self) -> float:
        return self.inner.stride_fs

    def step(self, state: State, generator: Generator) -> State:
        return self.leap(state, generator, round(state.time / self.stride_fs), 1)[0]

    def leap(self, state: State, generator: Generator, step: int, steps: int) -> tuple[State, int, bool]:
        self.plain.check(state)
        every = self.plain.every
        wanted = min(steps, every - round(state.time / self.stride_fs) % every)
        state, taken, suspect = self.inner.leap(state, generator, step, wanted)
        strained = round(state.time / self.stride_fs) % every == 0
        return (self.plain.strained(state, generator) if strained else state), taken, suspect or strained


def compile_propagator(plain: Propagator, evaluate: Evaluate, guard: Guard | None = None) -> Propagator:
    """A propagator like the plain one with compiled steps; the plain one where there is none like it."""
    if not isinstance(evaluate, EngineEvaluator):
        return plain
    if isinstance(plain, StochasticCellRescaling):
        inner = compile_propagator(plain.inner, evaluate, guard)
        return LeapingBarostat(plain, inner) if isinstance(inner, CompiledDynamics | LeapingCorrectEnergy) else plain
    if isinstance(plain, CorrectEnergy):
        inner = compile_propagator(plain.inner, evaluate, guard)
        kept = isinstance(inner, CompiledDynamics) and isinstance(inner.mover, Strides)
        return LeapingCorrectEnergy(plain, inner) if kept else plain  # type: ignore[arg-type]
    if isinstance(plain, VelocityVerlet | Baoab) or (isinstance(plain, Bussi) and isinstance(plain.inner, VelocityVerlet)):
        return CompiledDynamics(plain, evaluate, evaluate.engine, guard)
    if isinstance(plain, SplittingStrides | Obabo | Bussi):
        strides = _strides(plain if isinstance(plain, SplittingStrides) else plain.inner, evaluate)
        return plain if strides is None else CompiledDynamics(plain, evaluate, strides, guard)
    return plain


def _strides(plain: Propagator, evaluate: EngineEvaluator) -> Strides | None:
    """Compiled strides of a map all of whose potentials have engines."""
    if not isinstance(plain, SplittingStrides):
        return None
    stages = [stage.engine for stage in plain.stages if isinstance(stage, EngineEvaluator)]
    if len(stages) < len(plain.stages) or plain.evaluate is not evaluate:
        return None
    return Strides(
        stages,
        evaluate.engine,
        kicks=plain.kicks,
        largest_force=plain.largest_force.numpy(),
        looked_at=plain.looked_at,
        largest_change=plain.largest_change,
        small_steps=plain.small_steps,
    )
