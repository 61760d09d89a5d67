"""The optimiser against its equations written out, and what follows from them: indifference to the basis of a weight matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mdistill.training import optimiser as module
from mdistill.training.optimiser import Optimiser

STEPS, RATE, DECAY = 35, 0.05, 0.1


def gradients(shape: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    scale = torch.logspace(-2, 0, shape[-1], dtype=torch.float64)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) * scale for _ in range(STEPS)]


def run(shape: tuple[int, ...], given: list[torch.Tensor]) -> torch.Tensor:
    parameter = torch.ones(shape, dtype=given[0].dtype)
    optimiser = Optimiser([parameter])
    for number, gradient in enumerate(given, 1):
        optimiser.step([gradient], number, rate=RATE, decay=DECAY)
    return parameter


def test_a_matrix_follows_the_published_update():
    found, weights = run((4, 3), gradients((4, 3))), np.ones((4, 3))
    left, right, first, second = np.zeros((4, 4)), np.zeros((3, 3)), np.zeros((4, 3)), np.zeros((4, 3))
    for t, gradient in enumerate(gradients((4, 3)), 1):
        g = gradient.numpy()
        left, right = 0.95 * left + 0.05 * g @ g.T, 0.95 * right + 0.05 * g.T @ g
        if t == 1:
            turn_left, turn_right = np.linalg.eigh(left)[1][:, ::-1], np.linalg.eigh(right)[1][:, ::-1]
        elif t % 10 == 0:
            rows = np.argsort(-np.diag(turn_left.T @ left @ turn_left))
            columns = np.argsort(-np.diag(turn_right.T @ right @ turn_right))
            second = second[rows][:, columns]
            turn_left, turn_right = (np.linalg.qr(m)[0] for m in (left @ turn_left[:, rows], right @ turn_right[:, columns]))
        first = 0.95 * first + 0.05 * g
        second = 0.95 * second + 0.05 * (turn_left.T @ g @ turn_right) ** 2
        hat = (turn_left.T @ first @ turn_right) / (1 - 0.95**t) / (np.sqrt(second / (1 - 0.95**t)) + 1e-8)
        weights = weights - RATE * DECAY * weights - RATE * turn_left @ hat.clip(-1, 1) @ turn_right.T
    assert np.allclose(found.numpy(), weights, atol=1e-10)


@pytest.mark.parametrize("shape", [(5,), (1, 5), (5, 1), (2, 1, 5)])
def test_a_vector_follows_adamw(shape):
    found = run(shape, gradients(shape))
    weights, first, second = np.ones(shape), np.zeros(shape), np.zeros(shape)
    for t, gradient in enumerate(gradients(shape), 1):
        g = gradient.numpy()
        first, second = 0.95 * first + 0.05 * g, 0.95 * second + 0.05 * g**2
        hats = first / (1 - 0.95**t), second / (1 - 0.95**t)
        weights = weights - RATE * DECAY * weights - RATE * hats[0] / (np.sqrt(hats[1]) + 1e-8)
    assert np.allclose(found.numpy(), weights, atol=1e-12)


def test_matrices_of_one_parameter_are_independent():
    together = run((2, 4, 3), gradients((2, 4, 3)))
    for k in range(2):
        assert torch.allclose(run((4, 3), [g[k] for g in gradients((2, 4, 3))]), together[k], atol=1e-10)


def turned(widest: int, monkeypatch: pytest.MonkeyPatch) -> float:
    """Largest difference between the update in another orthonormal basis, turned back, and the plain one."""
    monkeypatch.setattr(module, "WIDEST", widest)
    generator = torch.Generator().manual_seed(1)
    q, r = (torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))[0] for n in (4, 3))
    plain = run((4, 3), gradients((4, 3))) - (1 - RATE * DECAY) ** STEPS
    other = run((4, 3), [q @ g @ r for g in gradients((4, 3))]) - (1 - RATE * DECAY) ** STEPS
    return float((q.mT @ other @ r.mT - plain).abs().max())


def test_the_basis_of_a_weight_matrix_does_not_matter(monkeypatch):
    assert turned(256, monkeypatch) < 1e-6


def test_directions_without_gradient_do_not_disturb_the_rest():
    """The first gradient has one direction, later ones have all: no weight moves further than a learning rate, on average."""
    generator = torch.Generator().manual_seed(2)
    given = [torch.outer(*torch.randn(2, 6, generator=generator))] * 9 + [
        torch.randn(6, 6, generator=generator) for _ in range(20)
    ]
    before, longest = run((6, 6), given[:1]), 0.0
    for number in range(2, len(given) + 1):
        after = run((6, 6), given[:number])
        longest, before = max(longest, float((after - before).norm())), after
    assert longest < RATE * 6.0 + RATE * DECAY * float(before.norm())


@pytest.mark.planted
def test_planted_the_basis_matters_to_plain_adam(monkeypatch, trust):
    difference = turned(1, monkeypatch)
    assert difference > 1e-2
    trust("T18", "update of a matrix in a turned basis, without its own basis", f"{difference:.2f}", "> 0.01", planted=True)
