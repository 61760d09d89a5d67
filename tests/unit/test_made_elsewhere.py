"""Hard labels of a file, and of unit cells: what is chosen, that nothing is computed, and what is refused."""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from mdistill import cli
from mdistill.data.store import LabelStore
from mdistill.derivatives import Conservative
from mdistill.errors import BadInput
from mdistill.graph import build_graph
from mdistill.hardening.hard_engine import load_hard_engine
from mdistill.hardening.hard_labels import write_labels
from mdistill.hardening.harden import LABELS, Hardening, harden
from mdistill.hardening.made_elsewhere import given_by
from mdistill.hardening.refine import Rounds, teacher_alone
from mdistill.hardening.settings import HardSettings, RefineSettings
from mdistill.hardening.unit_cell import FILE, unit_cells
from mdistill.io.structures import read_structure
from mdistill.labelling.engine import Engine, Failure
from mdistill.labelling.hard_settings import Cp2kSettings, MoleculeDftSettings
from mdistill.labelling.remembered import level_of, theory_of
from mdistill.labelling.settings import LabelSettings
from mdistill.teachers.models import load
from mdistill.training.potential import train_potential
from mdistill.training.settings import FitSettings, HardFitSettings, TrainSettings
from mdistill.types import LabelledFrame, Prediction
from systems import MorseNet, morse_frames
from toy_teacher import Born

TRAIN = TrainSettings(cutoff=4.5, radial=4, degree=1, channels=4, hidden=8, held_out=0.25, fit=FitSettings(steps=150))
SETTINGS = HardSettings(fit=HardFitSettings(time=0.5, test=0.25))
CRYSTAL = "LiCl\n1.0\n0.0 2.6 2.6\n2.6 0.0 2.6\n2.6 2.6 0.0\nLi Cl\n1 1\nDirect\n0 0 0\n0.5 0.5 0.5\n"
ELEMENTS = frozenset({3, 15, 16, 17})


def stiffer(frames: list[LabelledFrame]) -> list[LabelledFrame]:
    """The same with forces 1.3 times as large and another zero of energy, as another program gives them."""
    return [replace(f, target=Prediction(energy=1.3 * f.target.energy + 5.0, forces=1.3 * f.target.forces)) for f in frames]


def engine_of(path: Path, elements: frozenset[int] = frozenset(range(1, 90))) -> Engine:
    more = {"cp2k": Cp2kSettings(), "pyscf": MoleculeDftSettings()}
    return load_hard_engine(str(path), **more, subject="--hard", home=path.parent / "answers", elements=elements)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("elsewhere")
    soft = morse_frames(32)
    LabelStore(folder / "label").append(soft)
    train_potential(soft, TRAIN, folder / "train", provenance={"teacher": "toy_teacher:salt", "settings": asdict(TRAIN)})
    write_labels(folder / "dft.extxyz", stiffer(morse_frames(44)[32:]))
    return folder


def job(place: Path, engine: Engine, **more: object) -> Hardening:
    given = {"given": given_by(engine), "own": teacher_alone(Conservative(MorseNet()), TRAIN)} | more
    soft, student = LabelStore(place / "label").read(), place / "train" / "student.mdistill"
    return Hardening(soft=soft, students=[student], teacher="morse", engine=engine, train=TRAIN, **given)  # type: ignore[arg-type]


def test_students_learn_the_labels_of_a_file(place: Path, tmp_path: Path) -> None:
    """Twelve labels for a budget of 40: all are used, and none of the run's own structures."""
    engine = engine_of(place / "dft.extxyz")
    results = harden(job(place, engine), SETTINGS, tmp_path)
    rows = {(row[0], row[1]): row for row in results.tables[0].rows}
    theory = theory_of(engine)
    assert theory == "labels of dft.extxyz" and not any("budget" in note for note in results.notes)
    assert rows["morse", theory][5].value == pytest.approx(1 / 1.3, abs=1e-6), "the teacher's own answers are beside them"
    assert rows["student after", theory][2].value < 0.5 * rows["student before", theory][2].value
    assert results.provenance["hard_labels"] == 9 and len(LabelStore(tmp_path / LABELS)) == 12
    chosen = {tuple(frame.system.positions.flatten().tolist()) for frame in LabelStore(tmp_path / LABELS).read()}
    assert chosen == {tuple(system.positions.flatten().tolist()) for system in given_by(engine)}
    assert len(LabelStore(tmp_path / "round-1" / "soft")) == 12
    few = harden(job(place, engine, budget=4), SETTINGS, tmp_path / "few")
    assert few.provenance["hard_labels"] + 1 == 4 == len(LabelStore(tmp_path / "few" / LABELS))
    assert any("12 of 12 hard labels have no stress" in note for note in results.notes), "density is not that of their theory"
    with_stress = [
        replace(f, target=replace(f.target, stress=torch.zeros(1, 3, 3).double())) for f in stiffer(morse_frames(44)[32:])
    ]
    write_labels(tmp_path / "stressed.extxyz", with_stress)
    stressed = harden(job(place, engine_of(tmp_path / "stressed.extxyz")), SETTINGS, tmp_path / "stressed")
    assert not any("have no stress" in note for note in stressed.notes)


def test_other_labels_are_another_engine_and_other_structures_have_no_answer(place: Path, tmp_path: Path) -> None:
    engine, other = engine_of(place / "dft.extxyz"), tmp_path / "dft.extxyz"
    write_labels(other, stiffer(stiffer(morse_frames(44)[32:])))
    assert level_of(engine) != level_of(engine_of(other)) and level_of(engine) == level_of(engine_of(place / "dft.extxyz"))
    found = engine.label(given_by(engine)[0], tmp_path)
    assert not isinstance(found, Failure) and float(found.prediction.forces.norm()) > 0.0
    assert isinstance(engine.label(morse_frames(1)[0].system, tmp_path), Failure)
    store = LabelStore(tmp_path / "store")
    store.append(stiffer(morse_frames(44)[32:]))
    assert len(given_by(engine_of(tmp_path / "store"))) == 12, "a label folder is read too"


def test_labels_that_cannot_be_used_are_refused(place: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="elements of the students"):
        engine_of(place / "dft.extxyz", frozenset({3}))
    engine = engine_of(place / "dft.extxyz")
    with pytest.raises(BadInput, match="--hard-rounds 1"):
        job(place, engine, rounds=2)
    single = tmp_path / "one.extxyz"
    write_labels(single, stiffer(morse_frames(33)[32:]))
    with pytest.raises(BadInput, match="two or more"):
        engine_of(single)
    with pytest.raises(BadInput, match="no-such"):
        engine_of(tmp_path / "no-such.extxyz")


def test_unit_cells_are_not_repeated_and_made_once(tmp_path: Path) -> None:
    (tmp_path / "licl.vasp").write_text(CRYSTAL)
    crystal, teacher = read_structure(tmp_path / "licl.vasp"), Conservative(Born())
    from mdistill.data.settings import PrepareSettings

    settings = PrepareSettings(relax_steps=5, min_length=20.0)
    cells = unit_cells(crystal, teacher, settings, tmp_path, most_atoms=2, seed=0)
    assert [cell.n_atoms for cell in cells] == [2] and (tmp_path / FILE).is_file()
    first = (tmp_path / FILE).read_bytes()
    again = unit_cells(crystal, teacher, replace(settings, relax_steps=0), tmp_path, most_atoms=2, seed=0)
    assert (tmp_path / FILE).read_bytes() == first and torch.equal(again[0].positions, cells[0].positions)
    with pytest.raises(BadInput, match="--harden.most-atoms 2"):
        unit_cells(crystal, teacher, settings, tmp_path / "other", most_atoms=1, seed=0)


@pytest.mark.slow
def test_hard_labels_of_unit_cells_come_from_md_of_the_students(place: Path, tmp_path: Path, no_kernels: None) -> None:
    """The first round is MD too; its frames are those that are labelled, and the teacher's labels of them lie beside it."""
    teacher, box = Conservative(MorseNet()), morse_frames(33)[32].system

    class Stiff:
        name, elements = "stiff", frozenset[int]()

        def label(self, system, folder, **_):  # type: ignore[no-untyped-def]
            from mdistill.labelling.engine import Answer

            p = teacher(build_graph(system, teacher.cutoff))
            return Answer(prediction=Prediction(energy=1.3 * p.energy, forces=1.3 * p.forces))

    own = Rounds(
        systems=[box], teacher=teacher, temperatures_K=(300.0,), settings=RefineSettings(time_ps=0.1, every_fs=5.0),
        label=LabelSettings(probes=0), train=TRAIN,
    )  # fmt: skip
    settings = replace(SETTINGS, unit_cell=True, largest_force=1e3)
    results = harden(job(place, Stiff(), own=own, given=(), budget=6), settings, tmp_path)
    labelled = LabelStore(tmp_path / LABELS).read()
    assert 4 <= len(labelled) <= 6 and (tmp_path / "round-1" / "md-0-300K" / "trajectory.h5").is_file()
    soft = {tuple(f.system.positions.flatten().tolist()) for f in LabelStore(place / "label").read()}
    assert not soft & {tuple(f.system.positions.flatten().tolist()) for f in labelled}
    assert results.provenance["hard_labels"] >= 3
    student = load(place / "train" / "student.mdistill")
    sizes = {k: float(student(build_graph(f.system, student.cutoff)).forces.norm(dim=1).max()) for k, f in enumerate(labelled)}
    limit = sorted(sizes.values())[-1] - 1e-3
    with pytest.warns(UserWarning, match="of round 1, judged by the student, are no candidates"):
        harden(job(place, Stiff(), own=own, given=(), budget=6), replace(settings, largest_force=limit), tmp_path / "limited")
    wild = labelled[max(sizes, key=lambda k: sizes[k])].system
    mine = [f.system for f in LabelStore(tmp_path / "limited" / LABELS).read()]
    assert len(mine) >= 4 and not any(torch.equal(one.positions, wild.positions) for one in mine)
    with pytest.raises(BadInput, match=r"none with forces below 1e-09 eV/Å(?s:.*)--harden.largest-force"):
        harden(job(place, Stiff(), own=own, given=(), budget=6), replace(settings, largest_force=1e-9), tmp_path / "none")


def test_the_command_reads_a_file_and_leaves_unit_cells_to_the_main_job(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The teacher of the students answers for the structures of the file; one whose code would run needs --trust."""
    run = tmp_path / "run"
    shutil.copytree(place, run)
    assert cli.run(["harden", str(run), "--engine", "cp2k", "--unit-cell"]) == 2
    assert "--harden.unit-cell" in capsys.readouterr().err
    words = ["harden", str(run), "--engine", str(run / "dft.extxyz")]
    assert cli.run(words) == 2 and "--trust" in capsys.readouterr().err
    assert cli.run([*words, "--trust", "--largest-force", "1000", "--fit.time", "0.1"]) in (0, 4)
    assert "labels of dft.extxyz" in capsys.readouterr().out
    assert len(LabelStore(run / "hard" / "labels")) == 12
