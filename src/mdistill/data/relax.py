"""Relaxation of positions and cell together with any potential (FIRE)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from mdistill.errors import BadInput, Interrupted, MdistillError
from mdistill.graph import build_graph, volumes
from mdistill.interrupt import NEVER, StopRequest
from mdistill.progress import Advance, silent
from mdistill.types import Potential, Prediction, System
from mdistill.units import GPA

_LONGEST_STEP = 0.2
"""Å; no atom (nor the scaled strain) moves further in one step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relaxation:
    """How a structure relaxed.

    Attributes:
        energy_before, energy: eV per cell.
        max_force: Largest force on an atom at the end, eV/Å.
        pressure: −tr σ/3 at the end, GPa (positive: the cell wants to expand); None where there is no stress.
        max_stress: Largest stress component at the end, GPa.
        strain: Relative change of the volume.
        distortion: Largest over smallest principal stretch of the cell, less 1: change of its shape.
        steps: Potential calls made.
        converged: Force and stress limits were met.
    """

    energy_before: float
    energy: float
    max_force: float
    pressure: float | None
    max_stress: float
    strain: float
    distortion: float
    steps: int
    converged: bool


@dataclass(slots=True)
class _Fire:
    """Time step, mixing and velocities of FIRE, with the paper's parameters."""

    velocity: Tensor
    step: float = 0.1
    mixing: float = 0.1
    downhill: int = 0

    def move(self, force: Float[Tensor, "row 3"]) -> Float[Tensor, "row 3"]:
        """The next displacement of the generalised coordinates."""
        if float((force * self.velocity).sum()) > 0.0:
            along = force * (self.velocity.norm() / force.norm().clamp_min(1e-300))
            self.velocity = (1.0 - self.mixing) * self.velocity + self.mixing * along
            if self.downhill > 5:
                self.step, self.mixing = min(1.1 * self.step, 1.0), 0.99 * self.mixing
            self.downhill += 1
        else:
            self.velocity = torch.zeros_like(self.velocity)
            self.step, self.mixing, self.downhill = 0.5 * self.step, 0.1, 0
        self.velocity = self.velocity + self.step * force
        move = self.step * self.velocity
        return move * min(1.0, _LONGEST_STEP / max(float(move.norm(dim=1).max()), 1e-300))


class NotRelaxed(MdistillError):
    """A potential failed on a structure of a relaxation, `system`."""

    def __init__(self, name: str, step: int, reason: str, system: System) -> None:
        self.system = system
        super().__init__(f"{name} failed in step {step} of the relaxation: {reason}")


def relax(
    system: System, potential: Potential, *, max_steps: int = 200, largest_force: float = 0.05, stress_GPa: float = 0.1,
    fixed_cell: bool = False, stop: StopRequest = NEVER, advance: Advance = silent,
) -> tuple[System, Relaxation]:  # fmt: skip
    r"""Minimise the energy over positions and cell.

    With r = x Fᵀ and cell = cell₀ Fᵀ the generalised forces are f F on x and −V σ F⁻ᵀ on F (scaled by the number of atoms
    so that both move at the same scale).    x: positions in the starting frame   F: deformation   σ: stress, tension positive

    Args:
        system: One struct. Its cell is fixed where the potential gives no stress (not periodic in three directions).
        potential: The teacher.
        max_steps: Largest number of steps; with 0 the structure is returned unchanged, with its energy.
        largest_force: eV/Å.
        stress_GPa: Largest stress component at which the cell counts as relaxed.
        fixed_cell: Whether positions alone relax, whatever the stress.
        stop, advance: Called before and after every teacher call.
    Returns:
        The structure of lowest energy met, and how it got there.
    Raises:
        NotRelaxed: The potential raised an error, or gave a non-finite number.
        Interrupted: A stop was requested.
    Reference:
        E. Bitzek et al., Phys. Rev. Lett. 97, 170201 (2006), doi 10.1103/PhysRevLett.97.170201; cell as in E. B. Tadmor
        et al., Phys. Rev. B 59, 235 (1999), doi 10.1103/PhysRevB.59.235.
    """
    n = system.n_atoms
    reference, deformation = system.positions.clone(), torch.eye(3, dtype=system.positions.dtype)
    fire = _Fire(velocity=system.positions.new_zeros((n + 3, 3)))
    best: tuple[System, Relaxation] | None = None
    for step in range(max_steps + 1):
        stop.raise_if_pending()
        now = replace(system, positions=reference @ deformation.T, cell=system.cell @ deformation.T)
        prediction = _ask(potential, now, step)
        result = _summary(system, now, prediction, step)
        result = replace(
            result,
            energy_before=result.energy if best is None else best[1].energy_before,
            converged=result.max_force <= largest_force and (fixed_cell or result.max_stress <= stress_GPa),
        )
        if best is None or result.converged or result.energy < best[1].energy:
            best = (now, result)
        advance(1, f"{result.max_force:.3f} eV/Å, {result.max_stress:.2f} GPa")
        if result.converged or step == max_steps:
            break
        force = _generalised(now, replace(prediction, stress=None) if fixed_cell else prediction, deformation)
        move = fire.move(force)
        reference = reference + move[:n]
        deformation = deformation + move[n:] / n
    assert best is not None  # noqa: S101
    return best


def _ask(potential: Potential, system: System, step: int) -> Prediction:
    try:
        prediction = potential(build_graph(system, potential.cutoff))
    except (BadInput, Interrupted):
        raise
    except Exception as error:
        raise NotRelaxed(potential.name, step, f"{error or type(error).__name__}", system) from error
    parts = [prediction.energy, prediction.forces, *([] if prediction.stress is None else [prediction.stress])]
    if not all(bool(torch.isfinite(part).all()) for part in parts):
        raise NotRelaxed(potential.name, step, "energy, forces or stress are not finite", system)
    return prediction


def _generalised(system: System, prediction: Prediction, deformation: Tensor) -> Float[Tensor, "row 3"]:
    """Forces on the reference positions, and below them those on the scaled deformation."""
    on_atoms = prediction.forces.to(deformation) @ deformation
    if prediction.stress is None:
        return torch.cat([on_atoms, torch.zeros_like(deformation)])
    on_cell = -volumes(system) * prediction.stress[0].to(deformation) @ torch.linalg.inv(deformation).T
    return torch.cat([on_atoms, on_cell / system.n_atoms])


def _summary(start: System, now: System, prediction: Prediction, step: int) -> Relaxation:
    energy = float(prediction.energy[0])
    max_force = float(prediction.forces.norm(dim=1).max())
    stress = None if prediction.stress is None else prediction.stress[0] / GPA
    max_stress = 0.0 if stress is None else float(stress.abs().max())
    volume = float(volumes(start)[0])
    return Relaxation(
        energy_before=energy, energy=energy, max_force=max_force,
        pressure=None if stress is None else -float(stress.diagonal().mean()), max_stress=max_stress,
        strain=float(volumes(now)[0]) / volume - 1.0 if volume > 0.0 else 0.0,
        distortion=_distortion(start.cell[0], now.cell[0]) if volume > 0.0 else 0.0, steps=step + 1, converged=False,
    )  # fmt: skip


def _distortion(start: Float[Tensor, "3 3"], now: Float[Tensor, "3 3"]) -> float:
    stretches = torch.linalg.svdvals(torch.linalg.solve(start.double(), now.double()))
    return float(stretches.max() / stretches.min()) - 1.0
