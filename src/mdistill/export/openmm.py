"""Any potential in OpenMM: a `PythonForce` in its units, and a system with masses and box around it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.cell import Cell
from ase.data import atomic_masses
from jaxtyping import Float

from mdistill.errors import BadInput, MissingPackage
from mdistill.export.start import as_start
from mdistill.export.watch import Watched, check_known
from mdistill.teachers.models import load
from mdistill.types import Potential, System
from mdistill.units import KJ_MOL

_NM = 10.0
"""1 nm in Å."""


@dataclass(frozen=True)
class Computation:
    """What a `PythonForce` calls: state → energy (kJ/mol), forces (kJ/mol/nm). `start` states charge and unpaired electrons."""

    evaluate: Watched
    start: System

    def __call__(self, state: Any) -> tuple[float, Float[np.ndarray, "atom 3"]]:
        positions = _NM * np.asarray(state.getPositions(asNumpy=True)._value)
        cell = np.zeros((3, 3))
        if bool(self.start.pbc.all()):
            cell = _NM * np.asarray(state.getPeriodicBoxVectors(asNumpy=True)._value)
        prediction = self.evaluate(replace(self.start, positions=torch.from_numpy(positions), cell=torch.from_numpy(cell)[None]))
        return float(prediction.energy.sum()) / KJ_MOL, prediction.forces.detach().cpu().double().numpy() * (_NM / KJ_MOL)


def openmm_system(model: Potential | str | Path, structure: Any, *, skin: float = 0.5) -> tuple[Any, Float[np.ndarray, "atom 3"]]:
    """An `openmm.System` with masses, box and force of a structure, and its positions in nm.

    OpenMM wants the first lattice vector along x, the second in the xy plane, and short ones: cell and positions are turned, and
    lattice vectors exchanged for shorter ones of the same lattice. Atoms that the structure holds fixed have mass 0, which
    OpenMM does not move. The force has no virial: pressure is kept by Monte Carlo barostats.

    Args:
        model: Student, teacher or another potential; or its name or path.
        structure: ASE Atoms, a path, or what else `mdistill.simulate` takes; periodic in all directions or in none.
        skin: Skin of the neighbour list, Å.
    Raises:
        BadInput: No such model or structure, one periodic in one or two directions, or elements that the model does not know.
        MissingPackage: OpenMM is not installed.
    """
    try:
        import openmm
    except ImportError as error:
        raise MissingPackage("openmm", 'pip install "mdistill[openmm]"', "the export to OpenMM") from error
    potential = load(model, subject="model") if isinstance(model, (str, Path)) else model
    start = as_start(structure)
    numbers, pbc = start.system.numbers.numpy(), start.system.pbc[0].tolist()
    if any(pbc) != all(pbc):
        allowed, fix = "periodic in three directions or in none", "put it into a large periodic cell"
        raise BadInput("structure", f"periodic along {pbc}", allowed=allowed, fix=fix)
    check_known(numbers.tolist(), potential)
    positions = start.system.positions.numpy()
    made = openmm.System()
    if all(pbc):
        cell, positions = _reduced(start.system.cell[0].numpy(), positions)
        made.setDefaultPeriodicBoxVectors(*(cell / _NM))
    masses = atomic_masses[numbers] if start.masses is None else start.masses.numpy()
    for mass in masses:
        made.addParticle(float(mass) if np.isfinite(mass) else 0.0)
    force = openmm.PythonForce(Computation(Watched(potential, skin), start.system))
    force.setUsesPeriodicBoundaryConditions(all(pbc))
    made.addForce(force)
    return made, positions / _NM


def _reduced(cell: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cell and positions (Å) turned into OpenMM's orientation, off-diagonal components at most half of the diagonal ones."""
    if np.linalg.det(cell) < 0:
        raise BadInput(
            "structure", "a left-handed cell", allowed="right-handed lattice vectors", fix="exchange two lattice vectors"
        )
    standard, turn = Cell(cell).standard_form()
    a, b, c = standard.array
    c = c - b * np.round(c[1] / b[1])
    c, b = c - a * np.round(c[0] / a[0]), b - a * np.round(b[0] / a[0])
    return np.stack([a, b, c]), positions @ turn.T
