"""Preparation with a teacher that hangs, raises or gives numbers that are not finite: it ends, and says what to do."""

from __future__ import annotations

import shlex
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from ase.calculators.calculator import Calculator, all_changes

from mdistill import cli
from mdistill.io.structures import read_system
from mdistill.runs.ledger import Ledger

CRYSTAL = Path(__file__).parent.parent / "golden" / "ca4b391" / "crystal.extxyz"
COMMANDS = {
    "label": "label crystal.extxyz --teacher test_prepare_teacher:{0} --prepare.cutoff 2.9 --timeout-s {1} --workers {2} --out run",
    "distill": "distill crystal.extxyz --teacher test_prepare_teacher:{0} --cutoff 2.9 --label.timeout-s {1} --workers {2} --out run",
}


class Failing(Calculator):
    """Raises an error at every structure."""

    implemented_properties = ("energy", "forces", "stress")  # type: ignore[assignment]

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        self.results = self.answer(len(self.atoms))

    def answer(self, atoms: int) -> dict[str, object]:
        raise RuntimeError("out of luck")


class Sleeping(Failing):
    def answer(self, atoms: int) -> dict[str, object]:
        time.sleep(600)
        return {}


class NotFinite(Failing):
    def answer(self, atoms: int) -> dict[str, object]:
        return {"energy": 0.0, "forces": np.full((atoms, 3), np.nan), "stress": np.zeros(6)}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(CRYSTAL, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("teacher", "seconds", "reason"),
    [("Sleeping", 0.2, "no answer within 0.2 s"), ("Failing", 60, "RuntimeError: out of luck"), ("NotFinite", 60, "not finite")],
)
@pytest.mark.parametrize(("command", "workers"), [("distill", 0), ("label", 0), ("label", 2)])
def test_a_failing_teacher_ends_relaxation(command: str, workers: int, teacher: str, seconds: float, reason: str, place, capsys):  # noqa: PLR0917
    assert cli.run(shlex.split(COMMANDS[command].format(teacher, seconds, workers))) == 1
    said = capsys.readouterr().err
    assert f"test_prepare_teacher:{teacher} failed in step 0 of the relaxation" in said and reason in said
    assert "  fix: " in said and "unexpected" not in said
    assert read_system(place / "run" / "prepare" / "broken" / "relaxation.extxyz").n_atoms > 1
    assert Ledger(place / "run" / "prepare").entries()["prepare"]["state"] == "begun"


class Moving(Failing):
    """Moves the run folder while it is called."""

    def answer(self, atoms: int) -> dict[str, object]:
        Path("run").rename("moved")
        return {"energy": 0.0, "forces": np.zeros((atoms, 3)), "stress": np.zeros(6)}


def test_a_run_folder_moved_while_the_teacher_works(place: Path, capsys) -> None:
    for command in COMMANDS.values():
        assert cli.run(shlex.split(command.format("Moving", 60, 0))) == 2
        assert "run: was moved or removed while this process worked in it" in capsys.readouterr().err
        shutil.rmtree(place / "moved")
        shutil.rmtree(place / "run")


@pytest.mark.parametrize(
    ("flag", "command"),
    [
        ("--teacher", "distill crystal.extxyz --teacher nope --dry-run"),
        ("--teacher", "distill crystal.extxyz --teacher nope --out out"),
        ("--teacher", "label crystal.extxyz --teacher no.such.module:x --out out"),
        ("--teacher", "bench run --teacher nope"),
        ("--potential", "simulate crystal.extxyz --potential nope --out out"),
        ("--redraw", "train potential run --redraw nope --out out"),
    ],
)
def test_an_unknown_teacher_names_the_flag(flag: str, command: str, place: Path, capsys) -> None:
    shutil.copytree(CRYSTAL.parent / "run", place / "run")
    assert cli.run(shlex.split(command)) == 2
    assert f"{flag}: '{'no.such.module:x' if 'module' in command else 'nope'}'" in capsys.readouterr().err


def test_a_longer_timeout_resumes_the_same_work(place: Path, capsys) -> None:
    for command in COMMANDS.values():
        first = shlex.split(command.format("Failing", 60, 0))
        assert cli.run(first) == 1
        assert cli.run(shlex.split(command.format("Failing", 61, 0))) == 1
        assert "other settings" not in capsys.readouterr().err
        shutil.rmtree(place / "run")
