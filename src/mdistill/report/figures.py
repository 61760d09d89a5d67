"""Figures as SVG: drawn by matplotlib, coloured through CSS variables, for light, dark and paper."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mdistill.io.files import replacing, write_text
from mdistill.report.tables import format_number, power_of_ten
from mdistill.runs.results import Figure, Series

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe & Ito's colours that differ for colour-blind eyes, in the order used."""
_INK, _RULE = "#21262d", "#d0d7de"
_MARKERS = "osD^vP"
_PARITY_CELLS, _LINE_BUCKETS, _LABEL_LENGTH = 160, 500, 44
_INSIDE = 3
"""Number of series of an Arrhenius plot whose legend stands inside."""
_ROW = 0.19
"""Height of a row of a legend below, inches."""
_STYLE = {
    "svg.fonttype": "none", "text.parse_math": False, "font.size": 9.0, "axes.labelsize": 9.5, "legend.fontsize": 8.5,
    "axes.edgecolor": _INK, "axes.labelcolor": _INK, "text.color": _INK, "xtick.color": _INK, "ytick.color": _INK,
    "axes.linewidth": 0.8, "axes.grid": True, "grid.color": _RULE, "grid.linewidth": 0.6, "axes.axisbelow": True,
    "legend.frameon": False, "axes.spines.top": False, "axes.spines.right": False, "lines.linewidth": 1.6,
    "lines.markersize": 5.0, "errorbar.capsize": 2.5, "figure.constrained_layout.use": True, "axes.unicode_minus": True,
    "font.family": ["DejaVu Sans"],
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A figure, its canvas with everything in place, and matplotlib's SVG of it."""

    figure: Figure
    canvas: Any
    svg: str


def draw(figure: Figure) -> Drawn:
    """A figure drawn once, for the page and for files; null values are gaps. In an "arrhenius" figure x is 1000/T in 1/K."""
    from matplotlib import rc_context

    canvas, buffer = _draw(figure), io.StringIO()
    with rc_context(_STYLE | {"svg.hashsalt": figure.name}), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        canvas.savefig(buffer, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    canvas.set_layout_engine("none")
    return Drawn(figure=figure, canvas=canvas, svg=buffer.getvalue())


def drawn_svg(drawn: Drawn, *, number: int = 0, inline: bool = True) -> str:
    """A figure as an SVG element, the same bytes each time.

    Args:
        drawn: The figure.
        number: Prefix of every id, so that several drawings live in one page.
        inline: For a page: colours are the page's CSS variables, text takes the page's font. Otherwise a file of its own.
    """
    return _tidy(drawn.svg, f"f{number}-", drawn.figure.title, inline=inline)


def figure_svg(figure: Figure, *, number: int = 0, inline: bool = True) -> str:
    """A figure drawn, as `drawn_svg`."""
    return drawn_svg(draw(figure), number=number, inline=inline)


def drawn_points(figure: Figure, series: Series) -> tuple[list[float | None], list[float | None]]:
    """The points of a series, those of a parity plot without the ones that coincide on it."""
    if figure.kind != "parity":
        return list(series.x), list(series.y)
    x, y = _distinct(_numbers(series.x), _numbers(series.y), _extent(figure))
    return x.tolist(), y.tolist()


def write_figures(drawings: Sequence[Drawn], folder: Path) -> list[Path]:
    """Write each figure as SVG and PNG (300 dpi) into `folder`/figures and return the paths.

    Raises:
        MdistillError: The folder cannot be written.
    """
    from matplotlib import rc_context

    paths = []
    for number, drawn in enumerate(drawings):
        stem = f"{number + 1:02d}_{re.sub(r'[^A-Za-z0-9._-]+', '_', drawn.figure.name)[:80]}"
        target = folder / "figures" / f"{stem}.svg"
        write_text(target, drawn_svg(drawn, number=number, inline=False) + "\n")
        picture = target.with_suffix(".png")
        with replacing(picture) as partial, rc_context(_STYLE), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            drawn.canvas.savefig(partial, format="png", dpi=300, facecolor="white", metadata={"Software": None})
        paths += [target, picture]
    return paths


def _draw(figure: Figure) -> Any:
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    with rc_context(_STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        canvas = Canvas(figsize=(3.4, 3.2) if figure.kind == "parity" else (5.4, 3.6))
        FigureCanvasAgg(canvas)
        axes = canvas.subplots()
        axes.set_xlabel(_clean(figure.x_label))
        axes.set_ylabel(_clean(figure.y_label))
        colours = _colours(figure.series)
        for index, (series, colour) in enumerate(zip(figure.series, colours, strict=True)):
            _series(axes, figure, series, colour, index)
        {"parity": _parity_axes, "arrhenius": _arrhenius_axes, "bands": _bands_axes}.get(figure.kind, _plain_axes)(axes, figure)
        _legend(canvas, axes, figure)
    return canvas


def _colours(series: Sequence[Series]) -> list[str]:
    """One colour per subject: "teacher Li–S" and "student Li–S" share theirs, and so do "900 K" and "900 K fit"."""
    order = {subject: i for i, subject in enumerate(dict.fromkeys(map(_subject, series)))}
    return [PALETTE[order[_subject(one)] % len(PALETTE)] for one in series]


def _subject(series: Series) -> str:
    return series.subject or series.label


def _series(axes: Any, figure: Figure, series: Series, colour: str, index: int) -> None:
    x, y = _numbers(series.x), _numbers(series.y)
    error = None if series.error is None else _numbers(series.error)
    label = _clean(series.label)
    common = {"color": colour, "label": label}
    mark = f"series-{index}"
    if figure.kind == "parity":
        x, y = _distinct(x, y, _extent(figure))
        axes.plot(x, y, linestyle="none", marker="o", markersize=2.2, markeredgewidth=0, alpha=0.55, gid=mark, **common)
    elif figure.kind == "bands":
        dots = {"linestyle": "none", "marker": "o", "markersize": 2.0, "markeredgewidth": 0, "zorder": 2}
        axes.plot(x, y, gid=mark, **(dots if series.style == "points" else {"linewidth": 1.1, "zorder": 3}), **common)
    elif series.style == "points":
        marker = "v" if series.limit else _MARKERS[index % len(_MARKERS)]
        face = {"markerfacecolor": "none"} if series.limit else {}
        drawn = axes.errorbar(x, y, yerr=error, linestyle="none", marker=marker, elinewidth=1.2, **face, **common)
        drawn.lines[0].set_gid(mark)
    else:
        keep = _envelope(y)
        paired = series.style != "dashed" and any(o.style == "dashed" and _subject(o) == _subject(series) for o in figure.series)
        look: dict[str, Any] = {"linewidth": 0.7} if len(y) > _LINE_BUCKETS else {}
        look = {"linewidth": 3.4, "alpha": 0.5} if paired else look
        look |= {"linestyle": (0, (3, 1.6)), "linewidth": 1.2, "zorder": 3} if series.style == "dashed" else {}
        look |= {"linewidth": 0.6, "alpha": 0.45, "zorder": 1.5, "label": None} if series.style == "thin" else {}
        axes.plot(x[keep], y[keep], marker="o" if len(x) == 1 else "", gid=mark, **common | look)
        if error is not None:
            axes.fill_between(x[keep], (y - error)[keep], (y + error)[keep], color=colour, alpha=0.18, linewidth=0)


def _plain_axes(axes: Any, figure: Figure) -> None:
    if figure.kind in ("logy", "loglog"):
        _log_axis(axes, figure, "y")
    if figure.kind == "loglog":
        _log_axis(axes, figure, "x")
    axes.margins(x=0.02)


def _bands_axes(axes: Any, figure: Figure) -> None:
    places = [place for _, place in figure.x_ticks]
    axes.set_xticks(places, labels=[_clean(label) for label, _ in figure.x_ticks])
    axes.tick_params(axis="x", length=0)
    axes.axhline(0.0, color=_INK, linewidth=0.8, alpha=0.6)
    axes.margins(x=0.0)


def _parity_axes(axes: Any, figure: Figure) -> None:
    axes.set_position((0.215, 0.145, 0.765, 0.8128))
    low, high = _extent(figure)
    pad = 0.04 * (high - low)
    axes.set(xlim=(low - pad, high + pad), ylim=(low - pad, high + pad), aspect="equal")
    axes.locator_params(nbins=4)
    axes.axline((low, low), slope=1.0, color=_INK, linewidth=0.8, alpha=0.6, gid="diagonal")
    axes.spines[["top", "right"]].set_visible(True)


def _arrhenius_axes(axes: Any, figure: Figure) -> None:
    _log_axis(axes, figure, "y")
    points = [one for one in figure.series if one.style == "points"]
    inverse = sorted({x for one in (figure.series if all(one.limit for one in points) else points) for x in one.x if x})
    axes.margins(x=0.06)
    top = axes.secondary_xaxis("top", functions=(_reciprocal, _reciprocal))
    temperatures = [1000.0 / x for x in inverse]
    if len(temperatures) <= 8:
        top.set_xticks(temperatures, labels=[f"{t:.0f}" for t in temperatures])
    top.set_xlabel("T (K)")
    top.minorticks_off()


def _reciprocal(x: Any) -> Any:
    """1000/T from T, and T from 1000/T."""
    return 1000.0 / np.where(np.abs(x) < 1e-9, 1e-9, x)


def _log_axis(axes: Any, figure: Figure, which: Literal["x", "y"]) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    if not any(value and value > 0 for series in figure.series for value in getattr(series, which)):
        return
    getattr(axes, f"set_{which}scale")("log", nonpositive="clip")
    axis = getattr(axes, f"{which}axis")
    low, high = sorted(getattr(axes, f"get_{which}lim")())
    decades = math.log10(high / low) if low > 0 else 9.0
    plain = low > 5e-3 and high < 2e3
    axis.set_major_formatter(FuncFormatter(_plain_tick if plain else _power_tick))
    few = _some_ticks if decades < 0.8 else _few_ticks
    axis.set_minor_formatter(FuncFormatter(few) if decades < 1.6 else NullFormatter())


def _plain_tick(value: float, _position: Any = None) -> str:
    return format_number(float(value), digits=2)


def _power_tick(value: float, _position: Any = None) -> str:
    return power_of_ten(round(math.log10(value))) if value > 0 else ""


def _few_ticks(value: float, _position: Any = None, *, digits: tuple[int, ...] = (2, 5)) -> str:
    digit = round(value / 10.0 ** math.floor(math.log10(value) + 1e-9))
    return format_number(float(value), digits=2) if digit in digits else ""


def _some_ticks(value: float, _position: Any = None) -> str:
    return _few_ticks(value, digits=(2, 3, 4, 5, 6, 8))


def _legend(canvas: Any, axes: Any, figure: Figure) -> None:
    """The legend: above the axes; in an Arrhenius plot, which has temperatures there, inside or, of many series, below.

    Upper limits of subjects that have a line or points of their own share one entry.
    """
    from matplotlib.lines import Line2D

    own = {_clean(one.label) for one in figure.series if not one.limit}
    shared = {_clean(one.label) for one in figure.series if one.limit and _clean(_subject(one)) in own}
    entries = [pair for pair in zip(*axes.get_legend_handles_labels(), strict=True) if pair[1] not in shared]
    limit = Line2D([], [], linestyle="none", marker="v", markerfacecolor="none", color=_INK)
    entries += [(limit, "upper limit")] if shared else []
    handles, labels = [handle for handle, _ in entries], [label for _, label in entries]
    if not any(labels):
        return
    columns = max(1, min(len(labels), 62 // (max(len(text) for text in labels) + 5)))
    if figure.kind == "arrhenius" and len(labels) <= _INSIDE:
        axes.legend(handles, labels, loc="best")
        return
    if figure.kind == "arrhenius":
        canvas.set_figheight(canvas.get_figheight() + _ROW * -(-len(labels) // columns))
        canvas.legend(handles, labels, loc="outside lower left", ncols=columns, columnspacing=1.4, handlelength=1.9)
        return
    if figure.kind == "parity":
        axes.legend(handles, labels, loc="lower right", markerscale=1.8, handletextpad=0.2)
        return
    axes.legend(
        handles, labels, loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=columns, borderaxespad=0.2, columnspacing=1.4,
        handlelength=1.9,
    )  # fmt: skip


def _numbers(values: Sequence[float | None]) -> np.ndarray:
    return np.array([math.nan if v is None else v for v in values], dtype=float)


def _extent(figure: Figure) -> tuple[float, float]:
    values = np.concatenate([_numbers(part) for s in figure.series for part in (s.x, s.y)] or [np.zeros(0)])
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _distinct(x: np.ndarray, y: np.ndarray, extent: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """One of the points that coincide at the plot's resolution; outliers remain."""
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite], y[finite]
    if len(x) <= 2 * _PARITY_CELLS:
        return x, y
    low, high = extent
    cells = np.floor((np.stack([x, y], axis=1) - low) / (high - low) * _PARITY_CELLS).astype(int)
    _, first = np.unique(cells, axis=0, return_index=True)
    return x[np.sort(first)], y[np.sort(first)]


def _envelope(y: np.ndarray) -> np.ndarray:
    """Indices of the lowest and highest value of each part of a long curve (all of a short one)."""
    if len(y) <= 2 * _LINE_BUCKETS:
        return np.arange(len(y))
    filled = np.where(np.isfinite(y), y, 0.0)
    stretches = np.array_split(np.arange(len(y)), _LINE_BUCKETS)
    picked = [s[i] for s in stretches for i in (filled[s].argmin(), filled[s].argmax())]
    return np.unique([0, *picked, len(y) - 1])


def _clean(text: str) -> str:
    """Label text: no control characters, no leading underscore (matplotlib hides such labels), not too long."""
    plain = "".join(c for c in text if c.isprintable()).lstrip("_")
    return plain if len(plain) <= _LABEL_LENGTH else plain[: _LABEL_LENGTH - 1] + "…"


def _tidy(svg: str, prefix: str, title: str, *, inline: bool) -> str:
    """Matplotlib's SVG made small, with ids of its own and either the page's colours and font or plain ones."""
    from markupsafe import escape

    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    if inline:
        svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<[^>]+>", lambda tag: _tidy_tag(tag.group(), prefix, inline=inline), svg)
    svg = re.sub(r"<g([^>]*)>\s*((?:<use [^>]*/>\s*){9,})</g>", _share_style, svg)
    opening = f'role="img" aria-label="{escape(_clean(title))}"'
    size = re.search(r"<svg [^>]*?(viewBox=\"[^\"]*\")[^>]*>", svg)
    if inline and size:
        svg = f"<svg {size.group(1)} {opening}>{svg[size.end() :]}"
    return re.sub(r"\n\s*", "\n", svg if inline else svg.replace("<svg ", f"<svg {opening} ", 1))


def _tidy_tag(tag: str, prefix: str, *, inline: bool) -> str:
    tag = re.sub(r"\bid=\"([^\"]+)\"", rf'id="{prefix}\1"', tag)
    tag = re.sub(r"xlink:href=\"#([^\"]+)\"", rf'href="#{prefix}\1"', tag)
    tag = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}\1)", tag)
    tag = re.sub(r"(\d\.\d\d)\d+", r"\1", tag)
    if not inline:
        return tag.replace("font-family: 'DejaVu Sans'", "font-family: sans-serif")
    tag = tag.replace("font-family: 'DejaVu Sans'; ", "")
    for index, colour in enumerate(PALETTE):
        tag = tag.replace(colour, f"var(--series-{index + 1})")
    return tag.replace(_INK, "currentColor").replace(_RULE, "var(--rule)")


def _share_style(group: re.Match[str]) -> str:
    """Many markers of one style: the style once, on their group."""
    styles = set(re.findall(r" style=\"[^\"]*\"", group.group(2)))
    if len(styles) != 1 or "style=" in group.group(1):
        return group.group()
    style = styles.pop()
    return f"<g{group.group(1)}{style}>{group.group(2).replace(style, '')}</g>"
