"""GFN-xTB as a teacher: golden answers, charge and spin, independence of earlier structures, bad input."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc110, molecule

from mdistill.errors import BadInput
from mdistill.graph import build_graph
from mdistill.io.structures import from_atoms, to_system
from mdistill.teachers import check_teacher, load_teacher
from mdistill.teachers.cards import find_teacher, teacher_options

pytest.importorskip("tblite")


def answer(atoms: Atoms, name: str = "xtb"):
    return load_teacher(name)(build_graph(to_system(from_atoms(atoms)), 0.0))


def test_golden_answers_are_those_of_its_own_calculator(trust):
    for name in ("gfn2-xtb", "gfn1-xtb"):
        worst = check_teacher(load_teacher(name), name)
        assert max(worst.values()) < 1e-5
        trust("T10", f"{name}: largest deviation from golden answers", max(worst.values()), "1e-5 eV/atom, 1e-4 eV/Å")


def test_charge_changes_the_energy_by_the_ionisation_energy_and_stands_in_the_name():
    """GFN2-xTB without refitted offsets: a few eV above the measured 15.6 eV of methane's vertical ionisation, never negative."""
    neutral, ion = answer(molecule("CH4")), answer(molecule("CH4"), "xtb@charge=1,unpaired=1")
    assert 12.0 < float(ion.energy - neutral.energy) < 25.0
    assert load_teacher("XTB@unpaired=1,charge=1").name == "gfn2-xtb@charge=1,unpaired=1"
    assert teacher_options("xtb@charge=-2") == {"charge": -2, "unpaired": 0}
    assert find_teacher("xtb@charge=1").name == "gfn2-xtb"
    stated = molecule("CH4")
    stated.info |= {"charge": 1, "unpaired": 1}
    assert torch.equal(answer(stated, "xtb@charge=1,unpaired=1").energy, ion.energy)
    with pytest.raises(BadInput, match="states charge=1; GFN2-xTB is told 0"):
        answer(stated)


@pytest.mark.parametrize(
    ("name", "message"),
    [("xtb@charge=one", "charge=one"), ("xtb@spin=1", "spin=1"), ("xtb@unpaired=-1", "unpaired=-1"),
     ("sevennet-0@charge=1", "knows no charge or spin")],
)  # fmt: skip
def test_bad_options_are_refused(name, message):
    with pytest.raises(BadInput, match=message):
        load_teacher(name)


def test_an_answer_does_not_depend_on_the_structure_before():
    teacher, atoms = load_teacher("xtb"), molecule("CH3CH2OH")
    system = to_system(from_atoms(atoms))
    moved = replace(
        system, positions=system.positions + 0.2 * torch.randn((9, 3), generator=torch.Generator().manual_seed(1)).double()
    )
    first = teacher(build_graph(system, 0.0)).forces
    teacher(build_graph(moved, 0.0))
    assert torch.equal(first, teacher(build_graph(system, 0.0)).forces)


def test_forces_are_the_gradient_and_molecules_have_no_stress():
    atoms = molecule("H2O")
    atoms.rattle(0.05, seed=2)
    known = answer(atoms)
    assert known.stress is None
    ends = []
    for step in (-1e-3, 1e-3):
        moved = atoms.copy()
        moved.positions[0, 2] += step
        ends.append(float(answer(moved).energy))
    assert -(ends[1] - ends[0]) / 2e-3 == pytest.approx(float(known.forces[0, 2]), abs=2e-4)


def test_slabs_and_charged_bulk_are_refused():
    with pytest.raises(BadInput, match="slabs and wires"):
        answer(fcc110("Al", (1, 1, 2), vacuum=6.0))
    with pytest.raises(BadInput, match=r"charge \+1"):
        answer(bulk("MgO", "rocksalt", a=4.2), "xtb@charge=1")
    assert answer(bulk("MgO", "rocksalt", a=4.2)).stress.shape == (1, 3, 3)
    assert np.isfinite(float(answer(molecule("CO")).energy))
