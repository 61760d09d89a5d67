"""OBELiX: measured room-temperature conductivities of Li conductors, read with exact filters and grouped against leaks.

Reference: Therrien et al., arXiv 2502.14234 (2025), doi 10.48550/arXiv.2502.14234. Licence of the data: CC BY 4.0.
"""

from __future__ import annotations

import csv
import math
import os
import re
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from mdistill.errors import BadInput
from mdistill.io.files import sha256
from mdistill.transport.settings import DETECTION, FLOOR

TABLE, TEST, CIFS = "all.csv", "test.csv", "all_cifs.tar.gz"
SAME = 0.002
"""Largest difference of an atomic fraction between equal compositions."""
NEAR = 0.06
"""Sum of absolute differences of atomic fractions up to which one measurement may stand under two formulas."""
LARGEST_CIF = 5_000_000
"""Bytes; larger members of the archive are left out."""
_PART = re.compile(r"([A-Z][a-z]?)(\d+\.?\d*(?:[eE][-+]?\d+)?)")
_SIGMA, _COMPOSITION = "Ionic conductivity (S cm-1)", "True Composition"
_CELL = ("a", "b", "c", "alpha", "beta", "gamma")
_ALLOWED = "the table all.csv of OBELiX (github NRC-Mila/OBELiX, data/downloads)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One measured conductivity.

    Attributes:
        name: Its ID.
        composition: Atomic number → atoms in the cell.
        cell: a, b, c (Å), α, β, γ (°) of the published cell.
        space_group: 1 to 230.
        conductivity: S/cm, as printed.
        limit: Whether the conductivity is an upper bound ("<").
        family, source: Family of the material; doi of the measurement, lower case.
        test: Whether it belongs to the official test split.
        has_cif: Whether the set has a CIF of it.
    """

    name: str
    composition: dict[int, float]
    cell: tuple[float, float, float, float, float, float]
    space_group: int
    conductivity: float
    limit: bool
    family: str = ""
    source: str = ""
    test: bool = False
    has_cif: bool = False

    @property
    def target(self) -> float:
        """log10 of the conductivity (S/cm), at least FLOOR; an upper bound counts as its bound."""
        return max(math.log10(self.conductivity), FLOOR) if self.conductivity > 0.0 else FLOOR

    @property
    def below_detection(self) -> bool:
        """An upper bound, or a value below 10^DETECTION S/cm."""
        return self.limit or self.target < DETECTION


def obelix_folder(folder: Path | None = None) -> Path | None:
    """The folder of OBELiX: this one, `obelix` in it, or `obelix` in that of MDISTILL_DATA; None where there is none."""
    places = [folder, folder / "obelix"] if folder else [Path(os.environ.get("MDISTILL_DATA") or os.devnull) / "obelix"]
    return next((place for place in places if (place / TABLE).is_file()), None)


def read_obelix(folder: Path | None = None) -> list[Entry]:
    """All entries of OBELiX.

    Args:
        folder: Folder with all.csv and test.csv, or the one that holds `obelix/` (default: that of MDISTILL_DATA).
    Raises:
        BadInput: No table there, no rows, a column that is absent, or a value that cannot be read.
    """
    place = obelix_folder(folder)
    if place is None:
        named = folder or Path(os.environ.get("MDISTILL_DATA") or "MDISTILL_DATA")
        fix = "download all.csv, test.csv and all_cifs.tar.gz, and name their folder with --data or MDISTILL_DATA"
        raise BadInput(named, f"no {TABLE} in it", allowed=_ALLOWED, fix=fix)
    test = {row["ID"] for row in _rows(place / TEST)} if (place / TEST).is_file() else set()
    rows = _rows(place / TABLE)
    absent = [name for name in ("ID", _COMPOSITION, _SIGMA, "Space group #", *_CELL) if rows and name not in rows[0]]
    if absent or not rows:
        problem = f"no column {absent[0]!r}" if absent else "no rows"
        raise BadInput(place / TABLE, problem, allowed=_ALLOWED, fix="download the table again")
    return [_entry(row, place / TABLE, test) for row in rows]


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as handle:
            return [{k: (v or "").strip() for k, v in row.items() if isinstance(k, str)} for row in csv.DictReader(handle)]
    except (UnicodeDecodeError, csv.Error, AttributeError) as error:
        raise BadInput(path, f"is no table ({error})", allowed=_ALLOWED, fix="download the table again") from error


def _entry(row: dict[str, str], path: Path, test: set[str]) -> Entry:
    def number(name: str, text: str) -> Any:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value >= 0.0):
            problem = f"row {row['ID']!r} has {name} = {row[name]!r}"
            raise BadInput(path, problem, allowed="a number of at least 0", fix="correct or remove the row")
        return value

    text = row[_SIGMA]
    composition = composition_of(row[_COMPOSITION])
    if not composition:
        allowed, problem = "a formula such as Li24P4S20Cl4", f"row {row['ID']!r} has {_COMPOSITION} = {row[_COMPOSITION]!r}"
        raise BadInput(path, problem, allowed=allowed, fix="correct or remove the row")
    group = number("Space group #", row["Space group #"])
    if group not in range(1, 231):
        problem = f"row {row['ID']!r} has the space group {group:g}"
        raise BadInput(path, problem, allowed="1 to 230", fix="correct or remove the row")
    return Entry(
        name=row["ID"], composition=composition, cell=tuple(number(name, row[name]) for name in _CELL), space_group=int(group),
        conductivity=number(_SIGMA, text.lstrip("<")), limit=text.startswith("<"), family=row.get("Family", ""),
        source=row.get("DOI", "").lower(), test=row["ID"] in test, has_cif=row.get("Cif ID") == "done",
    )  # type: ignore[arg-type] # fmt: skip


def composition_of(formula: str) -> dict[int, float]:
    """Atomic number → atoms from a formula without brackets; {} where it is none."""
    from ase.data import atomic_numbers

    parts = _PART.findall(formula)
    if not parts or _PART.sub("", formula) or any(symbol not in atomic_numbers for symbol, _ in parts):
        return {}
    counts: dict[int, float] = {}
    for symbol, count in parts:
        counts[atomic_numbers[symbol]] = counts.get(atomic_numbers[symbol], 0.0) + float(count)
    return {number: count for number, count in sorted(counts.items()) if count > 0.0}


def fractions_of(compositions: Sequence[dict[int, float]]) -> Float[np.ndarray, "material 119"]:
    """Atomic fractions by atomic number."""
    table = np.zeros((len(compositions), 119))
    for row, composition in zip(table, compositions, strict=True):
        row[list(composition)] = list(composition.values())
    return table / table.sum(axis=1, keepdims=True)


def group_entries(entries: Sequence[Entry], *, join_repeats: bool = False) -> Int[np.ndarray, " entry"]:
    """Group numbers: entries of equal composition (within SAME) or of one doi share a group, and so do theirs.

    Held-out entries of a group that training knows would make errors too small: the same paper measured its neighbours.

    Args:
        entries: The entries.
        join_repeats: Whether `near_repeats` share a group too.
    """
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial.distance import cdist

    fractions = fractions_of([entry.composition for entry in entries])
    sources = np.array([entry.source for entry in entries])
    linked = cdist(fractions, fractions, "chebyshev") < SAME
    linked |= (sources[:, None] == sources[None, :]) & (sources != "")[:, None]
    if join_repeats:
        linked |= near_repeats(entries)
    return np.asarray(connected_components(linked, directed=False)[1], dtype=np.int64)


def near_repeats(entries: Sequence[Entry]) -> Bool[np.ndarray, "entry entry"]:
    """Pairs that may be one measurement under two formulas: compositions within NEAR, values within 0.03 decades."""
    from scipy.spatial.distance import cdist

    fractions = fractions_of([entry.composition for entry in entries])
    targets = np.array([entry.target for entry in entries])
    alike = (cdist(fractions, fractions, "cityblock") <= NEAR) & (abs(targets[:, None] - targets[None, :]) <= 0.03)
    return alike & ~np.eye(len(entries), dtype=bool)


def provenance_of(entries: Sequence[Entry], folder: Path | None = None) -> dict[str, Any]:
    """What a model says about the data that it was trained on."""
    place, groups = obelix_folder(folder), group_entries(entries)
    return {
        "data": "OBELiX: measured conductivities of Li conductors at room temperature", "citation": "arXiv 2502.14234",
        "licence": "CC BY 4.0", "data_sha256": "" if place is None else sha256(place / TABLE), "entries": len(entries),
        "groups": int(groups.max()) + 1, "below_detection": sum(one.below_detection for one in entries),
        "upper_bounds": sum(one.limit for one in entries),
    }  # fmt: skip


def cif_texts(folder: Path | None = None) -> dict[str, str]:
    """CIFs of the set by ID; {} where the archive is absent."""
    place = obelix_folder(folder)
    if place is None or not (place / CIFS).is_file():
        return {}
    texts = {}
    with tarfile.open(place / CIFS) as archive:
        for member in archive:
            if member.isfile() and member.name.endswith(".cif") and member.size < LARGEST_CIF:
                content = archive.extractfile(member)
                texts[Path(member.name).stem] = content.read().decode("utf-8", errors="replace") if content else ""
    return texts
