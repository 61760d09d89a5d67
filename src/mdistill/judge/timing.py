"""Pair scans and time per step."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
from ase.data import chemical_symbols, covalent_radii
from jaxtyping import Float
from torch import Generator

from mdistill.analysis.gates import PairScan
from mdistill.estimates import Estimate, median_of
from mdistill.graph import build_graph, concatenate, edge_vectors, make_system
from mdistill.simulation.evaluator import make_evaluator
from mdistill.simulation.initial_state import initial_state
from mdistill.simulation.rollout import rollout
from mdistill.simulation.sample import dynamics
from mdistill.simulation.verlet import VelocityVerlet
from mdistill.types import LabelledFrame, Potential, Propagator, State, System

_NS_PER_DAY, _SHARE, _TIMED_S = 0.0864, 0.3, 0.25


def pair_name(first: int, second: int) -> str:
    """ "Li–S", lower atomic number first."""
    return "–".join(sorted((chemical_symbols[first], chemical_symbols[second])))


def closest_distances(frames: Sequence[LabelledFrame], *, reach: float = 6.0) -> dict[tuple[int, int], float]:
    """Closest distance (Å) of every pair of elements in the frames; the sum of covalent radii where none is near."""
    elements = sorted({z for frame in frames for z in frame.system.numbers.tolist()})
    closest: dict[tuple[int, int], float] = {}
    for frame in frames:
        graph = build_graph(frame.system, reach)
        lengths = edge_vectors(graph).norm(dim=1)
        first, second = frame.system.numbers[graph.receiver], frame.system.numbers[graph.sender]
        for pair in combinations_with_replacement(elements, 2):
            mine = lengths[(first == pair[0]) & (second == pair[1])]
            if mine.numel():
                closest[pair] = min(closest.get(pair, reach), float(mine.min()))
    pairs = combinations_with_replacement(elements, 2)
    return {pair: closest.get(pair, float(covalent_radii[pair[0]] + covalent_radii[pair[1]])) for pair in pairs}


def scan_pairs(
    potential: Potential, ends: Mapping[tuple[int, int], float], *, start: float = 0.3, spacing: float = 0.01
) -> dict[str, PairScan]:
    """Energy and force of two atoms alone, from `start` to the end given for each pair (Å).

    Args:
        potential: Any potential.
        ends: Last distance per pair of atomic numbers; the closest distance in the labels, where data take over.
        start: First distance.
        spacing: Between points.
    Returns:
        Scans by pair name.
    """
    scans = {}
    for (first, second), end in sorted(ends.items()):
        distance = np.linspace(start, max(end, start + 4 * spacing), max(5, round((end - start) / spacing) + 1))
        dimers = [
            make_system(np.array([[0, 0, 0], [0, 0, r]]), np.array([first, second]), np.zeros((3, 3)), [False] * 3)
            for r in distance
        ]
        prediction = potential(build_graph(concatenate(dimers), potential.cutoff))
        forces = prediction.forces.detach().cpu().double().numpy().reshape(-1, 2, 3)
        energy = prediction.energy.detach().cpu().double().numpy()
        scans[pair_name(first, second)] = PairScan(distance=distance, energy=energy, force=forces[:, 1, 2])
    return scans


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
