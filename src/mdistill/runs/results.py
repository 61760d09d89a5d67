"""`results.json`: results of a command with errors and units; the only input of the report.

Schema (format 2); an estimate is {value, error, unit, samples, interval, upper_limit}:

    command, version, created, settings, hardware, provenance, notes: [text], citations: [key]
    values     {name: estimate}
    headlines  [{quantity, value, temperature_K, doubts: [text]}]: the most important values, by name
    gates      [{name, measured: estimate, limit, sense, passed, detail, parts: {name: estimate}, limits: {name: number},
               judged, fix}]
    rungs      [{kind, name, cost: estimate, speed_up: estimate, errors: {name: estimate}, note, command, model}]
    tables     [{name, title, section, columns, rows: [[text, number, estimate or null]], caption}]
    figures    [{name, title, section, x_label, y_label, series, kind, caption, x_ticks}]
    scenes     [{name, title, section, numbers, positions, cell, mobile, density, hops, caption}]: structures in space
    sections   [{name, values, gates, tables, figures, scenes}]: names of parts that a command replaces when it runs again

Files of format 1 are read too (`earlier.upgraded_results`).
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mdistill.errors import BadInput
from mdistill.estimates import Estimate, Gate
from mdistill.io.files import read_json, write_json
from mdistill.notices import heard
from mdistill.runs.earlier import upgraded_results
from mdistill.runs.read_types import check_lengths, check_types
from mdistill.runs.sealed import sealed, unsealed
from mdistill.settings import to_json

FORMAT = 2
PARTS = ("gates", "tables", "figures", "scenes")
"""Named parts of results, besides the values."""
KINDS = ("teacher", "potential", "direct", "stride")
RungKind = Literal["teacher", "potential", "direct", "stride"]
Quantity = Literal[
    "stride_speed_up",
    "speed_up",
    "conductivity",
    "diffusivity",
    "activation_energy",
    "density",
    "surface_u2",
    "force_mae",
    "energy_mae",
]
Cell = str | int | float | Estimate | None
"""A table cell; floats are shown with 4 significant digits, estimates as value ± error."""
BROKEN = " MD"
"""End of the name of the gate that fails where the dynamics of a stage blew up ("production MD")."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table: `columns` are headings with units in brackets, `section` is where the report shows it."""

    name: str
    title: str
    section: str
    columns: list[str]
    rows: list[list[Cell]]
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Series:
    """One line or point set of a figure.

    Attributes:
        error: One standard error of y; None where there is none.
        style: "thin": one of several replicas, without a label in the legend.
        subject: Its subject; series of one subject share a colour. "": its label.
        limit: Whether its points are upper limits.
    """

    label: str
    x: list[float]
    y: list[float]
    error: list[float] | None = None
    style: Literal["line", "points", "dashed", "thin", "band"] = "line"
    subject: str = ""
    limit: bool = False


@dataclass(frozen=True, slots=True)
class Figure:
    """A plot. kind: "line" linear axes, "loglog", "parity" (square, diagonal drawn), "arrhenius" (log y against 1000/T), "bands"
    (phonon bands: `x_ticks` are the special points, label and place; gaps between bands are null). A `folded` figure is shown on
    demand.
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
    folded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Density:
    """Number density of the mobile ion on a periodic grid over the cell of its scene.

    Attributes:
        shape: Number of voxels along each lattice vector.
        values: Voxel by voxel, the third index fastest; 255 is `largest`.
        largest: Largest density, ions/Å³.
    """

    shape: tuple[int, int, int]
    values: list[int]
    largest: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Hops:
    """Two sites (Å, the nearest images of each other) and the number of hops between them, in either direction."""

    start: tuple[float, float, float]
    end: tuple[float, float, float]
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A structure in space, and where its mobile ions went.

    Attributes:
        name, title, section, caption: As of a `Figure`.
        numbers: Atomic numbers.
        positions: Å, one row of three for each atom.
        cell: Å, rows are lattice vectors.
        mobile: Atomic number of the mobile ion; 0: none.
        density: Density of the mobile ion.
        hops: Pairs of sites that exchanged ions.
    """

    name: str
    title: str
    section: str
    numbers: list[int]
    positions: list[list[float]]
    cell: list[list[float]]
    mobile: int = 0
    density: Density | None = None
    hops: list[Hops] = field(default_factory=list)
    caption: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """One model of the ladder, compared with the one above it.

    Attributes:
        kind: Its product; the order of `KINDS` is that of the ladder, and a run has one rung of each.
        name: Name shown.
        cost: Time of a step, µs/atom/step; of a stride, per usual time step. None: that of the rung above over `speed_up`.
        speed_up: Speed over the rung above.
        errors: Errors against the rung above, by name.
        note: Method of cost and errors, for the caption.
        command, model: Its command; sha256 or name of the model.
    """

    kind: RungKind
    name: str
    cost: Estimate | None = None
    speed_up: Estimate | None = None
    errors: dict[str, Estimate] = field(default_factory=dict)
    note: str = ""
    command: str = ""
    model: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """A value for the top of the page.

    Its parts are the values named like it: `conductivity_700K` has `conductivity_statistical_700K` (`headline_parts`).

    Attributes:
        quantity: Its quantity.
        value: Its name among the values.
        temperature_K: Its temperature, K.
        doubts: Reasons not to trust it, a short sentence each.
    """

    quantity: Quantity
    value: str
    temperature_K: float | None = None
    doubts: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Names of the parts that a command adds to a run, and replaces when it runs again."""

    name: str
    values: list[str] = field(default_factory=list)
    gates: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    figures: list[str] = field(default_factory=list)
    scenes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """All results of one command. Tables, figures and scenes are shown in the sections "ladder", "structure", "gates",
    "accuracy", "matter", "molecules", "vibrations", "strides", "dynamics", "transport", "training", "settings", in this order,
    and in others after them.
    """

    command: str
    settings: dict[str, Any] = field(default_factory=dict)
    hardware: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    values: dict[str, Estimate] = field(default_factory=dict)
    headlines: list[Headline] = field(default_factory=list)
    gates: list[Gate] = field(default_factory=list)
    rungs: list[Rung] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    scenes: list[Scene] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    citations: list[str] = field(default_factory=list)
    version: str = ""
    created: str = ""


def merge(first: Results, second: Results) -> Results:
    """Both together; `second`'s values, headlines and rungs replace equal names; command and settings are those of `first`."""
    told = {(h.quantity, h.temperature_K): h for h in first.headlines + second.headlines}
    named = {section.name: section for section in first.sections + second.sections}
    return dataclasses.replace(
        first, values=first.values | second.values, headlines=list(told.values()), gates=first.gates + second.gates,
        rungs=_ladder(first.rungs + second.rungs), sections=list(named.values()), tables=first.tables + second.tables,
        figures=first.figures + second.figures, scenes=first.scenes + second.scenes,
        notes=first.notes + [n for n in second.notes if n not in first.notes],
        citations=first.citations + [c for c in second.citations if c not in first.citations],
    )  # fmt: skip


def headline_parts(results: Results, headline: Headline) -> dict[str, Estimate]:
    """Statistical and model error of a headline, where the results hold them."""
    rest = headline.value.removeprefix(headline.quantity)
    named = {part: f"{headline.quantity}_{part}{rest}" for part in ("statistical", "model")}
    return {part: results.values[name] for part, name in named.items() if name in results.values}


def _ladder(rungs: list[Rung]) -> list[Rung]:
    """The last rung of each kind, from the top; one without a cost gets it from its speed-up."""
    known, ladder = {rung.kind: rung for rung in rungs}, list[Rung]()
    for rung in (known[kind] for kind in KINDS if kind in known):
        above = ladder[-1].cost if ladder else None
        if rung.cost is None and rung.speed_up is not None and above is not None:
            rung = dataclasses.replace(rung, cost=above.over(rung.speed_up, above.unit))  # noqa: PLW2901
        ladder.append(rung)
    return ladder


def in_section(name: str, results: Results) -> Results:
    """The results as one section, for `add_to_run`."""
    parts = {part: [one.name for one in getattr(results, part)] for part in PARTS}
    return dataclasses.replace(results, sections=[Section(name=name, values=list(results.values), **parts)])


def with_sections(whole: Results, added: Results) -> Results:
    """The results of a run with the sections of a command in place of older ones of the same names, and its rungs.

    Notes of the command are left out.
    """
    named = {section.name for section in added.sections}
    old = [section for section in whole.sections if section.name in named]
    values = {name for section in old for name in section.values}
    replaced = {part: {name for section in old for name in getattr(section, part)} for part in PARTS}
    left: dict[str, Any] = {
        part: [one for one in getattr(whole, part) if one.name not in names] for part, names in replaced.items()
    }
    left["values"] = {name: value for name, value in whole.values.items() if name not in values}
    rest = dataclasses.replace(whole, headlines=[h for h in whole.headlines if h.value not in values], **left)
    return merge(rest, dataclasses.replace(added, notes=[]))


def add_to_run(run: Path, added: Results) -> Results:
    """Write the sections and rungs of a command into the results of a run folder; returns the results."""
    whole = with_sections(read_results(run), added)
    write_results(run, whole)
    return whole


def write_results(folder: Path, results: Results) -> Path:
    """Write `results.json` into the folder and give its path. Non-finite numbers become null; notices are added to the notes."""
    path = folder / "results.json"
    notes = [*results.notes, *(text for text in heard() if text not in results.notes)]
    content = {"format": FORMAT} | to_json(dataclasses.replace(results, notes=notes))
    write_json(path, sealed(json.loads(json.dumps(content))))
    return path


def read_results(path: Path) -> Results:
    """Read `results.json` (a file, or the folder that holds it).

    Raises:
        BadInput: Absent, not JSON, of another format, or not of this schema.
    """
    path = path if path.suffix == ".json" else path / "results.json"
    return parsed_results(read_json(path), path)


def parsed_results(raw: Any, path: Path) -> Results:
    """Results from the content of a file; errors as `read_results`."""
    raw = unsealed(path, raw)
    if not isinstance(raw, dict) or raw.get("format") not in (1, FORMAT):
        found = raw.get("format") if isinstance(raw, dict) else type(raw).__name__
        raise BadInput(path, f"format {found!r}", allowed=f"format 1 or {FORMAT}", fix="run the command again with this version")
    try:
        return _results(upgraded_results(raw) if raw["format"] == 1 else raw)
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise BadInput(path, f"not a results file ({error!r})", allowed="results.json", fix="run the command again") from error


def estimate_from(raw: dict[str, Any]) -> Estimate:
    """An `Estimate` from its JSON form."""
    fields = {k: v for k, v in raw.items() if k != "kind"}
    if fields.get("interval") is not None:
        fields["interval"] = tuple(fields["interval"])
    return Estimate(**fields)


def _cell(raw: Any) -> Cell:
    return estimate_from(raw) if isinstance(raw, dict) else raw


def _results(raw: dict[str, Any]) -> Results:
    gates = [Gate(**g | {"measured": estimate_from(g["measured"]), "parts": _estimates(g["parts"])}) for g in raw["gates"]]
    tables = [Table(**t | {"rows": [[_cell(c) for c in row] for row in t["rows"]]}) for t in raw["tables"]]
    figures = [
        Figure(**f | {"series": [Series(**s) for s in f["series"]], "x_ticks": [(name, x) for name, x in f.get("x_ticks", [])]})
        for f in raw["figures"]
    ]
    built = {
        "values": _estimates(raw["values"]), "headlines": [Headline(**h) for h in raw["headlines"]], "gates": gates,
        "rungs": [_rung(rung) for rung in raw["rungs"]], "sections": [Section(**section) for section in raw["sections"]],
        "tables": tables, "figures": figures, "scenes": [_scene(scene) for scene in raw.get("scenes", [])],
    }  # fmt: skip
    results = Results(**{k: v for k, v in raw.items() if k != "format"} | built)
    check_types(results, Results, "")
    for table in tables:
        for number, row in enumerate(table.rows):
            check_lengths(f"columns and row {number} of the table {table.name}", table.columns, row)
    for series in (one for figure in figures for one in figure.series):
        check_lengths(f"x, y and errors of {series.label}", series.x, series.y, series.error)
    for scene in results.scenes:
        check_lengths(f"numbers and positions of {scene.name}", scene.numbers, scene.positions)
        check_lengths(f"vectors of {scene.name}", [0] * 3, scene.cell, *scene.cell, *scene.positions)
        if not all(0 <= number <= 118 for number in (*scene.numbers, scene.mobile)):
            raise TypeError(f"atomic numbers of {scene.name}")
        if scene.density is not None:
            check_lengths(f"grid and values of {scene.name}", range(math.prod(scene.density.shape)), scene.density.values)
    return results


def _rung(raw: dict[str, Any]) -> Rung:
    measured = {name: _cell(raw[name]) for name in ("cost", "speed_up")}
    return Rung(**raw | measured | {"errors": _estimates(raw["errors"])})


def _scene(raw: dict[str, Any]) -> Scene:
    density, hops = raw["density"], [Hops(**h | {end: tuple(h[end]) for end in ("start", "end")}) for h in raw["hops"]]
    built = None if density is None else Density(**density | {"shape": tuple(density["shape"])})
    return Scene(**raw | {"density": built, "hops": hops})


def _estimates(raw: dict[str, Any]) -> dict[str, Estimate]:
    return {name: estimate_from(value) for name, value in raw.items()}
