"""Which element an atom of a file is: isotopes, LAMMPS types, masses."""

from __future__ import annotations

import re
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mdistill.crystals.checks import beginning, text_of
from mdistill.errors import BadInput

if TYPE_CHECKING:
    from ase import Atoms

ISOTOPES = {"D": "H", "T": "H"}
"""Symbols that files use for isotopes, and the element."""
ISOTOPE_NOTE = "{} is read as hydrogen: same forces, but dynamics will use the mass of ¹H"
_MASS_NOTE = "{} is read as hydrogen of {:g} u: same forces; only `mdistill simulate` and `convert` use this mass"
_MASSES = {"D": 2.014, "T": 3.016}
"""u."""
NO_UNITS = "{}: its velocities are read in LAMMPS's metal units (Å/ps): the file names none"
_UNITS = "lj|real|metal|si|cgs|electron|micro|nano"
_START = 10_000_000
"""Bytes of a file in which isotopes are looked for."""
_MASS_ERROR = 0.02
"""Largest relative difference of a mass from the standard one by which an element is recognised."""


def without_isotopes(path: Path, kind: str) -> tuple[str | StringIO, list[str]]:
    """What ASE shall read in place of a file that names D or T (POSCAR, xyz, extxyz, LAMMPS dump); and notes.

    The text has other symbols in their place, which `with_isotopes` turns to hydrogen with the isotope's mass.
    """
    dump = kind == "lammps-dump-text"
    start = beginning(path, _START) if dump or kind in ("vasp", "xyz", "extxyz") else ""
    if not re.search(r"(?m)^\s*(?:[A-Z][a-z]?\s+)*[DT](?!\S)" if not dump else r"\s[DT]\s", start):
        return str(path), []
    text = text_of(path)
    if kind == "vasp":
        lines = text.split("\n")
        named = [k for k in (0, 5) if k < len(lines) and re.fullmatch(r"\s*(?:[A-Z][a-z]?\S*\s*)+", lines[k])]
        found = {word for k in named for word in lines[k].split() if word in ISOTOPES}
        for k in named:
            lines[k] = re.sub(r"(?<!\S)[DT](?!\S)", _stand_in, lines[k])
        text = "\n".join(lines)
    else:
        name = r"(?m)(?<=\s)[DT](?=\s+[-+.\d]|\s*$)" if dump else r"(?m)^\s*[DT](?=\s+[-+.\d])"
        found = {word.strip() for word in re.findall(name, text)}
        text = re.sub(name, _stand_in, text)
    return (StringIO(text), [_MASS_NOTE.format(s, _MASSES[s]) for s in sorted(found)]) if found else (str(path), [])


def _stand_in(found: re.Match[str]) -> str:
    return found[0].replace("D", "Og").replace("T", "Ts")


def with_isotopes(atoms: Atoms) -> Atoms:
    """The atoms of a text by `without_isotopes`, changed in place: hydrogen, with the isotope's mass where the file has none."""
    masses, own = atoms.get_masses(), atoms.has("masses")
    for stand_in, symbol in ((118, "D"), (117, "T")):
        masses[atoms.numbers == stand_in] = _MASSES[symbol] if not own else masses[atoms.numbers == stand_in]
        atoms.numbers[atoms.numbers == stand_in] = 1
    atoms.set_masses(masses)
    return atoms


def with_vasp_masses(images: Sequence[Atoms], path: Path, kind: str) -> None:
    """Set the masses of a vasprun.xml or OUTCAR (POMASS) where one is not the element's, as for deuterium; ASE reads none.

    Changed in place. Nothing where the file states masses for another number of atoms.
    """
    from ase.data import atomic_masses

    if kind not in ("vasp-xml", "vasp-out") or not images:
        return
    head = beginning(path, _START)
    if kind == "vasp-xml":
        table = re.search(r'(?s)<array name="atomtypes"\s*>(.*?)</array>', head)
        rows = re.findall(r"<rc>\s*<c>\s*(\d{1,9})\s*</c>\s*<c>[^<]*</c>\s*<c>\s*(\d+\.?\d*)\s*</c>", table[1] if table else "")
    else:
        each, stated = re.search(r"ions per type =([ \d]+)", head), re.search(r"Mass of Ions in am\s+POMASS =([ \d.]+)", head)
        rows = list(zip(each[1].split(), re.findall(r"\d+\.\d\d", stated[1]), strict=False)) if each and stated else []
    counts = [int(count[:9]) for count, _ in rows]
    for atoms in images:
        if sum(counts) == len(atoms):
            masses = np.repeat([float(mass) for _, mass in rows], counts)
            if (np.abs(masses / np.asarray(atomic_masses)[atoms.numbers] - 1.0) > _MASS_ERROR).any():
                atoms.set_masses(masses)


def lammps_names_elements(path: Path, kind: str, elements: Sequence[str] = ()) -> bool:
    """Whether a LAMMPS file names elements or masses itself; those of a file that does not must be given.

    Raises:
        BadInput: A dump without a column element (and without symbols given), or a data file without masses.
    """
    if kind == "lammps-data":
        named = bool(re.search(r"(?m)^\s*(Masses|Atom Type Labels)\b", text_of(path)))
        what, allowed, fix = "masses", "a data file with the section Masses", "add the section Masses, which tells the elements"
    else:
        columns = re.search(r"(?m)^ITEM: ATOMS (.*)$", beginning(path, 8192))
        named = not columns or bool({"element", "mass"} & set(columns[1].split()))
        what, allowed = "elements", "a dump with the column element, or --elements"
        fix = "add the column element to the dump, or name the elements of types 1, 2, … with --elements Li P S"
    if not named and not elements:
        raise BadInput(path, f"its atoms have types (1, 2, …), no {what}", allowed=allowed, fix=fix)
    return named


def lammps_units(path: Path) -> str | None:
    """The units that a LAMMPS dump (ITEM: UNITS) or the first line of a data file names; None where it names none.

    Raises:
        BadInput: Units other than metal and real: lengths may not be in Å.
    """
    head = beginning(path, 8192)
    found = re.search(rf"ITEM: UNITS\s+({_UNITS})\b", head) or re.match(rf"[^\n]*\bunits\s*[=:]?\s*({_UNITS})\b", head)
    if found is not None and found[1] not in ("metal", "real"):
        fix = "convert it to metal units, or write them in LAMMPS"
        raise BadInput(path, f"is in LAMMPS units {found[1]!r}", allowed="metal or real", fix=fix)
    return None if found is None else found[1]


def numbers_of_types(path: Path, types: np.ndarray, elements: Sequence[str]) -> np.ndarray:
    """Atomic numbers of LAMMPS types 1, 2, … by the symbols given.

    Raises:
        BadInput: An unknown symbol, or fewer symbols than types.
    """
    from ase.data import atomic_numbers

    for symbol in elements:
        if symbol not in atomic_numbers:
            fix = "give one symbol per type, such as Li P S Cl"
            raise BadInput("--elements", f"{symbol!r}", allowed="element symbols", fix=fix)
    if types.dtype.kind not in "iu" or int(types.min()) < 1:
        problem = f"atoms of type {types.min()}"
        raise BadInput(path, problem, allowed="types 1, 2, …", fix="check the file: LAMMPS counts types from 1")
    if int(types.max()) > len(elements):
        given = f"{len(elements)} element{'s' * (len(elements) != 1)} given ({' '.join(elements)})"
        problem = f"{given}, {int(types.max())} types in {path}"
        raise BadInput("--elements", problem, allowed="one symbol for each type", fix="name all, in the order of the types")
    return np.array([atomic_numbers[elements[kind - 1]] for kind in types.tolist()])


def check_masses_tell_elements(path: Path, atoms: Atoms) -> None:
    """Reject elements that were guessed from masses that no element has (reduced units, united atoms)."""
    from ase.data import atomic_masses, chemical_symbols

    masses = atoms.get_masses()
    nearest = np.asarray(atomic_masses)[atoms.numbers]
    heavy = (atoms.numbers == 1) & (np.abs(masses - 2.014) < 0.02)
    far = np.flatnonzero((np.abs(masses - nearest) > _MASS_ERROR * nearest) & ~heavy)
    if len(far):
        k = int(far[0])
        symbol = chemical_symbols[atoms.numbers[k]]
        problem = f"atom {k + 1} has a mass of {masses[k]:g} u, which no element has (nearest: {symbol})"
        raise BadInput(path, problem, allowed="standard atomic masses, u", fix="correct the section Masses, or convert the file")
