"""research/spectrum.py: oscillators, white and Brownian velocities, whose spectra are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mdistill.analysis.statistics import Curve
from mdistill.errors import BadInput
from mdistill.types import Trajectory
from mdistill.units import ACCELERATION, BOLTZMANN, THZ
from research import spectrum as module
from research.spectrum import spectrum

KELVIN = 300.0
MASS = {3: 6.94, 16: 32.06}


def trajectory(velocities: np.ndarray, numbers: list[int], spacing: float, *, positions: np.ndarray | None = None) -> Trajectory:
    """Frames with these velocities (Å/fs); with positions given, without momenta."""
    masses = np.array([MASS[z] for z in numbers])[:, None]
    return Trajectory(
        numbers=torch.tensor(numbers),
        positions=torch.from_numpy(np.zeros_like(velocities) if positions is None else positions),
        cell=torch.zeros((len(velocities), 3, 3)),
        times=spacing * torch.arange(len(velocities), dtype=torch.float64),
        momenta=torch.from_numpy(masses * velocities) if positions is None else None,
    )


def thermal_speed(number: int) -> float:
    """√(k_B T/m), Å/fs."""
    return math.sqrt(BOLTZMANN * KELVIN * ACCELERATION / MASS[number])


def area(curve: Curve) -> float:
    return float(curve.y.sum() * (curve.x[1] - curve.x[0]))


def oscillators(places: dict[int, float], *, spacing: float = 10.0, frames: int = 4000, momenta: bool = True) -> Trajectory:
    """Two atoms of each element against each other along x, with mean kinetic energy ½ k_B T each, at `places` THz."""
    numbers = [z for z in places for _ in range(2)]
    times = spacing * np.arange(frames)
    velocities, positions = np.zeros((frames, len(numbers), 3)), np.zeros((frames, len(numbers), 3))
    for k, (number, frequency) in enumerate(places.items()):
        omega = 2.0 * math.pi * frequency * THZ
        height = math.sqrt(2.0) * thermal_speed(number)
        for sign in (0, 1):
            velocities[:, 2 * k + sign, 0] = (-1) ** sign * height * np.cos(omega * times + k)
            positions[:, 2 * k + sign, 0] = (-1) ** sign * height / omega * np.sin(omega * times + k)
    return trajectory(velocities, numbers, spacing, positions=None if momenta else positions)


def check_oscillators(*, momenta: bool) -> float:
    """Each element peaks at its frequency and holds its two degrees of freedom; the worst relative error of the latter."""
    places, worst = {3: 17.3, 16: 5.1}, 0.0
    run = oscillators(places, momenta=momenta)
    for number, symbol in ((3, "Li"), (16, "S")):
        curve = spectrum(run, KELVIN, element=symbol)
        assert float(curve.x[curve.y.argmax()]) == pytest.approx(places[number], abs=0.25)
        worst = max(worst, abs(area(curve) / 2.0 - 1.0))
    assert worst < 0.01
    whole, parts = spectrum(run, KELVIN), [spectrum(run, KELVIN, element=s) for s in ("Li", "S")]
    torch.testing.assert_close(whole.y, parts[0].y + parts[1].y)
    return worst


@pytest.mark.parametrize("momenta", [True, False], ids=["momenta", "positions"])
def test_oscillators_peak_at_their_frequency_and_hold_their_share(momenta):
    check_oscillators(momenta=momenta)


@pytest.mark.planted
@pytest.mark.parametrize(
    ("bug", "name", "wrong"),
    [
        ("differences of positions not corrected", "np.sinc", None),
        ("masses left out", "atomic_masses", np.ones(119)),
        ("frequency in radians", "THZ", THZ / (2.0 * math.pi)),
    ],
)
def test_the_oscillators_notice(monkeypatch, bug, name, wrong):
    if name == "np.sinc":
        monkeypatch.setattr(np, "sinc", np.ones_like)
    else:
        monkeypatch.setattr(module, name, wrong)
    with pytest.raises((AssertionError, BadInput)):
        check_oscillators(momenta=False)


def test_white_velocities_hold_all_degrees_of_freedom_but_the_drift():
    rng = np.random.default_rng(0)
    numbers = [3, 16] * 4
    velocities = rng.normal(size=(4000, 8, 3)) * np.array([thermal_speed(z) for z in numbers])[:, None]
    curve = spectrum(trajectory(velocities, numbers, 10.0), KELVIN, resolution=1.0)
    assert area(curve) == pytest.approx(3 * 8 - 3, rel=0.02)
    inner = curve.y[1:-1]
    assert float((inner - (3 * 8 - 3) / 50.0).abs().mean()) < 0.03


def test_brownian_velocities_have_a_lorentzian():
    """⟨v(0)·v(t)⟩ ∝ e^{−γt} has the transform 4γ/(γ² + ω²) (Wiener and Khinchin); each degree of freedom has area 1."""
    rng, friction, spacing, atoms = np.random.default_rng(1), 0.01, 2.0, 40
    keep = math.exp(-friction * spacing)
    velocities = np.zeros((20_000, atoms, 3))
    velocities[0] = rng.normal(size=(atoms, 3))
    kicks = math.sqrt(1.0 - keep**2) * rng.normal(size=velocities.shape)
    for k in range(1, len(velocities)):
        velocities[k] = keep * velocities[k - 1] + kicks[k]
    curve = spectrum(trajectory(thermal_speed(3) * velocities, [3] * atoms, spacing), KELVIN, resolution=0.5)
    slow = curve.x < 20.0
    exact = (3 * atoms - 3) * 4.0 * friction / (friction**2 + (2.0 * math.pi * THZ * curve.x) ** 2) * THZ
    off = ((curve.y - exact) / curve.error)[slow][2:]
    assert float(off.square().mean()) < 2.0
    assert float(((curve.y - exact) / exact)[slow][2:].abs().mean()) < 0.05
    assert area(curve) == pytest.approx(3 * atoms - 3, rel=0.03)


def test_what_cannot_be_done_is_said():
    run = oscillators({3: 5.0}, frames=200)
    for how, message in (
        ({"temperature_K": 0.0}, "temperature_K"),
        ({"temperature_K": 300.0, "element": "Cl"}, "element"),
        ({"temperature_K": 300.0, "resolution": 0.01}, "resolution"),
    ):
        with pytest.raises(BadInput, match=message):
            spectrum(run, **how)
    times = run.times.clone()
    times[5] += 1.0
    with pytest.raises(BadInput, match="evenly"):
        spectrum(Trajectory(numbers=run.numbers, positions=run.positions, cell=run.cell, times=times, momenta=run.momenta), 300.0)
