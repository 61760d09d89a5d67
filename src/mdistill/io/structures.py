"""Crystals with the occupancies of the file: read, checked, never filled.

A half-occupied site stays half occupied; `data/disorder.py` replaces it by whole atoms by a stated rule.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Int

from mdistill.crystals.atom_kinds import (
    NO_UNITS,
    check_masses_tell_elements,
    lammps_names_elements,
    lammps_units,
    with_isotopes,
    with_vasp_masses,
    without_isotopes,
)  # fmt: skip
from mdistill.crystals.charges import missing_atoms_note
from mdistill.crystals.checks import READABLE, check_crystal, check_file, text_of, whole_numbers
from mdistill.crystals.cif import parse_cif
from mdistill.crystals.crystal import Crystal, Site, formula
from mdistill.crystals.split_sites import merge_overfull
from mdistill.errors import BadInput
from mdistill.io.files import replacing, sha256
from mdistill.io.held_atoms import unused_by_crystals
from mdistill.notices import notify
from mdistill.types import System

if TYPE_CHECKING:
    from ase import Atoms

STRUCTURES = "structures.extxyz"
"""The prepared structures of a run folder."""


def read_structure(path: str | Path, *, index: int = -1) -> Crystal:
    """Read one structure and check it.

    Partial occupancies, mixed sites and vacancies are those of the file. Deuterium and tritium are read as
    hydrogen, with a note. Oxidation numbers of a CIF are kept.

    Args:
        path: CIF, POSCAR, extxyz, .traj, or any other file ASE reads (.gz, .bz2, .xz too).
        index: Which structure of a file that holds several (negative counts from the end).
    Raises:
        BadInput: The file is absent, empty, too large, binary, UTF-16, no structure, or the structure is one no
            simulation can start from (see `crystals/checks.py`).
    """
    path = Path(path)
    kind = check_file(path)
    if kind == "cif":
        crystal = merge_overfull(_read_cif(path, index))
    else:
        atoms, notes = read_atoms(path, kind, index)
        crystal = from_atoms(atoms, source=str(path), digest=sha256(path))
        crystal = replace(crystal, notes=(*crystal.notes, *notes), unused=tuple(unused_by_crystals(atoms)))
    check_crystal(crystal)
    return replace(crystal, notes=(*crystal.notes, *missing_atoms_note(crystal)))


def _read_cif(path: Path, index: int) -> Crystal:
    parsed = parse_cif(text_of(path), str(path), index)
    sites = tuple(Site(fractional=f, occupancies=o, label=label) for f, o, label in parsed.sites)
    return Crystal(
        cell=parsed.cell, pbc=(True, True, True), sites=sites, source=str(path), sha256=sha256(path), oxidation=parsed.oxidation,
        notes=tuple(parsed.notes),
    )  # fmt: skip


def _like_element(text: str) -> bool:
    """Whether a word is written like the symbol of an element, and is none."""
    from ase.data import chemical_symbols

    return text.isalpha() and len(text) <= 2 and text.istitle() and text not in chemical_symbols


def read_atoms(path: Path, kind: str, index: int) -> tuple[Atoms, list[str]]:
    """The structure, and notes on how it was read."""
    from ase.io import read

    options: dict[str, str] = {}
    named = lammps_units(path) if kind.startswith("lammps") else None
    if kind.startswith("lammps"):
        lammps_names_elements(path, kind)
        options = {"units": named or "metal"} if kind in ("lammps-dump-text", "lammps-data") else {}
    source, notes = without_isotopes(path, kind)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            atoms = read(source, index=index, format=kind, do_not_split_by_at_sign=True, **options)
    except Exception as error:
        raise unreadable(path, kind, error, index) from error
    whole_numbers(atoms.numbers, path)
    with_vasp_masses([atoms], path, kind)
    if notes:
        with_isotopes(atoms)
    if kind.startswith("lammps") and named is None and atoms.has("momenta") and atoms.get_momenta().any():
        notes = [*notes, NO_UNITS.format(path)]
    if kind == "lammps-data" and atoms.has("masses"):
        check_masses_tell_elements(path, atoms)
    return atoms, notes


def unreadable(path: Path, kind: str, error: Exception, index: int | str) -> BadInput:
    """What is wrong with a file that ASE could not read as this kind; names an unknown element."""
    problem = f"not readable as {kind} ({type(error).__name__}: {str(error)[:200] or 'no structure found'}), index {index}"
    fix = "check that the file is complete and that its name has the right extension"
    if isinstance(error, KeyError) and _like_element(symbol := str(error.args[0])):
        problem, fix = f"unknown element {symbol!r}", "correct the symbol"
    return BadInput(path, problem, allowed=READABLE, fix=fix)


def from_atoms(atoms: Atoms, *, source: str = "atoms", digest: str = "") -> Crystal:
    """A crystal from ASE atoms; `occupancy`, `charge` and `unpaired` of `atoms.info` are used.

    (ASE represents a partially occupied site by one whole atom and stores occupancies in `info`.)

    Raises:
        BadInput: A charge or number of unpaired electrons that is no whole number.
    """
    from ase.data import atomic_numbers

    along = [bool(p) for p in atoms.pbc]
    crystal = Crystal(cell=np.array(atoms.cell[:], dtype=np.float64), pbc=(along[0], along[1], along[2]), sites=())
    with np.errstate(all="ignore"):
        determinant = np.linalg.det(crystal.frame)
        solvable = np.isfinite(determinant) and abs(determinant) > 1e-12
        fractional = atoms.positions @ np.linalg.inv(crystal.frame) if solvable else np.array(atoms.positions)
    shared = atoms.info.get("occupancy") or {}
    kinds = atoms.arrays.get("spacegroup_kinds")
    symbols = atoms.get_chemical_symbols()
    sites = []
    for i, (number, place) in enumerate(zip(atoms.numbers.tolist(), fractional.tolist(), strict=True)):
        stated = shared.get(str(kinds[i]), shared.get(int(kinds[i]))) if kinds is not None and shared else None
        occupancies = {atomic_numbers[s]: float(o) for s, o in stated.items()} if stated else {number: 1.0}
        label = symbols[i] if kinds is None else f"{symbols[i]}{int(kinds[i])}"
        sites.append(Site(fractional=tuple(place), occupancies=occupancies, label=label))
    states = states_of(atoms.info, source)
    return replace(
        crystal, sites=tuple(sites), source=source, sha256=digest, charge=states.get("charge"), unpaired=states.get("unpaired")
    )


def states_of(info: Mapping[str, Any], source: str | Path) -> dict[str, int]:
    """The total charge (e) and number of unpaired electrons that `charge` and `unpaired` state, where they do.

    Raises:
        BadInput: No whole number, or a negative number of electrons.
    """
    found = dict[str, int]()
    for name in ("charge", "unpaired"):
        value = info.get(name)
        if isinstance(value, np.ndarray) and value.size == 1:
            value = value.item()
        if value is None:
            continue
        number = float(value) if isinstance(value, (int, float, np.number)) and not isinstance(value, bool) else np.nan
        if not number.is_integer() or (name == "unpaired" and number < 0):
            allowed = "a whole number" if name == "charge" else "a whole number of at least 0"
            raise BadInput(source, f"{name}={value}", allowed=allowed, fix="correct it, or remove it from the file")
        found[name] = int(number)
    return found


def stating(system: System, states: Mapping[str, int]) -> System:
    """The structure (one struct) with this charge and number of unpaired electrons."""
    return replace(system, **{name: torch.tensor([value]) for name, value in states.items()})


def to_system(crystal: Crystal) -> System:
    """The whole atoms of an ordered crystal (float64).

    Raises:
        BadInput: The crystal is disordered.
    """
    numbers = numbers_of(crystal)
    system = System(
        positions=torch.from_numpy(crystal.positions.copy()),
        numbers=torch.from_numpy(numbers),
        cell=torch.from_numpy(crystal.cell * np.array(crystal.pbc)[:, None])[None],
        pbc=torch.tensor([crystal.pbc]),
        owner=torch.zeros(len(numbers), dtype=torch.int64),
    )
    return stating(system, states_of({"charge": crystal.charge, "unpaired": crystal.unpaired}, crystal.source))


def read_system(path: str | Path, *, index: int = -1, repeat: tuple[int, int, int] = (1, 1, 1)) -> System:
    """One ordered structure of a file, repeated along its lattice vectors.

    Raises:
        BadInput: Not readable, not sound, or disordered; or a repeat below 1.
    """
    crystal = read_structure(path, index=index)
    for note in crystal.notes:
        notify(note)
    return repeated(to_system(crystal), repeat)


def repeated(system: System, repeats: tuple[int, int, int]) -> System:
    """One struct repeated along its lattice vectors, copy after copy.

    Raises:
        BadInput: A repeat below 1.
    """
    if len(repeats) != 3 or min(repeats) < 1:
        raise BadInput("repeat", f"{repeats}", allowed="three numbers of at least 1", fix="--repeat 2 2 2")
    steps = torch.cartesian_prod(*(torch.arange(n) for n in repeats)).reshape(-1, 3).to(system.positions)
    positions = (system.positions + (steps @ system.cell[0]).unsqueeze(1)).reshape(-1, 3)
    cell = system.cell * torch.tensor(repeats).to(system.cell).reshape(1, 3, 1)
    numbers = system.numbers.repeat(len(steps))
    charge, unpaired = (None if one is None else len(steps) * one for one in (system.charge, system.unpaired))
    return replace(
        system, numbers=numbers, positions=positions, cell=cell, owner=torch.zeros_like(numbers), charge=charge, unpaired=unpaired
    )


def numbers_of(crystal: Crystal) -> Int[np.ndarray, " site"]:
    """Atomic number of each site of an ordered crystal.

    Raises:
        BadInput: The crystal is disordered.
    """
    partial = [site for site in crystal.sites if not site.full]
    if partial:
        first = f"{partial[0].label}: {formula(partial[0].occupancies)}"
        problem = f"disordered: {len(partial)} of {len(crystal.sites)} sites are partially occupied (first {first})"
        fix = "use `mdistill distill` or mdistill.data.prepare, which choose an ordering by a stated rule"
        raise BadInput(crystal.source, problem, allowed="whole atoms on every site", fix=fix)
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
    stated = {name: one for name, one in (("charge", structure.charge), ("unpaired", structure.unpaired)) if one is not None}
    return Atoms(
        structure.numbers.cpu().numpy(),
        positions=structure.positions.detach().cpu().numpy().astype(np.float64),
        cell=structure.cell[0].detach().cpu().numpy().astype(np.float64),
        pbc=structure.pbc[0].cpu().numpy(),
        info={name: int(one) for name, one in stated.items() if name == "charge" or one >= 0},
    )


def write_systems(path: Path, systems: Sequence[System]) -> None:
    """Write structures to one extxyz file, all or nothing."""
    from ase.io import write

    with replacing(path) as partial:
        write(partial, [to_atoms(system) for system in systems], format="extxyz")


def check_state(structure: System | Atoms, *, by: str, fix: str, **told: int) -> None:
    """Refuse a structure whose file states another charge (e) or number of unpaired electrons than a calculation is told.

    Args:
        by: The calculation.
        fix: Flags that tell it.
        told: charge, unpaired.
    Raises:
        BadInput: They differ.
    """
    info = to_atoms(structure).info if isinstance(structure, System) else structure.info
    for name, value in told.items():
        if name in info and info[name] != value:
            raise BadInput("structure", f"states {name}={info[name]}; {by} is told {value}", allowed="the same of both", fix=fix)


def read_systems(path: Path) -> list[System]:
    """All structures of a file, one System each."""
    from ase.io import read

    return [read_system(path, index=k) for k in range(len(read(path, index=":", do_not_split_by_at_sign=True)))]
