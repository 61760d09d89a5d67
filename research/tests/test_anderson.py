"""Fixed points by Anderson mixing: linear maps with known answers, many at once, and those that do not converge."""

from __future__ import annotations

import torch

from research.anderson import fixed_point

DOUBLE = torch.float64


def rotated(eigenvalues: list[float], seed: int = 0) -> torch.Tensor:
    """A symmetric matrix of these eigenvalues."""
    size = len(eigenvalues)
    basis = torch.linalg.qr(torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE))[0]
    return basis @ torch.diag(torch.tensor(eigenvalues, dtype=DOUBLE)) @ basis.T


def linear(matrix: torch.Tensor, shift: torch.Tensor):
    return lambda x: x @ matrix.T + shift


def test_three_eigenvalues_need_few_evaluations_where_the_plain_iteration_diverges() -> None:
    matrix = rotated([-1.5, -1.5, -0.4, 0.3, 0.3, 0.3])
    shift = torch.arange(1.0, 7.0, dtype=DOUBLE).unsqueeze(0)
    tolerance = torch.full((1, 6), 1e-10, dtype=DOUBLE)
    found = fixed_point(linear(matrix, shift), torch.zeros(1, 6, dtype=DOUBLE), tolerance, most_evaluations=30)
    exact = torch.linalg.solve(torch.eye(6, dtype=DOUBLE) - matrix, shift[0])
    assert bool(found.converged.all())
    assert found.evaluations <= 7
    assert float((found.point[0] - exact).abs().max()) < 1e-9
    plain = fixed_point(linear(matrix, shift), torch.zeros(1, 6, dtype=DOUBLE), tolerance, most_evaluations=30, depth=0)
    assert not bool(plain.converged.any())


def test_a_problem_does_not_see_those_beside_it() -> None:
    """The same iterates alone and in company, padding included."""
    matrix, shift = rotated([-1.2, 0.5, 0.1]), torch.tensor([[1.0, -2.0, 0.5]], dtype=DOUBLE)
    tolerance = torch.full((1, 3), 1e-9, dtype=DOUBLE)

    def nonlinear(x: torch.Tensor) -> torch.Tensor:
        return linear(matrix, shift)(x) + 0.1 * torch.sin(x)

    def padded(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.cat([nonlinear(x[:1, :3])[0], x[0, 3:]]), 0.5 * x[1] + 1.0])

    alone = fixed_point(nonlinear, torch.zeros(1, 3, dtype=DOUBLE), tolerance, most_evaluations=5)
    both = fixed_point(padded, torch.zeros(2, 5, dtype=DOUBLE), torch.full((2, 5), 1e-9, dtype=DOUBLE), most_evaluations=5)
    assert float((alone.point[0] - both.point[0, :3]).abs().max()) < 1e-12
    assert both.point[0, 3:].tolist() == [0.0, 0.0]


def test_the_last_evaluation_belongs_to_the_point_given_back() -> None:
    seen: list[torch.Tensor] = []

    def update(x: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return 0.5 * torch.cos(x)

    found = fixed_point(update, torch.zeros(1, 2, dtype=DOUBLE), torch.full((1, 2), 1e-12, dtype=DOUBLE), most_evaluations=50)
    assert torch.equal(seen[-1], found.point)
    assert len(seen) == found.evaluations
    assert float((found.point - 0.5 * torch.cos(found.point)).abs().max()) <= 1e-12


def test_numbers_that_are_not_finite_end_it() -> None:
    found = fixed_point(
        lambda x: torch.sqrt(x - 1.0), torch.zeros(1, 1, dtype=DOUBLE), torch.ones(1, 1, dtype=DOUBLE), most_evaluations=9
    )
    assert found.evaluations == 1
    assert not bool(found.converged.any())
