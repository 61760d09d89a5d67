r"""Three fits of a mean square displacement, on walks of known D: bias and coverage of each.

    python -m benchmarks.studies.diffusion_fits [--walks 40]

The candidates share the lags, the error model of a hopping walk and a correction for ions that move together:

    package     today's estimator (`analysis.diffusion`): the earliest start that later starts do not contradict
    late start  one line from 8 % of the run on
    relaxation  MSD = c + 6 D τ − a exp(−τ/τ_c), averaged over τ_c and the line without relaxation by
                weights exp(−½(χ² + 2 k)), k: number of parameters

The inflation g multiplies every covariance: the variance over windows of the displacement averaged over ions, divided by what
independent ions would give; at least 1, pooled over windows of 1, 2 and 4 ps.

Reference:
    Weights: W. I. Jay, E. T. Neil, Phys. Rev. D 103, 114502 (2021), doi 10.1103/PhysRevD.103.114502.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.record import write_record
from mdistill.analysis.diffusion import diffusivity
from mdistill.analysis.msd import geometric_lags, independent_windows, msd_of
from mdistill.analysis.regression import covariance, earliest_start, modelled_errors, straight_line
from mdistill.types import Trajectory
from mdistill.units import DIFFUSIVITY_CM2_S

IONS, SPACING, STEP, HOPS = 24, 50.0, 2.5, 160
"""Ions, time between frames (fs), length of a hop (Å), lasting hops in a run."""
Walk = Callable[[np.random.Generator], tuple[np.ndarray, float]]
Answer = tuple[float, float, float, float]
"""D, its error, and the ends of its 95 % interval, cm²/s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Walks of each kind."""

    walks: int = 40


def lasting(random: np.random.Generator, frames: int, *, hops: int = HOPS, together: int = 1, dimensions: int = 3) -> np.ndarray:
    """Hops of `together` ions at a time, each for good, on vibrating sites."""
    path = 0.12 * random.normal(size=(frames, IONS, 3))
    for _ in range(random.poisson(hops / together)):
        time, first = random.integers(1, frames), together * random.integers(IONS // together)
        for ion in range(first, first + together):
            path[time:, ion, random.integers(dimensions)] += STEP * random.choice([-1.0, 1.0])
    return path


def returning(random: np.random.Generator, frames: int, *, pairs: int = 48, life_ps: float = 3.0) -> np.ndarray:
    """Hops that are taken back."""
    path = np.zeros((frames, IONS, 3))
    for _ in range(random.poisson(pairs)):
        time, stay = random.integers(1, frames), max(1, int(random.exponential(1000.0 * life_ps) / SPACING))
        path[time : time + stay, random.integers(IONS), random.integers(3)] += STEP * random.choice([-1.0, 1.0])
    return path


def caged(random: np.random.Generator, frames: int, *, edge: float, dwell_ps: float) -> np.ndarray:
    """Jumps among the eight corners of a cube."""
    site, path = random.integers(0, 2, (IONS, 3)).astype(float), np.zeros((frames, IONS, 3))
    for k in range(frames):
        moving = np.flatnonzero(random.random(IONS) < SPACING / (1000.0 * dwell_ps))
        axis = random.integers(3, size=len(moving))
        site[moving, axis] = 1.0 - site[moving, axis]
        path[k] = edge * site
    return path


def true_diffusivity(frames: int, hops: int = HOPS) -> float:
    """cm²/s."""
    return hops * STEP**2 / (6.0 * IONS * (frames - 1) * SPACING) * DIFFUSIVITY_CM2_S


SHORT, LONG = 2001, 10001
WALKS: dict[str, Walk] = {
    "lasting hops": lambda r: (lasting(r, SHORT), true_diffusivity(SHORT)),
    "and 30 % jump-and-return pairs": lambda r: (lasting(r, SHORT) + returning(r, SHORT), true_diffusivity(SHORT)),
    "the same for 500 ps": lambda r: (lasting(r, LONG) + returning(r, LONG), true_diffusivity(LONG)),
    "and a fast cage": lambda r: (lasting(r, SHORT) + caged(r, SHORT, edge=1.2, dwell_ps=0.5), true_diffusivity(SHORT)),
    "three ions together": lambda r: (lasting(r, SHORT, together=3), true_diffusivity(SHORT)),
    "one dimension": lambda r: (lasting(r, SHORT, dimensions=1), true_diffusivity(SHORT)),
    "two dimensions": lambda r: (lasting(r, SHORT, dimensions=2), true_diffusivity(SHORT)),
    "30 hops": lambda r: (lasting(r, SHORT, hops=30), true_diffusivity(SHORT, 30)),
    "closed cage, 33 ps a site": lambda r: (lasting(r, SHORT, hops=0) + caged(r, SHORT, edge=2.4, dwell_ps=33.0), 0.0),
}


def package(path: np.ndarray) -> Answer:
    """Of a limit, no value: 0 to the limit."""
    host = np.zeros((len(path), 28, 3))
    run = Trajectory(
        numbers=torch.tensor([3] * IONS + [16] * 28),
        positions=torch.from_numpy(np.concatenate([path, host], axis=1)),
        cell=torch.eye(3, dtype=torch.float64).mul(12.0).expand(len(path), 3, 3).clone(),
        times=SPACING * torch.arange(len(path), dtype=torch.float64),
    )
    tracer = diffusivity(run, species="Li").tracer
    low, high = tracer.interval or (0.0, tracer.upper_limit or 0.0)
    return tracer.value if tracer.value is not None else np.nan, tracer.error or np.nan, low, high


def late_start(path: np.ndarray) -> Answer:
    """One line from 8 % of the run on."""
    curve, windows, inflation = _curve(path)
    start = min(int(np.searchsorted(curve.x.numpy(), 0.08 * SPACING * len(path))), len(curve.x) - 4)
    line = straight_line(modelled_errors(curve, windows, start), windows, start)
    factor = DIFFUSIVITY_CM2_S / 6.0
    value, error = factor * line.slope, factor * inflation**0.5 * line.slope_error
    return value, error, value - 1.96 * error, value + 1.96 * error


def relaxation(path: np.ndarray) -> Answer:
    """The line and one relaxation, averaged."""
    curve, windows, inflation = _curve(path)
    first = earliest_start(curve)
    spread = inflation * covariance(modelled_errors(curve, windows, first), windows)[first:, first:]
    x, y = curve.x.numpy()[first:], curve.y.numpy()[first:]
    times = np.geomspace(700.0, SPACING * len(path) / 8.0, 14)
    fits = [(*_fit(x, y, spread, None), 4.0)]
    fits += [(*_fit(x, y, spread, -np.exp(-x / t)), 6.0 + 2.0 * np.log(len(times))) for t in times]
    slopes, errors, chi_squared, penalty = np.array(fits).T
    weight = np.exp(-0.5 * (chi_squared + penalty - (chi_squared + penalty).min()))
    weight /= weight.sum()
    mean = float(weight @ slopes)
    error = float(np.sqrt(weight @ (errors**2 + slopes**2) - mean**2))
    value, error = mean * DIFFUSIVITY_CM2_S / 6.0, error * DIFFUSIVITY_CM2_S / 6.0
    return value, error, value - 1.96 * error, value + 1.96 * error


def _fit(x: np.ndarray, y: np.ndarray, spread: np.ndarray, extra: np.ndarray | None) -> tuple[float, float, float]:
    """Slope, its error and χ² of generalised least squares."""
    inverse = np.linalg.pinv(spread, hermitian=True)
    design = np.stack([x, np.ones_like(x), *([] if extra is None else [extra])], axis=1)
    parameters = np.linalg.pinv(design.T @ inverse @ design, hermitian=True)
    best = parameters @ design.T @ inverse @ y
    left = y - design @ best
    return float(best[0]), float(np.sqrt(max(parameters[0, 0], 0.0))), float(left @ inverse @ left)


def _curve(path: np.ndarray) -> tuple[Any, np.ndarray, float]:
    """MSD, independent windows, and how much ions that move together inflate its covariance."""
    lags = geometric_lags(len(path))
    ratios = []
    for lag in (round(1000.0 * ps / SPACING) for ps in (1, 2, 4)):
        apart = (np.diff(path[::lag], axis=0) ** 2).sum(-1)
        ratios.append(apart.mean(1).var(ddof=1) / (apart.var(ddof=1) / IONS))
    windows = np.array([independent_windows(lag, len(path), IONS) for lag in lags])
    return msd_of(path, SPACING, lags=lags), windows, max(1.0, float(np.mean(ratios)))


CANDIDATES = {"package": package, "late start": late_start, "relaxation": relaxation}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--walks", type=int, default=40)
    count, rows = parser.parse_args().walks, []
    for kind, walk in WALKS.items():
        made = [walk(np.random.default_rng(seed)) for seed in range(count)]
        true = made[0][1]
        for name, fit in CANDIDATES.items():
            value, error, low, high = np.array([fit(path) for path, _ in made]).T
            ratio = float(np.nanmean(value)) / true if true and not np.isnan(value).all() else None
            rows.append(
                {
                    "walk": kind, "fit": name, "mean D / truth": ratio,
                    "error / truth": float(np.nanmean(error)) / true if ratio else None,
                    "in ± error": int((np.abs(value - true) < error).sum()),
                    "in 95 %": int(((low <= true) & (true <= high)).sum()),
                    "with a value": int((~np.isnan(value)).sum()),
                }
            )  # fmt: skip
    write_record("diffusion_fits", Settings(walks=count), rows)


if __name__ == "__main__":
    main()
