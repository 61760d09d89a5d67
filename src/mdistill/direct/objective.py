r"""Objective of direct forces: randomly rotated and mirrored copies of every structure, rows of a teacher's force Jacobian, and a
penalty on what heats a run.

    L = w_F ⟨‖F̂ − F‖⟩ / s + w_E ⟨|ΔE| / N⟩ / s + w_∇ ⟨‖−∇E − F‖⟩ / s + w_H ⟨‖J v + H v‖⟩ / t + w_A ⟨a²⟩ / (3N s²)
    a = u·J w − w·J u,   J w ≈ (F̂(r + h w) − F̂(r − h w)) / 2h         ⟨a²⟩ = ‖J − Jᵀ‖² for normal u, w

F̂, F: predicted and labelled forces   E: energy head   s: RMS force component of the labels   J = ∂F̂/∂r   u, w: random
directions   H v: labelled curvature products, −J v of a teacher with an energy   v: their directions; rows of H for unit ones
t: RMS product component   N: atoms   h: 0.01 Å. J v and a need two and four more forces and no second derivatives (those of the
attention would need an array of all triangles); each is taken at every fourth step.

Reference: M. Eissler et al., arXiv 2503.01431 (copies, loss); F. Bigi, M. Langer, M. Ceriotti, The dark side of the forces,
ICML 2025, arXiv 2412.11569 (antisymmetry).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mdistill.derivatives import predict
from mdistill.graph import turned
from mdistill.training.labels import Item, curvature_labels, join
from mdistill.training.losses import Term, summed
from mdistill.training.objective import PotentialObjective
from mdistill.training.ranks import here
from mdistill.training.stride_objective import random_turn
from mdistill.types import Graph

EVERY, CURVED = 4, 2
"""Steps between evaluations of the antisymmetric part, and of curvature products; the latter's step among them."""
_STEP = 0.01


@dataclass(slots=True, kw_only=True)
class TurnedObjective:
    """The errors of a potential on turned copies.

    Attributes:
        inner: Errors of forces, energies and the energy's gradient.
        copies: Copies of each structure in a batch.
        seed: Seed of the turns.
        antisymmetry: w_A / s²; 0: no such term.
        curvature: w_H / t; 0: no such term.
    """

    inner: PotentialObjective
    copies: int
    seed: int
    antisymmetry: float = 0.0
    curvature: float = 0.0

    def __call__(self, module: torch.nn.Module, batch: Sequence[Item], step: int) -> tuple[Tensor, dict[str, float]]:
        if step < 0:
            return self.inner(module, batch, step)
        random, ranks = np.random.default_rng([self.seed, step]), here()
        copies = [(item, random_turn(random)) for item in batch for _ in range(self.copies)]
        batch = [turned_item(item, turn) if ranks.owns(k) else item for k, (item, turn) in enumerate(copies)]
        loss, errors = self.inner(module, batch, step)
        if self.antisymmetry and step % EVERY == 0:
            own, asymmetry = ranks.share(batch), loss.new_zeros(())
            u, w = (_own_rows(random.normal(size=(sum(i.graph.system.n_atoms for i in batch), 3)), batch) for _ in range(2))
            if own:
                asymmetry = len(own) / len(batch) * antisymmetric_part(module, join([item.graph for item in own]), u, w)
            errors["antisymmetry"] = float(ranks.total(asymmetry.detach().clone()).sqrt())
            loss = loss + EVERY * self.antisymmetry * asymmetry
        if self.curvature and step % EVERY == CURVED:
            term = Term(quantity="curvature", norm="length", weight=EVERY * self.curvature)
            part, error = summed([term], [product_error(module, batch, random)], loss)
            loss, errors = loss + part, errors | error
        return loss, errors

    def observe(self, history: Sequence[dict[str, Any]]) -> None:
        self.inner.observe(history)

    def describe(self, measures: dict[str, float]) -> str:
        return self.inner.describe(measures)


def turned_item(item: Item, turn: Float[Tensor, "3 3"]) -> Item:
    """A labelled frame rotated or mirrored: r → r Q, F → F Q, v → v Q, H v → H v Q. Its neighbours stay."""
    system, target = turned(item.graph.system, turn.to(item.graph.system.positions)), item.frame.target
    forces = target.forces @ turn.to(target.forces)
    probes, products = (None if part is None else part @ turn.to(part) for part in (item.frame.probes, item.frame.products))
    target = replace(target, forces=forces, stress=None)
    frame = replace(item.frame, system=system, target=target, probes=probes, products=products)
    return Item(graph=replace(item.graph, system=system), frame=frame)


def _own_rows(rows: np.ndarray, batch: Sequence[Item]) -> Tensor:
    """Of rows for the atoms of a batch those of this rank's share."""
    parts = np.split(rows, np.cumsum([item.graph.system.n_atoms for item in batch])[:-1])
    return torch.from_numpy(np.concatenate([*here().share(parts), rows[:0]]))


def antisymmetric_part(
    module: torch.nn.Module, graph: Graph, u: Float[Tensor, "atom 3"], w: Float[Tensor, "atom 3"]
) -> Float[Tensor, ""]:
    """⟨a²⟩ / 3N over the structs, (eV/Å²)²; differentiable in the weights."""
    system = graph.system
    u, w = u.to(system.positions), w.to(system.positions)
    along = (u * jacobian_product(module, graph, w) - w * jacobian_product(module, graph, u)).sum(1)
    each = along.new_zeros(system.n_structs).index_add(0, system.owner, along)
    return (each.square() / (3.0 * torch.bincount(system.owner, minlength=system.n_structs))).mean()


def product_error(module: torch.nn.Module, batch: Sequence[Item], random: np.random.Generator) -> Float[Tensor, "atom 3"] | None:
    """−J v less the labelled H v for one direction of each frame of this rank that has labels, eV/Å²; None where none has."""
    own = here().share(batch)
    if not own:
        return None
    graph = join([item.graph for item in own])
    probes, products, known = curvature_labels([item.frame for item in batch], random, graph.system.positions)
    return (-jacobian_product(module, graph, probes[0]) - products[0])[known] if bool(known.any()) else None


def jacobian_product(module: torch.nn.Module, graph: Graph, direction: Float[Tensor, "atom 3"]) -> Float[Tensor, "atom 3"]:
    """J w by central differences, eV/Å²; differentiable in the weights."""
    system, ends = graph.system, []
    for sign in (1.0, -1.0):
        moved = replace(system, positions=system.positions + sign * _STEP * direction)
        ends.append(predict(module, replace(graph, system=moved), create_graph=True)[0].forces)  # type: ignore[arg-type]
    return (ends[0] - ends[1]) / (2.0 * _STEP)
