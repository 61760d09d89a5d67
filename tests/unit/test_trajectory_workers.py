"""A trajectory set made by several processes: the same set, and what is left after a worker, the driver or a stop ends them.

A stand-in for the job of a crystal ticks in the crystal's folder; one slow test does real jobs.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from ase.build import bulk

from mdistill import cli
from mdistill.campaign import trajectories
from mdistill.campaign.settings import TrajectorySettings
from mdistill.campaign.trajectory_job import key_of, mobile_of
from mdistill.campaign.workers import in_workers
from mdistill.errors import Interrupted, MdistillError, MdistillNotice
from mdistill.interrupt import StopRequest
from mdistill.io.structures import read_structure
from mdistill.notices import notify
from mdistill.transport.trajectory_set import ARRAYS, read_trajectory_set
from planted_motion import planted

SALTS = {"LiF": 4.0, "LiCl": 5.1, "NaCl": 5.6, "NaF": 4.6}


def record(path, _teacher, settings, home, *, species, stop):
    """Motion that depends on the crystal. `begun` counts attempts, `ticks` shows life; `hang` and `kill` files plant faults."""
    place = path.parent / "seen" / path.stem
    place.mkdir(parents=True, exist_ok=True)
    home.mkdir(parents=True, exist_ok=True)
    with open(place / "begun", "a", encoding="utf-8") as file:
        file.write(f"{os.getpid()}\n")
    print(f"at {path.name}")
    kills = place / "kill"
    if kills.exists() and (left := int(kills.read_text(encoding="utf-8"))):
        kills.write_text(str(left - 1), encoding="utf-8")
        os.kill(os.getpid(), signal.SIGKILL)
    while (place / "hang").exists():
        stop.raise_if_pending()
        (place / "ticks").write_text(f"{time.monotonic()}", encoding="utf-8")
        time.sleep(0.02)
    if (place / "fails").exists():
        raise MdistillError("the student's dynamics broke")
    crystal = read_structure(path)
    one, number = planted(1)[0], int(crystal.sha256[:6], 16)
    return replace(one, key=key_of(crystal, mobile_of(crystal, species)), about=one.about | {"source": path.name},
                   log_msd=one.log_msd + 1e-8 * number)  # fmt: skip


def plant(patch):
    """The stand-ins in place of the teacher and of the job of a crystal."""
    elements = frozenset(range(1, 90))
    patch(trajectories, "load", lambda name, subject: SimpleNamespace(elements=elements, name=name))
    patch(trajectories, "first_block", lambda teacher, flag: 1)
    patch(trajectories, "crystal_record", record)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    plant(monkeypatch.setattr)
    for name, a in SALTS.items():
        bulk(name, "rocksalt", a=a, cubic=True).write(tmp_path / f"{name}.cif")
        (tmp_path / "seen" / name).mkdir(parents=True)
    return tmp_path


def make(folder, *, workers, name="set", stop=None):
    files = [(path, path.name) for path in sorted(folder.glob("*.cif"))]
    stop = StopRequest() if stop is None else stop
    return trajectories.make_trajectory_set(
        files, folder / f"{name}.npz", TrajectorySettings(), folder / name, workers=workers, stop=stop
    )


def begun(folder, name):
    path = folder / "seen" / name / "begun"
    return [int(line) for line in path.read_text(encoding="utf-8").split()] if path.exists() else []


def unread(results):
    return {row[0]: row[1:] for table in results.tables if table.name == "unread" for row in table.rows}


def until(condition, *, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def gone(number):
    """Whether a process has ended."""
    try:
        return Path(f"/proc/{number}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_set_is_the_same_whatever_the_number_of_workers(workers, folder):
    make(folder, workers=0)
    assert all(begun(folder, name) == [os.getpid()] for name in SALTS)
    make(folder, workers=workers, name="other")
    assert (folder / "set.npz").read_bytes() == (folder / "other.npz").read_bytes()
    here = {begun(folder, name)[1] for name in SALTS}
    assert os.getpid() not in here and len(here) == 4 and not list((folder / "other" / "work").glob("*"))


def test_a_killed_worker_is_tried_again_once_and_then_listed(folder):
    (folder / "seen" / "LiF" / "kill").write_text("1", encoding="utf-8")
    (folder / "seen" / "NaF" / "kill").write_text("9", encoding="utf-8")
    listed = unread(make(folder, workers=2))
    assert len(begun(folder, "LiF")) == 2 and len(begun(folder, "NaF")) == 2 and len(begun(folder, "NaCl")) == 1
    assert list(listed) == ["NaF.cif"] and "killed 2 times (SIGKILL" in listed["NaF.cif"][0]
    assert len(read_trajectory_set(folder / "set.npz")) == 3 and not (folder / "set" / trajectories.FAILED).exists()
    (kept,) = (folder / "set" / "work").glob("*")
    assert (kept / trajectories.LOG).read_text(encoding="utf-8").count("at NaF.cif") == 2
    (folder / "seen" / "NaF" / "kill").unlink()
    assert not unread(make(folder, workers=2)) and len(begun(folder, "NaF")) == 3 and len(begun(folder, "LiF")) == 2


def test_failures_are_listed_and_remembered(folder):
    (folder / "seen" / "LiCl" / "fails").touch()
    assert "dynamics broke" in unread(make(folder, workers=2))["LiCl.cif"][0]
    assert len(json.loads((folder / "set" / trajectories.FAILED).read_text(encoding="utf-8"))) == 1
    (kept,) = (folder / "set" / "work").glob("*")
    assert "at LiCl.cif" in (kept / trajectories.LOG).read_text(encoding="utf-8")
    make(folder, workers=2)
    assert len(begun(folder, "LiCl")) == 1 and len(read_trajectory_set(folder / "set.npz")) == 3


class StopOnceAll(StopRequest):
    """A request that is pending once these paths exist."""

    __slots__ = ("paths",)

    def pending(self):
        return all(path.exists() for path in self.paths)


def test_a_stop_ends_the_workers_and_keeps_what_is_finished(folder):
    held = [folder / "seen" / name for name in ("NaCl", "LiCl")]
    stop = StopOnceAll()
    stop.paths = [*(place / "ticks" for place in held), folder / "set.npz"]
    for place in held:
        (place / "hang").touch()
    with pytest.raises(Interrupted, match="everything so far is saved"):
        make(folder, workers=3, stop=stop)
    assert all(gone(begun(folder, place.name)[0]) for place in held)
    done = len(read_trajectory_set(folder / "set.npz"))
    assert done in (1, 2) and len(list((folder / "set" / "work").glob("*"))) >= 2
    for place in held:
        (place / "hang").unlink()
    make(folder, workers=2)
    assert len(read_trajectory_set(folder / "set.npz")) == 4
    make(folder, workers=0, name="other")
    assert (folder / "set.npz").read_bytes() == (folder / "other.npz").read_bytes()


PATHS = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]
DRIVER = f"""
import sys
from pathlib import Path
from mdistill import cli
sys.path[:0] = {PATHS}
import test_trajectory_workers as stand_in
stand_in.plant(setattr)
folder, name, workers = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
sys.exit(cli.run(["train", "transport", "--structures", str(folder), "--trajectories", str(folder / f"{{name}}.npz"),
                  "--out", str(folder / name), "--workers", workers]))
"""


def driver(folder, name="set", workers=2, **options):
    """The command in a process of its own."""
    words = [sys.executable, "-c", DRIVER, str(folder), name, str(workers)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def test_the_set_does_not_depend_on_who_ends_first(folder):
    """The crystal that begins first is held until the three others are in the set."""
    make(folder, workers=0)
    first = min(SALTS, key=lambda name: begun_at(folder, name))
    (folder / "seen" / first / "hang").touch()
    path = folder / "late.npz"
    with driver(folder, "late") as process:
        until(lambda: path.exists() and len(read_trajectory_set(path)) == 3)
        (folder / "seen" / first / "hang").unlink()
        assert process.wait(60) == 0
    assert path.read_bytes() == (folder / "set.npz").read_bytes()


def begun_at(folder, name):
    return (folder / "seen" / name / "begun").stat().st_mtime_ns


def test_a_killed_driver_leaves_no_worker_and_loses_only_the_crystals_in_hand(folder):
    held = [folder / "seen" / name for name in ("NaCl", "LiCl")]
    for place in held:
        (place / "hang").touch()
    with driver(folder) as process:
        until(lambda: all((place / "ticks").exists() for place in held))
        process.kill()
    until(lambda: all(gone(begun(folder, place.name)[0]) for place in held))
    last = [(place / "ticks").read_text(encoding="utf-8") for place in held]
    time.sleep(0.2)
    assert [(place / "ticks").read_text(encoding="utf-8") for place in held] == last
    for place in held:
        (place / "hang").unlink()
    before = {one.key for one in read_trajectory_set(folder / "set.npz")} if (folder / "set.npz").exists() else set()
    make(folder, workers=2)
    counts = sorted(len(begun(folder, name)) for name in SALTS)
    assert sum(counts) == 4 + 2 and len(read_trajectory_set(folder / "set.npz")) == 4 >= len(before)
    make(folder, workers=0, name="other")
    assert (folder / "set.npz").read_bytes() == (folder / "other.npz").read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_ends_the_command_and_its_workers(number, folder):
    for name in SALTS:
        (folder / "seen" / name / "hang").touch()
    with driver(folder, start_new_session=True) as process:
        until(lambda: sum((folder / "seen" / name / "ticks").exists() for name in SALTS) == 2)
        os.killpg(process.pid, number)
        shown = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + number and "resume" in shown and "--workers 2" in shown
    until(lambda: all(gone(worker) for name in SALTS for worker in begun(folder, name)))


def answers(jobs, tmp_path, **options):
    return dict(in_workers(jobs, [tmp_path / f"{k}.txt" for k in range(len(jobs))], workers=2, **options))


def noted(number):
    notify(f"fact {number}")
    return number


def broken():
    raise RuntimeError("a slip of the code")


def test_notices_of_workers_are_told(tmp_path):
    with pytest.warns(MdistillNotice) as told:
        assert answers([partial(noted, k) for k in range(3)], tmp_path) == {0: 0, 1: 1, 2: 2}
    assert sorted(str(one.message) for one in told) == ["fact 0", "fact 1", "fact 2"]


def test_what_no_input_explains_ends_the_job_and_names_the_log(tmp_path):
    with pytest.raises(MdistillError, match="RuntimeError: a slip of the code\n  log: .*0.txt"):
        answers([broken], tmp_path)
    assert "Traceback" in (tmp_path / "0.txt").read_text(encoding="utf-8")


def test_who_is_at_work_is_told(tmp_path):
    told: list[list[int]] = []
    assert answers([partial(abs, -k) for k in range(3)], tmp_path, tell=told.append) == {0: 0, 1: 1, 2: 2}
    assert told[:2] == [[0], [0, 1]] and told[-1] == [] and max(map(len, told)) == 2


def test_command_line(folder, capsys):
    words = ["train", "transport", "--structures", str(folder), "--trajectories", str(folder / "s.npz"), "--out", str(folder)]
    assert cli.run([*words, "--workers", "-1"]) == 2 and "--workers" in capsys.readouterr().err
    assert cli.run(["train", "transport", "--workers", "2", "--out", str(folder)]) == 2
    assert "not used with --data" in capsys.readouterr().err
    assert cli.run([*words, "--workers", "2", "--threads", "2"]) == 2
    assert "2 is not used with --workers 2: each worker has one thread" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_workers_make_the_set_of_one_process(tmp_path):
    """LiF and LiCl by hasty students: all arrays are equal, and all that is told of them but the CPU time."""
    for name, a in (("LiF", 4.03), ("LiCl", 5.13)):
        bulk(name, "rocksalt", a=a, cubic=True).write(tmp_path / f"{name}.cif")
    settings = TrajectorySettings(
        temperatures=(300.0,), time_ps=2.0, lag_ps=1.0, explore_ps=2.0, frames=3, on_policy=3, steps=240, rounds=1, cutoff=3.9,
        equilibration_ps=0.2,
    )  # fmt: skip
    files = [(path, path.name) for path in sorted(tmp_path.glob("*.cif"))]
    made = []
    for workers in (0, 2):
        path = tmp_path / f"{workers}.npz"
        trajectories.make_trajectory_set(files, path, settings, tmp_path / f"run-{workers}", workers=workers)
        made.append(read_trajectory_set(path))
    assert len(made[0]) == len(made[1]) == 2
    for here, there in zip(*made, strict=True):
        assert here.key == there.key and all(
            np.array_equal(getattr(here, name), getattr(there, name), equal_nan=True) for name in ARRAYS
        )
        assert here.about | {"cpu_seconds": 0} == there.about | {"cpu_seconds": 0}
