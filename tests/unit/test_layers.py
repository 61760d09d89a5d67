"""Harmonics against scipy, quadrature against exact integrals, envelopes against their derivatives."""

from __future__ import annotations

from math import factorial, pi

import numpy as np
import pytest
import torch
from scipy.special import sph_harm_y

from mdistill.nets import layers
from mdistill.nets.layers import (
    cutoff_envelope,
    frozen_below,
    gradient_table,
    harmonics,
    harmonics_table,
    rows,
    sphere_quadrature,
)


def random_units(count: int = 50) -> torch.Tensor:
    vectors = torch.randn((count, 3), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return vectors / vectors.norm(dim=1, keepdim=True)


def real_harmonic(degree: int, order: int, theta: np.ndarray, phi: np.ndarray) -> np.ndarray:
    """From scipy's complex ones, without the Condon–Shortley phase."""
    y = sph_harm_y(degree, abs(order), theta, phi) * (-1.0) ** order
    return y.real if order == 0 else np.sqrt(2.0) * (y.real if order > 0 else y.imag)


def largest_difference_to_scipy() -> float:
    unit = random_units()
    x, y, z = unit.numpy().T
    theta, phi = np.arccos(z), np.arctan2(y, x)
    expected = [real_harmonic(degree, order, theta, phi) for degree in range(4) for order in range(-degree, degree + 1)]
    return float(np.abs(harmonics(unit, harmonics_table(3)).numpy() - np.stack(expected, 1)).max())


def test_harmonics_are_scipys():
    assert largest_difference_to_scipy() < 1e-13


@pytest.mark.planted
def test_a_wrong_coefficient_is_noticed(monkeypatch):
    right = layers.harmonics_table(3)
    wrong = right.clone()
    wrong[13, 15] *= 1.001
    monkeypatch.setitem(globals(), "harmonics_table", lambda degree: wrong)
    assert largest_difference_to_scipy() > 1e-5


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_gradient_table_is_the_gradient(degree):
    table = harmonics_table(degree)
    unit = random_units(5).requires_grad_(True)
    expected = torch.autograd.functional.jacobian(lambda u: harmonics(u, table).sum(0), unit).permute(1, 0, 2)
    found = (layers.monomials(unit, table.shape[0])[:, : len(gradient_table(table))] @ gradient_table(table)).view(5, -1, 3)
    assert torch.allclose(found, expected, atol=1e-13)


def integral(a: int, b: int, c: int) -> float:
    """∫ x^a y^b z^c dΩ."""
    if a % 2 or b % 2 or c % 2:
        return 0.0
    double = [1 if n == 0 else factorial(n) / (2 ** (n // 2) * factorial(n // 2)) for n in (a, b, c)]
    n = a + b + c + 1
    odd = factorial(n) / (2 ** (n // 2) * factorial(n // 2))
    return 4 * pi * float(np.prod(double)) / odd


@pytest.mark.parametrize(("degree", "points"), [(7, 26), (9, 38)])
def test_quadrature_is_exact_up_to_its_degree(degree, points):
    nodes, weights = sphere_quadrature(degree)
    assert len(nodes) == points
    x, y, z = nodes.numpy().T
    for a in range(degree + 1):
        for b in range(degree + 1 - a):
            for c in range(degree + 1 - a - b):
                assert float((weights.numpy() * x**a * y**b * z**c).sum()) == pytest.approx(integral(a, b, c), abs=2e-14)
    worst = max(
        abs(float((weights.numpy() * x**a * y**b * z ** (degree + 1 - a - b)).sum()) - integral(a, b, degree + 1 - a - b))
        for a in range(0, degree + 2, 2)
        for b in range(0, degree + 2 - a, 2)
    )
    assert worst > 1e-4, "one degree further it must fail, or the test proves nothing"


def test_envelope_ends_with_two_zero_derivatives():
    r = torch.tensor(5.0 - 1e-6, dtype=torch.float64, requires_grad=True)
    value = cutoff_envelope(r, 5.0)
    (first,) = torch.autograd.grad(value, r, create_graph=True)
    (second,) = torch.autograd.grad(first, r)
    assert abs(value.item()) < 1e-18
    assert abs(first.item()) < 1e-11
    assert abs(second.item()) < 1e-5
    assert float(cutoff_envelope(torch.tensor(5.5), 5.0)) == 0.0
    assert float(cutoff_envelope(torch.tensor(0.0), 5.0)) == 1.0


def test_frozen_below_is_smooth_and_flat_inside():
    closest, width = torch.tensor(2.0, dtype=torch.float64), 0.15
    outside = torch.linspace(2.0, 5.0, 7, dtype=torch.float64)
    assert torch.allclose(frozen_below(outside, closest, width), outside, atol=1e-14)
    inside = frozen_below(torch.linspace(0.0, 1.85, 7, dtype=torch.float64), closest, width)
    assert torch.allclose(inside, inside[0].expand(7), atol=1e-14)
    for edge in (2.0, 1.85):
        sides = []
        for r in (edge - 1e-9, edge + 1e-9):
            x = torch.tensor(r, dtype=torch.float64, requires_grad=True)
            y = frozen_below(x, closest, width)
            (first,) = torch.autograd.grad(y, x, create_graph=True)
            (second,) = torch.autograd.grad(first, x)
            sides.append((y.item(), first.item(), second.item()))
        assert np.allclose(sides[0], sides[1], atol=1e-6)


def test_rows_make_a_dense_table():
    table = rows(torch.tensor([0, 0, 2, 2, 2]), 4)
    assert table.tolist() == [[0, 1, 5], [5, 5, 5], [2, 3, 4], [5, 5, 5]]
    assert rows(torch.zeros(0, dtype=torch.int64), 2).tolist() == [[0], [0]]
    assert rows(torch.tensor([1]), 2, spare=1).tolist() == [[1, 1], [0, 1]]
