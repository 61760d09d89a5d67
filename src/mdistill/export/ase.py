"""Any potential as an ASE calculator: `atoms.calc = calculator(potential)`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.data import chemical_symbols
from ase.stress import full_3x3_to_voigt_6_stress
from torch import Tensor

from mdistill.errors import BadInput
from mdistill.graph import make_system
from mdistill.simulation.evaluator import EngineEvaluator, Evaluator, make_evaluator
from mdistill.types import Potential


def calculator(potential: Potential, *, skin: float = 0.5) -> Calculator:
    """An ASE calculator that answers with the potential's energy, forces and stress.

    energy and free_energy in eV (equal), forces in eV/Å [atom, 3], stress in eV/Å³ as ASE has it: Voigt order
    (xx, yy, zz, yz, xz, xy), tension positive. Stress exists only for structures periodic in three directions; asking for
    it elsewhere raises ASE's `PropertyNotImplementedError`. Every answer is a new array and does not depend on earlier
    calls. The neighbour list is reused until an atom has moved by more than half the skin.

    Args:
        potential: Student, teacher, or anything else that is a `Potential`.
        skin: Skin of the neighbour list, Å.
    Raises:
        BadInput: At the call, if the structure holds an element that the potential does not know.
    """
    return _PotentialCalculator(potential, skin)


class _PotentialCalculator(Calculator):
    implemented_properties = ["energy", "free_energy", "forces", "stress"]  # noqa: RUF012  (the name and form ASE reads)

    def __init__(self, potential: Potential, skin: float) -> None:
        super().__init__()
        self._potential = potential
        self._skin = skin
        self._evaluate: tuple[Tensor, Evaluator | EngineEvaluator] | None = None

    @property
    def name(self) -> str:
        return self._potential.name

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        numbers = self.atoms.numbers
        unknown = sorted(set(numbers.tolist()) - self._potential.elements) if self._potential.elements else []
        if unknown:
            problem = f"holds {', '.join(chemical_symbols[z] for z in unknown)}, which {self._potential.name} does not know"
            allowed = ", ".join(chemical_symbols[z] for z in sorted(self._potential.elements))
            raise BadInput("structure", problem, allowed=allowed, fix="use a potential that was made for these elements")
        if not (np.isfinite(self.atoms.positions).all() and np.isfinite(self.atoms.cell.array).all()):
            raise BadInput("structure", "positions or cell are not finite", allowed="finite numbers", fix="check the structure")
        system = make_system(self.atoms.positions, numbers, self.atoms.cell.array, self.atoms.pbc)
        if self._evaluate is None or not torch.equal(self._evaluate[0], system.numbers):
            self._evaluate = (system.numbers, make_evaluator(self._potential, system, skin=self._skin))
        prediction = self._evaluate[1](system)
        energy = float(prediction.energy.sum())
        results: dict[str, Any] = {
            "energy": energy,
            "free_energy": energy,
            "forces": prediction.forces.detach().cpu().double().numpy().copy(),
        }
        if prediction.stress is not None:
            results["stress"] = full_3x3_to_voigt_6_stress(prediction.stress[0].detach().cpu().double().numpy())
        self.results = results
