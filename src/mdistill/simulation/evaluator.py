"""Evaluation along a trajectory: a potential with a neighbour list reused between steps, compiled where possible."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from mdistill.graph import SkinList, cast, checked_box
from mdistill.kernels.moment import threads_for
from mdistill.kernels.motion import StructureEngine
from mdistill.runs.identity import weights_of
from mdistill.simulation.guard import Guard
from mdistill.types import Potential, Prediction, System


@dataclass(frozen=True, slots=True)
class Evaluator:
    """evaluate(system) -> Prediction, in the float type and on the device of the positions.

    The prediction depends on the structure alone, not on earlier evaluations (the skin list returns exactly the edges of a
    fresh search), so a restarted run repeats an uninterrupted one bit for bit. A structure with
    non-finite positions or cell has no energy: it gets NaN everywhere, which the guard reports.

    Attributes:
        potential: Any potential.
        skin: Skin of the neighbour list, Å; larger skins give rarer searches and longer lists.
        device: Device of the graph; by default that of the weights, else of the positions.
    """

    potential: Potential
    skin: float = 0.5
    device: torch.device | None = None
    _pairs: SkinList = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        weights = weights_of(self.potential)
        if self.device is None and weights:
            object.__setattr__(self, "device", next(iter(weights.values())).device)
        object.__setattr__(self, "_pairs", SkinList(cutoff=self.potential.cutoff, skin=self.skin))

    def __call__(self, system: System) -> Prediction:
        if not bool(torch.isfinite(system.positions).all() & torch.isfinite(system.cell).all()):
            return _nothing(system)
        prediction = self.potential(self._pairs.graph(system if self.device is None else cast(system, device=self.device)))
        like = system.positions
        return Prediction(
            energy=prediction.energy.detach().to(like),
            forces=prediction.forces.detach().to(like),
            stress=None if prediction.stress is None else prediction.stress.detach().to(like),
        )


@runtime_checkable
class CompiledPotential(Potential, Protocol):
    """A potential with compiled dynamics of one structure."""

    def engine(self, system: System, *, threads: int, skin: float) -> StructureEngine: ...
    def answer(self, system: System, energy: float, forces: np.ndarray, virial: np.ndarray) -> Prediction: ...


@dataclass(frozen=True, slots=True)
class EngineEvaluator:
    """evaluate(system) -> Prediction by an engine with its neighbour list; otherwise as `Evaluator`."""

    potential: CompiledPotential
    engine: StructureEngine

    def __call__(self, system: System) -> Prediction:
        positions, cell = system.positions.numpy(), system.cell[0].numpy()
        if not (np.isfinite(positions).all() and np.isfinite(cell).all()):
            return _nothing(system)
        box = checked_box(system, self.potential.cutoff)
        return self.potential.answer(system, *self.engine.evaluate(positions, box, system.pbc[0].numpy()))


def make_evaluator(
    potential: Potential, system: System, *, skin: float = 1.2, guard: Guard | None = None
) -> Evaluator | EngineEvaluator:
    """The evaluator of a system along a trajectory: an engine that watches the guard's closest distances, where the potential
    has one and the system is one struct; else an `Evaluator`."""
    if not isinstance(potential, CompiledPotential) or system.n_structs != 1:
        return Evaluator(potential, skin)
    engine = potential.engine(system, threads=threads_for(system.n_atoms, torch.get_num_threads()), skin=skin)
    if guard is not None:
        engine.set_limits(guard.closest_allowed(sorted(potential.elements)))
    return EngineEvaluator(potential, engine)


def _nothing(system: System) -> Prediction:
    nothing = torch.full_like(system.cell, torch.nan)
    return Prediction(energy=nothing[:, 0, 0], forces=torch.full_like(system.positions, torch.nan), stress=nothing)
