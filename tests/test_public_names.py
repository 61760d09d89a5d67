"""The public names: the same at run time and for a type checker, which sees what they return."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import mdistill
from mdistill import cli

STUB = Path(mdistill.__file__).with_suffix(".pyi")
USE = """\
import mdistill
reveal_type(mdistill.load("student.mdistill"))
reveal_type(mdistill.read_system("crystal.cif"))
reveal_type(mdistill.SimulateSettings().time_ps)
reveal_type(mdistill.__version__)
"""


def test_the_stub_names_what_the_package_has():
    named = re.findall(r"^from (\S+) import (\w+) as \2$", STUB.read_text(encoding="utf-8"), re.MULTILINE)
    assert {"__version__", *(name for _, name in named)} == set(mdistill.__all__) == set(dir(mdistill))
    for home, name in named:
        assert getattr(mdistill, name) is getattr(sys.modules[home], name)
    with pytest.raises(AttributeError, match="no attribute 'teach'"):
        mdistill.teach  # noqa: B018


def test_the_page_of_the_api_has_every_public_name():
    page = (Path(__file__).parent.parent / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\.\. auto\w+:: (\w+)$", page, re.MULTILINE)) == set(mdistill.__all__) - {"__version__"}
    assert cli.__version__ == mdistill.__version__


@pytest.mark.slow
def test_a_type_checker_sees_what_they_return(tmp_path):
    (tmp_path / "use.py").write_text(USE, encoding="utf-8")
    options = ["--follow-imports", "silent", "--ignore-missing-imports", "--cache-dir", str(tmp_path / "cache")]
    command = [sys.executable, "-m", "mypy", *options, str(tmp_path / "use.py")]
    environment = {"MYPYPATH": str(STUB.parent.parent), "PATH": "/usr/bin:/bin"}
    said = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False).stdout
    types = re.findall(r'Revealed type is "(.*?)"', said)
    assert [name.removeprefix("builtins.") for name in types] == [
        "mdistill.types.Potential",
        "mdistill.types.System",
        "float",
        "str",
    ], said
