"""T30: every kind of bad structure is refused with a message that names the file, the value, what is allowed and the fix."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule

from mdistill.crystals.checks import MOST_ATOMS
from mdistill.crystals.task_checks import check_bulk, check_elements, check_mobile
from mdistill.data.disorder import order
from mdistill.data.prepare import plan
from mdistill.data.settings import PrepareSettings
from mdistill.errors import BadInput, MdistillNotice
from mdistill.io.structures import read_structure, to_system

CIF = """data_test
_cell_length_a {a}
_cell_length_b {b}
_cell_length_c 5.0
_cell_angle_alpha {alpha}
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M '{group}'
{extra}loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
{sites}"""
SALT = "Na1 Na 0 0 0 1\nCl1 Cl 0.5 0.5 0.5 1\n"


def cif(sites: str = SALT, *, a: object = 4.0, b: object = 4.0, alpha: object = 90, group: str = "P 1", extra: str = "") -> str:
    return CIF.format(sites=sites, a=a, b=b, alpha=alpha, group=group, extra=extra)


def extxyz(rows: str, *, lattice: str = "4 0 0 0 4 0 0 0 4", pbc: str = "T T T", extra: str = "") -> str:
    count = len(rows.strip().splitlines())
    return f'{count}\nLattice="{lattice}" Properties=species:S:1:pos:R:3 pbc="{pbc}"{extra}\n{rows}'


def poscar(lattice: list[list[float]]) -> str:
    rows = "\n".join(" ".join(map(str, row)) for row in lattice)
    return f"salt\n1.0\n{rows}\nNa Cl\n1 1\nDirect\n0 0 0\n0.5 0.5 0.5\n"


def write(content: str | bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content) if isinstance(content, bytes) else path.write_text(content)  # type: ignore[func-returns-value]


def sparse(path: Path) -> None:
    with open(path, "wb") as handle:
        handle.truncate(2_000_000_000)


CARTESIAN = "Na 0 0 0\nCl 2 2 2\n"
BAD: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "not a structure": ("notes.txt", write("Dear all,\nthe meeting is at noon.\n"), "format is not recognised"),
    "not a structure, called cif": ("notes.cif", write("Dear all,\nthe meeting is at noon.\n"), "no data block with _atom_site"),
    "empty": ("empty.cif", write(""), "empty (0 bytes)"),
    "binary called cif": ("noise.cif", write(bytes(range(256)) * 20), "binary, although its name says cif"),
    "binary called xyz": ("noise.xyz", write(bytes(range(256)) * 20), "binary"),
    "binary without a name": ("noise.dat", write(bytes(range(256)) * 20), "binary"),
    "2 GB": ("huge.cif", sparse, "2000000000 bytes"),
    "absent": ("absent.cif", lambda path: None, "no such file"),
    "a folder": ("folder.cif", lambda path: path.mkdir(), "a folder"),
    "unknown extension": ("crystal.qqq", write("1 2 3\n4 5 6\n"), "format is not recognised"),
    "UTF-16": ("utf16.cif", write(cif().encode("utf-16")), "UTF-16"),
    "truncated POSCAR": ("POSCAR", write("salt\n1.0\n4 0 0\n0 4 0\n"), "not readable as vasp"),
    "truncated CIF": ("cut.cif", write(cif()[:120]), "no data block with _atom_site"),
    "no atoms": ("none.xyz", write("0\n\n"), "no"),
    "NaN coordinates": ("nan.extxyz", write(extxyz("Na 0 0 0\nCl nan 2 2\n")), "atom 2 has coordinates"),
    "infinite coordinates": ("inf.extxyz", write(extxyz("Na 0 0 inf\nCl 2 2 2\n")), "atom 1 has coordinates"),
    "NaN cell": ("cell.extxyz", write(extxyz(CARTESIAN, lattice="nan 0 0 0 4 0 0 0 4")), "the cell holds NaN"),
    "question mark in a CIF": ("open.cif", write(cif(a="?")), "_cell_length_a is '?'"),
    "overlap": ("overlap.extxyz", write(extxyz("Na 0 0 0\nCl 0.3 0 0\nNa 0 0 2\nCl 0 2 2\n")), "0.300 Å apart"),
    "overlap across the boundary": (
        "edge.extxyz",
        write(extxyz("Na 0.1 0 0\nCl 3.9 0 0\nNa 2 0 2\nCl 2 2 2\n")),
        "0.200 Å apart",
    ),
    "CIF site listed twice": ("twice.cif", write(cif("Na1 Na 0 0 0 1\nNa2 Na 0 0 0 1\n" + SALT[15:])), "sum to 2"),
    "merged CIF sites": ("merged.cif", write(cif("Na1 Na 0 0 0 1\nNa2 Na 0.02 0 0 1\n" + SALT[15:])), "apart"),
    "split sites too full": (
        "split.cif",
        write(cif("Na1 Na 0 0 0 0.7\nNa2 Na 0.09 0 0 0.7\n" + SALT[15:])),
        "split sites must have",
    ),
    "occupancy above one": ("over.cif", write(cif("Na1 Na 0 0 0 1.2\n" + SALT[15:])), "occupancy of Na1 is 1.2"),
    "mixed site above one": ("mixed.cif", write(cif("Na1 Na 0 0 0 0.7\nK1 K 0 0 0 0.7\n" + SALT[15:])), "sum to 1.4"),
    "zero volume": ("flat.extxyz", write(extxyz(CARTESIAN, lattice="4 0 0 0 4 0 4 4 0")), "volume"),
    "zero lattice vector": ("line.extxyz", write(extxyz(CARTESIAN, lattice="4 0 0 0 4 0 0 0 0")), "length 0 Å"),
    "cell far too small": (
        "tiny.vasp",
        write(poscar([[0.026, 0, 0], [0, 0.026, 0], [0, 0, 0.026]])),
        "2 atoms in a cell of 1.76e-05 Å³",
    ),
    "lattice vector far too short": ("short.extxyz", write(extxyz(CARTESIAN, lattice="4 0 0 0 4 0 0 0 0.01")), "length 0.01 Å"),
    "negative cell length": ("minus.cif", write(cif(a=-4.0)), "enclose no volume"),
    "impossible angles": ("angle.cif", write(cif(alpha=180)), "enclose no volume"),
    "left-handed": ("POSCAR_left", write(poscar([[0, 4, 0], [4, 0, 0], [0, 0, 4]])), "left-handed"),
    "very skewed": ("POSCAR_skew", write(poscar([[4, 0, 0], [80, 4, 0], [80, 80, 4]])), "very skewed"),
    "nanometres": (
        "nm.extxyz",
        write(extxyz("Na 0 0 0\nCl 0.28 0 0\nNa 0.28 0.28 0\nCl 0 0.28 0\n", lattice=".56 0 0 0 .56 0 0 0 .56")),
        "nm",
    ),
    "Bohr": (
        "bohr.extxyz",
        write(extxyz("P 0 0 0\nO 2.8 0 0\nLi 5.5 5.5 5.5\nO 0 0 2.8\n", lattice="11 0 0 0 11 0 0 0 11")),
        "Bohr",
    ),
    "unknown element": ("xx.cif", write(cif("Xx1 Xx 0 0 0 1\n" + SALT[15:])), "unknown element 'Xx'"),
    "ambiguous label": (
        "cl.cif",
        write(cif().replace("_atom_site_type_symbol\n", "").replace("Na1 Na", "NA1").replace("Cl1 Cl", "CL1")),
        "could be Na or N",
    ),
    "space group not understood": ("group.cif", write(cif(group="Q 9 9 9")), "space group 'Q 9 9 9' is not understood"),
    "duplicate CIF key": ("keys.cif", write(cif(extra="_cell_length_a 5.0\n")), "_cell_length_a is given twice"),
    "duplicate extxyz key": ("keys.extxyz", write(extxyz(CARTESIAN, extra=" energy=1.0 energy=2.0")), "energy is given twice"),
    "a million atoms, announced": ("million.xyz", write("1000000\n\n" + "H 0 0 0\n" * 1000), "1000000 atoms"),
    "a million atoms, POSCAR": (
        "POSCAR_million",
        write(poscar([[4, 0, 0], [0, 4, 0], [0, 0, 4]]).replace("1 1\n", "500000 500000\n")),
        "1000000 atoms",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_structure_is_refused(case: str, tmp_path: Path, trust: Callable[..., None]) -> None:
    name, make, words = BAD[case]
    path = tmp_path / name
    make(path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(BadInput) as caught:
        read_structure(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value) and caught.value.allowed and caught.value.fix and caught.value.exit_status == 2
    assert sorted(tmp_path.iterdir()) == before
    trust(
        "T30",
        f"{case}: refused, naming file, value, allowed, fix",
        f"{caught.value.problem[:70]}",
        "BadInput, nothing written",
    )


def _refused(call: Callable[[], object], words: str, subject: Path) -> str:
    with pytest.raises(BadInput) as caught:
        call()
    assert words in str(caught.value) and str(subject) in str(caught.value)
    return caught.value.problem[:70]


def _slab(path: Path) -> Path:
    path.write_text(extxyz("Na 0 0 0\nCl 2 2 0\nNa 2 2 2.8\nCl 0 0 2.8\n", lattice="4 0 0 0 4 0 0 0 20"))
    return path


def test_slab_molecule_and_atom_are_no_bulk(tmp_path: Path, trust: Callable[..., None]) -> None:
    slab = _slab(tmp_path / "slab.extxyz")
    trust(
        "T30",
        "slab where bulk is needed",
        _refused(lambda: check_bulk(read_structure(slab)), "vacuum along lattice vector c", slab),
        "BadInput",
    )
    water = tmp_path / "water.xyz"
    water.write_text("3\n\nO 0 0 0\nH 0.96 0 0\nH -0.24 0.93 0\n")
    trust(
        "T30",
        "molecule where bulk is needed",
        _refused(lambda: check_bulk(read_structure(water)), "periodic only along", water),
        "BadInput",
    )
    atom = tmp_path / "atom.extxyz"
    atom.write_text(extxyz("Li 0 0 0\n", lattice="20 0 0 0 20 0 0 0 20"))
    with pytest.warns(MdistillNotice, match="gas of single atoms"):
        alone = read_structure(atom)
    found = _refused(lambda: plan(alone, PrepareSettings()), "a single atom", atom)
    trust("T30", "one atom in a box", found, "BadInput")


SCALED = {
    "POSCAR": lambda k: poscar([[4 * k, 0, 0], [0, 4 * k, 0], [0, 0, 4 * k]]),
    "POSCAR_factor": lambda k: poscar([[4, 0, 0], [0, 4, 0], [0, 0, 4]]).replace("\n1.0\n", f"\n{k}\n"),
    "salt.cif": lambda k: cif(a=4.0 * k, b=4.0 * k).replace("_length_c 5.0", f"_length_c {4.0 * k}"),
    "salt.extxyz": lambda k: extxyz(f"Na 0 0 0\nCl {2 * k} {2 * k} {2 * k}\n", lattice=f"{4 * k} 0 0 0 {4 * k} 0 0 0 {4 * k}"),
    "salt.xyz": lambda k: f"2\n\nNa 0 0 0\nCl {2 * k} {2 * k} {2 * k}\n",
    "salt.data": lambda k: (
        f"salt\n\n2 atoms\n2 atom types\n0 {4 * k} xlo xhi\n0 {4 * k} ylo yhi\n0 {4 * k} zlo zhi\n\nMasses\n\n1 22.99\n"
        f"2 35.45\n\nAtoms # atomic\n\n1 1 0 0 0\n2 2 {2 * k} {2 * k} {2 * k}\n"
    ),
}


@pytest.mark.parametrize("name", SCALED)
def test_a_salt_scaled_apart_is_not_read_without_a_word(name: str, tmp_path: Path, trust: Callable[..., None]) -> None:
    path = tmp_path / name
    path.write_text(SCALED[name](1.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error", MdistillNotice)
        assert read_structure(path).n_atoms == 2
    path.write_text(SCALED[name](1.8))
    _refused(lambda: read_structure(path), "lengths look like", path)
    path.write_text(SCALED[name](999.0))
    with pytest.warns(MdistillNotice, match=r"no atom has another within 7 Å: read as a gas .* check the scale factor"):
        far = read_structure(path)
    if all(far.pbc):
        found = _refused(lambda: check_bulk(far), "Å of vacuum along lattice vector", path)
        trust("T30", f"scale factor 999 ({name})", found, "a notice, and no bulk")


def test_a_solid_of_atoms_far_apart_and_layers_close_is_no_bulk(tmp_path: Path) -> None:
    path = tmp_path / "far.extxyz"
    bulk("Cu", a=14.0, cubic=True).repeat(2).write(path)
    with pytest.warns(MdistillNotice, match="gas of single atoms"):
        far = read_structure(path)
    _refused(lambda: check_bulk(far), "no atom has another within 7 Å", path)


def test_a_molecule_scaled_apart_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "methane.xyz"
    methane = molecule("CH4")
    methane.write(path)
    assert read_structure(path).n_atoms == 5
    methane.positions *= 5.0
    methane.write(path)
    _refused(lambda: read_structure(path), "lengths look like another unit", path)


@pytest.mark.parametrize("sound", ["molecule in a box", "gas of molecules", "slab", "isolated atom", "argon gas"])
def test_sound_thin_structures_are_read(sound: str, tmp_path: Path) -> None:
    water = molecule("H2O", vacuum=15.0)
    far = Atoms("Ar4", positions=30.0 * np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]), cell=60.0 * np.eye(3), pbc=True)
    atoms = {
        "molecule in a box": water, "gas of molecules": water.repeat((2, 2, 2)), "slab": fcc111("Cu", (2, 2, 3), vacuum=20.0),
        "isolated atom": Atoms("Li"), "argon gas": far,
    }[sound]  # fmt: skip
    atoms.pbc, atoms.info = sound != "isolated atom", {}
    path = tmp_path / "thin.extxyz"
    atoms.write(path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert read_structure(path).n_atoms == len(atoms)
    noticed = [str(one.message) for one in caught if issubclass(one.category, MdistillNotice)]
    assert len(noticed) == (sound == "argon gas"), noticed


def test_element_mobile_ion_and_size(tmp_path: Path, trust: Callable[..., None]) -> None:
    path = tmp_path / "salt.cif"
    path.write_text(cif())
    salt = read_structure(path)
    found = _refused(lambda: check_elements(salt, {3, 17}, "sevennet-0"), "Na is not known to sevennet-0", path)
    trust("T30", "element the teacher does not know", found, "BadInput")
    check_elements(salt, set(), "any")
    found = _refused(lambda: check_mobile(salt, "Li"), "no mobile ion Li in NaCl", path)
    trust("T30", "no mobile ion", found, "BadInput")
    check_mobile(salt, "Na")
    found = _refused(lambda: plan(salt, PrepareSettings(cutoff=4.9, max_atoms=10)), "atoms in the 3×3×2 supercell", path)
    trust("T30", "supercell larger than max_atoms", found, "BadInput")


def test_charge_not_neutral(tmp_path: Path, trust: Callable[..., None]) -> None:
    path = tmp_path / "charged.cif"
    path.write_text(cif("Li1 Li 0 0 0 0.5\nLa1 La 0.5 0.5 0.5 1\nF1 F 0.5 0 0 1\n"))
    found = _refused(lambda: order(read_structure(path)), "not neutral", path)
    trust("T30", "charge not neutral", found, "BadInput")


def test_partial_occupancy_never_becomes_full(tmp_path: Path, trust: Callable[..., None]) -> None:
    path = tmp_path / "half.cif"
    path.write_text(cif("Na1 Na 0 0 0 0.5\nNa2 Na 0.5 0 0 0.5\nCl1 Cl 0.5 0.5 0.5 1\n"))
    crystal = read_structure(path)
    assert crystal.formula == "NaCl"
    found = _refused(lambda: to_system(crystal), "disordered: 2 of 3 sites", path)
    trust("T30", "partial occupancy where whole atoms are needed", found, "BadInput")


@pytest.mark.parametrize("case", ["CRLF", "old Mac line ends", "UTF-8 mark", "Latin-1", "path with spaces and é"])
def test_harmless_oddities_work(case: str, tmp_path: Path, trust: Callable[..., None]) -> None:
    path = tmp_path / ("dossier é à/mon cristal @1.cif" if "path" in case else "salt.cif")
    path.parent.mkdir(exist_ok=True)
    text = cif(extra="# Gr\u00fc\u00dfe\n" if case == "Latin-1" else "")
    content = {
        "CRLF": text.replace("\n", "\r\n").encode(),
        "old Mac line ends": text.replace("\n", "\r").encode(),
        "UTF-8 mark": b"\xef\xbb\xbf" + text.encode(),
        "Latin-1": text.encode("latin-1"),
    }.get(case, text.encode())
    path.write_bytes(content)
    crystal = read_structure(path)
    assert crystal.composition == {11: 1.0, 17: 1.0}
    trust("T30", f"{case} is read", "read", "same structure")


def test_crlf_poscar_and_extxyz(tmp_path: Path) -> None:
    for name, text in {"POSCAR": poscar([[4, 0, 0], [0, 4, 0], [0, 0, 4]]), "a b.extxyz": extxyz(CARTESIAN)}.items():
        (tmp_path / name).write_bytes(text.replace("\n", "\r\n").encode())
        assert read_structure(tmp_path / name).composition == {11: 1.0, 17: 1.0}


def test_deuterium_and_tritium(tmp_path: Path, trust: Callable[..., None]) -> None:
    path = tmp_path / "ice.cif"
    path.write_text(cif("O1 O 0 0 0 1\nD1 D 0.24 0 0 1\nT1 T 0 0.24 0 1\n"))
    crystal = read_structure(path)
    assert crystal.composition == {1: 2.0, 8: 1.0}
    assert any("D is read as hydrogen" in note for note in crystal.notes) and any("T is read" in note for note in crystal.notes)
    trust("T30", "D and T", crystal.notes[0], "read as H, with a note")


@pytest.mark.planted
def test_ase_alone_would_fill_the_sites(tmp_path: Path, trust: Callable[..., None]) -> None:
    """The trap this reader closes: ASE shows the half-occupied sites as whole atoms; `from_atoms` must undo it."""
    import ase.io

    from mdistill.io.structures import from_atoms

    path = tmp_path / "half.cif"
    path.write_text(cif("Na1 Na 0 0 0 0.5\nNa2 Na 0.5 0 0 0.5\nCl1 Cl 0.5 0.5 0.5 1\n"))
    atoms = ase.io.read(path)
    filled = {int(n): float(np.count_nonzero(atoms.numbers == n)) for n in set(atoms.numbers.tolist())}
    assert filled != read_structure(path).composition
    assert from_atoms(atoms).composition == read_structure(path).composition
    trust("T30", "ASE fills half-occupied sites", str(filled), "our reader does not", planted=True)


def test_limit_is_checked_for_formats_that_announce_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from ase.build import bulk

    from mdistill.crystals import checks

    path = tmp_path / "copper.traj"
    bulk("Cu", cubic=True).repeat(2).write(path)
    assert len(read_structure(path).sites) == 32 < MOST_ATOMS
    monkeypatch.setattr(checks, "MOST_ATOMS", 31)
    with pytest.raises(BadInput, match="32 atoms"):
        read_structure(path)
