"""export/ase.py: any potential as an ASE calculator. Row K of the list of known bugs: answers are fresh and order-independent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator, PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress

from mdistill.derivatives import Conservative
from mdistill.errors import BadInput
from mdistill.export.ase import calculator
from mdistill.types import Graph, Prediction


@dataclass(frozen=True)
class Morse:
    """Pair energy that ends smoothly at the cutoff: u(r) = (e^{−2a(r−r₀)} − 2e^{−a(r−r₀)}) (1 − r²/r_c²)³ eV."""

    cutoff: float = 5.0
    elements: frozenset[int] = frozenset({29, 79})
    name: str = "Morse"

    def __call__(self, graph: Graph, vectors: torch.Tensor) -> torch.Tensor:
        r = vectors.norm(dim=1)
        well = (-2.0 * (r - 2.6)).exp() - 2.0 * (-(r - 2.6)).exp()
        energy = 0.5 * well * (1.0 - (r / self.cutoff).square()).clamp_min(0.0) ** 3
        return energy.new_zeros(graph.system.n_atoms).index_add(0, graph.receiver, energy)


def rattled(seed: int = 0, size: int = 2) -> Atoms:
    atoms = bulk("Cu", cubic=True) * (size, size, size)
    atoms.numbers[::3] = 79
    atoms.rattle(0.15, seed=seed)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + np.array([[0.02, 0.03, 0], [0, -0.01, 0.02], [0, 0, 0.01]])), scale_atoms=True)
    return atoms


def check_against_differences(calc: Calculator) -> tuple[float, float]:
    """Forces and stress equal differences of the energy taken by ASE; gives the largest deviations (eV/Å, eV/Å³)."""
    atoms = rattled(size=1)
    atoms.calc = calc
    force = float(np.abs(atoms.get_forces() - calculate_numerical_forces(atoms, eps=1e-4)).max())
    stress = float(np.abs(atoms.get_stress() - calculate_numerical_stress(atoms, eps=1e-5)).max())
    assert force <= 1e-6, f"forces differ by {force}"
    assert stress <= 1e-7, f"stress differs by {stress}"
    return force, stress


def check_contract(make: Callable[[], Calculator]) -> None:
    """Answers are fresh copies and depend on the structure alone, whatever was asked before, in whatever order."""
    one, two = rattled(1), rattled(2)
    alone = {}
    for k, atoms in ((1, one), (2, two)):
        asked = [fresh_atoms(atoms, make()) for _ in range(3)]
        alone[k] = (asked[0].get_potential_energy(), asked[1].get_forces(), asked[2].get_stress())
    calc = make()
    for k in (1, 2, 1, 1, 2):
        atoms = fresh_atoms(one if k == 1 else two, calc)
        stress, forces, energy = atoms.get_stress(), atoms.get_forces(), atoms.get_potential_energy()
        assert energy == alone[k][0], "energy depends on what was asked before"
        assert np.array_equal(forces, alone[k][1]) and np.array_equal(stress, alone[k][2]), (
            "result depends on what was asked before"
        )
        kept, forces_before, inside = calc.results, forces.copy(), calc.results["forces"]
        forces += 1.0
        stress += 1.0
        assert np.array_equal(atoms.get_forces(), forces_before), "the caller changed the calculator's memory"
        other = fresh_atoms(two if k == 1 else one, calc)
        other.get_forces()
        assert calc.results is not kept and np.array_equal(inside, forces_before), "an older result was overwritten"


def fresh_atoms(atoms: Atoms, calc: Calculator) -> Atoms:
    copy = atoms.copy()
    copy.calc = calc
    return copy


def test_forces_and_stress_are_derivatives(trust) -> None:
    force, stress = check_against_differences(calculator(Conservative(Morse())))
    trust("T1", "ASE calculator: forces against ASE's differences (eV/Å)", force, "≤ 1e-6")
    trust("T2", "ASE calculator: stress against ASE's strains (eV/Å³)", stress, "≤ 1e-7")


def test_contract(trust) -> None:
    check_contract(lambda: calculator(Conservative(Morse())))
    trust("K", "ASE calculator: results are fresh copies and independent of order", "bitwise equal", "exact")


def test_compressed_crystal_has_negative_trace() -> None:
    atoms = bulk("Cu", cubic=True)
    atoms.set_cell(atoms.cell.array * 0.8, scale_atoms=True)
    atoms.calc = calculator(Conservative(Morse()))
    assert atoms.get_stress()[:3].sum() < 0.0


def test_molecule_has_no_stress() -> None:
    atoms = Atoms("Cu3", positions=[[0, 0, 0], [2.4, 0, 0], [0, 2.5, 0]], calculator=calculator(Conservative(Morse())))
    assert np.abs(atoms.get_forces().sum(0)).max() < 1e-12
    assert atoms.get_potential_energy() == atoms.calc.get_property("free_energy", atoms)
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_stress()


def test_unknown_element_is_named() -> None:
    atoms = Atoms("CuCl", positions=[[0, 0, 0], [2.4, 0, 0]], calculator=calculator(Conservative(Morse())))
    with pytest.raises(BadInput, match="Cl"):
        atoms.get_potential_energy()


def test_neighbours_are_kept_between_steps() -> None:
    calc = calculator(Conservative(Morse()))
    atoms = fresh_atoms(rattled(), calc)
    for step in range(5):
        atoms.positions += 0.01 * step
        again = fresh_atoms(atoms, calculator(Conservative(Morse())))
        assert atoms.get_potential_energy() == again.get_potential_energy()
    assert calc._evaluate[1][0]._pairs.rebuilds == 1


@dataclass(frozen=True)
class Sloppy:
    """A potential with the planted bug: wrong sign of stress, or one buffer for every answer."""

    bug: str
    cutoff: float = 5.0
    elements: frozenset[int] = frozenset()
    name: str = "sloppy"
    memory: tuple[torch.Tensor, ...] = (torch.zeros(32, 3, dtype=torch.float64),)

    def __call__(self, graph: Graph) -> Prediction:
        found = Conservative(Morse())(graph)
        if self.bug == "sign":
            return replace(found, stress=-found.stress)
        self.memory[0].mul_(0.5).add_(found.forces)
        return replace(found, forces=self.memory[0])


@pytest.mark.planted
def test_planted_sign_of_stress_is_caught(trust) -> None:
    with pytest.raises(AssertionError, match="stress differs"):
        check_against_differences(calculator(Sloppy("sign")))
    trust("T2", "ASE calculator: stress of the wrong sign", "caught", "caught", planted=True)


@pytest.mark.planted
def test_planted_shared_memory_is_caught(trust) -> None:
    with pytest.raises(AssertionError, match="depends on what was asked before"):
        check_contract(lambda: calculator(Sloppy("memory")))
    trust("K", "ASE calculator: one buffer for all answers", "caught", "caught", planted=True)
