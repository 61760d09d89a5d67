r"""Uncertainty of a network from its last layer: σ² = α² fᵀ (FᵀF/M + ς²)⁻¹ f for every atom.

f: features that the last layer is linear in, with a 1   F: those of M atoms of the training data   ς: a small floor
α: of each element, such that σ² is on average the squared error on structures held out

The Laplace approximation of a linear last layer: σ grows where an atom's features leave the directions seen in training.

Reference: F. Bigi, S. Chong, M. Ceriotti, F. Grasselli, A prediction rigidity formalism for low-cost uncertainties in trained
neural networks, Mach. Learn.: Sci. Technol. 5, 045018 (2024), doi 10.1088/2632-2153/ad805f,
arXiv 2403.02251.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

UNLIMITED = 1e6
"""No limit yet."""
_FLOOR = 1e-6


class LastLayerUncertainty(torch.nn.Module):
    """Buffers set after training: `root` R with RᵀR = (FᵀF/M + ς²)⁻¹, `calibration` α and `largest` allowed σ per species."""

    root: Tensor
    calibration: Tensor
    largest: Tensor

    def __init__(self, features: int, species: int) -> None:
        super().__init__()
        self.register_buffer("root", torch.eye(features + 1, dtype=torch.float64))
        self.register_buffer("calibration", torch.ones(species, dtype=torch.float64))
        self.register_buffer("largest", torch.full((species,), UNLIMITED, dtype=torch.float64))

    def forward(self, features: Float[Tensor, "atom feature"], species: Int[Tensor, " atom"]) -> Float[Tensor, " atom"]:
        """σ of every atom, float64."""
        length = (with_one(features) @ self.root.T).norm(dim=1)
        return length * self.calibration.index_select(0, species)

    def learn(self, products: Float[Tensor, "feature feature"]) -> None:
        """Set FᵀF/M (features with the 1); ς² is a millionth of its mean eigenvalue."""
        floor = _FLOOR * float(products.diagonal().mean()) + 1e-300
        lower = torch.linalg.cholesky(products + floor * torch.eye(len(products), dtype=products.dtype))
        self.root.copy_(torch.linalg.solve_triangular(lower, torch.eye(len(products), dtype=products.dtype), upper=False))

    def trusted(self, uncertainty: Float[Tensor, " atom"], species: Int[Tensor, " atom"]) -> bool:
        """Whether every atom's σ is below its limit; NaN is not."""
        return bool((uncertainty <= self.largest.index_select(0, species)).all())


def with_one(features: Float[Tensor, "atom feature"]) -> Float[Tensor, "atom more"]:
    """Float64 features and a 1."""
    features = features.to(torch.float64)
    return torch.cat([features, torch.ones_like(features[:, :1])], 1)
