"""Crystals as files state them: occupancies, symmetry, round trips, charges."""

from __future__ import annotations

import ast
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from mdistill.crystals import cif as cif_module
from mdistill.crystals.charges import formal_charges
from mdistill.crystals.checks import neighbour_pairs
from mdistill.crystals.crystal import Crystal, Site, formula
from mdistill.errors import BadInput
from mdistill.io.structures import (
    check_state,
    from_atoms,
    numbers_of,
    read_structure,
    read_system,
    read_systems,
    to_atoms,
    to_system,
    write_systems,
)

EXAMPLE = Path(__file__).parents[2] / "examples" / "li6ps5cl.cif"
DATA = os.environ.get("MDISTILL_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="MDISTILL_DATA is not set")
LI6PS5CL = {3: 24.0, 15: 4.0, 16: 20.0, 17: 4.0}


def test_example_is_argyrodite(trust: Callable[..., None]) -> None:
    crystal = read_structure(EXAMPLE)
    assert crystal.composition == LI6PS5CL and crystal.formula == "Li24P4S20Cl4"
    assert len(crystal.sites) == 76 and not crystal.ordered and len(crystal.sha256) == 64
    i, j, distance = neighbour_pairs(crystal, 2.6)
    labels = np.array([site.label for site in crystal.sites])
    bonds = distance[(labels[i] == "P1") & (labels[j] == "S1")]
    assert len(bonds) == 16 and np.allclose(bonds, 2.04, atol=0.02)
    assert formal_charges(crystal) == {3: 1.0, 15: 5.0, 16: -2.0, 17: -1.0}
    trust("T30", "Li in the half-occupied example CIF", crystal.composition[3], "24, not 48")


@needs_data
def test_neutron_cif_keeps_half_occupancies(trust: Callable[..., None]) -> None:
    """Oracle: pymatgen's structure; the trap: ASE's 48 Li."""
    import ase.io
    from pymatgen.core import Structure

    path = Path(str(DATA)) / "argyrodite_aimd" / "Li6PS5Cl_Neutron.cif"
    crystal = read_structure(path)
    oracle = {e.Z: n for e, n in Structure.from_file(path).composition.element_composition.items()}
    assert crystal.composition == pytest.approx(oracle)
    assert crystal.composition == pytest.approx(LI6PS5CL)
    assert int((ase.io.read(path).numbers == 3).sum()) == 48
    shares = {tuple(sorted(site.occupancies.items())) for site in crystal.sites if len(site.occupancies) == 2}
    assert shares == {((16, 0.6151), (17, 0.3849)), ((16, 0.3849), (17, 0.6151))}
    trust("T30", "Li read from the neutron CIF of Li6PS5Cl", crystal.composition[3], "24 (ASE: 48)")


@pytest.mark.planted
def test_cross_check_catches_a_lost_occupancy(monkeypatch: pytest.MonkeyPatch, trust: Callable[..., None]) -> None:
    monkeypatch.setattr(cif_module, "_occupancy", lambda *_: 1.0)
    with pytest.raises(BadInput, match="symmetry expands to") as caught:
        read_structure(EXAMPLE)
    trust("T30", "occupancies ignored by our parser", caught.value.problem, "cross-check against pymatgen fails", planted=True)


@pytest.mark.parametrize("name", ["POSCAR", "a.extxyz", "a.traj", "a.cif", "a.xyz.gz", "a.json.vasp"])
def test_formats_round_trip(name: str, tmp_path: Path) -> None:
    atoms = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    atoms.rattle(0.05, seed=1)
    if name == "a.xyz.gz":
        atoms.write(tmp_path / name, format="extxyz")
    else:
        atoms.write(tmp_path / name)
    crystal = read_structure(tmp_path / name)
    read = to_atoms(crystal)
    assert sorted(read.numbers) == sorted(atoms.numbers) and crystal.ordered
    order = np.argsort(read.numbers, kind="stable")
    mine = np.argsort(atoms.numbers, kind="stable")
    shift = read.get_scaled_positions(wrap=False)[order] - atoms.get_scaled_positions(wrap=False)[mine]
    assert np.abs((shift - np.round(shift)) @ atoms.cell[:]).max() < (1e-3 if name == "a.cif" else 1e-6)


def test_index_and_several_blocks(tmp_path: Path) -> None:
    import ase.io

    frames = [bulk("Cu", cubic=True), bulk("Al", cubic=True)]
    ase.io.write(tmp_path / "two.extxyz", frames)
    assert read_structure(tmp_path / "two.extxyz").formula == "Al4"
    assert read_structure(tmp_path / "two.extxyz", index=0).formula == "Cu4"
    ase.io.write(tmp_path / "two.cif", frames)
    second = read_structure(tmp_path / "two.cif")
    assert second.formula == "Al4" and any("2 structures" in note for note in second.notes)
    with pytest.raises(BadInput, match="index 5 of 2"):
        read_structure(tmp_path / "two.cif", index=5)


def test_system_round_trip_keeps_unwrapped_positions_and_open_directions() -> None:
    atoms = bulk("NaCl", "rocksalt", a=5.64)
    atoms.positions[0] += 3.0 * atoms.cell[1]
    system = to_system(from_atoms(atoms))
    assert torch.allclose(system.positions, torch.from_numpy(atoms.positions), atol=1e-12)
    again = from_atoms(to_atoms(system))
    assert np.allclose(again.positions, atoms.positions, atol=1e-12) and again.pbc == (True, True, True)
    water = molecule("H2O")
    system = to_system(from_atoms(water))
    assert not system.pbc.any() and float(system.cell.abs().max()) == 0.0
    assert np.allclose(to_atoms(system).positions, water.positions)
    slab = Atoms("Cu", cell=[3, 3, 15], pbc=[True, True, False])
    assert to_system(from_atoms(slab)).cell[0, 2].abs().max() == 0.0


def test_space_group_without_operations(tmp_path: Path) -> None:
    """The International symbol alone is enough; the multiplicity of 16e and 48h comes out right (oracle: the Tables)."""
    crystal = read_structure(EXAMPLE)
    counts = {label: sum(site.label == label for site in crystal.sites) for label in ("Li1", "P1", "S1", "S2", "Cl1")}
    assert counts == {"Li1": 48, "P1": 4, "S1": 16, "S2": 4, "Cl1": 4}


def test_rounded_special_positions_are_one_site(tmp_path: Path) -> None:
    text = EXAMPLE.read_text().replace("0.25  0.25  0.25", "0.2502 0.2499 0.2501")
    text = "\n".join(line for line in text.splitlines())
    (tmp_path / "rounded.cif").write_text(text)
    assert read_structure(tmp_path / "rounded.cif").composition == LI6PS5CL


def test_disordered_crystal_gives_no_system() -> None:
    crystal = Crystal(
        cell=4.0 * np.eye(3), pbc=(True, True, True), sites=(Site(fractional=(0, 0, 0), occupancies={3: 0.5}, label="Li1"),)
    )
    for call in (to_system, to_atoms, numbers_of):
        with pytest.raises(BadInput, match="disordered"):
            call(crystal)


def _charges_of(formula_counts: dict[int, float], oxidation: dict[int, float] | None = None) -> dict[int, float] | None:
    sites = tuple(
        Site(fractional=(0.1 * k, 0.0, 0.0), occupancies={n: 1.0}, label=str(n))
        for n, count in formula_counts.items()
        for k in range(int(count))
    )
    return formal_charges(Crystal(cell=np.eye(3), pbc=(True,) * 3, sites=sites, oxidation=oxidation or {}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("counts", "charges"),
    [
        ({3: 6, 15: 1, 16: 5, 17: 1}, {3: 1, 15: 5, 16: -2, 17: -1}),
        ({3: 7, 57: 3, 40: 2, 8: 12}, {3: 1, 57: 3, 40: 4, 8: -2}),
        ({3: 1, 13: 1, 22: 1, 15: 3, 8: 12}, None),
        ({26: 2, 8: 3}, {26: 3, 8: -2}),
        ({3: 1, 26: 1, 15: 1, 8: 4}, {3: 1, 26: 2, 15: 5, 8: -2}),
        ({1: 2, 8: 1}, {1: 1, 8: -2}),
        ({26: 3, 8: 4}, {26: 8 / 3, 8: -2}),
        ({29: 1, 79: 3}, {29: 0, 79: 0}),
        ({3: 1, 8: 5}, None),
        ({2: 4}, None),
    ],
)
def test_formal_charges(counts: dict[int, float], charges: dict[int, float] | None) -> None:
    found = _charges_of(counts)
    if charges is None:
        assert found is None or abs(sum(found[n] * c for n, c in counts.items())) < 1e-9
    else:
        assert found == pytest.approx(charges)


def test_stated_oxidation_numbers_win_where_neutral() -> None:
    assert _charges_of({26: 1, 16: 2}, {26: 2.0, 16: -1.0}) == {26: 2.0, 16: -1.0}


def test_formula_writes_cations_first_and_no_ones() -> None:
    assert formula({8: 4.0, 3: 1.0, 15: 1.0, 26: 1.0}) == "LiFePO4"
    assert formula({22: 1.0, 38: 1.0, 8: 3.0}) == "SrTiO3"
    assert formula({3: 7.0, 40: 2.0, 57: 3.0, 8: 12.0}) == "Li7La3Zr2O12"
    assert formula({79: 1.0, 29: 3.0}) == "Cu3Au" and formula({6: 1.0, 1: 4.0}) == "CH4"
    assert formula({3: 0.5, 17: 2.0}) == "Li0.5Cl2"


def test_import_is_cheap() -> None:
    """Neither pymatgen nor ASE is imported with the modules that read and prepare structures."""
    import mdistill.io

    package = Path(mdistill.io.__file__).parents[1]
    for name in (
        "io/structures",
        "crystals/checks",
        "crystals/cif",
        "crystals/charges",
        "data/disorder",
        "data/arrangement",
        "data/prepare",
    ):
        top = [
            node for node in ast.parse((package / f"{name}.py").read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        names = {alias.name for node in top for alias in node.names} | {str(getattr(node, "module", "")) for node in top}
        assert not any(module.split(".")[0] in ("pymatgen", "matplotlib", "ase") for module in names), name


def test_a_stated_charge_is_carried(tmp_path: Path) -> None:
    """Through every route to a System, in files written again, and times the copies of a repeated cell."""
    ion = molecule("CH3")
    ion.info |= {"charge": 1.0, "unpaired": 0}
    ion.write(tmp_path / "ion.extxyz")
    system = read_system(tmp_path / "ion.extxyz")
    assert system.charge is not None and system.unpaired is not None and system.charge.tolist() == [1]
    write_systems(tmp_path / "again.extxyz", [system, to_system(from_atoms(molecule("CH4")))])
    again, neutral = read_systems(tmp_path / "again.extxyz")
    assert again.charge is not None and again.charge.tolist() == [1] and neutral.charge is None and neutral.unpaired is None
    assert "charge=1.0 of the file: for xtb" in read_structure(tmp_path / "ion.extxyz").unused[0]
    crystal = bulk("NaCl", "rocksalt", a=5.64)
    crystal.info["charge"] = -1
    crystal.write(tmp_path / "crystal.extxyz")
    four = read_system(tmp_path / "crystal.extxyz", repeat=(2, 2, 1))
    assert four.charge is not None and four.charge.tolist() == [-4]
    for name, value in (("charge", 0.5), ("charge", float("nan")), ("charge", float("inf")), ("unpaired", -1), ("charge", "one")):
        ion.info = {name: value}
        with pytest.raises(BadInput, match=f"{name}={value}"):
            from_atoms(ion)


def test_a_calculation_told_another_charge_is_refused() -> None:
    ion = molecule("CH3")
    ion.info |= {"charge": 1, "unpaired": 0}
    check_state(ion, by="engine", fix="--charge", charge=1, unpaired=0)
    check_state(molecule("CH3"), by="engine", fix="--charge", charge=1, unpaired=0)
    with pytest.raises(BadInput, match="states charge=1; engine is told 0"):
        check_state(to_system(from_atoms(ion)), by="engine", fix="--charge", charge=0)
