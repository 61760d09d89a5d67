"""Arithmetic of estimates, means and slopes of correlated series with a known answer, gates."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import lfilter

from mdistill.errors import BadInput
from mdistill.estimates import (
    Estimate,
    autocorrelation_time,
    effective_samples,
    exactly,
    gate,
    mean_of,
    median_of,
    slope_of,
    unknown,
    worst_gate,
)


def correlated(seed: int, count: int, memory: float) -> np.ndarray:
    """x(t+1) = m x(t) + √(1 − m²) ξ: unit variance, τ = (1 + m)/(1 − m)."""
    rng = np.random.default_rng(seed)
    noise = np.sqrt(1 - memory**2) * rng.normal(size=count)
    noise[0] /= np.sqrt(1 - memory**2)
    return lfilter([1.0], [1.0, -memory], noise)


@pytest.mark.parametrize("memory", [0.0, 0.5, 0.9])
def test_autocorrelation_time(memory: float) -> None:
    expected = (1 + memory) / (1 - memory)
    assert autocorrelation_time(correlated(0, 200_000, memory)) == pytest.approx(expected, rel=0.12)
    assert effective_samples(correlated(0, 200_000, memory)) == pytest.approx(200_000 / expected, rel=0.15)


def test_errors_of_correlated_means_are_calibrated() -> None:
    means, stated = [], []
    for seed in range(150):
        series = correlated(seed, 2000, 0.8)
        estimate = mean_of(series, unit="eV")
        means.append(estimate.value)
        stated.append(estimate.error)
    assert np.mean(stated) == pytest.approx(np.std(means), rel=0.15)
    inside = np.mean([abs(mean) < 1.96 * error for mean, error in zip(means, stated, strict=True)])
    assert 0.90 <= inside <= 0.98


def test_constant_and_short_series() -> None:
    assert autocorrelation_time(np.full(50, 3.0)) == 1.0
    assert mean_of(np.full(50, 3.0), unit="K").error == 0.0
    assert autocorrelation_time(np.array([1.0, 2.0])) == 1.0


def test_bad_input() -> None:
    with pytest.raises(BadInput, match="finite"):
        mean_of(np.array([1.0, np.nan]), unit="eV")
    with pytest.raises(BadInput, match="finite"):
        mean_of(np.zeros(0), unit="eV")
    with pytest.raises(BadInput, match="at least 10"):
        slope_of(np.arange(9.0), np.arange(9.0), "K/ps", fluctuation_unit="K")


def test_a_single_sample_has_no_error() -> None:
    assert mean_of(np.array([2.0]), unit="K") == exactly(2.0, "K")


@pytest.mark.parametrize("memory", [0.0, 0.8])
def test_slopes_of_correlated_series_are_calibrated(memory: float) -> None:
    times = np.linspace(0.0, 10.0, 2500)
    off = []
    for seed in range(200):
        slope, fluctuation = slope_of(times, 0.3 * times + correlated(seed, 2500, memory), "K/ps", fluctuation_unit="K")
        off.append((slope.value - 0.3) / slope.error)
        assert fluctuation.value == pytest.approx(1.0, rel=0.35)
    assert np.std(off) == pytest.approx(1.0, abs=0.25)


def test_the_error_of_a_median_is_calibrated() -> None:
    rng = np.random.default_rng(2)
    found = [median_of(rng.normal(5.0, 2.0, 41), "s") for _ in range(300)]
    assert np.mean([m.error for m in found]) == pytest.approx(np.std([m.value for m in found]), rel=0.15)


numbers = st.floats(-1e3, 1e3).filter(lambda x: abs(x) > 1e-3)
estimates = st.builds(lambda v, e: Estimate(value=v, error=e, unit="eV", samples=5), numbers, st.floats(1e-3, 10.0))


@given(estimates, estimates)
def test_sums_and_ratios(a: Estimate, b: Estimate) -> None:
    assert (a + b).value == pytest.approx(a.value + b.value) and (a - b).value == pytest.approx(a.value - b.value)
    assert (a + b).error == (a - b).error == pytest.approx(np.hypot(a.error, b.error))
    assert (a + b).error == (b + a).error and (a + b).unit == "eV"
    ratio = a.over(b, "×")
    assert ratio.value == pytest.approx(a.value / b.value) and ratio.unit == "×"
    assert ratio.error / abs(ratio.value) == pytest.approx(np.hypot(a.error / a.value, b.error / b.value))


@given(estimates, numbers)
def test_scaling_goes_there_and_back(a: Estimate, factor: float) -> None:
    full = Estimate(value=a.value, error=a.error, unit="eV", interval=(a.value - a.error, a.value + 2 * a.error))
    there = full.scaled(factor, "meV")
    assert there.error > 0 and there.interval[0] < there.value < there.interval[1]
    back = there.scaled(1.0 / factor, "eV")
    assert back.value == pytest.approx(full.value) and back.interval == pytest.approx(full.interval)


def test_limits_and_what_is_unknown() -> None:
    below = Estimate(value=None, error=None, unit="cm²/s", upper_limit=2.0)
    assert below.scaled(3.0, "mS/cm").upper_limit == 6.0
    with pytest.raises(ValueError, match="upper limit"):
        below.scaled(-1.0, "mS/cm")
    with pytest.raises(ValueError, match="cannot be added"):
        exactly(1.0, "eV") + exactly(1.0, "meV")
    assert (exactly(1.0, "eV") + unknown("eV")).value is None and (exactly(1.0) + exactly(2.0)).error is None
    assert exactly(1.0).over(exactly(0.0), "×").value is None and abs(exactly(-2.0)).value == 2.0


@pytest.mark.parametrize("bad", [None, float("nan"), float("inf")])
def test_what_is_not_finite_passes_no_gate(bad: float | None) -> None:
    for sense in ("at most", "at least"):
        assert not gate(
            "g", Estimate(value=bad, error=0.1, unit=""), -np.inf if sense == "at least" else np.inf, sense=sense
        ).passed
    assert not gate("g", Estimate(value=0.0, error=float("nan"), unit=""), 1.0, errors=2.0).passed
    assert not worst_gate("g", {"a": (exactly(0.1), 1.0), "b": (Estimate(value=bad, error=None, unit=""), 1.0)}, "error").passed
    assert not worst_gate("g", {}, "error").passed


def test_gates_know_their_side_and_their_errors() -> None:
    near = Estimate(value=1.1, error=0.1, unit="K")
    assert not gate("g", near, 1.0).passed and gate("g", near, 1.0, errors=2.0).passed
    assert gate("g", near, 1.0, sense="at least").passed and not gate("g", near, 1.4, sense="at least", errors=2.0).passed
    worst = worst_gate("g", {"a": (exactly(0.5, "K"), 1.0), "b": (exactly(0.9, "K"), 3.0)}, "error")
    assert worst.passed and worst.measured.value == 0.5 and set(worst.parts) == {"a", "b"}
