"""What a job in Python gave: it prints as tables, and gives rows for pandas."""

from __future__ import annotations

import io
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from mdistill.errors import BadInput
from mdistill.estimates import Estimate, Gate
from mdistill.report.ladder import all_tables
from mdistill.report.tables import shown_rows
from mdistill.report.terminal import print_summary, print_table
from mdistill.runs.results import Cell, Results, Table
from mdistill.types import System


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Results of `simulate`, `distill` or `analyse`.

    Attributes:
        results: All of them, as in results.json.
        folder: The folder with results.json and report.html; None where nothing was written.
        trajectory: The trajectory of a simulation.
        student: The student of a run.
        final: The last structure of a simulation.
    """

    results: Results
    folder: Path | None = None
    trajectory: Path | None = None
    student: Path | None = None
    final: System | None = None

    @property
    def values(self) -> dict[str, Estimate]:
        """Values with errors and units, by name."""
        return self.results.values

    @property
    def gates(self) -> list[Gate]:
        return self.results.gates

    @property
    def notes(self) -> list[str]:
        """Everything that should be known about the results, notices included."""
        return self.results.notes

    @property
    def passed(self) -> bool:
        """Whether no gate failed."""
        return all(gate.passed for gate in self.results.gates)

    @property
    def names(self) -> list[str]:
        """What `rows` can give."""
        return ["values", "gates", *(table.name for table in all_tables(self.results))]

    def rows(self, name: str = "values") -> list[dict[str, Any]]:
        """Rows as dicts, for `pandas.DataFrame(...)`: "values", "gates", or a table by its name (`names`).

        An estimate in a table becomes two columns, the value and its error.

        Raises:
            BadInput: No such table.
        """
        if name == "values":
            return [{"quantity": key, **_numbers(one)} for key, one in self.values.items()]
        if name == "gates":
            return [
                {"gate": g.name, "passed": g.passed, "limit": g.limit, "sense": g.sense, **_numbers(g.measured)}
                for g in self.gates
            ]
        for table in all_tables(self.results):
            if table.name == name:
                return _records(table)
        raise BadInput("rows", f"{name!r} is no table", allowed=", ".join(self.names), fix="choose one of these names")

    def __str__(self) -> str:
        from rich.console import Console

        console = Console(file=io.StringIO(), force_terminal=False, width=10_000)
        for table in all_tables(self.results):
            print_table(table, console)
        print_summary(self.results, console)
        lines = [f"note: {note}" for note in self.notes]
        lines += [f"folder: {self.folder}"] if self.folder else []
        return "\n".join([console.file.getvalue().rstrip(), *lines])  # type: ignore[attr-defined]

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        """Tables for notebooks."""
        values = Table("values", "Values", "", ["value", "measured"], [[name, one] for name, one in self.values.items()])
        parts = [_html(table) for table in [*all_tables(self.results), values] if table.rows]
        return "".join([*parts, *(f"<p>note: {escape(note)}</p>" for note in self.notes)])


def _numbers(estimate: Estimate) -> dict[str, Any]:
    return {
        "value": estimate.value, "error": estimate.error, "unit": estimate.unit, "samples": estimate.samples,
        "upper_limit": estimate.upper_limit,
    }  # fmt: skip


def _gate(gate: Gate) -> dict[str, Any]:
    judged = {"gate": gate.name, "passed": gate.passed, "judged": gate.judged, "limit": gate.limit, "sense": gate.sense}
    return judged | _numbers(gate.measured)


def _records(table: Table) -> list[dict[str, Any]]:
    with_errors = {
        column for row in table.rows for column, cell in zip(table.columns, row, strict=True) if isinstance(cell, Estimate)
    }
    records = []
    for row in table.rows:
        record: dict[str, Any] = {}
        for column, cell in zip(table.columns, row, strict=True):
            record[column] = _value(cell)
            if column in with_errors:
                record[f"{column}, error"] = cell.error if isinstance(cell, Estimate) else None
        records.append(record)
    return records


def _value(cell: Cell) -> Any:
    return cell.value if isinstance(cell, Estimate) else cell


def _html(table: Table) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in table.columns)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell.text)}</td>" for cell in row) + "</tr>" for row in shown_rows(table))
    return f"<table><caption>{escape(table.title)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
