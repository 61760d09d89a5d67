"""CP2K as an engine: units and signs, retries, faults, what is remembered; with a program that plays CP2K, and with CP2K."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from fake_cp2k import SPRING
from laws import assert_close
from mdistill.data.store import LabelStore
from mdistill.errors import BadInput, MdistillError
from mdistill.graph import make_system
from mdistill.labelling.cp2k import ATTEMPTS, Cp2k
from mdistill.labelling.cp2k_files import input_text, read_output
from mdistill.labelling.engine import Answer, Failure
from mdistill.labelling.hard_settings import Cp2kSettings
from mdistill.labelling.label import label_structures
from mdistill.labelling.remembered import Remembered, level_of, load_engine
from mdistill.labelling.settings import LabelSettings
from mdistill.types import System
from mdistill.units import BOHR, GPA, HARTREE
from systems import random_box

PLAYER = Path(__file__).parents[1] / "fake_cp2k.py"
BOX, NARROW = (random_box(0, atoms=6, length=length) for length in (9.0, 5.0))
PLAIN = LabelSettings(probes=0, largest_force=1e4)


def engine(mode: str, **settings: object) -> Cp2k:
    return Cp2k(Cp2kSettings(command=f"{sys.executable} {PLAYER} {mode}", **settings))


def told(folder: Path) -> list[dict[str, object]]:
    return json.loads((folder / ATTEMPTS).read_text())["attempts"]


def test_energy_forces_and_stress_have_our_units_and_signs(tmp_path):
    answer = engine("good").label(BOX, tmp_path / "q")
    assert isinstance(answer, Answer)
    apart = BOX.positions.double() / BOHR
    forces = -SPRING * (apart - apart.mean(0))
    assert_close(answer.prediction.forces, forces * HARTREE / BOHR, absolute=1e-8, relative=1e-8)
    assert_close(answer.prediction.energy, 0.5 * (forces**2).sum().view(1) / SPRING * HARTREE, absolute=1e-8, relative=1e-8)
    assert float(answer.prediction.stress[0, 2, 2]) == pytest.approx(-3.0 * GPA)
    assert told(tmp_path / "q")[0]["scf_steps"] == 7


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("crash", "moon is in the wrong house"),
        ("unconverged", "SCF did not converge"),
        ("nan", "not finite"),
        ("silent", "ended early"),
    ],
)
def test_a_failure_is_tried_once_more_with_safer_settings_then_told(tmp_path, mode, reason):
    answer = engine(mode).label(BOX, tmp_path / "q")
    assert isinstance(answer, Failure)
    assert reason in answer.reason and "with safer settings" in answer.reason
    assert [one["safer"] for one in told(tmp_path / "q")] == [False, True]
    again = engine(f"{mode}-once").label(BOX, tmp_path / "other")
    assert isinstance(again, Answer)
    assert reason in str(told(tmp_path / "other")[0]["failure"]) and told(tmp_path / "other")[1]["failure"] == ""


def test_a_calculation_that_hangs_is_killed(tmp_path):
    before = set(psutil.Process().children(recursive=True))
    answer = engine("hang", timeout_s=0.5).label(BOX, tmp_path / "q")
    assert isinstance(answer, Failure) and answer.reason.startswith("no answer within 0.5 s")
    assert set(psutil.Process().children(recursive=True)) == before


def test_a_grid_too_coarse_shows_in_the_sum_of_the_forces_and_is_not_repeated(tmp_path):
    answer = engine("drift").label(BOX, tmp_path / "q")
    assert isinstance(answer, Failure) and "raise cutoff_Ry" in answer.reason
    assert len(told(tmp_path / "q")) == 1


def test_neighbours_start_from_the_last_orbitals_and_other_contents_do_not(tmp_path):
    one, near = engine("good"), replace(BOX, positions=BOX.positions + 0.01)
    other = replace(BOX, numbers=BOX.numbers.flip(0).clone() * 0 + 3)
    for name, system in (("a", BOX), ("b", near), ("c", other)):
        one.label(system, tmp_path / name)
    assert [told(tmp_path / name)[0]["from_orbitals"] for name in "abc"] == [False, True, False]
    assert "WFN_RESTART_FILE_NAME start.wfn" in (tmp_path / "b" / "attempt-1" / "run.inp").read_text()
    assert not list((tmp_path / "b").rglob("*.wfn*"))


def test_failures_never_enter_the_labels_and_too_many_stop_the_run(tmp_path):
    systems = [replace(BOX, positions=BOX.positions + 0.01 * k) for k in range(3)]
    store = LabelStore(tmp_path)
    with pytest.raises(MdistillError, match="failed on 3 of 3"):
        label_structures(systems, engine("crash"), store, name="hard", settings=PLAIN, group=1, share=0.6)
    assert len(store) == 0
    assert "moon" in (tmp_path / "notes.jsonl").read_text()


def test_answers_are_remembered_and_other_settings_ask_again(tmp_path):
    (tmp_path / "calls").write_text("")
    for _ in range(2):
        assert isinstance(Remembered(engine("good")).label(BOX, tmp_path / "hard" / "q"), Answer)
    assert (tmp_path / "calls").read_text() == "x"
    Remembered(engine("good", timeout_s=5.0)).label(BOX, tmp_path / "hard" / "q")
    assert (tmp_path / "calls").read_text() == "x"
    Remembered(engine("good", cutoff_Ry=500.0)).label(BOX, tmp_path / "hard" / "q")
    assert (tmp_path / "calls").read_text() == "xx"
    (tmp_path / "hard" / "q" / "answer.npz").write_bytes(b"cut")
    Remembered(engine("good")).label(BOX, tmp_path / "hard" / "q")
    assert (tmp_path / "calls").read_text() == "xxx"


DRIVER = """
import sys
from pathlib import Path
from dataclasses import replace
from mdistill.data.store import LabelStore
from mdistill.labelling.cp2k import Cp2k
from mdistill.labelling.hard_settings import Cp2kSettings
from mdistill.labelling.label import label_structures
from mdistill.labelling.remembered import Remembered
from mdistill.labelling.settings import LabelSettings
from systems import random_box
home, workers, player = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
box = random_box(0, atoms=6, length=9.0)
systems = [replace(box, positions=box.positions + 0.01 * k) for k in range(4)]
engine = Remembered(Cp2k(Cp2kSettings(command=f"{sys.executable} {player} " + sys.argv[4])))
label_structures(systems, engine, LabelStore(home / "labels"), name="hard", settings=LabelSettings(probes=0, largest_force=1e4),
                 group=1, workers=workers)
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_a_driver_killed_loses_at_most_the_calculations_in_hand_and_leaves_no_program(tmp_path, workers):
    """The player hangs from its third call on; then the driver is killed, and the same job finishes with two calls."""
    player = tmp_path / "player.py"
    body = PLAYER.read_text().replace('mode.removesuffix("-once")', '"hang" if len(calls.read_text()) > 2 else "good"')
    player.write_text(body)
    (tmp_path / "labels").mkdir()
    calls = tmp_path / "labels" / "calls"
    calls.write_text("")
    arguments = [sys.executable, "-c", DRIVER, str(tmp_path), str(workers)]
    paths = os.pathsep.join([str(PLAYER.parent), *sys.path])
    environment = os.environ | {"PYTHONPATH": paths}
    driver = subprocess.Popen([*arguments, str(player), "good"], env=environment)
    end = time.monotonic() + 120.0
    while len(calls.read_text()) < 3 and driver.poll() is None and time.monotonic() < end:
        time.sleep(0.1)
    time.sleep(0.5)
    programs = psutil.Process(driver.pid).children(recursive=True)
    assert programs
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    alive = psutil.wait_procs(programs, timeout=20.0)[1]
    assert not alive, alive
    done = len(LabelStore(tmp_path / "labels"))
    calls.write_text("")
    subprocess.run([*arguments, str(PLAYER), "good"], check=True, env=environment)
    assert len(LabelStore(tmp_path / "labels")) == 4
    assert done >= 1 and len(calls.read_text()) <= 4 - 2


def test_a_program_that_is_not_there_is_named_with_the_way_to_it():
    with pytest.raises(BadInput, match=r"no-such-cp2k.*not found") as told_:
        Cp2k(Cp2kSettings(command="no-such-cp2k -i"))
    assert "apt-get install cp2k" in str(told_.value)


def test_an_unknown_engine_and_curvature_are_refused(tmp_path):
    with pytest.raises(BadInput, match="cp2kk"):
        load_engine("cp2kk")
    with pytest.raises(BadInput, match="none with a hard engine"):
        engine("good").label(BOX, tmp_path, probes=torch.zeros((1, 6, 3)))


def test_the_input_names_every_kind_and_the_periodicity():
    text = input_text(BOX, Cp2kSettings(functional="revPBE-D3"))
    assert all(f"&KIND {name}" in text for name in ("Li", "P", "S", "Cl") if f" {name} " in text)
    assert "REVPBE" in text and "DFTD3(BJ)" in text and "STRESS_TENSOR ANALYTICAL" in text
    molecule = random_box(0, atoms=4, periodic=False)
    text = input_text(molecule, Cp2kSettings(functional="PBE"))
    assert "PERIODIC NONE" in text and "PSOLVER MT" in text and "STRESS" not in text and "DFTD3" not in text


def test_a_small_cell_is_sampled_by_k_points_and_each_calculation_starts_from_atoms(tmp_path):
    """5 Å: two k-points along each axis, none along open ones; orbital transformation knows the Γ point alone."""
    grid = engine("good", kpoints=(2, 2, 2))
    for name in "ab":
        grid.label(NARROW, tmp_path / name)
    text = (tmp_path / "b" / "attempt-1" / "run.inp").read_text()
    assert "MONKHORST-PACK 2 2 2" in text and "&DIAGONALIZATION" in text and "&OT" not in text
    assert "SCF_GUESS ATOMIC" in text and "RESTART" not in text and not list(tmp_path.rglob("*.kp*"))
    assert [told(tmp_path / name)[0]["from_orbitals"] for name in "ab"] == [False, False]
    assert "2×2×2 k-points" in grid.theory and "Γ point" in engine("good").theory
    slab = replace(NARROW, pbc=torch.tensor([[True, True, False]]))
    assert "MONKHORST-PACK 2 2 1" in input_text(slab, Cp2kSettings(kpoints=(2, 2, 2)))
    safer = input_text(NARROW, Cp2kSettings(kpoints=(2, 2, 2)), safer=True)
    assert "ALPHA 0.1" in safer and "MAX_SCF 200" in safer


def test_electrons_of_metals_have_a_temperature():
    text = input_text(BOX, Cp2kSettings(smearing_K=1000.0))
    assert "ELECTRONIC_TEMPERATURE 1000" in text and "&DIAGONALIZATION" in text and "&OT" not in text
    assert "SMEAR" not in input_text(BOX, Cp2kSettings())
    assert "electrons at 1000 K" in engine("good", smearing_K=1000.0).theory and "electrons" not in engine("good").theory


def test_an_output_cut_anywhere_is_a_failure(tmp_path):
    engine("good").label(BOX, tmp_path / "q")
    text = (tmp_path / "q" / "attempt-1" / "run.out").read_text()
    for cut in range(0, len(text) - 30, 97):
        assert isinstance(read_output(text[:cut], BOX, Cp2kSettings()), Failure)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cp2k") is None, reason="cp2k is not installed")
@pytest.mark.parametrize(("kpoints", "kelvin"), [((1, 1, 1), 0.0), ((2, 1, 1), 0.0), ((2, 1, 1), 3000.0)])
def test_cp2k_itself_gives_forces_and_stress_that_are_derivatives_of_its_energy(tmp_path, kpoints, kelvin):
    """Two hydrogen molecules in a small cell: central differences of the energy."""
    positions = np.array([[0.0, 0.0, 0.0], [0.80, 0.05, 0.0], [2.0, 2.0, 2.0], [2.1, 2.05, 2.75]])
    cell = np.diag([4.5, 4.7, 4.9])
    basis = {"functional": "PBE", "basis": "SZV-MOLOPT-SR-GTH", "cutoff_Ry": 200.0}
    cp2k = Cp2k(Cp2kSettings(**basis, scf=1e-7, drift_eV_A=0.2, kpoints=kpoints, smearing_K=kelvin))

    def of(system: System) -> Answer:
        answer = cp2k.label(system, tmp_path / "q")
        assert isinstance(answer, Answer), answer
        return answer

    def box(move: float = 0.0, stretch: float = 0.0) -> System:
        moved, scale = positions.copy(), np.diag([1.0 + stretch, 1.0, 1.0])
        moved[1, 0] += move
        return make_system(moved @ scale, np.ones(4, dtype=int), cell @ scale, [True] * 3)

    middle, step = of(box()), 0.01
    slope = (of(box(-step)).prediction.energy - of(box(step)).prediction.energy) / (2 * step)
    assert float(slope) == pytest.approx(float(middle.prediction.forces[1, 0]), abs=0.03)
    rise = (of(box(0.0, step)).prediction.energy - of(box(0.0, -step)).prediction.energy) / (2 * step)
    stress = float(rise) / float(np.linalg.det(cell))
    assert stress == pytest.approx(float(middle.prediction.stress[0, 0, 0]), abs=0.002)


def test_answers_without_k_points_count_as_those_at_the_gamma_point():
    assert "kpoints" not in level_of(engine("good")) and "kpoints" in level_of(engine("good", kpoints=(2, 1, 1)))
    assert "smearing" not in level_of(engine("good")) and "smearing" in level_of(engine("good", smearing_K=1000.0))
    for wrong in ((2, 2), (2.5, 1, 1)):
        with pytest.raises(BadInput, match="kpoints"):
            Cp2kSettings(kpoints=wrong)
