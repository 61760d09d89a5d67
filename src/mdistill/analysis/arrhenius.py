"""Activation energy and extrapolation of diffusivities or conductivities at several temperatures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from mdistill.errors import BadInput
from mdistill.estimates import Estimate
from mdistill.units import BOLTZMANN


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrhenius:
    """ln y = ln y0 − Ea/(k_B T), fitted.

    Attributes:
        energy: Ea (eV).
        prefactor: y0, in the unit of y, with its (asymmetric) 95 % interval.
        covariance: [[var(ln y0), cov], [cov, var(Ea)]].
        temperatures: Temperatures used (K), ascending.
        chi_squared: Σ (residual/error)² per degree of freedom; None with two temperatures.
        p_value: Probability of a larger χ² if the line is straight and the errors are right; None with two temperatures.
        curvature: Coefficient of ½ (1/(k_B T))² in ln y (eV²), of a parabola; positive: Ea is smaller at low temperature.
            None with two temperatures.
        unit: Unit of y.
        shares: ln y0 and Ea as weighted sums of the ln y of the points.
        log_errors: Lower and upper standard error of the ln y of each point.
    """

    energy: Estimate
    prefactor: Estimate
    covariance: tuple[tuple[float, float], tuple[float, float]]
    temperatures: tuple[float, ...]
    chi_squared: float | None
    unit: str
    p_value: float | None = None
    curvature: Estimate | None = None
    shares: tuple[tuple[float, ...], tuple[float, ...]] = ((), ())
    log_errors: tuple[tuple[float, float], ...] = ()

    def at(self, temperature_K: float) -> Estimate:
        """y at a temperature with its 95 % interval, asymmetric like those of the points; see `is_extrapolation`."""
        beta = 1.0 / (BOLTZMANN * temperature_K)
        gradient = np.array([1.0, -beta])
        spread = float(np.sqrt(max(gradient @ np.array(self.covariance) @ gradient, 0.0)))
        log_value = np.log(_number(self.prefactor)) - _number(self.energy) * beta
        below, above = self._asymmetry(gradient)
        return _from_log(float(log_value), spread, self.unit, len(self.temperatures), below=below, above=above)

    def _asymmetry(self, gradient: Float[np.ndarray, " parameter"]) -> tuple[float, float]:
        """Lower and upper error of a sum of the parameters over the symmetric one."""
        if not self.log_errors:
            return 1.0, 1.0
        share, errors = gradient @ np.array(self.shares), np.array(self.log_errors)
        symmetric = float(np.sqrt(share**2 @ errors.mean(axis=1) ** 2))
        if not symmetric > 0:
            return 1.0, 1.0
        rising = share > 0
        below, above = (np.sqrt(share**2 @ np.where(rising, errors[:, k], errors[:, 1 - k]) ** 2) for k in (0, 1))
        return float(below) / symmetric, float(above) / symmetric

    def is_extrapolation(self, temperature_K: float) -> bool:
        """Whether the temperature lies outside the range that was measured."""
        return not self.temperatures[0] <= temperature_K <= self.temperatures[-1]


def arrhenius(points: Sequence[tuple[float, Estimate]]) -> Arrhenius:
    r"""Weighted straight line through ln y against 1/(k_B T).

    ln y = ln y0 − Ea/(k_B T)      weight 1/s²      s = (ln high − ln low)/3.92 of the 95 % interval, else error/value

    The errors of the points are taken as given and enlarged by √(χ²/degrees of freedom) where the points scatter more. Lower and
    upper errors of a point, (ln y − ln low)/1.96 and (ln high − ln y)/1.96, add in quadrature on the side they act on. A
    parabola tests whether the line is straight. Points without a positive, finite value and error (below detection) are left
    out; the caller leaves out those of another phase.

    Args:
        points: (temperature K, estimate of y) pairs.
    Raises:
        BadInput: Fewer than two different temperatures with a positive value and error, or a temperature ≤ 0.
    """
    from scipy.stats import chi2

    if any(not t > 0 for t, _ in points):
        raise BadInput("temperatures", f"{[t for t, _ in points]}", allowed="> 0 K", fix="correct the temperatures")
    usable = sorted(((t, e) for t, e in points if _usable(e)), key=lambda point: point[0])
    temperatures = np.array([t for t, _ in usable])
    if len(set(temperatures.tolist())) < 2:
        problem = f"{len(usable)} usable of {len(points)}: {temperatures.tolist()} K"
        allowed = "at least two temperatures with a measured value"
        raise BadInput("temperatures", problem, allowed=allowed, fix="run more or hotter temperatures, or longer")
    y, sides = np.log([_number(e) for _, e in usable]), np.array([_log_errors(e) for _, e in usable])
    spread, beta = sides.mean(axis=1), 1.0 / (BOLTZMANN * temperatures)
    middle = float(beta.mean())
    design = np.stack([np.ones_like(y), middle - beta], axis=1)
    covariance = np.linalg.inv(design.T @ (design / spread[:, None] ** 2))
    shares = covariance @ (design / spread[:, None] ** 2).T
    free = len(y) - 2
    squares = float((((y - design @ (shares @ y)) / spread) ** 2).sum())
    chi_squared = squares / free if free else None
    enlarged = max(1.0, chi_squared or 1.0)
    to_origin = np.array([[1.0, middle], [0.0, 1.0]])
    covariance, shares = enlarged * to_origin @ covariance @ to_origin.T, to_origin @ shares
    log_y0, energy = shares @ y
    rows = tuple((float(row[0]), float(row[1])) for row in covariance)
    fit = Arrhenius(
        energy=Estimate(value=float(energy), error=float(np.sqrt(covariance[1, 1])), unit="eV", samples=len(y)),
        prefactor=_from_log(float(log_y0), float(np.sqrt(covariance[0, 0])), usable[0][1].unit, len(y)),
        covariance=(rows[0], rows[1]), temperatures=tuple(temperatures.tolist()), chi_squared=chi_squared, unit=usable[0][1].unit,
        p_value=float(chi2.sf(squares, free)) if free else None,
        curvature=_curvature(beta, y, spread) if len(set(temperatures.tolist())) > 2 else None,
        shares=(tuple(shares[0].tolist()), tuple(shares[1].tolist())),
        log_errors=tuple((float(low), float(high)) for low, high in sides),
    )  # fmt: skip
    below, above = fit._asymmetry(np.array([0.0, 1.0]))
    value, error = float(energy), float(fit.energy.error or 0.0)
    interval = (value - 1.96 * below * error, value + 1.96 * above * error)
    return replace(fit, energy=replace(fit.energy, interval=interval), prefactor=fit.at(np.inf))


def _curvature(
    beta: Float[np.ndarray, " point"], y: Float[np.ndarray, " point"], spread: Float[np.ndarray, " point"]
) -> Estimate:
    centred = beta - beta.mean()
    design = np.stack([np.ones_like(y), centred, 0.5 * centred**2], axis=1) / spread[:, None]
    covariance = np.linalg.inv(design.T @ design)
    best = covariance @ design.T @ (y / spread)
    return Estimate(value=float(best[2]), error=float(np.sqrt(covariance[2, 2])), unit="eV²", samples=len(y))


def _usable(estimate: Estimate) -> bool:
    value, error = estimate.value, estimate.error
    return bool(value is not None and error and 0 < value < np.inf and 0 < error < np.inf)


def _number(estimate: Estimate) -> float:
    return float(estimate.value if estimate.value is not None else np.nan)


def _log_errors(estimate: Estimate) -> tuple[float, float]:
    value, interval = _number(estimate), estimate.interval
    if interval is not None and 0 < interval[0] < value < interval[1]:
        return float(np.log(value / interval[0]) / 1.96), float(np.log(interval[1] / value) / 1.96)
    return float((estimate.error or 0.0) / value), float((estimate.error or 0.0) / value)


def _from_log(log_value: float, spread: float, unit: str, samples: int, *, below: float = 1.0, above: float = 1.0) -> Estimate:
    value = float(np.exp(log_value))
    interval = float(np.exp(log_value - 1.96 * below * spread)), float(np.exp(log_value + 1.96 * above * spread))
    return Estimate(value=value, error=value * spread, unit=unit, samples=samples, interval=interval)
