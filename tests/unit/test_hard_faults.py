"""Faults while hard labels are made: nothing is lost, nothing is asked for twice, and the message says what to do."""

from __future__ import annotations

import errno
import os
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mdistill import cli
from mdistill.data.store import LabelStore
from mdistill.errors import BadInput, MdistillError
from mdistill.hardening.hard_labels import LABELLED, label_file
from mdistill.io import files
from mdistill.io.files import write_failure
from mdistill.io.structures import write_systems
from mdistill.labelling.engine import Answer, Engine, Failure
from mdistill.labelling.hard_settings import MoleculeDftSettings
from mdistill.labelling.remembered import Remembered
from mdistill.runs.identity import structure_sha256
from mdistill.types import Prediction, System
from systems import random_box

PLAYER = Path(__file__).parents[1] / "fake_cp2k.py"
BOX = random_box(0, atoms=6, length=5.0)
SYSTEMS = [replace(BOX, positions=BOX.positions + 0.01 * k * torch.arange(18).reshape(6, 3)) for k in range(5)]
FULL, KILLED, NAN = "full", "killed", "nan"


@dataclass(frozen=True)
class Faulty:
    """Springs to the origin; the third structure meets the fault whose name is a file in `place`. Notes every call there."""

    place: Path
    name: str = "faulty"
    elements: frozenset[int] = frozenset()

    def label(
        self, system: System, folder: Path, *, probes: Tensor | None = None, known: Prediction | None = None
    ) -> Answer | Failure:
        with open(self.place / "calls", "a", encoding="ascii") as calls:
            calls.write(f"{structure_sha256(system)[:8]}\n")
        energy = 0.5 * system.positions.square().sum().view(1)
        if torch.allclose(system.positions, SYSTEMS[2].positions, atol=1e-6):
            if (self.place / FULL).exists():
                raise write_failure(folder / "input", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
            if (self.place / KILLED).exists():
                (self.place / KILLED).unlink()
                os.kill(os.getpid(), signal.SIGKILL)
            energy = energy * float("nan") if (self.place / NAN).exists() else energy
        return Answer(prediction=Prediction(energy=energy, forces=-system.positions))


@pytest.fixture
def few(tmp_path: Path) -> Path:
    path = tmp_path / "few.extxyz"
    write_systems(path, SYSTEMS)
    return path


def faulty(place: Path) -> Engine:
    return Remembered(Faulty(place))


def calls(place: Path) -> list[str]:
    return (place / "calls").read_text().split()


def assert_every_label_once(folder: Path) -> None:
    labels = LabelStore(folder).read()
    assert len(labels) == len(SYSTEMS) == len({structure_sha256(label.system) for label in labels})
    assert all(float(label.target.energy) == float(0.5 * label.system.positions.square().sum()) for label in labels)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_disk_that_is_full_for_the_engine_ends_the_job_and_is_no_failure_of_the_structure(
    few: Path, tmp_path: Path, workers: int, trust: Callable[..., None]
) -> None:
    (tmp_path / FULL).touch()
    with pytest.raises(MdistillError, match=r"input: could not be written \(No space left"):
        label_file(few, faulty(tmp_path), tmp_path / "out", workers=workers)
    assert not (tmp_path / "out" / "notes.jsonl").exists()
    (tmp_path / FULL).unlink()
    label_file(few, faulty(tmp_path), tmp_path / "out", workers=workers)
    assert_every_label_once(tmp_path / "out")
    asked = Counter(calls(tmp_path))
    assert max(asked.values()) == 2
    assert sum(number > 1 for number in asked.values()) <= max(workers, 1), "only calculations that were in hand are repeated"
    trust("T36", f"hard labels, disk full for the engine, {workers} workers", "named, resumed, no label lost", "the same")


def test_a_disk_full_at_any_write_is_named_and_the_same_command_finishes(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trust: Callable[..., None]
) -> None:
    """Answers, shards and index lines are flushed; the n-th flush finds the disk full."""
    flush, lost, failed = os.fsync, 0, 0
    for number in range(1, 16, 2):
        place, left = tmp_path / f"{number}", [number]
        place.mkdir()

        def full(handle: int, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] <= 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            flush(handle)

        with monkeypatch.context() as patched:
            patched.setattr(files.os, "fsync", full)
            with pytest.raises(MdistillError, match="could not be written .No space left"):
                label_file(few, faulty(place), place / "out")
            failed += 1
        before = set(LabelStore(place / "out").keys)
        label_file(few, faulty(place), place / "out")
        assert before <= LabelStore(place / "out").keys
        assert_every_label_once(place / "out")
        lost = max(lost, len(calls(place)) - len(SYSTEMS))
        assert (place / "out" / LABELLED).is_file()
    assert lost <= 1, "only the calculation in hand"
    trust("T36", f"hard labels, disk full at {failed} writes: calculations repeated at most", lost, "1")


def test_a_worker_that_is_killed_is_asked_again(few: Path, tmp_path: Path, trust: Callable[..., None]) -> None:
    (tmp_path / KILLED).touch()
    results = label_file(few, faulty(tmp_path), tmp_path / "out", workers=2)
    assert_every_label_once(tmp_path / "out")
    assert results.notes == [] and len(calls(tmp_path)) == len(SYSTEMS) + 1
    trust("T37", "hard labels, a worker killed: calculations lost", 1, "1, and it is repeated")


@pytest.mark.parametrize("workers", [0, 2])
def test_an_answer_that_is_not_finite_is_told_and_never_stored(few: Path, tmp_path: Path, workers: int) -> None:
    (tmp_path / NAN).touch()
    with pytest.warns(UserWarning, match="1 of 5 calculations failed"):
        results = label_file(few, faulty(tmp_path), tmp_path / "out", workers=workers)
    labels = LabelStore(tmp_path / "out").read()
    assert len(labels) == 4 and results.notes
    assert "not finite" in (tmp_path / "out" / "notes.jsonl").read_text()
    assert [path.name for path in (tmp_path / "out" / "broken").iterdir()] == ["hard-2.extxyz"]


def test_of_two_drivers_one_works_and_when_it_is_killed_the_other_finishes(
    few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], trust: Callable[..., None]
) -> None:
    """The first driver's program hangs at its third structure; the second is refused, until the first is killed."""
    player, out = tmp_path / "player.py", tmp_path / "out"
    player.write_text(
        PLAYER.read_text().replace('mode.removesuffix("-once")', '"hang" if len(calls.read_text()) > 2 else "good"')
    )
    (tmp_path / "out" / "engine").mkdir(parents=True)
    told = out / "calls"
    told.write_text("")

    def words(program: Path) -> list[str]:
        command = f"{shlex.quote(sys.executable)} {program} good"
        return ["label", str(few), "--engine", "cp2k", "--cp2k.command", command, "--out", str(out)]

    first = subprocess.Popen(
        [sys.executable, "-m", "mdistill.cli", *words(player)], env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        end = time.monotonic() + 120.0
        while len(told.read_text()) < 3 and first.poll() is None and time.monotonic() < end:
            time.sleep(0.1)
        assert len(told.read_text()) == 3 and first.poll() is None
        done = LabelStore(out).keys
        assert cli.run(words(PLAYER)) == 2
        assert f"process {first.pid}" in capsys.readouterr().err
    finally:
        first.kill()
        first.wait()
    assert len(done) == 2 and LabelStore(out).keys == done
    assert cli.run(words(PLAYER)) == 0
    labels = LabelStore(out).read()
    assert len(labels) == len({structure_sha256(label.system) for label in labels}) == len(SYSTEMS)
    assert len(told.read_text()) == 3 + 3, "two are stored, the one in hand is repeated"
    trust("T38", "hard labels: second driver refused, and after a kill it repeats one calculation", "yes", "the same")


def test_the_molecular_engine_refuses_what_it_cannot_compute() -> None:
    pytest.importorskip("pyscf")
    from mdistill.labelling.molecular_dft import MolecularDft

    with pytest.raises(BadInput, match="is periodic"):
        MolecularDft().label(BOX, Path())
    odd = replace(random_box(0, atoms=2, periodic=False), numbers=torch.tensor([1, 8]))
    with pytest.raises(BadInput, match=r"--pyscf.charge and --pyscf.spin"):
        MolecularDft(MoleculeDftSettings(spin=0)).label(odd, Path())


def test_labels_of_another_file_are_refused_and_a_file_may_grow(few: Path, tmp_path: Path) -> None:
    label_file(few, faulty(tmp_path), tmp_path / "out")
    others = [replace(system, positions=system.positions + 0.1) for system in SYSTEMS]
    write_systems(tmp_path / "others.extxyz", others)
    with pytest.raises(BadInput, match="holds labels of structures that"):
        label_file(tmp_path / "others.extxyz", faulty(tmp_path), tmp_path / "out")
    assert_every_label_once(tmp_path / "out")
    write_systems(few, [*SYSTEMS, *others])
    label_file(few, faulty(tmp_path), tmp_path / "out")
    assert len(LabelStore(tmp_path / "out").read()) == 2 * len(SYSTEMS)
