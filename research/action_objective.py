r"""What training a generating function makes small: errors of the increments at midpoints of the data, mass-scaled.

    L = ⟨ [ |√m (∂S/∂p̄ − Δq)/t|² + |(∂S/∂q̄ + Δp)/√m|² ] / (3 k_B T) ⟩

Δq = q' − q, Δp = p' − p, q̄, p̄: increments and midpoints of the exact flow over a stride t   m: masses   T: temperature of the
run. Nothing is solved for, and there is nothing to unroll. An error here is an error of the solved map, but for the factor
1/(1 + tan²(ωt/2)) by which the map of a mode of frequency ω answers to it, which is below 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mdistill.graph import build_graph
from mdistill.training.stride_objective import errors
from mdistill.training.windows import Batch, Window, join_windows
from mdistill.types import Graph
from research.action_net import ActionNet


@dataclass(frozen=True, slots=True)
class ActionObjective:
    """Errors of the increments on windows of one stride. A window run backwards has the same error: S is even in p̄."""

    def __call__(self, module: torch.nn.Module, batch: Sequence[Window], step: int) -> tuple[Tensor, dict[str, float]]:
        assert isinstance(module, ActionNet)
        joined = join_windows(batch)
        graph, momenta = middle_of(joined, module.cutoff)
        with torch.set_grad_enabled(step >= 0):
            moved, kicked = module.increments(graph, momenta, joined.masses)
            moved = moved - (joined.positions_after[0] - joined.system.positions)
            position, momentum = (e.mean() for e in errors(joined, moved, kicked - (joined.momenta_after[0] - joined.momenta)))
        found = {"position": float(position.detach()) ** 0.5, "momentum": float(momentum.detach()) ** 0.5}
        return position + momentum, found

    def observe(self, history: Sequence[dict[str, Any]]) -> None:
        """Nothing depends on the history."""

    def describe(self, measures: dict[str, float]) -> str:
        position, momentum = (100.0 * measures.get(name, float("nan")) for name in ("position", "momentum"))
        return f"error of a stride at midpoints: positions {position:.2g} %, momenta {momentum:.2g} %"


def middle_of(batch: Batch, cutoff: float) -> tuple[Graph, Tensor]:
    """Graph and momenta halfway between the ends of the first stride."""
    positions = 0.5 * (batch.system.positions + batch.positions_after[0])
    graph = build_graph(replace(batch.system, positions=positions), cutoff)
    return graph, 0.5 * (batch.momenta + batch.momenta_after[0])
