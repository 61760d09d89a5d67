"""Any long-stride map as an NVE propagator of one structure."""

from __future__ import annotations

from mdistill.estimates import Estimate, exactly
from mdistill.nets.one_step import OneStepNet
from mdistill.nets.one_step_attention import OneStepAttentionNet
from mdistill.nets.splitting_map import SplittingMap
from mdistill.simulation.guard import Guard
from mdistill.simulation.one_step_map import OneStepStrides
from mdistill.simulation.splitting_map import SplittingStrides, composed
from mdistill.simulation.verlet import Evaluate
from mdistill.types import System

StrideNet = SplittingMap | OneStepNet | OneStepAttentionNet
LongStrides = SplittingStrides | OneStepStrides


def long_strides(
    net: StrideNet, system: System, evaluate: Evaluate, *, time: float, skin: float, small_step: float, guard: Guard | None = None
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
    small_step = min(small_step, time)
    if isinstance(net, SplittingMap):
        return composed(net, system, evaluate, skin=skin, small_step=small_step, guard=guard)
    turning = isinstance(net, OneStepAttentionNet)
    return OneStepStrides(net=net, evaluate=evaluate, time=time, small_step=small_step, random_frame=turning, skin=skin)


def fallback_share(strides: LongStrides) -> Estimate:
    """Of strides that were taken in small steps; unknown before the first."""
    counts = strides.counts
    value = counts.fallbacks / counts.strides if counts.strides else None
    return exactly(value, samples=counts.strides)
