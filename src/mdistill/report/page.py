"""`results.json` → one self-contained HTML page: no request, readable in light, in dark and on paper, without script too."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdistill.errors import BadInput
from mdistill.estimates import Gate
from mdistill.io.files import write_text
from mdistill.report.citations import reference, works
from mdistill.report.density_maps import density_svgs, hop_svgs
from mdistill.report.downloads import data_uri, density_csv, figure_csv, hops_csv, scene_xyz
from mdistill.report.figures import Drawn, draw, drawn_svg, write_figures
from mdistill.report.headlines import headlines
from mdistill.report.ladder import all_tables, ladder_svg
from mdistill.report.scene import legend, scene_data, scene_svg
from mdistill.report.tables import BELOW_DETECTION, Shown, flat_texts, limit_text, show, shown_rows
from mdistill.runs.results import Figure, Results, Scene, Table, add_to_run, read_results

SECTIONS = {
    "ladder": "The ladder", "structure": "Structure and disorder", "gates": "Gates", "accuracy": "Accuracy",
    "what DFT changed": "What DFT changed", "matter": "Density and layers", "molecules": "Molecules",
    "vibrations": "Vibrations", "direct": "Direct forces", "strides": "Long strides", "dynamics": "Dynamics",
    "transport": "Transport", "training": "Training", "settings": "Further tables",
}  # fmt: skip
"""Sections in the order shown; sections of other names follow them."""

_FORMULA = re.compile(r"(?:[A-Z][a-z]?\d*(?:\.\d+)?)+")
_SUBSCRIPTS = str.maketrans("0123456789.", "₀₁₂₃₄₅₆₇₈₉.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """A figure ready for the page, with its data as an address that holds them."""

    figure: Figure
    svg: str
    csv: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A scene ready for the page.

    Attributes:
        scene: The scene.
        svg: Its atoms.
        data: Data of the viewer.
        densities, hops: A map for each lattice vector, where there is a density.
        legend: Symbol, colour and number of atoms of each element.
        files: Names and addresses of its data.
    """

    scene: Scene
    svg: str
    data: str
    densities: list[str]
    hops: list[str]
    legend: list[tuple[str, str, int]]
    files: list[tuple[str, str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chapter:
    """A section of the page."""

    key: str
    title: str
    tables: list[Table]
    drawings: list[Drawing]
    folded: list[Drawing]
    pictures: list[Picture]


def write_report(folder: Path, *, figures: bool = False) -> Path:
    """Read `folder`/results.json and write `folder`/report.html; returns its path.

    Args:
        folder: Folder of the results.
        figures: Write each figure as SVG and PNG too.
    Raises:
        BadInput: results.json is absent or not of its schema.
        MdistillError: The folder cannot be written.
    """
    results, path = read_results(folder), folder / "report.html"
    check(results)
    drawings = [draw(figure) for figure in results.figures]
    write_text(path, _page(results, drawings))
    if figures:
        write_figures(drawings, folder)
    return path


def add_to_report(run: Path, results: Results) -> Path:
    """Add the sections and rungs of a command to the results of a run folder; page and figures are written again."""
    add_to_run(run, results)
    return write_report(run, figures=True)


def render(results: Results) -> str:
    """The page as text, the same for the same results.

    Raises:
        BadInput: A table or figure whose parts do not fit together.
    """
    check(results)
    return _page(results, [draw(figure) for figure in results.figures])


def _page(results: Results, drawings: Sequence[Drawn]) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    room = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(room), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"shown": show, "rows": shown_rows, "limit": limit_text, "svg": Markup}
    failed, script = [g for g in results.gates if not g.passed], (room / "viewer.js").read_text(encoding="utf-8")
    environment.globals |= {"numeric_columns": numeric_columns, "below_detection": BELOW_DETECTION}
    return environment.get_template("page.html").render(
        results=results,
        style=Markup((room / "style.css").read_text(encoding="utf-8")),  # noqa: S704
        title=title(results),
        subtitle=_subtitle(results),
        script=Markup(script) if results.scenes else "",  # noqa: S704
        script_hash=b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        headlines=headlines(results),
        failed=failed,
        gates=failed + [g for g in results.gates if g.passed],
        gauge=gauge,
        known=SECTIONS,
        ladder=ladder_svg(results),
        sections=_chapters(results, drawings),
        settings=flat_texts(results.settings),
        hardware=flat_texts(results.hardware),
        provenance=flat_texts({k: v for k, v in results.provenance.items() if k != "command_line"}),
        repeat=str(results.provenance.get("command_line", "")),
        citations=_citations(results),
    )


def check(results: Results) -> None:
    """Reject tables and figures whose parts do not fit together.

    Raises:
        BadInput: Rows and columns, or x, y and error, of different length.
    """
    fix = "run the command that wrote results.json again"
    for table in results.tables:
        if any(len(row) != len(table.columns) for row in table.rows):
            raise BadInput(
                f"table {table.name!r}", f"a row without {len(table.columns)} cells", allowed="one cell for each column", fix=fix
            )
    for figure in results.figures:
        for series in figure.series:
            if len({len(series.x), len(series.y), len(series.y if series.error is None else series.error)}) > 1:
                problem, allowed = "x, y and error differ in length", "one y, and one error where given, for each x"
                raise BadInput(f"figure {figure.name!r}, series {series.label!r}", problem, allowed=allowed, fix=fix)


def title(results: Results) -> str:
    """The crystal's formula with subscripts, else the structure's file name, else the command."""
    formula = str(results.settings.get("formula") or results.provenance.get("formula") or "")
    if formula:
        return formula.translate(_SUBSCRIPTS) if _FORMULA.fullmatch(formula) else formula
    structure = results.settings.get("structure") or results.provenance.get("structure")
    return Path(str(structure)).name if structure else f"mdistill {results.command}"


def gauge(gate: Gate) -> float | None:
    """Measured value as a percentage of the gauge's width (the limit is at 80 %); None without an upper limit."""
    value, limit = gate.measured.value, gate.limit
    if value is None or limit <= 0 or value < 0 or gate.sense == "at least":
        return None
    return min(100.0, 80.0 * value / limit)


def numeric_columns(rows: Sequence[Sequence[Shown]]) -> set[int]:
    """Indices of the columns of numbers and gaps, which are right-aligned."""
    return {i for i, column in enumerate(zip(*rows, strict=True)) if i and all(c.numeric for c in column)}


def _chapters(results: Results, drawn: Sequence[Drawn]) -> list[Chapter]:
    """Sections with content, in order; the gates' section appears also with gates only."""
    tables = all_tables(results)
    named = [t.section for t in tables] + [f.section for f in results.figures] + [s.section for s in results.scenes]
    keys = list(SECTIONS) + [k for k in dict.fromkeys(named) if k not in SECTIONS]
    drawings = [
        Drawing(figure=d.figure, svg=drawn_svg(d, number=i), csv=data_uri(figure_csv(d.figure))) for i, d in enumerate(drawn)
    ]
    pictures = [_picture(scene, i) for i, scene in enumerate(results.scenes)]
    found = [
        Chapter(
            key=key,
            title=SECTIONS.get(key, key.capitalize()),
            tables=[t for t in tables if t.section == key],
            drawings=[d for d in drawings if d.figure.section == key and not d.figure.folded],
            folded=[d for d in drawings if d.figure.section == key and d.figure.folded],
            pictures=[one for one in pictures if one.scene.section == key],
        )
        for key in keys
    ]
    filled = [s.tables or s.drawings or s.folded or s.pictures or (s.key == "gates" and results.gates) for s in found]
    return [section for section, content in zip(found, filled, strict=True) if content]


def _picture(scene: Scene, number: int) -> Picture:
    files = [("structure.xyz", "XYZ", data_uri(scene_xyz(scene), "text/plain"))]
    if scene.density is not None:
        files += [("density.csv", "density", data_uri(density_csv(scene))), ("hops.csv", "hops", data_uri(hops_csv(scene)))]
    return Picture(
        scene=scene, svg=scene_svg(scene, number=number), data=scene_data(scene), legend=legend(scene), files=files,
        densities=density_svgs(scene, number=number), hops=hop_svgs(scene, number=number),
    )  # fmt: skip


def _subtitle(results: Results) -> str:
    teacher = results.settings.get("teacher")
    return f"mdistill {results.command}" + (f" · teacher {_name(teacher)}" if teacher else "")


def _name(value: Any) -> str:
    return str(value.get("name", "")) if isinstance(value, dict) else str(value)


def _citations(results: Results) -> list[dict[str, str]]:
    listed: dict[str, dict[str, str]] = {}
    for key in results.citations:
        try:
            found = works([key])
        except BadInput:
            listed[key] = {"text": key, "doi": "", "why": ""}
            continue
        listed |= {
            k: {"text": reference(c).partition(", doi:")[0], "doi": c.get("doi", ""), "why": c["why"]} for k, c in found.items()
        }
    return list(listed.values())
