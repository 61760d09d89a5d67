"""Collective diffusivity, Haven ratio, direction and statistics of hops on walks with a known answer (T22)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import mdistill.analysis.axes as axes_module
import mdistill.analysis.collective as module
import mdistill.analysis.hops as hops_module
from mdistill.analysis.axes import directions
from mdistill.analysis.collective import Collective, collective_diffusion
from mdistill.analysis.hops import count_hops, find_hops, hop_statistics
from mdistill.estimates import Estimate
from mdistill.units import DIFFUSIVITY_CM2_S
from walks import hop_walk, returning_walk

SPACING = 50.0
CUBE = 12.0 * np.eye(3)


def tracer(true: float, seed: int = 0, *, relative: float = 0.1) -> Estimate:
    """The true D (Å²/fs) as it would be measured, in cm²/s."""
    noise = float(np.exp(relative * np.random.default_rng(10_000 + seed).normal()))
    return Estimate(value=DIFFUSIVITY_CM2_S * true * noise, error=DIFFUSIVITY_CM2_S * true * relative, unit="cm²/s")


def walked(seed: int, together: int) -> tuple[Collective, float]:
    moved, true = hop_walk(seed, together=together)
    return collective_diffusion([moved], SPACING, tracer=tracer(true, seed), hops=160, seed=seed), true


def check_haven(together: int) -> tuple[int, float]:
    """Walks of 40 whose interval of H holds 1/together, and the mean of D_c over its true value."""
    held, ratios = 0, []
    for seed in range(40):
        found, true = walked(seed, together)
        for estimate in (found.haven, found.diffusivity):
            assert estimate.interval is not None and (estimate.value is None) == (estimate.upper_limit is not None)
        low, high = found.haven.interval or (0.0, 0.0)
        held += low <= 1 / together <= high
        middle = found.diffusivity.interval or (0.0, 0.0)
        ratios.append(found.diffusivity.value or float(np.sqrt(middle[0] * middle[1])))
        ratios[-1] /= DIFFUSIVITY_CM2_S * together * true
    assert 36 <= held <= 40, held
    assert abs(np.mean(ratios) - 1.0) < 0.15, np.mean(ratios)
    return held, float(np.mean(ratios))


@pytest.mark.parametrize("together", [1, 3])
def test_haven_ratio(together: int, trust: Callable[..., None]) -> None:
    held, ratio = check_haven(together)
    what = f"Haven ratio, {together} ion(s) hop together, 24 ions, 160 hops, 100 ps"
    trust("T22", f"{what}: walks of 40 whose 95 % interval holds 1/{together}", held, "36–40")
    trust("T22", f"{what}: mean collective D over the true one", ratio, "0.85–1.15")


@pytest.mark.planted
@pytest.mark.parametrize("bug", ["sum over one ion less", "periodogram in place of its half"])
def test_a_wrong_haven_ratio_is_noticed(bug: str, monkeypatch: pytest.MonkeyPatch, trust: Callable[..., None]) -> None:
    right = module._spectrum
    if bug.startswith("sum"):
        monkeypatch.setattr(module, "_spectrum", lambda walk, spacing: right(walk - walk.mean(axis=1, keepdims=True), spacing))
    else:
        monkeypatch.setattr(module, "_spectrum", lambda walk, spacing: right(np.sqrt(2.0) * walk, spacing))
    with pytest.raises(AssertionError):
        check_haven(1)
    trust("T22", f"planted: {bug}", "noticed", "noticed", planted=True)


def check_returns(sets: int = 20) -> int:
    """Sets of six runs of 472 ps with returns within 1 to 60 ps whose 95 % interval holds the true collective D."""
    held = 0
    for seed in range(sets):
        walks = [returning_walk(100 * seed + k) for k in range(6)]
        true = walks[0][1]
        runs = [moved for moved, _ in walks]
        found = collective_diffusion(runs, SPACING, tracer=tracer(true), hops=6 * 760, seed=seed).diffusivity
        assert found.interval is not None
        held += found.interval[0] <= DIFFUSIVITY_CM2_S * true <= found.interval[1]
    assert held >= 0.85 * sets, held
    return held


@pytest.mark.slow
def test_long_runs_with_slow_returns(trust: Callable[..., None]) -> None:
    what = "collective D of six runs of 472 ps, returns within 1 to 60 ps: of 20 within the 95 % interval"
    trust("T22", what, check_returns(), "≥ 17")


@pytest.mark.slow
@pytest.mark.planted
def test_all_frequencies_are_noticed(monkeypatch: pytest.MonkeyPatch, trust: Callable[..., None]) -> None:
    monkeypatch.setattr(module, "MOST_TERMS", 10_000)
    with pytest.raises(AssertionError):
        check_returns()
    trust("T22", "planted: fit of all frequencies", "noticed", "noticed", planted=True)


def test_more_runs_narrow_the_haven_ratio() -> None:
    moved = [hop_walk(seed)[0] for seed in range(8)]
    given = tracer(hop_walk(0)[1])
    one = collective_diffusion(moved[:1], SPACING, tracer=given, hops=160).haven
    eight = collective_diffusion(moved, SPACING, tracer=given, hops=8 * 160).haven
    assert one.interval and eight.interval and eight.value and eight.error
    assert np.log(eight.interval[1] / eight.interval[0]) < 0.7 * np.log(one.interval[1] / one.interval[0])
    assert abs(eight.value - 1.0) < 2 * eight.error


def test_short_runs_give_an_interval_and_no_number() -> None:
    held = unresolved = 0
    for seed in range(10):
        moved, true = hop_walk(seed, frames=240, hops=20)
        haven = collective_diffusion([moved], SPACING, tracer=tracer(true), hops=20).haven
        assert haven.interval is not None
        held += haven.interval[0] < 1.0 < haven.interval[1]
        unresolved += haven.value is None and haven.upper_limit == haven.interval[1]
    assert held >= 8 and unresolved >= 7, (held, unresolved)
    nothing = collective_diffusion([moved[:100]], SPACING, tracer=tracer(true), hops=20)
    assert nothing.diffusivity.value is None and nothing.diffusivity.interval is None


def check_dimension(dimensions: int) -> int:
    """Walks of 20 with the right dimension; the others must be unresolved."""
    found = []
    for seed in range(20):
        moved, true = hop_walk(seed, dimensions=dimensions)
        measured = directions([moved], SPACING, tracer=tracer(true * dimensions / 3, seed), cell=CUBE)
        assert measured is not None
        found.append(measured.dimension)
    assert set(found) <= {dimensions, None}, found
    assert found.count(dimensions) >= 16, found
    return found.count(dimensions)


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_dimension(dimensions: int, trust: Callable[..., None]) -> None:
    right = check_dimension(dimensions)
    trust("T22", f"{dimensions}-D walk of 24 ions, 160 hops: walks of 20 with the right dimension, none wrong", right, "16–20")


@pytest.mark.planted
def test_a_wrong_dimension_is_noticed(monkeypatch: pytest.MonkeyPatch, trust: Callable[..., None]) -> None:
    right = axes_module._tensor_series
    monkeypatch.setattr(axes_module, "_tensor_series", lambda moved, lag: right(moved, lag) + np.eye(3))
    with pytest.raises(AssertionError):
        check_dimension(1)
    trust("T22", "planted: vibration left in the diffusion tensor", "noticed", "noticed", planted=True)


def test_axes_cover(trust: Callable[..., None]) -> None:
    """D along a, b and c of 40 isotropic walks, relative to a known mean D: two thirds within one error."""
    within = 0
    for seed in range(40):
        moved, true = hop_walk(seed, together=3)
        exact = Estimate(value=DIFFUSIVITY_CM2_S * true, error=0.0, unit="cm²/s")
        found = directions([moved], SPACING, tracer=exact, cell=CUBE)
        assert found is not None
        assert sum(e.value or 0.0 for e in found.along) == pytest.approx(3 * DIFFUSIVITY_CM2_S * true)
        within += sum(abs((e.value or 0.0) - DIFFUSIVITY_CM2_S * true) <= (e.error or 0.0) for e in found.along)
    assert 60 <= within <= 110, within
    trust("T22", "three ions hop together: D along an axis within one error of the truth, of 120", within, "60–110")


def test_axes_of_a_skewed_cell() -> None:
    """Motion along a only: D along b is that of its direction cosine."""
    moved, true = hop_walk(1, dimensions=1)
    cell = np.array([[10.0, 0, 0], [5.0, 8.660254, 0], [0, 0, 10.0]])
    found = directions([moved], SPACING, tracer=tracer(true / 3, relative=1e-9), cell=cell)
    assert found is not None and found.dimension == 1
    a, b, c = (e.value or 0.0 for e in found.along)
    assert a == pytest.approx(DIFFUSIVITY_CM2_S * true, rel=0.02) and b == pytest.approx(a / 4, rel=0.05) and abs(c) < 0.02 * a


RATE, LENGTH = 10.0, 2.4
"""1/ns an ion, Å."""


def check_hops() -> tuple[float, float, float]:
    """Rate, length and residence of 40 walks: 60–95 % within one error; returns of a lattice walk."""
    within = np.zeros(3)
    for seed in range(40):
        moved, _ = hop_walk(seed, frames=2000, ions=24, hops=24)
        found = hop_statistics([moved], SPACING, distance=1.5)
        for k, (estimate, true) in enumerate(((found.rate, RATE), (found.length, LENGTH), (found.residence, 100.0))):
            within[k] += abs((estimate.value or 0.0) - true) <= (estimate.error or 0.0)
    assert (within >= 24).all() and (within[[0, 2]] <= 38).all(), within
    return tuple(within / 40)


def test_hop_statistics(trust: Callable[..., None]) -> None:
    for name, share in zip(("rate", "length", "residence time"), check_hops(), strict=True):
        trust("T22", f"hop {name} of 40 walks of 24 ions, 24 hops: share within one error", share, "0.60–0.95")


@pytest.mark.planted
def test_a_wrong_hop_rate_is_noticed(monkeypatch: pytest.MonkeyPatch, trust: Callable[..., None]) -> None:
    monkeypatch.setattr(hops_module, "NS", 2.0 * hops_module.NS)
    with pytest.raises(AssertionError):
        check_hops()
    trust("T22", "planted: hop rate twice too high", "noticed", "noticed", planted=True)


def test_returns_and_largest_displacement() -> None:
    """Two ions: one goes to B for 5 ps and back, the other stays 20 ps at B; a third hops twice onward."""
    moved = np.zeros((1000, 3, 3))
    moved[200:300, 0, 0] = 2.0
    moved[200:600, 1, 0] = 2.0
    moved[200:, 2, 0] += 3.0
    moved[500:, 2, 1] += 4.0
    found = hop_statistics([moved], SPACING, distance=1.5)
    assert found.count == count_hops(moved, SPACING, distance=1.5) == 6
    assert found.returns.value == pytest.approx(100 / 6)
    assert found.length.value == pytest.approx((4 * 2.0 + 3.0 + 4.0) / 6)
    assert found.residence.value == pytest.approx(150.0 / 4)
    assert found.largest.value == pytest.approx(5.0)
    events = find_hops(moved, SPACING, distance=1.5)
    assert events.returned.tolist() == [False, True, False, False, False, False]
    assert events.lasting.tolist() == [False, False, True, True, True, True]
    assert np.abs(np.sort(events.time) - 1000.0 * np.array([10, 10, 10, 15, 25, 30])).max() <= 1000.0


def test_no_hop_gives_a_limit() -> None:
    found = hop_statistics([np.random.default_rng(0).normal(size=(400, 20, 3)) * 0.2], SPACING, distance=1.5)
    assert found.count == 0 and found.rate.value is None
    assert found.rate.upper_limit == pytest.approx(3.0 / (20 * 0.02))
    assert found.length.value is None and found.largest.value is not None and found.largest.value < 1.0
