"""A crystal as a file describes it: sites with their occupancies, a cell, and what they add up to."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Float

FULL = 1.0e-3
"""A site counts as fully occupied by one element when its occupancy is within this of one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One position of a crystal.

    Attributes:
        fractional: Coordinates along the lattice vectors (Å along Cartesian axes where a lattice vector is missing).
        occupancies: Atomic number -> occupancy (0 to 1); the rest up to 1 is vacancy.
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
        source: The file or other origin, for messages.
        sha256: Hex digest of the file, "" where there is none.
        oxidation: Atomic number -> charge (e) where the file states oxidation numbers.
        charge, unpaired: Total charge (e) and number of unpaired electrons where the file states them.
        notes: Decisions made while reading, one sentence each, shown to the user.
        unused: What the file says and a crystal does not hold (atoms held fixed, masses, velocities), likewise.
    """

    cell: Float[np.ndarray, "3 3"]
    pbc: tuple[bool, bool, bool]
    sites: tuple[Site, ...]
    source: str = "structure"
    sha256: str = ""
    oxidation: dict[int, float] = field(default_factory=dict)
    charge: int | None = None
    unpaired: int | None = None
    notes: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

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
    amounts = ((chemical_symbols[number], f"{count:.4g}") for number, count in parts)
    return "".join(symbol + (amount if amount != "1" else "") for symbol, amount in amounts)


def _group(number: int) -> int:
    """Group of the periodic table, 1 to 18; 3 for lanthanides and actinides."""
    core = max((noble for noble in (2, 10, 18, 36, 54, 86) if noble < number), default=0)
    place, length = number - core, {0: 2, 2: 8, 10: 8, 18: 18, 36: 18}.get(core, 32)
    return place if place <= 2 else max(3, place + 18 - length)
