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


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> dict[str, str]:
    """What pytest says of every test of every page, on one copy of the package that has them all."""
    place = tmp_path_factory.mktemp("added")
    shutil.copytree(ROOT / "src", place / "src", ignore=shutil.ignore_patterns("*.egg-info"))
    tests = []
    for path in PAGES.values():
        page = path.read_text(encoding="utf-8")
        files = FILE.findall(page)
        assert len(files) >= 2 and len(files) == page.count("```python")
        for name, text in files:
            target = place / name
            assert not target.exists(), f"{name} is there already"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
        for name, change in CHANGE.findall(page):
            add_lines(place / name, change)
        tests += places_of_tests(page)
    paths = [str(place / "src"), str(place), str(ROOT / "tests")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "-p", "no:xdist", *tests]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    found = dict(re.findall(r"^(tests/\S+::.*) ([A-Z]+) +\[", done.stdout, re.MULTILINE))
    assert found, done.stdout + done.stderr
    return found | {"all": done.stdout + done.stderr}


def places_of_tests(page: str) -> list[str]:
    return [name for name, _ in FILE.findall(page) if name.startswith("tests/")]


@pytest.mark.parametrize("name", PAGES)
def test_add_one(name, outcomes, trust):
    page = PAGES[name].read_text(encoding="utf-8")
    for test in places_of_tests(page):
        said = {node: outcome for node, outcome in outcomes.items() if node.startswith(f"{test}::")}
        assert said and set(said.values()) == {"PASSED"}, outcomes["all"]
    assert places_of_tests(page)
    trust("T44", f"page add_{name}: tests of its example", "passed", "passed")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_needs_no_other_page(name):
    """It names no module that another page adds."""
    page = PAGES[name].read_text(encoding="utf-8")
    added = [place for other in PAGES if other != name for place, _ in FILE.findall(PAGES[other].read_text(encoding="utf-8"))]
    modules = [place.removeprefix("src/").removesuffix(".py").replace("/", ".") for place in added]
    assert not [one for one in (*added, *modules) if one in page]
