"""`results.json`: what a command measured, with errors and units; the only file the report reads.

Schema (format 1): {format, command, version, created, settings, hardware, provenance, values: {name: estimate},
gates: [gate], tables: [table], figures: [figure], notes: [text], citations: [key]}.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mdistill.errors import BadInput
from mdistill.estimates import Estimate, Gate
from mdistill.io.files import read_json, write_json
from mdistill.notices import heard

FORMAT = 1
Cell = str | int | float | Estimate | None
"""A table cell; floats are shown with 4 significant digits, estimates as value ± error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table: `columns` are headings with units in brackets, `section` is where the report shows it."""

    name: str
    title: str
    section: str
    columns: list[str]
    rows: list[list[Cell]]
    caption: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line or point set of a figure; error is one standard error of y (None where there is none)."""

    label: str
    x: list[float]
    y: list[float]
    error: list[float] | None = None
    style: Literal["line", "points", "dashed", "band"] = "line"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A plot. kind: "line" linear axes, "loglog", "parity" (square, diagonal drawn), "arrhenius" (log y against 1000/T), "bands"
    (phonon bands: `x_ticks` are the special points, label and place; gaps between bands are null).
    """

    name: str
    title: str
    section: str
    x_label: str
    y_label: str
    series: list[Series]
    kind: Literal["line", "loglog", "logy", "parity", "arrhenius", "bands"] = "line"
    caption: str = ""
    x_ticks: list[tuple[str, float]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Everything one command measured. Sections: "structure", "ladder", "gates", "accuracy", "vibrations", "strides", "dynamics",
    "transport", "training", "settings"."""

    command: str
    settings: dict[str, Any] = field(default_factory=dict)
    hardware: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    values: dict[str, Estimate] = field(default_factory=dict)
    gates: list[Gate] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    citations: list[str] = field(default_factory=list)
    version: str = ""
    created: str = ""


def merge(first: Results, second: Results) -> Results:
    """Both together; `second`'s values win where names coincide, `first`'s command, settings and provenance stand."""
    return dataclasses.replace(
        first,
        values=first.values | second.values,
        gates=first.gates + second.gates,
        tables=first.tables + second.tables,
        figures=first.figures + second.figures,
        notes=first.notes + [n for n in second.notes if n not in first.notes],
        citations=first.citations + [c for c in second.citations if c not in first.citations],
    )


def write_results(folder: Path, results: Results) -> Path:
    """Write `results.json` into the folder and give its path. Non-finite numbers become null; notices are added to the notes."""
    path = folder / "results.json"
    notes = [*results.notes, *(text for text in heard() if text not in results.notes)]
    write_json(path, {"format": FORMAT} | _plain(dataclasses.replace(results, notes=notes)))
    return path


def read_results(path: Path) -> Results:
    """Read `results.json` (a file, or the folder that holds it).

    Raises:
        BadInput: Absent, not JSON, of another format, or not of this schema.
    """
    path = path if path.suffix == ".json" else path / "results.json"
    raw = read_json(path)
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        found = raw.get("format") if isinstance(raw, dict) else type(raw).__name__
        raise BadInput(path, f"format {found!r}", allowed=f"format {FORMAT}", fix="run the command again with this version")
    try:
        return _results(raw)
    except (KeyError, TypeError, AttributeError) as error:
        raise BadInput(path, f"not a results file ({error!r})", allowed="results.json", fix="run the command again") from error


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        tag = {"kind": "estimate"} if isinstance(value, Estimate) else {}
        return tag | {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (str, int, bool)) or value is None:
        return value
    return str(value)


def estimate_from(raw: dict[str, Any]) -> Estimate:
    """An `Estimate` from its JSON form."""
    fields = {k: v for k, v in raw.items() if k != "kind"}
    if fields.get("interval") is not None:
        fields["interval"] = tuple(fields["interval"])
    return Estimate(**fields)


def _cell(raw: Any) -> Cell:
    return estimate_from(raw) if isinstance(raw, dict) else raw


def _results(raw: dict[str, Any]) -> Results:
    gates = [
        Gate(**g | {"measured": estimate_from(g["measured"]), "parts": {k: estimate_from(v) for k, v in g["parts"].items()}})
        for g in raw["gates"]
    ]
    tables = [Table(**t | {"rows": [[_cell(c) for c in row] for row in t["rows"]]}) for t in raw["tables"]]
    figures = [
        Figure(**f | {"series": [Series(**s) for s in f["series"]], "x_ticks": [(name, x) for name, x in f.get("x_ticks", [])]})
        for f in raw["figures"]
    ]
    rest = {k: v for k, v in raw.items() if k not in ("format", "values", "gates", "tables", "figures")}
    values = {k: estimate_from(v) for k, v in raw["values"].items()}
    return Results(values=values, gates=gates, tables=tables, figures=figures, **rest)
