"""Where a long-stride map is to be trusted: as far as it went in strides that it gets right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from mdistill.derivatives import EnergyNet, forces_through
from mdistill.graph import edge_vectors
from mdistill.nets.moment import MomentNet
from mdistill.nets.splitting_map import Forces, SplittingMap, build_graph_at, compose
from mdistill.training.stride_objective import errors
from mdistill.training.windows import Window, join_windows
from mdistill.types import System
from mdistill.units import KINETIC

_RIGHT = 4.0
"""A stride is right where its error is below this many times the median error."""
_FORCE_MARGIN, _ENERGY_MARGIN, _UNSEEN = 1.05, 1.2, 0.98
_JUDGED = 800


def set_limits(net: SplittingMap, potential: EnergyNet, windows: Sequence[Window]) -> dict[str, float]:
    """Set the map's limits from strides that it gets right; a fiftieth of them change K + V₀ by more than `looked_at`.

    Args:
        net: The trained map, float64; changes in place.
        potential: What it was taught.
        windows: What it was trained on; up to 1,600 of them are looked at.
    Returns:
        "wrong": the share of strides that it gets wrong; "wrong, noticed": the share of these that pass a limit (1 where
        there are none).
    """
    forces: list[Tensor] = []
    rows: list[list[float]] = []
    for window in windows[:: max(1, len(windows) // _JUDGED)]:
        largest = torch.zeros_like(net.largest_force)
        stages = [_watched(stage, window, largest[k]) for k, stage in enumerate(net.stages)]  # type: ignore[arg-type]
        with torch.no_grad():
            positions, momenta = compose(stages, net.settings, window.system, window.momenta, window.masses)
        batch = join_windows([window])
        position, momentum = errors(batch, positions - window.positions_after[0], momenta - window.momenta_after[0])
        first: EnergyNet = net.stages[0]  # type: ignore[assignment]
        changes = [_change(each, window, positions, momenta) for each in (first, potential)]
        forces.append(largest)
        rows.append([float((position + momentum).mean()), *changes])
    error, looked, change = torch.tensor(rows, dtype=torch.float64).unbind(1)
    strongest, right = torch.stack(forces), error <= _RIGHT**2 * error.median()
    net.largest_force.copy_(_FORCE_MARGIN * strongest[right].amax(0))
    net.looked_at.copy_(looked[right].quantile(_UNSEEN))
    net.largest_change.copy_(_ENERGY_MARGIN * change[right].max())
    noticed = (strongest > net.largest_force).flatten(1).any(1) | ((looked > net.looked_at) & (change > net.largest_change))
    count = int((~right).sum())
    return {"wrong": count / len(right), "wrong, noticed": float(noticed[~right].float().mean()) if count else 1.0}


def _watched(stage: MomentNet, window: Window, largest: Float[Tensor, " species"]) -> Forces:
    """The forces of a stage, keeping the largest of each species."""
    species = stage.species(window.system.numbers)

    def forces(system: System) -> Tensor:
        found = forces_through(stage, build_graph_at(system, stage.cutoff))
        largest.scatter_reduce_(0, species, found.norm(dim=1), "amax")
        return found

    return forces


def _change(net: EnergyNet, window: Window, positions: Tensor, momenta: Tensor) -> float:
    """Size of the change of kinetic energy and a potential's over a stride, eV/√atom."""
    energies = []
    for place, speed in ((window.system.positions, window.momenta), (positions, momenta)):
        graph = build_graph_at(replace(window.system, positions=place), net.cutoff)
        with torch.no_grad():
            kinetic = 0.5 * KINETIC * (speed.square().sum(1) / window.masses).sum()
            energies.append(float(net(graph, edge_vectors(graph)).sum() + kinetic))
    return abs(energies[1] - energies[0]) / window.system.n_atoms**0.5
