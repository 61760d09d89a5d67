"""Whether the barostat of an NpT run worked: how often strains are accepted, and the mean pressure, from the log of the run."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mdistill.estimates import Estimate, mean_of
from mdistill.io.logs import read_log
from mdistill.simulation.barostat import CRYSTAL, strain_interval
from mdistill.simulation.settings import SimulateSettings

_LEAST_ACCEPTED, _ERRORS, _OFF_GPA, _OFF_SHARE, _ENOUGH = 0.2, 4.0, 0.2, 0.02, 10


def barostat_notes(log: Path, settings: SimulateSettings) -> list[str]:
    """Warnings about an NpT run; none for other ensembles, or with fewer than ten rows of the log.

    The cell is stuck if fewer than 20 % of the strains of the last half of the log were accepted. The mean pressure is off by
    `off_target`.

    Raises:
        BadInput: A log that is absent or damaged.
    """
    if settings.ensemble != "npt":
        return []
    columns, notes = read_log(log), []
    share = accepted_share(columns, settings.compressibility_per_GPa or CRYSTAL)
    if share is not None and share < _LEAST_ACCEPTED:
        notes.append(
            f"the barostat is stuck: {100.0 * share:.1f} % of its strains were accepted (expected: above "
            f"{100.0 * _LEAST_ACCEPTED:.0f} %). The cell is not equilibrated: check the pressure, or use a larger --barostat-ps"
        )
    after = columns["time_fs"] > 0.0
    pressures = columns.get("mean_pressure_GPa", columns["pressure_GPa"])[after]
    pressures = pressures if np.isfinite(pressures).all() else columns["pressure_GPa"][after]
    if len(pressures) < _ENOUGH or not np.isfinite(pressures).all():
        return notes
    mean, target = mean_of(pressures, unit="GPa"), settings.pressure_GPa
    value, error = mean.value or 0.0, mean.error or 0.0
    if off_target(mean, target):
        notes.append(
            f"the mean pressure is {value:.3g} ± {error:.2g} GPa, not the {target:g} GPa set: use a longer --equilibration-ps, "
            "or check the stress of the potential"
        )
    return notes


def off_target(pressure: Estimate, target_GPa: float) -> bool:
    """Whether a mean pressure (GPa) is off by more than 4 standard errors, 0.2 GPa and 2 % of the pressure set."""
    off = abs((pressure.value or 0.0) - target_GPa)
    return off > max(_ERRORS * (pressure.error or 0.0), _OFF_GPA, _OFF_SHARE * abs(target_GPa))


def accepted_share(columns: dict[str, np.ndarray], compressibility_per_GPa: float) -> float | None:
    """Share of strains accepted in the last half of a log, from rows with a new volume; None with fewer than ten rows.

    With m strains between two rows, the share f of rows with a new volume is 1 − (1 − a)^m at acceptance a.
    """
    half = len(columns["step"]) // 2
    steps, volume = columns["step"][half:], columns["volume_A3"][half:]
    if len(steps) < _ENOUGH or not np.isfinite(volume).all():
        return None
    stride_fs = float(np.diff(columns["time_fs"][half:]).mean() / np.diff(steps).mean())
    every = strain_interval(stride_fs, compressibility_per_GPa)
    changed, strains = float((np.diff(volume) != 0.0).mean()), float(np.diff(steps).mean()) / every
    return min(1.0, changed / strains) if strains < 1.0 else 1.0 - (1.0 - changed) ** (1.0 / strains)
