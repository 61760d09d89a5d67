"""Supercells, plans and relaxation; the oracle is a crystal whose minimum is known in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from torch import Tensor

from mdistill.crystals.crystal import Crystal
from mdistill.data.prepare import plan, prepare
from mdistill.data.relax import NotRelaxed, Relaxation, relax
from mdistill.data.settings import DisorderSettings, PrepareSettings
from mdistill.data.supercell import shortest_vector, supercell_for
from mdistill.derivatives import Conservative
from mdistill.errors import BadInput, Interrupted
from mdistill.interrupt import StopRequest
from mdistill.io.structures import from_atoms, read_structure, to_system
from mdistill.types import Graph, Potential, Prediction, System

EXAMPLE = Path(__file__).parents[2] / "examples" / "li6ps5cl.cif"
NEAREST, DEPTH = 2.6, 0.4


@dataclass(frozen=True)
class Morse:
    """Nearest-neighbour Morse bonds: fcc has its minimum at a = √2 · NEAREST with −6 · DEPTH per atom, exactly."""

    cutoff: float = 1.3 * NEAREST
    elements: frozenset[int] = frozenset({29})
    name: str = "morse"

    def __call__(self, graph: Graph, vectors: Tensor) -> Tensor:
        x = torch.exp(-1.5 * (vectors.norm(dim=1) - NEAREST))
        energy = 0.5 * DEPTH * (x.square() - 2.0 * x)
        return energy.new_zeros(graph.system.n_atoms).index_add(0, graph.receiver, energy)


@dataclass(frozen=True)
class Altered:
    """A potential whose answer is changed on the way."""

    potential: Potential
    change: Callable[[Prediction], Prediction]
    elements: frozenset[int] = frozenset()
    name: str = "altered"

    @property
    def cutoff(self) -> float:
        return self.potential.cutoff

    def __call__(self, graph: Graph) -> Prediction:
        return self.change(self.potential(graph))


MORSE = Conservative(Morse())


def strained_copper() -> System:
    atoms = bulk("Cu", cubic=True, a=math.sqrt(2.0) * NEAREST)
    atoms.set_cell(atoms.cell[:] @ np.array([[1.05, 0.02, 0.0], [0.02, 0.98, 0.0], [0.0, 0.03, 1.03]]), scale_atoms=True)
    atoms.rattle(0.08, seed=2)
    return to_system(from_atoms(atoms))


def check_relaxed(potential: Potential) -> tuple[System, Relaxation]:
    system, result = relax(strained_copper(), potential, max_steps=400, largest_force=1e-3, stress_GPa=0.01)
    assert result.converged and result.max_force <= 1e-3 and result.max_stress <= 0.01
    assert result.energy == pytest.approx(-6.0 * DEPTH * 4, abs=1e-5)
    lengths = system.cell[0].norm(dim=1)
    assert torch.allclose(lengths, torch.full((3,), math.sqrt(2.0) * NEAREST, dtype=lengths.dtype), atol=2e-3)
    cosines = (system.cell[0] @ system.cell[0].T) / torch.outer(lengths, lengths)
    assert float((cosines - torch.eye(3)).abs().max()) < 2e-3
    return system, result


def test_relaxation_finds_the_known_minimum(trust: Callable[..., None]) -> None:
    system, result = check_relaxed(MORSE)
    length = float(system.cell[0].norm(dim=1).mean())
    assert result.energy < result.energy_before and abs(result.pressure or 0.0) < 0.01
    trust("T2", "relaxed fcc lattice constant (Å)", length, f"{math.sqrt(2.0) * NEAREST:.5f} ± 0.002, {result.steps} calls")


@pytest.mark.planted
@pytest.mark.parametrize("bug", ["stress sign", "force sign"])
def test_relaxation_with_a_planted_bug_fails(bug: str, trust: Callable[..., None]) -> None:
    def change(prediction: Prediction) -> Prediction:
        assert prediction.stress is not None
        if bug == "stress sign":
            return replace(prediction, stress=-prediction.stress)
        return replace(prediction, forces=-prediction.forces)

    with pytest.raises((AssertionError, ValueError, NotRelaxed)):
        check_relaxed(Altered(MORSE, change))
    trust("T2", f"relaxation with planted bug: {bug}", "caught", "minimum not found", planted=True)


def test_relaxation_agrees_with_ase() -> None:
    """Oracle: ASE's FIRE with its own cell filter and its own Morse-like potential (EMT copper through an adapter)."""
    from ase.calculators.emt import EMT
    from ase.filters import FrechetCellFilter
    from ase.optimize import BFGS

    from mdistill.io.structures import to_atoms

    @dataclass(frozen=True)
    class Asked:
        cutoff: float = 0.0
        elements: frozenset[int] = frozenset()
        name: str = "emt"

        def __call__(self, graph: Graph) -> Prediction:
            atoms = to_atoms(graph.system)
            atoms.calc = EMT()
            return Prediction(
                energy=torch.tensor([atoms.get_potential_energy()], dtype=torch.float64),
                forces=torch.from_numpy(atoms.get_forces()),
                stress=torch.from_numpy(atoms.get_stress(voigt=False))[None],
            )

    system = strained_copper()
    mine, result = relax(system, Asked(), max_steps=300, largest_force=2e-3, stress_GPa=0.02)
    atoms = to_atoms(system)
    atoms.calc = EMT()
    BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=1e-3, steps=300)
    assert result.converged and result.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-3)
    assert float(torch.linalg.det(mine.cell[0])) == pytest.approx(atoms.get_volume(), rel=2e-3)


def test_without_stress_only_positions_move() -> None:
    system = strained_copper()
    relaxed, result = relax(system, Altered(MORSE, lambda p: replace(p, stress=None)), max_steps=50)
    assert torch.equal(relaxed.cell, system.cell) and result.pressure is None and result.energy < result.energy_before


def test_no_steps_gives_the_structure_back() -> None:
    system = strained_copper()
    same, result = relax(system, MORSE, max_steps=0)
    assert torch.equal(same.positions, system.positions) and result.steps == 1 and result.energy == result.energy_before


def test_non_finite_answers_and_stops() -> None:
    def spoiled(prediction: Prediction) -> Prediction:
        return replace(prediction, forces=prediction.forces * float("nan"))

    with pytest.raises(NotRelaxed, match="not finite"):
        relax(strained_copper(), Altered(MORSE, spoiled))
    with pytest.raises(Interrupted):
        relax(strained_copper(), MORSE, stop=StopRequest(signal_number=2))


@pytest.mark.parametrize("seed", range(5))
def test_supercell_is_large_enough_and_no_larger(seed: int, trust: Callable[..., None]) -> None:
    cell = np.random.default_rng(seed).normal(size=(3, 3)) + 5.0 * np.eye(3)
    repeats = supercell_for(cell, 4.9)
    shortest = shortest_vector(cell * np.array(repeats)[:, None])
    assert shortest > 9.8
    for fewer in np.ndindex(repeats):
        assert shortest_vector(cell * (np.array(fewer) + 1)[:, None]) <= 9.8 or tuple(np.array(fewer) + 1) == repeats
    trust(
        "T30",
        f"shortest lattice vector over twice the cutoff, random cell {seed}",
        float(shortest / 9.8),
        "> 1, and ≤ 1 with one repeat less",
    )


def test_supercell_of_a_hexagonal_cell_goes_by_its_shortest_vector() -> None:
    """Li3N: 3 × 3 × 3 cells of 4 atoms; going by heights (3.16 Å) it would be 4 × 4 × 3."""
    hexagonal = np.array([[3.648, 0, 0], [-1.824, 3.1593, 0], [0, 0, 3.875]])
    assert supercell_for(hexagonal, 4.9) == (3, 3, 3)


def water(side: float) -> Crystal:
    """27 molecules H2O in a cubic box."""
    places = side / 3.0 * np.stack(np.meshgrid(*[np.arange(3)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    one = np.array([[0.0, 0.0, 0.0], [0.757, 0.586, 0.0], [-0.757, 0.586, 0.0]])
    positions = (places[:, None] + one[None]).reshape(-1, 3)
    return from_atoms(Atoms("OHH" * 27, positions=positions, cell=[side] * 3, pbc=True), source="water")


def test_a_box_of_molecules_is_not_repeated_for_a_few_per_cent() -> None:
    planned = plan(water(9.31), PrepareSettings())
    assert planned.atoms == 81 and planned.supercell == (1, 1, 1)
    assert any("it is not repeated" in note for note in planned.notes)
    assert plan(water(8.7), PrepareSettings()).supercell == (2, 2, 2)


def test_supercell_of_known_cells() -> None:
    assert supercell_for(9.86 * np.eye(3), 4.9) == (1, 1, 1)
    assert supercell_for(9.8 * np.eye(3), 4.9) == (2, 2, 2)
    assert supercell_for(9.86 * np.eye(3), 4.9, min_length=19.72) == (2, 2, 2)
    assert supercell_for(np.diag([3.0, 10.0, 20.0]), 5.0) == (4, 2, 1)


def test_plan_of_the_example_needs_no_teacher() -> None:
    planned = plan(read_structure(EXAMPLE), PrepareSettings(relax_steps=150, orderings=2))
    assert planned.supercell == (1, 1, 1) and planned.atoms == 52 and planned.composition == "Li24P4S20Cl4"
    assert ["Li1", 48, "Li 0.5", "Li24"] in planned.sites.rows and planned.relaxation_calls == 300
    assert "largest remainder" in planned.rule and planned.lengths == pytest.approx((9.86,) * 3)
    with pytest.raises(BadInput, match="P is not known to copper-only"):
        plan(read_structure(EXAMPLE), PrepareSettings(), elements={3, 16, 17}, subject="copper-only")


def test_plan_of_an_ordered_crystal() -> None:
    planned = plan(from_atoms(bulk("NaCl", "rocksalt", a=5.64)), PrepareSettings(cutoff=3.0))
    assert planned.atoms == 2 * math.prod(planned.supercell) and "No disorder" in planned.rule and planned.notes == ()
    odd = plan(from_atoms(bulk("MgF", "rocksalt", a=4.6)), PrepareSettings(cutoff=2.0))
    assert len(odd.notes) == 1 and "MgF is not neutral" in odd.notes[0]


def test_prepare_orders_repeats_and_relaxes() -> None:
    """Copper with a quarter of its sites half empty: two vacancies in the cell; orderings come lowest energy first."""
    crystal = from_atoms(bulk("Cu", cubic=True, a=3.8))
    first = replace(crystal.sites[0], occupancies={29: 0.5}, label="Cu1")
    rest = tuple(replace(site, label="Cu2") for site in crystal.sites[1:])
    settings = PrepareSettings(cutoff=3.5, orderings=2, relax_steps=120, disorder=DisorderSettings(like_factor=0.7))
    prepared = prepare(replace(crystal, sites=(first, *rest)), MORSE, settings, seed=1)
    energies = [result.energy for result in prepared.relaxations]
    assert prepared.supercell == (2, 2, 2) and [s.n_atoms for s in prepared.systems] == [28, 28]
    assert energies == sorted(energies) and all(r.max_force < 0.05 for r in prepared.relaxations)
    assert "by occupancy 4" in prepared.rule
    assert prepared.systems[0].positions.dtype == torch.float64


def test_prepare_notes_what_the_reader_should_know() -> None:
    settings = PrepareSettings(cutoff=3.5, orderings=3, relax_steps=2)
    notes = prepare(from_atoms(bulk("Cu", cubic=True, a=4.4)), MORSE, settings).notes
    assert any("3 orderings were requested; the search found 1" in note for note in notes)
    assert any("not fully relaxed after 3 teacher calls" in note for note in notes)


@pytest.mark.parametrize(("third", "undone"), [(1.05, False), (1.12, True)])
def test_relaxation_into_another_phase_is_undone_and_told(third: float, undone: bool) -> None:
    """An fcc cell stretched along c relaxes back: its shape changes by third − 1, exactly."""
    atoms = bulk("Cu", cubic=True, a=math.sqrt(2.0) * NEAREST)
    atoms.set_cell(atoms.cell[:] @ np.diag([1.0, 1.0, third]), scale_atoms=True)
    relaxed = relax(to_system(from_atoms(atoms)), MORSE, max_steps=400, largest_force=1e-3, stress_GPa=0.01)[1]
    assert relaxed.distortion == pytest.approx(third - 1.0, abs=2e-3)
    prepared = prepare(
        from_atoms(atoms), MORSE, PrepareSettings(cutoff=3.5, relax_steps=400, largest_force=1e-3, stress_gpa=0.01)
    )
    lengths = prepared.systems[0].cell[0].norm(dim=1)
    assert float(lengths[2] / lengths[0]) == pytest.approx(third if undone else 1.0, abs=2e-3)
    assert any("12% in one direction" in note and "undone" in note for note in prepared.notes) is undone


@pytest.mark.parametrize(
    "values",
    [{"cutoff": 0.0}, {"cutoff": math.nan}, {"orderings": 0}, {"relax_steps": -1}, {"largest_force": 0.0}, {"max_atoms": 0}],
)
def test_bad_settings(values: dict[str, float]) -> None:
    with pytest.raises(BadInput) as caught:
        PrepareSettings(**values)  # type: ignore[arg-type]
    assert next(iter(values)) in str(caught.value)
