"""Sizes of the networks. No torch in here, so that `--help` is quick."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from mdistill.settings import refuse, setting, settings

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
"""Highest degree of the spherical harmonics."""


@settings
class MomentSettings:
    """Size and cutoff of a `MomentNet`.

    Attributes:
        elements: Atomic numbers it knows, ascending.
        cutoff: Cutoff, Å.
        channels: Learned radial channels per degree.
        radial: Radial basis functions per species pair.
        degree: Highest l of the moments, 1 to 3.
        hidden: Width of the two hidden layers of each species' MLP; 0 for an energy linear in the features.
    """

    kind: ClassVar[str] = "moment"
    direct: ClassVar[bool] = False
    elements: tuple[int, ...] = setting(least=1, most=118)
    cutoff: float = setting(4.9, above=1.0, most=15.0, unit="Å")
    channels: int = setting(12, least=1, most=64)
    radial: int = setting(10, least=2, most=64)
    degree: int = setting(3, least=1, most=MAX_DEGREE)
    hidden: int = setting(64, least=0, most=1024)

    def __post_init__(self) -> None:
        _check_order(self)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors that fix its size."""
        n, basis = len(self.elements), len(self.elements) * self.radial
        shapes: dict[str, tuple[int, ...]] = {
            "mixing": (n, self.degree + 1, basis, self.channels),
            "last.weight": (n, self.hidden or (self.degree + 3) * self.channels, 1),
        }
        return shapes | ({"second.weight": (n, self.hidden, self.hidden)} if self.hidden else {})


def lighter(size: MomentSettings) -> MomentSettings:
    """This size, limited by LIGHT."""
    return replace(size, **{name: min(most, getattr(size, name)) for name, most in LIGHT.items()})


@settings
class PainnSettings:
    """Size and cutoff of a `PainnNet`.

    Attributes:
        elements: Atomic numbers it knows, ascending.
        cutoff: Cutoff of one message, Å; information travels `layers` × as far.
        width: Channels of the scalar and of the vector features.
        layers: Message and update blocks.
        radial: Radial basis functions.
        direct: Whether forces come from a head of their own, without stress.
    """

    kind: ClassVar[str] = "painn"
    elements: tuple[int, ...] = setting(least=1, most=118)
    cutoff: float = setting(5.0, above=1.0, most=15.0, unit="Å")
    width: int = setting(64, least=2, most=1024)
    layers: int = setting(3, least=1, most=12)
    radial: int = setting(16, least=2, most=64)
    direct: bool = False

    def __post_init__(self) -> None:
        _check_order(self)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors that fix its size."""
        return {
            "embedding": (len(self.elements), self.width),
            f"messages.{self.layers - 1}.filters": (3, self.radial, self.width),
        }


@settings
class EdgeTransformerSettings:
    """Size and cutoff of an `EdgeTransformerNet`.

    Attributes:
        elements: Atomic numbers it knows, ascending.
        cutoff: Cutoff of its tokens, Å. A molecule within it has a token for every pair.
        width: Width of a token.
        layers: Number of blocks.
        heads: Number of attention heads.
        radial: Number of radial basis functions.
        states: Whether it knows the total charge and the number of unpaired electrons.
    """

    kind: ClassVar[str] = "edge_transformer"
    direct: ClassVar[bool] = True
    elements: tuple[int, ...] = setting(least=1, most=118)
    cutoff: float = setting(12.0, above=1.0, most=50.0, unit="Å")
    width: int = setting(64, least=4, most=1024)
    layers: int = setting(4, least=1, most=24)
    heads: int = setting(4, least=1, most=64)
    radial: int = setting(32, least=2, most=256)
    states: bool = False

    def __post_init__(self) -> None:
        _check_order(self)
        if self.width % self.heads:
            refuse(self, "heads", allowed=f"a divisor of the width, {self.width}", fix="one head for every 16 of the width")

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors that fix its size."""
        last = f"blocks.{self.layers - 1}.widen.weight"
        shapes: dict[str, tuple[int, ...]] = {"first.weight": (self.radial + 15, self.width), last: (self.width, 2 * self.width)}
        return shapes | {"elements_of_pair": (2 * len(self.elements) + 1, self.width)}


@settings
class SplittingMapSettings:
    """Stride and size of a `SplittingMap`.

    Attributes:
        stride_fs: Time that one application of the map advances, fs.
        kicks: Force evaluations per stride.
        potential: Size of the potential of each kick.
    """

    kind: ClassVar[str] = "splitting"
    stride_fs: float = setting(16.0, above=0.0, most=LONGEST_STRIDE, unit="fs")
    kicks: int = setting(2, least=1, most=64, fix="one for about every 8 fs, two at least")
    potential: MomentSettings

    @property
    def elements(self) -> tuple[int, ...]:
        return self.potential.elements

    @property
    def cutoff(self) -> float:
        return self.potential.cutoff

    @property
    def strides_fs(self) -> tuple[float, ...]:
        """Its one stride."""
        return (self.stride_fs,)

    @property
    def stages(self) -> int:
        """Number of different potentials: the sequence of kicks is a palindrome."""
        return self.kicks // 2 + 1

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors that fix its size."""
        last = self.stages - 1
        shapes = {f"stages.{last}.{name}": shape for name, shape in self.potential.shapes().items()}
        return shapes | {"largest_force": (self.stages, len(self.elements))}


@settings
class OneStepSettings:
    """Size and cutoff of a `OneStepNet`.

    Attributes:
        strides_fs: Training strides, fs; any between the shortest and the longest is allowed.
        cutoff: Cutoff of one message, Å.
        width: Channels of the scalar and of the vector features.
        layers: Messages before the impulses.
        waves: Radial basis functions.
        learned: Number of learned vectors of every atom, whose differences enter pair impulses.
        potential: Size of the potential of its forces.
    """

    kind: ClassVar[str] = "one_step"
    strides_fs: tuple[float, ...] = setting((16.0,), above=0.0, most=LONGEST_STRIDE, unit="fs")
    cutoff: float = setting(4.5, above=1.0, most=15.0, unit="Å")
    width: int = setting(32, least=2, most=1024)
    layers: int = setting(2, least=1, most=12)
    waves: int = setting(8, least=2, most=64)
    learned: int = setting(8, least=1, most=64)
    potential: MomentSettings

    def __post_init__(self) -> None:
        _check_strides(self)

    @property
    def elements(self) -> tuple[int, ...]:
        return self.potential.elements

    @property
    def stride_fs(self) -> float:
        """The longest stride, used by default."""
        return max(self.strides_fs)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors that fix its size."""
        shapes = {f"potential.{name}": shape for name, shape in self.potential.shapes().items()}
        return shapes | {
            "embedding": (len(self.elements), self.width),
            f"rounds.{self.layers - 1}.see.weight": (self.waves + INVARIANTS, self.width),
            "exchange.mix.weight": (self.width, self.learned),
        }


@settings
class OneStepAttentionSettings:
    """Size and cutoff of a `OneStepAttentionNet`.

    Attributes:
        elements: Atomic numbers it knows, ascending.
        strides_fs: Training strides, fs; any between the shortest and the longest is allowed.
        cutoff: Cutoff of one message, Å.
        width: Width of a token.
        heads: Number of attention heads.
        layers: Messages along edges.
        attention_layers: Number of attention layers in each.
        residual: Whether it predicts the difference from free flight, not the whole displacement and momentum.
        mass_scaled: Whether predictions are scaled by √m, so that all elements have one scale.
    """

    kind: ClassVar[str] = "one_step_attention"
    elements: tuple[int, ...] = setting(least=1, most=118)
    strides_fs: tuple[float, ...] = setting((16.0,), above=0.0, most=LONGEST_STRIDE, unit="fs")
    cutoff: float = setting(4.5, above=1.0, most=15.0, unit="Å")
    width: int = setting(64, least=4, most=1024)
    heads: int = setting(4, least=1, most=64)
    layers: int = setting(2, least=1, most=12)
    attention_layers: int = setting(1, least=1, most=12)
    residual: bool = True
    mass_scaled: bool = True

    def __post_init__(self) -> None:
        _check_strides(self)
        _check_order(self)
        if self.width % self.heads:
            refuse(self, "heads", allowed=f"a divisor of the width, {self.width}", fix="keep the default")

    @property
    def stride_fs(self) -> float:
        """The longest stride, used by default."""
        return max(self.strides_fs)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors that fix its size."""
        last = f"rounds.{self.layers - 1}.layers.{self.attention_layers - 1}.ask.weight"
        return {"embedding": (len(self.elements), self.width), last: (self.width, 3 * self.width)}


def _check_strides(made: OneStepSettings | OneStepAttentionSettings) -> None:
    if not made.strides_fs:
        refuse(made, "strides_fs", allowed="at least one", fix="8 and 16 fs suit most solids")


def _check_order(made: MomentSettings | PainnSettings | EdgeTransformerSettings | OneStepAttentionSettings) -> None:
    whole = all(type(number) is int and 1 <= number <= 118 for number in made.elements)
    if not whole or not made.elements or list(made.elements) != sorted(set(made.elements)):
        refuse(made, "elements", allowed="distinct ascending atomic numbers, 1 to 118", fix="list each once")
