"""Hand-written derivatives of the neighbour moments against plain autograd, in every order that is used."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mdistill.nets import moment_basis as module
from mdistill.nets.layers import gradient_table, harmonics_table
from mdistill.nets.moment_basis import Basis, moments, plain_moments


def case(degree: int) -> tuple[torch.Tensor, Basis]:
    generator = torch.Generator().manual_seed(degree)
    dense = 1.8 * torch.randn((4, 6, 3), dtype=torch.float64, generator=generator)
    dense[0, 0] = torch.tensor([5.0, 0.0, 0.0])
    dense[1, :2] *= 0.3
    table = harmonics_table(degree)
    senders = torch.nn.functional.one_hot(torch.randint(0, 3, (4, 6), generator=generator), 3).to(torch.float64)
    closest = 1.0 + torch.rand((4, 6, 1), dtype=torch.float64, generator=generator)
    basis = Basis(
        cutoff=5.0, freeze=0.3, closest=closest, inverse_range=1.0 / (5.0 - closest), sender=senders.unsqueeze(3),
        waves=torch.pi * torch.arange(5, dtype=torch.float64), table=table, slopes=gradient_table(table),
    )  # fmt: skip
    return dense, basis


def derivatives_of(function, degree: int) -> list[torch.Tensor]:
    """Moments, forces, gradient of a force loss in a weight, H·v, and the gradient of an H·v loss in the weight."""
    dense, basis = case(degree)
    dense.requires_grad_(True)
    generator = torch.Generator().manual_seed(9)
    found = function(dense, basis)
    weight = torch.randn(found.shape, dtype=torch.float64, generator=generator).requires_grad_(True)
    direction = torch.randn(dense.shape, dtype=torch.float64, generator=generator)
    energy = (weight * found).sum() + (weight.square() * found).sum(1).sin().sum()
    (force,) = torch.autograd.grad(energy, dense, create_graph=True)
    (curved,) = torch.autograd.grad((force * direction).sum(), dense, create_graph=True)
    (of_force,) = torch.autograd.grad(force.square().sum(), weight, retain_graph=True)
    (of_curvature,) = torch.autograd.grad(curved.square().sum(), weight)
    plain = torch.autograd.grad((weight.detach() * function(dense, basis)).sum(), dense)[0]
    return [found, force, plain, curved, of_force, of_curvature]


def worst_difference(degree: int) -> float:
    pairs = zip(derivatives_of(moments, degree), derivatives_of(plain_moments, degree), strict=True)
    return max(float((found - expected).abs().max() / expected.abs().max()) for found, expected in pairs)


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_every_derivative_is_that_of_plain_autograd(degree, trust):
    worst = worst_difference(degree)
    assert worst < 1e-12
    trust("T1", f"hand-written derivatives against autograd, l ≤ {degree}, all orders used (relative)", worst, "1e-12")


@pytest.mark.planted
def test_a_forgotten_projection_is_noticed(monkeypatch, trust):
    right = module.geometry_of
    monkeypatch.setattr(
        module, "geometry_of", lambda dense, basis: replace(right(dense, basis), inverse=1.001 * right(dense, basis).inverse)
    )
    assert worst_difference(3) > 1e-5
    trust("T1", "1/r of the hand-written derivative off by 0.1 %", "caught", "caught", planted=True)


def test_pull_and_push_are_transposes():
    dense, basis = case(3)
    geometry = module.geometry_of(dense, basis)
    weights, change = torch.randn_like(plain_moments(dense, basis)), torch.randn_like(dense)
    assert float((geometry.pull(weights) * change).sum()) == pytest.approx(
        float((geometry.push(change) * weights).sum()), rel=1e-12
    )
