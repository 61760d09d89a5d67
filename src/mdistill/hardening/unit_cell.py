"""Unit cells for hard labels: small enough for DFT where the supercell of a run is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mdistill.crystals.crystal import Crystal
from mdistill.data.prepare import prepare
from mdistill.data.settings import PrepareSettings
from mdistill.errors import BadInput
from mdistill.interrupt import NEVER, StopRequest
from mdistill.io.structures import read_systems, write_systems
from mdistill.types import Potential, System

FILE = "unit-cells.extxyz"
_SHORTEST = 0.5
"""A cutoff for which no cell is repeated, Å."""


def unit_cells(
    crystal: Crystal, teacher: Potential, settings: PrepareSettings, folder: Path, *, most_atoms: int, seed: int,
    stop: StopRequest = NEVER,
) -> list[System]:  # fmt: skip
    """Orderings of the crystal in the cell of its file, relaxed by the teacher; written once.

    Args:
        crystal: As read.
        teacher: The teacher.
        settings: Orderings and relaxation as in the run; the cell is not repeated.
        folder: Folder of the file.
        most_atoms: Largest number of atoms.
        seed: Of the search for orderings.
        stop: Checked between relaxation steps.
    Raises:
        BadInput: As `data.prepare.prepare`; or too many atoms.
    """
    check_size(crystal, most_atoms)
    path = folder / FILE
    if not path.is_file():
        once = replace(settings, cutoff=_SHORTEST, min_length=0.0)
        write_systems(path, prepare(crystal, teacher, once, seed=seed, stop=stop).systems)
    return read_systems(path)


def check_size(crystal: Crystal, most_atoms: int) -> None:
    """Refuse a unit cell of too many atoms.

    Raises:
        BadInput: It has more than `most_atoms`.
    """
    if (count := crystal.n_atoms) > most_atoms + 0.5:
        fix = f"--harden.most-atoms {round(count)}, or a file of the primitive cell"
        raise BadInput(crystal.source, f"{count:.4g} atoms in the unit cell", allowed=f"at most {most_atoms}", fix=fix)
