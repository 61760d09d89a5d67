"""Flags for files with labels made elsewhere, shared by `train potential` and `test`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mdistill.labelling.settings import EnergyUnit, ForcesUnit, LabelFileSettings, StressSign, StressUnit

LABEL_FILES = ("energy_key", "forces_key", "stress_key", "group_key", "energy_unit", "forces_unit", "stress_unit", "stress_sign",
               "most_structures")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LabelFileArguments:
    """Names and units in label files."""

    energy_key: str | None = None
    """Name of the energy (default: REF_energy, energy, …)."""
    forces_key: str | None = None
    """Name of the forces (default: REF_forces, forces, …)."""
    stress_key: str | None = None
    """Name of the stress or virial (default: stress, …)."""
    group_key: str | None = None
    """Name of the group (default: config_type, else formula)."""
    energy_unit: EnergyUnit | None = None
    """Unit of the energy (default: eV)."""
    forces_unit: ForcesUnit | None = None
    """Unit of the forces (default: eV/A)."""
    stress_unit: StressUnit | None = None
    """Unit of the stress (default: eV/A3)."""
    stress_sign: StressSign | None = None
    """Positive sense of the stress (default: tension)."""
    most_structures: int | None = None
    """Largest number of structures of a SPICE or QCML file, taken evenly over it (default: all)."""


def file_settings(given: LabelFileArguments, **more: Any) -> LabelFileSettings:
    """The settings of these flags."""
    return LabelFileSettings(**{name: getattr(given, name) for name in LABEL_FILES}, **more)
