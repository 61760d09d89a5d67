"""Labelled structures in files of others: extended XYZ, .npz, vasprun.xml, OUTCAR, ASE database or trajectory, SPICE, QCML."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from lzma import LZMAError
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from mdistill.crystals.atom_kinds import with_isotopes, without_isotopes
from mdistill.crystals.checks import LARGEST_UNPACKED, check_before_parsing, text_of, whole_numbers
from mdistill.errors import BadInput
from mdistill.io.arrays import DAMAGED, read_arrays
from mdistill.io.molecule_sets import is_molecule_set, read_molecule_set
from mdistill.io.structures import states_of
from mdistill.labelling.settings import LabelFileSettings
from mdistill.units import BOHR, GPA, HARTREE, KCAL_MOL, KJ_MOL

READABLE = "extended XYZ, .npz, vasprun.xml, OUTCAR, an ASE .db or .traj, SPICE (.hdf5), QCML (.tfrecord), or a label folder"
ENERGIES = ("ref_energy", "dft_energy", "free_energy", "energy", "energies", "totenergy", "total_energy", "potential_energy")
FORCES = ("ref_forces", "ref_force", "dft_forces", "dft_force", "forces", "force")
STRESSES = ("ref_stress", "dft_stress", "stress")
VIRIALS = ("ref_virial", "ref_virials", "dft_virial", "virial", "virials")
GROUPS = ("config_type", "group", "label", "system")
_PLACES = {"positions": ("positions", "pos", "r", "coords", "coordinates", "xyz"),
           "numbers": ("numbers", "z", "atomic_numbers", "nuclear_charges", "species"),
           "cell": ("cell", "cells", "lattice", "box"), "pbc": ("pbc",)}  # fmt: skip
ENERGY_UNITS = {"eV": 1.0, "Ha": HARTREE, "Ry": HARTREE / 2, "kcal/mol": KCAL_MOL, "kJ/mol": KJ_MOL, "meV": 1e-3}
FORCE_UNITS = {"eV/A": 1.0, "Ha/Bohr": HARTREE / BOHR, "Ry/Bohr": HARTREE / 2 / BOHR, "kcal/mol/A": KCAL_MOL,
               "kJ/mol/A": KJ_MOL, "meV/A": 1e-3, "Ha/A": HARTREE}  # fmt: skip
STRESS_UNITS = {"eV/A3": 1.0, "GPa": GPA, "kB": 0.1 * GPA, "Ha/Bohr3": HARTREE / BOHR**3}


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFrame:
    """A structure of a file with its labels in eV, eV/Å and eV/Å³ (tension positive); None where it has none. Successive
    structures of one `molecule`, where it is known, are never divided between training and held-out ones."""

    positions: Float[np.ndarray, "atom 3"]
    numbers: Int[np.ndarray, " atom"]
    cell: Float[np.ndarray, "3 3"]
    pbc: Bool[np.ndarray, " 3"]
    energy: float | None
    forces: Float[np.ndarray, "atom 3"] | None
    stress: Float[np.ndarray, "3 3"] | None
    group: str
    file: str
    states: dict[str, int] = field(default_factory=dict)
    molecule: str = ""


@dataclass(slots=True)
class Keys:
    """Names under which labels were found, how often, and remarks."""

    used: dict[str, dict[str, int]] = field(default_factory=lambda: {"energy": {}, "forces": {}, "stress": {}})
    seen: set[str] = field(default_factory=set)
    free_energy_gap: float = 0.0
    not_finite: int = 0

    def count(self, kind: str, name: str) -> None:
        self.used[kind][name] = self.used[kind].get(name, 0) + 1


def read_frames(path: Path, settings: LabelFileSettings, keys: Keys) -> list[FileFrame]:
    """All structures of a file.

    Raises:
        BadInput: No such file, no such format, damaged, labels of another shape, or stress and virial that disagree.
    """
    if not path.is_file():
        raise BadInput(path, "no such file", allowed=READABLE, fix="check the path; quote it if it holds spaces")
    if path.stat().st_size == 0:
        raise BadInput(path, "empty (0 bytes)", allowed=READABLE, fix="copy or export the file again")
    check_before_parsing(path, LARGEST_UNPACKED)
    if is_molecule_set(path):
        _check_no_units(path, settings)
        rows = read_molecule_set(path, settings.most_structures)
    else:
        _check_read_whole(path, settings)
        rows = _from_npz(path) if path.suffix.lower() == ".npz" else _from_ase(path)
    frames: list[FileFrame] = []
    for number, (structure, shelf) in enumerate(rows, 1):
        frames.append(_frame(f"{path}, frame {number}", structure, _Shelf(shelf), settings, keys, file=str(path)))
    if not frames:
        raise BadInput(path, "no structures", allowed=READABLE, fix="check the file")
    return frames


def _check_read_whole(path: Path, settings: LabelFileSettings) -> None:
    if settings.most_structures is not None:
        fix = "leave it out, and name files of SPICE or QCML in a command of their own"
        raise BadInput("--most-structures", f"given with {path}", allowed="files of SPICE and QCML", fix=fix)


def _check_no_units(path: Path, settings: LabelFileSettings) -> None:
    for name in ("energy_unit", "forces_unit"):
        if getattr(settings, name) is not None:
            fix = "leave it out, and name other files in a command of their own"
            raise BadInput(f"--{name.replace('_', '-')}", f"given with {path}", allowed="files that do not fix it", fix=fix)


class _Shelf:
    """Everything a frame holds, by name; names are found in any case."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.content = {name: value for name, value in content.items() if value is not None}
        self.names = {name.lower(): name for name in self.content}

    def find(self, names: Sequence[str]) -> str | None:
        return next((self.names[name.lower()] for name in names if name.lower() in self.names), None)


def _frame(
    subject: str, structure: Mapping[str, np.ndarray], shelf: _Shelf, settings: LabelFileSettings, keys: Keys, *, file: str
) -> FileFrame:
    keys.seen |= set(shelf.content)
    structure, count = {**structure, "numbers": whole_numbers(structure["numbers"], subject)}, len(structure["numbers"])
    for name, shape in (("positions", (count, 3)), ("cell", (3, 3))):
        if structure[name].shape != shape or not np.isfinite(structure[name]).all():
            problem = f"{name} of shape {structure[name].shape} for {count} atoms, or not finite"
            raise BadInput(subject, problem, allowed=f"{shape} finite numbers (Å)", fix="leave the frame out of the file")
    energy = _label(subject, shelf, "energy", shelf.find(_names(settings.energy_key, ENERGIES)), (1,), keys=keys)
    forces = _label(subject, shelf, "forces", shelf.find(_names(settings.forces_key, FORCES)), (count, 3), keys=keys)
    free = shelf.find(["free_energy"])
    if energy is not None and settings.energy_key is None and free is not None and (other := shelf.find(["energy"])):
        keys.free_energy_gap = max(keys.free_energy_gap, abs(float(np.ravel(shelf.content[other])[0]) - energy[0]))
    stress = _stress(subject, shelf, structure, settings, keys)
    group = shelf.find([settings.group_key] if settings.group_key else GROUPS)
    return FileFrame(
        **structure, file=file, stress=stress, states=states_of(shelf.content, subject),
        molecule=str(shelf.content.get("_molecule", "")),
        group="" if group is None else str(shelf.content[group]),
        energy=None if energy is None else float(energy[0]) * ENERGY_UNITS[settings.energy_unit or "eV"],
        forces=None if forces is None else forces * FORCE_UNITS[settings.forces_unit or "eV/A"],
    )  # fmt: skip


def _label(subject: str, shelf: _Shelf, kind: str, name: str | None, shape: tuple[int, ...], *, keys: Keys) -> np.ndarray | None:
    if name is None:
        return None
    try:
        value = np.asarray(shelf.content[name], dtype=np.float64)
        value = value.reshape(shape) if value.size == int(np.prod(shape)) else value
    except (TypeError, ValueError) as error:
        raise BadInput(subject, f"{name} is no array of numbers", allowed="numbers", fix=f"--{kind}-key NAME") from error
    if value.shape != shape:
        problem = f"{name} has shape {value.shape}"
        raise BadInput(subject, problem, allowed=f"{shape}", fix=f"--{kind}-key NAME, or correct the file")
    if not np.isfinite(value).all():
        keys.not_finite += 1
        return None
    keys.count(kind, name)
    return value


def _stress(
    subject: str, shelf: _Shelf, structure: Mapping[str, np.ndarray], settings: LabelFileSettings, keys: Keys
) -> np.ndarray | None:
    """Stress, eV/Å³; a virial v gives −v/V."""
    volume = abs(float(np.linalg.det(structure["cell"]))) if structure["pbc"].all() else 0.0
    if volume <= 0.0:
        return None
    key = settings.stress_key
    virial_key = key if key and "virial" in key.lower() else None
    stress = None if virial_key else _tensor(subject, shelf, _names(key, STRESSES), keys)
    virial = None if key and not virial_key else _tensor(subject, shelf, _names(virial_key, VIRIALS), keys)
    if stress is not None:
        sign = -1.0 if settings.stress_sign == "compression" else 1.0
        stress = sign * STRESS_UNITS[settings.stress_unit or "eV/A3"] * stress
    if virial is not None:
        virial = -ENERGY_UNITS[settings.energy_unit or "eV"] / volume * virial
    if stress is not None and virial is not None and np.abs(stress - virial).max() > 0.02 * np.abs(virial).max() + 1e-5:
        fix = "--stress-key stress or --stress-key virial chooses one; --stress-unit and --stress-sign correct the stress"
        raise BadInput(subject, "its stress is not −virial/volume", allowed="labels that agree", fix=fix)
    return virial if stress is None else stress


def _names(key: str | None, usual: Sequence[str]) -> Sequence[str]:
    return usual if key is None else [key]


def _tensor(subject: str, shelf: _Shelf, names: Sequence[str], keys: Keys) -> np.ndarray | None:
    """A symmetric tensor, given as 3 × 3, 9 or 6 numbers (Voigt's order)."""
    name = shelf.find(names)
    if name is None:
        return None
    size = np.size(shelf.content[name])
    value = _label(subject, shelf, "stress", name, (6,) if size == 6 else (3, 3), keys=keys)
    if value is not None and size == 6:
        value = value[[0, 5, 4, 5, 1, 3, 4, 3, 2]].reshape(3, 3)
    return None if value is None else 0.5 * (value + value.T)


def _from_ase(path: Path) -> Iterator[tuple[dict[str, np.ndarray], dict[str, Any]]]:
    from ase.io import iread
    from ase.io.formats import UnknownFileTypeError, filetype

    try:
        kind = filetype(str(path))
    except (UnknownFileTypeError, UnicodeDecodeError, OSError, EOFError) as error:
        fix = "give it the extension of its format (.extxyz, .npz), or convert it with `ase convert`"
        raise BadInput(path, "its format is not recognised", allowed=READABLE, fix=fix) from error
    packed = kind in ("xyz", "extxyz") and path.suffix.lower() in (".gz", ".bz2", ".xz")
    try:
        source, isotopes = without_isotopes(path, kind)
        source = StringIO(text_of(path)) if packed and not isotopes else source
    except (OSError, EOFError, LZMAError) as error:
        raise BadInput(path, f"cannot be unpacked ({error})", allowed=READABLE, fix="copy the file again") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frames = iread(source, index=":", format=kind, do_not_split_by_at_sign=True)
        for number in itertools.count(1):
            try:
                atoms = next(frames)
            except StopIteration:
                return
            except Exception as error:
                problem = f"cannot be read as {kind} beyond frame {number - 1} ({type(error).__name__}: {str(error)[:120]})"
                raise BadInput(path, problem, allowed=READABLE, fix="check whether the file is complete") from error
            yield _of_atoms(with_isotopes(atoms) if isotopes else atoms)


def _of_atoms(atoms: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    shelf: dict[str, Any] = {}
    for part in (atoms.info.get("data"), atoms.info.get("key_value_pairs"), atoms.info, atoms.arrays):
        shelf |= dict(part) if isinstance(part, Mapping) else {}
    if atoms.calc is not None:
        shelf |= atoms.calc.results
    structure = {"positions": atoms.positions.copy(), "numbers": atoms.numbers.copy(), "cell": np.array(atoms.cell[:]),
                 "pbc": np.array(atoms.pbc)}  # fmt: skip
    return structure, {name: value for name, value in shelf.items() if name not in ("numbers", "positions")}


def _from_npz(path: Path) -> Iterator[tuple[dict[str, np.ndarray], dict[str, Any]]]:
    try:
        arrays = read_arrays(path, compressed=True)
    except DAMAGED as error:
        problem = f"cannot be read ({type(error).__name__}: {str(error)[:120]})"
        raise BadInput(path, problem, allowed="arrays of numbers, without pickled objects", fix="write it again") from error
    shelf = _Shelf(arrays)
    places = {what: shelf.find(names) for what, names in _PLACES.items()}
    for what in ("positions", "numbers"):
        if places[what] is None:
            problem = f"no {what} among {', '.join(sorted(arrays))}"
            raise BadInput(path, problem, allowed=f"an array named {', '.join(_PLACES[what])}", fix="name it so")
    structure = {what: arrays[name] for what, name in places.items() if name is not None}
    renamed = {"e": "energy", "f": "forces", "u": "energy"}
    rest = {renamed.get(n.lower(), n): a for n, a in arrays.items() if n not in places.values()}
    rest |= {n: a for n, a in arrays.items() if n not in places.values()}
    positions, numbers = structure["positions"], structure["numbers"]
    if positions.ndim != 3 or positions.shape[2] != 3 or numbers.shape[-1] != positions.shape[1]:
        problem = f"positions {positions.shape} and numbers {numbers.shape}"
        raise BadInput(path, problem, allowed="[frame, atom, 3] and [atom] or [frame, atom]", fix="correct the arrays")
    cell = structure.get("cell", np.zeros((3, 3)))
    cell = cell.reshape(*cell.shape[:-1], 3, 3) if cell.shape[-1] == 9 else cell
    pbc = structure.get("pbc", np.full(3, "cell" in structure))
    for k in range(len(positions)):
        here = {
            "positions": np.asarray(positions[k], dtype=np.float64), "pbc": pbc[k] if pbc.ndim == 2 else pbc,
            "numbers": numbers[k] if numbers.ndim == 2 else numbers,
            "cell": np.asarray(cell[k] if cell.ndim == 3 else cell, dtype=np.float64),
        }  # fmt: skip
        yield here, {name: array[k] if array.ndim and len(array) == len(positions) else None for name, array in rest.items()}
