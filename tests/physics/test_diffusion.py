"""T22–T25: diffusivities of walks whose answer is known, of crystals that do not diffuse, and of AIMD beside kinisi."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mdistill.analysis import diffusion as module
from mdistill.analysis import msd
from mdistill.analysis.diffusion import Diffusion, count_hops, diffusivity
from mdistill.analysis.regression import (
    Posterior,
    covariance,
    earliest_start,
    modelled_errors,
    positive_slope,
    slope_posterior,
)
from mdistill.analysis.settings import DiffusionSettings
from mdistill.analysis.statistics import Curve
from mdistill.estimates import Estimate
from mdistill.types import Trajectory
from mdistill.units import DIFFUSIVITY_CM2_S
from walks import crystal, gaussian_walkers, hoppers, write_extxyz

Walk = Callable[[int], tuple[Trajectory, float]]
WALKS: dict[str, Walk] = {
    "lattice hops": hoppers,
    "vibrating lattice hops": lambda seed: hoppers(seed, vibration=0.3),
    "Gaussian steps": gaussian_walkers,
    "80 hops in all": lambda seed: hoppers(seed, ions=16, frames=600, rate=80 / (16 * 600), step=3.0, vibration=0.1),
}


def coverage_and_bias(walk: Walk, count: int) -> tuple[float, float]:
    ratios, covered = [], 0
    for seed in range(count):
        trajectory, true = walk(seed)
        tracer = diffusivity(trajectory, species="Li").tracer
        low, high = tracer.interval or (0.0, tracer.upper_limit or 0.0)
        covered += low <= true <= high
        ratios += [] if tracer.value is None else [tracer.value / true]
    assert len(ratios) >= 0.9 * count, "walks that diffuse are detected"
    return covered / count, float(np.mean(ratios)) - 1.0


def check_walks(walk: Walk, count: int) -> tuple[float, float]:
    coverage, bias = coverage_and_bias(walk, count)
    assert 0.90 <= coverage <= 1.0, coverage
    assert abs(bias) <= 0.02, bias
    return coverage, bias


@pytest.mark.slow
@pytest.mark.parametrize("name", WALKS)
def test_200_walks(name: str, trust: Callable[..., None]) -> None:
    coverage, bias = check_walks(WALKS[name], 200)
    trust("T22", f"{name}: coverage of the 95 % interval over 200 walks", coverage, "0.90–1.00")
    trust("T22", f"{name}: relative bias", bias, "≤ 0.02")


def sampled_by_kinisi(curve: Curve, windows: np.ndarray, spread: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of the slope (Å²/fs) in kinisi's posterior, handed our covariance."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import scipp
        from kinisi.diffusion import Diffusion as Regression
    # Lengths in m: kinisi starts its walkers at an intercept of 1e-20, which is 1 Å² there; in Å they would take long to spread.
    lag, square = ["time interval"], 1e-20
    time = scipp.array(dims=lag, values=curve.x.numpy(), unit="fs")
    data = scipp.Variable(dims=lag, values=curve.y.numpy() * square, variances=(curve.error.numpy() * square) ** 2, unit="m^2")
    coordinates = {"time interval": time, "n_samples": scipp.array(dims=lag, values=windows)}
    group = {"da": scipp.DataArray(data=data, coords=coordinates), "dimensionality": 3 * scipp.units.one}
    regression = Regression(scipp.DataGroup(group))
    given = scipp.array(dims=["lag 1", "lag 2"], values=spread * square**2, unit="m^4")
    regression.compute_covariance_matrix = lambda: given
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        state = np.random.RandomState(0)
        regression.bayesian_regression(start_dt=time[0], progress=False, random_state=state, n_samples=600, n_burn=300)
    draws = np.asarray(regression.gradient.values) / square
    return float(draws.mean()), float(draws.std())


@pytest.mark.parametrize("name", WALKS)
def test_a_line_has_kinisis_posterior(name: str, trust: Callable[..., None]) -> None:
    trajectory, _ = WALKS[name](0)
    moved = msd.displacements(trajectory, species="Li")
    lags = msd.geometric_lags(len(moved))
    curve = msd.msd_of(moved, 100.0, lags=lags)
    windows = np.array([msd.pooled_windows(int(lag), [moved]) for lag in lags])
    start = earliest_start(curve)
    curve = modelled_errors(curve, windows, start)
    late = replace(curve, x=curve.x[start:], y=curve.y[start:], error=curve.error[start:])
    mean, deviation = sampled_by_kinisi(late, windows[start:], covariance(curve)[start:, start:])
    exact = slope_posterior(curve, start, longest_relaxation=None)
    apart = abs(mean - exact.slope[0]) / exact.error[0]
    assert apart < 0.15
    assert deviation == pytest.approx(exact.error[0], rel=0.15)
    trust("T22", f"{name}: kinisi's sampled mean against the closed form, in standard errors", apart, "< 0.15")


@pytest.mark.planted
@pytest.mark.parametrize("bug", ["all windows counted as independent", "two dimensions instead of three", "no host drift"])
def test_walks_notice(bug: str, monkeypatch: pytest.MonkeyPatch, trust: Callable[..., None]) -> None:
    walk = WALKS["lattice hops"]
    if bug.startswith("all"):
        monkeypatch.setattr(msd, "independent_windows", lambda lag, frames, ions: ions * (frames - lag))
    elif bug.startswith("two"):
        monkeypatch.setattr(module, "DIFFUSIVITY_CM2_S", DIFFUSIVITY_CM2_S * 1.5)
        monkeypatch.setitem(globals(), "DIFFUSIVITY_CM2_S", DIFFUSIVITY_CM2_S * 1.5)
    else:
        monkeypatch.setattr(module, "displacements", lambda trajectory, species: trajectory.positions[:, :32].numpy())
    with pytest.raises(AssertionError):
        check_walks(walk, 40)
    trust("T22", f"planted: {bug}", "noticed", "noticed", planted=True)


def check_still(found: Diffusion) -> float:
    """Nothing diffuses: a limit and no number, and the MSD no larger than the vibration allows."""
    assert not found.detected and found.tracer.value is None
    assert found.tracer.upper_limit is not None and 0 < found.tracer.upper_limit < 1e-5
    return found.tracer.upper_limit


@pytest.mark.parametrize("vibration", [0.0, 0.15])
def test_immobile_lattice_under_pressure_control(vibration: float, trust: Callable[..., None]) -> None:
    """5 % volume noise, atoms up to five cells away from the origin: nothing moves relative to the lattice."""
    breathing = crystal(1, volume_noise=0.05, vibration=vibration, images=5)
    for species in ("Li", "S"):
        found = diffusivity(breathing, species=species)
        check_still(found)
        expected = 6.0 * vibration**2 * (1 + (1 / 8 if species == "Li" else 1 / 27))
        assert found.msd.y.numpy() == pytest.approx(np.full(len(found.msd.y), expected), rel=0.25, abs=1e-9)
        trust("T24", f"D of immobile {species}, 5 % volume noise, vibration {vibration} Å", "below detection", "0 within error")


@pytest.mark.planted
def test_volume_noise_is_noticed_without_the_mean_cell(monkeypatch: pytest.MonkeyPatch, trust: Callable[..., None]) -> None:
    breathing = crystal(1, volume_noise=0.05, vibration=0.15, images=5)
    monkeypatch.setattr(msd, "mean_cell_positions", lambda trajectory: trajectory.positions.numpy())
    found = diffusivity(breathing, species="Li")
    with pytest.raises(AssertionError):
        assert found.msd.y.numpy() == pytest.approx(np.full(len(found.msd.y), 6 * 0.15**2 * 9 / 8), rel=0.25)
    trust("T24", "planted: Cartesian displacements under pressure control", "noticed", "noticed", planted=True)


def test_wrapping_does_not_change_the_answer(tmp_path: Path, trust: Callable[..., None]) -> None:
    from mdistill.io.import_trajectory import read_trajectory

    still = crystal(3, frames=60, volume_noise=0.05, vibration=0.2)
    read = read_trajectory(write_extxyz(tmp_path / "wrapped.extxyz", still, wrapped=True))
    assert any("wrapped" in note for note in read.notes)
    ours, theirs = (msd.mean_square_displacement(t, species="Li").y for t in (still, read.trajectory))
    difference = float((ours - theirs).abs().max())
    assert difference < 1e-5
    trust("T24", "MSD of a wrapped trajectory under pressure control against the unwrapped original, Å²", difference, "< 1e-5")


def test_no_hop_is_below_detection(trust: Callable[..., None]) -> None:
    found = diffusivity(crystal(2, vibration=0.25), species="Li")
    limit = check_still(found)
    assert found.hops == 0 and "below detection" in found.notes[0]
    assert limit >= 0.1 * 3.0 * 3.0**2 / (6 * 27 * found.duration)
    trust("T25", "27 vibrating ions without a hop in 40 ps: upper limit, cm²/s", limit, "below detection with a limit")


@pytest.mark.planted
def test_a_number_for_ions_at_rest_is_noticed(monkeypatch: pytest.MonkeyPatch, trust: Callable[..., None]) -> None:
    monkeypatch.setattr(module, "FEW_HOPS", 10**9)
    found = diffusivity(crystal(2, vibration=0.25), species="Li", settings=DiffusionSettings(hop_distance=0.05))
    with pytest.raises(AssertionError):
        check_still(found)
    trust("T25", "planted: vibrations counted as hops", "noticed", "noticed", planted=True)


def test_rattling_between_two_sites_is_no_diffusion(trust: Callable[..., None]) -> None:
    rng = np.random.default_rng(5)
    still = crystal(5, frames=1200, vibration=0.1)
    side = np.cumsum(rng.random((1200, 27, 1)) < 0.02, axis=0) % 2
    positions = still.positions.clone()
    positions[:, :27] += torch.from_numpy(side * np.array([2.0, 0, 0]))
    found = diffusivity(Trajectory(numbers=still.numbers, positions=positions, cell=still.cell, times=still.times), species="Li")
    assert found.hops > 100
    check_still(found)
    trust("T25", f"{found.hops} hops back and forth between two sites", "below detection", "below detection")


def check_wide(tracer: Estimate) -> float:
    assert tracer.value is not None and tracer.interval is not None and tracer.error is not None
    low, high = tracer.interval
    assert low <= 0.1 * tracer.value and high >= 3.0 * tracer.value
    return high / tracer.value


def test_one_hop_gives_a_wide_interval(trust: Callable[..., None]) -> None:
    found = diffusivity(crystal(4, vibration=0.1, hops=1), species="Li")
    assert found.hops == 1 and found.detected and "1 hop" in " ".join(found.notes)
    ratio = check_wide(found.tracer)
    true = 4.0**2 / (6 * 27 * found.duration) * DIFFUSIVITY_CM2_S
    assert found.tracer.interval is not None and found.tracer.interval[0] <= true <= found.tracer.interval[1]
    trust("T25", "one hop: upper end of the interval over the value", ratio, "≥ 3")


@pytest.mark.planted
def test_a_narrow_interval_for_one_hop_is_noticed(monkeypatch: pytest.MonkeyPatch, trust: Callable[..., None]) -> None:
    narrow = Posterior(
        weight=np.ones(1), slope=np.full(1, 1e-4), error=np.full(1, 1e-5), offset=0.0, offset_error=0.0, fitted=np.ones(1)
    )
    monkeypatch.setattr(module, "positive_slope", lambda posterior, *, events: positive_slope(narrow, events=1e9))
    with pytest.raises(AssertionError):
        check_wide(diffusivity(crystal(4, vibration=0.1, hops=1), species="Li").tracer)
    trust("T25", "planted: interval of the line fit alone for one hop", "noticed", "noticed", planted=True)


def test_upper_limit_covers_slow_ions(trust: Callable[..., None]) -> None:
    """Ions that hop about once per run: whatever is reported, limit or interval, holds the true D."""
    held = 0
    for seed in range(20):
        trajectory, true = hoppers(seed, ions=16, frames=300, rate=1.5 / (16 * 300), step=3.0, vibration=0.1)
        tracer = diffusivity(trajectory, species="Li").tracer
        low, high = tracer.interval or (0.0, tracer.upper_limit or 0.0)
        held += low <= true <= high
    assert held >= 18
    trust("T25", "1.5 hops expected per run: share of 20 runs whose limit or interval holds the true D", held / 20, "≥ 0.90")


def test_count_hops() -> None:
    moved = crystal(6, vibration=0.1, hops=5).positions.numpy()
    assert count_hops(moved, 100.0, distance=1.5) == 5


needs_data = pytest.mark.skipif("MDISTILL_DATA" not in os.environ, reason="needs the argyrodite AIMD")


@functools.cache
def argyrodite(disorder: str) -> tuple[Trajectory, Diffusion, float, float]:
    """The joined AIMD, our estimate, and kinisi's D and error (cm²/s)."""
    from benchmarks import analyse_argyrodite as benchmark
    from mdistill.io.import_trajectory import read_trajectory

    paths = benchmark.runs_of(Path(os.environ["MDISTILL_DATA"]), disorder)
    trajectory = read_trajectory(paths, time_step_fs=benchmark.FRAME_TIME_FS).trajectory
    assert trajectory.positions.shape == (700, 416, 3)
    found = diffusivity(trajectory, species="Li")
    value, error = benchmark.kinisi_directly(paths, fit_from=benchmark.KINISI_FROM)
    assert 0 < error < 0.5 * value, "kinisi has no answer to compare with"
    return trajectory, found, value, error


def check_beside_kinisi(tracer: Estimate, value: float, error: float) -> float:
    assert tracer.value is not None and tracer.error is not None
    apart = abs(tracer.value - value) / float(np.hypot(tracer.error, error))
    assert apart < 1.0
    return apart


@needs_data
def test_disordered_argyrodite_beside_kinisi(trust: Callable[..., None]) -> None:
    _, found, value, error = argyrodite("50p")
    apart = check_beside_kinisi(found.tracer, value, error)
    what = "Li6PS5Cl, 50 % disorder, 500 K"
    trust("T23", f"{what}: D(Li), cm²/s", found.tracer.value, f"kinisi {value:.3e} ± {error:.0e}")
    trust("T23", f"{what}: distance to kinisi in combined errors", apart, "< 1")


@needs_data
def test_ordered_argyrodite_is_caged(trust: Callable[..., None]) -> None:
    """Without disorder Li hops within cages: any line through its flattening MSD, kinisi's too, is only a limit."""
    _, found, value, error = argyrodite("0p")
    limit = found.tracer.upper_limit
    assert not found.detected and limit is not None and found.hops > 100
    assert value < limit < 4 * value
    trust("T23", "Li6PS5Cl, ordered, 500 K: upper limit of D(Li), cm²/s", limit, f"kinisi {value:.2e} ± {error:.0e} or more")


@needs_data
@pytest.mark.planted
def test_a_wrong_frame_time_is_noticed(trust: Callable[..., None]) -> None:
    trajectory, _, value, error = argyrodite("50p")
    wrong = diffusivity(replace(trajectory, times=1.5 * trajectory.times), species="Li")
    with pytest.raises(AssertionError):
        check_beside_kinisi(wrong.tracer, value, error)
    trust("T23", "planted: frames taken 1.5 times too far apart", "noticed", "noticed", planted=True)
