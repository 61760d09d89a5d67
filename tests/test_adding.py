"""The "add one" pages work as printed: their files go into a copy of the package, their tests are run on it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = {path.stem.removeprefix("add_"): path for path in sorted((ROOT / "docs" / "developer").glob("add_*.md"))}
FILE = re.compile(r"^```python\n# (\S+\.py)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CHANGE = re.compile(r"^```diff\n--- (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def add_lines(path: Path, change: str) -> None:
    """Insert the lines that begin with "+" after the line above them, which must stand in the file exactly once."""
    text = path.read_text(encoding="utf-8")
    known, new = ["".join(f"{line[1:]}\n" for line in change.splitlines() if line[0] == mark) for mark in " +"]
    assert text.count(known) == 1 and new, f"{path.name} has no line {known!r}"
    path.write_text(text.replace(known, known + new), encoding="utf-8")


@pytest.mark.parametrize("name", PAGES)
def test_add_one(name, tmp_path, trust):
    page = PAGES[name].read_text(encoding="utf-8")
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    files = FILE.findall(page)
    assert len(files) >= 2 and len(files) == page.count("```python")
    for place, text in files:
        target = tmp_path / place
        assert not target.exists(), f"{place} is there already"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    for place, change in CHANGE.findall(page):
        add_lines(tmp_path / place, change)
    tests = [place for place, _ in files if place.startswith("tests/")]
    paths = [str(tmp_path / "src"), str(tmp_path), str(ROOT / "tests")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert tests and done.returncode == 0, done.stdout + done.stderr
    trust("T44", f"page add_{name}: tests of its example", "passed", "passed")
