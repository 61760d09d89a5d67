"""Kinds of matter, bonds, masses, SMILES: each against a case with a known answer."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc110, molecule

from mdistill.data.prepare import plan
from mdistill.data.settings import PrepareSettings
from mdistill.data.supercell import supercell_for
from mdistill.errors import BadInput
from mdistill.io.structures import from_atoms, to_system
from mdistill.matter.bonds import bonds_of, internal_coordinates, internal_values, whole_molecules
from mdistill.matter.kinds import KINDS, mobile_ion, recognised
from mdistill.matter.masses import repartitioned, usual_time_step
from mdistill.matter.smiles import from_smiles
from mdistill.units import DENSITY_G_CM3


def ice(side: float = 9.31) -> Atoms:
    """27 molecules of water on a lattice."""
    one = molecule("H2O")
    one.set_cell([side / 3.0] * 3)
    one.pbc = True
    return one.repeat(3)


def shuffled(seed: int = 0) -> Atoms:
    """The same, each molecule turned and moved: a liquid."""
    atoms, draw = ice(), np.random.default_rng(seed)
    for k in range(27):
        part = atoms[3 * k : 3 * k + 3]
        part.rotate(draw.uniform(0, 360), draw.normal(size=3), center="COM")
        atoms.positions[3 * k : 3 * k + 3] = part.positions + draw.uniform(-0.3, 0.3, 3)
    return atoms


def periodic(atoms: Atoms, axes: tuple[bool, bool, bool] = (True, True, True)) -> Atoms:
    atoms.pbc = axes
    return atoms


@pytest.mark.parametrize(
    ("atoms", "kind", "pbc"),
    [
        (bulk("NaCl", "rocksalt", a=5.64, cubic=True), "crystal", (True, True, True)),
        (molecule("CH3CH2OH"), "molecule", (False, False, False)),
        (periodic(molecule("H2O", vacuum=6.0)), "molecule", (False, False, False)),
        (fcc110("Al", (2, 2, 5), vacuum=8.0), "slab", (True, True, False)),
        (periodic(fcc110("Al", (2, 2, 5), vacuum=8.0)), "slab", (True, True, False)),
        (periodic(Atoms("C8", [[1.3 * k, 9.0, 9.0] for k in range(8)], cell=[10.4, 18.0, 18.0])), "wire", (True, False, False)),
        (ice(), "molecular-crystal", (True, True, True)),
        (shuffled(), "liquid", (True, True, True)),
    ],
)
def test_the_kind_follows_from_periodicity_vacuum_and_bonds(atoms, kind, pbc):
    matter, opened, notes = recognised(from_atoms(atoms))
    assert (matter.name, opened.pbc) == (kind, pbc)
    assert bool(notes) == (kind != "crystal")


def test_a_slab_that_crosses_the_face_of_its_cell_is_made_whole():
    atoms = fcc110("Al", (2, 2, 5), vacuum=8.0)
    before = atoms.get_all_distances(mic=True)
    atoms.pbc = True
    atoms.positions[:, 2] += 9.0
    atoms.wrap()
    opened = recognised(from_atoms(atoms))[1]
    system = to_system(opened)
    assert float(np.ptp(system.positions[:, 2].numpy())) == pytest.approx(4 * 4.05 / 8**0.5, abs=1e-6)
    assert float(system.cell[0, 2].abs().max()) == 0.0
    again = Atoms(atoms.numbers, system.positions.numpy(), cell=atoms.cell, pbc=[True, True, False])
    assert again.get_all_distances(mic=True) == pytest.approx(before, abs=1e-6)


def test_too_little_vacuum_is_told_and_can_be_opened():
    crystal = from_atoms(periodic(fcc110("Al", (2, 2, 5), vacuum=2.6)))
    matter, _, notes = recognised(crystal)
    assert matter.name == "crystal" and any("interacts with its image; --matter slab" in note for note in notes)
    matter, opened, _ = recognised(crystal, "slab")
    assert matter.name == "slab" and opened.pbc == (True, True, False)


@pytest.mark.parametrize(
    ("atoms", "asked", "message"),
    [
        (bulk("NaCl", "rocksalt", a=5.64, cubic=True), "slab", "slab, but the widest gaps"),
        (molecule("H2O"), "crystal", "crystal, but the widest gaps .* in no periodic direction"),
        (Atoms("He"), "auto", "a single atom"),
        (Atoms("He2", [[0, 0, 0], [0, 0, 9.0]]), "auto", "no atom has another within"),
    ],
)
def test_what_cannot_be_of_a_kind_is_refused(atoms, asked, message):
    with pytest.raises(BadInput, match=message):
        recognised(from_atoms(atoms), asked)


def test_partial_occupancies_need_a_bulk_crystal():
    whole = from_atoms(molecule("H2O"))
    half = replace(whole.sites[0], occupancies={8: 0.5})
    with pytest.raises(BadInput, match="partial occupancies"):
        recognised(replace(whole, sites=(half, *whole.sites[1:])))


@pytest.mark.parametrize(
    ("atoms", "ion", "why"),
    [
        (bulk("LiF", "rocksalt", a=4.02, cubic=True), "Li", ""),
        (bulk("Cu", cubic=True), "none", "metal, whose charge is carried by electrons"),
        (bulk("Si", cubic=True), "none", "none of the usual mobile ions"),
        (molecule("CH3Cl"), "none", "every atom belongs to a neutral molecule"),
    ],
)
def test_conductivity_has_an_ion_or_a_reason(atoms, ion, why):
    matter, crystal, _ = recognised(from_atoms(atoms))
    symbol, reason = mobile_ion(crystal, matter)
    assert symbol == ion and re.search(why, reason) and bool(reason) == (ion == "none")


def test_a_free_ion_in_a_liquid_is_mobile():
    atoms = shuffled() + Atoms("LiCl", [[0.9, 0.9, 0.2], [5.5, 5.5, 4.9]])
    assert mobile_ion(from_atoms(atoms), KINDS["liquid"])[0] == "Li"


def test_open_directions_are_not_repeated():
    cell = np.diag([3.0, 4.0, 30.0])
    assert supercell_for(cell, 5.0, pbc=(True, True, False)) == (4, 3, 1)
    planned = plan(from_atoms(fcc110("Al", (1, 1, 5), vacuum=8.0)), PrepareSettings())
    assert planned.supercell[2] == 1 and planned.supercell[0] * 4.05 / 2**0.5 > 2 * 4.9 / 1.5
    assert plan(from_atoms(molecule("CH3CH2OH")), PrepareSettings()).supercell == (1, 1, 1)


def test_bonds_angles_and_torsions_of_ethanol_are_those_of_ase():
    atoms = molecule("CH3CH2OH")
    bonds = bonds_of(to_system(from_atoms(atoms)))
    assert len(bonds.first) == 8 and len(whole_molecules(bonds, 9)) == 1
    kinds = {one.name: one for one in internal_coordinates(bonds)}
    assert {name: len(one.atoms) for name, one in kinds.items() if "torsion" in name} == {
        "torsion C–C–O–H": 1, "torsion H–C–C–O": 3, "torsion H–C–C–H": 6, "torsion H–C–O–H": 2,
    }  # fmt: skip
    places, cells = atoms.positions[None], np.zeros((1, 3, 3))
    for one in kinds.values():
        ours = internal_values(one, places, cells)[0]
        measure = {"bond": atoms.get_distance, "angle": atoms.get_angle, "torsion": atoms.get_dihedral}[one.kind]
        theirs = np.array([measure(*chain) for chain in one.atoms])
        if one.kind == "bond":
            assert ours == pytest.approx(theirs, abs=1e-9)
        else:
            assert np.cos(ours) == pytest.approx(np.cos(np.radians(theirs)), abs=1e-9)
            assert one.kind == "angle" or np.sin(ours) == pytest.approx(np.sin(np.radians(theirs)), abs=1e-9)


def test_bonds_across_a_face_and_a_chain_without_end():
    split = ice()
    split.positions += 0.1
    split.wrap()
    inside = bonds_of(to_system(from_atoms(split)))
    assert len(inside.first) == 54 and np.abs(inside.shift).max() == 1.0 and len(whole_molecules(inside, 81)) == 27
    values = internal_values(internal_coordinates(inside)[0], split.positions[None], split.cell.array[None])
    assert values == pytest.approx(molecule("H2O").get_distance(0, 1), abs=1e-9)
    chain = Atoms("C8", [[1.3 * k, 0.0, 0.0] for k in range(8)], cell=[10.4, 9.0, 9.0], pbc=[True, False, False])
    assert whole_molecules(bonds_of(to_system(from_atoms(chain))), 8) == []


def test_heavy_hydrogen_keeps_the_mass_of_every_molecule():
    system = to_system(from_atoms(ice()))
    masses = repartitioned(system, 3.0)
    assert masses is not None and masses[system.numbers == 1].unique().tolist() == [3.0]
    assert masses.reshape(27, 3).sum(1).tolist() == pytest.approx([18.015] * 27, abs=1e-9)
    assert repartitioned(system, 0.0) is None
    assert (usual_time_step(system), usual_time_step(system, heavy_h=3.0)) == (0.5, 1.0)
    assert usual_time_step(system, heavy_h=2.0) == 0.5
    with pytest.raises(BadInput, match="heavy-h"):
        repartitioned(system, 8.0)
    with pytest.raises(BadInput, match=r"lightest partner 3\.84 u"):
        repartitioned(to_system(from_atoms(molecule("CH4"))), 3.05)
    with pytest.raises(BadInput, match="1 hydrogens have no bond"):
        repartitioned(to_system(from_atoms(molecule("H2O") + Atoms("H", [[0, 0, 4.0]]))), 3.0)


def test_a_box_from_smiles_has_its_density_and_whole_molecules():
    pytest.importorskip("rdkit")
    made = from_smiles("O.CCO", copies=10, density=0.9, seed=3)
    assert made.atoms.get_masses().sum() / made.atoms.get_volume() * DENSITY_G_CM3 == pytest.approx(0.9, abs=1e-6)
    system = to_system(from_atoms(made.atoms))
    sizes = sorted(map(len, whole_molecules(bonds_of(system), system.n_atoms)))
    assert sizes == [3] * 10 + [9] * 10
    assert recognised(from_atoms(made.atoms))[0].name == "liquid"
    again = from_smiles("O.CCO", copies=10, density=0.9, seed=3).atoms
    assert np.array_equal(made.atoms.positions, again.positions)


def test_charge_and_unpaired_electrons_of_smiles_are_known():
    pytest.importorskip("rdkit")
    ions = [(one.charge, one.unpaired) for one in map(from_smiles, ("CCO", "[NH4+]", "[CH3]", "C[CH2+]"))]
    assert ions == [(0, 0), (1, 0), (0, 1), (1, 0)]


@pytest.mark.parametrize(
    ("smiles", "more", "message"),
    [
        ("C1CC", {}, "is no SMILES"), ("", {}, "is no SMILES"), ("C*", {}, r"placeholder \*"), ("O.O", {}, "2 molecules"),
        ("O", {"copies": 0}, "0 copies"), ("O", {"copies": 3}, "no density"), ("O", {"density": 1.0}, "density 1"),
        ("[Na+]", {"copies": 3, "density": 1.0}, r"charge \+1"),
        ("O", {"copies": 5, "density": -1.0}, "-1 g/cm³"), ("O", {"copies": 10**6, "density": 1.0}, "at most 100000"),
    ],
)  # fmt: skip
def test_bad_smiles_and_boxes_are_refused(smiles, more, message):
    pytest.importorskip("rdkit")
    with pytest.raises(BadInput, match=message):
        from_smiles(smiles, **more)


def test_a_density_that_packmol_cannot_pack_is_refused(monkeypatch):
    pytest.importorskip("rdkit")
    tried = []
    monkeypatch.setattr("mdistill.matter.smiles._by_packmol", lambda *given: tried.append(given[3]))
    with pytest.raises(BadInput, match="do not fit into a cube"):
        from_smiles("O", copies=8, density=5.0)
    assert tried == [2.0, 1.8]
