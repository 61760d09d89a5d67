"""Every kind of network: its classes, rates, and its functions in other rooms, loaded on first use.

A new network is one file and one line here; code outside the package adds its line to `POTENTIALS` or `MAPS` itself. Classes and
functions are named "module:name", so that neither torch nor another kind is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from mdistill.errors import BadInput

_SETTINGS = "mdistill.nets.settings:"
_SPLITTING, _ONE_STEP = "mdistill.training.splitting_map:", "mdistill.training.one_step_map:"


@dataclass(frozen=True, slots=True, kw_only=True)
class PotentialKind:
    """A kind of energy network.

    Attributes:
        settings, net: Classes of its size and of the network.
        rates: Learning rate and weight decay.
        calibrate: calibrate(net, sample, fresh=…) sets buffers of this kind alone from training items; "" for none.
        kernel, gpu_kernel: kernel(potential, double=…) is the same potential in compiled code on the CPU or GPU; "" for none.
    """

    settings: str
    net: str
    rates: tuple[float, float]
    calibrate: str = ""
    kernel: str = ""
    gpu_kernel: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MapKind:
    """A kind of long-stride map.

    Attributes:
        settings, net, rates: As of `PotentialKind`.
        begin: begin(segments, potential, settings, folder, stop=…) returns the model file of its initial potential.
        untrained: untrained(potential, settings, windows) makes the map before training.
        limit: limit(net, potential, windows, held_out) sets the limits of the trained map and returns its errors.
        propagator: propagator(net, system, evaluate, …) returns it as an NVE step, as `simulation.stride_maps.long_strides`.

    A map with another training than `training.stride` leaves `begin`, `untrained` and `limit` out.
    """

    settings: str
    net: str
    rates: tuple[float, float]
    begin: str = ""
    untrained: str = ""
    limit: str = ""
    propagator: str = ""


POTENTIALS: dict[str, PotentialKind] = {
    "moment": PotentialKind(
        settings=_SETTINGS + "MomentSettings", net="mdistill.nets.moment:MomentNet", rates=(5e-3, 0.3),
        calibrate="mdistill.training.calibrate:calibrate_moments", kernel="mdistill.nets.compiled:compiled_moment",
        gpu_kernel="mdistill.nets.gpu:gpu_moment",
    ),
    "painn": PotentialKind(settings=_SETTINGS + "PainnSettings", net="mdistill.nets.painn:PainnNet", rates=(4e-3, 0.01)),
    "edge_transformer": PotentialKind(
        settings=_SETTINGS + "EdgeTransformerSettings", net="mdistill.nets.edge_transformer:EdgeTransformerNet",
        rates=(2e-3, 0.01),
    ),
}  # fmt: skip
"""Kinds of potential."""
MAPS: dict[str, MapKind] = {
    "splitting": MapKind(
        settings=_SETTINGS + "SplittingMapSettings", net="mdistill.nets.splitting_map:SplittingMap", rates=(1e-3, 0.0),
        begin=_SPLITTING + "first_kick", untrained=_SPLITTING + "splitting_map_of", limit=_SPLITTING + "set_limits",
        propagator="mdistill.simulation.splitting_map:splitting_strides",
    ),
    "one_step": MapKind(
        settings=_SETTINGS + "OneStepSettings", net="mdistill.nets.one_step:OneStepNet", rates=(3e-3, 0.01),
        begin=_ONE_STEP + "taught_potential", untrained=_ONE_STEP + "one_step_of", limit=_ONE_STEP + "calibrate_uncertainty",
        propagator="mdistill.simulation.one_step_map:one_step_strides",
    ),
    "one_step_attention": MapKind(
        settings=_SETTINGS + "OneStepAttentionSettings", net="mdistill.nets.one_step_attention:OneStepAttentionNet",
        rates=(2e-3, 0.01), begin=_ONE_STEP + "taught_potential", untrained=_ONE_STEP + "attention_of",
        limit=_ONE_STEP + "calibrate_uncertainty", propagator="mdistill.simulation.one_step_map:one_step_strides",
    ),
}  # fmt: skip
"""Kinds of long-stride map."""
ONE_STEP_NETS = {"equivariant": "one_step", "attention": "one_step_attention"}
"""Kinds that are networks of one choice of map, one_step."""
if TYPE_CHECKING:
    PotentialName: TypeAlias = str
    MapName: TypeAlias = str
else:  # choices of the command line
    PotentialName = Literal[tuple(POTENTIALS)]
    MapName = Literal[tuple(name for name in MAPS if name not in list(ONE_STEP_NETS.values())[1:])]


def kind_of(name: str) -> PotentialKind | MapKind:
    """The entry of a kind.

    Raises:
        BadInput: Unknown kind.
    """
    kinds: dict[str, Any] = POTENTIALS | MAPS
    if name not in kinds:
        raise BadInput("kind of network", repr(name), allowed=", ".join(kinds), fix="choose one of them")
    found: PotentialKind | MapKind = kinds[name]
    return found


def resolve(path: str) -> Any:
    """The object at "module:name"."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)
