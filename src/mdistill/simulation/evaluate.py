"""From structures to predictions along a trajectory: a potential with a neighbour list that is reused between steps."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from mdistill.graph import SkinList
from mdistill.types import Potential, Prediction, System


@dataclass(frozen=True, slots=True)
class Evaluator:
    """evaluate(system) -> Prediction, in the float type and on the device of the positions.

    The prediction depends on the structure alone, not on what was evaluated before (the skin list hands out exactly
    the edges of a fresh search), so that a restarted run repeats an uninterrupted one bit for bit. A structure with
    non-finite positions or cell has no energy: it gets NaN everywhere, which the guard reports.

    Attributes:
        potential: Any potential.
        skin: Atoms may move skin/2 (Å) before the neighbour list is rebuilt; more is rarer and longer lists.
    """

    potential: Potential
    skin: float = 0.5
    _pairs: SkinList = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_pairs", SkinList(cutoff=self.potential.cutoff, skin=self.skin))

    def __call__(self, system: System) -> Prediction:
        if not bool(torch.isfinite(system.positions).all() & torch.isfinite(system.cell).all()):
            nothing = torch.full_like(system.cell, torch.nan)
            return Prediction(energy=nothing[:, 0, 0], forces=torch.full_like(system.positions, torch.nan), stress=nothing)
        found = self.potential(self._pairs.graph(system))
        like = system.positions
        return Prediction(
            energy=found.energy.detach().to(like),
            forces=found.forces.detach().to(like),
            stress=None if found.stress is None else found.stress.detach().to(like),
        )
