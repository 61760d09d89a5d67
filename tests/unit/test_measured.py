"""docs/measured.md says what the records of the benchmarks say."""

from __future__ import annotations

import sys
from pathlib import Path

HOME = Path(__file__).parents[2]


def test_the_page_is_that_of_the_records(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(HOME / "benchmarks"), *sys.path])
    import tables

    assert tables.PAGE.read_text(encoding="utf-8") == tables.page(), "run python benchmarks/tables.py"


def test_a_changed_record_changes_the_page(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(HOME / "benchmarks"), *sys.path])
    import tables

    rows = [dict(row) for row in tables.recorded("long_stride")]
    before = tables.strides(rows)
    rows[0]["stride_error"] = [99.0, None]
    assert tables.strides(rows) != before
