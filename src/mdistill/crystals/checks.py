"""Checks of a structure: the file, then the crystal.

`task_checks.py` has what a task needs. Each failed check raises `BadInput` with the file, the value, what is allowed and a fix.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import zlib
from pathlib import Path

import numpy as np

from mdistill.crystals.crystal import Crystal
from mdistill.errors import BadInput
from mdistill.notices import notify
from mdistill.units import BOHR

LARGEST_FILE = 200_000_000
"""Bytes; also the limit of what a compressed CIF may unpack to."""
LARGEST_UNPACKED = 2_000_000_000
"""Bytes that a compressed trajectory or label file may unpack to."""
MOST_ATOMS = 100_000
"""Largest number of sites; larger structures are rejected before they are parsed."""
CLOSEST = 0.5
"""Å; two whole atoms nearer than this cannot be meant."""
ALONE = 7.0
"""Å; an atom farther than this from every other is not bonded (caesium's are 5.2 Å apart)."""
SMALLEST_VOLUME = {1: 0.6}
"""Å³ an atom fills at least, by atomic number; 2.2 for all but hydrogen (carbon at 1 TPa fills 3)."""
LONGEST = 10_000.0
"""Å; largest component of a lattice vector or position."""
SHORTEST = 0.02
"""Å; shortest lattice vector, below that of a crystal in nm: a search has millions of images of an atom in a smaller cell."""
MOST_PAIRS = 1e8
"""Pairs of atoms near each other that a search finds at most."""
SMALLEST_SKEW = 0.05
"""Volume / (a·b·c) below which a cell counts as very skewed."""

READABLE = (
    "CIF, POSCAR/CONTCAR, extxyz, xyz, ASE .traj, vasprun.xml, LAMMPS data (nacl.data, data.nacl), or another that ASE reads"
)
_LAMMPS_DATA = re.compile(rb"(?m)^\s*\d+\s+atoms\b[\s\S]*^\s*\d+\s+atom types\b[\s\S]*\bxlo\s+xhi\b")

_OPENERS = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_UNSAFE = {"bundletrajectory", "mysql", "postgresql", "sqlite3", "json", "png", "eps", "pov", "x3d"}
FARTHEST = 1.6
"""Median distance of nearest neighbours over the sum of their covalent radii, above which lengths look like Bohr."""
_BOHR_AT_MOST = 3.0
"""The same ratio, above which the lengths of no structure in Bohr are (1.9 times those of a loose one)."""
_SCALE = "check the scale factor and the unit of the file"
_ALL_ALONE = (
    f"no atom has another within {ALONE:g} Å: read as a gas of single atoms. If a solid, liquid or molecule is meant, its "
    f"lengths are wrong: {_SCALE}"
)
_NOBLE = (2, 10, 18, 36, 54, 86)


def check_file(path: Path) -> str:
    """The format of a structure file ("cif" or ASE's name of it), after the checks that need no parsing.

    Raises:
        BadInput: No such file, a folder, empty, larger than LARGEST_FILE, UTF-16, binary, no known format, or more than
            MOST_ATOMS atoms announced.
    """
    if not path.exists():
        raise BadInput(path, "no such file", allowed=READABLE, fix="check the path; quote it if it holds spaces")
    if not path.is_file():
        raise BadInput(path, "a folder or device, not a file", allowed=READABLE, fix="name a file inside it")
    size = path.stat().st_size
    if size == 0:
        raise BadInput(path, "empty (0 bytes)", allowed=READABLE, fix="copy or export the file again")
    if size > LARGEST_FILE:
        fix = "cut out the one structure you need, or use `mdistill analyse`"
        raise BadInput(path, f"{size} bytes", allowed=f"at most {LARGEST_FILE} bytes", fix=fix)
    check_before_parsing(path, LARGEST_FILE)
    head = _head(path)
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise BadInput(
            path, "encoded as UTF-16", allowed="UTF-8 or ASCII text", fix=f"iconv -f UTF-16 -t UTF-8 '{path}' > new_file"
        )
    kind = _format(path, head)
    _refuse_huge(path, kind, head)
    return kind


def check_before_parsing(path: Path, most_bytes: int) -> None:
    """Checks of any file with atoms that another reader would read without a limit or a word.

    Raises:
        BadInput: A compressed file that cannot be unpacked or unpacks to more bytes, or an extended XYZ file whose atomic
            numbers are real numbers.
    """
    fix = "unpack it and cut out what you need" if path.suffix.lower() in _OPENERS else "write whole numbers: Z:I:1"
    if path.suffix.lower() in _OPENERS:
        total = 0
        try:
            with _OPENERS[path.suffix.lower()](path, "rb") as handle:  # type: ignore[operator]
                while (size := len(handle.read(1_000_000))) and total <= most_bytes:
                    total += size
        except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
            fix = "copy the file again"
            raise BadInput(path, f"cannot be unpacked ({error})", allowed="a whole compressed file", fix=fix) from error
        if total > most_bytes:
            raise BadInput(path, f"unpacks to more than {most_bytes} bytes", allowed=f"at most {most_bytes} bytes", fix=fix)
    second = "".join(_head(path).decode("latin-1").splitlines()[1:2])
    if real := re.search(r"(?i)\bproperties=\S*?\b(Z|numbers):R:", second):
        raise BadInput(path, f"its atomic numbers ({real[1]}) are real numbers", allowed="whole numbers, 1 to 118", fix=fix)


def whole_numbers(numbers: np.ndarray, path: object) -> np.ndarray:
    """Atomic numbers as integers; 0 for what is no element.

    Raises:
        BadInput: One that is not a whole number from 0 to 118.
    """
    numbers = np.asarray(numbers)
    if numbers.dtype.kind not in "iuf":
        raise BadInput(path, f"its atomic numbers are {numbers.dtype}", allowed="whole numbers, 1 to 118", fix="write numbers")
    bad = ~((numbers >= 0) & (numbers <= 118) & (numbers == np.round(numbers)))
    if bad.any():
        problem = (
            f"atom {int(np.argmax(bad.ravel())) + 1} has the atomic number {numbers[bad][0]:g} ({int(bad.sum())} such atoms)"
        )
        raise BadInput(path, problem, allowed="whole numbers, 1 to 118", fix="correct the atomic numbers in the file")
    return numbers.astype(np.int64)


def _format(path: Path, head: bytes) -> str:
    from ase.io.formats import UnknownFileTypeError, filetype, ioformats

    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() not in _OPENERS]
    if suffixes[-1:] in ([".cif"], [".mcif"]) or re.search(rb"(?mi)^\s*_cell_length_a\s", head):
        kind = "cif"
    elif _LAMMPS_DATA.search(head):
        kind = "lammps-data"
    else:
        try:
            kind = filetype(str(path), read=True)
        except (UnknownFileTypeError, UnicodeDecodeError):
            kind = "unknown"
    if kind not in ioformats or kind in _UNSAFE or not ioformats[kind].can_read:
        problem = "binary, and of no format that is recognised" if b"\0" in head else "its format is not recognised"
        fix = "give the file the extension of its format (.cif, .vasp, .xyz, .extxyz, .traj), or convert it with `ase convert`"
        raise BadInput(path, problem, allowed=READABLE, fix=fix)
    if b"\0" in head and (kind == "cif" or not ioformats[kind].isbinary):
        raise BadInput(path, f"binary, although its name says {kind}", allowed=READABLE, fix="export the structure again as text")
    return kind


def beginning(path: Path, count: int) -> str:
    """The first characters of a (compressed) file, decoded as well as can be."""
    return _head(path, count).decode("utf-8", errors="replace")


def _head(path: Path, count: int = 8192) -> bytes:
    opener = _OPENERS.get(path.suffix.lower(), open)
    try:
        with opener(path, "rb") as handle:  # type: ignore[operator]
            return bytes(handle.read(count))
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise BadInput(
            path, f"cannot be opened ({error})", allowed="a readable file", fix="check its permissions or copy it again"
        ) from error


def _refuse_huge(path: Path, kind: str, head: bytes) -> None:
    """Reject too many atoms, where the format states the number, and duplicate extxyz keys, before the file is parsed."""
    lines = head.decode("latin-1").splitlines()
    count = 0
    if kind in ("xyz", "extxyz"):
        count = int(lines[0]) if lines[0].strip().isdigit() else 0
        keys = re.findall(r"([A-Za-z_]\w*)\s*=", re.sub(r'"[^"]*"|\'[^\']*\'', "", lines[1] if len(lines) > 1 else ""))
        twice = [key for key in keys if keys.count(key) > 1]
        if twice:
            raise BadInput(
                path, f"the key {twice[0]} is given twice in line 2", allowed="each key once", fix="delete one of the two"
            )
    elif kind == "vasp":
        numbers = [line.split() for line in lines[5:7]]
        count = max((sum(map(int, words)) for words in numbers if words and all(w.isdigit() for w in words)), default=0)
    elif kind == "lammps-data":
        count_line = re.search(r"(?m)^\s*(\d+)\s+atoms", "\n".join(lines))
        count = int(count_line[1]) if count_line else 0
    if count > MOST_ATOMS:
        raise _too_many(path, count)


def _too_many(source: object, count: int) -> BadInput:
    allowed = f"at most {MOST_ATOMS} atoms"
    return BadInput(source, f"{count} atoms", allowed=allowed, fix="start from the unit cell; the supercell is built here")


def text_of(path: Path) -> str:
    """The text of a (compressed) file with any line ends, UTF-8 (with or without mark) or Latin-1."""
    opener = _OPENERS.get(path.suffix.lower(), open)
    with opener(path, "rb") as handle:  # type: ignore[operator]
        content = handle.read(LARGEST_FILE + 1)
    if len(content) > LARGEST_FILE:
        raise BadInput(path, "unpacks to more than the limit", allowed=f"at most {LARGEST_FILE} bytes", fix="check the file")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def check_crystal(crystal: Crystal, *, sublattice: bool = False) -> None:
    """Reject structures that no simulation can start from; called for every structure read.

    Args:
        crystal: The structure.
        sublattice: Whether it may be one sublattice alone, whose atoms are farther apart than bonds.
    Raises:
        BadInput: No atoms, too many, non-finite numbers, unknown elements, a flat, left-handed or very skewed cell,
            occupancies that sum to more than one, atoms on top of each other, or lengths in another unit. A gas of single
            atoms is accepted with a notice.
    """
    source = crystal.source
    if not crystal.sites:
        raise BadInput(source, "no atoms", allowed="at least one atom", fix="check that the file is complete")
    if len(crystal.sites) > MOST_ATOMS:
        raise _too_many(source, len(crystal.sites))
    if not np.isfinite(crystal.cell).all():
        problem = f"the cell holds NaN or infinity: {np.round(crystal.cell, 4).tolist()}"
        raise BadInput(source, problem, allowed="finite lengths in Å", fix="correct the cell")
    _check_lengths(crystal)
    _check_cell(crystal)
    bad = np.flatnonzero(~np.isfinite(crystal.fractional).all(axis=1))
    if len(bad):
        problem = f"atom {bad[0] + 1} has coordinates {crystal.fractional[bad[0]].tolist()} ({len(bad)} such atoms)"
        allowed = "finite coordinates"
        raise BadInput(source, problem, allowed=allowed, fix="correct the file; NaN often comes from a crashed relaxation")
    for site in crystal.sites:
        unknown = [n for n in site.occupancies if not 1 <= n <= 118]
        total = sum(site.occupancies.values())
        if unknown:
            problem = f"site {site.label!r} has no known element (atomic number {unknown[0]})"
            raise BadInput(source, problem, allowed="H to Og", fix="name the element")
        if total > 1.01 or min(site.occupancies.values()) < 0 or not total > 0:
            allowed, fix = "a sum above 0 and at most 1", "correct the occupancies, or delete the site that is listed twice"
            raise BadInput(source, f"the occupancies of site {site.label!r} sum to {total:.4g}", allowed=allowed, fix=fix)
    _check_distances(crystal, sublattice=sublattice)
    least = sum(SMALLEST_VOLUME.get(number, 2.2) * count for number, count in crystal.composition.items())
    if all(crystal.pbc) and 0.0 < crystal.volume < least:
        problem = f"{crystal.formula} in a cell of {crystal.volume:.3g} Å³: {crystal.volume / crystal.n_atoms:.2g} Å³ an atom"
        fix = "check the symmetry operations (axes, origin), coordinates listed twice, and the unit of the cell"
        raise BadInput(source, problem, allowed=f"at least {least:.3g} Å³ for these atoms", fix=fix)


def _check_lengths(crystal: Crystal) -> None:
    """Reject lengths that no structure has: they overflow in the neighbour search."""
    with np.errstate(all="ignore"):
        places = np.abs(crystal.positions if np.isfinite(crystal.fractional).all() else np.zeros(3))
    largest = {"a lattice vector": np.abs(crystal.cell).max(), "a coordinate": np.max(places, initial=0.0)}
    for name, size in largest.items():
        if not size <= LONGEST:
            problem, fix = f"{name} has a component of {size:g} Å", "check the scale factor, the cell and the coordinates"
            raise BadInput(crystal.source, problem, allowed=f"at most {LONGEST:g} Å", fix=fix)


def _check_cell(crystal: Crystal) -> None:
    cell, pbc = crystal.cell, np.array(crystal.pbc)
    lengths = np.linalg.norm(cell, axis=1)
    fix = "give three lattice vectors in Å that span a volume, or read the structure without periodicity"
    if (lengths[pbc] < SHORTEST).any():
        raise BadInput(
            crystal.source,
            f"periodic along a lattice vector of length {lengths[pbc].min():.3g} Å",
            allowed=f"at least {SHORTEST} Å",
            fix=fix,
        )
    if (lengths < 1e-3).any():
        return
    determinant = float(np.linalg.det(cell))
    ratio = determinant / float(np.prod(lengths))
    if abs(ratio) < 1e-6:
        raise BadInput(crystal.source, f"the cell has volume {abs(determinant):.3g} Å³", allowed="a volume above zero", fix=fix)
    if ratio < 0:
        raise BadInput(
            crystal.source,
            f"the cell is left-handed (determinant {determinant:.4g} Å³)",
            allowed="right-handed lattice vectors",
            fix="swap two lattice vectors and the same two fractional coordinates of every atom",
        )
    if ratio < SMALLEST_SKEW:
        problem, allowed = f"the cell is very skewed (volume is {ratio:.3g} of a·b·c)", f"at least {SMALLEST_SKEW}"
        raise BadInput(crystal.source, problem, allowed=allowed, fix="reduce the cell, for example with ase.build.niggli_reduce")


def perpendicular_heights(cell: np.ndarray) -> np.ndarray:
    """Distances (Å) between opposite faces of a cell: V / |a_j × a_k|."""
    return 1.0 / np.linalg.norm(np.linalg.inv(cell), axis=0)


def neighbour_pairs(crystal: Crystal, cutoff: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of sites i, j (both directions, all images) within the cutoff, and their distances (Å)."""
    from vesin import NeighborList

    cell = crystal.cell * np.array(crystal.pbc)[:, None]
    images = 4.0 / 3.0 * np.pi * cutoff**3 * len(crystal.sites) ** 2
    if all(crystal.pbc) and images > MOST_PAIRS * crystal.volume:
        problem = f"{len(crystal.sites)} atoms in a cell of {crystal.volume:.3g} Å³"
        raise BadInput(crystal.source, problem, allowed=f"less than {MOST_PAIRS:g} pairs within {cutoff:g} Å", fix=_SCALE)
    search = NeighborList(cutoff=cutoff, full_list=True)
    i, j, distance = search.compute(points=crystal.positions, box=cell, periodic=np.array(crystal.pbc), quantities="ijd")
    return i.astype(np.int64), j.astype(np.int64), distance


def _check_distances(crystal: Crystal, *, sublattice: bool) -> None:
    """Overlaps of whole atoms, and lengths that look like nm or Bohr."""
    from ase.data import covalent_radii

    occupied = np.array([sum(site.occupancies.values()) for site in crystal.sites])
    i, j, distance = neighbour_pairs(crystal, CLOSEST)
    over = np.flatnonzero(occupied[i] + occupied[j] > 1.01)
    radius = np.array([max(covalent_radii[n] for n in site.occupancies) for site in crystal.sites])
    shortest = _nearest_ratios(crystal, radius, occupied > 0.99)
    dense = crystal.volume < 1.0 * len(crystal.sites) or not all(crystal.pbc)
    if dense and len(shortest) and np.quantile(shortest, 0.9) < 0.35:
        raise _wrong_unit(crystal, float(np.median(shortest)), "nm", "multiply all lengths by 10 to get Å")
    if len(over):
        k = over[np.argmin(distance[over])]
        first, second = crystal.sites[i[k]].label, crystal.sites[j[k]].label
        raise BadInput(
            crystal.source,
            f"atoms {i[k] + 1} ({first}) and {j[k] + 1} ({second}) are {distance[k]:.3f} Å apart ({len(over) // 2} such pairs)",
            allowed=f"whole atoms at least {CLOSEST} Å apart (split sites must have occupancies that sum to at most 1)",
            fix="delete the duplicate, or state the occupancies of the split site",
        )
    longest = _nearest_ratios(crystal, radius, occupied > 0.0)
    if sublattice or (len(crystal.sites) == 1 and not any(crystal.pbc)):
        return
    if not len(longest):
        notify(f"{crystal.source}: {_ALL_ALONE}")
    elif (ratio := float(np.median(longest))) > FARTHEST and not all(n in _NOBLE for n in crystal.composition):
        unit, fix = (
            ("Bohr", f"multiply all lengths by {BOHR:.6f} to get Å") if ratio < _BOHR_AT_MOST else ("another unit", _SCALE)
        )
        raise _wrong_unit(crystal, ratio, unit, fix)


def sublattice_note(crystal: Crystal) -> list[str]:
    """A note where the distances of one sublattice alone would also fit lengths in Bohr."""
    from ase.data import covalent_radii

    radius = np.array([max(covalent_radii[n] for n in site.occupancies) for site in crystal.sites])
    ratios = _nearest_ratios(crystal, radius, np.ones(len(radius), dtype=bool))
    if not len(ratios) or np.median(ratios) <= FARTHEST or all(n in _NOBLE for n in crystal.composition):
        return []
    ratio, times = float(np.median(ratios)), BOHR**-2
    return [
        f"{crystal.source}: its atoms, of one element, are {ratio:.2f} times the sum of their covalent radii apart. This is read "
        f"as one sublattice in Å; if they are in Bohr, multiply them by {BOHR:.6f}: diffusivities are {times:.2f} times too large"
    ]


def _nearest_ratios(crystal: Crystal, radius: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Distance of each chosen site to its nearest chosen one over the sum of covalent radii, where it has one near."""
    reach = max(5.0 * float(np.median(radius)), ALONE)
    i, j, distance = neighbour_pairs(crystal, reach)
    chosen_pair = chosen[i] & chosen[j]
    nearest = np.full(len(radius), np.inf)
    np.minimum.at(nearest, i[chosen_pair], distance[chosen_pair] / (radius[i] + radius[j])[chosen_pair])
    return nearest[np.isfinite(nearest)]


def _wrong_unit(crystal: Crystal, ratio: float, unit: str, fix: str) -> BadInput:
    problem = f"the median nearest-neighbour distance is {ratio:.2f} times the sum of covalent radii: lengths look like {unit}"
    return BadInput(crystal.source, problem, allowed="lengths in Å (ratio between 0.35 and 1.6)", fix=fix)
