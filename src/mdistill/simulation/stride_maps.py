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
        net: The map, in the float type of the computation.
        system: The structure.
        evaluate: Its student.
        time: The stride, fs; a training stride of the map.
        skin: Skin of its neighbour lists, Å.
        small_step: Longest time step of velocity Verlet in a fallback, fs.
        guard: Guard with the closest distances that compiled strides watch.
    Raises:
        BadInput: A stride outside the map's training.
    """
    net.check(time)
    make = resolve(MAPS[net.kind].propagator)
    strides: LongStrides = make(net, system, evaluate, time=time, skin=skin, small_step=min(small_step, time), guard=guard)
    return strides


def fallback_share(strides: LongStrides) -> Estimate:
    """Share of strides replaced by time steps; unknown before the first."""
    counts = strides.counts
    value = counts.fallbacks / counts.strides if counts.strides else None
    return exactly(value, samples=counts.strides)
