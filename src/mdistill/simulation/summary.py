"""What a finished simulation says of itself: averages with errors, energy drift, speed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mdistill.simulation.log import read_log
from mdistill.types import Estimate

_BLOCKS = 10
_NS_PER_DAY = 0.0864
"""1 fs/s in ns/day."""


def block_mean(series: np.ndarray, unit: str) -> Estimate:
    """Mean with the standard error from the scatter of 10 consecutive blocks (None with fewer than 10 samples)."""
    if len(series) < _BLOCKS:
        return Estimate(value=float(series.mean()), error=None, unit=unit, samples=len(series))
    means = [float(block.mean()) for block in np.array_split(series, _BLOCKS)]
    return Estimate(value=float(series.mean()), error=float(np.std(means, ddof=1) / np.sqrt(_BLOCKS)), unit=unit, samples=_BLOCKS)


def drift(times_ps: np.ndarray, energies: np.ndarray) -> Estimate:
    """Slope of a straight line through the energies (eV/atom), with its error from the scatter of 10 block means about it."""
    if len(times_ps) < _BLOCKS:
        return Estimate(value=None, error=None, unit="eV/atom/ps", samples=len(times_ps))
    x = np.array([block.mean() for block in np.array_split(times_ps, _BLOCKS)])
    y = np.array([block.mean() for block in np.array_split(energies - energies[0], _BLOCKS)])
    x = x - x.mean()
    slope = float(x @ (y - y.mean()) / (x @ x))
    scatter = y - y.mean() - slope * x
    error = float(np.sqrt(scatter @ scatter / (_BLOCKS - 2) / (x @ x)))
    return Estimate(value=slope, error=error, unit="eV/atom/ps", samples=_BLOCKS)


def summarise(
    log: Path, *, atoms: int, time_step: float, steps_taken: int, seconds: float, conserved: bool
) -> dict[str, Estimate]:
    """Averages over the log after equilibration (times > 0), of every step where it holds means, and speed.

    Returns:
        temperature (K), T_<element> (K), pressure (GPa), volume (Å³), potential_energy (eV/atom), energy_drift and
        energy_fluctuation of the total energy (eV/atom/ps, eV/atom; NVE only), ns_per_day, us_per_atom_step.
    """
    columns = read_log(log)
    after = columns["time_fs"] > 0.0
    if not after.any():
        after = np.ones_like(after)
    columns = {name: values[after] for name, values in columns.items()}

    def of_every_step(column: str) -> np.ndarray:
        averaged = columns.get(f"mean_{column}", columns[column])
        return averaged if np.isfinite(averaged).all() else columns[column]

    values = {"temperature": block_mean(of_every_step("temperature_K"), "K")}
    for name in columns:
        if name.startswith("T_"):
            values[name.removesuffix("_K")] = block_mean(of_every_step(name), "K")
    for name, column, unit in (("pressure", "pressure_GPa", "GPa"), ("volume", "volume_A3", "Å³")):
        if np.isfinite(columns[column]).all():
            values[name] = block_mean(of_every_step(column), unit)
    values["potential_energy"] = block_mean(of_every_step("potential_eV") / atoms, "eV/atom")
    if conserved:
        energy = columns["total_eV"] / atoms
        values["energy_drift"] = drift(columns["time_fs"] / 1000.0, energy)
        values["energy_fluctuation"] = Estimate(value=float(energy.std()), error=None, unit="eV/atom", samples=len(energy))
    per_step = seconds / max(steps_taken, 1)
    if per_step > 0.0:
        values["ns_per_day"] = Estimate(value=time_step / per_step * _NS_PER_DAY, error=None, unit="ns/day", samples=steps_taken)
        values["us_per_atom_step"] = Estimate(value=per_step / atoms * 1e6, error=None, unit="µs/atom/step", samples=steps_taken)
    return values
