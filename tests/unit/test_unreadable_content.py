"""Files whose content another reader takes without a word: bombs, impossible atomic numbers and masses, rows of a CIF that get lost."""

from __future__ import annotations

import bz2
import gzip
import lzma
from pathlib import Path

import numpy as np
import pytest

from mdistill.crystals import checks
from mdistill.errors import BadInput
from mdistill.export.frames import read_frames
from mdistill.export.start import read_start
from mdistill.io.import_trajectory import read_trajectory
from mdistill.io.structures import read_structure
from mdistill.labelling import label_files
from mdistill.labelling.settings import LabelFileSettings

SALT = """data_salt
_cell_length_a 5.64
_cell_length_b 5.64
_cell_length_c 5.64
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'P 1'
loop_
_atom_site_type_symbol
_atom_site_label
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
Na Na1 0.0 0.0 0.0
Cl Cl1 0.5 0.0 0.0
Na Na2 0.0 0.5 0.5
STRAY
Cl Cl2 0.5 0.5 0.5
Na Na3 0.5 0.0 0.5
Cl Cl3 0.0 0.0 0.5
"""


def xyz(properties: str, first: str, rest: str = "", frames: int = 1) -> str:
    head = f'2\nLattice="4 0 0 0 4 0 0 0 4" Properties={properties} pbc="T T T" energy=1.0\n'
    return (head + f"{first} 0 0 0 {rest}\n17 2 2 2 {'1 ' if rest else ''}\n") * frames


def label_frames(path: Path) -> object:
    return label_files.read_frames(path, LabelFileSettings(), label_files.Keys())


READERS = {
    "structure": read_structure, "start": read_start, "convert": read_frames, "labels": label_frames,
    "analyse": lambda path: read_trajectory(path, time_step_fs=10.0),
}  # fmt: skip


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("properties", "first"),
    [("Z:I:1:pos:R:3", "999"), ("Z:I:1:pos:R:3", "119"), ("Z:I:1:pos:R:3", "-3"), ("Z:R:1:pos:R:3", "11.5"),
     ("numbers:R:1:pos:R:3", "11.5")],
)  # fmt: skip
def test_atomic_numbers_that_are_none_are_refused(reader, properties, first, tmp_path):
    path = tmp_path / "odd.extxyz"
    path.write_text(xyz(properties, first, frames=3))
    with pytest.raises(BadInput, match="atomic number") as told:
        READERS[reader](path)
    assert "1 to 118" in told.value.allowed and "odd.extxyz" in told.value.subject


@pytest.mark.parametrize("numbers", [np.array([11.5, 17.0]), np.array([999, 17]), np.array(["Na", "Cl"])])
def test_atomic_numbers_of_label_arrays(numbers, tmp_path):
    np.savez(tmp_path / "labels.npz", positions=np.zeros((1, 2, 3)), numbers=numbers, energy=np.zeros(1))
    with pytest.raises(BadInput, match="atomic number"):
        label_frames(tmp_path / "labels.npz")
    whole = np.array([11.0, 17.0])
    np.savez(tmp_path / "labels.npz", positions=np.zeros((1, 2, 3)), numbers=whole, energy=np.zeros(1))
    assert label_frames(tmp_path / "labels.npz")[0].numbers.tolist() == [11, 17]


@pytest.mark.parametrize(
    ("column", "value", "problem"),
    [("momenta:R:3", "1e308 0 0", "momentum"), ("masses:R:1", "-1", "mass"), ("masses:R:1", "0", "mass"),
     ("masses:R:1", "1e300", "mass"), ("masses:R:1", "nan", "mass")],
)  # fmt: skip
def test_masses_and_momenta_that_no_run_survives_are_refused(column, value, problem, tmp_path):
    path = tmp_path / "odd.extxyz"
    rest = "0 0 0" if "momenta" in column else "35.45"
    text = xyz(f"Z:I:1:pos:R:3:{column}", "11", value).replace("17 2 2 2 1", f"17 2 2 2 {rest}")
    path.write_text(text)
    with pytest.raises(BadInput, match=problem):
        read_start(path)


@pytest.mark.parametrize("stray", ["_stray_tag 1", "_stray_tag", "#\n_foo", "data_other", "; text"])
def test_rows_of_a_cif_after_a_stray_line_are_not_lost(stray, tmp_path):
    path = tmp_path / "salt.cif"
    path.write_text(SALT.replace("STRAY\n", ""))
    assert read_structure(path).n_atoms == 6
    path.write_text(SALT.replace("STRAY", stray))
    with pytest.raises(BadInput, match=r"belong to no tag|does not end") as told:
        read_structure(path)
    assert "loop of atoms" in told.value.fix


def test_words_of_an_unquoted_title_are_no_rows(tmp_path):
    path = tmp_path / "salt.cif"
    path.write_text(SALT.replace("STRAY\n", "") + "_publ_author_name Ada Lovelace of 1 or 2 houses\n_x\n;\ntext\n;\n")
    assert read_structure(path).n_atoms == 6


PACK = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


@pytest.mark.parametrize("suffix", PACK)
@pytest.mark.parametrize("reader", READERS)
def test_a_file_that_unpacks_to_more_than_the_limit_is_refused(reader, suffix, tmp_path, monkeypatch):
    for place in ("io.import_trajectory", "export.frames", "labelling.label_files"):
        monkeypatch.setattr(f"mdistill.{place}.LARGEST_UNPACKED", 3_000_000)
    monkeypatch.setattr(checks, "LARGEST_FILE", 3_000_000)
    path = tmp_path / f"bomb.extxyz{suffix}"
    with PACK[suffix](path, "wb") as handle:
        handle.write(xyz("species:S:1:pos:R:3", "Na").encode() + b" " * 5_000_000)
    with pytest.raises(BadInput, match="unpacks to more than 3000000 bytes"):
        READERS[reader](path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(BadInput, match=r"unpack"):
        READERS[reader](path)
