"""Hard labels for a run: chosen frames, fine-tuned students, the table and the gate; the commands, with bad input."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mdistill import cli
from mdistill.data.split import split_blocks
from mdistill.data.store import LabelStore
from mdistill.derivatives import Conservative
from mdistill.errors import BadInput, MdistillNotice
from mdistill.graph import build_graph
from mdistill.hardening.harden import CHOSEN, DELTA, LABELS, Hardening, first_offsets, harden
from mdistill.hardening.settings import HardSettings
from mdistill.io.structures import read_systems, to_atoms, write_systems
from mdistill.labelling.engine import Answer, Failure
from mdistill.labelling.hard_settings import Cp2kSettings
from mdistill.labelling.remembered import Remembered, load_engine
from mdistill.nets.model_files import load_model, load_net
from mdistill.runs.folder import keep_settings
from mdistill.runs.ledger import LEDGER
from mdistill.training.hard_targets import shifted_student
from mdistill.training.potential import evaluate, train_potential
from mdistill.training.settings import FitSettings, HardFitSettings, TrainSettings
from mdistill.types import Prediction, System
from mdistill.workflows.hard_stages import own_rounds
from mdistill.workflows.run_parts import read_labels
from systems import MorseNet, morse_frames

TRAIN = TrainSettings(cutoff=4.5, radial=4, degree=1, channels=4, hidden=8, held_out=0.25, fit=FitSettings(steps=150))
SETTINGS = HardSettings(fit=HardFitSettings(time=0.5, test=0.25))
PLAYER = Path(__file__).parents[1] / "fake_cp2k.py"


class Stiffer:
    """The toy teacher with forces 1.3 times as large; fails on the structures numbered in `fails`, in the order of questions."""

    name, elements = "stiffer", frozenset[int]()

    def __init__(self, *fails: int) -> None:
        self.fails, self.asked = fails, 0

    def label(self, system: System, folder: Path, **_: object) -> Answer | Failure:
        self.asked += 1
        if self.asked in self.fails:
            return Failure(reason="the SCF did not converge")
        p = Conservative(MorseNet())(build_graph(system, MorseNet().cutoff))
        return Answer(prediction=Prediction(energy=1.3 * p.energy + 5.0, forces=1.3 * p.forces))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    soft = morse_frames(32)
    store = LabelStore(folder / "label")
    store.append(soft)
    provenance = {"teacher": "morse", "settings": asdict(TRAIN)}
    return folder, soft, train_potential(soft, TRAIN, folder / "train", provenance=provenance).path


def job(trained, engine: object) -> Hardening:
    _, soft, student = trained
    return Hardening(soft=soft, students=[student], teacher="morse", engine=engine, train=TRAIN, budget=8)


def test_students_come_nearer_to_hard_labels_and_the_softening_is_told(trained, tmp_path):
    results = harden(job(trained, Remembered(Stiffer())), SETTINGS, tmp_path)
    rows = {(row[0], row[1]): row for row in results.tables[0].rows}
    errors = {key: row[2].value for key, row in rows.items()}
    assert rows["morse", "stiffer"][5].value == pytest.approx(1 / 1.3, abs=1e-6)
    assert errors["student after", "stiffer"] < 0.5 * errors["student before", "stiffer"]
    assert errors["morse, corrected", "stiffer"] < 0.3 * errors["morse", "stiffer"]
    softening, error = results.gates
    assert (softening.name, softening.sense) == ("softening against DFT", "at least")
    assert error.passed and error.limit == pytest.approx(errors["student before", "stiffer"])
    assert results.citations == []
    assert results.provenance["softening"] == pytest.approx(0.3, abs=0.05) and results.provenance["hard_labels"] == 6
    assert len(read_systems(tmp_path / CHOSEN)) == 8 and (tmp_path / DELTA).is_file()
    again = Stiffer()
    harden(job(trained, Remembered(again)), SETTINGS, tmp_path)
    assert again.asked == 0


def test_a_student_begins_with_the_energies_of_the_hard_labels(trained, tmp_path):
    """Truth: the student itself with its learned energy times 1.3 and other energies of the elements; no fit is needed."""
    _, soft, student = trained
    elements = sorted(load_net(student).elements)
    truth = shifted_student(student, tmp_path / "truth.mdistill", torch.linspace(-2.0, 1.0, len(elements)), 0.3)
    hard = [replace(f, target=p) for f, p in zip(soft[:6], evaluate(load_model(truth), soft[:6]), strict=True)]
    first = first_offsets(student, hard, 0.3, tmp_path)
    start = load_model(shifted_student(student, tmp_path / "start.mdistill", first, 0.3))
    for frame, found in zip(hard, evaluate(start, hard), strict=True):
        assert float(found.energy) == pytest.approx(float(frame.target.energy), abs=1e-4)
        torch.testing.assert_close(found.forces, frame.target.forces)


def test_answers_are_shared_by_jobs_and_lie_where_workers_of_another_folder_find_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = f"{shlex.quote(sys.executable)} {PLAYER} good"
    shared = load_engine("cp2k", cp2k=Cp2kSettings(command=command, kpoints=(2, 2, 2)), home=Path("run/hard-answers"))
    assert shared.home == tmp_path / "run" / "hard-answers"
    (tmp_path / "calls").touch()
    system = morse_frames(1)[0].system
    moved = replace(system, positions=system.positions + 2e-8)  # as a file rounds them
    answers = [shared.label(one, tmp_path / name / "q").prediction.energy for name, one in (("a", system), ("b", moved))]
    assert float(answers[0]) == float(answers[1]) and (tmp_path / "calls").read_text() == "x"
    assert len(list((tmp_path / "run" / "hard-answers").iterdir())) == 1


def test_a_failed_calculation_is_left_out_and_told(trained, tmp_path):
    with pytest.warns(UserWarning, match="1 of 8 hard calculations failed"):
        results = harden(job(trained, Stiffer(3)), SETTINGS, tmp_path)
    assert len(LabelStore(tmp_path / LABELS)) == 7
    assert any("1 of 8" in note for note in results.notes)


def test_frames_with_large_forces_are_not_chosen(trained, tmp_path):
    with pytest.raises(BadInput, match="none with energy and forces"):
        harden(job(trained, Stiffer()), replace(SETTINGS, largest_force=1e-9), tmp_path)


def test_frames_of_the_labels_beyond_the_limit_are_told(trained, tmp_path):
    soft = trained[1]
    sizes = sorted(float(frame.target.forces.norm(dim=1).max()) for frame in soft)
    limit = sizes[len(sizes) // 2]
    with pytest.warns(UserWarning, match="of 24 frames of the labels are no candidates"):
        results = harden(job(trained, Remembered(Stiffer())), replace(SETTINGS, largest_force=limit), tmp_path)
    note = next(note for note in results.notes if "no candidates" in note)
    inner = [f for f in split_blocks(soft, held_out=TRAIN.held_out)[0] if float(f.target.forces.norm(dim=1).max()) > limit]
    assert note.startswith(f"{len(inner)} of 24 ") and f"above {limit:g} eV/Å" in note and "largest-force" in note


def test_frames_from_a_trajectory_that_blew_up_are_not_selected(trained, tmp_path, capsys):
    """Forces are those of the file, else the student's; the two frames with large ones are the most novel."""
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.io import write

    systems = [frame.system for frame in morse_frames(10)]
    wild = [replace(one, positions=one.positions.clone()) for one in systems[:2]]
    for one in wild:
        vector = one.positions[1] - one.positions[0]
        one.positions[0] += 0.85 * vector  # a pair at 0.8 Å: 40 eV/Å by the student
    images = [to_atoms(one) for one in [*wild, *systems[2:]]]
    student, out, files = str(trained[2]), tmp_path / "few.extxyz", [tmp_path / "bare.extxyz", tmp_path / "told.extxyz"]
    write(files[0], images)
    for k, atoms in enumerate(images):
        forces = 0.1 * np.ones((len(atoms), 3))
        forces[0, 2] = 30.0 if k < 2 else 1.0
        atoms.calc = SinglePointCalculator(atoms, forces=forces)
    write(files[1], images)

    def selected(file: Path, *words: str) -> tuple[set[float], str]:
        assert cli.run(["select-frames", str(file), "--budget", "3", "--out", str(out), *words]) == 0
        return {round(float(one.positions[0, 0]), 6) for one in read_systems(out)}, " ".join(capsys.readouterr().out.split())

    first = {round(float(one.positions[0, 0]), 6) for one in wild}
    bare, said = selected(files[0])
    assert bare & first and "10 of 10 structures tell no forces" in said
    told, said = selected(files[1])
    assert not told & first
    assert "2 of 10 structures left out: a force above 15 eV/Å (--largest-force)" in said
    assert selected(files[1], "--largest-force", "31")[0] & first
    own, said = selected(files[0], "--student", student)
    assert not own & first and "2 of 10 structures left out" in said and "tell no forces" not in said
    assert cli.run(["select-frames", str(files[1]), "--largest-force", "0.5", "--out", str(out)]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "all 10 have a force above 0.5 eV/Å, the least 1.0" in said and "--largest-force 2" in said
    assert cli.run(["select-frames", str(files[1]), "--largest-force", "0", "--out", str(out)]) == 2
    assert "--largest-force 15" in capsys.readouterr().err


def test_the_commands_from_choice_to_labels(trained, tmp_path, capsys):
    """select-frames from a run, label --engine cp2k (played), and what each writes."""
    folder, _soft, student = trained
    out = tmp_path / "few.extxyz"
    assert cli.run(["select-frames", str(folder), "--student", str(student), "--budget", "5", "--out", str(out)]) == 0
    assert len(read_systems(out)) == 5
    assert "<svg" in out.with_suffix(".svg").read_text()
    assert "Chosen structures" in capsys.readouterr().out
    words = ["label", str(out), "--engine", "cp2k", "--cp2k.command", f"{shlex.quote(sys.executable)} {PLAYER} good"]
    assert cli.run([*words, "--out", str(tmp_path / "dft")]) == 0
    assert len(LabelStore(tmp_path / "dft")) == 5
    said = capsys.readouterr().out
    assert "CP2K PBE-D3" in said and "35" in said  # 5 × 7 SCF steps
    from ase.io import read

    first = read(tmp_path / "dft" / "labels.extxyz", index=0)
    assert first.get_potential_energy() == pytest.approx(float(LabelStore(tmp_path / "dft").read()[0].target.energy))


def test_bad_input_names_flag_and_fix(trained, tmp_path, capsys):
    folder, _soft, student = trained
    mixed = tmp_path / "mixed.extxyz"
    write_systems(mixed, [morse_frames(2)[0].system, replace(morse_frames(2)[1].system, numbers=torch.full((8,), 11))])
    for words, status, said in (
        (["select-frames", str(mixed)], 2, "--student RUN"),
        (["select-frames", str(mixed), "--student", str(student)], 2, "does not know Na"),
        (["select-frames", str(folder), "--budget", "0"], 2, "--budget 40"),
        (["select-frames", str(folder), "--out", "a.cif"], 2, "--out a.extxyz"),
        (["harden", str(tmp_path / "no"), "--engine", "cp2k"], 2, "is no folder"),
        (["harden", str(folder), "--engine", "cp2kk"], 2, "is not known"),
        (["harden", str(folder), "--engine", "cp2k", "--cp2k.command", "no-cp2k"], 2, "apt-get install cp2k"),
        (["label", str(mixed), "--executor", "dask://a:1", "--out", str(tmp_path / "x")], 2, "--engine: "),
    ):
        assert cli.run(words) == status, words
        assert said in capsys.readouterr().err, words


CRYSTAL = "LiCl\n1.0\n0.0 2.6 2.6\n2.6 0.0 2.6\n2.6 2.6 0.0\nLi Cl\n1 1\nDirect\n0 0 0\n0.5 0.5 0.5\n"
LABEL = shlex.split(
    "--teacher toy_teacher:salt --prepare.cutoff 3 --prepare.relax-steps 30 --temperatures-K 40 60 --frames 4 --blocks 4 "
    "--every-fs 8 --equilibration-fs 8 --displaced 0 --contacts 0 --shears 0 --probes 0 --heavy-h 3 --threads 1"
)


@pytest.fixture(scope="module")
def labelled_run(tmp_path_factory):
    """A folder with label/ of `mdistill label`."""
    run = tmp_path_factory.mktemp("own")
    (run / "licl.vasp").write_text(CRYSTAL)
    assert cli.run(["label", str(run / "licl.vasp"), *LABEL, "--out", str(run / "label")]) == 0
    return run


def test_the_students_md_is_that_of_the_run(labelled_run):
    """Structures, temperatures and settings of its labels; for a run of the main job see `test_hard_job`."""
    soft, asked = read_labels(labelled_run), replace(SETTINGS, time_ps=0.03)
    rounds = own_rounds(labelled_run, Conservative(MorseNet()), soft, TRAIN, asked, workers=2)
    relaxed = read_systems(labelled_run / "label" / "prepare" / "structures.extxyz")
    assert len(rounds.systems) == 1 and torch.equal(rounds.systems[0].positions, relaxed[0].positions)
    assert rounds.temperatures_K == (40.0, 60.0) and rounds.label.heavy_h == 3.0 and rounds.workers == 2
    assert (rounds.settings.time_ps, rounds.settings.every_fs, rounds.pressure_GPa) == (0.03, 30.0, None)


@pytest.mark.parametrize("lost", ["structures", "temperatures", "unknown settings"])
def test_without_structures_or_temperatures_a_notice_tells_that_there_is_no_md(lost, labelled_run, tmp_path):
    run, teacher, soft = tmp_path / "run", Conservative(MorseNet()), read_labels(labelled_run)
    shutil.copytree(labelled_run, run)
    if lost == "structures":
        shutil.rmtree(run / "label" / "prepare")
    elif lost == "temperatures":
        (run / "label" / LEDGER).unlink()
    else:
        keep_settings(run, "distill", {"label": {"temperature": [300.0]}})
    with pytest.warns(MdistillNotice, match="labels no frames of the students' MD") as told:
        rounds = own_rounds(run, teacher, soft, TRAIN, SETTINGS)
    named = {
        "structures": "prepare/structures.extxyz",
        "temperatures": "no temperatures",
        "unknown settings": "label.temperature",
    }
    assert rounds.systems == () and rounds.teacher is teacher and named[lost] in str(told[0].message)
    none = replace(SETTINGS, tune=replace(SETTINGS.tune, frames=0))
    assert own_rounds(run, teacher, soft, TRAIN, none).systems == (), "not asked for, so nothing to tell"


@pytest.mark.slow
def test_the_command_hardens_a_run(trained, tmp_path, capsys):
    folder = trained[0]
    words = ["harden", str(folder), "--engine", "cp2k", "--cp2k.command", f"{shlex.quote(sys.executable)} {PLAYER} good"]
    assert cli.run([*words, "--budget", "6", "--out", str(tmp_path / "hard"), "--largest-force", "1000"]) in (0, 4)
    page = json.loads((tmp_path / "hard" / "results.json").read_text())
    assert page["tables"][0]["title"] == "What DFT changed"
    assert (tmp_path / "hard" / "student.mdistill").is_file() and "What DFT changed" in capsys.readouterr().out
