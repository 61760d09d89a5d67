r"""Whether the host keeps its structure: a melt or another phase has left the sites of the start.

ψ = share of host atoms, averaged over frames, within min(d/4, 1 Å) of a site of their element in the starting structure
d: mean distance of neighbouring sites of the element. Rigid drift is removed and the cell scaled to that of the start.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
from ase.data import atomic_numbers
from jaxtyping import Bool, Float
from scipy.spatial import cKDTree

from mdistill.estimates import Estimate, mean_of, unknown
from mdistill.types import System, Trajectory

LEAST = 0.7
"""A host with a smaller share of its atoms on their sites has melted, or is another phase."""
_FRAMES, _LARGEST_REACH = 200, 1.0


def host_order(trajectory: Trajectory, start: System, *, mobile: str) -> Estimate:
    """The order parameter ψ of the host over the second half of a run.

    Args:
        trajectory: Unwrapped, of the atoms of `start` in the same order.
        start: Structure with the sites.
        mobile: Element that is not host.
    Returns:
        ψ with its error; no value where there is no host, or a direction is open.
    """
    numbers, cell = start.numbers.cpu().numpy(), start.cell[0].double().cpu().numpy()
    host = np.flatnonzero(numbers != atomic_numbers[mobile])
    if not len(host) or not bool(start.pbc.all()):
        return unknown()
    last = len(trajectory.times) - 1
    frames = np.unique(np.linspace(last // 2, last, _FRAMES).round().astype(int))
    sites, kinds = start.positions.double().cpu().numpy()[host], numbers[host]
    positions = trajectory.positions[frames].double().cpu().numpy()[:, host]
    scaled = positions @ np.linalg.solve(trajectory.cell[frames].double().cpu().numpy(), cell[None])
    scaled -= (scaled - sites).mean(axis=1, keepdims=True)
    return mean_of(on_sites(scaled, sites, kinds, cell).mean(axis=1), unit="")


def on_sites(
    positions: Float[np.ndarray, "frame atom 3"], sites: Float[np.ndarray, "atom 3"], kinds: np.ndarray,
    cell: Float[np.ndarray, "3 3"], periodic: Sequence[bool] = (True, True, True),
) -> Bool[np.ndarray, "frame atom"]:  # fmt: skip
    """Whether each atom is near a site of its element.

    Args:
        positions: Å, without drift.
        sites: One for each atom, Å.
        kinds: Elements of the atoms.
        cell: Rows are vectors, of any length along open directions; Å.
        periodic: Which directions are.
    """
    images = np.array(list(product(*((-1, 0, 1) if closed else (0,) for closed in periodic))), dtype=float) @ cell
    near = np.zeros(positions.shape[:2], dtype=bool)
    for z in np.unique(kinds):
        home = _wrapped(sites[kinds == z], cell, periodic)
        tree = cKDTree((home + images[:, None]).reshape(-1, 3))
        spacing = tree.query(home, k=2)[0][:, 1].mean()
        distances = tree.query(_wrapped(positions[:, kinds == z], cell, periodic))[0]
        near[:, kinds == z] = distances < min(spacing / 4.0, _LARGEST_REACH)
    return near


def _wrapped(positions: np.ndarray, cell: np.ndarray, periodic: Sequence[bool]) -> np.ndarray:
    return positions - np.where(periodic, np.floor(positions @ np.linalg.inv(cell)), 0.0) @ cell
