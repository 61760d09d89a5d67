"""What ASE atoms hold beside elements and positions: atoms held fixed, masses, velocities, moments."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool

if TYPE_CHECKING:
    from ase import Atoms


def held_atoms(atoms: Atoms) -> tuple[Bool[np.ndarray, " atom"], list[str]]:
    """Atoms that constraints hold in all three directions, and a note for each constraint that is not kept.

    FixAtoms, move_mask and selective dynamics F F F hold an atom. One that may move in some direction moves in all.
    """
    from ase.constraints import FixAtoms, FixCartesian, FixScaled

    mask, notes = np.zeros(len(atoms), dtype=bool), []
    partly, others = 0, set()
    for one in atoms.constraints:
        if isinstance(one, FixAtoms):
            mask[one.index] = True
        elif isinstance(one, (FixCartesian, FixScaled)):
            fixed = np.asarray(one.mask, dtype=bool)
            mask[one.index] |= bool(fixed.all())
            partly += 0 if fixed.all() or not fixed.any() else len(np.atleast_1d(one.index))
        else:
            others.add(type(one).__name__)
    if partly:
        notes.append(f"{partly} atoms that the file holds in one or two directions only move in all")
    if others:
        notes.append(f"constraints of the file that are not kept: {', '.join(sorted(others))}")
    return mask, notes


def unused_by_crystals(atoms: Atoms) -> list[str]:
    """Notes on what the file says and a crystal does not hold: it is used by `mdistill simulate` or not at all."""
    from ase.data import atomic_masses

    mask, notes = held_atoms(atoms)
    if mask.any():
        notes.append(f"{int(mask.sum())} of {len(atoms)} atoms are held in the file: only `mdistill simulate` keeps them so")
    if atoms.has("masses") and (np.abs(atoms.get_masses() / np.asarray(atomic_masses)[atoms.numbers] - 1.0) > 1e-3).any():
        notes.append("the masses of the file are not the standard ones: only `mdistill simulate` uses them")
    if atoms.has("momenta") and atoms.get_momenta().any():
        notes.append("the file holds velocities: only `mdistill simulate` uses them")
    stated = [f"{name}={atoms.info[name]}" for name in ("charge", "unpaired") if atoms.info.get(name)]
    if stated:
        notes.append(f"{', '.join(stated)} of the file: for xtb, CP2K, PySCF and nets trained with --states alone")
    names = {"initial_magmoms": "magnetic moments", "initial_charges": "atomic charges"}
    told = [what for name, what in names.items() if atoms.has(name) and atoms.arrays[name].any()]
    return [*notes, f"not used: {' and '.join(told)} of the file"] if told else notes
