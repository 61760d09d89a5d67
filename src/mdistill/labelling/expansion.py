r"""Thermal expansion of the teacher's ladder: each temperature starts in the cell that the one before lets expect.

ε' = T' (P + 3 B ε)/(3 B T)     B = −dP/d(3ε)

P: mean pressure of the frames at temperature T in a cell of strain ε (relative to the relaxed cell)   T': next temperature
B: bulk modulus, from the labels of strained cells. Thermal pressure is taken as proportional to temperature.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from mdistill.data.explore import deformed
from mdistill.types import LabelledFrame, System
from mdistill.units import BOLTZMANN

SMALLEST, LARGEST = -0.01, 0.03
"""Range of ε: an expansion beyond it is not extrapolated from half a picosecond."""
_SOFTEST, _STIFFEST = 0.02, 4.0
"""Bulk moduli, eV/Å³ (3 and 640 GPa)."""


def expanded(system: System, relaxed: System, frames: Sequence[LabelledFrame], *, next_K: float) -> System:
    """The structure in the cell expected at zero pressure at the next temperature.

    Args:
        system: Last state of the dynamics before.
        relaxed: The relaxed structure.
        frames: Labels of this structure so far: strained cells, and dynamics at the temperature before, the last in the list.
        next_K: T', K.
    Returns:
        The structure, strained; unchanged where the labels have no stress or fewer than two isotropic strains.
    """
    if not bool(system.pbc.all()):
        return system
    modulus = bulk_modulus(frames, relaxed)
    hot = [f for f in frames if f.source == "md" and f.target.stress is not None]
    hot = [f for f in hot if f.temperature_K == hot[-1].temperature_K]
    if modulus is None or not hot or hot[-1].temperature_K <= 0.0:
        return system
    kelvin, strain = hot[-1].temperature_K, _strain(system, relaxed)
    pressure = float(np.mean([pressure_of(frame, kelvin) for frame in hot]))
    wanted = next_K * (pressure + 3.0 * modulus * strain) / (3.0 * modulus * kelvin)
    factor = (1.0 + min(max(wanted, SMALLEST), LARGEST)) / (1.0 + strain)
    return deformed(system, (factor - 1.0) * torch.eye(3, dtype=torch.float64))


def bulk_modulus(frames: Sequence[LabelledFrame], relaxed: System) -> float | None:
    """B of the static crystal, eV/Å³, from a line through the pressures of isotropically strained cells; None without two."""
    points = []
    for frame in frames:
        strain = _strain(frame.system, relaxed)
        change = frame.system.cell[0] - (1.0 + strain) * relaxed.cell[0].to(frame.system.cell)
        if frame.source == "strain" and frame.target.stress is not None and float(change.abs().max()) < 1e-6:
            points.append((strain, pressure_of(frame, 0.0)))
    strains, pressures = np.array(points).T if len(points) > 1 else (np.zeros(1), np.zeros(1))
    if np.ptp(strains) < 1e-4:
        return None
    return min(max(-float(np.polyfit(strains, pressures, 1)[0]) / 3.0, _SOFTEST), _STIFFEST)


def pressure_of(frame: LabelledFrame, temperature_K: float) -> float:
    """N k_B T/V − tr σ/3 of a labelled frame, eV/Å³; NaN without stress."""
    kinetic = frame.system.n_atoms * BOLTZMANN * temperature_K / _volume(frame.system)
    return math.nan if frame.target.stress is None else kinetic - float(frame.target.stress[0].diagonal().mean())


def _strain(system: System, relaxed: System) -> float:
    return (_volume(system) / _volume(relaxed)) ** (1.0 / 3.0) - 1.0


def _volume(system: System) -> float:
    return float(torch.linalg.det(system.cell[0].double()).abs())
