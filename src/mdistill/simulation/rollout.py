"""The only molecular-dynamics loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Generator

from mdistill.errors import BadInput, BlowUp
from mdistill.interrupt import NEVER, StopRequest
from mdistill.types import LeapingPropagator, Propagator, State, Trajectory


class Observer(Protocol):
    """Called with the step number and the state after each step whose number is a multiple of `every`."""

    @property
    def every(self) -> int: ...
    def __call__(self, step: int, state: State) -> None: ...


@dataclass(frozen=True, slots=True)
class Calling:
    """An observer that calls a function."""

    function: Callable[[int, State], None]
    every: int = 1

    def __call__(self, step: int, state: State) -> None:
        self.function(step, state)


@dataclass(frozen=True, slots=True)
class Collect:
    """An observer that collects states in memory; `trajectory()` is the trajectory of a single struct."""

    every: int = 1
    states: list[State] = field(default_factory=list)

    def __call__(self, step: int, state: State) -> None:
        self.states.append(state)

    def trajectory(self) -> Trajectory:
        systems = [state.system for state in self.states]
        return Trajectory(
            numbers=systems[0].numbers,
            positions=torch.stack([system.positions for system in systems]),
            cell=torch.stack([system.cell[0] for system in systems]),
            times=torch.tensor([state.time for state in self.states], dtype=torch.float64),
            momenta=torch.stack([state.momenta for state in self.states]),
        )


def rollout(
    state: State, propagator: Propagator, *, steps: int, generator: Generator, observers: Sequence[Observer] = (),
    guard: Callable[[int, State], None] | None = None, stop: StopRequest = NEVER, first_step: int = 0, leap: int = 1,
) -> State:  # fmt: skip
    """Take steps first_step + 1 … first_step + steps; observers see the states after steps, not the initial one.

    Args:
        state: Initial state.
        propagator: The propagator.
        steps: Number of steps.
        generator: Source of randomness; a restart needs it, `state` and the step number.
        observers: Called in order after the guard.
        guard: Called after every step (after a leap that requests a check) and before the observers, which see no rejected
            state.
        stop: Checked after every step or leap; on request the loop returns the last state.
        first_step: Number of the step that led to `state`.
        leap: A `LeapingPropagator` may go to the next multiple of this in one call; observers see only the ends of leaps.
    Returns:
        The last state.
    Raises:
        BadInput: steps is negative.
        BlowUp: From the guard, or because a step after the first leads to a structure that is rejected as bad input.
    """
    if steps < 0:
        raise BadInput("steps", str(steps), allowed="0 or more", fix="give a number of steps that is not negative")
    step, last, leaping = first_step, first_step + steps, isinstance(propagator, LeapingPropagator)
    while step < last:
        most = min(last - step, leap - step % leap) if leaping else 1
        try:
            if leaping:
                state, taken, suspect = propagator.leap(state, generator, step, most)  # type: ignore[attr-defined]
            else:
                state, taken, suspect = propagator.step(state, generator), 1, True
        except BadInput as error:
            if step == first_step:
                raise
            raise BlowUp(step + 1, f"the structure can no longer be evaluated: {error.subject}: {error.problem}") from error
        step += taken
        if guard is not None and suspect:
            guard(step, state)
        for observer in observers:
            if step % observer.every == 0:
                observer(step, state)
        if stop.pending():
            break
    return state
