"""What is told of the k-points of CP2K, and where."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.io import read, write

from mdistill import cli
from mdistill.hardening.k_points import k_point_notice, notice_of
from mdistill.io.structures import read_systems
from mdistill.labelling.engine import PotentialEngine
from mdistill.labelling.hard_settings import Cp2kSettings
from mdistill.labelling.remembered import Remembered, load_engine
from mdistill.teachers.models import load

EXAMPLE = Path(__file__).parents[2] / "examples" / "li3ps4_cp2k.extxyz"
COMMAND = f"{shlex.quote(sys.executable)} {Path(__file__).parents[1] / 'fake_cp2k.py'} good"
SALT, PERIODIC = (3, 15, 16), (True, True, True)


def engine(*kpoints: int) -> Remembered:
    return load_engine("cp2k", cp2k=Cp2kSettings(command=COMMAND, kpoints=kpoints or (1, 1, 1)))


def test_a_grid_that_was_measured_to_be_too_coarse_is_told_with_one_that_was_enough():
    """The measured frame: 2×2×2 k-points were off by 13 meV/Å, 3×3×3 by 0.6."""
    systems = read_systems(EXAMPLE)[:1]
    told = notice_of(engine(2, 2, 2), systems)
    assert "is 12.7 Å" in told and "13 at 12.7 Å" in told and "γ-Li3PS4" in told and "--cp2k.kpoints 3 3 3 gives 19.0 Å" in told
    assert "is 6.3 Å" in notice_of(engine(), systems) and notice_of(engine(3, 3, 3), systems) == ""


def test_a_supercell_of_twelve_angstrom_at_the_gamma_point_is_told():
    cell = np.diag([15.4, 13.1, 12.3])
    assert "is 12.3 Å" in (told := k_point_notice(engine(), cell, PERIODIC, SALT)) and "--cp2k.kpoints 2 2 2" in told
    assert k_point_notice(engine(), 2 * cell, PERIODIC, SALT) == ""
    flat = np.array([[15.4, 0, 0], [0, 13.1, 0], [0, 18.0, 12.3]])
    assert "is 7.4 Å" in (told := k_point_notice(engine(), flat, PERIODIC, SALT)), "heights, not lengths"
    assert "--cp2k.kpoints 2 3 2" in told


def test_open_directions_are_not_sampled():
    slab = np.diag([20.0, 8.5, 3.0])
    assert "is 8.5 Å" in (told := k_point_notice(engine(), slab, (True, True, False), SALT)) and "--cp2k.kpoints 1 3 1" in told
    assert k_point_notice(engine(), np.diag([20.0, 19.0, 0.0]), (True, True, False), SALT) == ""
    assert k_point_notice(engine(), np.zeros((3, 3)), (False, False, False), SALT) == ""


def test_metals_are_told_apart_and_other_engines_have_no_k_points():
    cell = np.diag([30.0, 30.0, 30.0])
    told = k_point_notice(engine(), cell, PERIODIC, {13})
    assert "Al alone: a metal" in told and "smearing" in told and "Li3PS4" not in told
    assert k_point_notice(engine(), cell, PERIODIC, {13, 17}) == ""
    other = Remembered(PotentialEngine(load("ase.calculators.emt:EMT")))
    assert k_point_notice(other, np.eye(3), PERIODIC, {13}) == ""


@pytest.mark.parametrize(("symbol", "said"), [("NaCl", "--cp2k.kpoints 4 4 4"), ("Cu", "Cu alone: a metal")])
def test_commands_tell_it_once_before_the_first_calculation(tmp_path, capsys, symbol, said):
    atoms = bulk(symbol, "rocksalt", a=5.64, cubic=True) if symbol == "NaCl" else bulk(symbol, cubic=True)
    write(tmp_path / "two.extxyz", [atoms, atoms * (1, 1, 2)])
    words = ["label", str(tmp_path / "two.extxyz"), "--engine", "cp2k", "--cp2k.command", COMMAND, "--out", str(tmp_path / "dft")]
    assert cli.run(words) == 0
    assert capsys.readouterr().err.count(said) == 1 and len(read(tmp_path / "dft" / "labels.extxyz", index=":")) == 2
