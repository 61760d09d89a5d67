"""D3 dispersion added to a teacher: against the ASE calculator of its package, differences of the energy, and known limits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.emt import EMT
from ase.io import write

from mdistill.errors import BadInput, MissingPackage
from mdistill.graph import build_graph, concatenate
from mdistill.io.structures import from_atoms, read_structure, to_system
from mdistill.labelling.hard_settings import Cp2kSettings
from mdistill.teachers import check_teacher, dispersion, load_teacher
from mdistill.teachers.ase import TeacherFailure, from_calculator
from mdistill.teachers.cards import card_of, find_teacher
from mdistill.teachers.tuned import to_tune, tunable
from mdistill.workflows.distill_settings import dispersion_notes, matter_notes, quick_settings, resolved

pytest.importorskip("dftd3")


def rattled(atoms: Atoms) -> Atoms:
    atoms.rattle(0.08, seed=2)
    return atoms


def alone(*atoms: Atoms):
    return dispersion.dispersion([to_system(from_atoms(one)) for one in atoms], "pbe")


def test_it_is_that_of_the_packages_own_calculator(trust):
    from dftd3.ase import DFTD3

    for atoms in (molecule("CH3CH2OH"), rattled(bulk("Cu", cubic=True))):
        ours = alone(atoms)
        atoms.calc = DFTD3(method="PBE", damping="d3bj")
        worst = np.abs(ours.forces.numpy() - atoms.get_forces()).max()
        trust("T10", f"D3 of {atoms.get_chemical_formula()}: forces against the ASE calculator of dftd3", worst, "1e-8 eV/Å")
        assert worst < 1e-8
        assert float(ours.energy) == pytest.approx(atoms.get_potential_energy(), rel=1e-7)
        if atoms.pbc.all():
            assert ours.stress[0].numpy() == pytest.approx(atoms.get_stress(voigt=False), abs=1e-9)
        else:
            assert ours.stress is None


def test_forces_are_derivatives_of_the_energy():
    system, step = to_system(from_atoms(rattled(bulk("Cu", cubic=True)))), 1e-3
    answer = dispersion.dispersion([system], "pbe")

    def energy(positions):
        return float(dispersion.dispersion([replace(system, positions=positions)], "pbe").energy)

    moved = torch.zeros_like(system.positions)
    moved[1, 2] = step
    slope = (energy(system.positions + moved) - energy(system.positions - moved)) / (2 * step)
    assert float(answer.forces[1, 2]) == pytest.approx(-slope, abs=1e-7)


def test_the_stress_of_a_molecule_in_a_wide_box_is_the_virial_of_its_forces():
    """σ V = −Σ r_i F_i where no image is near: of the same sign as ASE's, tension positive."""
    atoms = rattled(molecule("CH3CH2OH"))
    atoms.set_cell([50.0, 51.0, 52.0])
    atoms.pbc = True
    answer = alone(atoms)
    virial = -atoms.positions.T @ answer.forces.numpy() / atoms.get_volume()
    assert answer.stress[0].numpy() == pytest.approx(virial, rel=1e-3, abs=1e-12)
    assert abs(virial).max() > 1e-8


def test_two_atoms_of_argon_far_apart_attract_as_the_sixth_power():
    """C6 of two argon atoms: 64.3 Hartree·Bohr⁶ (A. Kumar, A. J. Thakkar, J. Chem. Phys. 132, 074301 (2010)); D3 within 5 %."""
    near, far = (float(alone(Atoms("Ar2", [[0, 0, 0], [0, 0, r]])).energy) for r in (12.0, 24.0))
    assert near / far == pytest.approx(64.0, rel=0.05) and near < 0.0
    c6 = -far * 24.0**6 / (27.211386 * 0.529177**6)
    assert c6 == pytest.approx(64.3, rel=0.05)


def test_a_batch_is_its_structures_one_by_one_added_to_the_teacher():
    base = from_calculator(EMT())
    both = dispersion.with_dispersion(base, "pbe", "emt+d3")
    systems = [to_system(from_atoms(rattled(bulk(one, cubic=True)))) for one in ("Cu", "Al")]
    graph = build_graph(concatenate(systems), 0.0)
    answer, plain, added = both(graph), base(graph), dispersion.dispersion(systems, "pbe")
    assert torch.allclose(answer.energy, plain.energy + added.energy, atol=1e-12)
    assert torch.allclose(answer.forces, plain.forces + added.forces, atol=1e-12)
    assert torch.allclose(answer.stress, plain.stress + added.stress, atol=1e-12)
    assert both.name == "emt+d3" and both.sha256 != dispersion.with_dispersion(base, "r2scan", "emt+d3").sha256


def test_a_slab_has_no_stress_and_no_images_across_its_vacuum():
    slab = fcc111("Al", (2, 2, 3), vacuum=6.0)
    slab.pbc = (True, True, False)
    wide = slab.copy()
    wide.cell[2, 2] += 20.0
    thin, far = alone(slab), alone(wide)
    assert thin.stress is None
    assert float(thin.energy) == pytest.approx(float(far.energy), abs=1e-9)


@pytest.mark.teacher
def test_the_teacher_by_name_is_the_sum_and_its_golden_answers_are_checked():
    pytest.importorskip("sevenn")
    both, plain = load_teacher(" SevenNet-0+D3"), load_teacher("sevennet-0")
    system = to_system(from_atoms(rattled(molecule("CH3OH"))))
    graph = build_graph(system, plain.cutoff)
    added = dispersion.dispersion([system], "pbe")
    assert float(both(graph).energy) == pytest.approx(float(plain(graph).energy + added.energy), abs=1e-5)
    assert both.name == "sevennet-0+d3" and both.cutoff == plain.cutoff
    assert max(check_teacher(both, "SevenNet-0+D3").values()) < 1e-4


def test_cards_tell_the_dispersion_and_such_a_teacher_is_not_trained_further():
    card = find_teacher("sevennet-0+d3")
    assert card.functional == "PBE (+U), D3(BJ)" and card.dispersion == "pbe"
    assert card_of("sevennet-mf-0+d3").dispersion == "r2scan"
    assert tunable("sevennet-0") and not tunable("sevennet-0+d3") and not to_tune("sevennet-0+d3", "auto")
    with pytest.raises(BadInput, match=r"GFN2-xTB holds dispersion"):
        find_teacher("xtb+d3")
    for name, message in (
        ("sevenet-0+d3", r"'sevenet-0\+d3' is not known[\s\S]*did you mean 'sevennet-0\+d3'"),
        ("sevennet-0+d3+d3", r"did you mean 'sevennet-0\+d3"),
        ("sevennet-0+d3@charge=1", "knows no charge or spin"),
        ("sevennet-0+d3@", "knows no charge or spin"),
        ("+d3", r"'\+d3' is not known"),
    ):
        with pytest.raises(BadInput, match=message):
            find_teacher(name)
    assert card.pip_line == 'pip install "mdistill[sevennet,d3]"'


def test_two_atoms_at_one_place_are_an_answer_that_cannot_be_used():
    with pytest.raises(TeacherFailure, match="Too close"):
        alone(Atoms("Ar2", [[0, 0, 0], [0, 0, 0]]))


def test_without_the_package_the_pip_line_is_told(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "dftd3.interface", None)
    with pytest.raises(MissingPackage, match=r"mdistill\[d3\]"):
        dispersion.with_dispersion(from_calculator(EMT()), "pbe", "emt+d3")


def test_a_liquid_by_a_teacher_without_dispersion_is_told_before_it_runs(tmp_path):
    water = molecule("H2O")
    water.set_cell([6.2] * 3)
    water.pbc = True
    box = water.repeat(2)
    box.rattle(0.05, seed=1)
    write(tmp_path / "box.extxyz", box)
    crystal = read_structure(tmp_path / "box.extxyz")

    def told(teacher: str, **more) -> list[str]:
        settings = replace(quick_settings(tmp_path / "box.extxyz"), teacher=teacher, **more)
        given = resolved(settings, crystal)
        found = dispersion_notes(given)
        assert set(found) <= set(matter_notes(given, crystal))
        return found

    assert len(told("sevennet-0", matter="liquid")) == 1 and "--teacher sevennet-0+d3" in told("sevennet-0", matter="liquid")[0]
    assert told("sevennet-0", matter="molecular-crystal") != []
    for teacher in ("sevennet-0+d3", "xtb", "ase.calculators.emt:EMT"):
        assert told(teacher, matter="liquid") == []
    assert told("sevennet-0", matter="liquid", hard="cp2k") == []
    plain = told("sevennet-0", matter="liquid", hard="cp2k", cp2k=Cp2kSettings(functional="PBE"))
    assert len(plain) == 1 and "unless hard labels bring it" in plain[0]
    assert told("sevennet-0", matter="crystal") == []
