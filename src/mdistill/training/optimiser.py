r"""The optimiser of all training: Adam in the eigenbasis of a weight's mean squared gradients (SOAP).

Symbols: G gradient of a weight matrix [in, out]; Q_L, Q_R eigenvectors of L, R; G′, M′ matrices in that basis; t step from 1.

    L ← γ L + (1−γ) G Gᵀ       R ← γ R + (1−γ) Gᵀ G        Q ← orthogonal factor of L Q, of R Q: every 10 steps
    M ← β M + (1−β) G          V ← γ V + (1−γ) G′²         G′ = Q_Lᵀ G Q_R
    W ← (1 − rate · decay) W − rate Q_L N Q_Rᵀ     N = M̂′ / (√V̂ + ε), cut to [−1, 1]     hats: over 1 − β^t, 1 − γ^t

Columns of Q are in the order of falling size, with the rows or columns of V beside them: in another order the factor would begin
with directions that have no gradient, and mix these with the rest. With β = γ, |N| ≤ 1 in a basis that stays; the cut acts where
it has just changed. Bases cost two small products a step and one orthogonal factor every tenth. Vectors, and sides of more than
`WIDEST` numbers, keep their own basis: there it is AdamW.

References:
    N. Vyas et al., SOAP: improving and stabilizing Shampoo using Adam, ICLR 2025, arXiv 2409.11321.
    I. Loshchilov, F. Hutter, Decoupled Weight Decay Regularization, ICLR 2019, arXiv 1711.05101.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

WIDEST = 256
_BETA, _GAMMA = 0.95, 0.95
_EPSILON = 1e-8
_EVERY = 10


class Optimiser:
    """Moments and bases of the parameters; `state` is what a checkpoint holds: lists of one tensor per parameter."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.parameters = list(parameters)
        self.state: dict[str, list[Tensor]] = {
            "first": [torch.zeros_like(p) for p in parameters], "second": [torch.zeros_like(p) for p in parameters],
        }  # fmt: skip
        for name, side in (("left", -2), ("right", -1)):
            self.state[name] = [_sides(p, side) for p in parameters]
            self.state[f"{name}_basis"] = [_sides(p, side) for p in parameters]

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], number: int, *, rate: float, decay: float) -> None:
        """Change the parameters in place.

        Args:
            gradients: Of the loss, one per parameter.
            number: Of this step, from 1.
            rate, decay: Learning rate; decoupled decay per unit of it.
        """
        torch._foreach_lerp_(self.state["first"], list(gradients), 1.0 - _BETA)
        torch._foreach_mul_(self.parameters, 1.0 - rate * decay)
        first, second = 1.0 / (1.0 - _BETA**number), math.sqrt(1.0 - _GAMMA**number)
        for k, (parameter, gradient) in enumerate(zip(self.parameters, gradients, strict=True)):
            self._follow(k, gradient, number)
            squares = self.state["second"][k]
            turned = self._turn(k, gradient)
            squares.mul_(_GAMMA).addcmul_(turned, turned, value=1.0 - _GAMMA)
            moved = first * self._turn(k, self.state["first"][k]) / (squares.sqrt() / second + _EPSILON)
            parameter.sub_(self._turn(k, moved.clamp_(-1.0, 1.0), back=True), alpha=rate)

    def _follow(self, k: int, gradient: Tensor, number: int) -> None:
        """L and R with this gradient; their bases at the first and at every tenth step."""
        if gradient.dim() < 2:
            return
        for name, side, matrix in (("left", -2, gradient), ("right", -1, gradient.mT)):
            mean, basis, squares = self.state[name][k], self.state[f"{name}_basis"][k], self.state["second"][k]
            if mean.numel() == 0:
                continue
            mean.lerp_(matrix @ matrix.mT, 1.0 - _GAMMA)
            if number == 1:
                basis.copy_(torch.linalg.eigh(mean)[1].flip(-1))
            elif number % _EVERY == 0:
                order = (basis * (mean @ basis)).sum(-2).argsort(-1, descending=True)
                squares.copy_(squares.gather(side, order.unsqueeze(-3 - side).expand_as(squares)))
                basis.copy_(torch.linalg.qr(mean @ basis.gather(-1, order.unsqueeze(-2).expand_as(basis)))[0])

    def _turn(self, k: int, matrix: Tensor, *, back: bool = False) -> Tensor:
        """A matrix in the basis of parameter k, or back from it."""
        left, right = self.state["left_basis"][k], self.state["right_basis"][k]
        if left.numel():
            matrix = (left if back else left.mT) @ matrix
        if right.numel():
            matrix = matrix @ (right.mT if back else right)
        return matrix


def _sides(parameter: Tensor, side: int) -> Tensor:
    """Zeros for the squares of this side of every matrix in the parameter; nothing where the side keeps its own basis."""
    if parameter.dim() < 2 or min(parameter.shape[-2:]) == 1 or parameter.shape[side] > WIDEST:
        return parameter.new_zeros(0)
    return parameter.new_zeros((*parameter.shape[:-2], parameter.shape[side], parameter.shape[side])).detach()
