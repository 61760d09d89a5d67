"""The composition read from a CIF against the formula that it states: rows after a stray tag are lost without a word."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ase.data import atomic_numbers, chemical_symbols

from mdistill.errors import BadInput

LARGEST_MISMATCH = 0.2
"""Largest share of an element's atoms that may differ from the stated formula; more is refused."""
NOTED = 0.02
"""Share from which the difference is noted."""
_ORPHAN = "Possible issue in CIF file at line: "
"""What pymatgen warns of for a value that belongs to no tag."""
_PART = re.compile(r"([A-Z][a-z]?)(\d*\.?\d*)")


def check_formula(composition: Mapping[int, float], data: Mapping[str, Any], source: str) -> list[str]:
    """Compare the atoms of a cell with Z formula units of `_chemical_formula_sum`; notes on small differences.

    Z is the whole number, at least 1, that fits best. Hydrogen that the formula states and no row holds is refused too.

    Raises:
        BadInput: An element differs by more than LARGEST_MISMATCH.
    """
    stated = formula_units(data.get("_chemical_formula_sum"))
    if not stated or not composition:
        return []
    units = max(1, round(sum(composition.values()) / sum(stated.values())))
    worst, share = 0, 0.0
    for number in stated.keys() | composition.keys():
        expected, found = units * stated.get(number, 0.0), composition.get(number, 0.0)
        mismatch = abs(found - expected) / max(found, expected)
        worst, share = (number, mismatch) if mismatch > share else (worst, share)
    if share <= NOTED:
        return []
    symbol, found, expected = chemical_symbols[worst], composition.get(worst, 0.0), units * stated.get(worst, 0.0)
    times = "" if units == 1 else f"{units} × "
    problem = f"the rows hold {found:g} {symbol}, {times}the stated formula {data['_chemical_formula_sum']!r} holds {expected:g}"
    if share > LARGEST_MISMATCH:
        allowed = "rows of atoms that add up to _chemical_formula_sum"
        fix = "look for a tag or a missing line inside the loop of atoms; correct the formula line if the rows are right"
        raise BadInput(source, problem, allowed=allowed, fix=fix)
    return [problem]


def refuse_lost_rows(text: str, warned: Sequence[str], source: str) -> None:
    """Refuse a CIF whose reader left out values that look like coordinates, or whose last text field does not end.

    Args:
        text: The file.
        warned: Warnings of pymatgen's reader.
        source: The file's name, for the message.
    Raises:
        BadInput: Three numbers in a row that belong to no tag, or an odd number of lines that begin with a semicolon.
    """
    fix = "look for a tag, a missing line or a semicolon inside the loop of atoms, or export the file again"
    words = [one.removeprefix(_ORPHAN) for one in warned if one.startswith(_ORPHAN)]
    numeric = [re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?(\(\d+\))?", word) is not None for word in words]
    if any(all(numeric[k : k + 3]) for k in range(len(words) - 2)):
        problem = f"{len(words)} values belong to no tag ({' '.join(words[:8])} …): rows of atoms would be lost"
        raise BadInput(source, problem, allowed="values in a loop or after a tag", fix=fix)
    if sum(line.startswith(";") for line in text.splitlines()) % 2:
        raise BadInput(source, "a text field that begins with ';' does not end", allowed="text between two ';'", fix=fix)


def formula_units(text: object) -> dict[int, float]:
    """Atomic number → count of a formula such as 'Li6 P S5 Cl'; empty where it cannot be read."""
    words = str(text or "").replace("'", "").replace('"', "").strip()
    parts = _PART.findall(words)
    if not parts or re.sub(_PART, "", words).strip():
        return {}
    counts: dict[int, float] = {}
    for symbol, count in parts:
        number = atomic_numbers.get({"D": "H", "T": "H"}.get(symbol, symbol), 0)
        try:
            counts[number] = counts.get(number, 0.0) + (float(count) if count else 1.0)
        except ValueError:
            return {}
    counts = {number: count for number, count in counts.items() if count > 0.0}
    return {} if 0 in counts else counts
