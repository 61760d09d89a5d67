"""CIFs that leave something open, or say it in another way than most: read right, or refused with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from mdistill.crystals.charges import formal_charges
from mdistill.crystals.crystal import Crystal
from mdistill.data.disorder import order
from mdistill.errors import BadInput
from mdistill.io.structures import read_structure

NI3S2 = "Ni1 Ni 0.5 0.2449 0.7551 1\nS1 S 0.2521 0.2521 0.2521 1"
NI3S2_CELL = (4.0718, 4.0718, 4.0718, 89.459, 89.459, 89.459)


def block(
    sites: str, cell: tuple[float, ...] = (4.2, 4.2, 4.2, 90, 90, 90), *, symmetry: str = "", name: str = "x", kinds: bool = True
) -> str:
    """One data block; rows of sites are label, type symbol, x, y, z, occupancy."""
    tags = [f"_cell_length_{x}" for x in "abc"] + [f"_cell_angle_{x}" for x in ("alpha", "beta", "gamma")]
    sizes = "\n".join(f"{tag} {value}" for tag, value in zip(tags, cell, strict=True))
    columns = ["label", *(["type_symbol"] if kinds else []), "fract_x", "fract_y", "fract_z", "occupancy"]
    return "\n".join([f"data_{name}", sizes, symmetry, "loop_", *(f"_atom_site_{c}" for c in columns), sites, ""])


def read(folder: Path, text: str, *, index: int = -1) -> Crystal:
    path = folder / "structure.cif"
    path.write_text(text)
    return read_structure(path, index=index)


@pytest.mark.parametrize("symbol", ["", "_symmetry_space_group_name_H-M 'R 3 2'\n", "_space_group_name_H-M_alt 'R 3 2 :R'\n"])
def test_rhombohedral_axes_get_their_operations(tmp_path: Path, symbol: str) -> None:
    """Heazlewoodite has 5 atoms in 67.5 Å³; with operations of hexagonal axes it would be Ni18S18."""
    crystal = read(tmp_path, block(NI3S2, NI3S2_CELL, symmetry=f"{symbol}_symmetry_Int_Tables_number 155"))
    assert crystal.formula == "Ni3S2" and crystal.volume == pytest.approx(67.5, abs=0.1)
    assert any("rhombohedral axes" in note for note in crystal.notes)


def test_hexagonal_axes_keep_theirs(tmp_path: Path) -> None:
    calcite = "Ca1 Ca 0 0 0 1\nC1 C 0 0 0.25 1\nO1 O 0.257 0 0.25 1"
    cell = (4.99, 4.99, 17.06, 90, 90, 120)
    assert read(tmp_path, block(calcite, cell, symmetry="_symmetry_Int_Tables_number 167")).formula == "Ca6C6O18"


def test_operations_of_other_axes_are_refused(tmp_path: Path) -> None:
    listed = "loop_\n_symmetry_equiv_pos_as_xyz\n'x,y,z'\n'-y,x-y,z'\n'-x+y,-x,z'"
    with pytest.raises(BadInput, match="do not fit its cell"):
        read(tmp_path, block(NI3S2, NI3S2_CELL, symmetry=listed))
    with pytest.raises(BadInput, match="stated for hexagonal axes"):
        read(tmp_path, block(NI3S2, NI3S2_CELL, symmetry="_symmetry_space_group_name_H-M 'R 3 2 :H'"))


def test_too_many_atoms_for_the_volume_are_refused(tmp_path: Path) -> None:
    sites = "\n".join(
        f"C{k} C {x} {y} {z} 1" for k, (x, y, z) in enumerate((a, b, c) for a in (0, 0.5) for b in (0, 0.5) for c in (0, 0.5))
    )
    with pytest.raises(BadInput, match="Å³ an atom"):
        read(tmp_path, block(sites, (2.4, 2.4, 2.4, 90, 90, 90)))


DIAMOND = (3.567, 3.567, 3.567, 90, 90, 90)


def test_origin_is_told_by_multiplicity_formula_symbol_or_distances(tmp_path: Path) -> None:
    """Diamond has 8 atoms in its cell: at the origin for choice 1, at 1/8 for choice 2."""
    group = "_symmetry_space_group_name_H-M 'F d -3 m{}'\n"
    eighth = "C1 C 0.125 0.125 0.125 1"
    formula = "_chemical_formula_sum 'C1'\n_cell_formula_units_Z 8\n"
    for symmetry, sites in (
        (group.format(" :1"), "C1 C 0 0 0 1"), (group.format(" S"), "C1 C 0 0 0 1"), (group.format(" :2"), eighth),
        (group.format(" Z"), eighth), (formula + group.format(""), "C1 C 0 0 0 1"), (formula + group.format(""), eighth),
    ):  # fmt: skip
        assert read(tmp_path, block(sites, DIAMOND, symmetry=symmetry)).formula == "C8"
    oxygen_at_choice_2 = "Mg1 Mg 0.125 0.125 0.125 1\nAl1 Al 0.5 0.5 0.5 1\nO1 O 0.2624 0.2624 0.2624 1"
    spinel = read(tmp_path, block(oxygen_at_choice_2, (8.08, 8.08, 8.08, 90, 90, 90), symmetry=group.format("")))
    assert spinel.formula == "Mg8Al16O32" and any("choice 2 gives a sound structure" in note for note in spinel.notes)


def test_origin_that_nothing_tells_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"both choices give a possible structure \(8 or 16 atoms\)"):
        read(tmp_path, block("C1 C 0 0 0 1", DIAMOND, symmetry="_symmetry_Int_Tables_number 227"))


@pytest.mark.parametrize(("kinds", "stated"), [(("Mg+2", "S-2"), 2.0), (("Mg2+", "S2-"), 2.0), (("Mg2.0+", "S-2.0"), 2.0)])
def test_digits_before_or_after_the_sign_of_a_charge(tmp_path: Path, kinds: tuple[str, str], stated: float) -> None:
    crystal = read(tmp_path, block(f"Mg1 {kinds[0]} 0 0 0 1\nS1 {kinds[1]} 0.5 0.5 0.5 1", (3.1, 3.1, 3.1, 90, 90, 90)))
    assert crystal.oxidation == {12: stated, 16: -stated} == formal_charges(crystal)


def test_charges_of_the_file_that_are_not_used_are_named(tmp_path: Path) -> None:
    sites = "Li1 Li+2 0 0 0 0.5\nLi2 Li+2 0.5 0.5 0 0.5\nF1 F-1 0.5 0.5 0.5 1"
    rule = order(read(tmp_path, block(sites)))[0].rule
    assert "The file states Li +2" in rule and "not used" in rule


def test_vacancies_are_no_vanadium(tmp_path: Path) -> None:
    salt = "Na1 Na 0 0 0 1\nCl1 Cl 0.5 0.5 0.5 1\n"
    for row in ("Vac1 Vac 0.5 0 0 1", "Va1 Va 0.5 0 0 1", "X1 Vacancy 0.5 0 0 1"):
        crystal = read(tmp_path, block(salt + row))
        assert crystal.formula == "NaCl" and any("is a vacancy" in note for note in crystal.notes)
    without = salt.replace("Na1 Na", "Na1").replace("Cl1 Cl", "Cl1")
    assert read(tmp_path, block(without + "Vac1 0.5 0 0 1", kinds=False)).formula == "NaCl"
    assert read(tmp_path, block(salt + "V1 V 0.5 0 0 1")).formula == "NaVCl"
    for text in (block(without + "Va1 0.5 0 0 1", kinds=False), block(salt + "Vac1 V 0.5 0 0 1")):
        with pytest.raises(BadInput, match="vanadium"):
            read(tmp_path, text)


def test_two_blocks_of_one_name_are_two_structures(tmp_path: Path) -> None:
    salt, cesium = "Na1 Na 0 0 0 1\nCl1 Cl 0.5 0.5 0.5 1", "Cs1 Cs 0 0 0 1\nCl1 Cl 0.5 0.5 0.5 1"
    text = block(salt, name="a") + block(cesium, name="a")
    assert read(tmp_path, text, index=0).formula == "NaCl"
    last = read(tmp_path, text)
    assert last.formula == "CsCl" and any("holds 2 structures; number 1 was read" in note for note in last.notes)


def test_a_bare_number_of_an_orthorhombic_group_is_told(tmp_path: Path) -> None:
    crystal = read(
        tmp_path, block("Na1 Na 0 0 0 1\nCl1 Cl 0.5 0.5 0.5 1", (4, 5, 6, 90, 90, 90), symmetry="_space_group_IT_number 47")
    )
    assert any("only the number 47" in note for note in crystal.notes)
