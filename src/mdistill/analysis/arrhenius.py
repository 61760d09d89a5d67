"""Activation energy and extrapolation of diffusivities or conductivities at several temperatures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

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
        unit: Unit of y.
    """

    energy: Estimate
    prefactor: Estimate
    covariance: tuple[tuple[float, float], tuple[float, float]]
    temperatures: tuple[float, ...]
    chi_squared: float | None
    unit: str

    def at(self, temperature_K: float) -> Estimate:
        """y at a temperature with its 95 % interval; see `is_extrapolation`."""
        beta = 1.0 / (BOLTZMANN * temperature_K)
        gradient = np.array([1.0, -beta])
        spread = float(np.sqrt(max(gradient @ np.array(self.covariance) @ gradient, 0.0)))
        log_value = np.log(_number(self.prefactor)) - _number(self.energy) * beta
        return _from_log(float(log_value), spread, self.unit, len(self.temperatures))

    def is_extrapolation(self, temperature_K: float) -> bool:
        """Whether the temperature lies outside the range that was measured."""
        return not self.temperatures[0] <= temperature_K <= self.temperatures[-1]


def arrhenius(points: Sequence[tuple[float, Estimate]]) -> Arrhenius:
    r"""Weighted straight line through ln y against 1/(k_B T).

    ln y = ln y0 − Ea/(k_B T)      weight 1/s²      s = (ln high − ln low)/3.92 of the 95 % interval, else error/value

    The errors of the points are taken as given and enlarged by √(χ²/degrees of freedom) where the points scatter more.
    Estimates without a value (below detection) are left out.

    Args:
        points: (temperature K, estimate of y) pairs.
    Raises:
        BadInput: Fewer than two different temperatures with a positive value and error, or a temperature ≤ 0.
    """
    if any(not t > 0 for t, _ in points):
        raise BadInput("temperatures", f"{[t for t, _ in points]}", allowed="> 0 K", fix="correct the temperatures")
    usable = sorted(((t, e) for t, e in points if e.value is not None and e.value > 0 and e.error), key=lambda point: point[0])
    temperatures = np.array([t for t, _ in usable])
    if len(set(temperatures.tolist())) < 2:
        problem = f"{len(usable)} usable of {len(points)}: {temperatures.tolist()} K"
        allowed = "at least two temperatures with a measured value"
        raise BadInput("temperatures", problem, allowed=allowed, fix="run more or hotter temperatures, or longer")
    y = np.log([_number(e) for _, e in usable])
    spread = np.array([_log_error(e) for _, e in usable])
    shift = float((1.0 / (BOLTZMANN * temperatures)).mean())
    design = np.stack([np.ones_like(y), shift - 1.0 / (BOLTZMANN * temperatures)], axis=1)
    covariance = np.linalg.inv(design.T @ (design / spread[:, None] ** 2))
    middle, energy = covariance @ design.T @ (y / spread**2)
    free = len(y) - 2
    chi_squared = float((((y - design @ [middle, energy]) / spread) ** 2).sum() / free) if free else None
    covariance = covariance * max(1.0, chi_squared or 1.0)
    to_origin = np.array([[1.0, shift], [0.0, 1.0]])
    covariance = to_origin @ covariance @ to_origin.T
    return Arrhenius(
        energy=Estimate(value=float(energy), error=float(np.sqrt(covariance[1, 1])), unit="eV", samples=len(y)),
        prefactor=_from_log(float(middle + energy * shift), float(np.sqrt(covariance[0, 0])), usable[0][1].unit, len(y)),
        covariance=((float(covariance[0, 0]), float(covariance[0, 1])), (float(covariance[1, 0]), float(covariance[1, 1]))),
        temperatures=tuple(temperatures.tolist()),
        chi_squared=chi_squared,
        unit=usable[0][1].unit,
    )


def _number(estimate: Estimate) -> float:
    return float(estimate.value if estimate.value is not None else np.nan)


def _log_error(estimate: Estimate) -> float:
    if estimate.interval is not None and estimate.interval[0] > 0:
        return float(np.log(estimate.interval[1] / estimate.interval[0]) / 3.92)
    return float((estimate.error or 0.0) / _number(estimate))


def _from_log(log_value: float, spread: float, unit: str, samples: int) -> Estimate:
    value = float(np.exp(log_value))
    low, high = (float(np.exp(log_value + sign * 1.96 * spread)) for sign in (-1, 1))
    return Estimate(value=value, error=value * spread, unit=unit, samples=samples, interval=(low, high))
