r"""Numbers with error bars: arithmetic, means of correlated series, medians, straight lines, and gates on them.

Errors are standard errors. Independent errors add in quadrature; every mean of a series uses one rule:

    error = s √(τ/n)      s: standard deviation of the n samples   τ: integrated autocorrelation time (samples)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from jaxtyping import Float

from mdistill.errors import BadInput

_MEDIAN, _TO_DEVIATION = 1.2533141373155003, 1.4826022185056018
"""√(π/2): error of a median over that of a mean. Standard over median absolute deviation of a normal distribution."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A reported number.

    `a + b` and `a - b` add errors in quadrature and want one unit. Only `scaled` keeps intervals and limits.

    Attributes:
        value: The number; None where it lies below what the data can detect (then `upper_limit` is set) or is not known.
        error: One standard error, same unit; None where no error can be stated (a count, a setting).
        unit: Unit of value and error, "" for a pure number.
        samples: Number of (effectively independent) samples.
        interval: 95 % interval where it is not value ± 1.96 error.
        upper_limit: 95 % upper limit where value is None.
    """

    value: float | None
    error: float | None
    unit: str
    samples: int = 1
    interval: tuple[float, float] | None = None
    upper_limit: float | None = None

    def __add__(self, other: Estimate) -> Estimate:
        return self._with(other, 1.0)

    def __sub__(self, other: Estimate) -> Estimate:
        return self._with(other, -1.0)

    def __abs__(self) -> Estimate:
        return Estimate(
            value=None if self.value is None else abs(self.value), error=self.error, unit=self.unit, samples=self.samples
        )

    def scaled(self, factor: float, unit: str) -> Estimate:
        """The estimate times an exact factor, in another unit; interval and limit are carried along.

        Raises:
            ValueError: An upper limit times a factor below zero.
        """
        if factor < 0.0 and self.upper_limit is not None:
            raise ValueError(f"an upper limit cannot be multiplied by {factor}")
        value, error, limit = (None if x is None else factor * x for x in (self.value, self.error, self.upper_limit))
        interval = None if self.interval is None else (factor * self.interval[0], factor * self.interval[1])
        return Estimate(
            value=value, error=None if error is None else abs(error), unit=unit, samples=self.samples,
            interval=interval if interval is None or factor >= 0.0 else (interval[1], interval[0]), upper_limit=limit,
        )  # fmt: skip

    def over(self, other: Estimate, unit: str) -> Estimate:
        """The ratio of two independent estimates; relative errors add in quadrature."""
        if self.value is None or not other.value:
            return Estimate(value=None, error=None, unit=unit, samples=min(self.samples, other.samples))
        ratio, error = self.value / other.value, None
        if self.error is not None and other.error is not None:
            error = math.hypot(self.error / other.value, ratio * other.error / other.value)
        return Estimate(value=ratio, error=error, unit=unit, samples=min(self.samples, other.samples))

    def _with(self, other: Estimate, sign: float) -> Estimate:
        if self.unit != other.unit:
            raise ValueError(f"estimates in {self.unit!r} and {other.unit!r} cannot be added")
        value = None if self.value is None or other.value is None else self.value + sign * other.value
        error = None if self.error is None or other.error is None else math.hypot(self.error, other.error)
        return Estimate(value=value, error=error, unit=self.unit, samples=min(self.samples, other.samples))


def exactly(value: float | None, unit: str = "", *, samples: int = 1) -> Estimate:
    """A number without error: a count, a setting, a number measured once; None where it is not known."""
    return Estimate(value=None if value is None else float(value), error=None, unit=unit, samples=samples)


def unknown(unit: str = "") -> Estimate:
    """What was not measured."""
    return Estimate(value=None, error=None, unit=unit, samples=0)


def autocorrelation_time(series: Float[np.ndarray, " sample"], *, window: float = 5.0) -> float:
    r"""Integrated autocorrelation time in samples; 1 for independent samples.

    τ = 1 + 2 Σ_{k=1}^{M} ρ(k)      ρ: normalised autocorrelation (by FFT)   M: smallest lag with M ≥ window · τ(M)

    Args:
        series: Evenly spaced samples.
        window: Length of the sum in units of τ (Sokal's c).
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
    """Mean of a correlated series with the error of the head of this file; no error where it has one sample.

    Raises:
        BadInput: No sample, or a value that is not finite.
    """
    values = np.asarray(series, dtype=np.float64)
    if not len(values) or not np.isfinite(values).all():
        problem = f"{len(values)} samples, finite: {bool(np.isfinite(values).all())}"
        raise BadInput("series", problem, allowed="finite samples", fix="run longer or discard less")
    if len(values) == 1:
        return exactly(values[0], unit)
    samples = effective_samples(values)
    error = float(values.std(ddof=1) / np.sqrt(samples))
    return Estimate(value=float(values.mean()), error=error, unit=unit, samples=max(1, int(samples)))


def median_of(values: Float[np.ndarray, " sample"], unit: str) -> Estimate:
    """Median of independent samples; its error is √(π/2) s/√n, s from the median absolute deviation."""
    values = np.asarray(values, dtype=np.float64)
    middle = float(np.median(values))
    deviation = _TO_DEVIATION * float(np.median(np.abs(values - middle)))
    return Estimate(value=middle, error=_MEDIAN * deviation / math.sqrt(len(values)), unit=unit, samples=len(values))


def slope_of(
    x: Float[np.ndarray, " sample"], y: Float[np.ndarray, " sample"], unit: str, *, fluctuation_unit: str, name: str = "series"
) -> tuple[Estimate, Estimate]:
    r"""Slope of a straight line through a correlated series, and the root mean square of the residuals.

    y = a + b x;   error of b = s √τ / √Σ(x − x̄)²     s: residual standard deviation   τ: its autocorrelation time (samples)

    Raises:
        BadInput: Fewer than 10 samples, or values that are not finite.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if len(x) < 10 or not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise BadInput(name, f"{len(x)} samples, or not finite", allowed="at least 10 finite samples", fix="run longer")
    x, y = x - x.mean(), y - y.mean()
    slope = float(x @ y / (x @ x))
    residuals = y - slope * x
    scatter = float(np.sqrt(residuals @ residuals / (len(x) - 2)))
    independent = autocorrelation_time(residuals)
    samples = max(1, int(len(x) / independent))
    error = scatter * math.sqrt(independent) / math.sqrt(float(x @ x))
    return (
        Estimate(value=slope, error=error, unit=unit, samples=samples),
        Estimate(value=scatter, error=scatter / math.sqrt(2.0 * samples), unit=fluctuation_unit, samples=samples),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """One validation check: the measured value must be `sense` the limit (in measured.unit).

    Attributes:
        name: Subject of the check.
        measured, limit, sense: What is compared.
        passed: The verdict; true where the check is not `judged`.
        detail: Further text.
        parts: Everything that was compared, by name.
        limits: Limits of the parts where they differ, in the units of the parts.
        judged: False for a check without a verdict, such as a slope that shows that a conductivity is only a bound.
        fix: What to do where it failed: one sentence.
    """

    name: str
    measured: Estimate
    limit: float
    passed: bool
    detail: str = ""
    parts: dict[str, Estimate] = field(default_factory=dict)
    sense: Literal["at most", "at least"] = "at most"
    limits: dict[str, float] = field(default_factory=dict)
    judged: bool = True
    fix: str = ""


def gate(
    name: str, measured: Estimate, limit: float, detail: str = "", *, parts: Mapping[str, Estimate] | None = None,
    sense: Literal["at most", "at least"] = "at most", errors: float = 0.0,
) -> Gate:  # fmt: skip
    """A gate that passes where the value is on the right side of the limit, or `errors` standard errors from it.

    A value that is unknown or not finite fails.
    """
    value, slack = measured.value, errors * (measured.error or 0.0)
    passed = value is not None and math.isfinite(value) and math.isfinite(slack)
    if value is not None and passed:
        passed = value - slack <= limit if sense == "at most" else value + slack >= limit
    return Gate(name=name, measured=measured, limit=limit, passed=passed, detail=detail, parts=dict(parts or {}), sense=sense)


def worst_gate(name: str, judged: Mapping[str, tuple[Estimate, float]], what: str) -> Gate:
    """The gate of the group with the largest measured/limit; fails where nothing was measured or a value is not finite."""
    if not judged:
        return gate(name, unknown(), 0.0, "nothing to compare: no such held-out data")
    shares = {n: _share(estimate, limit) for n, (estimate, limit) in judged.items()}
    worst = max(shares, key=lambda n: shares[n])
    estimate, limit = judged[worst]
    if math.isinf(shares[worst]):
        return gate(name, unknown(estimate.unit), limit, f"{what} is not finite ({worst})")
    detail = f"{what}, worst of {len(judged)}: {worst}, {100.0 * shares[worst]:.3g} % of the limit"
    parts, limits = {n: e for n, (e, _) in judged.items()}, {n: limit for n, (_, limit) in judged.items()}
    return replace(gate(name, estimate, limit, detail), parts=parts, limits=limits if len(set(limits.values())) > 1 else {})


def _share(estimate: Estimate, limit: float) -> float:
    known = estimate.value is not None and math.isfinite(estimate.value)
    return float(estimate.value or 0.0) / limit if known else math.inf
