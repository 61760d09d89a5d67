"""Block errors and autocorrelation times on series with a known answer."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import lfilter

from mdistill.analysis.statistics import autocorrelation_time, block_error, effective_samples, mean_of
from mdistill.errors import BadInput


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
    means, stated, blocks = [], [], []
    for seed in range(150):
        series = correlated(seed, 2000, 0.8)
        estimate = mean_of(series, unit="eV")
        means.append(estimate.value)
        stated.append(estimate.error)
        blocks.append(block_error(series, blocks=10))
    assert np.mean(stated) == pytest.approx(np.std(means), rel=0.15)
    assert np.mean(blocks) == pytest.approx(np.std(means), rel=0.15)


def test_constant_and_short_series() -> None:
    assert autocorrelation_time(np.full(50, 3.0)) == 1.0
    assert mean_of(np.full(50, 3.0), unit="K").error == 0.0
    assert autocorrelation_time(np.array([1.0, 2.0])) == 1.0


def test_block_error_of_several_columns_uses_whole_blocks() -> None:
    table = np.random.default_rng(1).normal(size=(103, 4))
    means = table[3:].reshape(10, 10, 4).mean(1)
    assert block_error(table) == pytest.approx(means.std(0, ddof=1) / np.sqrt(10))


def test_bad_input() -> None:
    with pytest.raises(BadInput, match="2 to the number of samples"):
        block_error(np.zeros(5), blocks=10)
    with pytest.raises(BadInput, match="finite"):
        mean_of(np.array([1.0, np.nan]), unit="eV")
