"""Ionic conductivity from a diffusivity: Nernst–Einstein."""

from __future__ import annotations

import numpy as np

from mdistill.analysis.diffusion import Diffusion
from mdistill.errors import BadInput
from mdistill.estimates import Estimate
from mdistill.types import Trajectory
from mdistill.units import BOLTZMANN, CONDUCTIVITY_MS_CM, DIFFUSIVITY_CM2_S


def mean_volume(trajectory: Trajectory) -> float:
    """Mean cell volume (Å³) over the frames.

    Raises:
        BadInput: The cell is open or flat: there is no volume.
    """
    volumes = np.abs(np.linalg.det(trajectory.cell.double().cpu().numpy()))
    if not np.isfinite(volumes).all() or volumes.min() < 1e-3:
        problem = f"volume {volumes.min():g} Å³"
        raise BadInput("cell", problem, allowed="a cell periodic in three directions", fix="conductivity needs a bulk cell")
    return float(volumes.mean())


def conductivity(diffusion: Diffusion, *, charge: float, temperature_K: float, volume: float) -> Estimate:
    r"""Nernst–Einstein conductivity (mS/cm): ions move independently, Haven ratio 1. Limits and intervals carry over.

    σ = N q² D / (V k_B T)      N ions of charge q in volume V      D: tracer diffusivity

    Correlated motion makes the true conductivity differ by 1/(Haven ratio), often a factor of 1 to 3 in solids.

    Args:
        diffusion: Of the mobile species.
        charge: Charge of one ion (e).
        temperature_K: Temperature of the run (K).
        volume: Mean cell volume (Å³).
    Raises:
        BadInput: Charge zero, temperature or volume not positive.
    """
    for name, value, good, allowed in (
        ("charge", charge, charge != 0 and np.isfinite(charge), "a charge other than 0, in e"),
        ("temperature_K", temperature_K, 0 < temperature_K < np.inf, "> 0 K"),
        ("volume", volume, 0 < volume < np.inf, "> 0 Å³"),
    ):
        if not good:
            raise BadInput(name, f"{value!r}", allowed=allowed, fix="give a value in that range")
    factor = diffusion.ions * charge**2 * CONDUCTIVITY_MS_CM / (DIFFUSIVITY_CM2_S * volume * BOLTZMANN * temperature_K)
    return diffusion.tracer.scaled(factor, "mS/cm")
