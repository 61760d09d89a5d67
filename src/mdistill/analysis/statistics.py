"""Errors of averages over correlated samples: block averages, autocorrelation times; and the `Curve` type of the estimators."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from torch import Tensor

from mdistill.errors import BadInput
from mdistill.types import Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A measured function y(x).

    Attributes:
        x: [point] abscissa in x_unit.
        y: [point] ordinate in y_unit.
        error: [point] one standard error of y.
        x_unit: Unit of x.
        y_unit: Unit of y and error, "" for a pure number.
        label: What it shows, e.g. "Li–S".
        blocks: [block, point] y of each time block, where the error comes from blocks; None elsewhere.
    """

    x: Float[Tensor, " point"]
    y: Float[Tensor, " point"]
    error: Float[Tensor, " point"]
    x_unit: str
    y_unit: str
    label: str = ""
    blocks: Float[Tensor, "block point"] | None = None


def autocorrelation_time(series: Float[np.ndarray, " sample"], *, window: float = 5.0) -> float:
    r"""Integrated autocorrelation time in samples; 1 for independent samples.

    τ = 1 + 2 Σ_{k=1}^{M} ρ(k)      ρ: normalised autocorrelation (by FFT)   M: smallest lag with M ≥ window · τ(M)

    Args:
        series: Evenly spaced samples.
        window: How many τ the sum runs over (Sokal's c).
    Returns:
        τ ≥ 1 (samples); 1 for a constant or a series shorter than 4.
    Reference:
        Sokal, in Functional Integration, Springer 1997, doi 10.1007/978-1-4899-0319-8_6.
    """
    values = np.asarray(series, dtype=np.float64)
    n = len(values)
    centred = values - values.mean() if n else values
    if n < 4 or not np.any(np.abs(centred) > 1e-14 * max(1.0, float(np.abs(values).max()))):
        return 1.0
    spectrum = np.fft.rfft(centred, 2 * n)
    correlation = np.fft.irfft(np.abs(spectrum) ** 2)[:n]
    tau = 2.0 * np.cumsum(correlation / correlation[0]) - 1.0
    closed = np.arange(n) >= window * tau
    return float(max(1.0, tau[int(np.argmax(closed)) if closed.any() else n - 1]))


def effective_samples(series: Float[np.ndarray, " sample"]) -> float:
    """Number of independent samples that carry as much information on the mean: n/τ, at least 1."""
    return max(1.0, len(series) / autocorrelation_time(series))


def mean_of(series: Float[np.ndarray, " sample"], *, unit: str) -> Estimate:
    """Mean of a correlated series; error = standard deviation · √(τ/n).

    Raises:
        BadInput: Fewer than two samples, or a value that is not finite.
    """
    values = np.asarray(series, dtype=np.float64)
    if len(values) < 2 or not np.isfinite(values).all():
        raise BadInput(
            "series",
            f"{len(values)} samples, finite: {bool(np.isfinite(values).all())}",
            allowed="at least 2 finite samples",
            fix="run longer or discard less",
        )
    samples = effective_samples(values)
    return Estimate(
        value=float(values.mean()), error=float(values.std(ddof=1) / np.sqrt(samples)), unit=unit, samples=max(1, int(samples))
    )


def block_error(series: Float[np.ndarray, "sample ..."], *, blocks: int = 10) -> Float[np.ndarray, "..."]:  # noqa: UP037
    r"""Standard error of the mean over the first axis from contiguous blocks.

    error = √( Σ_b (ȳ_b − ȳ)² / (B (B − 1)) )      ȳ_b: mean of block b   B: number of blocks

    Right once a block is longer than a few autocorrelation times. Samples that do not fill a block are left out at the start.

    Raises:
        BadInput: Fewer than two blocks, or fewer samples than blocks.
    Reference:
        Flyvbjerg and Petersen, J. Chem. Phys. 91, 461 (1989), doi 10.1063/1.457480.
    """
    values = np.asarray(series, dtype=np.float64)
    if blocks < 2 or len(values) < blocks:
        raise BadInput(
            "blocks", f"{blocks} for {len(values)} samples", allowed="2 to the number of samples", fix="use fewer blocks"
        )
    size = len(values) // blocks
    means = values[len(values) - size * blocks :].reshape(blocks, size, *values.shape[1:]).mean(axis=1)
    return means.std(axis=0, ddof=1) / np.sqrt(blocks)


def scaled(estimate: Estimate, factor: float, unit: str) -> Estimate:
    """The estimate in another unit."""
    value, error = estimate.value, estimate.error
    return replace(
        estimate, value=None if value is None else factor * value, error=None if error is None else factor * error, unit=unit
    )
