"""T26: RDFs against freud and the ideal gas, and the distances between RDFs against cases with a known answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from mdistill.analysis.rdf import jensen_shannon, largest_radius, rdf, sampling_divergence, species_pairs, wasserstein
from mdistill.analysis.statistics import Curve
from mdistill.errors import BadInput
from mdistill.types import Trajectory

CELL = np.array([[11.0, 0.0, 0.0], [3.0, 12.0, 0.0], [-2.0, 4.0, 13.0]])


def gas(seed: int, *, frames: int, li: int = 20, sulphur: int = 30, rattle: float | None = None) -> Trajectory:
    """An ideal gas in a skewed cell, or (rattle in Å) one random structure vibrating."""
    rng = np.random.default_rng(seed)
    sites = rng.random((frames if rattle is None else 1, li + sulphur, 3)) @ CELL
    places = sites + (rattle or 0.0) * rng.normal(size=(frames, li + sulphur, 3))
    return Trajectory(
        numbers=torch.tensor([3] * li + [16] * sulphur),
        positions=torch.from_numpy(places + np.array([40.0, -7.0, 3.0])),
        cell=torch.from_numpy(CELL).expand(frames, 3, 3),
        times=torch.arange(frames, dtype=torch.float64),
    )


def against_freud(trajectory: Trajectory, pair: tuple[str, str], measured: Curve) -> float:
    """Largest difference to freud beyond 1 Å, where a shell holds enough pairs for freud's single precision."""
    import freud

    number = {"Li": 3, "S": 16}
    groups = [np.flatnonzero(trajectory.numbers.numpy() == number[symbol]) for symbol in pair]
    box = freud.box.Box.from_matrix(CELL.T)
    mode = "finite_size" if pair[0] == pair[1] else "exact"
    oracle = freud.density.RDF(len(measured.x), float(measured.x[-1] + measured.x[0]), normalization_mode=mode)
    for places in trajectory.positions.numpy():
        points, queries = (box.wrap(places[group]) for group in groups)
        oracle.compute((box, points), None if pair[0] == pair[1] else queries, reset=False)
    far = measured.x.numpy() > 1.0
    return float(np.abs(oracle.rdf - measured.y.numpy())[far].max())


def check_freud(trajectory: Trajectory, pair: tuple[str, str], measured: Curve) -> float:
    difference = against_freud(trajectory, pair, measured)
    assert difference <= 1e-3
    return difference


@pytest.mark.parametrize("pair", [("Li", "S"), ("Li", "Li"), ("S", "S")])
def test_against_freud(pair: tuple[str, str], trust: Callable[..., None]) -> None:
    vibrating = gas(1, frames=200, rattle=0.3)
    measured = rdf(vibrating, pair=pair, r_max=largest_radius(vibrating) * 0.999, bins=40)
    difference = check_freud(vibrating, pair, measured)
    trust("T26", f"g(r) of {'–'.join(pair)} against freud, skewed cell", difference, "≤ 1e-3")


@pytest.mark.planted
@pytest.mark.parametrize("bug", ["transposed cell", "N² pairs for N(N−1)"])
def test_freud_notices(bug: str, trust: Callable[..., None]) -> None:
    vibrating = gas(1, frames=200, rattle=0.3)
    reach = largest_radius(vibrating) * 0.9
    if bug == "transposed cell":
        wrong = rdf(replace(vibrating, cell=vibrating.cell.transpose(1, 2)), pair=("Li", "Li"), r_max=reach, bins=40)
    else:
        right = rdf(vibrating, pair=("Li", "Li"), r_max=reach, bins=40)
        wrong = replace(right, y=right.y * 19 / 20)
    with pytest.raises(AssertionError):
        check_freud(vibrating, ("Li", "Li"), wrong)
    trust("T26", f"planted: {bug}", "noticed", "noticed", planted=True)


def check_ideal(curve: Curve) -> float:
    far = curve.x.numpy() > 1.0
    deviation = (curve.y.numpy() - 1.0)[far] / curve.error.numpy()[far]
    mean = abs(float(np.average((curve.y.numpy() - 1.0)[far], weights=1 / curve.error.numpy()[far] ** 2)))
    combined = mean * np.sqrt((1 / curve.error.numpy()[far] ** 2).sum())
    assert combined <= 3.0
    assert np.mean(np.abs(deviation) <= 3.0) > 0.95
    return float(combined)


@pytest.mark.parametrize("pair", [("Li", "S"), ("Li", "Li")])
def test_ideal_gas_is_one(pair: tuple[str, str], trust: Callable[..., None]) -> None:
    deviation = check_ideal(rdf(gas(2, frames=1500), pair=pair, bins=25, blocks=30))
    trust("T26", f"ideal gas, {'–'.join(pair)}: weighted mean of g(r) − 1 in its error", deviation, "≤ 3 σ")


@pytest.mark.planted
def test_ideal_gas_notices_self_pairs_in_the_norm(trust: Callable[..., None]) -> None:
    curve = rdf(gas(2, frames=1500), pair=("Li", "Li"), bins=25, blocks=30)
    with pytest.raises(AssertionError):
        check_ideal(replace(curve, y=curve.y * 19 / 20))
    trust("T26", "planted: ideal gas normalised with N² pairs", "noticed", "noticed", planted=True)


def curve_of(y: np.ndarray, width: float = 0.1) -> Curve:
    x = (np.arange(len(y)) + 0.5) * width
    return Curve(x=torch.from_numpy(x), y=torch.from_numpy(y), error=torch.from_numpy(0 * y), x_unit="Å", y_unit="")


def peak(at: int, bins: int = 60) -> np.ndarray:
    return np.exp(-(((np.arange(bins) - at) / 3.0) ** 2))


def test_distances_of_known_distributions() -> None:
    assert jensen_shannon(curve_of(peak(20)), curve_of(peak(20))) == 0.0
    assert jensen_shannon(curve_of(np.eye(60)[5]), curve_of(np.eye(60)[50])) == pytest.approx(1.0)
    assert wasserstein(curve_of(peak(20)), curve_of(peak(27))) == pytest.approx(0.7, rel=1e-6)
    assert wasserstein(curve_of(peak(20)), curve_of(3.0 * peak(20))) == pytest.approx(0.0, abs=1e-12)


def test_divergence_saturates_while_the_distance_grows() -> None:
    near, far = curve_of(peak(35)), curve_of(peak(50))
    first = curve_of(peak(10))
    assert jensen_shannon(first, far) == pytest.approx(jensen_shannon(first, near), rel=1e-3)
    assert wasserstein(first, far) > 1.5 * wasserstein(first, near)


def test_sampling_divergence_predicts_that_of_two_runs_of_one_system() -> None:
    first, second = (rdf(gas(seed, frames=400), pair=("Li", "S"), bins=40) for seed in (3, 4))
    expected, found = sampling_divergence(first, second), jensen_shannon(first, second)
    assert 0.4 < expected / found < 2.5


def test_species_pairs_are_each_there_once() -> None:
    assert species_pairs(gas(0, frames=1)) == [("Li", "Li"), ("Li", "S"), ("S", "S")]


def test_bad_input() -> None:
    box = gas(0, frames=5)
    with pytest.raises(BadInput, match=r"0 to .* Å, half the smallest height"):
        rdf(box, pair=("Li", "S"), r_max=20.0)
    with pytest.raises(BadInput, match="Na"):
        rdf(box, pair=("Li", "Na"))
    with pytest.raises(BadInput, match="periodic in three directions"):
        rdf(replace(box, cell=torch.zeros(5, 3, 3, dtype=torch.float64)), pair=("Li", "S"))
    with pytest.raises(BadInput, match="different shells"):
        jensen_shannon(curve_of(peak(3)), curve_of(peak(3, bins=50)))
