"""docs/measured.md says what the records of the benchmarks say; every benchmark can be imported."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from pathlib import Path

import benchmarks
from benchmarks import tables

HOME = Path(__file__).parents[2]


def test_the_page_is_that_of_the_records():
    assert tables.PAGE.read_text(encoding="utf-8") == tables.page(), "run python -m benchmarks.tables"


def test_a_changed_record_changes_the_page():
    rows = [dict(row) for row in tables.recorded("long_stride")]
    before = tables.strides(rows)
    rows[0]["stride_error"] = [99.0, None]
    assert tables.strides(rows) != before


def test_every_benchmark_can_be_imported_and_make_names_those_that_are_there():
    names = [found.name for found in pkgutil.walk_packages(benchmarks.__path__, "benchmarks.")]
    assert len(names) > 20
    for name in names:
        import_module(name)
    line = next(line for line in (HOME / "Makefile").read_text(encoding="utf-8").splitlines() if line.startswith("BENCHMARKS"))
    assert {f"benchmarks.{name}" for name in line.split(":=")[1].split()} <= set(names)
