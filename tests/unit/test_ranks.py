"""Training on several processes: the numbers of one process, one stop for all, and an end with a message where one is lost."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

import mdistill
import rank_jobs
from mdistill import cli
from mdistill.errors import BadInput
from mdistill.interrupt import NEVER
from mdistill.nets.model_files import read_header
from mdistill.training.fit import CHECKPOINT, HISTORY
from mdistill.training.ranks import ALONE, Ranks, here, launched
from systems import morse_frames

TESTS = Path(rank_jobs.__file__).parent
LONGEST_S = 280.0
SHARED = ("potential", "redrawn", "direct", "stride", "taught")
"""Jobs of single gradients."""
EXACT = 1e-10
"""Largest difference of two processes from one, of the largest number of its kind."""


def environment(rank: int | None = None, port: int = 0, **more: str) -> dict[str, str]:
    path = os.pathsep.join([str(Path(mdistill.__file__).parent.parent), str(TESTS)])
    launcher = (
        {} if rank is None else {"RANK": f"{rank}", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"}
    )
    return os.environ | {"PYTHONPATH": path, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"} | launcher | more


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture
def begin() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts processes, and ends those that are left."""
    left: list[subprocess.Popen[str]] = []

    def popen(command: list[str], env: dict[str, str]) -> subprocess.Popen[str]:
        made = subprocess.Popen([sys.executable, *command], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        left.append(made)
        return made

    yield popen
    for process in left:
        process.kill()
        process.communicate(timeout=LONGEST_S)


def two(begin: Callable[..., Any], command: list[str], **more: str) -> list[Any]:
    port = free_port()
    return [begin(command, environment(rank, port, **more)) for rank in range(2)]


def ended(processes: list[Any]) -> list[tuple[int, str]]:
    """Exit status and standard error of each."""
    said = [process.communicate(timeout=LONGEST_S)[1] for process in processes]
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]


def apart(found: Any, expected: Any) -> float:
    """Largest difference of two results, each over the largest number of its list."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        return max((apart(found[name], expected[name]) for name in expected), default=0.0)
    if isinstance(expected, list) and expected and isinstance(expected[0], dict):
        return max(apart(a, b) for a, b in zip(found, expected, strict=True))
    a, b = np.atleast_1d(np.array(found, float)), np.atleast_1d(np.array(expected, float))
    assert a.shape == b.shape
    return float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30)) if a.size else 0.0


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a fit that one process began."""
    folder = tmp_path_factory.mktemp("ranks")
    assert "stopped" in rank_jobs.continued(folder, rank_jobs.StopAt(7))
    return folder


@pytest.fixture(scope="module")
def results(place: Path) -> list[dict[str, Any]]:
    """What each of two ranks found for every job but the last."""
    port = free_port()
    command = [sys.executable, str(TESTS / "rank_jobs.py"), str(place), *(name for name in rank_jobs.JOBS if name != "silent")]
    ranks = [subprocess.Popen(command, env=environment(r, port), stderr=subprocess.PIPE, text=True) for r in range(2)]
    try:
        for status, said in ended(ranks):
            assert status == 0, said[-3000:]
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()
    return [json.loads((place / f"results-{rank}.json").read_text(encoding="utf-8")) for rank in range(2)]


@pytest.mark.parametrize("job", SHARED)
def test_losses_gradients_and_measures_are_those_of_one_process(job, results, tmp_path, trust):
    """Five items, and one that leaves a rank without any; labels that lack parts; every random choice."""
    expected = rank_jobs.JOBS[job](tmp_path)
    difference = max(apart(found[job], expected) for found in results)
    assert results[0][job] == results[1][job] and difference < (1e-5 if job == "taught" else EXACT)
    assert all(one["loss"] != 0.0 for one in expected.values())
    trust("T18", f"two processes against one, {job}: loss, gradient, measures", difference, "rounding")


def test_a_fit_has_the_weights_of_one_process_and_equal_ones_on_all_ranks(results, tmp_path, trust):
    expected = rank_jobs.whole_fit(tmp_path)
    assert results[0]["whole_fit"] == results[1]["whole_fit"]
    difference = apart(results[0]["whole_fit"], expected)
    assert difference < 1e-8
    trust("T18", "two processes against one: weights and history after 24 steps", difference, "rounding")


def test_one_to_two_to_one_process_is_one_fit(results, place, tmp_path):
    """Begun by one process; two go on until one of them is asked to stop; one process ends it."""
    assert [sorted(found["continued"]) for found in results] == [["stopped"], ["stopped"]]
    whole, parts = rank_jobs.whole_fit(tmp_path), rank_jobs.continued(place, NEVER)
    assert read_header(place / "parts" / CHECKPOINT, "training")["progress"]["step"] == rank_jobs.FIT.steps
    assert apart(parts, whole) < 1e-8


def test_all_ranks_take_the_steps_that_the_clock_of_the_first_allows(results):
    assert [found["budget"] for found in results] == [{"steps are equal": True}] * 2


def test_what_one_rank_meets_ends_all_with_one_message(results):
    first, second = results
    for job, words in (
        ("not_finite", "diverged at step 6"), ("other_labels", "other labels, settings or start than rank 0 (rank 1)"),
        ("other_weights", "the weights of rank 1 differ from those of rank 0 at step"),
    ):  # fmt: skip
        assert words in first[job]["message"] and first[job] == second[job]


@pytest.mark.slow
def test_a_rank_that_does_not_answer_ends_the_other(begin, tmp_path):
    said = ended(two(begin, [str(TESTS / "rank_jobs.py"), str(tmp_path), "silent"]))
    found = json.loads((tmp_path / "results-0.json").read_text(encoding="utf-8"))
    assert "has ended or does not answer" in found["silent"]["message"], said


def test_one_process_has_nothing_to_share(monkeypatch):
    assert here() is ALONE and launched() is ALONE
    assert Ranks(1, 3).share([0, 1, 2, 3, 4]) == [1, 4] and Ranks(2, 3).share([0, 1]) == [] and Ranks(1, 3).owns(4)
    whole = [1, 2]
    assert (
        ALONE.share(whole) is whole and ALONE.told(whole) is whole and ALONE.differing(b"") == [] and ALONE.add([], 2.0) == [2.0]
    )
    for name, value in (("RANK", "2"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    with pytest.raises(BadInput, match="0 ≤ RANK < WORLD_SIZE"):
        launched()


def labels(folder: Path) -> Path:
    path, made = folder / "data.extxyz", []
    for frame in morse_frames(24):
        atoms = Atoms(frame.system.numbers.numpy(), frame.system.positions.numpy(), cell=frame.system.cell[0].numpy(), pbc=True)
        atoms.calc = SinglePointCalculator(atoms, energy=float(frame.target.energy), forces=frame.target.forces.numpy())
        made.append(atoms)
    write(path, made)
    return path


def command(folder: Path, steps: int) -> list[str]:
    size = ["--channels", "4", "--radial", "5", "--hidden", "8", "--fit.batch-size", "4", "--fit.steps", f"{steps}"]
    return ["train", "potential", str(folder / "data.extxyz"), "--out", str(folder / "out"), *size]


def waited(true: Callable[[], bool], processes: list[Any]) -> None:
    end = time.monotonic() + LONGEST_S
    while not true():
        assert time.monotonic() < end and all(p.poll() is None for p in processes), [p.communicate() for p in processes]
        time.sleep(0.05)


def steps_done(folder: Path) -> int:
    return int(read_header(folder / "out" / CHECKPOINT, "training")["progress"]["step"])


@pytest.mark.slow
def test_a_killed_rank_ends_the_other_and_the_command_resumes(begin, tmp_path):
    labels(tmp_path)
    processes = two(begin, ["-m", "mdistill", *command(tmp_path, 100000)])
    waited((tmp_path / "out" / CHECKPOINT).is_file, processes)
    processes[1].send_signal(signal.SIGKILL)
    (status, said), _ = ended(processes)
    assert status == 1 and "another process of the training has ended or does not answer" in said
    assert "Traceback" not in said and steps_done(tmp_path) > 0


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_torchrun_that_is_stopped_saves_and_one_process_resumes(begin, tmp_path, number):
    labels(tmp_path)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "mdistill"]
    process = begin([*launcher, *command(tmp_path, 100000)], environment())
    waited((tmp_path / "out" / CHECKPOINT).is_file, [process])
    process.send_signal(number)
    (status, said), = ended([process])  # fmt: skip
    assert status != 0 and said.count("everything so far is saved") == 1 and "resume: mdistill train potential" in said
    before = steps_done(tmp_path)
    single = begin(["-m", "mdistill", *command(tmp_path, 100000)], environment())
    waited(lambda: steps_done(tmp_path) > before, [single])
    single.send_signal(number)
    assert ended([single])[0][0] == 128 + number and before > 0


@pytest.mark.slow
def test_the_command_on_two_processes_writes_and_prints_once(begin, tmp_path):
    labels(tmp_path)
    processes = two(begin, ["-m", "mdistill", *command(tmp_path, 40)], MDISTILL_QUIET="0")
    printed = [process.communicate(timeout=LONGEST_S) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], printed
    assert "student:" in printed[0][0] and printed[1] == ("", "")
    assert (tmp_path / "out" / "student.mdistill").is_file() and (tmp_path / "out" / HISTORY).is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["distill", "none.cif"], "2 processes for mdistill distill"),
        (["train", "stride", "--from", "none"], "2 processes for train stride"),
        (["train", "potential", "none.extxyz", "--out", "none"], "none.extxyz"),
    ],
)
def test_what_cannot_be_done_is_said_once(arguments, words, begin):
    found = ended(two(begin, ["-m", "mdistill", *arguments], TORCHELASTIC_RUN_ID="one"))
    assert [status for status, _ in found] == [2, 2]
    assert sum(text.count(words) for _, text in found) == 1, found
    assert len(re.findall("fix:", "".join(text for _, text in found))) == 1


def test_variables_of_a_cluster_do_not_stop_commands_of_one_process(monkeypatch, capsys):
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    assert cli.run(["cite", "none"]) == 2
    assert "none" in capsys.readouterr().err
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "one")
    with pytest.raises(SystemExit):
        cli.run(["cite", "none"])
    monkeypatch.setenv("RANK", "0")
    assert cli.run(["cite", "none"]) == 2
    assert "2 processes for mdistill cite" in capsys.readouterr().err
