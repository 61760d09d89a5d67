"""Crystals with their occupancies as the file states them: read, checked, never filled up silently.

A site that is half occupied stays half occupied here; `data/disorder.py` turns it into whole atoms by a stated rule.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int

from mdistill.errors import BadInput
from mdistill.io.checks import READABLE, check_crystal, check_file, text_of
from mdistill.io.cif import parse_cif
from mdistill.io.files import sha256
from mdistill.types import System

if TYPE_CHECKING:
    from ase import Atoms

FULL = 1.0e-3
"""A site counts as fully occupied by one element when its occupancy is within this of one."""

STRUCTURES = "structures.extxyz"
"""The prepared structures of a run folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One position of a crystal.

    Attributes:
        fractional: Coordinates along the lattice vectors (Å along Cartesian axes where a lattice vector is missing).
        occupancies: Atomic number -> occupancy (0 to 1); what is left to one is vacancy.
        label: Which crystallographic site it is an image of; equal labels are symmetry-equivalent.
    """

    fractional: tuple[float, float, float]
    occupancies: dict[int, float]
    label: str = ""

    @property
    def full(self) -> bool:
        """One element, fully occupied."""
        return len(self.occupancies) == 1 and abs(next(iter(self.occupancies.values())) - 1.0) <= FULL


@dataclass(frozen=True, kw_only=True, eq=False)
class Crystal:
    """A structure as a file describes it.

    Attributes:
        cell: [3, 3] Å, rows are lattice vectors; zeros where there is none.
        pbc: Periodic along each lattice vector.
        sites: Positions with their occupancies.
        source: The file (or other origin) it came from; names the culprit in messages.
        sha256: Hex digest of the file, "" where there is none.
        oxidation: Atomic number -> charge (e) where the file states oxidation numbers.
        notes: What was decided while reading, one sentence each, to be shown to the user.
    """

    cell: Float[np.ndarray, "3 3"]
    pbc: tuple[bool, bool, bool]
    sites: tuple[Site, ...]
    source: str = "structure"
    sha256: str = ""
    oxidation: dict[int, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @cached_property
    def frame(self) -> Float[np.ndarray, "3 3"]:
        """The cell with missing lattice vectors replaced by unit vectors (Å): fractional · frame = Cartesian."""
        from ase.geometry import complete_cell

        return np.asarray(complete_cell(self.cell), dtype=np.float64) if np.isfinite(self.cell).all() else self.cell

    @cached_property
    def fractional(self) -> Float[np.ndarray, "site 3"]:
        """Fractional coordinates of all sites."""
        return np.array([site.fractional for site in self.sites], dtype=np.float64).reshape(-1, 3)

    @cached_property
    def positions(self) -> Float[np.ndarray, "site 3"]:
        """Cartesian coordinates of all sites, Å."""
        return self.fractional @ self.frame

    @property
    def ordered(self) -> bool:
        """Every site holds one whole atom."""
        return all(site.full for site in self.sites)

    @cached_property
    def composition(self) -> dict[int, float]:
        """Atomic number -> atoms in the cell (occupancies summed), ascending."""
        total: Counter[int] = Counter()
        for site in self.sites:
            for number, occupancy in site.occupancies.items():
                total[number] += occupancy  # type: ignore[assignment]
        return {number: float(total[number]) for number in sorted(total)}

    @property
    def n_atoms(self) -> float:
        """Atoms in the cell; not whole for a disordered crystal."""
        return sum(self.composition.values())

    @property
    def formula(self) -> str:
        return formula(self.composition)

    @property
    def volume(self) -> float:
        """Cell volume, Å³ (0 where a lattice vector is missing)."""
        return float(abs(np.linalg.det(self.cell)))


def reduced_formula(composition: dict[int, float]) -> str:
    """'Li6PS5Cl' for whole numbers of atoms with a common divisor; otherwise as `formula`."""
    counts = [round(count) for count in composition.values()]
    whole = counts and all(abs(n - c) < 1e-3 for n, c in zip(counts, composition.values(), strict=True))
    divisor = math.gcd(*counts) if whole else 1
    return formula({number: count / max(divisor, 1) for number, count in composition.items()})


def formula(composition: dict[int, float]) -> str:
    """'Li24P4S20Cl4' from atomic numbers and counts: cations first, by groups of the periodic table, as chemists write it."""
    from ase.data import chemical_symbols

    late = {1: 90, 7: 91, 8: 96, 9: 99, 16: 95, 17: 98, 34: 94, 35: 97, 52: 93, 53: 96.5}
    parts = sorted(composition.items(), key=lambda item: (late.get(item[0], _group(item[0])), item[0]))
    return "".join(chemical_symbols[number] + (f"{count:.4g}" if abs(count - 1.0) > 1e-9 else "") for number, count in parts)


def _group(number: int) -> int:
    """Group of the periodic table, 1 to 18; 3 for lanthanides and actinides."""
    core = max((noble for noble in (2, 10, 18, 36, 54, 86) if noble < number), default=0)
    place, length = number - core, {0: 2, 2: 8, 10: 8, 18: 18, 36: 18}.get(core, 32)
    return place if place <= 2 else max(3, place + 18 - length)


def read_structure(path: str | Path, *, index: int = -1) -> Crystal:
    """Read one structure and check it.

    Partial occupancies, mixed sites and vacancies are kept as the file states them. Deuterium and tritium are read as
    hydrogen, with a note. Oxidation numbers of a CIF are kept.

    Args:
        path: CIF, POSCAR, extxyz, .traj, or any other file ASE reads (.gz, .bz2, .xz too).
        index: Which structure of a file that holds several (negative counts from the end).
    Raises:
        BadInput: The file is absent, empty, too large, binary, UTF-16, no structure, or the structure is one no
            simulation can start from (see `io/checks.py`).
    """
    path = Path(path)
    kind = check_file(path)
    if kind == "cif":
        crystal = _read_cif(path, index)
    else:
        crystal = from_atoms(_read_with_ase(path, kind, index), source=str(path), digest=sha256(path))
    check_crystal(crystal)
    return crystal


def _read_cif(path: Path, index: int) -> Crystal:
    parsed = parse_cif(text_of(path), str(path), index)
    sites = tuple(Site(fractional=f, occupancies=o, label=label) for f, o, label in parsed.sites)
    return Crystal(
        cell=parsed.cell,
        pbc=(True, True, True),
        sites=sites,
        source=str(path),
        sha256=sha256(path),
        oxidation=parsed.oxidation,
        notes=tuple(parsed.notes),
    )


def _read_with_ase(path: Path, kind: str, index: int) -> Atoms:
    from ase.io import read

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            atoms = read(path, index=index, format=kind, do_not_split_by_at_sign=True)
    except Exception as error:
        raise BadInput(
            path,
            f"not readable as {kind} ({type(error).__name__}: {str(error)[:200] or 'no structure found'}), index {index}",
            allowed=READABLE,
            fix="check that the file is complete and that its name has the right extension",
        ) from error
    return atoms


def from_atoms(atoms: Atoms, *, source: str = "atoms", digest: str = "") -> Crystal:
    """A crystal from ASE atoms; occupancies that ASE keeps in `atoms.info['occupancy']` are honoured.

    (ASE shows a partially occupied site as one whole atom and keeps the occupancies of its kind aside.)
    """
    from ase.data import atomic_numbers

    along = [bool(p) for p in atoms.pbc]
    crystal = Crystal(cell=np.array(atoms.cell[:], dtype=np.float64), pbc=(along[0], along[1], along[2]), sites=())
    with np.errstate(all="ignore"):
        determinant = np.linalg.det(crystal.frame)
        solvable = np.isfinite(determinant) and abs(determinant) > 1e-12
        fractional = atoms.positions @ np.linalg.inv(crystal.frame) if solvable else np.array(atoms.positions)
    kept = atoms.info.get("occupancy") or {}
    kinds = atoms.arrays.get("spacegroup_kinds")
    symbols = atoms.get_chemical_symbols()
    sites = []
    for i, (number, place) in enumerate(zip(atoms.numbers.tolist(), fractional.tolist(), strict=True)):
        stated = kept.get(str(kinds[i]), kept.get(int(kinds[i]))) if kinds is not None and kept else None
        occupancies = {atomic_numbers[s]: float(o) for s, o in stated.items()} if stated else {number: 1.0}
        label = symbols[i] if kinds is None else f"{symbols[i]}{int(kinds[i])}"
        sites.append(Site(fractional=tuple(place), occupancies=occupancies, label=label))
    return Crystal(cell=crystal.cell, pbc=crystal.pbc, sites=tuple(sites), source=source, sha256=digest)


def crystal_from_system(system: System, *, source: str = "system") -> Crystal:
    """A fully ordered crystal from a `System` of one struct."""
    return from_atoms(to_atoms(system), source=source)


def to_system(crystal: Crystal) -> System:
    """The whole atoms of an ordered crystal (float64).

    Raises:
        BadInput: The crystal is disordered.
    """
    numbers = numbers_of(crystal)
    return System(
        positions=torch.from_numpy(crystal.positions.copy()),
        numbers=torch.from_numpy(numbers),
        cell=torch.from_numpy(crystal.cell * np.array(crystal.pbc)[:, None])[None],
        pbc=torch.tensor([crystal.pbc]),
        owner=torch.zeros(len(numbers), dtype=torch.int64),
    )


def read_system(path: str | Path, *, index: int = -1) -> System:
    """One ordered structure of a file: `to_system(read_structure(path))`.

    Raises:
        BadInput: Not readable, not sound, or disordered.
    """
    return to_system(read_structure(path, index=index))


def numbers_of(crystal: Crystal) -> Int[np.ndarray, " site"]:
    """Atomic number of each site of an ordered crystal.

    Raises:
        BadInput: The crystal is disordered.
    """
    partial = [site for site in crystal.sites if not site.full]
    if partial:
        first = f"{partial[0].label}: {formula(partial[0].occupancies)}"
        raise BadInput(
            crystal.source,
            f"disordered: {len(partial)} of {len(crystal.sites)} sites are partially occupied (first {first})",
            allowed="whole atoms on every site",
            fix="use `mdistill distill` or mdistill.data.prepare, which choose an ordering by a stated rule",
        )
    return np.array([next(iter(site.occupancies)) for site in crystal.sites], dtype=np.int64)


def to_atoms(structure: Crystal | System) -> Atoms:
    """ASE atoms from an ordered crystal or from a `System` of one struct.

    Raises:
        BadInput: The crystal is disordered, or the system holds several structs.
    """
    from ase import Atoms

    if isinstance(structure, Crystal):
        return Atoms(numbers_of(structure), positions=structure.positions, cell=structure.cell, pbc=structure.pbc)
    if structure.n_structs != 1:
        raise BadInput("system", f"{structure.n_structs} structs", allowed="one struct", fix="use mdistill.graph.split first")
    return Atoms(
        structure.numbers.cpu().numpy(),
        positions=structure.positions.detach().cpu().numpy().astype(np.float64),
        cell=structure.cell[0].detach().cpu().numpy().astype(np.float64),
        pbc=structure.pbc[0].cpu().numpy(),
    )


def read_systems(path: Path) -> list[System]:
    """All structures of a file, one System each."""
    from ase.io import read

    return [read_system(path, index=k) for k in range(len(read(path, index=":")))]
