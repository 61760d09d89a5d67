"""Evaluation along a trajectory by potentials that bring a compiled engine; by an `Evaluator` for all others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from mdistill.graph import checked_box
from mdistill.kernels.spline import Engine, threads_for
from mdistill.simulation.evaluate import Evaluator
from mdistill.simulation.guard import Guard
from mdistill.types import Potential, Prediction, System


@runtime_checkable
class CompiledPotential(Potential, Protocol):
    """A potential with compiled dynamics of one structure."""

    def engine(self, system: System, *, threads: int, skin: float) -> Engine: ...
    def answer(self, system: System, energy: float, forces: np.ndarray, virial: np.ndarray) -> Prediction: ...


@dataclass(frozen=True, slots=True)
class EngineEvaluator:
    """evaluate(system) -> Prediction by an engine that keeps its neighbour list; as `Evaluator` otherwise."""

    potential: CompiledPotential
    engine: Engine

    def __call__(self, system: System) -> Prediction:
        positions, cell = system.positions.numpy(), system.cell[0].numpy()
        if not (np.isfinite(positions).all() and np.isfinite(cell).all()):
            nothing = torch.full_like(system.cell, torch.nan)
            return Prediction(energy=nothing[:, 0, 0], forces=torch.full_like(system.positions, torch.nan), stress=nothing)
        box = checked_box(system, self.potential.cutoff)
        return self.potential.answer(system, *self.engine.evaluate(positions, box, system.pbc[0].numpy()))


def make_evaluator(
    potential: Potential, system: System, *, skin: float = 1.2, guard: Guard | None = None
) -> Evaluator | EngineEvaluator:
    """What evaluates the atoms of a system along a trajectory: an engine, watching the guard's closest distances, where the
    potential brings one and the system is one struct; else an `Evaluator`."""
    if not isinstance(potential, CompiledPotential) or system.n_structs != 1:
        return Evaluator(potential, skin)
    engine = potential.engine(system, threads=threads_for(system.n_atoms, torch.get_num_threads()), skin=skin)
    if guard is not None:
        engine.set_limits(guard.closest_allowed(sorted(potential.elements)))
    return EngineEvaluator(potential, engine)
