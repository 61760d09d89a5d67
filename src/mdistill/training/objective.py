"""Objective of a potential: errors of energies, forces, stress and curvature, each over the scale of the labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mdistill.data.probes import draw_probes
from mdistill.derivatives import curvature_products, energy_forces, predict
from mdistill.training.contact_dimers import EVERY, Dimers, attraction
from mdistill.training.labels import Item, curvature_labels, join, known_forces, target_of
from mdistill.training.losses import Target, Term, root_mean_square, summed, total_loss
from mdistill.training.ranks import here
from mdistill.training.settings import TrainSettings
from mdistill.types import Graph, LabelledFrame, Potential

GRADIENT_EVERY = 4
"""Steps between evaluations of the energy gradient of a student with direct forces."""
NEAR_TEACHER = 1.05
"""Force error over the teacher's below which the weight of curvature is halved."""


@dataclass(slots=True, kw_only=True)
class PotentialObjective:
    """Energy, forces, stress at every step; curvature products at every n-th; at some steps dimers that must not attract each
    other (`training.contact_dimers`) and, for a student with direct forces, the gradient of its energy.

    Attributes:
        terms: The loss.
        every, probes: Steps between curvature terms; probes per struct in one.
        seed: Seed of the choice of probes.
        dimers: See `training.contact_dimers`.
        teacher: If given, it computes products of new probes at every such step.
        teacher_error: Its force error against these labels, eV/Å: the curvature's weight is halved, once, when a validation
            error comes within 5 % of it.
    """

    terms: Sequence[Term]
    every: int
    seed: int
    probes: int = 1
    dimers: Dimers | None = None
    teacher: Potential | None = None
    teacher_error: float | None = None
    halved: bool = field(default=False, init=False)

    def __call__(self, module: torch.nn.Module, batch: Sequence[Item], step: int) -> tuple[Tensor, dict[str, float]]:
        if here().share(batch):
            loss, errors = self._errors(module, batch, step)
        else:
            loss, errors = summed(self._terms(), [None] * len(self.terms), batch[0].graph.system.positions)
        if self.dimers is not None and step >= 0 and step % EVERY == 1:
            loss = loss + EVERY * attraction(module, self.dimers)  # type: ignore[arg-type]
        return loss, errors

    def observe(self, history: Sequence[dict[str, Any]]) -> None:
        errors = [row["validation"].get("forces", np.inf) for row in history]
        self.halved = self.teacher_error is not None and min(errors, default=np.inf) <= NEAR_TEACHER * self.teacher_error

    def describe(self, measures: dict[str, float]) -> str:
        force, energy = (1e3 * measures.get(name, float("nan")) for name in ("forces", "energy"))
        return f"force MAE {force:.0f} meV/Å, energy {energy:.1f} meV/atom"

    def _errors(self, module: torch.nn.Module, batch: Sequence[Item], step: int) -> tuple[Tensor, dict[str, float]]:
        """Loss and errors of the share of this rank."""
        own = here().share(batch)
        graph = join([item.graph for item in own])
        target, probes = target_of([item.frame for item in own], graph.system.positions), None
        if step >= 0 and step % self.every == 0:
            target, probes = self._curvature([item.frame for item in batch], target, step)
        prediction, products = predict(module, graph, probes=probes, create_graph=step >= 0)  # type: ignore[arg-type]
        atoms = torch.bincount(graph.system.owner, minlength=len(own)).to(torch.float64)
        gradient = self._energy_gradient(module, graph, step)
        return total_loss(self._terms(), prediction, products, target, atoms, gradient=gradient)

    def _terms(self) -> Sequence[Term]:
        if not self.halved:
            return self.terms
        return [replace(term, weight=0.5 * term.weight) if term.quantity == "curvature" else term for term in self.terms]

    def _curvature(
        self, frames: Sequence[LabelledFrame], target: Target, step: int
    ) -> tuple[Target, Float[Tensor, "probe atom 3"] | None]:
        """The target of this rank's share of the frames with curvature products, and their probes."""
        if all(term.quantity != "curvature" for term in self.terms):
            return target, None
        if self.teacher is not None:
            frames = self._redrawn(frames, self.teacher, step)
        elif all(frame.products is None for frame in frames):
            return target, None
        random = np.random.default_rng([self.seed, step])
        probes, products, known = curvature_labels(frames, random, target.label.forces, count=self.probes)
        return replace(target, products=products, has_products=known), probes

    def _redrawn(self, frames: Sequence[LabelledFrame], teacher: Potential, step: int) -> list[LabelledFrame]:
        generator = torch.Generator().manual_seed(int(np.random.default_rng([self.seed, step, 1]).integers(2**62)))
        drawn = [draw_probes(frame.system, self.probes, generator) for frame in frames]
        return [
            replace(frame, probes=p, products=curvature_products(teacher, frame.system, p) if here().owns(place) else p)
            for place, (frame, p) in enumerate(zip(frames, drawn, strict=True))
        ]

    def _energy_gradient(self, module: torch.nn.Module, graph: Graph, step: int) -> Tensor | None:
        if (step >= 0 and step % GRADIENT_EVERY) or all(term.quantity != "energy gradient" for term in self.terms):
            return None
        return energy_forces(module, graph, create_graph=step >= 0)  # type: ignore[arg-type]


def loss_terms(frames: Sequence[LabelledFrame], settings: TrainSettings, *, redrawn: float = 0.0) -> list[Term]:
    """The terms, each over the scale of the labels; energies and forces are related by a length of 1 Å.

    Args:
        frames: Labels; a quantity they lack has no term.
        settings: The weights.
        redrawn: Root mean square of products drawn during training, eV/Å²; 0 with stored products.
    """
    force = max(root_mean_square(known_forces(frames)), 1e-6)
    terms = [
        Term(quantity="forces", norm="length", weight=settings.force_weight, scale=force),
        Term(quantity="energy", norm="absolute", weight=settings.energy_weight, scale=force),
    ]
    if settings.atomic_weight > 0.0 and any(f.target.atomic is not None for f in frames):
        terms.append(Term(quantity="atomic energy", norm="absolute", weight=settings.atomic_weight, scale=force))
    if settings.student((1,)).direct and settings.energy_gradient_weight > 0.0:
        weight = GRADIENT_EVERY * settings.energy_gradient_weight
        terms.append(Term(quantity="energy gradient", norm="length", weight=weight, scale=force))
    stress = [f.target.stress for f in frames if f.target.stress is not None]
    if stress:
        scale = max(root_mean_square(torch.cat(stress)), 1e-6)
        terms.append(Term(quantity="stress", norm="absolute", weight=settings.stress_weight, scale=scale))
    products = [f.products.flatten(0, 1) for f in frames if f.products is not None]
    if products or redrawn > 0.0:
        scale = max(redrawn or root_mean_square(torch.cat(products)), 1e-6)
        terms.append(Term(quantity="curvature", norm="length", weight=settings.curvature_weight, scale=scale))
    return terms
