"""Summary of a finished simulation: averages with errors, energy drift, speed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mdistill.analysis.gates import energy_drift
from mdistill.estimates import Estimate, exactly, mean_of, unknown
from mdistill.io.logs import read_log

_NS_PER_DAY = 0.0864
"""1 fs/s in ns/day."""


def summarise(
    log: Path, *, atoms: int, time_step: float, steps_taken: int, seconds: float, conserved: bool
) -> dict[str, Estimate]:
    """Averages over the log after equilibration (times > 0), of every step where it holds means, and speed.

    Returns:
        temperature (K), T_<element> (K; not of elements whose atoms are all held), pressure (GPa), volume (Å³),
        potential_energy (eV/atom), energy_drift and
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

    values = {"temperature": mean_of(of_every_step("temperature_K"), unit="K")}
    for name in columns:
        if name.startswith("T_") and np.isfinite(columns[name]).all():
            values[name.removesuffix("_K")] = mean_of(of_every_step(name), unit="K")
    for name, column, unit in (("pressure", "pressure_GPa", "GPa"), ("volume", "volume_A3", "Å³")):
        if np.isfinite(columns[column]).all():
            values[name] = mean_of(of_every_step(column), unit=unit)
    values["potential_energy"] = mean_of(of_every_step("potential_eV") / atoms, unit="eV/atom")
    if conserved:
        drift = energy_drift(columns["time_fs"], columns["total_eV"], atoms) if len(columns["time_fs"]) >= 10 else None
        values["energy_drift"] = drift.slope if drift else unknown("eV/atom/ps")
        values["energy_fluctuation"] = drift.fluctuation if drift else unknown("eV/atom")
    per_step = seconds / max(steps_taken, 1)
    if per_step > 0.0:
        values["ns_per_day"] = exactly(time_step / per_step * _NS_PER_DAY, "ns/day", samples=steps_taken)
        values["us_per_atom_step"] = exactly(per_step / atoms * 1e6, "µs/atom/step", samples=steps_taken)
    return values
