"""Fits to a mean square displacement: covariance of its lags, posterior of the long-time slope, logarithmic slope."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import nnls

from mdistill.analysis.statistics import Curve
from mdistill.errors import BadInput
from mdistill.estimates import Estimate
from mdistill.units import PS

RATTLING_TIME = 1.0 * PS
"""Ions forget ballistic motion and the phase of their vibration within about this time (fs)."""
RELAXATIONS = 14
"""Relaxation times averaged over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Posterior:
    """Posterior of the long-time slope of a mean square displacement: a mixture over fits.

    Attributes:
        weight: Weight of each fit, in sum 1.
        slope: Slope of each fit (Å²/fs), which may be negative.
        error: Its standard error (Å²/fs).
        offset: Intercept of the straight part (Å²), averaged over the fits.
        offset_error: Its standard error (Å²).
        fitted: MSD of the fits at their lags (Å²), averaged.
    """

    weight: Float[np.ndarray, " fit"]
    slope: Float[np.ndarray, " fit"]
    error: Float[np.ndarray, " fit"]
    offset: float
    offset_error: float
    fitted: Float[np.ndarray, " lag"]


def covariance(curve: Curve) -> Float[np.ndarray, "lag lag"]:
    r"""Covariance (Å⁴) of the MSD at two lags τ_i ≤ τ_j: that of a random walk, and white noise of the vibration on the diagonal.

    C_ij = h_i τ_i τ_j + δ_ij (s_i² − h_i τ_i²)      s_i: error of the MSD

    h_i ≤ s_i²/τ_i² is the largest random-walk part for which C is positive definite (h must grow with the lag).

    Reference:
        McCluskey et al., J. Chem. Theory Comput. 21, 79 (2025), doi 10.1021/acs.jctc.4c01249.
    """
    lags, variance = curve.x.numpy(), curve.error.numpy() ** 2
    walk = np.minimum.accumulate((variance / lags**2)[::-1])[::-1]
    order = np.arange(len(lags))
    spread = walk[np.minimum.outer(order, order)] * np.outer(lags, lags)
    return spread + np.diag(variance - np.diag(spread))


def modelled_errors(
    curve: Curve, windows: Float[np.ndarray, " lag"], start: int, *, around: Float[np.ndarray, " late"] | None = None
) -> Curve:
    r"""The curve with the errors of a hopping walk from lag `start` on.

    s² n = p L² + κ τ + v      L: smooth MSD, `around` or a line c + m τ with c and m ≥ 0 (Å²)
                               n: independent windows   κ ≥ 0: hops of finite length (Å⁴/fs)
                               v ≥ 0: rare excursions that end (Å⁴)   p ≥ 2/3: 2/3 for Gaussian displacements in three
                               dimensions, more where some ions move and others do not or the motion has fewer dimensions

    p, κ and v are fitted to the measured variances from 1 ps on. Errors read straight off the data would be small where the MSD
    happens to be small, and noisy at long lags where few windows are left: weights that follow them bias D.
    """
    y, variance, first = curve.y.numpy(), curve.error.numpy() ** 2 * windows, earliest_start(curve)
    if not ((variance[first:] > 0).all() and (y[first:] > 0).all()):
        return curve
    x, late, weight = curve.x.numpy()[first:], y[first:], windows[first:] ** 0.25
    terms = np.stack([weight, weight * x / late**2, weight / late**2], axis=1)
    size = np.linalg.norm(terms, axis=0)
    shares, _ = nnls(terms / size, weight * (variance[first:] / late**2 - 2 / 3))
    spread, hop, excursion = shares / size
    x, smooth = curve.x.numpy()[start:], around
    if smooth is None or not (smooth > 0).all():
        smooth = _rising_line(x, y[start:], windows[start:] ** 0.25)
    modelled = np.sqrt(((2 / 3 + spread) * smooth**2 + hop * x + excursion) / windows[start:])
    return replace(curve, error=torch.cat([curve.error[:start], torch.from_numpy(modelled)]))


def _rising_line(
    x: Float[np.ndarray, " lag"], y: Float[np.ndarray, " lag"], weight: Float[np.ndarray, " lag"]
) -> Float[np.ndarray, " lag"]:
    """The line c + m τ with c and m ≥ 0 of least relative deviation."""
    (slope, offset), _ = nnls(np.stack([weight * x / x[-1] / y, weight / y], axis=1), weight)
    return offset + slope * x / x[-1]


def earliest_start(curve: Curve) -> int:
    """Index of the first lag from 1 ps on; at most a quarter of the longest lag, with at least four lags left to fit."""
    lags = curve.x.numpy()
    latest = min(int(np.searchsorted(lags, 0.25 * lags[-1])), len(lags) - 4)
    return min(int(np.searchsorted(lags, RATTLING_TIME * (1 - 1e-9))), latest)


def given_start(curve: Curve, fit_from: float) -> int:
    """Index of the first lag from a given time (fs) on.

    Raises:
        BadInput: Fewer than four lags would be left.
    """
    lags = curve.x.numpy()
    start = int(np.searchsorted(lags, fit_from * (1 - 1e-9)))
    if start > len(lags) - 4:
        problem = f"{fit_from / PS:g} ps"
        raise BadInput("fit_from_ps", problem, allowed=f"at most {lags[-4] / PS:.3g} ps here", fix="start earlier or run longer")
    return start


def slope_posterior(curve: Curve, start: int, *, longest_relaxation: float | None, inflation: float = 1.0) -> Posterior:
    r"""Posterior of the long-time slope m: a line, and a line with one relaxation of any time τ_c, averaged.

    MSD = c + m τ − a exp(−τ/τ_c)      weight exp(−½ (χ² + 2 k))      k: number of parameters

    Each fit is generalised least squares with the covariance of `covariance`. Hops that are taken back and cages that fill
    within τ_c do not reach m. The 14 values of τ_c share one prior weight.

    Args:
        curve: MSD (Å²) against the lag (fs), with the errors of `modelled_errors`.
        start: Index of the first lag of the fit.
        longest_relaxation: Longest τ_c (fs); None: the line alone.
        inflation: Factor on the covariance for ions that move together.
    Reference:
        Weights: W. I. Jay, E. T. Neil, Phys. Rev. D 103, 114502 (2021), doi 10.1103/PhysRevD.103.114502.
    """
    x, y = curve.x.numpy()[start:], curve.y.numpy()[start:]
    spread = inflation * covariance(curve)[start:, start:]
    line = np.stack([x, np.ones_like(x)], axis=1)
    designs, penalties = [line], [4.0]
    shortest = 0.7 * x[0]
    if longest_relaxation is not None and longest_relaxation > 2.0 * shortest and len(x) > 5:
        for time in np.geomspace(shortest, longest_relaxation, RELAXATIONS):
            designs.append(np.column_stack([line, -np.exp(-x / time)]))
            penalties.append(6.0 + 2.0 * np.log(RELAXATIONS))
    fits = [_least_squares(design, y, spread) for design in designs]
    cost = np.array([chi_squared for _, _, chi_squared in fits]) + penalties
    weight = np.exp(-0.5 * (cost - cost.min()))
    weight /= weight.sum()
    offsets, variances = np.array([(best[1], errors[1, 1]) for best, errors, _ in fits]).T
    offset = float(weight @ offsets)
    return Posterior(
        weight=weight, slope=np.array([best[0] for best, _, _ in fits]),
        error=np.sqrt([max(errors[0, 0], 0.0) for _, errors, _ in fits]), offset=offset,
        offset_error=float(np.sqrt(max(weight @ (variances + offsets**2) - offset**2, 0.0))),
        fitted=weight @ np.array([design @ best for design, (best, _, _) in zip(designs, fits, strict=True)]),
    )  # fmt: skip


def _least_squares(
    design: Float[np.ndarray, "lag parameter"], y: Float[np.ndarray, " lag"], spread: Float[np.ndarray, "lag lag"]
) -> tuple[Float[np.ndarray, " parameter"], Float[np.ndarray, "parameter parameter"], float]:
    """Parameters of generalised least squares, their covariance, and χ²."""
    size = np.abs(design).max(axis=0)
    scaled, inverse = design / size, np.linalg.pinv(spread, hermitian=True)
    parameters = np.linalg.pinv(scaled.T @ inverse @ scaled, hermitian=True)
    best = parameters @ scaled.T @ inverse @ y
    left = y - scaled @ best
    return best / size, parameters / np.outer(size, size), float(left @ inverse @ left)


def share_below_zero(posterior: Posterior) -> float:
    """Probability of a slope below zero where negative ones are allowed: large where no growth is seen."""
    from scipy.stats import norm

    return float(posterior.weight @ norm.cdf(0.0, posterior.slope, np.maximum(posterior.error, 1e-300)))


def positive_slope(posterior: Posterior, *, events: float) -> tuple[float, float, tuple[float, float, float]]:
    r"""Mean, standard deviation, and the 2.5, 97.5 and 95 % points of the slope (Å²/fs), given that it is positive.

    Each fit is a Gamma distribution with mean and standard deviation of its normal distribution cut off at zero. Its relative
    deviation is at least 1/√events: its lower end is then that of the Poisson interval of a count (Garwood, Biometrika 28, 437
    (1936), doi 10.1093/biomet/28.3-4.437).

    Args:
        events: Independent hops seen, at least 1.
    """
    from scipy.stats import gamma, norm

    error = np.maximum(posterior.error, 1e-300)
    z = posterior.slope / error
    shift = np.exp(norm.logpdf(z) - norm.logcdf(z))
    means = np.maximum(posterior.slope + error * shift, 1e-300)
    deviations = np.maximum(error * np.sqrt(np.maximum(1.0 - shift * (shift + z), 1e-4)), means / np.sqrt(events))
    mean = float(posterior.weight @ means)
    deviation = float(np.sqrt(posterior.weight @ (deviations**2 + means**2) - mean**2))
    shapes = (means / deviations) ** 2
    grid = mean * np.geomspace(1e-6, 100.0, 4000)
    below = posterior.weight @ gamma.cdf(grid * (shapes / means)[:, None], shapes[:, None])
    low, high, bound = np.interp([0.025, 0.975, 0.95], below, grid)
    return mean, deviation, (float(low), float(high), float(bound))


def long_slope(curve: Curve, *, inflation: float = 1.0) -> Estimate:
    r"""d ln(MSD − MSD(τ₀))/d ln(τ − τ₀) over the longest lags (a factor of five): 1 diffusive, near 0 caged.

    τ₀, a 25th of the longest lag, takes out vibration and fast cages. Where the MSD does not grow significantly from τ₀ on, it is
    the slope of ln MSD itself, near zero. Errors are those of the line modelled, so that a low MSD does not look precise.

    Args:
        curve: MSD (Å²) against the lag (fs), with the errors of `modelled_errors`.
        inflation: Factor on the covariance for ions that move together.
    """
    lags, y, start = curve.x.numpy(), curve.y.numpy(), earliest_start(curve)
    zero = max(start, min(int(np.searchsorted(lags, lags[-1] / 25)), len(lags) - 6))
    x, y, spread = lags[zero:], y[zero:], inflation * covariance(curve)[zero:, zero:]
    if len(x) < 4 or not (y > 0).all():
        return Estimate(value=None, error=None, unit="")
    modelled = _rising_line(x, y, np.ones_like(x))
    plain = _power(x, y, modelled, spread)
    difference = np.eye(len(x)) - np.eye(len(x))[0]
    growth = difference @ spread @ difference.T
    if y[-1] - y[0] < 2.0 * np.sqrt(growth[-1, -1]) or modelled[-1] <= modelled[0]:
        return plain
    risen = _power(x - x[0], y - y[0], modelled - modelled[0], growth)
    return plain if risen.value is None else risen


def _power(
    x: Float[np.ndarray, " lag"], y: Float[np.ndarray, " lag"], modelled: Float[np.ndarray, " lag"],
    spread: Float[np.ndarray, "lag lag"],
) -> Estimate:  # fmt: skip
    near = np.flatnonzero((x >= x[-1] / 5) & (y > 0) & (modelled > 0))
    if len(near) < 3:
        return Estimate(value=None, error=None, unit="")
    logarithm = np.log(x[near])
    design = np.stack([logarithm - logarithm.mean(), np.ones(len(near))], axis=1)
    relative = spread[np.ix_(near, near)] / np.outer(modelled[near], modelled[near])
    best, errors, _ = _least_squares(design, np.log(y[near]), relative)
    return Estimate(value=float(best[0]), error=float(np.sqrt(max(errors[0, 0], 0.0))), unit="", samples=len(near))
