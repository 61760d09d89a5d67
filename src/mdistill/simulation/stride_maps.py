"""Any long-stride map as an NVE propagator of one structure."""

from __future__ import annotations

from mdistill.estimates import Estimate, exactly
from mdistill.nets.catalogue import MAPS, resolve
from mdistill.nets.network import StrideMap
from mdistill.simulation.guard import Guard
from mdistill.simulation.propagators import Evaluate, LongStrides
from mdistill.types import System


def long_strides(
    net: StrideMap, system: System, evaluate: Evaluate, *, time: float, skin: float, small_step: float, guard: Guard | None = None
) -> LongStrides:
    """A map as a propagator.

    Args:
        net: The map, in the float type it is to compute in.
        system: The structure.
        evaluate: The potential it was taught.
        time: The stride, fs; one that the map was taught.
        skin: Of its neighbour lists, Å.
        small_step: Longest step of velocity Verlet where it falls back, fs.
        guard: Whose closest distances compiled strides watch.
    Raises:
        BadInput: A stride the map was not taught.
    """
    net.check(time)
    make = resolve(MAPS[net.kind].propagator)
    strides: LongStrides = make(net, system, evaluate, time=time, skin=skin, small_step=min(small_step, time), guard=guard)
    return strides


def fallback_share(strides: LongStrides) -> Estimate:
    """Of strides that were taken in small steps; unknown before the first."""
    counts = strides.counts
    value = counts.fallbacks / counts.strides if counts.strides else None
    return exactly(value, samples=counts.strides)
