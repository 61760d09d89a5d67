"""One process in a folder, always; a lock is free as soon as its holder is dead; leftovers of dead processes go."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import psutil
import pytest

from mdistill.errors import BadInput, Interrupted, MdistillError
from mdistill.flags.arguments import output_folder
from mdistill.io.files import PARTIAL, this_host, write_text
from mdistill.runs.ledger import Ledger, Work
from mdistill.runs.lock import LOCK, locked, remove_leftovers

CONTEST = """
import sys, time
from pathlib import Path
from mdistill.errors import BadInput
from mdistill.runs.lock import locked
for line in sys.stdin:
    folder, _, moment = line.strip().rpartition(" ")
    while time.time() < float(moment):
        pass
    try:
        with locked(Path(folder)):
            print("in", flush=True)
            assert sys.stdin.readline() == "out\\n"
        print("left", flush=True)
    except BadInput as error:
        assert "one process per run folder" in str(error)
        print("refused", flush=True)
        sys.stdin.readline()
        print("left", flush=True)
"""
HOLD = """
import sys, time
from pathlib import Path
from mdistill.runs.lock import locked
with locked(Path(sys.argv[1])):
    print("in", flush=True)
    time.sleep(60)
"""


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def end(child: subprocess.Popen[str]) -> None:
    child.kill()
    child.communicate()


def say(child: subprocess.Popen[str], text: str) -> None:
    assert child.stdin is not None
    child.stdin.write(text)
    child.stdin.flush()


def hear(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def test_of_two_processes_started_together_one_enters_two_hundred_times(tmp_path, trust):
    children = [start(CONTEST), start(CONTEST)]
    entered = []
    try:
        for k in range(200):
            moment = time.time() + 0.005
            for child in children:
                say(child, f"{tmp_path / str(k % 7)} {moment}\n")
            entered.append(sorted(hear(child) for child in children))
            for child in children:
                say(child, "out\n")
            assert [hear(child) for child in children] == ["left", "left"]
    finally:
        for child in children:
            end(child)
    assert entered == [["in", "refused"]] * 200
    trust("T38", "of two processes started together, 200 times, one enters", f"{len(entered)} of 200", "always")


def test_a_killed_holder_frees_the_lock(tmp_path, trust):
    child = start(HOLD, str(tmp_path))
    try:
        assert hear(child) == "in"
        holder = rf"process {child.pid} on {this_host()} .started (20\S+), in the folder since 20"
        with pytest.raises(BadInput, match=holder) as caught, locked(tmp_path):
            pass
        said = str(caught.value)
        started = datetime.fromisoformat(re.search(holder, said)[1]).timestamp()
        assert abs(started - psutil.Process(child.pid).create_time()) < 1.5
        assert "--out" in said and f"delete {tmp_path / LOCK}" in said
    finally:
        end(child)
    with locked(tmp_path):
        pass
    with locked(tmp_path):
        pass
    trust("T38", "second process refused, lock of a killed one free", "yes", "both")


def test_a_stage_of_a_run_at_work_is_refused_by_its_lock_and_another_folder_in_it_is_not(tmp_path):
    run = tmp_path / "run"
    for stage in ("label", "refine"):
        (run / stage / "inner").mkdir(parents=True)
        Ledger(run / stage).begin(Work(key=stage))
    child = start(HOLD, str(run))
    try:
        assert hear(child) == "in"
        for part in ("label", "refine/inner"):
            with (
                pytest.raises(BadInput, match=f"(?s){part}: is part of the run .*, in which process {child.pid} on"),
                locked(run / part),
            ):
                pass
        with locked(run / "mine"):
            pass
    finally:
        end(child)
    with locked(run / "label"):
        pass


@pytest.mark.parametrize("left_behind", [True, False])
@pytest.mark.parametrize("error", [None, FileNotFoundError("labels.jsonl"), Interrupted("saved")])
def test_a_run_folder_that_is_moved_is_named(error, left_behind, tmp_path):
    def work() -> None:
        with locked(tmp_path / "run"):
            (tmp_path / "run").rename(tmp_path / "new")
            if left_behind:
                write_text(tmp_path / "run" / "label" / "x", "")
            if error is not None:
                raise error

    with pytest.raises(BadInput, match=r"(?s)run: was moved.*fix: name its new place with --out") as caught:
        work()
    assert caught.value.__cause__ is error
    with locked(tmp_path / "new"):
        pass


def test_leftovers_of_dead_processes_are_removed_and_others_stay(tmp_path):
    dead = next(n for n in range(400_000, 500_000) if not psutil.pid_exists(n))
    parent, old = os.getppid(), time.time() - 2 * 86_400
    gone = [f".a.json.{dead}@{this_host()}", f"deep/.b.npz.{dead}", ".c.9@elsewhere"]
    stay = [f".d.{parent}@{this_host()}", ".e.9@elsewhere", ".notes"]
    for name in (*gone, *stay):
        path = tmp_path / f"{name}{PARTIAL}"
        path.parent.mkdir(exist_ok=True)
        path.write_text("half")
    os.utime(tmp_path / f".c.9@elsewhere{PARTIAL}", (old, old))
    with locked(tmp_path):
        assert {p.name for p in tmp_path.rglob(f".*{PARTIAL}")} == {f"{name}{PARTIAL}" for name in stay}
    assert not remove_leftovers(tmp_path)


def test_a_leftover_whose_number_a_later_process_has_is_removed(tmp_path):
    parent = os.getppid()
    later, same = (tmp_path / f".{name}.{parent}@{this_host()}{PARTIAL}" for name in ("later", "same"))
    (tmp_path / "deep").mkdir()
    deep = tmp_path / "deep" / later.name
    for path in (later, same, deep):
        path.write_text("half")
    began = psutil.Process(parent).create_time()
    for path in (later, deep):
        os.utime(path, (began - 10.0, began - 10.0))
    assert remove_leftovers(tmp_path, below=False) == [later] and same.exists()
    assert remove_leftovers(tmp_path) == [deep] and same.exists()


def test_a_folder_for_results_alone_is_rid_of_leftovers(tmp_path):
    dead = next(n for n in range(400_000, 500_000) if not psutil.pid_exists(n))
    left = tmp_path / f".results.json.{dead}@{this_host()}{PARTIAL}"
    left.write_text("half")
    output_folder(tmp_path)
    assert not left.exists()


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def refuse(*_, **__) -> None:
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    with pytest.raises(MdistillError, match=r"(?s)support flock.*choose another folder with --out"), locked(tmp_path):
        pass


def test_the_message_of_a_lock_says_how_to_delete_it(tmp_path):
    child = start(HOLD, str(tmp_path))
    try:
        assert hear(child) == "in"
        with pytest.raises(BadInput, match=re.escape(f"delete {tmp_path / LOCK}")), locked(tmp_path):
            pass
    finally:
        end(child)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path):
    tmp_path.chmod(0o500)
    with pytest.raises(MdistillError, match="could not be written"), locked(tmp_path / "run"):
        pass
