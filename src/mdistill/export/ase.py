"""Any potential as an ASE calculator: `atoms.calc = calculator(potential)`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.data import chemical_symbols
from ase.stress import full_3x3_to_voigt_6_stress
from torch import Tensor

from mdistill.errors import BadInput
from mdistill.export.watch import ENGINE_CALLS, Watch
from mdistill.graph import build_graph, make_system
from mdistill.io.structures import states_of, stating
from mdistill.judge.spread import energy_spread, forces_spread
from mdistill.simulation.evaluator import EngineEvaluator, Evaluator, make_evaluator
from mdistill.teachers.models import find_student, load
from mdistill.training.committee import members_beside
from mdistill.types import Potential

_SPREADS = ("forces_spread", "energy_spread")


def calculator(
    potential: Potential | str | Path, *, skin: float = 0.5, committee: Sequence[Potential | str | Path] | None = None
) -> Calculator:
    """An ASE calculator that answers with the potential's energy, forces and stress.

    energy and free_energy in eV (equal), forces in eV/Å [atom, 3], stress in eV/Å³ as ASE has it: Voigt order
    (xx, yy, zz, yz, xz, xy), tension positive. Stress exists only for structures periodic in three directions; asking for
    it elsewhere raises ASE's `PropertyNotImplementedError`. Students also have energies in eV [atom], which are evaluated when
    asked for (`atoms.get_potential_energies()`). Every answer is a new array and does not depend on earlier
    calls. The neighbour list is reused until an atom has moved by more than half the skin.

    With a committee two more properties exist, and are evaluated when asked for, as by
    `atoms.calc.get_property("forces_spread", atoms)`: forces_spread in eV/Å [atom] and energy_spread in eV, the spread of the
    members and the potential (`judge.spread`). Large spread means that the students are uncertain.

    A structure far from what a student was taught (closest pairs, composition, density, spread of the committee) is told in a
    notice, each kind once; `atoms.calc.departures` holds the phrases for the last structure.

    Args:
        potential: Student, teacher, or anything else that is a `Potential`; or its name or path (`teachers.models.load`).
        skin: Skin of the neighbour list, Å.
        committee: Further members; by default the students beside a student given by its path, `student-2.mdistill`, …
    Raises:
        BadInput: No such model, or at the call, if the structure holds an element that the potential does not know.
    """
    if committee is None and _named(potential):
        committee = members_beside(find_student(path) if (path := Path(potential)).is_dir() else path)
    return _PotentialCalculator(_loaded(potential), skin, [_loaded(member) for member in committee or ()])


def _named(potential: Potential | str | Path) -> TypeGuard[str | Path]:
    return isinstance(potential, (str, Path))


def _loaded(potential: Potential | str | Path) -> Potential:
    return load(potential) if _named(potential) else potential  # type: ignore[return-value]


class _PotentialCalculator(Calculator):
    implemented_properties = ["energy", "free_energy", "forces", "stress", "energies"]  # noqa: RUF012  (the name and form ASE reads)

    def __init__(self, potential: Potential, skin: float, committee: Sequence[Potential]) -> None:
        super().__init__()
        self._potential = potential
        self._members = [potential, *committee]
        self._skin = skin
        self._watch = Watch(potential, every=ENGINE_CALLS)
        self._evaluate: tuple[Tensor, list[Evaluator | EngineEvaluator]] | None = None
        if committee:
            self.implemented_properties = [*self.implemented_properties, *_SPREADS]

    @property
    def name(self) -> str:
        return self._potential.name

    @property
    def departures(self) -> list[str]:
        """How the last structure lies outside what the student was taught; empty where it does not, or where that is unknown."""
        return self._watch.phrases

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
        system = stating(system, states_of(self.atoms.info, "structure"))
        if self._evaluate is None or not torch.equal(self._evaluate[0], system.numbers):
            self._evaluate = (system.numbers, [make_evaluator(member, system, skin=self._skin) for member in self._members])
        evaluate = self._evaluate[1]
        prediction = evaluate[0](system)
        energy = float(prediction.energy.sum())
        results: dict[str, Any] = {
            "energy": energy,
            "free_energy": energy,
            "forces": prediction.forces.detach().cpu().double().numpy().copy(),
        }
        if prediction.stress is not None:
            results["stress"] = full_3x3_to_voigt_6_stress(prediction.stress[0].detach().cpu().double().numpy())
        if "energies" in properties:
            atomic = self._potential(build_graph(system, self._potential.cutoff)).atomic
            results |= {} if atomic is None else {"energies": atomic.detach().cpu().double().numpy().copy()}
        self._watch.see(system)
        asked = bool(set(_SPREADS) & set(properties))
        if len(evaluate) > 1 and (asked or self._watch.spread_is_due(system)):
            answers = [prediction, *(member(system) for member in evaluate[1:])]
            spread = forces_spread(answers).cpu()
            self._watch.see_spread(spread, system)
            spreads = {"forces_spread": spread.numpy(), "energy_spread": float(energy_spread(answers).sum())}
            results |= spreads if asked else {}
        self.results = results
