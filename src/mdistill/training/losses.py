"""Losses as sums of terms: a quantity × a norm × a weight, each made dimensionless by the scale of the labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mdistill.errors import BadInput
from mdistill.training.ranks import here
from mdistill.types import Prediction

Quantity = Literal["energy", "atomic energy", "forces", "stress", "curvature", "energy gradient"]
Norm = Literal["absolute", "square", "length"]

NORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "absolute": lambda residual: residual.abs().mean(),
    "square": lambda residual: residual.square().mean(),
    "length": lambda residual: (residual.square().sum(-1) + 1e-12).sqrt().mean(),
}
"""Mean over rows (and components) of |x|, x², or of the length of each row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """weight · norm(residual / scale).

    Attributes:
        quantity: "energy" (eV/atom), "atomic energy" (eV), "forces" (eV/Å), "stress" (eV/Å³), "curvature" (products H·v, eV/Å²)
            or "energy gradient" (−∇E of a network with direct forces against the labelled forces, eV/Å).
        norm: "absolute", "square" or "length" (Euclidean length of each atom's vector).
        weight: Pure number.
        scale: Divisor of the residuals, in the unit of the quantity: the spread of the labels.
    """

    quantity: Quantity
    norm: Norm = "length"
    weight: float = 1.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.quantity not in get_args(Quantity):
            raise BadInput("quantity", repr(self.quantity), allowed=", ".join(get_args(Quantity)), fix="choose one of them")
        if self.norm not in NORMS:
            raise BadInput("norm", repr(self.norm), allowed=", ".join(NORMS), fix="choose one of them")
        if not 0.0 <= self.weight < 1e9 or not 0.0 < self.scale < 1e9:
            problem = f"weight {self.weight}, scale {self.scale}"
            raise BadInput(f"{self.quantity} term", problem, allowed="weight ≥ 0, scale > 0", fix="finite positive numbers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Labels of a batch, with masks of missing ones.

    Attributes:
        label: Energies, forces and stress; NaN where an energy or forces are not known, zero where has_stress is False.
        has_stress: [struct] whether the stress is known.
        products: [probe, atom, 3] curvature products, eV/Å², or None.
        has_products: [atom] whether the atom's struct has such labels; None with products None.
        has_atomic: [atom] whether label.atomic is known; None with that None.
    """

    label: Prediction
    has_stress: Bool[Tensor, " struct"]
    products: Float[Tensor, "probe atom 3"] | None = None
    has_products: Bool[Tensor, " atom"] | None = None
    has_atomic: Bool[Tensor, " atom"] | None = None


def residual(
    quantity: Quantity, prediction: Prediction, products: Float[Tensor, "probe atom 3"], target: Target,
    atoms: Float[Tensor, " struct"], *, gradient: Float[Tensor, "atom 3"] | None = None,
) -> Float[Tensor, "row component"] | None:  # fmt: skip
    """Prediction − label of one quantity in its own unit, without missing labels; None without labels.

    Args:
        quantity: The quantity.
        prediction: Energies, forces, stress of the batch.
        products: Curvature products of the batch, as many per struct as target.products, or none.
        target: Labels.
        atoms: Atoms per struct.
        gradient: Minus the gradient of the energy, where forces differ from it.
    """
    known_energy, known_forces = target.label.energy.isfinite(), target.label.forces.isfinite().all(1)
    if quantity == "energy":
        lacking = ((prediction.energy - target.label.energy) / atoms)[known_energy]
        return lacking.unsqueeze(1) if len(lacking) else None
    if quantity == "atomic energy":
        known, label = target.has_atomic, target.label.atomic
        if prediction.atomic is None or known is None or label is None or not bool(known.any()):
            return None
        return (prediction.atomic - label)[known].unsqueeze(1)
    if quantity in ("forces", "energy gradient"):
        answer = prediction.forces if quantity == "forces" else gradient
        return None if answer is None or not bool(known_forces.any()) else (answer - target.label.forces)[known_forces]
    if quantity == "stress":
        if prediction.stress is None or target.label.stress is None or not bool(target.has_stress.any()):
            return None
        return (prediction.stress - target.label.stress)[target.has_stress].flatten(1)
    if target.products is None or target.has_products is None or len(products) == 0 or not bool(target.has_products.any()):
        return None
    return (products - target.products)[:, target.has_products].flatten(0, 1)


def total_loss(
    terms: Sequence[Term], prediction: Prediction, products: Float[Tensor, "probe atom 3"], target: Target,
    atoms: Float[Tensor, " struct"], *, gradient: Float[Tensor, "atom 3"] | None = None,
) -> tuple[Tensor, dict[str, float]]:  # fmt: skip
    """The sum of all terms whose labels exist, and the mean absolute error of each quantity in its own unit."""
    rows = [residual(term.quantity, prediction, products, target, atoms, gradient=gradient) for term in terms]
    return summed(terms, rows, prediction.forces)


def summed(
    terms: Sequence[Term], residuals: Sequence[Float[Tensor, "row component"] | None], like: Tensor
) -> tuple[Tensor, dict[str, float]]:
    """As `total_loss`, from the residuals of each term on this rank (None: no labels), in the float type of `like`.

    Means are over the rows of all ranks: the losses of the ranks add up, and the errors are those of all.
    """
    parts = [(0.0, 0.0) if r is None else (len(r), len(r) * float(r.detach().abs().mean())) for r in residuals]
    counts = here().total(torch.tensor(parts, dtype=torch.float64).view(-1, 2)).tolist()
    total, errors = like.new_zeros(()), dict[str, float]()
    for term, rows, (count, absolute) in zip(terms, residuals, counts, strict=True):
        if count:
            errors[term.quantity] = absolute / count
        if rows is not None:
            total = total + term.weight * (len(rows) / count) * NORMS[term.norm](rows / term.scale).to(total.dtype)
    return total, errors


def root_mean_square(values: Tensor) -> float:
    """√⟨x²⟩ over every component."""
    return float(values.detach().to(torch.float64).square().mean().sqrt())
