r"""Whether the host keeps its structure: a melt or another phase has left the sites of the start.

ψ = share of host atoms, averaged over frames, within min(d/4, 1 Å) of a site of their element in the starting structure
d: mean distance of neighbouring sites of the element. Rigid drift is removed and the cell scaled to that of the start.
"""

from __future__ import annotations

import numpy as np
from ase.data import atomic_numbers
from jaxtyping import Float
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
    shares = [(kinds == z).mean() * _on_sites(scaled[:, kinds == z], sites[kinds == z], cell) for z in np.unique(kinds)]
    return mean_of(np.sum(shares, axis=0), unit="")


def _on_sites(
    positions: Float[np.ndarray, "frame atom 3"], sites: Float[np.ndarray, "atom 3"], cell: Float[np.ndarray, "3 3"]
) -> Float[np.ndarray, " frame"]:
    """Share of the atoms of one element that are near one of its sites, by frame."""
    images = np.array([[a, b, c] for a in (-1, 0, 1) for b in (-1, 0, 1) for c in (-1, 0, 1)], dtype=float) @ cell
    tree = cKDTree((_wrapped(sites, cell) + images[:, None]).reshape(-1, 3))
    spacing = tree.query(_wrapped(sites, cell), k=2)[0][:, 1].mean()
    distances = tree.query(_wrapped(positions, cell).reshape(-1, 3))[0].reshape(positions.shape[:2])
    return (distances < min(spacing / 4.0, _LARGEST_REACH)).mean(axis=1)


def _wrapped(positions: np.ndarray, cell: np.ndarray) -> np.ndarray:
    return positions - np.floor(positions @ np.linalg.inv(cell)) @ cell
