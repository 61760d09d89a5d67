r"""Vibrational density of states of a trajectory, anharmonicity and diffusion included: the power spectrum of its velocities.

    g(f) = (1/k_B T) Σ_i m_i S_i(f),   S_i: one-sided power spectral density of v_i, which is 2 ∫ ⟨v_i(0)·v_i(τ)⟩ e^{−2πifτ} dτ
    (Wiener and Khinchin: the transform of the velocity autocorrelation)

so that ∫ g df = Σ_i m_i ⟨v_i²⟩ / k_B T: the number of degrees of freedom of the atoms counted, in equilibrium (equipartition).

Reference:
    J. M. Dickey and A. Paskin, Phys. Rev. 188, 1407 (1969), doi 10.1103/PhysRev.188.1407; averaged over pieces as in
    P. D. Welch, IEEE Trans. Audio Electroacoust. 15, 70 (1967), doi 10.1109/TAU.1967.1161901.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from ase.data import atomic_masses, atomic_numbers
from jaxtyping import Float

from mdistill.analysis.statistics import Curve
from mdistill.errors import BadInput
from mdistill.types import Trajectory
from mdistill.units import ACCELERATION, BOLTZMANN, THZ

_LEAST_FRAMES = 8


def spectrum(trajectory: Trajectory, temperature_K: float, *, element: str = "", resolution: float = 0.5) -> Curve:
    """Vibrational density of states, 1/THz, of all atoms or of one element; its value at f = 0 measures diffusion.

    The run is cut into pieces (overlapping by half, under a Hann window) as long as the resolution requires; the error is the
    scatter between them, for half as many independent ones. Frequencies above half the frame rate cannot be seen and are
    folded back: frames must be near enough for the fastest vibration (10 fs serve up to 50 THz).

    Args:
        trajectory: Evenly spaced frames; without momenta, velocities are taken from the positions.
        temperature_K: T of the run, for the normalisation.
        element: Symbol; "" for all atoms.
        resolution: Width of a line, THz.
    Raises:
        BadInput: Frames uneven or too few for the resolution, an element that is not there, or T not positive.
    """
    if not (math.isfinite(temperature_K) and temperature_K > 0.0):
        raise BadInput("temperature_K", f"{temperature_K}", allowed="above 0 K", fix="give the temperature of the run")
    spacing = _spacing(trajectory)
    velocities, answer = _velocities(trajectory, spacing)
    numbers = trajectory.numbers.cpu().numpy()
    mine = np.ones(len(numbers), dtype=bool) if not element else numbers == atomic_numbers.get(element, 0)
    if not mine.any():
        raise BadInput("element", f"{element!r} is not in the trajectory", allowed="one of its elements", fix="check the symbol")
    length = round(1.5 / (resolution * THZ * spacing))
    if not _LEAST_FRAMES <= length <= len(velocities):
        found = f"{resolution:g} THz needs {length} frames of {spacing:g} fs at a time, the run has {len(velocities)}"
        raise BadInput(
            "resolution", found, allowed=f"pieces of {_LEAST_FRAMES} frames up to the whole run", fix="use another one"
        )
    weighed = np.sqrt(np.asarray(atomic_masses)[numbers[mine]])[:, None] * velocities[:, mine]
    frequencies, density = _welch(weighed.reshape(len(weighed), -1), length, spacing)
    scale = THZ / (ACCELERATION * BOLTZMANN * temperature_K)
    pieces = scale * density / answer(frequencies)
    independent = max(1.0, 0.5 * (len(pieces) + 1))
    spread = pieces.std(0, ddof=1) if len(pieces) > 1 else np.full(len(frequencies), np.nan)
    return Curve(
        x=torch.from_numpy(frequencies / THZ),
        y=torch.from_numpy(pieces.mean(0)),
        error=torch.from_numpy(spread / math.sqrt(independent)),
        x_unit="THz",
        y_unit="1/THz",
        label=element or "all atoms",
        blocks=torch.from_numpy(pieces),
    )


def _spacing(trajectory: Trajectory) -> float:
    """Time between frames, fs."""
    steps = np.diff(trajectory.times.cpu().double().numpy())
    if len(steps) < _LEAST_FRAMES - 1 or not steps[0] > 0.0 or not np.allclose(steps, steps[0], rtol=1e-6):
        found = f"{len(steps) + 1} frames, spacing {steps.min(initial=math.inf):g} to {steps.max(initial=0.0):g} fs"
        raise BadInput("trajectory", found, allowed=f"{_LEAST_FRAMES} evenly spaced frames or more", fix="save frames evenly")
    return float(steps[0])


def _velocities(
    trajectory: Trajectory, spacing: float
) -> tuple[Float[np.ndarray, "frame atom 3"], Callable[[np.ndarray], np.ndarray]]:
    """[frame, atom, 3] velocities (Å/fs) relative to the centre of mass, and the share of their power at f (1/fs).

    A difference of positions over Δ damps a vibration: |sin(π f Δ)/(π f Δ)|² of its power is left, which is divided out.
    """
    masses = np.asarray(atomic_masses)[trajectory.numbers.cpu().numpy()][:, None]
    if trajectory.momenta is not None:
        velocities = trajectory.momenta.cpu().double().numpy() / masses
    else:
        velocities = np.diff(trajectory.positions.cpu().double().numpy(), axis=0) / spacing
    if len(masses) > 1:
        velocities = velocities - (masses * velocities).sum(1, keepdims=True) / masses.sum()
    if trajectory.momenta is not None:
        return velocities, np.ones_like
    return velocities, lambda frequency: np.sinc(frequency * spacing) ** 2


def _welch(
    series: Float[np.ndarray, "frame column"], length: int, spacing: float
) -> tuple[Float[np.ndarray, " point"], Float[np.ndarray, "piece point"]]:
    """Frequencies (1/fs) and one-sided power spectral density, summed over columns, of pieces that overlap by half."""
    window = 0.5 - 0.5 * np.cos(2.0 * math.pi * (np.arange(length) + 0.5) / length)
    starts = range(0, len(series) - length + 1, max(1, length // 2))
    power = np.stack([(np.abs(np.fft.rfft(window[:, None] * series[s : s + length], axis=0)) ** 2).sum(1) for s in starts])
    twice = np.full(power.shape[1], 2.0)
    twice[0] = 1.0
    if length % 2 == 0:
        twice[-1] = 1.0
    return np.fft.rfftfreq(length, spacing), power * twice * spacing / (window**2).sum()
