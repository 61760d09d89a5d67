"""Where a simulation starts: the last frame of a structure or trajectory file, with the momenta and masses it holds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.data import atomic_masses
from jaxtyping import Float
from torch import Tensor

from mdistill.crystals.checks import check_crystal, check_file
from mdistill.errors import BadInput
from mdistill.export.frames import read_frames
from mdistill.io.amber import NETCDF_SUFFIXES
from mdistill.io.convert_structures import as_system
from mdistill.io.held_atoms import held_atoms
from mdistill.io.structures import from_atoms, read_atoms, read_system, repeated, to_atoms, to_system
from mdistill.io.trajectories import ASE_MOMENTUM, HDF5_SUFFIXES, check_masses
from mdistill.matter.kinds import KINDS, bulk_kind
from mdistill.notices import notify
from mdistill.simulation.settings import SimulateSettings
from mdistill.types import System

_FRAMES = (*HDF5_SUFFIXES, *NETCDF_SUFFIXES, ".lammpstrj", ".dump", ".data", ".lmp")
_OTHER = 1e-3
"""Relative difference from which a mass is not the standard one."""
_LARGEST_MOMENTUM = 1e4


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """One structure with momenta (u·Å/fs), and masses (u) where they are not the standard ones; None for what is not known.

    An atom that the file holds fixed has an infinite mass."""

    system: System
    momenta: Float[Tensor, "atom 3"] | None = None
    masses: Float[Tensor, " atom"] | None = None


def read_start(path: str | Path, *, repeat: tuple[int, int, int] = (1, 1, 1)) -> Start:
    """The last frame of a file; repeats of the cell have the same momenta.

    Args:
        path: A structure, or a trajectory: HDF5, extended XYZ, AMBER NetCDF, LAMMPS dump or data, XDATCAR, …
        repeat: Repeats of the cell.
    Raises:
        BadInput: As `read_system` and `export.frames.read_frames`.
    """
    path = Path(path)
    if path.suffix.lower() not in _FRAMES:
        return _of_atoms(read_system(path, repeat=repeat), _atoms(path), repeat, path)
    last = read_frames(path).part(slice(-1, None))
    atoms = Atoms(last.numbers, positions=last.positions[0], cell=last.cells[0], pbc=last.pbc, masses=last.masses)
    if last.momenta is not None:
        atoms.set_momenta(ASE_MOMENTUM * last.momenta[0])
    crystal = from_atoms(atoms, source=str(path))
    check_crystal(crystal)
    return _of_atoms(repeated(to_system(crystal), repeat), atoms, repeat, path)


def as_start(structure: Any, *, repeat: tuple[int, int, int] = (1, 1, 1)) -> Start:
    """As `read_start` of a path; of ASE Atoms with their momenta and masses; of what `as_system` accepts without.

    Raises:
        BadInput: As `read_start` and `as_system`.
    """
    if isinstance(structure, (str, Path)):
        return read_start(structure, repeat=repeat)
    return _of_atoms(
        as_system(structure, repeat=repeat), structure if isinstance(structure, Atoms) else None, repeat, Path("structure")
    )


def suited(settings: SimulateSettings, system: System, *, repeat: tuple[int, int, int] = (1, 1, 1)) -> SimulateSettings:
    """The settings with a compressibility for NpT of this kind of matter, where none is stated; of molecules the user is told.

    `repeat`: How often the system repeats its cell.
    """
    if settings.ensemble != "npt" or settings.compressibility_per_GPa is not None or not bool(system.pbc.all()):
        return settings
    matter = KINDS[bulk_kind(from_atoms(to_atoms(system)), copies=int(np.prod(repeat)))]
    value = matter.compressibility_per_GPa
    if matter.molecules:
        kind = matter.text.partition(":")[0]
        notify(f"the barostat takes the compressibility of {kind}, {value:g}/GPa; --compressibility-per-GPa states another")
    return replace(settings, compressibility_per_GPa=value)


def _atoms(path: Path) -> Any:
    """What ASE reads of the file; None for CIF, which holds neither momenta nor masses."""
    kind = check_file(path)
    if kind == "cif":
        return None
    return read_atoms(path, kind, -1)[0]


def _of_atoms(system: System, atoms: Any, repeat: tuple[int, int, int], path: Path) -> Start:
    if atoms is None or len(atoms) * int(np.prod(repeat)) != system.n_atoms:
        return Start(system=system)
    times = int(np.prod(repeat))
    momenta = np.tile(atoms.get_momenta() / ASE_MOMENTUM, (times, 1)) if atoms.has("momenta") else np.zeros((1, 3))
    check_masses(atoms.get_masses(), path)
    masses, largest = np.tile(atoms.get_masses(), times), float(np.abs(momenta).max(initial=0.0))
    if not largest <= _LARGEST_MOMENTUM:
        problem, allowed = f"a momentum of {largest:.3g} u·Å/fs", f"finite, at most {_LARGEST_MOMENTUM:g} u·Å/fs"
        raise BadInput(path, problem, allowed=allowed, fix="remove the momenta from the file, or --velocities random")
    other = np.abs(masses / atomic_masses[system.numbers.numpy()] - 1.0).max() > _OTHER
    mask, notes = held_atoms(atoms)
    for note in notes:
        notify(note)
    if mask.any():
        holds = np.tile(mask, times)
        masses = np.where(holds, np.inf, masses)
        momenta = np.where(holds[:, None], 0.0, momenta) if len(momenta) > 1 else momenta
    return Start(
        system=system, momenta=torch.from_numpy(momenta.copy()) if momenta.any() else None,
        masses=torch.from_numpy(masses.copy()) if other or mask.any() else None,
    )  # fmt: skip
