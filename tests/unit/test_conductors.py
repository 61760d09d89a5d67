"""The commonest ion conductors, with the occupancies of their publications, are ordered without a flag."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import write

from conductors import CONDUCTORS, Conductor, cif, conductor
from mdistill.crystals.checks import neighbour_pairs
from mdistill.data.disorder import charges_of, order
from mdistill.errors import BadInput
from mdistill.io.structures import numbers_of, read_structure

LONG = ("Li7La3Zr2O12, cubic",)
CASES = [pytest.param(one, id=one.name, marks=[pytest.mark.slow] if one.name in LONG else []) for one in CONDUCTORS]


@pytest.mark.parametrize("one", CASES)
def test_conductor_is_ordered_without_a_flag(one: Conductor, tmp_path: Path) -> None:
    """Whole atoms as published, neutral, no pair nearer than half the sum of covalent radii, and the rule names its limits."""
    from ase.data import covalent_radii

    path = tmp_path / "conductor.cif"
    path.write_text(cif(one))
    crystal = read_structure(path)
    found = order(crystal)[0]
    assert found.crystal.formula == one.ordered
    numbers, charges = numbers_of(found.crystal), charges_of(crystal)
    assert sum(charges[number] for number in numbers.tolist()) == pytest.approx(0.0, abs=1e-9)
    i, j, distance = neighbour_pairs(found.crystal, 3.2)
    ratios = distance / (covalent_radii[numbers[i]] + covalent_radii[numbers[j]])
    assert ratios.min() > 0.5 and distance.min() > 0.9
    cations = np.array([charges[number] > 0 for number in numbers.tolist()])
    like = cations[i] & cations[j]
    lowered = "factor of cations was lowered" in found.rule
    assert lowered == bool(like.any() and ratios[like].min() < 0.8)
    assert one.reference


def test_overfull_split_site_is_merged_with_a_note_and_no_atom_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "lgps.cif"
    path.write_text(cif(conductor("Li10GeP2S12 (split sites that sum to 1.08)")))
    crystal = read_structure(path)
    merged = [site for site in crystal.sites if site.label == "Li2"]
    assert len(merged) == 4 and all(site.full for site in merged)
    assert crystal.composition[3] == pytest.approx(20.0)
    assert "occupancies that sum to 1.08" in crystal.notes[0]


def test_sum_far_above_one_is_refused(tmp_path: Path) -> None:
    one = conductor("Li10GeP2S12 (split sites that sum to 1.08)")
    path = tmp_path / "lgps.cif"
    path.write_text(cif(replace(one, rows=one.rows.replace("0.555 0.54", "0.555 0.74"))))
    with pytest.raises(BadInput, match="0.418 Å apart"):
        read_structure(path)


def test_a_published_file_without_its_lithium_is_told(tmp_path):
    """Sulphur at −1 needs S–S bonds: SiS4 as four-coordinate silicon has none, pyrite has."""
    a = 5.0
    tetrahedron = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) * 2.1 / np.sqrt(3.0)
    bare = Atoms("SiS4", [[0, 0, 0], *tetrahedron], cell=[2 * a] * 3, pbc=True)
    write(tmp_path / "bare.cif", bare)
    notes = read_structure(tmp_path / "bare.cif").notes
    assert any("neutral only with S at −1" in note and "Li or H" in note for note in notes)
    u = 0.385
    sulphur = np.array([[u, u, u], [-u + 0.5, -u, u + 0.5], [-u, u + 0.5, -u + 0.5], [u + 0.5, -u + 0.5, -u]])
    iron = np.array([[0, 0, 0], [0.5, 0, 0.5], [0, 0.5, 0.5], [0.5, 0.5, 0]])
    pyrite = Atoms("Fe4S8", scaled_positions=np.vstack([iron, sulphur, -sulphur]), cell=[5.42] * 3, pbc=True)
    rock_salt = bulk("MgO", "rocksalt", a=4.21, cubic=True)
    for name, atoms in (("pyrite", pyrite), ("rock_salt", rock_salt)):
        write(tmp_path / f"{name}.cif", atoms)
        assert read_structure(tmp_path / f"{name}.cif").notes == (), name
