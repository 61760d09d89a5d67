"""Sizes of the networks. No torch in here, so that `--help` is quick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mdistill.errors import BadInput

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"cutoff": 4.4, "channels": 4, "radial": 6, "degree": 2, "hidden": 16},
    "small": {"cutoff": 4.9, "channels": 8, "radial": 8, "degree": 3, "hidden": 32},
    "medium": {"cutoff": 4.9, "channels": 12, "radial": 10, "degree": 3, "hidden": 64},
    "large": {"cutoff": 5.6, "channels": 16, "radial": 14, "degree": 3, "hidden": 128},
}
"""Sizes of student by name, from fastest to most accurate: reach (Å), channels, radial functions, order, hidden units."""
MAX_DEGREE = 3
"""Highest degree of the spherical harmonics that are written out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplineSettings:
    """Size and reach of a `SplineNet`.

    Attributes:
        elements: Atomic numbers it knows, ascending.
        cutoff: Å.
        channels: Learned radial channels per degree.
        radial: Radial basis functions per species pair.
        degree: Highest l of the moments, 1 to 3.
        hidden: Width of the two hidden layers of each species' MLP; 0 for an energy linear in the features.
    """

    elements: tuple[int, ...]
    cutoff: float = 4.9
    channels: int = 12
    radial: int = 10
    degree: int = 3
    hidden: int = 64

    def __post_init__(self) -> None:
        if (
            not self.elements
            or list(self.elements) != sorted(set(self.elements))
            or not 1 <= min(self.elements) <= max(self.elements) <= 118
        ):
            raise BadInput(
                "elements", f"{self.elements}", allowed="distinct ascending atomic numbers, 1 to 118", fix="list each once"
            )
        if not 1.0 < self.cutoff <= 15.0:
            raise BadInput("cutoff", f"{self.cutoff} Å", allowed="1 to 15 Å", fix="5 Å suits most solids")
        for name, low, high in (("channels", 1, 64), ("radial", 2, 64), ("degree", 1, MAX_DEGREE), ("hidden", 0, 1024)):
            if not low <= getattr(self, name) <= high:
                raise BadInput(name, f"{getattr(self, name)}", allowed=f"{low} to {high}", fix="keep the default")
