"""T27: activation energies from noisy diffusivities."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import chi2

from mdistill.analysis.arrhenius import arrhenius
from mdistill.errors import BadInput
from mdistill.estimates import Estimate
from mdistill.units import BOLTZMANN

TEMPERATURES = np.array([600.0, 700.0, 800.0, 1000.0])
ENERGY, PREFACTOR = 0.35, 2e-3
RELATIVE = np.array([0.25, 0.15, 0.08, 0.04])


def measured(seed: int, *, stated: float = 1.0) -> list[tuple[float, Estimate]]:
    """D at four temperatures with log-normal noise; `stated`: the stated over the true error."""
    rng = np.random.default_rng(seed)
    true = PREFACTOR * np.exp(-ENERGY / (BOLTZMANN * TEMPERATURES))
    values = true * np.exp(RELATIVE * rng.normal(size=4))
    return [
        (float(t), Estimate(value=float(v), error=float(v * s * stated), unit="cm²/s"))
        for t, v, s in zip(TEMPERATURES, values, RELATIVE, strict=True)
    ]


def coverage(*, stated: float = 1.0, boltzmann: float = 1.0) -> tuple[float, float]:
    energy = room = 0
    true_room = PREFACTOR * np.exp(-ENERGY / (BOLTZMANN * 300.0))
    for seed in range(400):
        fit = arrhenius(measured(seed, stated=stated))
        assert fit.energy.value is not None and fit.energy.error is not None
        energy += abs(fit.energy.value * boltzmann - ENERGY) <= 1.96 * fit.energy.error
        interval = fit.at(300.0).interval
        assert interval is not None
        room += interval[0] <= true_room <= interval[1]
    return energy / 400, room / 400


def check(**bug: float) -> tuple[float, float]:
    energy, room = coverage(**bug)
    assert 0.90 <= energy <= 1.0 and 0.90 <= room <= 1.0
    return energy, room


def test_coverage(trust: Callable[..., None]) -> None:
    energy, room = check()
    trust("T27", "coverage of the 95 % interval of Ea, 400 sets of four noisy D", energy, "0.90–1.00")
    trust("T27", "coverage of the 95 % interval of D extrapolated to 300 K", room, "0.90–1.00")


@pytest.mark.planted
@pytest.mark.parametrize("bug", [{"stated": 0.3}, {"boltzmann": 1.2}])
def test_coverage_notices(bug: dict[str, float], trust: Callable[..., None]) -> None:
    with pytest.raises(AssertionError):
        check(**bug)
    trust("T27", f"planted: {bug}", "noticed", "noticed", planted=True)


def test_exact_points_give_the_exact_line() -> None:
    points = [
        (float(t), Estimate(value=float(PREFACTOR * np.exp(-ENERGY / (BOLTZMANN * t))), error=1e-12, unit="cm²/s"))
        for t in TEMPERATURES
    ]
    fit = arrhenius(points)
    assert fit.energy.value == pytest.approx(ENERGY, rel=1e-6)
    assert fit.prefactor.value == pytest.approx(PREFACTOR, rel=1e-6)
    assert fit.at(300.0).value == pytest.approx(PREFACTOR * np.exp(-ENERGY / (BOLTZMANN * 300)), rel=1e-5)
    assert fit.is_extrapolation(300.0) and not fit.is_extrapolation(650.0)


def counted(rng: np.random.Generator, *, symmetric: bool = False) -> list[tuple[float, Estimate]]:
    """D from a handful of hops at each temperature, with the exact interval of a Poisson count; `symmetric`: of its width."""
    expected = np.array([5.0, 8.0, 12.0, 20.0])
    true = PREFACTOR * np.exp(-ENERGY / (BOLTZMANN * TEMPERATURES))
    points = []
    for t, mean, d in zip(TEMPERATURES, expected, true, strict=True):
        n = max(1, int(rng.poisson(mean)))
        value = float(d * n / mean)
        low, high = float(chi2.ppf(0.025, 2 * n) / (2 * n)), float(chi2.ppf(0.975, 2 * n + 2) / (2 * n))
        if symmetric:
            low, high = (float((high / low) ** (sign / 2)) for sign in (-1, 1))
        interval = (value * low, value * high)
        points.append((float(t), Estimate(value=value, error=value / float(np.sqrt(n)), unit="cm²/s", interval=interval)))
    return points


def outside(*, symmetric: bool = False) -> tuple[float, float]:
    """Shares of 400 sets with D at 300 K below and above its 95 % interval."""
    rng, true = np.random.default_rng(11), PREFACTOR * np.exp(-ENERGY / (BOLTZMANN * 300.0))
    ends = np.array([arrhenius(counted(rng, symmetric=symmetric)).at(300.0).interval for _ in range(400)], dtype=float)
    return float((true < ends[:, 0]).mean()), float((true > ends[:, 1]).mean())


def test_asymmetric_intervals_are_carried_to_300_K(trust: Callable[..., None]) -> None:
    below, above = outside()
    assert below + above <= 0.08
    room = arrhenius(counted(np.random.default_rng(11))).at(300.0)
    assert room.interval is not None and room.value is not None
    assert np.log(room.value / room.interval[0]) != pytest.approx(np.log(room.interval[1] / room.value), rel=0.02)
    trust("T27", "few hops: share of 95 % intervals of D at 300 K that miss the true D", below + above, "≤ 0.08")


def curved_share(curvature: float) -> float:
    """Share of 200 sets whose parabola differs from a line by 1.96 errors."""
    count = 0
    for seed in range(200):
        beta = 1.0 / (BOLTZMANN * TEMPERATURES)
        bent = np.exp(0.5 * curvature * (beta - beta.mean()) ** 2)
        points = [(t, e.scaled(float(b), e.unit)) for (t, e), b in zip(measured(seed), bent, strict=True)]
        found = arrhenius(points).curvature
        assert found is not None and found.value is not None and found.error is not None
        count += abs(found.value) > 1.96 * found.error
    return count / 200


def test_curvature_is_tested(trust: Callable[..., None]) -> None:
    straight, bent = curved_share(0.0), curved_share(0.06)
    assert straight <= 0.08 and bent >= 0.8
    trust("T27", "share of straight lines called curved, and of curved ones", f"{straight:.2f}, {bent:.2f}", "≤ 0.08, ≥ 0.8")


def test_p_value_of_chi_squared() -> None:
    p_values = [arrhenius(measured(seed)).p_value or 0.0 for seed in range(200)]
    assert 0.01 <= np.mean(np.array(p_values) < 0.05) <= 0.10
    assert arrhenius(measured(0)[:2]).p_value is None and arrhenius(measured(0)[:2]).curvature is None


def test_points_without_a_finite_error_are_left_out() -> None:
    bad = [Estimate(value=v, error=e, unit="cm²/s") for v, e in ((np.nan, 1e-6), (1e-6, np.inf), (-1e-6, 1e-7), (1e-6, None))]
    fit = arrhenius([*((900.0, e) for e in bad), *measured(0)])
    assert fit == arrhenius(measured(0))


def test_limits_are_left_out_and_two_temperatures_suffice() -> None:
    limit = Estimate(value=None, error=None, unit="cm²/s", upper_limit=1e-8)
    fit = arrhenius([(300.0, limit), *measured(0)[:2]])
    assert fit.temperatures == (600.0, 700.0) and fit.chi_squared is None


def test_one_temperature_is_too_few() -> None:
    limit = Estimate(value=None, error=None, unit="cm²/s", upper_limit=1e-8)
    with pytest.raises(BadInput, match="at least two temperatures"):
        arrhenius([measured(0)[0], (300.0, limit)])
    with pytest.raises(BadInput, match="> 0 K"):
        arrhenius([(-5.0, limit)])
