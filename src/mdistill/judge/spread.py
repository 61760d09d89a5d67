r"""Spread of a committee's predictions, and whether it tells the size of the true error.

    s_i² = Σ_m |F_i^m − F̄_i|² / (M − 1)        F_i^m: force of member m on atom i, F̄_i: their mean

Were the members' errors independent, the mean of |F_i^m − F_i|² over many atoms would equal that of s_i²: a ratio of 1. Errors
that all members share raise it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mdistill.errors import BadInput
from mdistill.types import LabelledFrame, Prediction


def forces_spread(members: Sequence[Prediction]) -> Float[Tensor, " atom"]:
    """Spread of the members' forces on every atom, eV/Å (float64), a length as |F| is."""
    forces = torch.stack([member.forces.detach().double() for member in members])
    return forces.var(0, correction=1).sum(-1).sqrt()


def energy_spread(members: Sequence[Prediction]) -> Float[Tensor, " struct"]:
    """Standard deviation of the members' energies, eV (float64)."""
    return torch.stack([member.energy.detach().double() for member in members]).std(0, correction=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Spread of a committee's forces against the true error of its first member, over all atoms of some frames.

    Attributes:
        spread, error: Root mean square of the spread, and of the length of the force error, eV/Å.
        ratio: error over spread.
        rank: Spearman's correlation between spread and error of the atoms.
        by_spread: (spread, error) in root mean squares for groups of equal number of atoms, by spread, eV/Å.
        atoms: Number of atoms.
    """

    spread: float
    error: float
    ratio: float
    rank: float
    by_spread: list[tuple[float, float]]
    atoms: int


def calibration(frames: Sequence[LabelledFrame], members: Sequence[Sequence[Prediction]], *, groups: int = 10) -> Calibration:
    """Compare the spread of a committee's forces with the error of its first member.

    Args:
        frames: Labelled frames on which no member was trained.
        members: Predictions of every member for every frame.
        groups: Largest number of groups of atoms.
    Raises:
        BadInput: Fewer than two members, or no frames.
    """
    if len(members) < 2 or not frames:
        sizes = f"{len(members)} members and {len(frames)} frames"
        raise BadInput("committee", sizes, allowed="two members or more, one frame or more", fix="--committee 3")
    spread = torch.cat([forces_spread(answers) for answers in zip(*members, strict=True)]).cpu()
    error = torch.cat([
        (answer.forces.detach().double() - frame.target.forces.double()).norm(dim=-1).cpu()
        for frame, answer in zip(frames, members[0], strict=True)
    ])  # fmt: skip
    order = spread.argsort().tensor_split(max(1, min(groups, len(spread) // 10)))
    wide, wrong = float(spread.square().mean().sqrt()), float(error.square().mean().sqrt())
    return Calibration(
        spread=wide, error=wrong, ratio=wrong / wide if wide > 0.0 else float("nan"), rank=spearman(spread, error),
        by_spread=[(float(spread[k].square().mean().sqrt()), float(error[k].square().mean().sqrt())) for k in order],
        atoms=len(spread),
    )  # fmt: skip


def spearman(x: Float[Tensor, " value"], y: Float[Tensor, " value"]) -> float:
    """Correlation of the ranks; NaN for fewer than three values or where one is constant."""
    if len(x) < 3:
        return float("nan")
    ranks = torch.stack([values.argsort().argsort().double() for values in (x, y)])
    return float(torch.corrcoef(ranks)[0, 1])
