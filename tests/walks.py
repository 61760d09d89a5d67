"""Trajectories with a known answer: lattice hoppers, Gaussian walks, vibrating crystals; and how to write them wrapped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from mdistill.types import Trajectory

SPACING = 100.0
"""fs between frames."""


def trajectory_of(ions: np.ndarray, host: np.ndarray, cells: np.ndarray, *, spacing: float = SPACING) -> Trajectory:
    """Li ions and S host atoms, [frame, atom, 3] Å each; cells [3, 3] or [frame, 3, 3] Å."""
    frames = len(ions)
    return Trajectory(
        numbers=torch.tensor([3] * ions.shape[1] + [16] * host.shape[1]),
        positions=torch.from_numpy(np.concatenate([ions, host], axis=1)),
        cell=torch.from_numpy(np.broadcast_to(cells, (frames, 3, 3)).copy()),
        times=torch.arange(frames, dtype=torch.float64) * spacing,
    )


def lattice(per_side: int = 3, spacing: float = 4.0) -> np.ndarray:
    return np.stack(np.meshgrid(*[np.arange(per_side) * spacing] * 3, indexing="ij"), axis=-1).reshape(-1, 3)


def hoppers(
    seed: int, *, ions: int = 32, frames: int = 500, rate: float = 0.1, step: float = 2.0, vibration: float = 0.0
) -> tuple[Trajectory, float]:
    """Ions that hop along ±x, ±y, ±z with probability `rate` per frame, in a drifting host; and their D in cm²/s."""
    rng = np.random.default_rng(seed)
    axes = np.eye(3)[rng.integers(0, 3, (frames, ions))] * rng.choice([-1.0, 1.0], (frames, ions, 1))
    moved = np.cumsum(step * axes * (rng.random((frames, ions, 1)) < rate), axis=0)
    moved += lattice(4, 3.0)[:ions] + vibration * rng.normal(size=(frames, ions, 3))
    slide = 0.02 * np.arange(frames)[:, None, None] * np.array([1.0, -1.0, 0.5])
    host = np.broadcast_to(lattice(2, 6.0) + 1.5, (frames, 8, 3))
    return trajectory_of(moved + slide, host + slide, 12.0 * np.eye(3)), rate * step**2 / 6.0 / SPACING * 0.1


def hop_walk(
    seed: int, *, ions: int = 24, frames: int = 2000, hops: int = 160, together: int = 1, dimensions: int = 3, step: float = 2.4,
    vibration: float = 0.15, spacing: float = 50.0,
) -> tuple[np.ndarray, float]:  # fmt: skip
    """Displacements [frame, ion, 3] (Å) with `hops` hops on average, `together` ions at a time; and D (Å²/fs) along an open axis."""
    rng = np.random.default_rng(seed)
    jumps = np.zeros((frames, ions, 3))
    for _ in range(rng.poisson(hops / together)):
        movers = rng.choice(ions, together, replace=False)
        jumps[rng.integers(frames), movers] += np.eye(3)[rng.integers(dimensions)] * rng.choice([-step, step])
    moved = np.cumsum(jumps, axis=0) + vibration * rng.normal(size=jumps.shape)
    return moved, hops * step**2 / (2 * dimensions * ions * frames * spacing)


def returning_walk(
    seed: int, *, ions: int = 24, frames: int = 9440, hops: int = 760, pairs: int = 1500, step: float = 2.4, longest: float = 60.0,
    spacing: float = 50.0,
) -> tuple[np.ndarray, float]:  # fmt: skip
    """Displacements (Å) with lasting hops and with pairs there and back, 1 to `longest` ps apart (log-uniform); and D (Å²/fs)."""
    rng = np.random.default_rng(seed)
    jumps = np.zeros((frames, ions, 3))
    for number, returns in ((rng.poisson(hops), False), (rng.poisson(pairs), True)):
        frame, ion, axis = (rng.integers(most, size=number) for most in (frames, ions, 3))
        sign = rng.choice([-step, step], number)
        np.add.at(jumps, (frame, ion, axis), sign)
        if returns:
            back = frame + (longest ** rng.random(number) * 1000.0 / spacing).astype(int)
            seen = back < frames
            np.add.at(jumps, (back[seen], ion[seen], axis[seen]), -sign[seen])
    return np.cumsum(jumps, axis=0) + 0.15 * rng.normal(size=jumps.shape), hops * step**2 / (6 * ions * frames * spacing)


def gaussian_walkers(seed: int, *, ions: int = 32, frames: int = 500, width: float = 0.4) -> tuple[Trajectory, float]:
    """Walkers with Gaussian steps of standard deviation `width` Å per axis, and their D in cm²/s."""
    rng = np.random.default_rng(seed)
    moved = np.cumsum(width * rng.normal(size=(frames, ions, 3)), axis=0)
    host = np.broadcast_to(lattice(2, 6.0), (frames, 8, 3))
    return trajectory_of(moved, host, 12.0 * np.eye(3)), width**2 / 2.0 / SPACING * 0.1


def crystal(
    seed: int, *, frames: int = 400, vibration: float = 0.0, volume_noise: float = 0.0, images: int = 0, hops: int = 0
) -> Trajectory:
    """27 Li on a lattice and 8 S, vibrating (Å per axis), in a cell of fluctuating volume (relative standard deviation).

    `images` puts every atom a random number of cells (up to ±images) away, `hops` moves single ions by 4 Å for good.
    """
    rng = np.random.default_rng(seed)
    lengths = 12.0 * np.cbrt(1.0 + volume_noise * rng.normal(size=frames))
    cells = lengths[:, None, None] * (np.eye(3) + 0.1 * np.array([[0, 1, 0], [0, 0, 1], [0, 0, 0]]))
    sites = np.concatenate([lattice(3, 1 / 3), lattice(2, 1 / 3) + 1 / 6]) + rng.integers(-images, images + 1, (35, 3))
    scaled = np.broadcast_to(sites, (frames, 35, 3)) + vibration / 12.0 * rng.normal(size=(frames, 35, 3))
    for hop in range(hops):
        scaled[(hop + 1) * frames // (hops + 1) :, hop] += np.array([1 / 3, 0, 0])
    positions = scaled @ cells
    return trajectory_of(positions[:, :27], positions[:, 27:], cells)


def write_extxyz(path: Path, trajectory: Trajectory, *, wrapped: bool = False, times: bool = True, steps: bool = True) -> Path:
    from ase import Atoms
    from ase.io import write

    frames = []
    for k in range(len(trajectory.positions)):
        place, cell = trajectory.positions[k].numpy(), trajectory.cell[k].numpy()
        atoms = Atoms(numbers=trajectory.numbers.numpy(), positions=place, cell=cell, pbc=True)
        if wrapped:
            atoms.wrap()
        atoms.info |= ({"time_fs": float(trajectory.times[k])} if times else {}) | ({"step": 50 * k} if steps else {})
        frames.append(atoms)
    write(path, frames, format="extxyz")
    return path


def write_xdatcar(path: Path, trajectory: Trajectory, *, first: int = 1, variable: bool = False) -> Path:
    """VASP's format, wrapped; gzipped where the name ends in .gz."""
    import gzip

    header = ["Li S", "1.0"]
    numbers = trajectory.numbers.numpy()
    lines: list[str] = []
    for k in range(len(trajectory.positions)):
        cell = trajectory.cell[k].numpy()
        if variable or k == 0:
            rows = [" ".join(f"{v:.10f}" for v in row) for row in cell]
            lines += [*header, *rows, "Li S", f"{int((numbers == 3).sum())} {int((numbers == 16).sum())}"]
        lines.append(f"Direct configuration={first + k:6d}")
        scaled = (trajectory.positions[k].numpy() @ np.linalg.inv(cell)) % 1.0
        lines += [" ".join(f"{v:.10f}" for v in row) for row in scaled]
    text = "\n".join(lines) + "\n"
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path
