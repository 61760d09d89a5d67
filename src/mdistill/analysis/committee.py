"""Two-level analysis of variance: statistical error of the runs, and model error from the scatter between students."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from scipy.optimize import brentq

from mdistill.analysis.arrhenius import Arrhenius
from mdistill.estimates import Estimate
from mdistill.units import BOLTZMANN

LOG_SCALE, ENERGY_SCALE = 0.3, 0.05
"""Scale of the prior of the scatter between students: of ln D, and of an activation energy (eV)."""
AGREE = 0.3
"""Prior probability that students differ by statistics only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scatter:
    """Scatter between students of a quantity, and the error of their mean (in the unit of the values).

    Attributes:
        statistical: Standard error of the mean from the errors of the students.
        model: Standard error of the mean from the scatter between students.
        half_width: Half of the 95 % interval of the mean.
    """

    statistical: float
    model: float
    half_width: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Committee:
    """An estimate of several students: `total` carries both errors (one standard error each, in its unit)."""

    total: Estimate
    statistical: Estimate
    model: Estimate


def scatter(values: Sequence[float], errors: Sequence[float], *, scale: float, weights: Sequence[float] | None = None) -> Scatter:
    r"""Model and statistical error of the weighted mean of two or more students.

    y_j = μ + b_j + e_j      b_j ~ N(0, τ²): students      e_j ~ N(0, s_j²): statistics
    variance of the mean = Σ w_j² s_j² + τ² Σ w_j²

    τ has its posterior under the restricted likelihood and the prior 0.3 δ(τ) + 0.7 half-Cauchy(`scale`), so that two or three
    students neither hide a difference nor invent one. The 95 % interval is that of the mixture of normals over τ.

    Args:
        values: Value of each student.
        errors: Its statistical error.
        scale: Scale of the prior of τ.
        weights: Share of each student in the mean; default: equal.
    Reference:
        Prior of few groups: Gelman, Bayesian Anal. 1, 515 (2006), doi 10.1214/06-BA117A.
    """
    from scipy.stats import norm

    y, variance = np.asarray(values, float), np.maximum(np.asarray(errors, float), 1e-9 * scale) ** 2
    share = np.full(len(y), 1.0 / len(y)) if weights is None else np.asarray(weights, float) / np.sum(weights)
    tau = scale * np.concatenate([[0.0], np.geomspace(3e-3, 30.0, 120)])
    prior = np.gradient(tau) / (1.0 + (tau / scale) ** 2)
    prior[0] = 0.0
    prior *= (1.0 - AGREE) / prior.sum()
    prior[0] = AGREE
    log_likelihood = _restricted(y, variance, tau)
    posterior = prior * np.exp(log_likelihood - log_likelihood.max())
    posterior /= posterior.sum()
    statistical, spread = float((share**2 * variance).sum()), float((share**2).sum())
    deviation = np.sqrt(statistical + tau**2 * spread)
    width = brentq(lambda h: posterior @ (2.0 * norm.cdf(h / deviation) - 1.0) - 0.95, 0.0, 10.0 * deviation[-1])
    return Scatter(statistical=statistical**0.5, model=float(np.sqrt(posterior @ tau**2 * spread)), half_width=float(width))


def _restricted(
    y: Float[np.ndarray, " student"], variance: Float[np.ndarray, " student"], tau: Float[np.ndarray, " grid"]
) -> Float[np.ndarray, " grid"]:
    weight = 1.0 / (variance + tau[:, None] ** 2)
    mean = (weight * y).sum(axis=1) / weight.sum(axis=1)
    square = (weight * (y - mean[:, None]) ** 2).sum(axis=1)
    return np.asarray(0.5 * (np.log(weight).sum(axis=1) - np.log(weight.sum(axis=1)) - square))


def committee_estimate(
    pooled: Estimate, students: Mapping[int, Estimate], runs: Mapping[int, int] | None = None
) -> Committee | None:
    """The pooled estimate with statistical and model error; None where fewer than two students have a positive value.

    Relative errors are those of the logarithms.

    Args:
        pooled: Estimate of all runs together.
        students: Estimate of each student alone.
        runs: Number of runs of each student; default: equal.
    """
    known = {number: e for number, e in students.items() if e.value is not None and e.value > 0 and e.error}
    if pooled.value is None or not pooled.value > 0 or len(known) < 2:
        return None
    logs = [float(np.log(e.value or 1.0)) for e in known.values()]
    weights = [float(runs[number]) if runs else 1.0 for number in known]
    found = scatter(logs, [_relative(e) for e in known.values()], scale=LOG_SCALE, weights=weights)
    value, error = pooled.value, float(np.hypot(found.statistical, found.model))
    low, high = (value * float(np.exp(sign * found.half_width)) for sign in (-1, 1))
    total = replace(pooled, error=value * error, interval=(low, high))
    parts = (Estimate(value=value * part, error=None, unit=pooled.unit) for part in (found.statistical, found.model))
    statistical, model = parts
    return Committee(total=total, statistical=statistical, model=model)


def with_model_error(committee: Committee, relative: float) -> Committee:
    """The estimate with a model error of at least `relative` of its value; the 95 % interval of the logarithm widens alike."""
    value = float(committee.total.value or 1.0)
    statistical, model = (float(part.value or 0.0) / value for part in (committee.statistical, committee.model))
    if model >= relative:
        return committee
    error = float(np.hypot(statistical, relative))
    known, ends = float(np.hypot(statistical, model)), committee.total.interval
    if known > 0.0 and ends is not None:
        low, high = (value * (end / value) ** (error / known) for end in ends)
    else:
        low, high = (value * float(np.exp(sign * 1.96 * error)) for sign in (-1.0, 1.0))
    total = replace(committee.total, error=value * error, interval=(low, high))
    return replace(committee, total=total, model=replace(committee.model, value=value * relative))


def _relative(estimate: Estimate) -> float:
    """Standard error of the logarithm."""
    if estimate.interval is not None and estimate.interval[0] > 0:
        return float(np.log(estimate.interval[1] / estimate.interval[0]) / 3.92)
    return float((estimate.error or 0.0) / (estimate.value or 1.0))


def committee_arrhenius(pooled: Arrhenius, students: Sequence[Arrhenius]) -> tuple[Arrhenius, Scatter]:
    r"""The pooled Arrhenius fit with the scatter between the students' fits in its covariance, and that of Ea (eV).

    Ea and ln y at the temperature where the two are uncorrelated, 1/(k_B T*) = cov(ln y0, Ea)/var(Ea), are compared apart.
    """
    (_, shared), (_, variance) = pooled.covariance
    middle = shared / variance if variance > 0 else 0.0
    energies = [float(fit.energy.value or 0.0) for fit in students]
    of_energy = scatter(energies, [float(fit.energy.error or 0.0) for fit in students], scale=ENERGY_SCALE)
    at = [fit.at(1.0 / (BOLTZMANN * middle)) for fit in students] if middle > 0 else []
    logs = [float(np.log(e.value or 1.0)) for e in at]
    of_log = scatter(logs, [_relative(e) for e in at], scale=LOG_SCALE).model if at else 0.0
    added = np.outer([middle, 1.0], [middle, 1.0]) * of_energy.model**2 + np.diag([of_log**2, 0.0])
    covariance = np.array(pooled.covariance) + added
    energy = replace(pooled.energy, error=float(np.sqrt(covariance[1, 1])), interval=None)
    rows = tuple((float(row[0]), float(row[1])) for row in covariance)
    fit = replace(pooled, energy=energy, covariance=(rows[0], rows[1]))
    return replace(fit, prefactor=fit.at(1e12)), of_energy
