"""Density of the mobile ion in the frame of the host, and the pairs of sites between which ions hop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from mdistill.analysis.hops import find_hops
from mdistill.analysis.msd import atoms_of, displacements, frame_spacing, mean_cell_positions
from mdistill.types import Trajectory

VOXEL = 0.45
"""Wanted edge of a voxel, Å."""
MOST_VOXELS = 32_768
SMOOTHING = 0.3
"""Standard deviation of the Gaussian that smooths the density, Å."""
MOST_FRAMES = 2000
"""Frames of a run that are counted, evenly spaced."""
SITE_RADIUS = 1.2
"""Ends of hops within this distance (Å) of each other are one site."""
MOVED_HOST = 1.5
"""A run whose host atoms lie farther (Å, root mean square) from those of the first run has another host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IonMap:
    """Where the mobile ions were.

    Attributes:
        positions: [atom, 3] Å: means of the host atoms, mobile ions of the last frame.
        cell: [3, 3] Å, mean cell.
        density: [a, b, c] ions/Å³, on a periodic grid over the cell.
        starts, ends: [pair, 3] Å: sites that exchanged ions, nearest images, most frequent first.
        counts: [pair] number of hops between them, in either direction.
        runs: Number of runs used: those with the host of the first.
    """

    positions: Float[np.ndarray, "atom 3"]
    cell: Float[np.ndarray, "3 3"]
    density: Float[np.ndarray, "a b c"]
    starts: Float[np.ndarray, "pair 3"]
    ends: Float[np.ndarray, "pair 3"]
    counts: Int[np.ndarray, " pair"]
    runs: int


def ion_map(runs: Sequence[Trajectory], *, species: str, hop_distance: float = 1.5) -> IonMap:
    r"""Density and hops of one species, added up over independent runs of one state.

    ρ(x) = ⟨Σ_i δ(x − r_i(t) + u(t))⟩      u: mean displacement of the host since the start of the run

    in scaled coordinates of the mean cell, smoothed by a Gaussian of 0.3 Å. Hops are those of `hops.find_hops`; ends
    within 1.2 Å of each other are one site.

    Args:
        runs: Unwrapped positions (Å) of the same atoms, periodic in three directions.
        species: Element symbol of the mobile ion.
        hop_distance: Distance from its site beyond which an ion has hopped, Å.
    Raises:
        BadInput: Species absent, frames unevenly spaced, positions not finite.
    """
    cell = runs[0].cell.double().cpu().numpy().mean(axis=0)
    ions = atoms_of(runs[0], species)
    shape, scaled = grid_shape(cell), list[Float[np.ndarray, "frame ion 3"]]()
    first, host = _host_means(runs[0], ions)
    ends: list[Float[np.ndarray, "hop 2 3"]] = []
    for run in runs:
        means, _ = _host_means(run, ions)
        gaps = _nearest(means - first)
        shift = gaps.mean(axis=0) if len(host) else np.zeros(3)
        if len(host) and np.sqrt((((gaps - shift) @ cell) ** 2).sum(-1).mean()) > MOVED_HOST:
            continue
        moved = displacements(run, species=species)
        inverse = np.linalg.inv(run.cell.double().cpu().numpy().mean(axis=0))
        scaled.append(moved[:: -(-len(moved) // MOST_FRAMES)] @ inverse - shift)
        ends.append(find_hops(moved, frame_spacing(run), distance=hop_distance).ends @ inverse - shift)
    places = np.empty((len(runs[0].numbers), 3))
    places[host], places[ions] = first % 1.0, scaled[0][-1] % 1.0
    pairs = _site_pairs(np.concatenate(ends), cell, shape)
    return IonMap(positions=places @ cell, cell=cell, density=_density(scaled, cell, shape), runs=len(scaled), **pairs)


def grid_shape(cell: Float[np.ndarray, "3 3"]) -> tuple[int, int, int]:
    """Voxels along each lattice vector: about 0.45 Å each, coarser where these would be too many."""
    lengths = np.linalg.norm(cell, axis=1)
    coarser = max(1.0, (float(np.prod(lengths / VOXEL)) / MOST_VOXELS) ** (1.0 / 3.0))
    a, b, c = (max(2, int(length / (VOXEL * coarser))) for length in lengths)
    return a, b, c


def _host_means(run: Trajectory, ions: Int[np.ndarray, " ion"]) -> tuple[Float[np.ndarray, "host 3"], Int[np.ndarray, " host"]]:
    """Mean scaled positions of the host's atoms in its own frame, and their indices."""
    host = np.setdiff1d(np.arange(len(run.numbers)), ions)
    positions = mean_cell_positions(run)[:, host]
    if len(host):
        positions = positions - (positions - positions[0]).mean(axis=1, keepdims=True)
    return positions.mean(axis=0) @ np.linalg.inv(run.cell.double().cpu().numpy().mean(axis=0)), host


def _nearest(scaled: Float[np.ndarray, "*any 3"]) -> Float[np.ndarray, "*any 3"]:
    return scaled - np.rint(scaled)


def _density(
    scaled: Sequence[Float[np.ndarray, "frame ion 3"]], cell: Float[np.ndarray, "3 3"], shape: tuple[int, int, int]
) -> Float[np.ndarray, "a b c"]:
    counts = np.zeros(shape)
    for positions in scaled:
        counts += np.bincount(_voxels(positions.reshape(-1, 3), shape), minlength=counts.size).reshape(shape)
    frames = sum(len(positions) for positions in scaled)
    waves = np.stack(np.meshgrid(*(np.fft.fftfreq(n, 1.0 / n) for n in shape), indexing="ij"), axis=-1)
    vectors = 2.0 * np.pi * waves @ np.linalg.inv(cell).T
    smooth = np.maximum(np.fft.ifftn(np.fft.fftn(counts) * np.exp(-0.5 * SMOOTHING**2 * (vectors**2).sum(-1))).real, 0.0)
    return smooth * (counts.sum() / smooth.sum()) / (frames * abs(float(np.linalg.det(cell))) / counts.size)


def _voxels(scaled: Float[np.ndarray, "point 3"], shape: tuple[int, int, int]) -> Int[np.ndarray, " point"]:
    size = np.array(shape)
    a, b, c = (np.floor(scaled % 1.0 * size).astype(np.int64) % size).T
    return (a * shape[1] + b) * shape[2] + c


def _site_pairs(
    ends: Float[np.ndarray, "hop 2 3"], cell: Float[np.ndarray, "3 3"], shape: tuple[int, int, int]
) -> dict[str, np.ndarray]:
    """Ends of hops (scaled) joined to sites, and the hops between each two of these."""
    voxels, member, counts = np.unique(_voxels(ends.reshape(-1, 3), shape), return_inverse=True, return_counts=True)
    middles = (np.stack(np.unravel_index(voxels, shape), axis=-1) + 0.5) / np.array(shape)
    site = np.full(len(voxels), -1)
    places: list[Float[np.ndarray, " 3"]] = []
    for voxel in np.argsort(-counts, kind="stable"):
        if site[voxel] >= 0:
            continue
        gaps = _nearest(middles - middles[voxel])
        near = (site < 0) & (((gaps @ cell) ** 2).sum(-1) < SITE_RADIUS**2)
        site[near] = len(places)
        places.append(middles[voxel] + np.average(gaps[near], axis=0, weights=counts[near]))
    first, second = np.sort(site[member.reshape(-1, 2)], axis=1).T
    between = first != second
    joined, hops = np.unique(first[between] * max(len(places), 1) + second[between], return_counts=True)
    order = np.argsort(-hops, kind="stable")
    start, end = divmod(joined[order], max(len(places), 1))
    sites = np.array(places).reshape(-1, 3)
    starts = sites[start] % 1.0
    return {
        "starts": starts @ cell, "ends": (starts + _nearest(sites[end] - starts)) @ cell, "counts": hops[order],
    }  # fmt: skip
