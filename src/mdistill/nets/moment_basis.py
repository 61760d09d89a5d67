r"""Neighbour moments: sums over neighbours of radial functions × spherical harmonics, with derivatives written by hand.

Symbols: i atom; m its neighbour slots; d, r, u edge vector, length, direction; s species of the neighbour; k radial
function; lm degree, order; G any array shaped like the moments; t a change of the edge vectors.

    M_i,lm,sk = Σ_m δ(s, s_m) R_k(r_m) Y_lm(u_m),   R_k = cos(π k x) (1 − (r̃/r_c)²)³,   x = (r̃ − r₀)/(r_c − r₀)
    pull(G)  = Σ G ∂M/∂d = u (P'·Y) + (w − u (u·w)) / r,   P = G·R, P' = G·R' (over k), w = Σ_lm P_lm ∇Y_lm
    push(t)  = Σ ∂M/∂d t: its transpose
r̃ is r frozen below r₀, just nearer than any label of the pair of species (`layers.frozen_below`).

Forces need pull, training on forces push; both cost about as much as the moments themselves. Second derivatives in the
edge vectors (curvature) go through plain autograd of `plain_moments`, the oracle of the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mdistill.nets.layers import cutoff_envelope, frozen_below, harmonics, monomials

_TINY = 1e-18


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis:
    """What the radial functions and harmonics of every slot are made with.

    Attributes:
        cutoff: Å.
        freeze: Width of the zone in which r̃ becomes constant, Å.
        closest: [atom, slot, 1] r₀ of the slot's pair, Å.
        inverse_range: [atom, slot, 1] 1/(r_c − r₀).
        sender: [atom, slot, species, 1] 1 at the neighbour's species, 0 elsewhere and where the pair does not interact.
        waves: [radial] π k.
        table: Monomials to harmonics (`layers.harmonics_table`).
        slopes: Monomials to their gradients, lm slow, xyz fast (`layers.gradient_table`).
    """

    cutoff: float
    freeze: float
    closest: Tensor
    inverse_range: Tensor
    sender: Tensor
    waves: Tensor
    table: Tensor
    slopes: Tensor


def plain_moments(dense: Float[Tensor, "atom slot 3"], basis: Basis) -> Float[Tensor, "atom lm basis"]:
    """The moments in plain differentiable torch."""
    distance = (dense.square().sum(-1, keepdim=True) + _TINY).sqrt()
    felt = frozen_below(distance, basis.closest, basis.freeze)
    radial = torch.cos((felt - basis.closest) * basis.inverse_range * basis.waves) * cutoff_envelope(felt, basis.cutoff)
    angular = harmonics(dense / distance, basis.table)
    return torch.bmm(angular.transpose(1, 2), _by_sender(radial, basis))


def moments(dense: Float[Tensor, "atom slot 3"], basis: Basis) -> Float[Tensor, "atom lm basis"]:
    """The moments; derivatives in `dense` by hand up to what forces and training on forces need, by autograd beyond.

    Args:
        dense: Edge vectors, Å; empty slots at or beyond the cutoff.
        basis: How to expand them.
    """
    return _Moments.apply(dense, basis)


def _by_sender(radial: Float[Tensor, "atom slot radial"], basis: Basis) -> Float[Tensor, "atom slot basis"]:
    return (basis.sender * radial.unsqueeze(2)).flatten(2)


@dataclass(frozen=True, slots=True)
class Geometry:
    """Everything pull and push need of the edges: u, 1/r, Y, ∇Y, [R; R'] stacked along slots."""

    unit: Tensor
    inverse: Tensor
    angular: Tensor
    slopes: Tensor
    radial: Tensor

    def pull(self, weights: Float[Tensor, "atom lm basis"]) -> Float[Tensor, "atom slot 3"]:
        value, slope = torch.bmm(self.radial, weights.transpose(1, 2)).chunk(2, 1)
        across = (value.unsqueeze(2) @ self.slopes).squeeze(2) * self.inverse
        along = (slope * self.angular).sum(-1, keepdim=True) - (across * self.unit).sum(-1, keepdim=True)
        return across + along * self.unit

    def push(self, change: Float[Tensor, "atom slot 3"]) -> Float[Tensor, "atom lm basis"]:
        along = (change * self.unit).sum(-1, keepdim=True)
        across = (change - along * self.unit) * self.inverse
        turned = (self.slopes @ across.unsqueeze(3)).squeeze(3)
        return torch.bmm(torch.cat([turned, self.angular * along], 1).transpose(1, 2), self.radial)


def geometry_of(dense: Float[Tensor, "atom slot 3"], basis: Basis) -> Geometry:
    """Radial functions and harmonics of every slot with their slopes."""
    distance = (dense.square().sum(-1, keepdim=True) + _TINY).sqrt()
    inverse = 1.0 / distance
    unit = dense * inverse
    felt = frozen_below(distance, basis.closest, basis.freeze)
    u = ((distance - basis.closest) * (1.0 / basis.freeze) + 1.0).clamp(0.0, 1.0)
    scale = 1.0 / basis.cutoff
    rest = (1.0 - (felt * scale).square()).clamp_min(0.0)
    envelope = rest.pow(3)
    rate = u.square() * (3.0 - 2.0 * u)
    envelope_slope = (-6.0 * scale * scale) * felt * rest.square() * rate
    frequency = basis.inverse_range * basis.waves
    phase = (felt - basis.closest) * frequency
    cosine = torch.cos(phase)
    slope = cosine * envelope_slope - torch.sin(phase) * frequency * (envelope * rate)
    radial = torch.cat([_by_sender(cosine * envelope, basis), _by_sender(slope, basis)], 1)
    products = monomials(unit, basis.table.shape[0])
    slopes = (products[..., : basis.slopes.shape[0]] @ basis.slopes).unflatten(-1, (-1, 3))
    return Geometry(unit, inverse, products @ basis.table, slopes, radial)


class _Moments(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, dense: Tensor, basis: Basis) -> Tensor:
        geometry = geometry_of(dense, basis)
        ctx.save_for_backward(dense)
        ctx.geometry, ctx.basis = geometry, basis
        return torch.bmm(geometry.angular.transpose(1, 2), geometry.radial[:, : dense.shape[1]])

    @staticmethod
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        if not torch.is_grad_enabled():
            return ctx.geometry.pull(weights), None
        (dense,) = ctx.saved_tensors
        bend = _Bend.apply(dense, _Held(weights, ctx.basis))
        return _Pull.apply(weights, ctx.geometry) + bend, None


class _Pull(torch.autograd.Function):
    """pull, differentiable in the weights G."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, geometry: Geometry) -> Tensor:
        ctx.geometry = geometry
        return geometry.pull(weights)

    @staticmethod
    def backward(ctx: Any, change: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return (_Push.apply(change, ctx.geometry) if torch.is_grad_enabled() else ctx.geometry.push(change)), None


class _Push(torch.autograd.Function):
    """push, differentiable in the change t."""

    @staticmethod
    def forward(ctx: Any, change: Tensor, geometry: Geometry) -> Tensor:
        ctx.geometry = geometry
        return geometry.push(change)

    @staticmethod
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return (_Pull.apply(weights, ctx.geometry) if torch.is_grad_enabled() else ctx.geometry.pull(weights)), None


@dataclass(frozen=True, slots=True)
class _Held:
    """Argument of `_Bend`, hidden from autograd, so that it runs only for derivatives in the edge vectors."""

    weights: Tensor
    basis: Basis


class _Bend(torch.autograd.Function):
    """Zero, whose derivative in the edge vectors is that of pull at fixed weights: Σ G ∂²M/∂d∂d t."""

    @staticmethod
    def forward(ctx: Any, dense: Tensor, held: _Held) -> Tensor:
        ctx.save_for_backward(dense)
        ctx.held = held
        return torch.zeros_like(dense)

    @staticmethod
    def backward(ctx: Any, change: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (dense,) = ctx.saved_tensors
        further = torch.is_grad_enabled()
        with torch.enable_grad():
            edges = dense.clone() if further else dense.detach().requires_grad_(True)
            (pulled,) = torch.autograd.grad(plain_moments(edges, ctx.held.basis), edges, ctx.held.weights, create_graph=True)
            (bent,) = torch.autograd.grad(pulled, edges, change, create_graph=further)
        return bent, None
