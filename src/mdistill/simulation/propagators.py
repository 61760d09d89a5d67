"""What propagators can do beyond a step: protocols that thermostats, corrections and compiled code ask for, never for a class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, Self, runtime_checkable

from torch import Generator

from mdistill.kernels.moment import Engine
from mdistill.kernels.splitting_map import Strides
from mdistill.simulation.evaluator import EngineEvaluator
from mdistill.types import LeapingPropagator, Prediction, Propagator, State, System

Evaluate = Callable[[System], Prediction]
"""evaluate(system) -> Prediction: an `Evaluator`, or any function like it."""


@dataclass(slots=True)
class StrideCounts:
    """Long strides taken; those with a clipped rescale; those repeated in small steps, and why: too uncertain, too large a change
    of energy, not finite."""

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
        """Whether its energy stays right over any number of steps; where not, `CorrectEnergy` belongs around it."""
        ...

    @property
    def evaluate(self) -> Evaluate: ...


class LongStrides(NveStep, Protocol):
    """A long-stride map as a step."""

    @property
    def counts(self) -> StrideCounts: ...
    def uncorrected(self) -> NveStep:
        """The map alone: energies are not rescaled."""
        ...


@runtime_checkable
class BetweenSteps(Propagator, Protocol):
    """What acts between the steps of another propagator (energy correction, barostat): thermostats and sums go inside."""

    @property
    def inner(self) -> Propagator: ...
    def around(self, inner: Propagator) -> Self:
        """The same around another propagator."""
        ...

    def leaping(self, inner: LeapingPropagator) -> Propagator:
        """The same around compiled steps; itself where it cannot be around these."""
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
    """What takes compiled steps: an engine, or strides, which are counted."""

    loop: Engine | Strides
    counts: StrideCounts | None = None


@runtime_checkable
class Compilable(Propagator, Protocol):
    """A propagator whose steps compiled code can take."""

    def mover(self, evaluate: EngineEvaluator) -> Mover | None:
        """What takes the steps; None where nothing compiled does."""
        ...

    def motion(self, state: State, generator: Generator, steps: int) -> dict[str, Any]:
        """What a `kernels.motion.Motion` has to know of the ensemble, noise of so many steps included."""
        ...


@runtime_checkable
class CompiledSteps(LeapingPropagator, Protocol):
    """Compiled steps; those of strides take a correction of the total energy in."""

    @property
    def mover(self) -> Mover: ...
    def leap(self, state: State, generator: Generator, step: int, steps: int, **correction: float) -> tuple[State, int, bool]: ...


def nve_mover(step: Propagator, evaluate: EngineEvaluator) -> Mover | None:
    """What takes the compiled steps of an NVE step; None of any other."""
    return step.mover(evaluate) if isinstance(step, NveStep) and isinstance(step, Compilable) else None


def inside(step: Propagator, wrap: Callable[[Propagator], Propagator]) -> Propagator:
    """`wrap` around a step, within all that acts between steps."""
    return step.around(inside(step.inner, wrap)) if isinstance(step, BetweenSteps) else wrap(step)


def innermost(step: Propagator) -> Propagator:
    """The step within all that acts between steps."""
    return innermost(step.inner) if isinstance(step, BetweenSteps) else step
