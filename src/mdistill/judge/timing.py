"""Time of a step of potentials and propagators, timed in turn."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Generator

from mdistill.estimates import Estimate, median_of
from mdistill.simulation.evaluator import make_evaluator
from mdistill.simulation.initial_state import initial_state
from mdistill.simulation.rollout import rollout
from mdistill.simulation.sample import dynamics
from mdistill.simulation.verlet import VelocityVerlet
from mdistill.types import Potential, Propagator, State, System

_NS_PER_DAY, _SHARE, _TIMED_S = 0.0864, 0.3, 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Time per step, µs/atom, medians over the repeats, and the median of the repeats' ratios."""

    teacher: Estimate
    student: Estimate
    ratio: Estimate


def compare_speed(teacher: Potential, student: Potential, system: System, *, repeats: int = 9, seed: int = 0) -> Speed:
    """Time steps of NVE dynamics (neighbour list and integrator included), teacher and student in turn.

    Args:
        system: One structure, Å.
        repeats: Number of timings of each; every one costs a teacher call.
    """
    start = initial_state(system, temperature_K=300.0, generator=Generator().manual_seed(seed))
    both = []
    for potential in (teacher, student):
        evaluate = make_evaluator(potential, system)
        both.append(dynamics(VelocityVerlet(evaluate=evaluate, time_step=1.0), evaluate).propagator)
    per_atom = 1e6 * seconds_per_step(both, start, repeats=repeats) / system.n_atoms
    return Speed(
        teacher=median_of(per_atom[:, 0], "µs/atom/step"),
        student=median_of(per_atom[:, 1], "µs/atom/step"),
        ratio=median_of(per_atom[:, 0] / per_atom[:, 1], "×"),
    )


def speeds(
    propagators: Mapping[str, Propagator], start: State, *, repeats: int
) -> tuple[dict[str, Estimate], dict[str, Estimate]]:
    """Nanoseconds a day of several propagators, timed in turn, and the speed of each over the first."""
    times = seconds_per_step(list(propagators.values()), start, repeats=repeats, seconds=_TIMED_S)
    per_day = {name: _NS_PER_DAY * step.stride_fs / times[:, k] for k, (name, step) in enumerate(propagators.items())}
    slowest = next(iter(per_day.values()))
    return (
        {name: median_of(values, "ns/day") for name, values in per_day.items()},
        {name: median_of(values / slowest, "×") for name, values in per_day.items()},
    )


def seconds_per_step(
    propagators: Sequence[Propagator], start: State, *, repeats: int, seconds: float | None = None
) -> Float[np.ndarray, "repeat propagator"]:
    """Time of a step of several propagators, each timed in turn, so that other load on the machine affects all.

    Args:
        start: Start of each.
        repeats: Number of timings of each, after two that are not counted.
        seconds: Each takes as many steps as fit into this time, 4 to 4000. Left out, the first takes one step and each other
            as many as fit into 0.3 of its time.
    """
    generator, states = Generator().manual_seed(0), [start] * len(propagators)
    steps, times = [1 if seconds is None else 4] + [4] * (len(propagators) - 1), np.zeros((repeats + 2, len(propagators)))
    for k in range(repeats + 2):
        for which, propagator in enumerate(propagators):
            count, began = steps[which], time.perf_counter()
            states[which] = rollout(states[which], propagator, steps=count, generator=generator, leap=count)
            times[k, which] = (time.perf_counter() - began) / count
            if which > 0 or seconds is not None:
                steps[which] = int(np.clip((seconds or _SHARE * times[k, 0]) / times[k, which], 4, 4000))
    return times[2:]
