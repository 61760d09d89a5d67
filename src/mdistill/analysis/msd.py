"""Displacements in the frame of the host lattice, and the mean square displacement with errors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from ase.data import atomic_numbers, chemical_symbols
from jaxtyping import Float, Int

from mdistill.analysis.statistics import Curve
from mdistill.errors import BadInput
from mdistill.types import Trajectory
from mdistill.units import PS


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
    moved: Float[np.ndarray, "frame ion 3"] | Sequence[Float[np.ndarray, "_ ion 3"]], spacing: float, *,
    lags: Int[np.ndarray, " lag"] | None = None, label: str = "",
) -> Curve:  # fmt: skip
    """`mean_square_displacement` of positions (Å) already in the frame of the host; spacing of the frames in fs.

    Independent runs of one state are pooled: each weighs with its number of independent windows, and only at lags that fit in it.
    """
    runs = [moved] if isinstance(moved, np.ndarray) else list(moved)
    frames = max(len(run) for run in runs)
    lags = geometric_lags(frames) if lags is None else np.asarray(lags, dtype=np.int64)
    if not len(lags) or lags.min() < 1 or lags.max() >= frames:
        raise BadInput("lags", f"{lags.tolist()[:5]} …", allowed=f"1 to {frames - 1} frames", fix="choose lags within the run")
    mean, variance = np.empty(len(lags)), np.empty(len(lags))
    for k, lag in enumerate(lags):
        fitting = fits_in(lag, runs)
        squared = [((run[lag:] - run[:-lag]) ** 2).sum(axis=-1) for run in fitting]
        weight = np.array([len(run) - 1.0 for run in fitting]) / sum(len(run) - 1.0 for run in fitting)
        mean[k] = weight @ [s.mean() for s in squared]
        scatter = weight @ [((s - mean[k]) ** 2).mean() for s in squared]
        variance[k] = scatter / pooled_windows(lag, runs)
    tensors = (torch.from_numpy(a) for a in (lags * spacing, mean, np.sqrt(variance)))
    x, y, error = tensors
    return Curve(x=x, y=y, error=error, x_unit="fs", y_unit="Å²", label=label)


def fits_in(lag: int, runs: Sequence[Float[np.ndarray, "_ ion 3"]]) -> list[Float[np.ndarray, "_ ion 3"]]:
    """The runs of which a lag (frames) is at most 90 %; all that are longer than the lag where there is none."""
    fitting = [run for run in runs if lag <= 0.9 * (len(run) - 1)]
    return fitting or [run for run in runs if lag < len(run)]


def pooled_windows(lag: int, runs: Sequence[Float[np.ndarray, "_ ion 3"]]) -> float:
    """Number of windows of `lag` frames that fit into the runs without overlap, times the ions."""
    return sum(independent_windows(lag, *run.shape[:2]) for run in fits_in(lag, runs))


def independent_windows(lag: Int[np.ndarray, ""] | int, frames: int, ions: int) -> float:
    """Number of windows of `lag` frames that fit into the run without overlap, times the ions; at least 1."""
    return max(1.0, ions * (frames - 1) / float(lag))


def inflation_of(runs: Sequence[Float[np.ndarray, "_ ion 3"]], spacing: float, curve: Curve) -> float:
    r"""How much ions that move together, and runs that differ, enlarge the variance of the MSD over that of independent ions.

    g = max(g₁, (5 g₁ + (R − 1) g₂)/(R + 4))

    g₁ ≥ 1: variance over windows of the squared displacement averaged over ions, over the variance of one ion divided by the
    number of ions; mean of windows of 1, 2 and 4 ps. g₂, of R ≥ 4 runs: variance of the MSD between runs over that of
    independent windows, mean of lags of 1/20, 1/10 and 1/5 of the shortest run.

    Args:
        runs: Displacements of each run, Å.
        spacing: Time between frames (fs).
        curve: Pooled MSD with errors.
    """
    ratios = []
    for lag in sorted({max(1, round(time / spacing)) for time in (1 * PS, 2 * PS, 4 * PS)}):
        squared = [(np.diff(run[::lag], axis=0) ** 2).sum(-1) for run in runs if len(run) > 4 * lag]
        apart = np.concatenate([s - s.mean() for s in squared]) if squared else np.zeros((0, 1))
        if len(apart) >= 8 and apart.var() > 0:
            ratios.append(apart.mean(1).var() * len(apart) / (len(apart) - len(squared)) * apart.shape[1] / apart.var())
    within = max(1.0, float(np.mean(ratios))) if ratios else 1.0
    if len(runs) < 4:
        return within
    between, shortest = [], min(len(run) for run in runs)
    for lag in (shortest // share for share in (20, 10, 5)):
        if lag < 1:
            continue
        means = np.array([((run[lag:] - run[:-lag]) ** 2).sum(-1).mean() for run in runs])
        windows = np.array([independent_windows(lag, *run.shape[:2]) for run in runs])
        mean = windows @ means / windows.sum()
        variance = float(np.interp(lag * spacing, curve.x.numpy(), curve.error.numpy())) ** 2 * windows.sum()
        if variance > 0:
            between.append(float(windows @ (means - mean) ** 2) / (len(runs) - 1) / variance)
    if not between:
        return within
    freedom = len(runs) - 1
    return max(within, (5.0 * within + freedom * float(np.mean(between))) / (5.0 + freedom))
