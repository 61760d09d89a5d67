"""The ladder drawn: each model a rung, with what a step costs, and what each step down gains and loses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import escape

from mdistill.estimates import Estimate
from mdistill.report.tables import show
from mdistill.runs.results import Cell, Results, Table

_WIDTH, _RUNG, _GAP, _LEFT = 600, 52, 84, 250
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
""".replace("\n", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """One model of the ladder, as text: cost of a step, speed-up over the rung above, errors against it."""

    name: str
    cost: str = ""
    cost_value: float | None = None
    speed_up: str = ""
    errors: tuple[str, ...] = ()


def rungs(table: Table) -> list[Rung]:
    """The rungs that a ladder table holds, top first.

    The first column names the model; the column with "/atom/step" in its heading is the cost, the one with "speed" the
    gain over the rung above, and those with "MAE", "error" or "RMSE" the distance from it.
    """
    found = []
    for row in table.rows:
        by_heading = list(zip(table.columns, row, strict=True))
        cost = next((pair for pair in by_heading[1:] if "/step" in pair[0].lower()), None)
        gain = next((pair for pair in by_heading[1:] if "speed" in pair[0].lower()), None)
        wrong = [p for p in by_heading[1:] if any(w in p[0].lower() for w in ("mae", "error", "rmse")) and _given(p[1])]
        found.append(
            Rung(
                name=str(row[0]),
                cost=_with_unit(*cost) if cost and _given(cost[1]) else "",
                cost_value=_value(cost[1]) if cost else None,
                speed_up=show(gain[1]).text.rstrip("×") if gain and _given(gain[1]) else "",
                errors=tuple(f"{heading.partition('(')[0].strip()} {_with_unit(heading, cell)}" for heading, cell in wrong[:2]),
            )
        )
    return found


def ladder_svg(results: Results) -> str:
    """The first table of section "ladder" as a drawing of its own (light and dark); "" where there is none."""
    table = next((t for t in results.tables if t.section == "ladder" and t.rows), None)
    return "" if table is None else draw_rungs(rungs(table))


def draw_rungs(models: Sequence[Rung]) -> str:
    """The drawing: rungs from the dearest model down, a bar on a logarithmic scale for the cost of a step."""
    height = len(models) * (_RUNG + _GAP) - _GAP + 24
    rails = "".join(f'<line class="rail" x1="{x}" x2="{x}" y1="6" y2="{height - 6}"/>' for x in (26, _LEFT - 26))
    longest = max((m.cost_value for m in models if m.cost_value), default=1.0)
    shortest = min((m.cost_value for m in models if m.cost_value), default=1.0)
    body = "".join(_rung(m, 12 + i * (_RUNG + _GAP), i, longest, shortest) for i, m in enumerate(models))
    label = "Ladder of models: " + ", then ".join(m.name for m in models)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="ladder-art" viewBox="0 0 {_WIDTH} {height}" role="img" '
        f'aria-label="{escape(label)}"><style>{_CSS}</style>{rails}{body}</svg>'
    )


def _rung(rung: Rung, top: int, index: int, longest: float, shortest: float) -> str:
    middle, right = top + _RUNG / 2, _LEFT + 18
    name = rung.name if len(rung.name) <= _LONGEST else rung.name[: _LONGEST - 1] + "…"
    size = min(17.0, (_LEFT - 44) / (_LETTER * max(len(name), 1)))
    parts = [
        f'<rect class="plank" x="8" y="{top}" width="{_LEFT - 16}" height="{_RUNG}" rx="7"/>',
        f'<text class="name" x="{_LEFT / 2}" y="{middle + 6}" text-anchor="middle" style="font-size:{size:.1f}px">'
        f"{escape(name)}</text>",
    ]
    if rung.cost:
        parts.append(f'<text class="cost" x="{right}" y="{middle - 5}">{escape(rung.cost)}</text>')
    if rung.cost_value:
        length = _bar(rung.cost_value, longest, shortest)
        parts.append(f'<rect class="bar" x="{right}" y="{middle + 5}" width="{length:.1f}" height="8" rx="2"/>')
    if index and (rung.speed_up or rung.errors):
        above, centre = top - _GAP, _LEFT / 2
        parts.append(f'<path class="arrow" d="M{centre} {above + 20}v34m-9 -11l9 11l9 -11"/>')
        lines = [("gain", f"{rung.speed_up}× faster")] if rung.speed_up else []
        lines += [("soft", text) for text in rung.errors]
        first = above + _GAP / 2 + 6 - 10 * (len(lines) - 1)
        for i, (kind, text) in enumerate(lines):
            parts.append(f'<text class="{kind}" x="{right}" y="{first + 20 * i}">{escape(text)}</text>')
    return "".join(parts)


def _bar(value: float, longest: float, shortest: float) -> float:
    room = _WIDTH - _LEFT - 30
    decades = max(math.ceil(math.log10(longest / shortest)), 1)
    return room * max(1.0 + math.log10(value / longest) / (decades + 0.25), 0.02)


def _given(cell: Cell) -> bool:
    return cell not in (None, "", "–", "-", "—")


def _value(cell: Cell) -> float | None:
    number = cell.value if isinstance(cell, Estimate) else cell
    return float(number) if isinstance(number, (int, float)) and number > 0 else None


def _with_unit(heading: str, cell: Cell) -> str:
    unit = heading.partition("(")[2].partition(")")[0]
    if not unit and "/step" in heading:
        unit = heading
    text = show(cell, unit).text
    return f"{text} {unit}".strip() if unit and unit not in text else text
