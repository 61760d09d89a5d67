"""Where a long-stride map is to be trusted: as far as it went in strides that it gets right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from mdistill.derivatives import forces_through
from mdistill.graph import edge_vectors
from mdistill.nets.composition import CompositionNet, Forces, build_graph_at, compose
from mdistill.nets.spline import SplineNet
from mdistill.training.stride_objective import errors
from mdistill.training.windows import Window, join_windows
from mdistill.types import System
from mdistill.units import KINETIC

_RIGHT = 4.0
"""A stride is right where its error is below this many times the median error."""
_FORCE_MARGIN, _ENERGY_MARGIN = 1.05, 1.1
_JUDGED = 800


def set_limits(net: CompositionNet, windows: Sequence[Window]) -> dict[str, float]:
    """Set the map's `largest_force` from strides that it gets right and `largest_change` from the exact flow, in place.

    Args:
        net: The trained map, float64.
        windows: What it was trained on; up to 1,600 of them are looked at.
    Returns:
        "wrong": the share of strides that it gets wrong; "wrong, noticed": the share of these that pass a limit (1 where
        there are none).
    """
    forces, changes, wrong = [], [], []
    for window in windows[:: max(1, len(windows) // _JUDGED)]:
        largest = torch.zeros_like(net.largest_force)
        stages = [_watched(stage, window, largest[k]) for k, stage in enumerate(net.stages)]  # type: ignore[arg-type]
        with torch.no_grad():
            positions, momenta = compose(stages, net.settings, window.system, window.momenta, window.masses)
            start = _energy(net, window.system, window.momenta, window)
            change = _energy(net, replace(window.system, positions=positions), momenta, window) - start
            exact = replace(window.system, positions=window.positions_after[0])
            usual = _energy(net, exact, window.momenta_after[0], window) - start
        batch = join_windows([window])
        position, momentum = errors(batch, positions - window.positions_after[0], momenta - window.momenta_after[0])
        forces.append(largest)
        changes.append([abs(float(value)) / window.system.n_atoms**0.5 for value in (change, usual)])
        wrong.append(float((position + momentum).mean()))
    error, largest, change = torch.tensor(wrong), torch.stack(forces), torch.tensor(changes, dtype=torch.float64)
    right = error <= _RIGHT**2 * error.median()
    net.largest_force.copy_(_FORCE_MARGIN * largest[right].amax(0))
    net.largest_change.copy_(_ENERGY_MARGIN * change[:, 1].max())
    noticed = (largest > net.largest_force).flatten(1).any(1) | (change[:, 0] > net.largest_change)
    count = int((~right).sum())
    return {"wrong": count / len(right), "wrong, noticed": float(noticed[~right].float().mean()) if count else 1.0}


def _watched(stage: SplineNet, window: Window, largest: Float[Tensor, " species"]) -> Forces:
    """The forces of a stage, keeping the largest of each species."""
    species = stage.species(window.system.numbers)

    def forces(system: System) -> Tensor:
        found = forces_through(stage, build_graph_at(system, stage.cutoff))
        largest.scatter_reduce_(0, species, found.norm(dim=1), "amax")
        return found

    return forces


def _energy(net: CompositionNet, system: System, momenta: Tensor, window: Window) -> Tensor:
    """Kinetic energy and that of the first kick's potential, eV."""
    graph = build_graph_at(system, net.cutoff)
    return net.stages[0](graph, edge_vectors(graph)).sum() + 0.5 * KINETIC * (momenta.square().sum(1) / window.masses).sum()
