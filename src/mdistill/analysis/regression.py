"""The line through a mean square displacement: how its errors are correlated, from which lag on it is straight, its slope."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """c + m τ: slope m and its standard error (Å²/fs), offset c and its standard error (Å²)."""

    slope: float
    slope_error: float
    offset: float
    offset_error: float


def covariance(curve: Curve, windows: Float[np.ndarray, " lag"]) -> Float[np.ndarray, "lag lag"]:
    r"""Covariance (Å⁴) of the MSD at two lags i ≤ j: that of a random walk, and white noise of the vibration on the diagonal.

    C_ij = b_i n_i²/(n_i n_j) + δ_ij (s_i² − b_i)      s_i: error of the MSD   n: independent windows

    b_i ≤ s_i² is the largest random-walk part for which C is positive definite (b n² must grow with the lag).
    """
    variance = curve.error.numpy() ** 2
    walk = np.minimum.accumulate((variance * windows**2)[::-1])[::-1]
    order = np.arange(len(windows))
    spread = walk[np.minimum.outer(order, order)] / np.outer(windows, windows)
    return spread + np.diag(variance - np.diag(spread))


def modelled_errors(curve: Curve, windows: Float[np.ndarray, " lag"], start: int) -> Curve:
    r"""The curve with the errors of a hopping walk around the line fitted from lag `start` on.

    s² n = q L + p L²      L: line c + m τ (Å²)   n: independent windows   q ≥ 0: from hops of finite length (Å²)
                           p ≥ 2/3: 2/3 for Gaussian displacements, more where some ions move and others do not

    p and q are fitted to the measured variances from 1 ps on. Errors read straight off the data would be small where the MSD
    happens to be small, and noisy at long lags where few windows are left: weights that follow them bias D and upset it.
    """
    y, variance, first = curve.y.numpy(), curve.error.numpy() ** 2 * windows, earliest_start(curve)
    if not ((variance[first:] > 0).all() and (y[first:] > 0).all()):
        return curve
    weight, late = np.sqrt(windows[first:]), y[first:]
    excess = weight * (variance[first:] / late**2 - 2 / 3)
    (heterogeneity, hop), _ = nnls(np.stack([weight, weight / late], axis=1), excess)
    line, fitted = y[start:], curve
    for _ in range(3):
        modelled = np.sqrt(((2 / 3 + heterogeneity) * line**2 + hop * line) / windows[start:])
        fitted = replace(curve, error=torch.cat([curve.error[:start], torch.from_numpy(modelled)]))
        found = straight_line(fitted, windows, start)
        line = found.offset + found.slope * curve.x[start:].numpy()
        if not (line > 0).all():
            break
    return fitted


def choose_start(curve: Curve, windows: Float[np.ndarray, " lag"]) -> int:
    r"""Index of the first lag of the fit: the earliest from which the line agrees with those of twice and four times that lag.

    Candidates run from 1 ps (ballistic motion and vibration are over) to a quarter of the longest lag. If the MSD is
    straight from lag s on, the slopes of the efficient fits from s and from a later L obey var(m_L − m_s) = var(m_L) − var(m_s)
    (Hausman); s is refused where a difference exceeds three such standard deviations.

    Reference:
        Hausman, Econometrica 46, 1251 (1978), doi 10.2307/1913827.
    """
    lags = curve.x.numpy()
    first, last = earliest_start(curve), latest_start(curve)

    def fit(start: int) -> Line:
        return straight_line(modelled_errors(curve, windows, start), windows, start)

    for start in range(first, last):
        here = fit(start)
        later = (fit(min(int(np.searchsorted(lags, k * lags[start])), last)) for k in (2, 4))
        if all(_agree(here, there) for there in later):
            return start
    return last


def earliest_start(curve: Curve) -> int:
    """Index of the first lag from 1 ps on, at most `latest_start`."""
    return min(int(np.searchsorted(curve.x.numpy(), RATTLING_TIME * (1 - 1e-9))), latest_start(curve))


def latest_start(curve: Curve, *, share: float = 0.25) -> int:
    """Index of the lag at `share` of the longest, with at least four lags left to fit."""
    return min(int(np.searchsorted(curve.x.numpy(), share * curve.x[-1].item())), len(curve.x) - 4)


def _agree(early: Line, late: Line) -> bool:
    return (late.slope - early.slope) ** 2 <= 3.0**2 * max(late.slope_error**2 - early.slope_error**2, 0.0)


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


def straight_line(curve: Curve, windows: Float[np.ndarray, " lag"], start: int) -> Line:
    """Generalised least squares of MSD = c + m τ from lag `start` on."""
    x, y = curve.x.numpy()[start:], curve.y.numpy()[start:]
    return _weighted_line(x, y, covariance(curve, windows)[start:, start:])


def _weighted_line(x: Float[np.ndarray, " lag"], y: Float[np.ndarray, " lag"], spread: Float[np.ndarray, "lag lag"]) -> Line:
    weight = np.linalg.pinv(spread, hermitian=True)
    scale = float(np.abs(x).max())
    design = np.stack([x / scale, np.ones_like(x)], axis=1)
    parameters = np.linalg.pinv(design.T @ weight @ design, hermitian=True)
    slope, offset = parameters @ design.T @ weight @ y
    errors = np.sqrt(np.maximum(np.diag(parameters), 0.0))
    return Line(
        slope=float(slope / scale), slope_error=float(errors[0] / scale), offset=float(offset), offset_error=float(errors[1])
    )


def long_slope(curve: Curve, windows: Float[np.ndarray, " lag"]) -> Estimate:
    """d ln(MSD)/d ln(τ) over the longest lags (a factor of five), with the error from the covariance."""
    near = np.flatnonzero((curve.x.numpy() >= curve.x[-1].item() / 5) & (curve.y.numpy() > 0))
    if len(near) < 3:
        return Estimate(value=None, error=None, unit="")
    x, y = np.log(curve.x.numpy()[near]), curve.y.numpy()[near]
    spread = covariance(curve, windows)[np.ix_(near, near)] / np.outer(y, y)
    line = _weighted_line(x - x.mean(), np.log(y), spread)
    return Estimate(value=line.slope, error=line.slope_error, unit="", samples=len(near))
