"""The smallest supercell in which no atom sees an image of another, or of itself, twice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import numpy as np
import torch
from ase.data import chemical_symbols
from jaxtyping import Float

from mdistill.crystals.checks import perpendicular_heights
from mdistill.errors import BadInput
from mdistill.graph import cast, checked_box
from mdistill.io.structures import repeated
from mdistill.types import System

SLACK = 0.1
"""Share of twice the cutoff by which a box of molecules may be too short without being repeated."""


def supercell_for(
    cell: Float[np.ndarray, "3 3"], cutoff: float, *, min_length: float = 0.0, slack: float = 0.0,
    pbc: Sequence[bool] = (True, True, True),
) -> tuple[int, int, int]:  # fmt: skip
    """Smallest diagonal repeat whose shortest lattice vector exceeds 2·cutoff and whose heights reach min_length.

    Two images of an atom are then farther apart than 2·cutoff, so that at most one of them is a neighbour of any atom.

    Args:
        cell: Å, rows are lattice vectors.
        cutoff: Å.
        min_length: Å.
        slack: Share by which the shortest lattice vector may be shorter.
        pbc: Periodic along each lattice vector; an open direction is not repeated.
    """
    cell = np.asarray(cell, dtype=np.float64)
    heights, reach = perpendicular_heights(cell), 2.0 * cutoff * (1.0 - slack)
    least = [max(math.ceil(min_length / h - 1e-9), 1) if closed else 1 for h, closed in zip(heights, pbc, strict=True)]
    most = [max(math.floor(reach / h) + 1, low) if closed else 1 for h, low, closed in zip(heights, least, pbc, strict=True)]
    grid = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in most), indexing="ij"), axis=-1).reshape(-1, 3)
    grid = grid[(grid[:, ~np.array(pbc)] == 0).all(axis=1)]
    short = grid[(np.linalg.norm(grid @ cell, axis=1) <= reach) & grid.any(axis=1)]
    choices = product(*(range(low, high + 1) for low, high in zip(least, most, strict=True)))
    ordered = sorted(choices, key=lambda n: (math.prod(n), -float((heights * n).min())))
    found = next(n for n in ordered if not (short % np.array(n) == 0).all(axis=1).any())
    return found[0], found[1], found[2]


def shortest_vector(cell: Float[np.ndarray, "3 3"], pbc: Sequence[bool] = (True, True, True)) -> float:
    """Length of the shortest lattice vector along periodic directions, Å; infinite without any."""
    from ase.geometry import minkowski_reduce

    if not any(pbc):
        return math.inf
    reduced = minkowski_reduce(np.asarray(cell, dtype=np.float64), pbc=np.array(pbc))[0]
    return float(np.linalg.norm(reduced[np.array(pbc)], axis=1).min())


def enlarged(system: System, *, atoms: int, ions: int, mobile: int | None) -> System:
    """The structure repeated, shortest height first, until it has enough atoms and mobile ions.

    Raises:
        BadInput: It has no mobile ion.
    """
    count = system.n_atoms if mobile is None else int((system.numbers == mobile).sum())
    if not count:
        name = chemical_symbols[mobile or 0]
        raise BadInput("mobile", f"no {name} in the structure", allowed="an element of it", fix="name another --mobile")
    closed, repeats = [axis for axis in range(3) if bool(system.pbc[0, axis])], [1, 1, 1]
    if not closed:
        return system
    heights = perpendicular_heights(checked_box(cast(system, dtype=torch.float64), 0.1))
    while math.prod(repeats) * system.n_atoms < atoms or (mobile is not None and math.prod(repeats) * count < ions):
        shortest = min(closed, key=lambda axis: repeats[axis] * heights[axis])
        repeats[shortest] += 1
    return repeated(system, (repeats[0], repeats[1], repeats[2]))
