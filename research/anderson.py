r"""Fixed points x = g(x) by Anderson mixing, many independent problems at once.

With f_k = g(x_k) − x_k and the last m differences ΔX, ΔF of x and f as columns:

    x_{k+1} = x_k + f_k − (ΔX + ΔF) γ,    γ = argmin ‖f_k − ΔF γ‖

Plain iteration, γ = 0, converges only where every eigenvalue of ∂g/∂x lies inside the unit circle; where g is linear this
is a restarted GMRES and needs no more than that 1 is no eigenvalue.

Reference:
    D. G. Anderson, J. ACM 12, 547 (1965), doi 10.1145/321296.321305; H. F. Walker, P. Ni, SIAM J. Numer. Anal. 49, 1715
    (2011), doi 10.1137/10078356X.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

DEPTH = 5
"""Differences kept, m."""


@dataclass(frozen=True, slots=True)
class FixedPoint:
    """Where the iteration ended: x, whether each problem converged there, and how often g was evaluated."""

    point: Float[Tensor, "problem value"]
    converged: Bool[Tensor, " problem"]
    evaluations: int


def fixed_point(
    update: Callable[[Tensor], Tensor],
    start: Float[Tensor, "problem value"],
    tolerance: Float[Tensor, "problem value"],
    *,
    most_evaluations: int,
    depth: int = DEPTH,
) -> FixedPoint:
    """Solve x = update(x) for every problem.

    The last evaluation is at the point given back: whatever `update` computed on the way belongs to it.

    Args:
        update: g; row k of its result depends on row k of its argument alone.
        start: First guess; rows of unequal length are padded with what `update` leaves as it is.
        tolerance: Converged where |g(x) − x| ≤ tolerance, value by value.
        most_evaluations: Give up after so many.
        depth: m; 0 for the plain iteration.
    """
    point = start
    changes: list[Tensor] = []
    differences: list[Tensor] = []
    before: tuple[Tensor, Tensor] | None = None
    for evaluations in range(1, most_evaluations + 1):
        residual = update(point) - point
        converged = (residual.abs() <= tolerance).all(1)
        finite = bool(torch.isfinite(residual).all())
        if bool(converged.all()) or not finite or evaluations == most_evaluations:
            return FixedPoint(point, converged, evaluations)
        if before is not None and depth:
            changes = [*changes, point - before[0]][-depth:]
            differences = [*differences, residual - before[1]][-depth:]
        before = (point, residual)
        point = point + residual
        if differences:
            steps, slopes = torch.stack(changes, 2), torch.stack(differences, 2)
            weights = torch.linalg.lstsq(slopes, residual.unsqueeze(2), driver="gelsy").solution
            point = point - ((steps + slopes) @ weights).squeeze(2)
    raise ValueError("most_evaluations is at least 1")
