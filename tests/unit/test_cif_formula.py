"""The stated formula of a CIF against its rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from mdistill.crystals.cif_formula import check_formula, formula_units
from mdistill.crystals.crystal import formula
from mdistill.errors import BadInput
from mdistill.io.structures import read_structure

FAULTS = Path(__file__).parent.parent / "attack" / "faults"


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("Li6 P S5 Cl", {3: 6.0, 15: 1.0, 16: 5.0, 17: 1.0}),
        ("'Si8'", {14: 8.0}),
        ("Li0.33La0.55TiO3", {3: 0.33, 57: 0.55, 22: 1.0, 8: 3.0}),
        ("D2 O", {1: 2.0, 8: 1.0}),
        ("Xx2", {}),
        ("?", {}),
        (None, {}),
    ],
)
def test_formulas(text: str | None, counts: dict[int, float]) -> None:
    assert formula_units(text) == counts


@pytest.mark.parametrize("composition", [{14: 8.0}, {14: 16.0}, {14: 8.1}])
def test_whole_numbers_of_units_are_right(composition: dict[int, float]) -> None:
    assert check_formula(composition, {"_chemical_formula_sum": "Si8"}, "a.cif") == []


def test_small_differences_are_noted_and_large_ones_refused() -> None:
    assert "hold 7.6 Si, the stated formula 'Si8' holds 8" in check_formula({14: 7.6}, {"_chemical_formula_sum": "Si8"}, "a")[0]
    for lost in ({14: 4.0}, {14: 7.0, 8: 1.0}, {14: 5.0}):
        with pytest.raises(BadInput, match=r"(?s)a\.cif.*stated formula.*fix:"):
            check_formula(lost, {"_chemical_formula_sum": "Si8"}, "a.cif")


RIGHT = {
    "struct_accepted-odd_137.cif": "hold 4 Si, the stated formula 'Si8'",
    "struct_accepted-odd_117.vasp": "component of 7.75242e\\+09",
    "struct_crash_225.vasp": "component of 1e\\+308",
    "struct_unexpected-error_17.cif": "_atom_site_fract_z",
    "struct_unexpected-error_241.cif": "_atom_site_fract_z",
    "struct_unexpected-error_95.cif": "_atom_site_fract_y",
}


@pytest.mark.parametrize("name", RIGHT)
def test_files_of_the_attack_are_refused(name: str) -> None:
    with pytest.raises(BadInput, match=rf"(?s){name}.*{RIGHT[name]}.*fix:"):
        read_structure(FAULTS / name)


def test_one_atom_has_no_number_though_occupancies_are_rounded() -> None:
    """α-AgI: 12 sites of occupancy 0.16667."""
    assert formula({47: 12 * 0.16667 / 2, 53: 1.0}) == "AgI"
    assert formula({3: 5.5, 16: 1.0}) == "Li5.5S"
