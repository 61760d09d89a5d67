"""The first table of a run folder's card: its status, its inputs, what it measured."""

from __future__ import annotations

import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Any

from mdistill.errors import BadInput
from mdistill.runs.folder import COMMAND, stages
from mdistill.runs.ledger import Ledger
from mdistill.runs.lock import working
from mdistill.runs.results import BROKEN, Cell, Results, Table, read_results

INPUTS = ("structure", "potential", "labels", "test_file", "teacher", "start_from", "stride_map")
"""Settings that name what a run was made from."""


def overview(folder: Path) -> list[Table]:
    """Status and inputs, then the values that were measured."""
    results = _results(folder)
    rows: list[list[Cell]] = [["status", _status(folder, results)]]
    with suppress(OSError, tomllib.TOMLDecodeError, UnicodeDecodeError):
        given = tomllib.loads((folder / "run.toml").read_text(encoding="utf-8"))
        rows += [[name.replace("_", " "), shown(given[name])] for name in INPUTS if given.get(name)]
    tables = [Table("status", f"Run {folder.name}", "settings", ["what", "value"], rows)]
    if results is not None and results.values:
        measured: list[list[Cell]] = [[name, value] for name, value in results.values.items()]
        tables.append(Table("measured", "Results", "settings", ["value", "measured"], measured))
    return tables


def shown(value: Any) -> Cell:
    """A setting as text: no Python names, integers without grouping."""
    if value is None or value in ([], (), ""):
        return "not given"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(str(shown(one)) for one in value)
    return value if isinstance(value, float) else str(value)


def _status(folder: Path, results: Results | None) -> str:
    if working(folder) is not None:
        return "running"
    own = {name: entry for name, entry in Ledger(folder).entries().items() if name != COMMAND}
    states = [entry["state"] for entry in (*own.values(), *stages(folder).values())]
    if results is not None and all(state == "done" for state in states):
        return "done"
    blown = [gate.name for gate in results.gates if gate.name.endswith(BROKEN) and not gate.passed] if results is not None else []
    if blown:
        return f"stopped: {blown[0]} blew up; what to do next stands in report.html"
    return "interrupted: the same command resumes it"


def _results(folder: Path) -> Results | None:
    with suppress(BadInput):
        return read_results(folder / "results.json")
    return None
