"""The same numbers on the terminal: values, gates with their verdicts, single tables."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mdistill.estimates import Estimate, Gate
from mdistill.report.tables import BELOW_DETECTION, format_estimate, limit_text, shown_rows
from mdistill.runs.results import Results, Table

if TYPE_CHECKING:
    from rich.console import Console

_WORD = 12
"""A column is at least as wide as the longest word of its heading, up to this many letters."""


def print_summary(results: Results, console: Console | None = None, *, report: Path | None = None) -> None:
    """Print each value ± one standard error, each gate with its verdict (failed ones last), and where the report is.

    Where standard output is no terminal (a pipe, a batch job's log) the lines are plain text and never cut.
    """
    from rich.console import Console

    console = console or Console()
    _print_rows(["value", "measured"], [[name, _measured(e)] for name, e in results.values.items()], console)
    gates = sorted(results.gates, key=lambda gate: not gate.passed)
    rows = [[_verdict(g), g.name, _measured(g.measured), limit_text(g)] for g in gates]
    _print_rows(["verdict", "gate", "measured", "limit"], rows, console)
    judged = [gate for gate in gates if gate.judged]
    if judged:
        passed = sum(gate.passed for gate in judged)
        style = "bold green" if passed == len(judged) else "bold red"
        console.print(f"{passed} of {len(judged)} gates passed", style=style, highlight=False)
    if report is not None:
        console.print(f"report: {report}", highlight=False, markup=False, emoji=False, soft_wrap=True)


def print_table(table: Table, console: Console | None = None) -> None:
    """Print one table of the results under its title."""
    from rich.console import Console

    console = console or Console()
    console.print(
        table.title,
        style="bold",
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=not (console.is_terminal or _told_width()),
    )
    _print_rows(table.columns, [[cell.text for cell in row] for row in shown_rows(table)], console)


def width_of(console: Console) -> int | None:
    """Columns that tables have to fit in; None where lines are never cut: a pipe without a given width."""
    return console.width if console.is_terminal or _told_width() else None


def fitted(table: Table, column: str, width: int | None) -> Table:
    """The table with the texts of one column cut at their beginning, down to 8 letters, so that it fits this width."""
    from rich.cells import cell_len

    if width is None:
        return table
    place = table.columns.index(column)
    texts = [table.columns, *([cell.text for cell in row] for row in shown_rows(table))]
    taken = [max(map(cell_len, one)) for one in zip(*texts, strict=True)]
    room = max(width - 2 * (len(taken) - 1) - sum(taken) + taken[place], 8)
    rows = [[_end_of(str(cell), room) if k == place else cell for k, cell in enumerate(row)] for row in table.rows]
    return replace(table, rows=rows)


def _end_of(text: str, room: int) -> str:
    from rich.cells import cell_len

    cut = text
    while cell_len(cut) > room - (cut != text):
        cut = cut[1:]
    return cut if cut == text else f"…{cut}"


def _verdict(gate: Gate) -> str:
    if not gate.passed:
        return "✗ FAILED"
    return "✓ passed" if gate.judged else "– not judged"


def _measured(estimate: Estimate) -> str:
    below = estimate.value is None and estimate.upper_limit is not None
    return format_estimate(estimate) + (f" ({BELOW_DETECTION})" if below else "")


def _print_rows(headings: Sequence[str], rows: Sequence[Sequence[str]], console: Console) -> None:
    from rich.cells import cell_len
    from rich.table import Table as Grid
    from rich.text import Text

    if not rows:
        return
    if not console.is_terminal:
        widths = [max(cell_len(row[i]) for row in [headings, *rows]) for i in range(len(headings))]
        if _told_width() and sum(widths) + 2 * len(widths) - 2 > console.width:
            pairs = [pair for row in rows for pair in [*zip(headings, row, strict=True), ("", "")]][:-1]
            _print_folded(pairs if len(headings) > 2 else [headings, *rows], console)
            return
        for row in [headings, *rows]:
            line = "  ".join(text + " " * (width - cell_len(text)) for text, width in zip(row, widths, strict=True))
            console.print(line.rstrip(), highlight=False, markup=False, emoji=False, soft_wrap=True)
        console.print()
        return
    grid = Grid(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for heading in headings:
        grid.add_column(Text(heading), overflow="fold", min_width=min(max(map(len, heading.split()), default=0), _WORD))
    for row in rows:
        grid.add_row(*(Text(text, style={"✓ passed": "green", "✗ FAILED": "bold red"}.get(text, "")) for text in row))
    console.print(grid)
    console.print()


def _told_width() -> bool:
    """Whether the environment names a width, which is then kept in a pipe too."""
    return os.environ.get("COLUMNS", "").isdigit()


def _print_folded(rows: Sequence[Sequence[str]], console: Console) -> None:
    """One or two columns within the console's width: text that does not fit beside its name is broken at spaces and stands
    below it. A word is never cut."""
    from rich.cells import cell_len

    left = min(max(cell_len(row[0]) for row in rows), console.width // 2)
    for name, *rest in rows:
        beside = "  ".join([name + " " * (left - cell_len(name)) if rest else name, *rest])
        lines = [beside] if cell_len(beside) <= console.width else _folded(name, "".join(rest), console.width)
        for line in lines:
            console.print(line.rstrip(), highlight=False, markup=False, emoji=False, soft_wrap=True)
    console.print()


def _folded(name: str, text: str, width: int) -> list[str]:
    below = textwrap.wrap(text, width - 2, break_long_words=False, break_on_hyphens=False)
    return [*textwrap.wrap(name, width, break_long_words=False, break_on_hyphens=False), *(f"  {line}" for line in below)]
