"""Measurements on potentials that are neither errors on labels nor dynamics: pair scans, and time per step."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
import torch
from ase.data import chemical_symbols, covalent_radii

from mdistill.analysis.gates import PairScan
from mdistill.graph import build_graph, concatenate, edge_vectors, make_system
from mdistill.simulation.compiled import compile_propagator
from mdistill.simulation.evaluator import make_evaluator
from mdistill.simulation.initial_state import initial_state
from mdistill.simulation.rollout import rollout
from mdistill.simulation.verlet import VelocityVerlet
from mdistill.types import Estimate, LabelledFrame, Potential, Propagator, System


def pair_name(first: int, second: int) -> str:
    """ "Li–S", lower atomic number first."""
    return "–".join(sorted((chemical_symbols[first], chemical_symbols[second])))


def closest_distances(frames: Sequence[LabelledFrame], *, reach: float = 6.0) -> dict[tuple[int, int], float]:
    """Closest distance (Å) of every pair of elements in the frames; the sum of covalent radii where none is within reach."""
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
        found = potential(build_graph(concatenate(dimers), potential.cutoff))
        forces = found.forces.detach().cpu().double().numpy().reshape(-1, 2, 3)
        energy = found.energy.detach().cpu().double().numpy()
        scans[pair_name(first, second)] = PairScan(distance=distance, energy=energy, force=forces[:, 1, 2])
    return scans


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Time per step, µs/atom, medians over the rounds, and the median of the rounds' ratios."""

    teacher: Estimate
    student: Estimate
    ratio: Estimate


def compare_speed(
    teacher: Potential, student: Potential, system: System, *, rounds: int = 9, share: float = 0.3, seed: int = 0
) -> Speed:
    """Time steps of NVE dynamics (neighbour list and integrator included), teacher and student alternately.

    Each round takes one step with the teacher and as many with the student as fit into `share` of the teacher's time (5 to
    500), so that whatever else the machine does meets both. Errors are those of a median: 1.253 × standard deviation /
    √rounds, the deviation from the median absolute deviation.

    Args:
        system: One structure, Å.
        rounds: Rounds counted; two more before them are not.
    """
    generator = torch.Generator().manual_seed(seed)
    start = initial_state(system, temperature_K=300.0, generator=generator)
    states, propagators, steps = [start, start], [_steps_of(teacher, system), _steps_of(student, system)], [1, 5]
    times = np.zeros((rounds + 2, 2))
    for k in range(rounds + 2):
        for column, propagator in enumerate(propagators):
            began = time.perf_counter()
            states[column] = rollout(
                states[column], propagator, steps=steps[column], generator=generator, leap=steps[column], first_step=0
            )
            times[k, column] = (time.perf_counter() - began) / steps[column]
        steps[1] = int(np.clip(share * times[k, 0] / times[k, 1], 5, 500))
    per_atom = 1e6 * times[2:] / system.n_atoms
    return Speed(
        teacher=_median(per_atom[:, 0], "µs/atom/step"),
        student=_median(per_atom[:, 1], "µs/atom/step"),
        ratio=_median(per_atom[:, 0] / per_atom[:, 1], "×"),
    )


def _steps_of(potential: Potential, system: System) -> Propagator:
    evaluate = make_evaluator(potential, system)
    return compile_propagator(VelocityVerlet(evaluate=evaluate, time_step=1.0), evaluate)


def _median(values: np.ndarray, unit: str) -> Estimate:
    middle = float(np.median(values))
    deviation = 1.4826 * float(np.median(np.abs(values - middle)))
    return Estimate(value=middle, error=1.253 * deviation / float(np.sqrt(len(values))), unit=unit, samples=len(values))
