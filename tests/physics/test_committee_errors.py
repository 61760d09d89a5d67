"""The analysis of variance of a committee: intervals hold the truth whether students agree or not (T27)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

import mdistill.analysis.committee as module
from mdistill.analysis.arrhenius import arrhenius
from mdistill.analysis.committee import committee_arrhenius, committee_estimate, scatter, with_model_error
from mdistill.estimates import Estimate
from mdistill.units import BOLTZMANN

COMMITTEES = 300


def coverage(model: float, statistical: float, students: int = 3) -> tuple[float, float]:
    """Shares of committees whose 95 % interval, and value ± total, hold the truth of ln D; students with two runs each."""
    rng = np.random.default_rng(round(1000 * model + 10 * 1000 * statistical + students))
    held = within = 0
    for _ in range(COMMITTEES):
        error = statistical * np.sqrt(students)
        logs = model * rng.normal(size=students) + error * rng.normal(size=students)
        each = {k + 1: Estimate(value=float(np.exp(y)), error=float(np.exp(y) * error), unit="") for k, y in enumerate(logs)}
        value = float(np.exp(logs.mean()))
        found = committee_estimate(Estimate(value=value, error=value * statistical, unit=""), each)
        assert found is not None and found.total.interval is not None and found.total.error is not None
        held += found.total.interval[0] <= 1.0 <= found.total.interval[1]
        within += abs(np.log(value)) <= found.total.error / value
    return held / COMMITTEES, within / COMMITTEES


@pytest.mark.parametrize("statistical", [0.05, 0.1, 0.2])
@pytest.mark.parametrize("model", [0.0, 0.05, 0.15, 0.3])
def test_committee_covers(model: float, statistical: float, trust: Callable[..., None]) -> None:
    held, within = coverage(model, statistical)
    assert 0.90 <= held <= 1.0
    assert 0.60 <= within <= 0.95
    what = f"three students, model scatter {100 * model:g} %, statistical error {100 * statistical:g} %"
    trust("T27", f"{what}: coverage of the 95 % interval", held, "0.90–1.00")


def shares_held(least: Callable[[list[float]], float]) -> np.ndarray:
    """Shares of 95 % intervals that hold ln D at three temperatures; students differ by 0.02 eV, a barrier softer or harder."""
    rng, held, kelvins = np.random.default_rng(4), np.zeros(3), np.array([500.0, 700.0, 900.0])
    for _ in range(COMMITTEES):
        logs = -rng.normal(0, 0.02, (1, 3)) / (BOLTZMANN * kelvins[:, None]) + rng.normal(0, 0.1, (3, 3))
        found = []
        for row in np.exp(logs):
            each = {k: Estimate(value=float(y), error=0.1 * float(y), unit="") for k, y in enumerate(row)}
            value = float(np.exp(np.log(row).mean()))
            of = committee_estimate(Estimate(value=value, error=0.1 * value / 3**0.5, unit=""), each)
            assert of is not None
            found.append(of)
        floor = least([float(of.model.value or 0.0) / float(of.total.value or 1.0) for of in found])
        ends = [with_model_error(of, floor).total.interval or (2.0, 2.0) for of in found]
        held += [low <= 1.0 <= high for low, high in ends]
    return held / COMMITTEES


def test_temperatures_share_their_model_error(trust: Callable[..., None]) -> None:
    alone, shared = shares_held(lambda _: 0.0), shares_held(lambda models: float(np.median(models)))
    assert (shared >= alone).all() and shared.mean() > alone.mean() + 0.005 and shared.min() >= 0.90
    trust("T27", "model error at least the median of three temperatures: least coverage", float(shared.min()), "≥ 0.90")


def test_a_larger_model_error_widens_the_interval_alike() -> None:
    each = {k: Estimate(value=v, error=0.1, unit="cm²/s") for k, v in enumerate((1.0, 1.02, 0.98))}
    found = committee_estimate(Estimate(value=1.0, error=0.06, unit="cm²/s", interval=(0.9, 1.1)), each)
    assert found is not None and with_model_error(found, 0.0) == found
    wider = with_model_error(found, 0.3)
    assert wider.model.value == pytest.approx(0.3) and wider.statistical == found.statistical
    assert wider.total.error == pytest.approx(np.hypot(found.statistical.value or 0.0, 0.3))
    (low, high), (before, after) = wider.total.interval or (1.0, 1.0), found.total.interval or (1.0, 1.0)
    assert np.log(high) / np.log(after) == pytest.approx(np.log(low) / np.log(before))
    assert np.log(high) / np.log(after) == pytest.approx((wider.total.error or 0.0) / (found.total.error or 1.0))


@pytest.mark.parametrize("students", [2, 5])
def test_other_numbers_of_students(students: int, trust: Callable[..., None]) -> None:
    for model in (0.0, 0.15):
        held, _ = coverage(model, 0.1, students)
        assert held >= 0.88
        trust("T27", f"{students} students, model scatter {100 * model:g} %: coverage of the 95 % interval", held, "≥ 0.88")


@pytest.mark.planted
def test_a_hidden_model_error_is_noticed(monkeypatch: pytest.MonkeyPatch, trust: Callable[..., None]) -> None:
    monkeypatch.setattr(module, "AGREE", 1.0)
    with pytest.raises(AssertionError):
        test_committee_covers(0.3, 0.1, trust=lambda *_, **__: None)
    trust("T27", "planted: scatter between students left out", "noticed", "noticed", planted=True)


def test_parts_of_the_error() -> None:
    alike = scatter([1.0, 1.01, 0.99], [0.2, 0.2, 0.2], scale=0.3)
    apart = scatter([0.6, 1.0, 1.4], [0.02, 0.02, 0.02], scale=0.3)
    assert alike.statistical == pytest.approx(0.2 / 3**0.5) and alike.model < alike.statistical
    assert apart.statistical < 0.02 and 0.2 < apart.model < 0.6 and apart.half_width > 1.5 * apart.model
    uneven = scatter([1.0, 1.0], [0.1, 0.2], scale=0.3, weights=[3, 1])
    assert uneven.statistical == pytest.approx(np.hypot(0.075, 0.05))


def test_one_measured_student_is_no_committee() -> None:
    known, caged = Estimate(value=1.0, error=0.1, unit=""), Estimate(value=None, error=None, unit="", upper_limit=2.0)
    assert committee_estimate(known, {1: known, 2: caged}) is None
    assert committee_estimate(caged, {1: known, 2: known}) is None


TEMPERATURES = (600.0, 700.0, 800.0)


def points(logs: np.ndarray, error: float) -> list[tuple[float, Estimate]]:
    values = np.exp(logs).tolist()
    return [(t, Estimate(value=v, error=error * v, unit="")) for t, v in zip(TEMPERATURES, values, strict=True)]


def lines(energies: list[float], factors: list[float], seed: int) -> tuple[float, float, float]:
    """Total and model error of Ea, and its deviation from 0.3 eV, of a committee of students with these lines."""
    rng = np.random.default_rng(seed)
    fits, sums = [], np.zeros(3)
    for energy, factor in zip(energies, factors, strict=True):
        logs = np.array([factor - energy / (BOLTZMANN * t) for t in TEMPERATURES]) + 0.05 * rng.normal(size=3)
        sums += logs / len(energies)
        fits.append(arrhenius(points(logs, 0.05)))
    pooled = arrhenius(points(sums, 0.05 / len(energies) ** 0.5))
    fit, found = committee_arrhenius(pooled, fits)
    assert fit.energy.value == pooled.energy.value and fit.at(300.0).value == pytest.approx(pooled.at(300.0).value)
    assert (fit.energy.error or 0.0) >= (pooled.energy.error or 0.0) and (fit.at(300.0).error or 0) >= (
        pooled.at(300.0).error or 0
    )
    return float(fit.energy.error or 0.0), found.model, float(fit.energy.value or 0.0) - 0.3


def test_model_error_of_an_activation_energy(trust: Callable[..., None]) -> None:
    rng, held = np.random.default_rng(0), 0
    for seed in range(100):
        total, _, off = lines(list(0.3 + 0.04 * rng.normal(size=3)), list(0.2 * rng.normal(size=3)), seed)
        held += abs(off) <= 1.96 * total
    assert 85 <= held <= 100, held
    trust("T27", "Ea of three students that differ by 0.04 eV: committees of 100 within 1.96 total errors", held, "85–100")
    alike, apart = lines([0.3] * 3, [0.0] * 3, 1)[1], lines([0.2, 0.3, 0.4], [0.0] * 3, 1)[1]
    assert alike < 0.02 and apart > 0.05


def test_a_committee_of_one_slope_shifts_the_prefactor_only() -> None:
    """Students that differ by a factor, not in Ea: the error of D at 300 K grows, that of Ea hardly."""
    same, shifted = lines([0.3] * 3, [0.0] * 3, 2), lines([0.3] * 3, [-0.4, 0.0, 0.4], 2)
    assert shifted[0] == pytest.approx(same[0], rel=0.05)


def test_a_model_error_where_nothing_else_is_known() -> None:
    """Without statistical and model error the interval is that of the new model error, and finite."""
    each = {k: Estimate(value=v, error=0.1, unit="cm²/s") for k, v in enumerate((1.0, 1.02, 0.98))}
    found = committee_estimate(Estimate(value=1.0, error=0.06, unit="cm²/s", interval=(0.9, 1.1)), each)
    assert found is not None
    none = Estimate(value=0.0, error=None, unit="cm²/s")
    total = with_model_error(replace(found, statistical=none, model=none), 0.1).total
    assert total.error == pytest.approx(0.1) and total.interval == pytest.approx((np.exp(-0.196), np.exp(0.196)))
