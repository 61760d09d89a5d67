"""processes.time_limit and a calculator that hangs, in every place where a teacher is asked outside labelling."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from ase.calculators.lj import LennardJones

from mdistill import cli
from mdistill.analysis.settings import GateLimits
from mdistill.derivatives import Conservative
from mdistill.judge.settings import VibrationSettings
from mdistill.judge.teacher_dynamics import follow_teacher
from mdistill.judge.timing import compare_speed
from mdistill.judge.vibrations import vibrations
from mdistill.processes import time_limit
from mdistill.simulation.settings import SimulateSettings
from mdistill.simulation.simulate import simulate
from mdistill.teachers import check_teacher
from mdistill.teachers.ase import TeacherFailure, from_calculator
from springs import NearestSprings
from systems import random_box

STUDENT, SYSTEM = Conservative(NearestSprings()), random_box(0, atoms=6, closest=2.2)
SHORT = SimulateSettings(ensemble="nve", time_ps=0.01, equilibration_ps=0.0, every_fs=1.0)


@dataclass
class Hanging:
    """A Lennard-Jones calculator that waits for ever at its nth call."""

    nth: int
    calls: int = 0
    implemented_properties = ("energy", "forces")

    def get_property(self, name: str, atoms: object) -> object:
        self.calls += name == "forces"
        if self.calls >= self.nth:
            time.sleep(3600.0)
        return LennardJones(sigma=2.0, epsilon=0.1).get_property(name, atoms)


def for_ever() -> Hanging:
    return Hanging(1)


ASKED: dict[str, Callable[..., object]] = {
    "gates: speed": lambda teacher, folder: compare_speed(teacher, STUDENT, SYSTEM),
    "gates: order of atoms": lambda teacher, folder: check_teacher(teacher, "module:hanging", system=SYSTEM),
    "follow": lambda teacher, folder: follow_teacher(
        teacher, STUDENT, SYSTEM, folder, temperature_K=50.0, time_ps=1.0, mobile=None, limits=GateLimits()
    ),
    "vibrations": lambda teacher, folder: vibrations(STUDENT, teacher, SYSTEM, VibrationSettings(), folder),
    "simulate": lambda teacher, folder: simulate(SYSTEM, teacher, SHORT, folder),
}


@pytest.mark.parametrize("place", ASKED)
@pytest.mark.parametrize("nth", [1, 2])
def test_a_calculator_that_hangs_fails_with_a_reason(place: str, nth: int, tmp_path: Path) -> None:
    teacher = from_calculator(Hanging(nth), name="hanging", timeout_s=0.2)
    with pytest.raises(TeacherFailure, match=r"hanging: no answer within 0\.2 s \(atoms: 6; longer calls: --timeout-s"):
        ASKED[place](teacher, tmp_path)


def test_a_hanging_teacher_of_a_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ar.vasp").write_text("Ar\n1.0\n4 0 0\n0 4 0\n0 0 4\nAr\n1\nDirect\n0 0 0\n")
    words = f"simulate {tmp_path}/ar.vasp --potential {Path(__file__)}:for_ever --timeout-s 0.2 --out {tmp_path}/md --trust"
    assert cli.run(words.split()) == 1
    said = capsys.readouterr().err
    assert "no answer within 0.2 s" in said and "--timeout-s" in said and "Traceback" not in said


def inner_then_sleep() -> None:
    with pytest.raises(TimeoutError, match=r"0\.1 s"), time_limit(0.1):
        time.sleep(20.0)
    time.sleep(20.0)


def test_the_sooner_of_two_limits_holds_and_the_other_goes_on() -> None:
    with pytest.raises(TimeoutError, match=r"0\.1 s"), time_limit(0.1), time_limit(50.0):
        time.sleep(20.0)
    with pytest.raises(TimeoutError, match=r"0\.3 s"), time_limit(0.3):
        inner_then_sleep()
    outer = signal.getitimer(signal.ITIMER_REAL)[0]
    with time_limit(1e-2):
        pass
    assert (signal.getitimer(signal.ITIMER_REAL)[0] > 0.0) == (outer > 0.0), "the limit of this test is still set"


NATIVE = """
import ctypes
from mdistill import processes
processes._GRACE_S = 0.2
lock, library = ctypes.create_string_buffer(256), ctypes.PyDLL(None)  # PyDLL: no other thread of Python runs meanwhile
with processes.time_limit(0.1):
    library.pthread_mutex_lock(lock)
    library.pthread_mutex_lock(lock)
"""


def test_native_code_that_hangs_ends_the_process() -> None:
    ended = subprocess.run([sys.executable, "-c", NATIVE], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1 and "Timeout" in ended.stderr and "line 8" in ended.stderr
