"""What a screening knows of a structure: as read, with its predictions, or why there are none."""

from __future__ import annotations

from dataclasses import dataclass

from mdistill.transport.features import Material
from mdistill.transport.predict import RoomConductivity
from mdistill.transport.predict_motion import StructureMotion


@dataclass(frozen=True, slots=True, kw_only=True)
class Usable:
    """A structure that can be predicted: its name, formula, material, notes of reading it, inputs of the correction
    of σ(300 K), and its motion where asked for."""

    name: str
    formula: str
    material: Material
    notes: tuple[str, ...]
    sites: tuple[float, ...] | None = None
    motion: StructureMotion | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A structure with its predictions, those that were asked for; space_group 0: not known."""

    name: str
    formula: str
    space_group: int
    conductivity: RoomConductivity | None
    motion: StructureMotion | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A structure that was not predicted, why, what helps, and whether the failure may pass by itself (memory, a lost disk)."""

    name: str
    reason: str
    fix: str
    passing: bool = False
