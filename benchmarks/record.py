"""What every benchmark writes: its rows with settings, hardware, commit and time, as JSON beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mdistill.io.files import write_json
from mdistill.runs.hardware import code_version, hardware
from mdistill.settings import to_json

HOME = Path(__file__).parent
ROOT, RESULTS, STRUCTURE = HOME.parent, HOME / "results", HOME / "li6ps5cl_relaxed.extxyz"
"""The repository, the records, and the crystal of most of them."""


def write_record(name: str, settings: Any, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write `results/<name>.json` and print the rows as a table."""
    record = {
        "benchmark": name,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": to_json(settings),
        "hardware": hardware(),
        "rows": [to_json(row) for row in rows],
    } | code_version()
    path = RESULTS / f"{name}.json"
    write_json(path, record)
    print_rows(rows)
    print(f"written: {path.name}")
    return path


def recorded(name: str) -> list[dict[str, Any]]:
    """The rows of a record that is there."""
    path = RESULTS / f"{name}.json"
    return list(json.loads(path.read_text(encoding="utf-8"))["rows"]) if path.is_file() else []


def print_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows as an aligned table; floats with four digits; what is a table itself is in the file alone."""
    columns = list(dict.fromkeys(key for row in rows for key, value in row.items() if not isinstance(value, dict | list)))
    text = [[_shown(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(line[k]) for line in [columns, *text]) for k in range(len(columns))]
    for line in [columns, *text]:
        print("  ".join(value.ljust(width) for value, width in zip(line, widths, strict=True)).rstrip())


def _shown(value: Any) -> str:
    if isinstance(value, dict | list):
        return "…"
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
