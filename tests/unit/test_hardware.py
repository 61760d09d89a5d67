"""What a number was measured with."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mdistill
from mdistill.runs.hardware import code_version, hardware, instructions, source_tree

PACKAGE = Path(mdistill.__file__).parent


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("flags\t\t: fpu avx avx2 avx512f", "avx512"),
        ("flags\t\t: fpu avx avx2", "avx2"),
        ("Features\t: fp asimd sve", "neon"),
        ("flags\t\t: fpu sse2", "sse"),
        ("flags\t\t: fpu", ""),
        ("flags", ""),
    ],
)
def test_the_widest_vector_instructions_are_named(line, found):
    assert instructions(["processor\t: 0", line]) == found


def test_hardware_and_version_say_something():
    found = hardware()
    assert found["cores"] >= 1 and found["processor"] and found["instructions"] in ("avx512", "avx2", "sse", "neon", "")
    assert code_version()["version"] == mdistill.__version__


@pytest.mark.parametrize(("place", "project", "called"), [
    (".venv/lib/python3/site-packages", "theirs", False), ("src", "theirs", False), ("src", "mdistill", True),
])  # fmt: skip
def test_git_is_called_in_the_source_tree_of_this_package_alone(place, project, called, tmp_path):
    """A fake git writes a marker; the package lies in a checkout, which is somebody's or its own."""
    checkout, ran = tmp_path / "checkout", tmp_path / "ran"
    (checkout / ".git").mkdir(parents=True)
    (checkout / "pyproject.toml").write_text(f'[project]\nname = "{project}"\n', encoding="utf-8")
    shutil.copytree(PACKAGE / "runs", checkout / place / "mdistill" / "runs")
    for name in ("__init__.py", "processes.py"):
        shutil.copy(PACKAGE / name, checkout / place / "mdistill")
    git = tmp_path / "bin" / "git"
    git.parent.mkdir()
    git.write_text(f"#!/bin/sh\necho $GIT_DIR > {ran}\necho 0123abc\n", encoding="utf-8")
    git.chmod(0o755)
    environment = os.environ | {"PYTHONPATH": str(checkout / place), "PATH": f"{git.parent}:{os.environ['PATH']}", "GIT_DIR": "x"}
    code = "from mdistill.runs.hardware import code_version; print(code_version()['commit'])"
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=checkout, capture_output=True, text=True, check=True)
    assert ran.exists() == called and done.stdout.strip() == ("0123abc" if called else "unknown")
    assert not called or ran.read_text().strip() == "", "GIT_DIR names another repository"


def test_the_source_tree_is_found_from_a_module():
    tree = source_tree(PACKAGE / "runs" / "hardware.py")
    assert tree is None or (tree / "src" / "mdistill").samefile(PACKAGE)


def test_git_is_called_in_one_place_alone():
    named = [path.name for path in PACKAGE.rglob("*.py") if '"git"' in path.read_text(encoding="utf-8")]
    assert named == ["hardware.py"]
