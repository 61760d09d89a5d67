"""Who asks an engine: the same answers from this process and from workers, and what becomes of hangs, crashes and stops."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from torch import Tensor

from mdistill.data.store import LabelStore
from mdistill.derivatives import Conservative
from mdistill.errors import BadInput, Interrupted, MdistillError
from mdistill.graph import empty_graph
from mdistill.interrupt import StopRequest
from mdistill.io.files import write_text
from mdistill.labelling import dask_executor
from mdistill.labelling.engine import Answer, Failure, as_engine
from mdistill.labelling.executor import AskedPotential, Executor, NoAnswer, executor
from mdistill.labelling.label import label_run, label_structures
from mdistill.labelling.settings import LabelSettings
from mdistill.labelling.tasks import Question
from mdistill.types import Prediction, System
from systems import MorseNet, random_box

BOX = random_box(0, atoms=6, closest=2.2)
SETTINGS = LabelSettings(
    temperatures_K=(300.0,), frames=6, blocks=3, every_fs=6.0, equilibration_fs=6.0, time_step_fs=2.0, strains=(0.02,),
    shears=1, rattles=(0.05, 0.1, 0.02), contacts=2, probes=1, probe_every=2, largest_force=1e3,
)  # fmt: skip


@dataclass(frozen=True)
class Odd:
    """An engine that does what the first coordinate of a structure says; notes every question in `folder`."""

    folder: Path
    hang_in: str = "python"
    name: str = "odd"
    elements: frozenset[int] = frozenset()

    def label(
        self, system: System, folder: Path, *, probes: Tensor | None = None, known: Prediction | None = None
    ) -> Answer | Failure:
        what = int(system.positions[0, 0])
        write_text(self.folder / f"{what}-{os.getpid()}", "")
        if what == HANG:
            with subprocess.Popen(["sleep", "600"]) as program:
                write_text(self.folder / "program", str(program.pid))
                program.wait()
        if what == CRASH:
            os._exit(7)
        if what == RAISE:
            raise ZeroDivisionError("by hand")
        if what == UNKNOWN:
            raise BadInput("structure", "Cl", allowed="Li", fix="another teacher")
        if what == ONCE and len(list(self.folder.glob(f"{ONCE}-*"))) + len(list(self.folder.glob("again"))) < 2:
            write_text(self.folder / "again", "")
            return Failure(reason="not yet", retry=True)
        time.sleep(0.02 * (what % 3))
        energy = torch.tensor([float(what)], dtype=torch.float64)
        return Answer(prediction=Prediction(energy=energy, forces=torch.zeros_like(system.positions)))


HANG, CRASH, RAISE, UNKNOWN, ONCE = 101, 102, 103, 104, 105


def question(number: int) -> Question:
    return Question(name="x", index=number, system=replace(BOX, positions=torch.full_like(BOX.positions, float(number))))


def said(asked: Executor, numbers: list[int], **how: Any) -> list[Any]:
    """Energies, or reasons of failures."""
    answers = asked.answers([question(k) for k in numbers], **how)
    return [a.reason if isinstance(a, Failure) else float(a.prediction.energy[0]) for a in answers]


def odd(folder: Path, workers: int, seconds: float = 30.0) -> Executor:
    return executor(Odd(folder), workers=workers, seconds=seconds, folder=folder / "engine")


def alive(process: int) -> bool:
    return psutil.pid_exists(process) and psutil.Process(process).status() != psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_answers_come_in_the_order_of_the_questions(workers: int, tmp_path: Path) -> None:
    numbers = [int(k) for k in np.random.default_rng(0).permutation(20)]
    with closing(odd(tmp_path, workers)) as asked:
        assert said(asked, numbers) == numbers
    processes = {int(path.name.split("-")[1]) for path in tmp_path.glob("*-*")}
    assert len(processes) == max(workers, 1) and (os.getpid() in processes) == (workers == 0)
    assert workers == 0 or not any(map(alive, processes)), "workers end with it"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the program is killed before it is waited for
@pytest.mark.parametrize("workers", [0, 2])
def test_a_task_that_hangs_is_killed_with_what_it_started(workers: int, tmp_path: Path, trust: Any) -> None:
    with closing(odd(tmp_path, workers, seconds=1.0)) as asked:
        assert said(asked, [1, HANG, 2]) == [1.0, "no answer within 1 s", 2.0]
        hung = [int(path.name.split("-")[1]) for path in tmp_path.glob(f"{HANG}-*")]
        program = int((tmp_path / "program").read_text())
        assert not alive(program)
        assert hung == [os.getpid()] if workers == 0 else not any(map(alive, hung))
    trust("T37", f"a teacher that hangs, {workers} workers", "killed, next call served", "gone", planted=True)


def test_a_worker_that_crashes_is_a_failure(tmp_path: Path) -> None:
    with closing(odd(tmp_path, 2)) as asked:
        found = said(asked, [1, CRASH, 2, RAISE, 3])
    assert found == [1.0, "the worker process died (exit status 7)", 2.0, "ZeroDivisionError: by hand", 3.0]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_question_is_asked_again_as_often_as_allowed(workers: int, tmp_path: Path) -> None:
    with closing(odd(tmp_path, workers)) as asked:
        assert said(asked, [ONCE]) == ["not yet"]
        (tmp_path / "again").unlink()
        for path in tmp_path.glob(f"{ONCE}-*"):
            path.unlink()
        assert said(asked, [1, ONCE, 2], attempts=2) == [1.0, float(ONCE), 2.0]
        if workers:
            with pytest.raises(NoAnswer, match="exit status 7"):
                AskedPotential(asked)(empty_graph(question(CRASH).system))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unknown_element_ends_it(workers: int, tmp_path: Path) -> None:
    with closing(odd(tmp_path, workers)) as asked:
        with pytest.raises(BadInput, match="Cl"):
            said(asked, [1, UNKNOWN, 2])
        assert said(asked, [3]) == [3.0]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stop_ends_it_after_what_is_under_way(workers: int, tmp_path: Path) -> None:
    stop = StopRequest()
    with closing(odd(tmp_path, workers)) as asked:
        answers = asked.answers([question(k) for k in range(50)], stop=stop)
        next(answers)
        stop.signal_number = signal.SIGINT
        assert len(list(answers)) <= workers


def test_negative_workers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="workers: -1"):
        odd(tmp_path, -1)


def content(folder: Path) -> list[Any]:
    """Everything in a store, comparable with == (bit for bit)."""
    return [
        (f.source, f.temperature_K, f.block, f.system.positions.tolist(), f.target.energy.tolist(), f.target.forces.tolist(),
         f.target.stress.tolist(), None if f.products is None else (f.probes.tolist(), f.products.tolist()))
        for f in LabelStore(folder).read()
    ]  # fmt: skip


def test_labels_do_not_depend_on_who_asks(tmp_path: Path, trust: Any) -> None:
    teacher = Conservative(MorseNet())
    for workers in (0, 2):
        folder = tmp_path / f"{workers}"
        results = label_run([BOX], teacher, SETTINGS, folder, workers=workers)
        found = [replace(BOX, positions=BOX.positions + 0.01 * k) for k in range(11)]
        assert label_structures(found, teacher, LabelStore(folder), name="own", settings=SETTINGS, workers=workers) == 11
        assert results.notes == []
    frames = content(tmp_path / "0")
    assert content(tmp_path / "2") == frames and len(frames) == 2 + 4 + 2 + 12 + 11
    trust("T19", "labels asked by two worker processes and by this one", "bit-equal", "exact")


@dataclass(frozen=True)
class Faulty:
    """`MorseNet`, which hangs or dies on the third rattled structure."""

    how: str
    name: str = "faulty"
    elements: frozenset[int] = frozenset()

    def label(
        self, system: System, folder: Path, *, probes: Tensor | None = None, known: Prediction | None = None
    ) -> Answer | Failure:
        if known is None and (system.positions - BOX.positions).std() > 0.07:
            if self.how == "crash":
                os._exit(9)
            time.sleep(600.0)
        return as_engine(Conservative(MorseNet())).label(system, folder, probes=probes, known=known)


@pytest.mark.parametrize("how", ["hang", "crash"])
def test_a_structure_without_an_answer_is_left_out_and_counted(how: str, tmp_path: Path) -> None:
    settings = replace(SETTINGS, temperatures_K=(), strains=(), shears=0, contacts=0, timeout_s=1.0)
    with pytest.raises(MdistillError, match="failed on 1 of 4"):
        label_run([BOX], Faulty(how), settings, tmp_path, workers=2)
    assert len(LabelStore(tmp_path)) == 3 and len(list((tmp_path / "broken").glob("*.extxyz"))) == 1


def test_a_killed_run_goes_on_and_adds_nothing_twice(tmp_path: Path) -> None:
    teacher = Conservative(MorseNet())
    label_run([BOX], teacher, SETTINGS, tmp_path / "whole", workers=2)
    child = os.fork()
    if child == 0:
        try:
            label_run([BOX], Slow(), SETTINGS, tmp_path / "killed", workers=2)
        finally:
            os._exit(0)
    workers: list[psutil.Process] = []
    while len(LabelStore(tmp_path / "killed")) < 6:
        workers = psutil.Process(child).children() or workers
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert workers and not psutil.wait_procs(workers, timeout=20.0)[1], "workers die with the process that asks"
    frames = content(tmp_path / "killed")
    assert frames == content(tmp_path / "whole")[: len(frames)]
    label_run([BOX], Slow(), SETTINGS, tmp_path / "killed", workers=2)
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


class Slow:
    """`MorseNet` that takes its time."""

    name, elements = "morse", frozenset[int]()

    def label(
        self, system: System, folder: Path, *, probes: Tensor | None = None, known: Prediction | None = None
    ) -> Answer | Failure:
        time.sleep(0.03)
        return as_engine(Conservative(MorseNet())).label(system, folder, probes=probes, known=known)


def test_a_stopped_run_with_workers_goes_on(tmp_path: Path) -> None:
    label_run([BOX], Slow(), SETTINGS, tmp_path / "whole")
    for _ in range(40):
        stop = StopRequest(deadline=time.monotonic() + 0.3)
        try:
            label_run([BOX], Slow(), SETTINGS, tmp_path / "parts", workers=2, stop=stop)
            break
        except Interrupted:
            continue
    assert content(tmp_path / "parts") == content(tmp_path / "whole")


class Recycled:
    """A Dask client and its only future: one object, as Python may give a new future the place of a freed one."""

    key, looks, asked = "", 0, 0

    def submit(self, *_: Any, **__: Any) -> Recycled:
        self.asked, self.looks = self.asked + 1, 0
        self.key = f"question-{self.asked}"
        return self

    def nthreads(self) -> dict[str, int]:
        return {"worker": 1}

    def processing(self) -> dict[str, list[str]]:
        return {"worker": [self.key]}

    def done(self) -> bool:
        self.looks += 1
        return self.looks == 3

    def result(self, timeout: float) -> Any:
        forces = torch.zeros(1, 3)
        return Failure(reason="once", retry=True) if self.asked == 1 else Answer(
            prediction=Prediction(energy=torch.full((1,), 7.0), forces=forces)
        )  # fmt: skip

    def cancel(self, futures: Any) -> None:
        pass


def clocked(client: Any, place: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, list[float]]:
    """An executor that gives a question 10 s, and its clock, which moves by 4 s at every look."""
    clock = [0.0]
    monkeypatch.setattr(dask_executor.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(dask_executor.time, "sleep", lambda _: clock.__setitem__(0, clock[0] + 4.0))
    asked = object.__new__(dask_executor.Dask)
    asked.engine, asked.seconds, asked.folder, asked.client = Odd(place), 10.0, place, client
    return asked, clock


def test_the_time_of_a_question_begins_anew_when_it_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, _ = clocked(Recycled(), tmp_path, monkeypatch)
    assert said(asked, [0], attempts=2) == [7.0]


class Queued(Recycled):
    """A worker of one thread that has another question before it: longer than a question may take."""

    asked = 1

    def processing(self) -> dict[str, list[str]]:
        return {"worker": ["earlier", self.key] if self.looks < 8 else [self.key]}

    def done(self) -> bool:
        self.looks += 1
        return self.looks == 10


def test_the_time_of_a_question_begins_when_a_worker_begins_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, clock = clocked(Queued(), tmp_path, monkeypatch)
    assert said(asked, [0], attempts=1) == [7.0] and clock[0] > 3 * asked.seconds


@dataclass
class Future:
    """A question in the hands of `OneWorker`, which hangs at question 1 and answers the others at once, from the last to the first."""

    number: int
    key: str
    taken: list[int]

    def done(self) -> bool:
        return self.number != 1 and (self.number != 0 or 2 in self.taken)

    def result(self, timeout: float) -> Any:
        self.taken.append(self.number)
        if self.taken.count(3) == 1 and self.number == 3:
            raise TimeoutError  # its worker died meanwhile
        return Answer(prediction=Prediction(energy=torch.full((1,), float(self.number)), forces=torch.zeros(1, 3)))


class OneWorker:
    def __init__(self) -> None:
        self.taken, self.asked, self.restarted = list[int](), 0, list[str]()

    def submit(self, _: Any, __: Any, one: Question, *___: Any, **____: Any) -> Future:
        self.asked += 1
        return Future(int(one.system.positions[0, 0]), f"{self.asked}", self.taken)

    def nthreads(self) -> dict[str, int]:
        return {"worker": 1}

    def processing(self) -> dict[str, list[str]]:
        return {"worker": ["2"]}

    def restart_workers(self, workers: list[str]) -> None:
        self.restarted += workers

    def cancel(self, futures: Any) -> None:
        pass


def test_answers_are_taken_as_they_come_and_a_later_question_that_hangs_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = OneWorker()
    asked, clock = clocked(client, tmp_path, monkeypatch)
    found = said(asked, [0, 1, 2, 3])
    assert found == [0.0, "no answer within 10 s", 2.0, 3.0]
    assert client.taken == [2, 3, 0, 3] and client.asked == 5 and client.restarted == ["worker"] and clock[0] < 3 * asked.seconds


@pytest.mark.slow
@pytest.mark.loopback
def test_a_dask_cluster_gives_the_same_answers_and_outlives_a_worker(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as local:
        address = local.scheduler_address.replace("tcp://", "dask://")
        with closing(executor(Odd(tmp_path), workers=0, seconds=60.0, folder=tmp_path / "engine", address=address)) as asked:
            found = said(asked, [0, 1, RAISE, ONCE], attempts=2) + said(asked, [CRASH]) + said(asked, [2], attempts=2)
            with pytest.raises(BadInput, match="Cl"):
                said(asked, [UNKNOWN])
    assert found[:4] == [0.0, 1.0, "ZeroDivisionError: by hand", float(ONCE)] and found[5] == 2.0
    assert "worker process died" in found[4]
