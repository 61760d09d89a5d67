"""T27: activation energies from noisy diffusivities."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

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
