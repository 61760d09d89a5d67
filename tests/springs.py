"""Neighbours joined by springs, of which everything harmonic is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from mdistill.types import Graph


@dataclass(frozen=True)
class NearestSprings:
    """An `EnergyNet`: E = ½ Σ_pairs k (r − b)² within the cutoff."""

    stiffness: float = 3.0
    length: float = 2.0
    cutoff: float = 2.5
    elements: frozenset[int] = frozenset()
    name: str = "springs"

    def __call__(self, graph: Graph, vectors: Tensor) -> Tensor:
        stretch = vectors.norm(dim=1) - self.length
        return vectors.new_zeros(graph.system.n_atoms).index_add(0, graph.receiver, 0.25 * self.stiffness * stretch.square())


def fcc_eigenvalues(waves: np.ndarray, lattice: float, stiffness: float, mass: float) -> np.ndarray:
    """[wave, 3] ω² (stiffness over mass) of an fcc crystal with springs at rest between its 12 nearest neighbours.

    D(q) = (k/m) Σ_R n nᵀ (1 − cos q·R),  n = R/|R|   (Born and von Kármán)
    """
    half = 0.5 * lattice
    neighbours = np.array([(a, b, 0) for a in (1, -1) for b in (1, -1)])
    neighbours = half * np.concatenate([np.roll(neighbours, k, axis=1) for k in range(3)])
    along = neighbours / np.linalg.norm(neighbours, axis=1, keepdims=True)
    weight = 1.0 - np.cos(waves @ neighbours.T)
    return stiffness / mass * np.linalg.eigvalsh(np.einsum("qn,na,nb->qab", weight, along, along))


def fitting_waves(repeats: int, lattice: float) -> np.ndarray:
    """[4 repeats³, 3] wave vectors (1/Å, 2π included) that fit into repeats³ cubic fcc cells, each once."""
    steps = np.stack(np.meshgrid(*[np.arange(2 * repeats)] * 3, indexing="ij"), -1).reshape(-1, 3)
    reciprocal = np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]])
    found: dict[tuple[int, ...], np.ndarray] = {}
    for step in steps:
        reduced = np.linalg.solve(reciprocal.T, step / repeats) % 1.0
        found.setdefault(tuple(np.round(reduced * 4 * repeats).astype(int) % (4 * repeats)), step)
    return 2.0 * np.pi / (repeats * lattice) * np.array(list(found.values()))
