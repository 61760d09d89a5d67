"""Drawing of the ladder: each model a rung with the cost of a step; between rungs speed-up and errors."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import escape

from mdistill.report.tables import format_estimate, power_of_ten
from mdistill.runs.results import Cell, Results, Rung, Table

_WIDTH, _RUNG, _GAP, _LEFT, _AXIS = 600, 52, 84, 250, 36
_LONGEST, _LETTER = 32, 0.6
"""Longest name that is drawn whole; width of a letter over its height."""
_CSS = """
.ladder-art{--la-ink:#1f2328;--la-soft:#59636e;--la-plank:#e8f1fa;--la-edge:#0072b2;--la-gain:#00704f;--la-bar:#0072b2;
font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
@media screen and (prefers-color-scheme:dark){.ladder-art{--la-ink:#e6edf3;--la-soft:#9aa6b2;--la-plank:#15293c;--la-edge:#56b4e9;
--la-gain:#3fd0a0;--la-bar:#56b4e9}}
.ladder-art .rail{stroke:var(--la-edge);stroke-width:5;stroke-linecap:round;opacity:.45}
.ladder-art .plank{fill:var(--la-plank);stroke:var(--la-edge);stroke-width:1.5}
.ladder-art text{fill:var(--la-ink)}.ladder-art .name{font-size:17px;font-weight:650}
.ladder-art .soft{font-size:14px;fill:var(--la-soft)}
.ladder-art .cost{font-size:16px}.ladder-art .gain{font-size:19px;font-weight:700;fill:var(--la-gain)}
.ladder-art .arrow{fill:none;stroke:var(--la-gain);stroke-width:3.5;stroke-linecap:round;stroke-linejoin:round}
.ladder-art .bar{fill:var(--la-bar);opacity:.8}
.ladder-art .decade{stroke:var(--la-soft);opacity:.25}.ladder-art .tick{font-size:12.5px;fill:var(--la-soft)}
""".replace("\n", "")


def ladder_table(rungs: Sequence[Rung]) -> Table:
    """The rungs as a table, the most expensive model first."""
    errors = list(dict.fromkeys((name, error.unit) for rung in rungs for name, error in rung.errors.items()))
    columns = ["model", "µs/atom/step", "speed-up", *(f"{name} ({unit})" if unit else name for name, unit in errors)]
    rows: list[list[Cell]] = [
        [rung.name, rung.cost, rung.speed_up, *(rung.errors.get(name) for name, _ in errors)] for rung in rungs
    ]
    return Table("ladder", "From teacher to student", "ladder", columns, rows, " ".join(rung.note for rung in rungs if rung.note))


def all_tables(results: Results) -> list[Table]:
    """The table of the rungs, where there are any, and all others."""
    return [*([ladder_table(results.rungs)] if results.rungs else []), *results.tables]


def ladder_svg(results: Results) -> str:
    """The rungs as a separate drawing (light and dark); "" without rungs."""
    return draw_rungs(results.rungs) if results.rungs else ""


def draw_rungs(rungs: Sequence[Rung]) -> str:
    """The drawing: rungs from the most expensive model down, a bar for the cost of a step on a logarithmic axis."""
    foot = len(rungs) * (_RUNG + _GAP) - _GAP + 24
    rails = "".join(f'<line class="rail" x1="{x}" x2="{x}" y1="6" y2="{foot - 6}"/>' for x in (26, _LEFT - 26))
    decades = _decades([cost for rung in rungs if (cost := _cost(rung)) > 0.0])
    body = "".join(_rung(rung, 12 + i * (_RUNG + _GAP), i, decades) for i, rung in enumerate(rungs))
    unit = next((rung.cost.unit for rung in rungs if rung.cost is not None), "")
    height = foot + (_AXIS if decades else 0)
    body = (_axis(decades, foot, unit) if decades else "") + body
    label = "Ladder of models: " + ", then ".join(rung.name for rung in rungs)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="ladder-art" viewBox="0 0 {_WIDTH} {height}" role="img" '
        f'aria-label="{escape(label)}"><style>{_CSS}</style>{rails}{body}</svg>'
    )


def _decades(costs: Sequence[float]) -> range:
    """Powers of ten from below the smallest cost to above the largest; the axis begins at the first."""
    if not costs:
        return range(0)
    return range(math.floor(math.log10(min(costs)) - 0.15), math.ceil(math.log10(max(costs))) + 1)


def _axis(decades: range, foot: int, unit: str) -> str:
    """The logarithmic axis of the bars: a line up through all rungs, a number at each power of ten, the name."""
    parts = []
    for power in decades:
        x = _place(10.0**power, decades)
        number = f"{10.0**power:g}" if -3 <= power <= 4 else power_of_ten(power)
        parts.append(f'<line class="decade" x1="{x:.1f}" x2="{x:.1f}" y1="12" y2="{foot - 4}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{foot + 12}" text-anchor="middle">{number}</text>')
    name = escape(f"{unit}, logarithmic")
    middle = (_LEFT + 18 + _WIDTH - 26) / 2
    return "".join(parts) + f'<text class="tick" x="{middle:.0f}" y="{foot + 30}" text-anchor="middle">{name}</text>'


def _place(cost: float, decades: range) -> float:
    left, right = _LEFT + 18, _WIDTH - 26
    return left + (right - left) * (math.log10(cost) - decades[0]) / max(decades[-1] - decades[0], 1)


def _rung(rung: Rung, top: int, index: int, decades: range) -> str:
    middle, right = top + _RUNG / 2, _LEFT + 18
    name = rung.name if len(rung.name) <= _LONGEST else rung.name[: _LONGEST - 1] + "…"
    size = min(17.0, (_LEFT - 44) / (_LETTER * max(len(name), 1)))
    parts = [
        f'<rect class="plank" x="8" y="{top}" width="{_LEFT - 16}" height="{_RUNG}" rx="7"/>',
        f'<text class="name" x="{_LEFT / 2}" y="{middle + 6}" text-anchor="middle" style="font-size:{size:.1f}px">'
        f"{escape(name)}</text>",
    ]
    if rung.cost is not None:
        parts.append(f'<text class="cost" x="{right}" y="{middle - 5}">{escape(format_estimate(rung.cost))}</text>')
    if _cost(rung) > 0.0:
        length = _place(_cost(rung), decades) - right
        parts.append(f'<rect class="bar" x="{right}" y="{middle + 5}" width="{length:.1f}" height="8"/>')
    if index and (rung.speed_up or rung.errors):
        above, centre = top - _GAP, _LEFT / 2
        parts.append(f'<path class="arrow" d="M{centre} {above + 20}v34m-9 -11l9 11l9 -11"/>')
        lines = [("gain", f"{format_estimate(rung.speed_up, unit=False)}× faster")] if rung.speed_up else []
        lines += [("soft", f"{name} {format_estimate(error)}") for name, error in list(rung.errors.items())[:2]]
        first = above + _GAP / 2 + 6 - 10 * (len(lines) - 1)
        for i, (kind, text) in enumerate(lines):
            parts.append(f'<text class="{kind}" x="{right}" y="{first + 20 * i}">{escape(text)}</text>')
    return "".join(parts)


def _cost(rung: Rung) -> float:
    return 0.0 if rung.cost is None else rung.cost.value or 0.0
