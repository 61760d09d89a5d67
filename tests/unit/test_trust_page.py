"""tests/trust_page.py: newest rows stand, gone tests go, nothing breaks the table."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "trust_page.py"
spec = importlib.util.spec_from_file_location("trust_page", SOURCE)
trust_page = importlib.util.module_from_spec(spec)
spec.loader.exec_module(trust_page)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_a.py").write_text("def test_here(trust):\n    pass\n")
    rows = [
        {
            "test": "T5",
            "quantity": "a|b",
            "measured": 1.23456,
            "required": "≤ 2",
            "planted": False,
            "node": "tests/test_a.py::test_here",
        },
        {
            "test": "T5",
            "quantity": "a|b",
            "measured": 0.5,
            "required": "≤ 2",
            "planted": False,
            "node": "tests/test_a.py::test_here",
        },
        {
            "test": "T5",
            "quantity": "bug",
            "measured": "caught",
            "required": "",
            "planted": True,
            "node": "tests/test_a.py::test_here[x]",
        },
        {"test": "T9", "quantity": "old", "measured": 1, "required": "", "planted": False, "node": "tests/test_a.py::test_gone"},
        {"test": "T9", "quantity": "old", "measured": 1, "required": "", "planted": False, "node": "tests/test_b.py::test_here"},
    ]
    (tmp_path / "record").write_text("\n".join(json.dumps(row) for row in rows) + '\n{"test": "T')
    return tmp_path


def test_newest_row_of_living_tests(home: Path) -> None:
    rows = trust_page.newest_rows(home / "record", home)
    assert [(row["quantity"], row["measured"]) for row in rows] == [("a|b", 0.5), ("bug", "caught")]


def test_page(home: Path) -> None:
    text = trust_page.page(trust_page.newest_rows(home / "record", home))
    assert "| a\\|b | ≤ 2 | 0.5 |" in text and "✓ caught: bug" in text
    assert "1 of 47 tests are here; 1 planted bugs were caught" in text
    assert f"| T9 | {trust_page.TESTS['T9']} | arrives with its room |" in text
    assert "| `potential` | validation pending |" in text


def test_no_record_gives_a_page_without_claims(tmp_path: Path) -> None:
    assert "0 of 47 tests are here" in trust_page.page(trust_page.newest_rows(tmp_path / "absent"))
