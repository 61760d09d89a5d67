"""Protocols of propagators beyond a step, for thermostats, corrections and compiled code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, Self, runtime_checkable

from torch import Generator

from mdistill.kernels.motion import StructureEngine
from mdistill.kernels.splitting_map import Strides
from mdistill.simulation.evaluator import EngineEvaluator
from mdistill.types import LeapingPropagator, Prediction, Propagator, State, System

Evaluate = Callable[[System], Prediction]
"""evaluate(system) -> Prediction: an `Evaluator`, or any function like it."""


@dataclass(slots=True)
class StrideCounts:
    """Numbers of long strides: all; with a clipped rescale; replaced by time steps, because uncertain, with too large an energy
    change, or not finite."""

    strides: int = 0
    fallbacks: int = 0
    clips: int = 0
    doubtful: int = 0
    energetic: int = 0
    broken: int = 0


@runtime_checkable
class NveStep(Propagator, Protocol):
    """A step that conserves energy."""

    @property
    def splits(self) -> bool:
        """Whether it kicks and drifts by the forces of `evaluate`, so that a thermostat can act in its middle (BAOAB)."""
        ...

    @property
    def keeps_energy(self) -> bool:
        """Whether it conserves energy over any number of steps; otherwise it needs `CorrectEnergy`."""
        ...

    @property
    def evaluate(self) -> Evaluate: ...


class LongStrides(NveStep, Protocol):
    """A long-stride map as a step."""

    @property
    def counts(self) -> StrideCounts: ...
    def uncorrected(self) -> NveStep:
        """The map without energy rescaling."""
        ...


@runtime_checkable
class BetweenSteps(Propagator, Protocol):
    """A wrapper that acts between steps (energy correction, barostat); thermostats and sums go inside."""

    @property
    def inner(self) -> Propagator: ...
    def around(self, inner: Propagator) -> Self:
        """The same around another propagator."""
        ...

    def leaping(self, inner: LeapingPropagator) -> Propagator:
        """The same around compiled steps; itself where that is impossible."""
        ...


@runtime_checkable
class Thermostat(Propagator, Protocol):
    """A step with a thermostat around it."""

    @property
    def share_replaced(self) -> float:
        """Share of the kinetic energy that the thermostat replaces in a step."""
        ...


@dataclass(frozen=True, slots=True)
class Mover:
    """Taker of compiled steps: an engine, or strides, which are counted."""

    loop: StructureEngine | Strides
    counts: StrideCounts | None = None


@runtime_checkable
class Compilable(Propagator, Protocol):
    """A propagator whose steps compiled code can take."""

    def mover(self, evaluate: EngineEvaluator) -> Mover | None:
        """The engine or strides; None without compiled code."""
        ...

    def motion(self, state: State, generator: Generator, steps: int) -> dict[str, Any]:
        """Fields of `kernels.motion.Motion` for the ensemble, with noise for this number of steps."""
        ...


@runtime_checkable
class CompiledSteps(LeapingPropagator, Protocol):
    """Compiled steps; those of strides take a correction of the total energy in."""

    @property
    def mover(self) -> Mover: ...
    def leap(self, state: State, generator: Generator, step: int, steps: int, **correction: float) -> tuple[State, int, bool]: ...


def nve_mover(step: Propagator, evaluate: EngineEvaluator) -> Mover | None:
    """The engine or strides of an NVE step; None for other propagators."""
    return step.mover(evaluate) if isinstance(step, NveStep) and isinstance(step, Compilable) else None


def inside(step: Propagator, wrap: Callable[[Propagator], Propagator]) -> Propagator:
    """`wrap` around a step, inside all wrappers that act between steps."""
    return step.around(inside(step.inner, wrap)) if isinstance(step, BetweenSteps) else wrap(step)


def innermost(step: Propagator) -> Propagator:
    """The step inside all wrappers that act between steps."""
    return innermost(step.inner) if isinstance(step, BetweenSteps) else step
