"""Elements of files that name types, isotopes or masses; runs that overlap; one sublattice alone."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from mdistill.errors import BadInput, MdistillNotice
from mdistill.export.frames import read_frames
from mdistill.export.start import read_start
from mdistill.io.import_trajectory import read_trajectory
from mdistill.io.structures import read_atoms, read_structure
from mdistill.labelling.label_files import Keys
from mdistill.labelling.label_files import read_frames as label_frames
from mdistill.labelling.settings import LabelFileSettings
from unit.test_import_labels import OUTCAR, VASPRUN

DATA = """LAMMPS data

2 atoms
2 atom types
0 4 xlo xhi
0 4 ylo yhi
0 4 zlo zhi

{masses}
Atoms # atomic

1 1 0 0 0
2 2 2 2 2
"""
MASSES = "Masses\n\n1 22.98977 # Na\n2 35.453 # Cl\n"


def walk(count: int = 40, *, seed: int = 0) -> np.ndarray:
    """[frame, atom, 3] Å: 2 × 2 × 2 atoms 3 Å apart that tremble."""
    sites = 3.0 * np.stack(np.meshgrid(*[np.arange(2)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    return sites + np.cumsum(0.02 * np.random.default_rng(seed).standard_normal((count, 8, 3)), axis=0)


def dump(path: Path, frames: np.ndarray, steps: list[int], *, element: bool = False) -> Path:
    """A LAMMPS dump; types 1 2 3 1 2 3 1 2."""
    symbols = {1: " Li", 2: " S", 3: " P"}
    text = ""
    for step, places in zip(steps, frames, strict=True):
        columns = "id type element x y z" if element else "id type x y z"
        text += (
            f"ITEM: TIMESTEP\n{step}\nITEM: NUMBER OF ATOMS\n8\nITEM: BOX BOUNDS pp pp pp\n0 6\n0 6\n0 6\nITEM: ATOMS {columns}\n"
        )
        for k, (x, y, z) in enumerate(places):
            kind = 1 + k % 3
            text += f"{k + 1} {kind}{symbols[kind] if element else ''} {x:.6f} {y:.6f} {z:.6f}\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def test_types_of_a_dump_are_no_atomic_numbers(tmp_path: Path) -> None:
    path = dump(tmp_path / "types.lammpstrj.gz", walk(5), [0, 50, 100, 150, 200])
    with pytest.raises(BadInput, match=r"types \(1, 2, …\), no elements") as refused:
        read_trajectory(path, time_step_fs=100.0)
    assert "--elements" in refused.value.fix
    with pytest.raises(BadInput, match="2 elements given .*, 3 types"):
        read_trajectory(path, time_step_fs=100.0, elements=("Li", "S"))
    with pytest.raises(BadInput, match="types"):
        read_structure(path)
    named = read_trajectory(path, time_step_fs=100.0, elements=("Li", "S", "P")).trajectory
    assert named.numbers.tolist() == [3, 16, 15, 3, 16, 15, 3, 16]


def test_elements_of_a_dump_win_and_symbols_given_in_vain_are_told(tmp_path: Path) -> None:
    path = dump(tmp_path / "named.lammpstrj", walk(5), [0, 50, 100, 150, 200], element=True)
    found = read_trajectory(path, time_step_fs=100.0, elements=("Na", "O", "C"))
    assert found.trajectory.numbers.tolist()[:3] == [3, 16, 15]
    assert any("--elements is not used" in note for note in found.notes)


@pytest.mark.parametrize("name", ["nacl.data", "nacl.lmp", "data.nacl", "nacl.lammps-data"])
def test_lammps_data_under_its_usual_names(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(DATA.format(masses=MASSES))
    crystal = read_structure(path)
    assert crystal.formula == "NaCl" and crystal.volume == pytest.approx(64.0)


@pytest.mark.parametrize(("masses", "problem"), [("", "no masses"), ("Masses\n\n1 1.0\n2 14.5\n", "which no element has")])
def test_lammps_data_that_does_not_tell_elements(tmp_path: Path, masses: str, problem: str) -> None:
    path = tmp_path / "reduced.data"
    path.write_text(DATA.format(masses=masses))
    with pytest.raises(BadInput, match=problem):
        read_structure(path)


def test_deuterium_in_every_format(tmp_path: Path) -> None:
    poscar = "DCl\n1.0\n4 0 0\n0 4 0\n0 0 4\nD Cl\n1 1\nDirect\n0 0 0\n0.32 0 0\n"
    extxyz = '2\nLattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3 pbc="T T T"\nD 0 0 0\nCl 1.28 0 0\n'
    old = "D Cl\n1.0\n4 0 0\n0 4 0\n0 0 4\n1 1\nDirect\n0 0 0\n0.32 0 0\n"
    for name, text in (("POSCAR", poscar), ("POSCAR_4", old), ("d.extxyz", extxyz), ("d.xyz", "2\nDCl\nD 0 0 0\nCl 1.28 0 0\n")):
        path = tmp_path / name
        path.write_text(text)
        crystal = read_structure(path)
        assert crystal.composition == {1: 1.0, 17: 1.0} and any("D is read as hydrogen" in note for note in crystal.notes)
    path = tmp_path / "run.extxyz"
    path.write_text(extxyz + extxyz.replace("1.28", "1.30"))
    found = read_trajectory(path, time_step_fs=1.0)
    assert found.trajectory.numbers.tolist() == [1, 17] and any("D is read as hydrogen" in note for note in found.notes)


def test_heavy_hydrogen_has_its_mass_where_masses_matter(tmp_path: Path) -> None:
    """Conversion and starts of simulations; a mass that the file states itself stays."""
    poscar = "DTCl\n1.0\n4 0 0\n0 4 0\n0 0 4\nD T Cl\n1 1 1\nDirect\n0 0 0\n0.32 0 0\n0.6 0 0\n"
    head = 'Lattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3'
    extxyz = f"3\n{head}\nD 0 0 0\nT 1.28 0 0\nCl 2.4 0 0\n"
    dump = "ITEM: TIMESTEP\n0\nITEM: NUMBER OF ATOMS\n3\nITEM: BOX BOUNDS pp pp pp\n0 4\n0 4\n0 4\n"
    dump += "ITEM: ATOMS id type x y z element\n1 1 0 0 0 D\n2 2 1.28 0 0 T\n3 3 2.4 0 0 Cl\n"
    for name, text in (("POSCAR", poscar), ("d.extxyz", extxyz), ("d.lammpstrj", dump)):
        (tmp_path / name).write_text(text)
        with pytest.warns(MdistillNotice) as told:
            frames = read_frames(tmp_path / name)
        assert all(any(words in str(one.message) for one in told) for words in ("D is read as hydrogen of 2.014 u", "3.016 u"))
        assert frames.numbers.tolist() == [1, 1, 17] and frames.masses[:2].tolist() == [2.014, 3.016], name
        with pytest.warns(MdistillNotice):
            start = read_start(tmp_path / name)
        assert start.masses is not None and start.masses[:2].tolist() == [2.014, 3.016], name
    own = f"2\n{head}:masses:R:1\nD 0 0 0 2.0\nCl 1.28 0 0 35.0\n"
    (tmp_path / "own.extxyz").write_text(own)
    with pytest.warns(MdistillNotice):
        assert read_frames(tmp_path / "own.extxyz").masses.tolist() == [2.0, 35.0]
    labelled = extxyz.replace("pos:R:3", "pos:R:3:forces:R:3 energy=-1.0").replace(" 0 0\n", " 0 0 0.1 0 0\n")
    (tmp_path / "labels.extxyz").write_text(labelled)
    found = label_frames(tmp_path / "labels.extxyz", LabelFileSettings(), Keys())
    assert found[0].numbers.tolist() == [1, 1, 17]


def test_deuterium_in_xdatcar(tmp_path: Path) -> None:
    head = "DCl\n1.0\n4 0 0\n0 4 0\n0 0 4\n{}\n1 1\n"
    frames = "".join(f"Direct configuration= {k}\n0 0 0\n0.{32 + k} 0 0\n" for k in (1, 2, 3))
    path = tmp_path / "XDATCAR"
    for symbols, elements in (("D Cl", ()), ("A B", ("H", "Cl"))):
        path.write_text(head.format(symbols) + frames)
        found = read_trajectory(path, time_step_fs=1.0, elements=elements)
        assert found.trajectory.numbers.tolist() == [1, 17]
        assert any("D is read as hydrogen" in note for note in found.notes) == (symbols == "D Cl")


def test_a_run_restarted_from_a_checkpoint_is_cut_where_the_next_one_begins(tmp_path: Path) -> None:
    """Steps 0 … 950 and 500 … 1450: 30 frames of one walk, none twice."""
    whole = walk(30)
    steps = [50 * k for k in range(30)]
    before, after = whole[:20].copy(), whole[10:]
    before[11:] += 0.3 * np.random.default_rng(1).standard_normal(before[11:].shape)
    first = dump(tmp_path / "1.lammpstrj", before, steps[:20], element=True)
    second = dump(tmp_path / "2.lammpstrj", after, steps[10:], element=True)
    found = read_trajectory([first, second], time_step_fs=100.0)
    assert len(found.trajectory.times) == 30
    assert np.allclose(found.trajectory.positions.numpy(), whole, atol=1e-5)
    assert any("frames from step 500 on (10) are left out" in note for note in found.notes)


def test_a_restart_inside_one_file_is_cut_as_well(tmp_path: Path) -> None:
    whole, steps = walk(12), [50 * k for k in range(12)]
    path = dump(tmp_path / "run.lammpstrj", whole[[*range(8), *range(5, 12)]], steps[:8] + steps[5:], element=True)
    found = read_trajectory(path, time_step_fs=100.0)
    assert np.allclose(found.trajectory.positions.numpy(), whole, atol=1e-5)
    assert any("3 frames before its restarts are left out" in note for note in found.notes)


def test_runs_whose_counters_start_anew_are_joined_as_they_are(tmp_path: Path) -> None:
    whole, steps = walk(20), [50 * k for k in range(10)]
    files = [dump(tmp_path / f"{k}.lammpstrj", whole[10 * k : 10 * k + 10], steps, element=True) for k in (0, 1)]
    assert len(read_trajectory(files, time_step_fs=100.0).trajectory.times) == 20


def test_one_sublattice_alone_is_no_matter_of_units(tmp_path: Path) -> None:
    """O 2.7 Å apart, as in a fluorite oxide: 2.05 times the sum of radii, yet in Å."""
    from ase import Atoms
    from ase.io import write

    frames = [Atoms("O8", positions=0.9 * places, cell=[5.4] * 3, pbc=True) for places in walk(5)]
    path = tmp_path / "oxygen.extxyz"
    write(path, frames)
    found = read_trajectory(path, time_step_fs=100.0)
    assert found.trajectory.positions.shape == (5, 8, 3)
    (note,) = [note for note in found.notes if "Bohr" in note]
    assert "one sublattice" in note and "0.529177" in note and "3.57 times too large" in note


def test_lammps_units_are_those_that_the_file_names(tmp_path: Path) -> None:
    """Velocities of real units are a thousand times those of metal units; other units are refused; without any, a note says so."""
    data = DATA.format(masses=MASSES) + "\nVelocities\n\n1 0.01 0 0\n2 0 0.02 0\n"
    named = {"real": "LAMMPS data file via write_data, version 2 Aug 2023, timestep = 0, units = real", "none": "LAMMPS data"}
    for name, head in named.items():
        (tmp_path / f"{name}.data").write_text(data.replace("LAMMPS data", head, 1))
    real = read_frames(tmp_path / "real.data").momenta
    with pytest.warns(MdistillNotice, match="metal units"):
        metal = read_frames(tmp_path / "none.data").momenta
    assert (
        real is not None and metal is not None and np.allclose(real, 1000.0 * metal) and real[0, 0, 0] == pytest.approx(0.2298977)
    )
    assert any("metal units" in note for note in read_structure(tmp_path / "none.data").notes)
    assert not any("metal units" in note for note in read_structure(tmp_path / "real.data").notes)
    for head in ("LAMMPS data, units = si", "LAMMPS data (units lj)"):
        (tmp_path / "other.data").write_text(data.replace("LAMMPS data", head, 1))
        for reader in (read_structure, read_frames):
            with pytest.raises(BadInput, match="is in LAMMPS units"):
                reader(tmp_path / "other.data")


TYPES = """<array name="atomtypes" ><set>
<rc><c>   1</c><c>H </c><c>  {mass}</c><c>  1.00000000</c><c>  PAW_PBE H 15Jun2001 </c></rc>
<rc><c>   1</c><c>Li</c><c>  6.94100000</c><c>  1.00000000</c><c>  PAW_PBE Li 17Jan2003 </c></rc></set></array>"""


def vasp_file(folder: Path, name: str, mass: str) -> Path:
    text = {"vasprun.xml": VASPRUN, "OUTCAR": OUTCAR}[name]
    text = text.replace("<rc><c>Li</c><c>1</c></rc>", "<rc><c>H </c><c>1</c></rc>", 1)
    text = text.replace("2.00000      2.00000      2.10000", "2.00000      0.00000      0.00000")  # as close as bonds are
    text = text.replace("0.5 0.5 0.525", "0.5 0 0")
    text = text.replace("</set></array></atominfo>", f"</set></array>{TYPES.format(mass=mass)}</atominfo>")
    line = " POTCAR:    PAW_PBE Li 01Jan2000\n"
    text = text.replace(line, line.replace("Li", "H") + line)
    text = text.replace("ions per type =               2", "ions per type =               1   1")
    text = text.replace("   ISPIN  =", f"  Mass of Ions in am\n   POMASS =   {float(mass):.2f}  6.94\n   ISPIN  =")
    (folder / name).write_text(text)
    return folder / name


@pytest.mark.parametrize("name", ["vasprun.xml", "OUTCAR"])
def test_the_mass_of_deuterium_in_files_of_vasp_is_used(name: str, tmp_path: Path) -> None:
    path = vasp_file(tmp_path, name, "2.01400000")
    heavy, _ = read_atoms(path, {"vasprun.xml": "vasp-xml", "OUTCAR": "vasp-out"}[name], -1)
    assert heavy.numbers.tolist() == [1, 3] and heavy.get_masses() == pytest.approx([2.014, 6.941], abs=0.005)
    masses = read_start(path).masses
    assert masses is not None and masses.tolist() == pytest.approx([2.014, 6.941], abs=0.005)
    assert read_frames(path).masses == pytest.approx([2.014, 6.941], abs=0.005)
    assert any("masses of the file are not the standard ones" in note for note in read_structure(path).unused)
    plain = vasp_file(tmp_path, name, "1.00000000")
    assert read_start(plain).masses is None and not read_structure(plain).unused


def test_masses_of_another_number_of_atoms_are_not_used(tmp_path: Path) -> None:
    path = vasp_file(tmp_path, "vasprun.xml", "2.01400000")
    path.write_text(path.read_text().replace("<c>   1</c><c>H </c>", "<c>999999999999</c><c>H </c>"))
    assert read_start(path).masses is None
