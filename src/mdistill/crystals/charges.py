"""Formal charges of the elements in a crystal: as its file states them, else the usual ones that make it neutral."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from mdistill.crystals.checks import neighbour_pairs

if TYPE_CHECKING:
    from mdistill.crystals.crystal import Crystal

NEUTRAL = 0.05
"""A disordered crystal whose net charge is below this fraction of the positive charge counts as neutral: refined
occupancies are noisy. Whole atoms must balance exactly."""

_USUAL = """
H 1 -1, Li 1, Be 2, B 3, C 4 -4 2, N -3 5 3, O -2 -1, F -1, Na 1, Mg 2, Al 3, Si 4 -4, P 5 3 4 -3, S -2 6 4 -1, Cl -1 7 5,
K 1, Ca 2, Sc 3, Ti 4 3 2, V 5 4 3 2, Cr 3 6 2 4, Mn 2 3 4 7, Fe 3 2 4, Co 2 3 4, Ni 2 3 4, Cu 2 1, Zn 2, Ga 3, Ge 4 2 -4,
As 5 3 -3, Se -2 4 6, Br -1 5, Rb 1, Sr 2, Y 3, Zr 4, Nb 5 4 3, Mo 6 4 5 3, Tc 7 4, Ru 4 3, Rh 3, Pd 2 4, Ag 1, Cd 2, In 3 1,
Sn 4 2, Sb 5 3 -3, Te -2 4 6, I -1 5 7, Cs 1, Ba 2, La 3, Ce 3 4, Pr 3 4, Nd 3, Sm 3, Eu 3 2, Gd 3, Tb 3, Dy 3, Ho 3, Er 3,
Tm 3, Yb 3 2, Lu 3, Hf 4, Ta 5, W 6 4 5, Re 7 4, Os 4, Ir 4 3, Pt 4 2, Au 3 1, Hg 2 1, Tl 1 3, Pb 2 4, Bi 3 5, Th 4, U 6 4
"""
"""Charges (e) an element usually has in solids, the commonest first (Greenwood and Earnshaw, Chemistry of the Elements)."""

_BONDED = 1.25
"""Longest bond of O, S or Se to its like over the sum of covalent radii: 1.65, 2.6 and 3.0 Å."""

NON_METALS = (1, 5, 6, 7, 8, 9, 14, 15, 16, 17, 32, 33, 34, 35, 51, 52, 53)


def formal_charges(crystal: Crystal) -> dict[int, float] | None:
    """Atomic number -> formal charge (e).

    The file's oxidation numbers are taken where they make the crystal neutral. Otherwise the combination of usual
    charges that makes it neutral (see NEUTRAL) and needs the commonest ones; an element left over without an integer
    choice (mixed valence) gets the average that balances the others if it lies between its usual charges. Metals alone
    are all zero.

    Returns:
        None where no combination of usual charges is neutral.
    """
    composition = crystal.composition
    slack = 1e-6 if crystal.ordered else NEUTRAL
    if set(composition) <= set(crystal.oxidation) and _neutral(composition, crystal.oxidation, slack):
        return {number: crystal.oxidation[number] for number in composition}
    if not any(number in NON_METALS for number in composition):
        return dict.fromkeys(composition, 0.0)
    usual = _usual_charges()
    if any(number not in usual for number in composition):
        return None
    best: tuple[float, dict[int, float]] | None = None
    numbers = list(composition)
    for chosen in product(*(range(len(usual[number])) for number in numbers)):
        charges = {number: usual[number][k] for number, k in zip(numbers, chosen, strict=True)}
        if _neutral(composition, charges, slack):
            net = abs(net_charge(composition, charges)) / positive_charge(composition, charges)
            rank = float(np.square(chosen).sum()) + net
            if best is None or rank < best[0]:
                best = (rank, charges)
    commonest = {number: usual[number][0] for number in numbers}
    mixed = _mixed_valence(composition, commonest, usual)
    if mixed is not None and (best is None or best[0] > 2.0):
        return mixed
    return None if best is None else best[1]


def usual_charges(number: int) -> list[float]:
    """Charges (e) that an element usually has in solids, the commonest first; none where no compound is known."""
    return _usual_charges().get(number, [])


def net_charge(composition: dict[int, float], charges: dict[int, float]) -> float:
    """Net charge of a cell, e."""
    return sum(count * charges[number] for number, count in composition.items())


def positive_charge(composition: dict[int, float], charges: dict[int, float]) -> float:
    """Sum of the positive charges of a cell, e."""
    return max(sum(count * max(charges[number], 0.0) for number, count in composition.items()), 1e-12)


def missing_atoms_note(crystal: Crystal) -> list[str]:
    """A note where a crystal is neutral only with O, S or Se at −1 and none of these has a bond to its like: atoms are missing.

    Published files without their Li look so: Si2S8 for Li8Si2S8.
    """
    if not all(crystal.pbc) or {1, 6} & set(crystal.composition):
        return []
    from ase.data import chemical_symbols, covalent_radii

    charges = formal_charges(crystal) or {}
    for number in (8, 16, 34):
        if charges.get(number) != -1.0 or len(charges) == 1:
            continue
        mine = np.array([number in site.occupancies for site in crystal.sites])
        i, j, _ = neighbour_pairs(crystal, 2.0 * _BONDED * covalent_radii[number])
        if not (mine[i] & mine[j]).any():
            symbol = chemical_symbols[number]
            return [
                f"{crystal.source}: {crystal.formula} is neutral only with {symbol} at −1, which has {symbol}–{symbol} bonds, "
                "and there are none. Atoms are missing, it seems: published files often lack Li or H"
            ]
    return []


def _neutral(composition: dict[int, float], charges: dict[int, float], slack: float) -> bool:
    return abs(net_charge(composition, charges)) <= slack * positive_charge(composition, charges)


def _mixed_valence(
    composition: dict[int, float], commonest: dict[int, float], usual: dict[int, list[float]]
) -> dict[int, float] | None:
    """The commonest charges with one element's average shifted so that the sum is exactly zero."""
    net = net_charge(composition, commonest)
    for number in sorted(composition, key=lambda n: -len(usual[n])):
        average = commonest[number] - net / composition[number]
        positive = [charge for charge in usual[number] if charge > 0]
        if commonest[number] > 0 and min(positive) <= average <= max(positive):
            return commonest | {number: average}
    return None


def _usual_charges() -> dict[int, list[float]]:
    from ase.data import atomic_numbers

    entries = (entry.split() for entry in _USUAL.replace("\n", " ").split(","))
    return {atomic_numbers[symbol]: [float(charge) for charge in charges] for symbol, *charges in entries}
