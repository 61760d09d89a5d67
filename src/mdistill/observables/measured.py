"""Measured conductivities of the same composition, where OBELiX is at hand (`$MDISTILL_DATA/obelix/all.csv`)."""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ase.data import chemical_symbols

from mdistill.runs.results import Results, Series

ROOM_K = 298.0
"""Temperature (K) at which room-temperature values are drawn."""
_TABLE = Path("obelix", "all.csv")
_SAME = 0.005
"""Largest difference of an atomic fraction between equal compositions."""
_PART = re.compile(r"([A-Z][a-z]?)(\d*\.?\d*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """A conductivity (mS/cm) at room temperature; `limit`: it is an upper bound. `source`: its doi."""

    conductivity: float
    limit: bool
    source: str


def measured_conductivities(numbers: Sequence[int], data: Path | None = None) -> list[Measurement]:
    """Room-temperature conductivities of a composition in OBELiX; none where the table is not at hand.

    Args:
        numbers: Atomic number of every atom.
        data: Folder that holds `obelix/`; by default that of MDISTILL_DATA.
    Reference:
        Therrien et al., arXiv 2502.14234 (2025), doi 10.48550/arXiv.2502.14234.
    """
    folder = data or Path(os.environ.get("MDISTILL_DATA") or os.devnull)
    if not (folder / _TABLE).is_file():
        return []
    wanted, found = _fractions(Counter(chemical_symbols[z] for z in numbers)), list[Measurement]()
    with open(folder / _TABLE, encoding="utf-8", newline="") as handle:
        for row in csv.DictReader(handle):
            formula = row.get("True Composition") or row["Reduced Composition"]  # the reduced one may have brackets
            parts = _fractions({element: float(n or 1) for element, n in _PART.findall(formula)})
            text = row["Ionic conductivity (S cm-1)"].strip()
            same = parts.keys() == wanted.keys() and all(abs(parts[e] - wanted[e]) < _SAME for e in wanted)
            if same and text:
                value = 1e3 * float(text.lstrip("<"))
                found.append(Measurement(conductivity=value, limit=text.startswith("<"), source=row["DOI"]))
    return found


def with_measurements(results: Results, numbers: Sequence[int], data: Path | None = None) -> Results:
    """The results with measured values in the Arrhenius plot of the conductivity, and their citation."""
    measured = measured_conductivities(numbers, data)
    if not measured or not any(figure.name == "arrhenius-conductivity" for figure in results.figures):
        return results
    added, name = [], "measured"
    for limit in (False, True):
        y = [one.conductivity for one in measured if one.limit == limit]
        label = f"{name}, upper limit" if limit else name
        added += [Series(label=label, x=[1000.0 / ROOM_K] * len(y), y=y, style="points", subject=name, limit=limit)] if y else []
    figures = [
        replace(f, series=[*f.series, *added], caption=f"{f.caption} Measured: room temperature (OBELiX), drawn at {ROOM_K:g} K.")
        if f.name == "arrhenius-conductivity"
        else f
        for f in results.figures
    ]
    return replace(results, figures=figures, citations=[*results.citations, "obelix"])


def _fractions(counts: dict[str, float] | Counter[str]) -> dict[str, float]:
    total = float(sum(counts.values())) or 1.0
    return {element: n / total for element, n in counts.items()}
