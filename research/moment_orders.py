r"""A moment student with more invariants: third orders by degree, connected fourth orders, products of neighbouring channels.

Symbols as in `mdistill.nets.moment`; f_l(n) = Σ_m A_c,lm Y_lm(n) of one channel, on the sphere.

    by degree      ∫ f₁f₁f₂, ∫ f₂f₂f₂, ∫ f₁f₂f₃, ∫ f₂f₃f₃ dΩ in place of their sum with fixed shares, ∫ f³ dΩ
    fourth order   ∫ f₁f₁f₂f₂, ∫ f₁f₁f₁f₃, ∫ f₁f₂f₂f₃ dΩ      (polynomials of degree 8 at most: exact on the 38 points)
    across         Σ_m A_c,lm A_{c+1},lm for every l
"""

from __future__ import annotations

import torch
from torch import Tensor

from mdistill.nets.layers import SpeciesLinear
from mdistill.nets.moment import MomentNet
from mdistill.nets.settings import MomentSettings

ORDERS = {"by degree": 4, "fourth": 3, "across": 4}
"""Invariants of one channel that each part adds; `by degree` takes the place of the one sum."""
TRIPLES, QUADRUPLES = ((1, 1, 2), (2, 2, 2), (1, 2, 3), (2, 3, 3)), ((1, 1, 2, 2), (1, 1, 1, 3), (1, 2, 2, 3))


def richer(parts: tuple[str, ...]) -> type[MomentNet]:
    """The class of a student of degree 3 with these parts of `ORDERS`."""

    class RicherMoments(MomentNet):
        def __init__(self, settings: MomentSettings, *, seed: int = 0) -> None:
            super().__init__(settings, seed=seed)
            n, generator = len(settings.elements), torch.Generator().manual_seed(seed)
            count = 5 + ("by degree" not in parts) + sum(ORDERS[part] for part in parts)
            features = count * settings.channels
            self.first = SpeciesLinear(n, features, settings.hidden, bias=True, generator=generator)
            self.register_buffer("mean", torch.zeros((n, 1, features), dtype=torch.float64))
            self.register_buffer("spread", torch.ones((n, 1, features), dtype=torch.float64))

        def features(self, moments: Tensor, slots: Tensor) -> Tensor:
            (n, width), atoms, channels = slots.shape, len(moments), self.settings.channels
            filled = torch.cat([moments.flatten(1), moments.new_zeros((1, moments.shape[1] * moments.shape[2]))])
            by_species = filled.index_select(0, slots.flatten()).view(n, width, *moments.shape[1:])
            mixed = (by_species.transpose(1, 2) @ self._mixing().index_select(1, self.degrees)).transpose(0, 1).flatten(1, 2)
            place = torch.arange(n * width, device=slots.device)
            place = torch.empty(atoms + 1, dtype=torch.int64).index_copy(0, slots.flatten(), place)[:-1]
            mixed = mixed.index_select(1, place)
            found = invariants(self, mixed.flatten(1), parts)
            if "across" in parts:
                found.append(self.by_degree @ (mixed * mixed.roll(1, 2)).flatten(1))
            values = torch.cat(found).view(-1, atoms, channels).transpose(0, 1).flatten(1)
            filled = torch.cat([values, values.new_zeros((1, values.shape[1]))])
            return filled.index_select(0, slots.flatten()).view(n, width, -1)

    return RicherMoments


def invariants(net: MomentNet, flat: Tensor, parts: tuple[str, ...]) -> list[Tensor]:
    """[invariant, column] lists of what one channel of one atom has: first to third order, and fourth where asked for."""
    by_degree = [net.on_grid[:, k * k : (k + 1) ** 2] @ flat[k * k : (k + 1) ** 2] for k in range(net.settings.degree + 1)]
    found = [flat[:1], net.by_degree @ flat.square()]
    if "by degree" in parts:
        found += [net.grid_weights @ (by_degree[a] * by_degree[b] * by_degree[c]) for a, b, c in TRIPLES]
    else:
        found.append(net.grid_weights @ torch.stack(by_degree).sum(0).pow(3))
    if "fourth" in parts:
        found += [net.grid_weights @ (by_degree[a] * by_degree[b] * by_degree[c] * by_degree[d]) for a, b, c, d in QUADRUPLES]
    return found
