"""Sizes of the networks. No torch in here, so that `--help` is quick."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from mdistill.errors import BadInput

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"cutoff": 4.4, "channels": 4, "radial": 6, "degree": 2, "hidden": 16},
    "small": {"cutoff": 4.9, "channels": 8, "radial": 8, "degree": 3, "hidden": 32},
    "medium": {"cutoff": 4.9, "channels": 12, "radial": 10, "degree": 3, "hidden": 64},
    "large": {"cutoff": 5.6, "channels": 16, "radial": 14, "degree": 3, "hidden": 128},
}
"""Sizes of moment students by name, from fastest to most accurate; cutoffs in Å."""
LIGHT: dict[str, int] = {"channels": 8, "radial": 6, "degree": 2, "hidden": 32}
"""Upper limits of the size of a light kick of a splitting map; its cutoff is that of the student."""
LONGEST_STRIDE = 100.0
"""Longest stride accepted, fs."""
INVARIANTS = 5
"""Invariants of relative displacements and accelerations that a `OneStepNet` sees on every edge."""
MAX_DEGREE = 3
"""Highest degree of the spherical harmonics that are written out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MomentSettings:
    """Size and cutoff of a `MomentNet`.

    Attributes:
        elements: Atomic numbers it knows, ascending.
        cutoff: Å.
        channels: Learned radial channels per degree.
        radial: Radial basis functions per species pair.
        degree: Highest l of the moments, 1 to 3.
        hidden: Width of the two hidden layers of each species' MLP; 0 for an energy linear in the features.
    """

    kind: ClassVar[str] = "moment"
    direct: ClassVar[bool] = False
    elements: tuple[int, ...]
    cutoff: float = 4.9
    channels: int = 12
    radial: int = 10
    degree: int = 3
    hidden: int = 64

    def __post_init__(self) -> None:
        _check_elements(self.elements)
        _check_cutoff(self.cutoff)
        _check_sizes(self, {"channels": (1, 64), "radial": (2, 64), "degree": (1, MAX_DEGREE), "hidden": (0, 1024)})

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of tensors that tell its size."""
        n, basis = len(self.elements), len(self.elements) * self.radial
        shapes: dict[str, tuple[int, ...]] = {
            "mixing": (n, self.degree + 1, basis, self.channels),
            "last.weight": (n, self.hidden or (self.degree + 3) * self.channels, 1),
        }
        return shapes | ({"second.weight": (n, self.hidden, self.hidden)} if self.hidden else {})


def lighter(size: MomentSettings) -> MomentSettings:
    """This size with no more than LIGHT has of anything."""
    return replace(size, **{name: min(most, getattr(size, name)) for name, most in LIGHT.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class PainnSettings:
    """Size and cutoff of a `PainnNet`.

    Attributes:
        elements: Atomic numbers it knows, ascending.
        cutoff: Å of one message; it sees `layers` × as far.
        width: Channels of the scalar and of the vector features.
        layers: Message and update blocks.
        radial: Radial basis functions.
        direct: Forces from a head of their own (not the gradient of the energy), without stress.
    """

    kind: ClassVar[str] = "painn"
    elements: tuple[int, ...]
    cutoff: float = 5.0
    width: int = 64
    layers: int = 3
    radial: int = 16
    direct: bool = False

    def __post_init__(self) -> None:
        _check_elements(self.elements)
        _check_cutoff(self.cutoff)
        _check_sizes(self, {"width": (2, 1024), "layers": (1, 12), "radial": (2, 64)})
        if not isinstance(self.direct, bool):
            raise BadInput("direct", f"{self.direct!r}", allowed="True or False", fix="keep the default")

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of tensors that tell its size."""
        return {
            "embedding": (len(self.elements), self.width),
            f"messages.{self.layers - 1}.filters": (3, self.radial, self.width),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SplittingMapSettings:
    """Stride and size of a `SplittingMap`.

    Attributes:
        stride_fs: Time that one application of the map advances, fs.
        kicks: Force evaluations per stride.
        potential: Size of the potential of each kick.
    """

    kind: ClassVar[str] = "splitting"
    stride_fs: float = 16.0
    kicks: int = 2
    potential: MomentSettings

    def __post_init__(self) -> None:
        if not 0.0 < self.stride_fs <= LONGEST_STRIDE:
            allowed = f"above 0 and at most {LONGEST_STRIDE:g} fs"
            raise BadInput("stride_fs", f"{self.stride_fs} fs", allowed=allowed, fix="16 fs suits most solids")
        if not 1 <= self.kicks <= 64:
            raise BadInput("kicks", f"{self.kicks}", allowed="1 to 64", fix="one for about every 8 fs, two at least")

    @property
    def elements(self) -> tuple[int, ...]:
        return self.potential.elements

    @property
    def cutoff(self) -> float:
        return self.potential.cutoff

    @property
    def strides_fs(self) -> tuple[float, ...]:
        """The strides it is taught: one."""
        return (self.stride_fs,)

    @property
    def stages(self) -> int:
        """Different potentials: the sequence of kicks is a palindrome."""
        return self.kicks // 2 + 1

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of tensors that tell its size."""
        last = self.stages - 1
        shapes = {f"stages.{last}.{name}": shape for name, shape in self.potential.shapes().items()}
        return shapes | {"largest_force": (self.stages, len(self.elements))}


@dataclass(frozen=True, slots=True, kw_only=True)
class OneStepSettings:
    """Size and cutoff of a `OneStepNet`.

    Attributes:
        strides_fs: Strides it is taught, fs; it takes any between the shortest and the longest.
        cutoff: Å of one message.
        width: Channels of the scalar and of the vector features.
        layers: Messages before the impulses.
        waves: Radial basis functions.
        learned: Learned vectors of every atom whose differences push pairs.
        potential: Size of the potential whose forces it starts from.
    """

    kind: ClassVar[str] = "one_step"
    strides_fs: tuple[float, ...] = (16.0,)
    cutoff: float = 4.5
    width: int = 32
    layers: int = 2
    waves: int = 8
    learned: int = 8
    potential: MomentSettings

    def __post_init__(self) -> None:
        object.__setattr__(self, "strides_fs", tuple(self.strides_fs))
        _check_strides(self.strides_fs)
        _check_cutoff(self.cutoff)
        _check_sizes(self, {"width": (2, 1024), "layers": (1, 12), "waves": (2, 64), "learned": (1, 64)})

    @property
    def elements(self) -> tuple[int, ...]:
        return self.potential.elements

    @property
    def stride_fs(self) -> float:
        """The longest stride, which is taken where none is asked for."""
        return max(self.strides_fs)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of tensors that tell its size."""
        shapes = {f"potential.{name}": shape for name, shape in self.potential.shapes().items()}
        return shapes | {
            "embedding": (len(self.elements), self.width),
            f"rounds.{self.layers - 1}.see.weight": (self.waves + INVARIANTS, self.width),
            "exchange.mix.weight": (self.width, self.learned),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class OneStepAttentionSettings:
    """Size and cutoff of a `OneStepAttentionNet`.

    Attributes:
        elements: Atomic numbers it knows, ascending.
        strides_fs: Strides it is taught, fs; it takes any between the shortest and the longest.
        cutoff: Å of one message.
        width: Of a token.
        heads: Of the attention.
        layers: Messages along edges.
        attention_layers: Attention layers in each.
        residual: Whether it gives the difference from free flight rather than the whole displacement and momentum.
        mass_scaled: Whether what it gives is scaled by √m, so that all elements are of one size.
    """

    kind: ClassVar[str] = "one_step_attention"
    elements: tuple[int, ...]
    strides_fs: tuple[float, ...] = (16.0,)
    cutoff: float = 4.5
    width: int = 64
    heads: int = 4
    layers: int = 2
    attention_layers: int = 1
    residual: bool = True
    mass_scaled: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "strides_fs", tuple(self.strides_fs))
        _check_strides(self.strides_fs)
        _check_elements(self.elements)
        _check_cutoff(self.cutoff)
        _check_sizes(self, {"width": (4, 1024), "heads": (1, 64), "layers": (1, 12), "attention_layers": (1, 12)})
        if self.width % self.heads:
            allowed = f"a divisor of the width {self.width}"
            raise BadInput("heads", f"{self.heads}", allowed=allowed, fix="keep the default")

    @property
    def stride_fs(self) -> float:
        """The longest stride, which is taken where none is asked for."""
        return max(self.strides_fs)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of tensors that tell its size."""
        last = f"rounds.{self.layers - 1}.layers.{self.attention_layers - 1}.ask.weight"
        return {"embedding": (len(self.elements), self.width), last: (self.width, 3 * self.width)}


def _check_strides(strides_fs: tuple[float, ...]) -> None:
    if not strides_fs or not all(0.0 < stride <= LONGEST_STRIDE for stride in strides_fs):
        allowed = f"at least one, each above 0 and at most {LONGEST_STRIDE:g} fs"
        raise BadInput("strides_fs", f"{strides_fs}", allowed=allowed, fix="8 and 16 fs suit most solids")


def _check_elements(elements: tuple[int, ...]) -> None:
    if not elements or list(elements) != sorted(set(elements)) or not 1 <= min(elements) <= max(elements) <= 118:
        raise BadInput("elements", f"{elements}", allowed="distinct ascending atomic numbers, 1 to 118", fix="list each once")


def _check_cutoff(cutoff: float) -> None:
    if not 1.0 < cutoff <= 15.0:
        raise BadInput("cutoff", f"{cutoff} Å", allowed="1 to 15 Å", fix="5 Å suits most solids")


def _check_sizes(settings: object, limits: dict[str, tuple[int, int]]) -> None:
    for name, (low, high) in limits.items():
        if not low <= getattr(settings, name) <= high:
            raise BadInput(name, f"{getattr(settings, name)}", allowed=f"{low} to {high}", fix="keep the default")
