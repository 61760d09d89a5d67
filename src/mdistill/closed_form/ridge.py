r"""Sums of a linear regression block by block, and its ridge solution by Cholesky.

w = (XᵀX + λ I)⁻¹ Xᵀy      λ = share × mean diag(XᵀX)

XᵀX and Xᵀy are summed in float64, so memory does not grow with the number of rows. Where the factorisation fails, λ is multiplied
by ten and tried again; one step of iterative refinement, w + (XᵀX + λ I)⁻¹ (Xᵀy − (XᵀX + λ I) w), takes out its rounding.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from mdistill.errors import MdistillError

_ROWS = 1024
_TRIES = 12


@dataclass(slots=True)
class NormalEquations:
    """XᵀX, Xᵀy, the sum of squares of y and the number of rows; y may have columns. Complete after `flush`."""

    gram: Float[Tensor, "weight weight"]
    moment: Tensor
    square: float = 0.0
    rows: int = 0
    _waiting: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    @classmethod
    def empty(cls, size: int, *columns: int) -> NormalEquations:
        """Sums over no rows, of `size` weights and these many columns of y (none: a vector)."""
        return cls(torch.zeros((size, size), dtype=torch.float64), torch.zeros((size, *columns), dtype=torch.float64))

    def add(self, rows: Tensor, labels: Tensor) -> None:
        self._waiting.append((rows, labels))
        if sum(len(x) for x, _ in self._waiting) >= _ROWS:
            self.flush()

    def flush(self) -> None:
        if self._waiting:
            x, y = torch.cat([x for x, _ in self._waiting]).double(), torch.cat([y for _, y in self._waiting]).double()
            self.gram.addmm_(x.T, x)
            self.moment.add_(x.T @ y)
            self.square, self.rows = self.square + float((y * y).sum()), self.rows + len(y)
            self._waiting.clear()


def solve_ridge(normal: NormalEquations, *, share: float = 1e-5) -> Tensor:
    """Weights [weight, …] of the ridge regression; see the head of this file.

    Args:
        normal: The sums.
        share: λ over the mean of the diagonal.
    Raises:
        MdistillError: The sums are not finite.
    """
    normal.flush()
    size = len(normal.gram)
    if not bool(torch.isfinite(normal.gram).all() and torch.isfinite(normal.moment).all()):
        raise MdistillError("the rows of a ridge regression are not finite: check the features")
    target = normal.moment.reshape(size, -1)
    ridge = share * float(normal.gram.diagonal().mean()) or 1.0
    for _ in range(_TRIES):
        damped = normal.gram + ridge * torch.eye(size, dtype=torch.float64)
        factor, failed = torch.linalg.cholesky_ex(damped)
        if not int(failed):
            break
        ridge *= 10.0
    weights = torch.cholesky_solve(target, factor)
    weights = weights + torch.cholesky_solve(target - damped @ weights, factor)
    return weights.reshape(normal.moment.shape)
