"""Neighbour search: counting every pair, `build_graph`, and `SkinList` along dynamics, by number of atoms.

    python -m benchmarks.studies.neighbours

Random atoms at the density of Li6PS5Cl in skewed periodic cells. Times are medians; ratios within one run.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from benchmarks.record import write_record
from mdistill.graph import SkinList, build_graph, make_system
from mdistill.types import System


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """atoms per cell, cutoff and skin (Å), displacement between calls (Å), repetitions."""

    atoms: tuple[int, ...] = (52, 104, 208, 416)
    cutoff: float = 5.0
    skin: float = 0.5
    move: float = 0.01
    repetitions: int = 21


def random_cell(atoms: int, seed: int = 0) -> System:
    """Atoms at 0.052/Å³, no two closer than 1.5 Å, in a skewed cell."""
    rng = np.random.default_rng(seed)
    side = (atoms / 0.052) ** (1 / 3)
    cell = side * np.array([[1.0, 0.0, 0.0], [0.1, 1.0, 0.0], [-0.1, 0.15, 1.0]])
    fractions: list[np.ndarray] = []
    while len(fractions) < atoms:
        new = rng.uniform(0, 1, 3)
        apart = np.array(fractions).reshape(-1, 3) - new
        apart -= np.round(apart)
        if not len(apart) or np.linalg.norm(apart @ cell, axis=1).min() > 1.5:
            fractions.append(new)
    return make_system(np.array(fractions) @ cell, np.full(atoms, 3), cell, [True] * 3)


def count_pairs(system: System, cutoff: float) -> int:
    """Directed pairs by going through all images of all pairs (atoms inside the cell)."""
    positions, cell = system.positions.numpy(), system.cell[0].numpy()
    turns = np.ceil(cutoff * np.linalg.norm(np.linalg.inv(cell), axis=0)).astype(int) + 1
    total = -len(positions)
    for shift in itertools.product(*(range(-n, n + 1) for n in turns)):
        moved = positions + np.array(shift) @ cell
        square = ((moved[None] - positions[:, None]) ** 2).sum(-1)
        total += int((square < cutoff**2).sum())
    return total


def median_seconds(call: Callable[[], Any], repetitions: int) -> float:
    times = []
    for _ in range(repetitions + 1):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return float(np.median(times[1:]))


def measure(atoms: int, settings: Settings) -> dict[str, Any]:
    system = random_cell(atoms)
    edges = len(build_graph(system, settings.cutoff).receiver)
    counted = count_pairs(system, settings.cutoff)
    if counted != edges:
        raise SystemExit(f"{atoms} atoms: {edges} edges, but {counted} were counted")
    generator, lists = torch.Generator().manual_seed(0), SkinList(cutoff=settings.cutoff, skin=settings.skin)
    moving = [system]
    for _ in range(20 * settings.repetitions):
        step = settings.move * torch.randn(system.positions.shape, generator=generator, dtype=torch.float64)
        moving.append(replace(system, positions=moving[-1].positions + step))
    lists.graph(system)
    steps = iter(moving)
    slow = median_seconds(lambda: count_pairs(system, settings.cutoff), 3)
    search = median_seconds(lambda: build_graph(system, settings.cutoff), settings.repetitions)
    skin = median_seconds(lambda: lists.graph(next(steps)), len(moving) - 2)
    return {
        "atoms": atoms,
        "edges": edges,
        "counting (ms)": 1e3 * slow,
        "build_graph (ms)": 1e3 * search,
        "SkinList (ms)": 1e3 * skin,
        "counting / build_graph": slow / search,
        "build_graph / SkinList": search / skin,
        "steps per search": (len(moving) - 1) / lists.rebuilds,
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    chosen = Settings()
    write_record("neighbours", chosen, [measure(atoms, chosen) for atoms in chosen.atoms])
