"""Measured phase changes of well-known conductors at ambient pressure, so that no Arrhenius line is drawn across one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mdistill.crystals.crystal import reduced_formula
from mdistill.types import System


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseChange:
    """A change from one phase to another on heating, with the key of its citation."""

    kelvin: float
    phases: str
    citation: str


KNOWN = {
    "AgI": [PhaseChange(kelvin=420.0, phases="β (wurtzite) to α (bcc)", citation="superionics")],
    "LiBH4": [PhaseChange(kelvin=390.0, phases="orthorhombic to hexagonal", citation="libh4")],
    "Na3PS4": [
        PhaseChange(kelvin=523.0, phases="α (tetragonal) to β (cubic)", citation="na3ps4"),
        PhaseChange(kelvin=773.0, phases="β (cubic) to γ (orthorhombic)", citation="na3ps4"),
    ],
}
"""By the reduced formula with its elements in any order."""


def phase_changes(system: System) -> list[PhaseChange]:
    """Known phase changes of a composition, by temperature."""
    numbers = {int(z): float(n) for z, n in zip(*torch.unique(system.numbers, return_counts=True), strict=True)}
    return next((changes for name, changes in KNOWN.items() if _same(name, reduced_formula(numbers))), [])


def one_phase(temperatures_K: Sequence[float], changes: Sequence[PhaseChange]) -> set[float]:
    """The temperatures between two phase changes, where most are; of equal groups the hottest."""
    groups: dict[int, set[float]] = {}
    for kelvin in temperatures_K:
        groups.setdefault(sum(change.kelvin <= kelvin for change in changes), set()).add(kelvin)
    return max(groups.values(), key=lambda group: (len(group), max(group)), default=set())


def crossed(temperatures_K: Sequence[float], changes: Sequence[PhaseChange]) -> list[PhaseChange]:
    """Changes within the range of the temperatures."""
    return [change for change in changes if min(temperatures_K) < change.kelvin <= max(temperatures_K)]


def _same(first: str, second: str) -> bool:
    from ase.formula import Formula

    return Counter(Formula(first).count()) == Counter(Formula(second).count())
