"""Atomic writes under a full disk, a crash and odd values."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mdistill.errors import BadInput, MdistillError
from mdistill.io import files

LIMITED = """
import resource, signal, sys
from pathlib import Path
from mdistill.errors import MdistillError
from mdistill.io import files
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path, kept = Path(sys.argv[1]), 0
for offset in range(20):
    limit = 9 + 149 * offset
    path.write_text("old line\\n")
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        files.append_line(path, "x" * 3000) if sys.argv[2] == "append" else files.write_text(path, "new" * 1000)
    except MdistillError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        alone = [p.name for p in path.parent.iterdir()] == [path.name]
        kept += path.read_text() == "old line\\n" and alone and str(path) in str(error) and "intact" in str(error)
print(kept)
"""


@pytest.mark.parametrize("writer", ["replace", "append"])
def test_full_disk_leaves_the_old_file(tmp_path, trust, writer):
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "kept.txt"), writer]
    kept = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert kept == 20
    trust("T36", f"full disk at 20 offsets, {writer}: old file intact, message names the path", f"{kept} of 20", "20 of 20")


def test_numbers_of_a_list_stand_on_one_line_and_nothing_else_changes(tmp_path):
    value = {
        "x": [1, -2.5e-9, None, 3],
        "text": "[\n 1,\n 2\n]",
        "mixed": [1, "2", [3, 4]],
        "nested": [[1, 2], []],
        "empty": [],
        "": [0.5],
    }
    files.write_json(tmp_path / "a.json", value)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == value
    assert "[1,-2.5e-09,null,3]" in text and "[3,4]" in text and text.count("\n") < 20


def test_a_failure_while_writing_leaves_no_trace(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(ValueError):
        files.write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_unwritable_folder_is_named(tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(MdistillError, match="could not be written"):
        files.write_text(blocker / "inside.txt", "x")


@pytest.mark.parametrize("content", [b"", b"\x00\xff", b"{" * 100_000, b"[1,"])
def test_bad_json_is_refused(tmp_path, content):
    path = Path(tmp_path / "bad.json")
    path.write_bytes(content)
    with pytest.raises(BadInput, match="not JSON"):
        files.read_json(path)
