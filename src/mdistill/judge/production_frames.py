"""Frames of production for the teacher: half of them with an ion between two sites, half without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase.data import chemical_symbols
from jaxtyping import Bool, Int

from mdistill.analysis.msd import atoms_of, displacements, frame_spacing
from mdistill.graph import make_system
from mdistill.io.trajectories import read_hdf5
from mdistill.types import System, Trajectory

HOP_FS = 250.0
"""Half of the time within which an ion passes from site to site, fs."""
_PASSING, _MOSTLY = (0.25, 0.75), 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductionRun:
    """One run of production: its temperature, its number from 1, its trajectory."""

    temperature_K: float
    number: int
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnFrame:
    """A frame of production.

    Attributes:
        system: The structure.
        run: Number of its run.
        hopping: Indices of the atoms between two sites; empty: a frame of vibrations.
        share: Number of frames of production at this temperature that it stands for, over all of them.
    """

    system: System
    run: int
    hopping: tuple[int, ...]
    share: float = 0.0


def production_runs(folder: Path, temperatures_K: Sequence[float]) -> list[ProductionRun]:
    """Runs in a folder of production: `<T>K/run-<k>/trajectory.h5`, or `<T>K/trajectory.h5` of earlier versions."""
    runs = []
    for kelvin in temperatures_K:
        home = folder / f"{kelvin:g}K"
        numbered = {int(path.parent.name[4:]): path for path in home.glob("run-*/trajectory.h5")} or {1: home / "trajectory.h5"}
        runs += [
            ProductionRun(temperature_K=kelvin, number=k, path=path) for k, path in sorted(numbered.items()) if path.is_file()
        ]
    return runs


def between_sites(trajectory: Trajectory, species: str, *, distance: float) -> Bool[np.ndarray, "frame ion"]:
    r"""Which ions of a species pass from one site to another.

    |r₊ − r₋| > `distance`  and  ¼ < (r − r₋)·(r₊ − r₋)/|r₊ − r₋|² < ¾
    r₋, r₊: mean positions from 0.5 to 0.25 ps before and from 0.25 to 0.5 ps after

    Args:
        trajectory: Unwrapped positions (Å), evenly spaced frames.
        species: Element symbol.
        distance: Shortest hop, Å.
    Returns:
        False also where a mean would reach beyond the run.
    """
    places, size = displacements(trajectory, species=species), max(1, round(HOP_FS / frame_spacing(trajectory)))
    frames, passing = len(places), np.zeros(places.shape[:2], dtype=bool)
    inner = np.arange(2 * size, frames - 2 * size)
    if not len(inner):
        return passing
    sums = np.concatenate([np.zeros((1, *places.shape[1:])), places.cumsum(0)])
    before = (sums[inner - size + 1] - sums[inner - 2 * size]) / (size + 1)
    after = (sums[inner + 2 * size + 1] - sums[inner + size]) / (size + 1)
    path = after - before
    length = (path**2).sum(-1)
    progress = ((places[inner] - before) * path).sum(-1) / np.maximum(length, 1e-12)
    passing[inner] = (length > distance**2) & (progress > _PASSING[0]) & (progress < _PASSING[1])
    return passing


def draw_frames(
    runs: Sequence[ProductionRun], number: int, *, mobile: int | None, distance: float, pbc: Sequence[bool]
) -> list[DrawnFrame]:
    """Frames of the runs at one temperature, spread evenly over each run, as many from every run.

    Half of them have an ion between two sites, as far as there are any, and each class stands for its share of production.
    Where most frames have a hop they are drawn alike.

    Args:
        runs: Runs at one temperature.
        number: Number of frames in all.
        mobile: Atomic number of the mobile ion; None: no hops are looked for.
        distance: Shortest hop, Å.
        pbc: Periodic along each lattice vector.
    """
    drawn: list[tuple[System, int, tuple[int, ...]]] = []
    trajectories = [read_hdf5(run.path) for run in runs]
    passing = [_hopping(trajectory, mobile, distance) for trajectory in trajectories]
    counts = np.sum([[one.any(1).sum(), (~one.any(1)).sum()] for one in passing], axis=0) if runs else np.zeros(2)
    mixed = counts[0] > _MOSTLY * counts.sum()
    for k, (run, trajectory, hopping) in enumerate(zip(runs, trajectories, passing, strict=True)):
        mine = number // len(runs) + (k < number % len(runs))
        chosen = _spread(np.arange(len(hopping)), mine) if mixed else _halves(hopping, mine, first=(k + 1) % 2)
        atoms = np.arange(hopping.shape[1]) if mobile is None else atoms_of(trajectory, chemical_symbols[mobile])
        numbers = trajectory.numbers.numpy()
        for frame in chosen:
            system = make_system(trajectory.positions[frame].numpy(), numbers, trajectory.cell[frame].numpy(), pbc)
            drawn.append((system, run.number, tuple(int(a) for a in atoms[hopping[frame]])))
    if mixed:
        return [DrawnFrame(system=system, run=run, hopping=ions, share=1.0 / len(drawn)) for system, run, ions in drawn]
    each = np.array([sum(bool(hopping) is kind for _, _, hopping in drawn) for kind in (True, False)])
    share = np.where(each > 0, counts, 0.0) / max(counts[each > 0].sum(), 1.0)
    return [
        DrawnFrame(system=system, run=run, hopping=ions, share=float(share[int(not ions)] / each[int(not ions)]))
        for system, run, ions in drawn
    ]


def _halves(hopping: Bool[np.ndarray, "frame ion"], number: int, *, first: int) -> list[int]:
    """Frames, half of them with a hop as far as there are any; an odd one goes to the hops where `first` is 1."""
    classes = np.flatnonzero(hopping.any(1)), np.flatnonzero(~hopping.any(1))
    count = min(len(classes[0]), max((number + first) // 2, number - len(classes[1])))
    return sorted([*_spread(classes[0], count), *_spread(classes[1], number - count)])


def _hopping(trajectory: Trajectory, mobile: int | None, distance: float) -> Bool[np.ndarray, "frame ion"]:
    if mobile is None or len(trajectory.times) < 4:
        return np.zeros((len(trajectory.times), 1), dtype=bool)
    return between_sites(trajectory, chemical_symbols[mobile], distance=distance)


def _spread(indices: Int[np.ndarray, " frame"], number: int) -> list[int]:
    """At most `number` of the indices, from the middles of equal parts."""
    number = min(number, len(indices))
    return [int(indices[int((k + 0.5) * len(indices) / number)]) for k in range(number)]
