"""Equilibrate, then sample: dynamics of a structure from a potential and a step.

`dynamics` combines a propagator, compiled where possible, with its guard. `sampled` runs it and yields states: after
equilibration, then at every frame. It continues from any step, so a caller that saves these states can resume.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Generator, Tensor

from mdistill.interrupt import NEVER, StopRequest
from mdistill.simulation.compiled import compile_propagator
from mdistill.simulation.guard import Guard
from mdistill.simulation.initial_state import initial_state
from mdistill.simulation.langevin import Baoab
from mdistill.simulation.propagators import Evaluate
from mdistill.simulation.rollout import Calling, Collect, Observer, rollout
from mdistill.simulation.running_sums import with_running_sums
from mdistill.simulation.verlet import evaluated
from mdistill.types import Propagator, State, System


@dataclass(frozen=True, slots=True, kw_only=True)
class Dynamics:
    """A propagator and its guard.

    Attributes:
        propagator: The propagator.
        watch: Raises where a state is unphysical; None: no check.
    """

    propagator: Propagator
    watch: Callable[[int, State], None] | None = None


class Sample(NamedTuple):
    """A state after `step` steps; frame number `frame` from 1, or 0."""

    step: int
    frame: int
    state: State


def dynamics(plain: Propagator, evaluate: Evaluate, guard: Guard | None = None, *, sums: bool = False) -> Dynamics:
    """A propagator with its guard.

    Args:
        plain: The propagator.
        evaluate: Its potential; an engine makes the steps in compiled code.
        guard: The guard.
        sums: Whether to record `State.running_sums`.
    """
    moving = compile_propagator(plain, evaluate, guard)
    return Dynamics(propagator=with_running_sums(moving) if sums else moving, watch=guard)


def langevin(evaluate: Evaluate, guard: Guard, *, temperature_K: float, time_step_fs: float, friction_per_ps: float) -> Dynamics:
    """Guarded Langevin dynamics with time steps."""
    plain = Baoab(evaluate=evaluate, time_step=time_step_fs, temperature_K=temperature_K, friction_per_ps=friction_per_ps)
    return dynamics(plain, evaluate, guard)


def at_temperature(
    system: System, evaluate: Evaluate, *, temperature_K: float, generator: Generator, masses: Tensor | None = None
) -> State:
    """A structure with Maxwell–Boltzmann momenta (of `masses`, u, where they are not the standard ones) and its prediction."""
    return evaluated(initial_state(system, temperature_K=temperature_K, generator=generator, masses=masses), evaluate)


def sampled(
    state: State, moving: Dynamics, *, generator: Generator, equilibration: int = 0, frames: int = 0, every: int = 1,
    step: int = 0, observers: Sequence[Observer] = (), stop: StopRequest = NEVER,
) -> Iterator[Sample]:  # fmt: skip
    """Run dynamics, and yield the state after equilibration and at each frame.

    Args:
        state: Initial state.
        moving: The dynamics.
        generator: Source of randomness.
        equilibration: Steps before the first frame's interval.
        frames, every: Number of frames; steps between them.
        step: Number of steps that led to `state`.
        observers: Observers of every step.
        stop: Checked after every step; on request the current state is yielded as the last.
    Raises:
        BlowUp: From the guard.
    """
    last, reached = equilibration + frames * every, deque([step], maxlen=1)
    count = Calling(lambda number, _: reached.append(number))
    while step < last:
        until = equilibration if step < equilibration else step + every - (step - equilibration) % every
        state = rollout(state, moving.propagator, steps=until - step, generator=generator, observers=[*observers, count],
                        guard=moving.watch, stop=stop, first_step=step, leap=until)  # fmt: skip
        step = reached[-1]
        frame, rest = divmod(step - equilibration, every)
        yield Sample(step, frame if rest == 0 and frame > 0 else 0, state)
        if stop.pending():
            return


def sample(
    state: State, moving: Dynamics, *, generator: Generator, equilibration: int = 0, frames: int = 0, every: int = 1,
    with_start: bool = False, stop: StopRequest = NEVER,
) -> tuple[State, Collect]:  # fmt: skip
    """Run dynamics and collect its frames in memory; arguments as of `sampled`.

    Args:
        with_start: Whether the initial state is the first frame.
    Returns:
        The last state and the frames.
    """
    last, collected = state, Collect()
    if with_start:
        collected(0, state)
    for step, frame, last in sampled(
        state, moving, generator=generator, equilibration=equilibration, frames=frames, every=every, stop=stop
    ):
        if frame:
            collected(step, last)
    return last, collected
