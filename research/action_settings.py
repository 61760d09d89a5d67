"""Size of a generating-function map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mdistill.errors import BadInput
from mdistill.nets.settings import MomentSettings

_POTENTIAL = ("elements", "cutoff", "channels", "radial", "degree", "hidden")


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionSettings:
    """Stride and size of an `ActionNet`.

    Attributes:
        elements: Atomic numbers it knows, ascending.
        stride_fs: Time that one application of the map advances, fs.
        cutoff, channels, radial, degree, hidden: Of its moment potential; the cutoff is that of the motion's energy too.
        motion_channels, motion_radial, motion_hidden: Radial channels, basis functions and hidden units of that energy.
    """

    kind: ClassVar[str] = "action"
    elements: tuple[int, ...]
    stride_fs: float = 16.0
    cutoff: float = 4.9
    channels: int = 12
    radial: int = 10
    degree: int = 3
    hidden: int = 64
    motion_channels: int = 8
    motion_radial: int = 6
    motion_hidden: int = 32

    def __post_init__(self) -> None:
        self.potential.shapes()
        limits = {"stride_fs": (0.1, 1000.0), "motion_channels": (1, 64), "motion_radial": (2, 64), "motion_hidden": (1, 1024)}
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise BadInput(name, f"{value}", allowed=f"{low:g} to {high:g}", fix="keep the default")

    @property
    def strides_fs(self) -> tuple[float, ...]:
        """The strides it is taught: one."""
        return (self.stride_fs,)

    @property
    def potential(self) -> MomentSettings:
        """Size of its potential."""
        return MomentSettings(**{name: getattr(self, name) for name in _POTENTIAL})

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of tensors that tell its size."""
        n = len(self.elements)
        shapes = {f"potential.{name}": shape for name, shape in self.potential.shapes().items()}
        return shapes | {
            "motion.mixing": (n * n * self.motion_radial, self.motion_channels),
            "motion.last.weight": (n, self.motion_hidden, 15 * self.motion_channels),
        }
