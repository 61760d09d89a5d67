"""Diffusion along each axis of the cell, and the dimension of the motion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from mdistill.estimates import Estimate, autocorrelation_time
from mdistill.units import PS

OPEN = 0.25
"""A direction is open for diffusion where D along it exceeds this share of the largest D."""
LAG = 5.0 * PS
"""Lag (fs) of the tensor, at most a tenth of the shortest run: beyond most returns, and short enough for many windows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Directions:
    """Diffusion tensor of one species.

    Attributes:
        along: Diffusivity along the lattice vectors a, b and c (cm²/s).
        principal: Eigenvalues of the tensor, largest first (cm²/s).
        dimension: Number of open directions; None where the runs cannot tell.
    """

    along: tuple[Estimate, Estimate, Estimate]
    principal: tuple[Estimate, Estimate, Estimate]
    dimension: int | None


def directions(
    moved: Sequence[Float[np.ndarray, "frame ion 3"]], spacing: float, *, tracer: Estimate, cell: Float[np.ndarray, "3 3"]
) -> Directions | None:
    r"""Tracer diffusivity along each lattice vector, and how many directions are open; None where D was not measured.

    D_e = 3 D eᵀ W e      W = [M(2τ) − M(τ)]/tr[…]      M(τ): mean of Δr Δrᵀ over ions and windows, τ = `LAG`

    The error of W is that of the mean of its correlated series over time, so that ions that hop together count as one.
    A direction is open or closed where its share differs from `OPEN` of the largest by a 95 % (Student's t) interval.

    Args:
        moved: Displacements (Å) in the frame of the host, one array a run.
        spacing: Time between frames (fs).
        tracer: Tracer diffusivity (cm²/s).
        cell: Mean cell (Å), rows are lattice vectors.
    """
    if tracer.value is None:
        return None
    shortest = min(len(run) for run in moved)
    lag = max(1, min(round(LAG / spacing), shortest // 10))
    series = [_tensor_series(run, lag) for run in moved]
    mean = np.concatenate(series).mean(axis=0)
    lengths = np.linalg.norm(cell, axis=1)
    axes = cell / lengths[:, None] if lengths.min() > 1e-3 else np.eye(3)
    if not np.trace(mean) > 0:
        return None
    eigen = np.linalg.eigh(mean)[1].T[::-1]
    along, principal = ([_share(series, axis, lag) for axis in chosen] for chosen in (axes, eigen))
    samples = principal[0].samples
    return Directions(
        along=_scaled(along, tracer), principal=_scaled(principal, tracer), dimension=_dimension(principal, samples)
    )


def _tensor_series(moved: Float[np.ndarray, "frame ion 3"], lag: int) -> Float[np.ndarray, "window 3 3"]:
    """M(2 lag) − M(lag) of each window of two lags (Å²)."""
    once, twice = moved[lag:] - moved[:-lag], moved[2 * lag :] - moved[: -2 * lag]
    ions = moved.shape[1]
    short, long = (step.swapaxes(1, 2) @ step / ions for step in (once, twice))
    return np.asarray(long - (short[:-lag] + short[lag:]) / 2.0)


def _share(series: Sequence[Float[np.ndarray, "window 3 3"]], axis: Float[np.ndarray, " 3"], lag: int) -> Estimate:
    """eᵀ W e with its standard error; samples: number of independent windows."""
    traces = [np.trace(run, axis1=1, axis2=2) for run in series]
    parts = [np.einsum("fab,a,b->f", run, axis, axis) for run in series]
    total = float(np.concatenate(traces).mean())
    value = float(np.concatenate(parts).mean()) / total
    residuals = [part - value * trace for part, trace in zip(parts, traces, strict=True)]
    independent = sum(len(run) / max(autocorrelation_time(run), 4 / 3 * lag) for run in residuals)
    error = float(np.concatenate(residuals).std()) / np.sqrt(max(independent, 1.0)) / total
    return Estimate(value=value, error=float(error), unit="", samples=max(1, int(independent)))


def _scaled(shares: Sequence[Estimate], tracer: Estimate) -> tuple[Estimate, Estimate, Estimate]:
    first, second, third = (_product(share, tracer) for share in shares)
    return first, second, third


def _product(share: Estimate, tracer: Estimate) -> Estimate:
    value, whole = float(share.value or 0.0), 3.0 * float(tracer.value or 0.0)
    error = float(np.hypot((share.error or 0.0) * whole, value * 3.0 * (tracer.error or 0.0)))
    return Estimate(value=value * whole, error=error, unit=tracer.unit, samples=share.samples)


def _dimension(shares: Sequence[Estimate], samples: int) -> int | None:
    """How many directions are open, where every one is known to be open or closed."""
    from scipy.stats import t as student_t

    width = float(student_t.ppf(0.975, max(samples - 1, 1)))
    values, errors = (
        [float(number or 0.0) for number in numbers] for numbers in zip(*((s.value, s.error) for s in shares), strict=True)
    )
    limit, count = OPEN * values[0], 0
    for value, error in zip(values, errors, strict=True):
        if abs(value - limit) < width * error:
            return None
        count += value > limit
    return count or None
