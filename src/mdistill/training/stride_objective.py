r"""Objective of a long-stride map: mass-scaled errors of positions and momenta after a stride, and of the energy.

    L = ⟨ δ² ln(1 + e_s/δ²) ⟩ + w_E ⟨ (H(q̂, p̂) − H(q', p'))² / (3N (k_B T)²/2) ⟩
    e_s = ⟨ [ |√m (q̂ − q')/t|² + |(p̂ − p')/√m|² ] / (3 k_B T) ⟩  over the atoms of struct s

q̂, p̂: predicted   q', p': exact, after a stride t   m: masses   T: temperature of the run   H: energy by the student
N: atoms   δ: error beyond which a struct counts less, so that a collision that no stride can follow does not dominate.
By equipartition √m v has the same size for all elements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mdistill.derivatives import EnergyNet
from mdistill.graph import build_graph, edge_vectors, turned
from mdistill.training.ranks import here
from mdistill.training.windows import Batch, Window, join_windows, reversed_in_time
from mdistill.types import System
from mdistill.units import BOLTZMANN, KINETIC


@dataclass(slots=True, kw_only=True)
class StrideObjective:
    """Errors of a map on NVE windows.

    Attributes:
        reversal: Whether half of the windows, chosen at every step, run backwards.
        turning: Whether each window is rotated or reflected at random at every step: for maps that are not equivariant.
        seed: Seed of these choices.
        energy: The potential of the windows, for the energy term; None: no such term.
        energy_weight: w_E.
        tolerance: δ.
    """

    reversal: bool = False
    turning: bool = False
    seed: int = 0
    energy: EnergyNet | None = None
    energy_weight: float = 0.0
    tolerance: float = 0.2

    def __call__(self, module: torch.nn.Module, batch: Sequence[Window], step: int) -> tuple[Tensor, dict[str, float]]:
        if self.reversal and step >= 0:
            backwards = np.random.default_rng([self.seed, step]).random(len(batch)) < 0.5
            batch = [reversed_in_time(w) if back else w for w, back in zip(batch, backwards, strict=True)]
        if self.turning and step >= 0:
            random = np.random.default_rng([self.seed, step, 1])
            batch = [turned_window(w, random_turn(random)) for w in batch]
        loss, parts = torch.zeros((), dtype=torch.float64), {"position": 0.0, "momentum": 0.0, "energy": 0.0}
        with torch.set_grad_enabled(step >= 0):
            for stride in sorted({w.stride_fs for w in batch}):
                places = [k for k, w in enumerate(batch) if w.stride_fs == stride]
                own = [n for n, k in enumerate(places) if here().owns(k)]
                each, energy = torch.zeros(2, len(batch[places[0]].positions_after), len(places), dtype=torch.float64), 0.0
                if own:
                    part, each[:, :, own], energy = self._loss(module, join_windows([batch[places[n]] for n in own]))
                    loss = loss + len(own) / len(batch) * part
                position, momentum = here().total(each).median(-1)[0].mean(-1).tolist()
                energy = float(here().total(torch.tensor(len(own) / len(places) * energy, dtype=torch.float64)))
                for name, value in (("position", position), ("momentum", momentum), ("energy", energy)):
                    parts[name] += len(places) / len(batch) * value
        return loss, {name: value**0.5 for name, value in parts.items()}

    def observe(self, history: Sequence[dict[str, Any]]) -> None:
        """No effect: the objective has no state."""

    def describe(self, measures: dict[str, float]) -> str:
        position, momentum = (100.0 * measures.get(name, float("nan")) for name in ("position", "momentum"))
        return f"error after a stride: positions {position:.2g} %, momenta {momentum:.2g} %"

    def _loss(self, module: torch.nn.Module, batch: Batch) -> tuple[Tensor, Float[Tensor, "2 step struct"], float]:
        """The loss of windows of one stride, and squares of its parts: positions and momenta, and the mean of energies."""
        system, momenta, loss = batch.system, batch.momenta, torch.zeros((), dtype=torch.float64)
        strides, parts, energy = len(batch.positions_after), list[Tensor](), 0.0
        for positions_after, momenta_after in zip(batch.positions_after, batch.momenta_after, strict=True):
            positions, momenta = module(system, momenta, batch.masses, batch.stride_fs)
            system = replace(system, positions=positions)
            position, momentum = errors(batch, positions - positions_after, momenta - momenta_after)
            each = per_struct(batch, position + momentum)
            loss = loss + self.tolerance**2 * (each / self.tolerance**2).log1p().mean() / strides
            parts.append(torch.stack([per_struct(batch, position), per_struct(batch, momentum)]).detach())
        if self.energy is not None and self.energy_weight > 0.0:
            change = self._energy_error(system, momenta, batch)
            loss = loss + self.energy_weight * change
            energy = float(change.detach())
        return loss, torch.stack(parts, 1), energy

    def _energy_error(self, system: System, momenta: Tensor, batch: Batch) -> Tensor:
        """⟨(ΔH)² / (3N (k_B T)²/2)⟩ of the last stride."""
        with torch.no_grad():
            exact = self._total(replace(system, positions=batch.positions_after[-1]), batch.momenta_after[-1], batch.masses)
        change = self._total(system, momenta, batch.masses) - exact
        first = torch.searchsorted(system.owner, torch.arange(system.n_structs))
        thermal = BOLTZMANN * batch.temperature_K.index_select(0, first)
        return (change.square() / (1.5 * torch.bincount(system.owner) * thermal.square())).mean()

    def _total(self, system: System, momenta: Tensor, masses: Tensor) -> Float[Tensor, " struct"]:
        net = self.energy
        assert net is not None  # noqa: S101
        graph = build_graph(replace(system, positions=system.positions.detach()), net.cutoff)
        atomic = net(graph, edge_vectors(replace(graph, system=system)))
        atomic = atomic + 0.5 * KINETIC * momenta.square().sum(1) / masses
        return atomic.new_zeros(system.n_structs).index_add(0, system.owner, atomic)


def turned_window(window: Window, turn: Float[Tensor, "3 3"]) -> Window:
    """The window in a rotated frame."""
    return replace(
        window, system=turned(window.system, turn), momenta=window.momenta @ turn, positions_after=window.positions_after @ turn,
        momenta_after=window.momenta_after @ turn,
    )  # fmt: skip


def random_turn(random: np.random.Generator) -> Float[Tensor, "3 3"]:
    """A rotation, in half of the cases times an inversion, uniformly distributed."""
    matrix, triangle = np.linalg.qr(random.normal(size=(3, 3)))
    return torch.from_numpy(matrix * np.sign(np.diagonal(triangle)))


def errors(
    batch: Batch, positions: Float[Tensor, "atom 3"], momenta: Float[Tensor, "atom 3"]
) -> tuple[Float[Tensor, " atom"], Float[Tensor, " atom"]]:
    """Squares of mass-scaled errors of positions and momenta over 3 k_B T: squares of relative errors of the velocity."""
    thermal = 3.0 * BOLTZMANN / KINETIC * batch.temperature_K
    position = batch.masses * positions.square().sum(1) / (batch.stride_fs**2 * thermal)
    return position, momenta.square().sum(1) / (batch.masses * thermal)


def squares(
    batch: Batch, positions: Float[Tensor, "atom 3"], momenta: Float[Tensor, "atom 3"]
) -> tuple[Float[Tensor, " atom"], Float[Tensor, " atom"]]:
    """`errors` of positions and momenta after the first stride."""
    return errors(batch, positions - batch.positions_after[0], momenta - batch.momenta_after[0])


def per_struct(batch: Batch, values: Float[Tensor, " atom"]) -> Float[Tensor, " struct"]:
    """Means over the atoms of each struct."""
    counts = torch.bincount(batch.system.owner)
    return values.new_zeros(len(counts)).index_add(0, batch.system.owner, values) / counts
