"""The terminal shows each value and each verdict, as plain lines where there is no terminal."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import pytest
from rich.console import Console

from mdistill.report.terminal import print_summary, print_table
from report_sample import HOSTILE, sample


def printed(*, terminal: bool) -> str:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=100, color_system="standard" if terminal else None)
    print_summary(sample(points=10), console, report=Path("runs") / HOSTILE / "report.html")
    return stream.getvalue()


def test_a_pipe_gets_plain_aligned_lines() -> None:
    lines = printed(terminal=False).splitlines()
    assert "conductivity_500K  < 1.9 mS/cm (below detection)" in lines
    assert "conductivity_900K  680 ± 60 mS/cm" in lines
    failed = next(line for line in lines if "NVE drift" in line)
    assert failed.startswith("✗ FAILED  NVE drift") and failed.endswith("2.4 ± 0.4 meV/atom/ps  ≤ 0.5 meV/atom/ps")
    assert sum(line.startswith("✓ passed") for line in lines) == 5
    assert "5 of 6 gates passed" in lines
    assert lines[-1] == f"report: runs/{HOSTILE}/report.html", "a path is never wrapped or read as markup"
    assert "\x1b" not in "\n".join(lines)


def test_a_terminal_gets_colour() -> None:
    text = printed(terminal=True)
    assert "\x1b[1;31m" in text and "\x1b[32m" in text


def test_markup_in_names_is_text() -> None:
    table = sample(points=10).tables[1]
    stream = io.StringIO()
    print_table(dataclasses.replace(table, title="[red]x[/red]"), Console(file=stream, force_terminal=False, width=40))
    assert stream.getvalue().splitlines()[0] == "[red]x[/red]"
    assert "28.4 ± 0.6" in stream.getvalue()


def test_nothing_to_show_prints_nothing() -> None:
    stream = io.StringIO()
    print_summary(dataclasses.replace(sample(points=10), values={}, gates=[]), Console(file=stream))
    assert stream.getvalue() == ""


def test_a_pipe_of_a_given_width_has_wide_tables_a_value_a_line(monkeypatch):
    from io import StringIO

    from rich.console import Console

    from mdistill.runs.results import Table

    monkeypatch.setenv("COLUMNS", "40")
    columns = ["group", "force MAE (meV/Å)", "RMSE (meV/Å)", "stress MAE (GPa)"]
    out = StringIO()
    print_table(
        Table("errors", "Errors", "accuracy", columns, [["all", "80", "241", "0.5"], ["Cu", "70", "3", "1"]]), Console(file=out)
    )
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 40 and any("stress MAE (GPa)" in line and "0.5" in line for line in lines)


@pytest.mark.parametrize("terminal", [False, True])
def test_no_table_is_wider_than_a_narrow_console(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    """Names and texts are folded at spaces, below each other where they do not fit; a word is never cut."""
    from mdistill.runs.results import Table

    monkeypatch.setenv("COLUMNS", "40")
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, color_system=None)
    rows = [["NVE drift (meV/atom/ps)", "0.0012 ± 0.0005 of 0.01"], ["labels from", "contact 3, displaced 12, md 12, strain 4"]]
    print_table(Table("two", "Structure: the student's RDFs against the teacher's", "settings", ["what", "value"], rows), console)
    print_table(
        Table("one", "Cite", "settings", ["reference"], [["distil molecular dynamics into models one can trust"]]), console
    )
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 40
    assert out.getvalue().split().count("strain") == 1 and "student's" in out.getvalue()
    if not terminal:
        digest = 64 * "a"
        print_table(Table("sha", "File", "settings", ["what", "value"], [["sha256", digest]]), console)
        assert digest in out.getvalue(), "a word that people copy stays whole"
