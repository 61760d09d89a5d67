"""Frames of a file with everything other formats can hold: times, momenta, masses, energies, forces, stress."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import atomic_masses
from jaxtyping import Float, Int

from mdistill.crystals.atom_kinds import (
    NO_UNITS,
    check_masses_tell_elements,
    lammps_names_elements,
    lammps_units,
    numbers_of_types,
    with_isotopes,
    with_vasp_masses,
    without_isotopes,
)  # fmt: skip
from mdistill.crystals.checks import LARGEST_UNPACKED, check_before_parsing, whole_numbers
from mdistill.errors import BadInput
from mdistill.io.amber import NETCDF_SUFFIXES, read_netcdf
from mdistill.io.import_trajectory import READABLE
from mdistill.io.trajectories import ASE_MOMENTUM, HDF5_SUFFIXES, check_masses, read_hdf5_arrays
from mdistill.io.xdatcar import is_xdatcar, read_xdatcar
from mdistill.notices import notify

_UNITS = {"metal": 1e3, "real": 1.0}
"""Femtoseconds in LAMMPS's unit of time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frames:
    """One structure through time, as a file holds it; None for what it lacks.

    Attributes:
        numbers: Atomic numbers.
        positions: Å, wrapped or not.
        cells: Å, rows are lattice vectors; zero along open directions.
        pbc: Periodic directions.
        masses: u.
        times: fs.
        steps: Step numbers.
        momenta: u·Å/fs.
        energies, forces, stresses: eV, eV/Å, eV/Å³ (tension positive).
    """

    numbers: Int[np.ndarray, " atom"]
    positions: Float[np.ndarray, "frame atom 3"]
    cells: Float[np.ndarray, "frame 3 3"]
    pbc: tuple[bool, bool, bool]
    masses: Float[np.ndarray, " atom"]
    times: Float[np.ndarray, " frame"] | None = None
    steps: Int[np.ndarray, " frame"] | None = None
    momenta: Float[np.ndarray, "frame atom 3"] | None = None
    energies: Float[np.ndarray, " frame"] | None = None
    forces: Float[np.ndarray, "frame atom 3"] | None = None
    stresses: Float[np.ndarray, "frame 3 3"] | None = None

    def __len__(self) -> int:
        return len(self.positions)

    def part(self, which: slice) -> Frames:
        """Some of the frames."""
        names = ("positions", "cells", "times", "steps", "momenta", "energies", "forces", "stresses")
        held = {name: getattr(self, name) for name in names}
        return replace(self, **{name: array[which] for name, array in held.items() if array is not None})


def read_frames(path: str | Path, *, elements: Sequence[str] = (), numbers: Int[np.ndarray, " atom"] | None = None) -> Frames:
    """All frames of a trajectory or structure file.

    Args:
        path: HDF5 (H5MD), AMBER NetCDF, XDATCAR, extended XYZ, LAMMPS dump or data, or another format that ASE reads.
        elements: Element symbols of LAMMPS types 1, 2, …, or of VASP 4 counts, where the file names none.
        numbers: Atomic numbers of the atoms in their order, where the file names none (AMBER NetCDF of other programs).
    Raises:
        BadInput: A file that cannot be read, other atoms in some frame, numbers that are not finite, unknown elements.
    """
    path = Path(path)
    if not path.is_file():
        raise BadInput(path, "no such file", allowed=READABLE, fix="check the path; quote it if it holds spaces")
    if path.stat().st_size == 0:
        raise BadInput(path, "empty (0 bytes)", allowed=READABLE, fix="copy the file again")
    check_before_parsing(path, LARGEST_UNPACKED)
    if path.suffix.lower() in HDF5_SUFFIXES:
        frames = Frames(**read_hdf5_arrays(path))
    elif path.suffix.lower() in NETCDF_SUFFIXES:
        frames = _completed(path, read_netcdf(path, numbers=numbers))
    elif is_xdatcar(path):
        found, positions, cells, steps, notes = read_xdatcar(path, elements=elements)
        for note in notes:
            notify(note)
        frames = _completed(path, {"numbers": found, "positions": positions, "cells": cells, "steps": steps, "pbc": (True,) * 3})
    else:
        frames = _from_ase(path, elements)
    for name in ("positions", "cells", "momenta", "times"):
        array = getattr(frames, name)
        if array is not None and not np.isfinite(array).all():
            raise BadInput(path, f"{name} are not finite", allowed="finite numbers", fix="cut the run off before it broke")
    return frames


def timed(frames: Frames, frame_time_fs: float | None, path: Path) -> tuple[Frames, list[str]]:
    """The frames with times of this spacing where the file has none, and notes.

    Raises:
        BadInput: No positive time, or one that contradicts the file.
    """
    if frame_time_fs is None:
        return frames, []
    if not 0.0 < frame_time_fs < np.inf:
        raise BadInput("--frame-time-fs", f"{frame_time_fs}", allowed="above 0 fs", fix="give the time between frames in fs")
    if frames.times is None:
        return replace(frames, times=frame_time_fs * np.arange(len(frames))), [
            f"time between frames: {frame_time_fs:g} fs, as given"
        ]
    if len(frames) > 1 and abs(frames.times[1] - frames.times[0] - frame_time_fs) > 1e-3 * frame_time_fs:
        problem = f"{frame_time_fs:g} fs, but {path} says {frames.times[1] - frames.times[0]:g} fs"
        raise BadInput("--frame-time-fs", problem, allowed="the time of the file", fix="leave the option out")
    return frames, []


def _completed(path: Path, content: dict[str, Any]) -> Frames:
    """Frames with standard masses where none are known; velocities (Å/fs) become momenta."""
    masses, content["numbers"] = content.pop("masses", None), whole_numbers(content["numbers"], path)
    masses = atomic_masses[content["numbers"]] if masses is None else np.asarray(masses, dtype=np.float64)
    check_masses(masses, path)
    velocities = content.pop("velocities", None)
    momenta = None if velocities is None else velocities * masses[:, None]
    return Frames(**content, masses=masses, momenta=momenta)


def _from_ase(path: Path, elements: Sequence[str]) -> Frames:
    from ase.io import read
    from ase.io.formats import UnknownFileTypeError, filetype

    try:
        kind = "lammps-data" if path.suffix.lower() in (".lmp", ".data") else filetype(str(path))
    except (UnknownFileTypeError, UnicodeDecodeError, OSError, EOFError) as error:
        fix = "give it the extension of its format, or convert it with `ase convert`"
        raise BadInput(path, "its format is not recognised", allowed=READABLE, fix=fix) from error
    lammps = kind.startswith("lammps")
    named, (source, notes) = lammps_units(path) if lammps else None, without_isotopes(path, kind)
    unit = named or "metal"
    options: dict[str, Any] = {"units": unit} if kind in ("lammps-dump-text", "lammps-data") else {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            images = read(source, index=":", format=kind, do_not_split_by_at_sign=True, **options)
    except Exception as error:
        problem = f"cannot be read as {kind} ({type(error).__name__}: {str(error)[:120]})"
        raise BadInput(path, problem, allowed=READABLE, fix="check whether the file is complete") from error
    if lammps and not named and images and images[0].has("momenta"):
        notify(NO_UNITS.format(path))
    for note in notes:
        notify(note)
    images = [with_isotopes(atoms) for atoms in images] if notes else images
    with_vasp_masses(images, path, kind)
    if not images:
        raise BadInput(path, "no frames", allowed=READABLE, fix="check the file")
    first = images[0]
    if any(not np.array_equal(atoms.numbers, first.numbers) for atoms in images):
        raise BadInput(path, "its frames hold different atoms, or in another order", allowed="the same atoms in every frame",
                       fix="convert structures of one kind, sorted in one way")  # fmt: skip
    numbers = whole_numbers(first.numbers, path)
    if lammps and not lammps_names_elements(path, kind, elements):
        numbers = numbers_of_types(path, numbers, elements)
    if kind == "lammps-data" and first.has("masses"):
        check_masses_tell_elements(path, first)
    masses = first.get_masses() if first.has("masses") else atomic_masses[numbers]
    check_masses(masses, path)
    pbc = [bool(along) for along in first.pbc]
    times = _info(images, "time_fs")
    if times is None and kind == "lammps-dump-text":
        times = _dump_times(path, len(images), _UNITS[unit])
    steps = _info(images, "step")
    steps = _info(images, "timestep") if steps is None else steps
    return Frames(
        numbers=numbers, positions=np.stack([atoms.positions for atoms in images]), masses=masses, pbc=(pbc[0], pbc[1], pbc[2]),
        cells=np.stack([atoms.cell[:] * atoms.pbc[:, None] for atoms in images]), times=times,
        steps=None if steps is None else steps.astype(np.int64),
        momenta=np.stack([a.get_momenta() for a in images]) / ASE_MOMENTUM if all(a.has("momenta") for a in images) else None,
        energies=_results(images, "energy"), forces=_results(images, "forces"), stresses=_stresses(images),
    )  # fmt: skip


def _dump_times(path: Path, frames: int, unit_fs: float) -> np.ndarray | None:
    """Times of a dump written with `dump_modify time yes`, fs."""
    with open(path, encoding="utf-8", errors="replace") as handle:
        times = [float(next(handle)) * unit_fs for line in handle if line.startswith("ITEM: TIME") and "STEP" not in line]
    return np.array(times) if len(times) == frames else None


def _info(images: Sequence[Any], key: str) -> np.ndarray | None:
    values = [atoms.info.get(key) for atoms in images]
    if all(isinstance(value, (int, float, np.integer, np.floating)) for value in values):
        return np.array(values, dtype=np.float64)
    return None


def _results(images: Sequence[Any], name: str) -> np.ndarray | None:
    values = [None if atoms.calc is None else atoms.calc.results.get(name) for atoms in images]
    return None if any(value is None for value in values) else np.array(values, dtype=np.float64)


def _stresses(images: Sequence[Any]) -> np.ndarray | None:
    values = _results(images, "stress")
    return values if values is None or values.ndim == 3 else values[:, [0, 5, 4, 5, 1, 3, 4, 3, 2]].reshape(-1, 3, 3)
