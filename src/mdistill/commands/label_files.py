"""Flags for files with labels made elsewhere, shared by `train potential` and `test`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from mdistill.labelling.settings import LabelFileSettings

LABEL_FILES = ("energy_key", "forces_key", "stress_key", "group_key", "energy_unit", "forces_unit", "stress_unit", "stress_sign")


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
    energy_unit: Literal["eV", "meV", "Ha", "Ry", "kcal/mol", "kJ/mol"] | None = None
    """Unit of the energy (default: eV)."""
    forces_unit: Literal["eV/A", "meV/A", "Ha/Bohr", "Ha/A", "Ry/Bohr", "kcal/mol/A", "kJ/mol/A"] | None = None
    """Unit of the forces (default: eV/A)."""
    stress_unit: Literal["eV/A3", "GPa", "kB", "Ha/Bohr3"] | None = None
    """Unit of the stress (default: eV/A3)."""
    stress_sign: Literal["tension", "compression"] | None = None
    """Positive sense of the stress (default: tension)."""


def file_settings(given: LabelFileArguments, **more: Any) -> LabelFileSettings:
    """The settings of these flags."""
    return LabelFileSettings(**{name: getattr(given, name) for name in LABEL_FILES}, **more)
