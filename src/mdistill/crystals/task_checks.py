"""Checks of a crystal for a task: the elements that a potential knows, the mobile ion, bulk.

Each failed check raises `BadInput` with the file, the value, what is allowed and a fix.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from mdistill.crystals.checks import ALONE, neighbour_pairs, perpendicular_heights
from mdistill.crystals.crystal import Crystal, reduced_formula
from mdistill.errors import BadInput

VACUUM = 7.0
"""Å between neighbouring layers of atoms from which a structure counts as a slab, wire or molecule."""


def check_elements(crystal: Crystal, elements: Collection[int], subject: str) -> None:
    """Reject elements that the potential does not know; an empty collection allows any.

    Args:
        crystal: The structure.
        elements: Atomic numbers the potential knows.
        subject: The potential's name, for the message.
    """
    from ase.data import chemical_symbols

    unknown = [chemical_symbols[n] for n in crystal.composition if n not in elements]
    if elements and unknown:
        known = ", ".join(chemical_symbols[n] for n in sorted(elements)[:20]) + (" …" if len(elements) > 20 else "")
        fix = "choose a teacher that knows the element (`mdistill info TEACHER` lists them)"
        raise BadInput(crystal.source, f"{', '.join(unknown)} is not known to {subject}", allowed=known, fix=fix)


def check_mobile(crystal: Crystal, symbol: str) -> None:
    """Reject a structure without the mobile ion."""
    from ase.data import atomic_numbers, chemical_symbols

    if atomic_numbers.get(symbol) not in crystal.composition:
        problem, present = (
            f"no mobile ion {symbol} in {crystal.formula}",
            ", ".join(chemical_symbols[n] for n in crystal.composition),
        )
        raise BadInput(crystal.source, problem, allowed=present, fix="name another with --mobile, or --mobile none")


def check_bulk(crystal: Crystal) -> None:
    """Reject molecules, wires and slabs where a bulk crystal is needed.

    Raises:
        BadInput: Not periodic in three directions, atoms far from each other, or more than VACUUM Å of empty space between
            layers of atoms.
    """
    fix = "give the bulk unit cell; `mdistill distill` takes molecules, wires and slabs too"
    if not all(crystal.pbc):
        raise BadInput(
            crystal.source, f"periodic only along {crystal.pbc}", allowed="periodic in three directions (bulk)", fix=fix
        )
    heights = perpendicular_heights(crystal.cell)
    for axis in range(3):
        ordered = np.sort(crystal.fractional[:, axis] % 1.0)
        gap = float(np.diff(np.append(ordered, ordered[0] + 1.0)).max() * heights[axis])
        if gap > VACUUM:
            problem = f"{gap:.1f} Å of vacuum along lattice vector {'abc'[axis]}: a slab, wire, molecule or isolated atom"
            raise BadInput(crystal.source, problem, allowed=f"bulk: at most {VACUUM:g} Å between layers of atoms", fix=fix)
    if not len(neighbour_pairs(crystal, ALONE)[0]):
        problem, allowed = f"no atom has another within {ALONE:g} Å", "bulk: bonded atoms"
        raise BadInput(crystal.source, problem, allowed=allowed, fix=f"check the scale factor and the unit of the file; {fix}")


def check_conductor(crystal: Crystal, mobile: int) -> None:
    """Reject what is no bulk conductor of the mobile ion.

    Raises:
        BadInput: Not periodic, vacuum, without the mobile ion, or of no other element.
    """
    from ase.data import chemical_symbols

    check_bulk(crystal)
    symbol = chemical_symbols[mobile]
    if crystal.composition.get(mobile, 0.0) <= 0.0:
        problem, allowed = f"no mobile ion {symbol} in {reduced_formula(crystal.composition)}", f"a structure with {symbol}"
        raise BadInput(crystal.source, problem, allowed=allowed, fix="leave the file out")
    if len(crystal.composition) == 1:
        problem = f"{symbol} alone: a metal, no ionic conductor"
        raise BadInput(crystal.source, problem, allowed="a compound", fix="leave the file out")
