"""Displacements in the frame of the host lattice, and the mean square displacement with errors."""

from __future__ import annotations

import numpy as np
import torch
from ase.data import atomic_numbers, chemical_symbols
from jaxtyping import Float, Int

from mdistill.analysis.statistics import Curve
from mdistill.errors import BadInput
from mdistill.types import Trajectory


def atoms_of(trajectory: Trajectory, species: str) -> Int[np.ndarray, " ion"]:
    """Indices of the atoms of one element.

    Raises:
        BadInput: No such element, or none of it in the trajectory.
    """
    present = sorted({chemical_symbols[z] for z in trajectory.numbers.tolist()})
    indices = np.flatnonzero(trajectory.numbers.cpu().numpy() == atomic_numbers.get(species, -1))
    if not len(indices):
        raise BadInput(
            "species", f"{species!r} is not in the trajectory", allowed=f"one of {', '.join(present)}", fix="choose one of them"
        )
    return indices


def frame_spacing(trajectory: Trajectory) -> float:
    """Time between frames (fs).

    Raises:
        BadInput: Fewer than four frames, or times that are not evenly spaced (a frame is missing).
    """
    times = trajectory.times.double().cpu().numpy()
    if len(times) < 4:
        raise BadInput("trajectory", f"{len(times)} frames", allowed="at least 4", fix="run longer or write frames more often")
    steps = np.diff(times)
    uneven = np.flatnonzero(np.abs(steps - steps[0]) > 1e-3 * abs(steps[0]))
    if steps[0] <= 0 or len(uneven):
        first = int(uneven[0]) + 1 if len(uneven) else 1
        problem = f"frame {first} comes {steps[first - 1]:g} fs after the one before it, others {np.median(steps):g} fs"
        allowed = "evenly spaced frames"
        raise BadInput("trajectory", problem, allowed=allowed, fix="add the missing frames, or analyse the pieces apart")
    return float(np.median(steps))


def mean_cell_positions(trajectory: Trajectory) -> Float[np.ndarray, "frame atom 3"]:
    r"""Positions with the breathing of the cell taken out: scaled coordinates of each frame, laid in the mean cell.

    x_i(t) = r_i(t) · h(t)⁻¹ · ⟨h⟩      r: unwrapped positions (Å)   h: cell, rows are lattice vectors

    Atoms of an ideal crystal under pressure control then do not move, however large the volume fluctuations.
    Constant and open cells are left as they are.

    Raises:
        BadInput: A position or a cell that is not finite.
    Reference:
        Why unwrapped Cartesian positions mislead under pressure control: Bullerjahn et al., J. Chem. Theory Comput. 19, 3406
        (2023), doi 10.1021/acs.jctc.3c00308.
    """
    positions, cells = (tensor.double().cpu().numpy() for tensor in (trajectory.positions, trajectory.cell))
    bad = ~(np.isfinite(positions).all(axis=(1, 2)) & np.isfinite(cells).all(axis=(1, 2)))
    if bad.any():
        problem = f"NaN or infinite value in frame {int(np.argmax(bad))}"
        raise BadInput("trajectory", problem, allowed="finite numbers", fix="discard the broken frames")
    if np.allclose(cells, cells[0], rtol=0, atol=1e-9) or np.any(np.abs(np.linalg.det(cells)) < 1e-6):
        return positions
    return positions @ (np.linalg.inv(cells) @ cells.mean(axis=0))


def displacements(trajectory: Trajectory, *, species: str, mobile: str | None = None) -> Float[np.ndarray, "frame ion 3"]:
    """Positions (Å) of the ions of one element less the mean displacement of the host since frame 0.

    The host is every atom that is not of the mobile element (default: not of `species`). Where there is none, nothing is
    subtracted.
    """
    ions = atoms_of(trajectory, species)
    positions = mean_cell_positions(trajectory)
    host = np.setdiff1d(np.arange(positions.shape[1]), atoms_of(trajectory, mobile or species))
    if not len(host):
        return positions[:, ions]
    drift = (positions[:, host] - positions[0, host]).mean(axis=1, keepdims=True)
    return positions[:, ions] - drift


def geometric_lags(frames: int, *, count: int = 40, longest: float = 0.5) -> Int[np.ndarray, " lag"]:
    """At most `count` distinct lags (frames), evenly spaced in the logarithm, from 1 to `longest` times the run."""
    last = max(2, int(longest * (frames - 1)))
    return np.unique(np.round(np.geomspace(1, last, count)).astype(np.int64))


def mean_square_displacement(trajectory: Trajectory, *, species: str, lags: Int[np.ndarray, " lag"] | None = None) -> Curve:
    r"""Squared displacement of one species relative to the host, averaged over ions and overlapping time windows.

    msd(τ) = ⟨|r_i(t+τ) − r_i(t)|²⟩      variance(τ) = var(|Δr|²) / n(τ)      n(τ) = N T/τ

    N ions in a run of length T hold n independent windows of length τ; the overlapping ones only smooth the mean.

    Args:
        trajectory: Unwrapped positions (Å), evenly spaced frames.
        species: Element symbol of the mobile ion.
        lags: Lags in frames; default: 40 geometric lags up to half of the run.
    Returns:
        Lags (fs) and msd (Å²) with one standard error.
    Raises:
        BadInput: Species absent, frames unevenly spaced, values not finite, a lag outside the run.
    Reference:
        McCluskey et al., J. Chem. Theory Comput. 21, 79 (2025), doi 10.1021/acs.jctc.4c01249.
    """
    spacing = frame_spacing(trajectory)
    moved = displacements(trajectory, species=species)
    return msd_of(moved, spacing, lags=lags, label=species)


def msd_of(
    moved: Float[np.ndarray, "frame ion 3"], spacing: float, *, lags: Int[np.ndarray, " lag"] | None = None, label: str = ""
) -> Curve:
    """`mean_square_displacement` of positions (Å) already in the frame of the host; spacing of the frames in fs."""
    frames, ions = moved.shape[:2]
    lags = geometric_lags(frames) if lags is None else np.asarray(lags, dtype=np.int64)
    if not len(lags) or lags.min() < 1 or lags.max() >= frames:
        raise BadInput("lags", f"{lags.tolist()[:5]} …", allowed=f"1 to {frames - 1} frames", fix="choose lags within the run")
    mean, variance = np.empty(len(lags)), np.empty(len(lags))
    for k, lag in enumerate(lags):
        squared = ((moved[lag:] - moved[:-lag]) ** 2).sum(axis=-1)
        mean[k], variance[k] = squared.mean(), squared.var() / independent_windows(lag, frames, ions)
    tensors = (torch.from_numpy(a) for a in (lags * spacing, mean, np.sqrt(variance)))
    x, y, error = tensors
    return Curve(x=x, y=y, error=error, x_unit="fs", y_unit="Å²", label=label)


def independent_windows(lag: Int[np.ndarray, ""] | int, frames: int, ions: int) -> float:
    """Number of windows of `lag` frames that fit into the run without overlap, times the ions; at least 1."""
    return max(1.0, ions * (frames - 1) / float(lag))
