"""The smallest supercell in which no atom sees an image of another, or of itself, twice."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
from jaxtyping import Float

from mdistill.crystals.checks import neighbour_pairs, perpendicular_heights
from mdistill.crystals.crystal import Crystal

SLACK = 0.1
"""Share of twice the cutoff by which a box of molecules may be too short without being repeated."""
_BOND = 1.2
"""Longest bond over the sum of covalent radii."""


def supercell_for(
    cell: Float[np.ndarray, "3 3"], cutoff: float, *, min_length: float = 0.0, slack: float = 0.0
) -> tuple[int, int, int]:
    """Smallest diagonal repeat whose shortest lattice vector exceeds 2·cutoff and whose heights reach min_length.

    Two images of an atom are then farther apart than 2·cutoff, so that at most one of them is a neighbour of any atom.

    Args:
        cell: Å, rows are lattice vectors.
        cutoff: Å.
        min_length: Å.
        slack: Share by which the shortest lattice vector may be shorter.
    """
    cell = np.asarray(cell, dtype=np.float64)
    heights, reach = perpendicular_heights(cell), 2.0 * cutoff * (1.0 - slack)
    least = [max(math.ceil(min_length / h - 1e-9), 1) for h in heights]
    most = [max(math.floor(reach / h) + 1, low) for h, low in zip(heights, least, strict=True)]
    grid = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in most), indexing="ij"), axis=-1).reshape(-1, 3)
    short = grid[(np.linalg.norm(grid @ cell, axis=1) <= reach) & grid.any(axis=1)]
    choices = product(*(range(low, high + 1) for low, high in zip(least, most, strict=True)))
    ordered = sorted(choices, key=lambda n: (math.prod(n), -float((heights * n).min())))
    found = next(n for n in ordered if not (short % np.array(n) == 0).all(axis=1).any())
    return found[0], found[1], found[2]


def shortest_vector(cell: Float[np.ndarray, "3 3"]) -> float:
    """Length of the shortest lattice vector, Å."""
    from ase.geometry import minkowski_reduce

    return float(np.linalg.norm(minkowski_reduce(np.asarray(cell, dtype=np.float64))[0], axis=1).min())


def is_molecular(crystal: Crystal) -> bool:
    """Whether at least four molecules, none larger than a quarter of the cell, hold most of the atoms: a liquid, for one."""
    from ase.data import covalent_radii
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not crystal.ordered:
        return False
    numbers = np.array([next(iter(site.occupancies)) for site in crystal.sites])
    radii = covalent_radii[numbers]
    i, j, distance = neighbour_pairs(crystal, 2.0 * _BOND * float(radii.max()))
    bonded = distance < _BOND * (radii[i] + radii[j])
    links = coo_array((np.ones(int(bonded.sum())), (i[bonded], j[bonded])), shape=(len(numbers),) * 2)
    sizes = np.bincount(connected_components(links, directed=False)[1])
    molecules = sizes[(sizes > 1) & (sizes <= len(numbers) / 4)]
    return len(molecules) >= 4 and int(molecules.sum()) > 0.8 * len(numbers)
