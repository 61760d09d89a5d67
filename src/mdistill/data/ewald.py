"""Electrostatic energy of point charges in a periodic cell as a matrix, so that many arrangements cost one product each."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.special import erfc

from mdistill.units import COULOMB

_PRECISION = 20.0
"""Both sums are cut where their terms fall to exp(−20) ≈ 2e-9 of the first."""


def ewald_matrix(positions: Float[np.ndarray, "site 3"], cell: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "site site"]:
    r"""A with E = ½ qᵀ A q for charges q (e) on the sites, in a uniform neutralising background.

    A_ij = k Σ'_n erfc(α|r_ij+n|)/|r_ij+n| + (4πk/V) Σ_{g≠0} e^{−g²/4α²} cos(g·r_ij)/g² − δ_ij 2αk/√π − πk/(α²V)

    k: e²/4πε₀ (`units.COULOMB`)   n: lattice vectors (n ≠ 0 for i = j)   g: reciprocal vectors   α: any value gives the
    same A; chosen so that both sums cost the same.

    Args:
        positions: Å.
        cell: Å, rows are lattice vectors, periodic in all three directions.
    Returns:
        eV/e², symmetric.
    Reference:
        P. P. Ewald, Ann. Phys. 369, 253 (1921), doi 10.1002/andp.19213690304.
    """
    from vesin import NeighborList

    count, volume = len(positions), float(abs(np.linalg.det(cell)))
    alpha = np.sqrt(np.pi) * (count / volume**2) ** (1.0 / 6.0)
    search = NeighborList(cutoff=float(np.sqrt(_PRECISION) / alpha), full_list=True)
    i, j, distance = search.compute(points=positions, box=cell, periodic=[True] * 3, quantities="ijd")
    terms = erfc(alpha * distance) / np.maximum(distance, 1e-6)
    matrix = np.bincount(i.astype(np.int64) * count + j.astype(np.int64), weights=terms, minlength=count * count).reshape(
        count, count
    )
    vectors = _reciprocal_vectors(cell, 2.0 * alpha * np.sqrt(_PRECISION))
    squares = np.square(vectors).sum(axis=1)
    weights = np.sqrt(8.0 * np.pi / volume * np.exp(-squares / (4.0 * alpha**2)) / squares)
    for block in range(0, len(vectors), 2048):
        phases = positions @ vectors[block : block + 2048].T
        cosines, sines = np.cos(phases) * weights[block : block + 2048], np.sin(phases) * weights[block : block + 2048]
        matrix += cosines @ cosines.T + sines @ sines.T
    matrix -= np.pi / (alpha**2 * volume)
    matrix[np.diag_indices(count)] -= 2.0 * alpha / np.sqrt(np.pi)
    return COULOMB * matrix


def _reciprocal_vectors(cell: np.ndarray, longest: float) -> np.ndarray:
    """Half of the reciprocal vectors [g, 3] (one of each pair ±g, without 0) up to a length, 1/Å."""
    reciprocal = 2.0 * np.pi * np.linalg.inv(cell).T
    bounds = np.floor(longest * np.linalg.norm(cell, axis=1) / (2.0 * np.pi)).astype(int)
    grid = np.stack(np.meshgrid(*(np.arange(-b, b + 1) for b in bounds), indexing="ij"), axis=-1).reshape(-1, 3)
    grid = grid[len(grid) // 2 + 1 :]
    vectors = grid @ reciprocal
    return vectors[np.linalg.norm(vectors, axis=1) < longest]
