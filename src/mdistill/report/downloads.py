"""Data of figures and scenes as text files that the page itself holds: a link saves them, without a request."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from urllib.parse import quote

import numpy as np
from ase.data import chemical_symbols

from mdistill.report.figures import drawn_points
from mdistill.runs.results import Figure, Scene

_PLAIN = "!*()-._~,;:/?@=+$ '"


def data_uri(text: str, kind: str = "text/csv") -> str:
    """Text as an address that holds it."""
    return f"data:{kind};charset=utf-8,{quote(text, safe=_PLAIN)}"


def figure_csv(figure: Figure) -> str:
    """The points of a figure, one a row: series, x, y, one standard error. Six digits; a gap is an empty cell.

    Of a parity plot these are the points drawn: without those that coincide.
    """
    rows: list[Sequence[str]] = []
    for series in figure.series:
        x, y = drawn_points(figure, series)
        error = series.error if series.error is not None and len(series.error) == len(x) else [None] * len(x)
        rows += [(series.label, *map(_number, row)) for row in zip(x, y, error, strict=True)]
    return _table(["series", figure.x_label, figure.y_label, "standard error"], rows)


def scene_xyz(scene: Scene) -> str:
    """The structure as extended XYZ (Å)."""
    lattice = " ".join(f"{x:.6g}" for row in scene.cell for x in row)
    lines = [f"{len(scene.numbers)}", f'Lattice="{lattice}" Properties=species:S:1:pos:R:3']
    for z, row in zip(scene.numbers, scene.positions, strict=True):
        lines.append(f"{chemical_symbols[z]} " + " ".join(f"{x:.3f}" for x in row))
    return "\n".join(lines) + "\n"


def hops_csv(scene: Scene) -> str:
    """Pairs of sites (Å) with the number of hops between them."""
    heading = [f"{end} {axis} (Å)" for end in ("start", "end") for axis in "xyz"]
    rows = [(*map(_number, (*hops.start, *hops.end)), str(hops.count)) for hops in scene.hops]
    return _table([*heading, "hops"], rows)


def density_csv(scene: Scene) -> str:
    """Density of the mobile ion (ions/Å³) at the middles of the voxels (Å), without empty voxels."""
    if scene.density is None:
        return ""
    values = np.array(scene.density.values, dtype=float)
    kept = np.flatnonzero(values >= 3.0)
    scaled = (np.stack(np.unravel_index(kept, scene.density.shape), axis=-1) + 0.5) / np.array(scene.density.shape)
    places, factor = scaled @ np.array(scene.cell), scene.density.largest / 255.0
    rows = [(*(f"{x:.2f}" for x in row), f"{v * factor:.2g}") for row, v in zip(places, values[kept], strict=True)]
    return _table(["x (Å)", "y (Å)", "z (Å)", "ions/Å³"], rows)


def _table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([heading, *rows])
    return buffer.getvalue()


def _number(value: float | None) -> str:
    return "" if value is None or not np.isfinite(value) else f"{value:.6g}"
