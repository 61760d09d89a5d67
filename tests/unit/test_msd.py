"""Mean square displacements by definition, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mdistill.analysis.conductivity import conductivity, mean_volume
from mdistill.analysis.diffusion import diffusivity
from mdistill.analysis.msd import (
    displacements,
    frame_spacing,
    geometric_lags,
    mean_square_displacement,
    msd_of,
    pooled_windows,
)
from mdistill.analysis.settings import DiffusionSettings
from mdistill.errors import BadInput
from walks import crystal, hoppers


def test_by_definition() -> None:
    trajectory, _ = hoppers(0, frames=60)
    host = trajectory.positions[:, 32:] - trajectory.positions[:1, 32:]
    moved = (trajectory.positions[:, :32] - host.mean(1, keepdim=True)).numpy()
    curve = mean_square_displacement(trajectory, species="Li", lags=np.array([1, 7, 30]))
    for lag, value in zip([1, 7, 30], curve.y.tolist(), strict=True):
        steps = [np.sum((moved[k + lag] - moved[k]) ** 2, axis=-1).mean() for k in range(60 - lag)]
        assert value == pytest.approx(np.mean(steps), rel=1e-12)
    assert curve.x.tolist() == [100.0, 700.0, 3000.0] and curve.x_unit == "fs" and curve.y_unit == "Å²"


def test_error_accounts_for_overlapping_windows() -> None:
    """Over many walks the MSD at one lag scatters as its stated error says."""
    lags = np.array([5, 50])
    curves = [mean_square_displacement(hoppers(seed, frames=200)[0], species="Li", lags=lags) for seed in range(80)]
    spread = torch.stack([c.y for c in curves]).std(0)
    stated = torch.stack([c.error for c in curves]).mean(0)
    assert (stated / spread).tolist() == pytest.approx([1.1, 1.1], abs=0.25)


def test_runs_are_pooled_by_their_windows() -> None:
    """Two runs of different length: each weighs with its number of windows, and only at lags that fit."""
    runs = [hoppers(seed, frames=frames)[0] for seed, frames in ((0, 301), (1, 101))]
    moved = [displacements(run, species="Li") for run in runs]
    lags = np.array([10, 200])
    pooled = msd_of(moved, 100.0, lags=lags)
    alone = [msd_of(one, 100.0, lags=lags[:1]) for one in moved]
    assert pooled.y[0].item() == pytest.approx((3 * alone[0].y.item() + alone[1].y.item()) / 4)
    assert pooled.y[1].item() == pytest.approx(msd_of(moved[0], 100.0, lags=lags[1:]).y.item())
    assert pooled_windows(10, moved) == 32 * 40 and pooled_windows(200, moved) == 48


def test_a_sequence_of_runs_is_one_state() -> None:
    runs = [hoppers(seed, frames=400)[0] for seed in range(4)]
    one, four = diffusivity(runs[0], species="Li"), diffusivity(runs, species="Li")
    assert one.tracer == diffusivity(runs[:1], species="Li").tracer and one.runs == 1
    assert four.runs == 4 and four.duration == pytest.approx(4 * one.duration) and four.hops > 3 * one.hops
    line = DiffusionSettings(fit_from_ps=1.0)
    errors = [diffusivity(run, species="Li", settings=line).tracer.error for run in (*runs, runs)]
    assert errors[-1] == pytest.approx(np.mean(np.array(errors[:-1], dtype=float)) / 2.0, rel=0.2)
    with pytest.raises(BadInput, match="no run"):
        diffusivity([], species="Li")
    with pytest.raises(BadInput, match="run 2 has other atoms"):
        diffusivity([runs[0], hoppers(0, ions=31)[0]], species="Li")
    with pytest.raises(BadInput, match="run 2 has a frame every 200 fs"):
        diffusivity([runs[0], replace(runs[1], times=2 * runs[1].times)], species="Li")


def test_runs_that_differ_widen_the_error() -> None:
    """Six runs of two states: their scatter exceeds that of windows within each."""
    alike = [hoppers(seed, frames=300)[0] for seed in range(6)]
    unlike = [hoppers(seed, frames=300, rate=0.04 if seed % 2 else 0.16)[0] for seed in range(6)]
    same, mixed = (diffusivity(runs, species="Li") for runs in (alike, unlike))
    assert same.inflation < 1.8 and mixed.inflation > 4.0


def test_ions_that_move_together_are_fewer() -> None:
    trajectory, _ = hoppers(5, ions=8, frames=600)
    together = replace(
        trajectory,
        numbers=torch.cat([trajectory.numbers[:8].repeat(3), trajectory.numbers[8:]]),
        positions=torch.cat([trajectory.positions[:, :8].repeat(1, 3, 1), trajectory.positions[:, 8:]], dim=1),
    )
    assert diffusivity(together, species="Li").inflation == pytest.approx(3.0, abs=0.7)
    assert diffusivity(hoppers(5, ions=24, frames=600)[0], species="Li").inflation < 1.4


def test_lags() -> None:
    lags = geometric_lags(1001)
    assert lags[0] == 1 and lags[-1] == 500 and 30 <= len(lags) <= 40 and (np.diff(lags) > 0).all()


def test_single_species_has_no_host() -> None:
    trajectory, _ = hoppers(0, frames=50)
    alone = replace(trajectory, numbers=torch.full_like(trajectory.numbers, 3))
    assert np.array_equal(displacements(alone, species="Li"), alone.positions.numpy())
    assert "no host" in diffusivity(alone, species="Li").notes[-1]


def test_conductivity_by_hand() -> None:
    """σ = N q² D/(V k_B T) in SI units."""
    trajectory, _ = hoppers(1)
    found = diffusivity(trajectory, species="Li")
    sigma = conductivity(found, charge=1.0, temperature_K=500.0, volume=mean_volume(trajectory))
    charge, boltzmann = 1.602176634e-19, 1.380649e-23
    assert found.tracer.value and found.tracer.error and sigma.value and sigma.error
    by_hand = 32 * charge**2 * found.tracer.value * 1e-4 / (1728e-30 * boltzmann * 500.0) * 10.0
    assert sigma.value == pytest.approx(by_hand, rel=1e-6) and sigma.unit == "mS/cm"
    assert sigma.error / sigma.value == pytest.approx(found.tracer.error / found.tracer.value)
    assert conductivity(found, charge=-2.0, temperature_K=500.0, volume=1728.0).value == pytest.approx(4 * sigma.value)
    still = diffusivity(crystal(0, vibration=0.1), species="Li")
    limit = conductivity(still, charge=1.0, temperature_K=500.0, volume=1728.0)
    assert limit.value is None and limit.upper_limit is not None and limit.upper_limit > 0


@pytest.mark.parametrize("given", [{"charge": 0.0}, {"temperature_K": -5.0}, {"volume": 0.0}])
def test_impossible_conductivities(given: dict[str, float]) -> None:
    found = diffusivity(crystal(0, vibration=0.1), species="Li")
    with pytest.raises(BadInput, match=next(iter(given))):
        conductivity(found, **({"charge": 1.0, "temperature_K": 500.0, "volume": 1000.0} | given))


def test_fit_window_can_be_set() -> None:
    trajectory, true = hoppers(2)
    found = diffusivity(trajectory, species="Li", settings=DiffusionSettings(fit_from_ps=3.0))
    assert 3000.0 <= found.fit_from < 4000.0
    assert found.tracer.interval is not None and found.tracer.interval[0] <= true <= found.tracer.interval[1]
    with pytest.raises(BadInput, match="at most"):
        diffusivity(trajectory, species="Li", settings=DiffusionSettings(fit_from_ps=24.0))


def test_same_seed_same_answer_and_global_state_untouched(capfd: pytest.CaptureFixture[str]) -> None:
    trajectory, _ = hoppers(3, frames=200)
    before = np.random.get_state()[1].copy()  # type: ignore[index,union-attr]  # noqa: NPY002
    first, second = (diffusivity(trajectory, species="Li").tracer for _ in range(2))
    assert first == second
    assert np.array_equal(before, np.random.get_state()[1])  # type: ignore[index,arg-type]  # noqa: NPY002
    assert capfd.readouterr() == ("", "")


def test_refusals() -> None:
    trajectory, _ = hoppers(4, frames=40)
    with pytest.raises(BadInput, match="one of Li, S"):
        mean_square_displacement(trajectory, species="Na")
    gap = replace(trajectory, times=torch.cat([trajectory.times[:20], trajectory.times[20:] + 100.0]))
    with pytest.raises(BadInput, match=r"frame 20 comes 200 fs after the one before it, others 100 fs"):
        frame_spacing(gap)
    broken = replace(trajectory, positions=trajectory.positions.clone().index_fill_(0, torch.tensor([7]), float("nan")))
    with pytest.raises(BadInput, match="frame 7"):
        diffusivity(broken, species="Li")
    with pytest.raises(BadInput, match="1 to 39 frames"):
        mean_square_displacement(trajectory, species="Li", lags=np.array([40]))
    short = replace(trajectory, positions=trajectory.positions[:10], cell=trajectory.cell[:10], times=trajectory.times[:10])
    with pytest.raises(BadInput, match="at least 20"):
        diffusivity(short, species="Li")
    for name, value in {
        "lags": 200,
        "longest": 2.0,
        "hop_distance": 0.0,
        "fit_from_ps": -1.0,
        "seed": -1,
        "hop_length": 0,
    }.items():
        with pytest.raises(BadInput, match=name):
            DiffusionSettings(**{name: value})  # type: ignore[arg-type]
