"""export/ase.py: any potential as an ASE calculator. Row K of the list of known bugs: answers are fresh and order-independent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

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
from mdistill.graph import build_graph
from mdistill.io.structures import from_atoms, to_atoms, to_system
from mdistill.nets.compiled import compiled
from mdistill.types import Graph, Prediction
from systems import random_box, tiny_net


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


@dataclass(frozen=True)
class Counted:
    """A potential that counts how often it is asked."""

    inner: Conservative
    asked: list[int] = field(default_factory=list)
    cutoff: float = 5.0
    elements: frozenset[int] = frozenset()
    name: str = "counted"

    def __call__(self, graph: Graph) -> Prediction:
        self.asked.append(graph.system.n_atoms)
        return self.inner(graph)


def test_a_structure_is_evaluated_once_until_it_changes() -> None:
    potential = Counted(Conservative(Morse()))
    atoms = fresh_atoms(rattled(size=1), calculator(potential))
    for ask in (atoms.get_forces, atoms.get_potential_energy, atoms.get_stress, atoms.get_forces):
        ask()
    assert len(potential.asked) == 1
    atoms.positions[0, 0] += 1e-9
    atoms.get_forces()
    atoms.set_cell(atoms.cell.array * 1.001)
    atoms.get_stress()
    atoms.numbers[0] = 79 if atoms.numbers[0] == 29 else 29
    atoms.get_potential_energy()
    atoms.pbc = False
    atoms.get_potential_energy()
    assert len(potential.asked) == 5


@pytest.mark.parametrize("double", [True, False])
def test_energies_of_atoms_add_up_and_move_with_the_atoms(double: bool) -> None:
    net = tiny_net()
    fast = compiled(Conservative(net), double=double)
    atoms, close = to_atoms(random_box(1, atoms=20, length=7.5)), 1e-10 if double else 1e-4
    plain, atoms.calc = Conservative(net)(build_graph(to_system(from_atoms(atoms)), net.cutoff)), calculator(fast)
    energies = atoms.get_potential_energies()
    assert np.abs(energies - plain.atomic.numpy()).max() < close and abs(energies.sum() - atoms.get_potential_energy()) < close
    order = np.random.default_rng(0).permutation(len(atoms))
    other = fresh_atoms(atoms[order], calculator(fast))
    assert np.abs(other.get_potential_energies() - energies[order]).max() < close
    energies += 1.0
    assert np.abs(atoms.get_potential_energies() - plain.atomic.numpy()).max() < close


def test_a_potential_without_atomic_energies_says_so() -> None:
    atoms = fresh_atoms(rattled(size=1), calculator(Sloppy("none")))
    atoms.get_forces()
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_potential_energies()


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
        if self.bug == "none":
            return replace(found, atomic=None)
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


def test_a_charge_of_the_atoms_reaches_the_potential() -> None:
    class Charged:
        cutoff, elements, name = 3.0, frozenset({29}), "charged"

        def __call__(self, graph: Graph) -> Prediction:
            charge = graph.system.charge if graph.system.charge is not None else torch.zeros(1)
            return Prediction(energy=charge.double(), forces=torch.zeros_like(graph.system.positions))

    atoms = bulk("Cu", cubic=True)
    atoms.calc = calculator(Charged())
    assert atoms.get_potential_energy() == 0.0
    atoms.info["charge"] = 2
    atoms.calc.reset()
    assert atoms.get_potential_energy() == 2.0
