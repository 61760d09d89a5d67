"""The main job with hard labels: every later stage uses the hardened students, and judges them by the corrected teacher."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest
import torch

from mdistill import cli
from mdistill.data.store import LabelStore
from mdistill.errors import MdistillError
from mdistill.hardening.harden import Hardening
from mdistill.hardening.refine import Rounds
from mdistill.hardening.settings import HardSettings
from mdistill.io.files import sha256
from mdistill.nets.model_files import read_metadata
from mdistill.runs.ledger import Ledger
from mdistill.runs.results import Results, read_results
from mdistill.workflows import hard_stages
from mdistill.workflows.run_parts import read_labels

CRYSTAL = "LiCl\n1.0\n0.0 2.6 2.6\n2.6 0.0 2.6\n2.6 2.6 0.0\nLi Cl\n1 1\nDirect\n0 0 0\n0.5 0.5 0.5\n"
JOB = shlex.split(
    "--quick --teacher toy_teacher:salt --cutoff 3.6 --temperatures 40 --prepare.relax-steps 50 --label.frames 12 --committee 2 "
    "--label.every-fs 8 --label.equilibration-fs 16 --label.blocks 4 --label.contacts 3 --train.fit.steps 120 "
    "--train.fit.batch-size 4 --train.channels 6 --train.radial 8 --train.hidden 24 --refine.time-ps 0.05 --refine.frames 2 "
    "--validate.drift-ps 0.2 --validate.stability-ps 0.1 --validate.equilibration-ps 0.05 --validate.speed-repeats 3 "
    "--production.time-ps 0.5 --production.equilibration-ps 0.1 --production.runs 2 --production.cell-ps 0.1 "
    "--production.every-fs 10 --production.atoms 16 --production.ions 8 --production.max-minutes 0.001 "
    "--production.no-size-check --production.despite-gates --check.frames 2 --harden.time-ps 0.1 --refine.every-fs 10 --threads 1"
)
HARD = shlex.split("--hard toy_teacher:stiff --hard-budget 8 --hard-rounds 2")


@pytest.fixture
def crystal(tmp_path: Path) -> str:
    (tmp_path / "licl.vasp").write_text(CRYSTAL)
    return str(tmp_path / "licl.vasp")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The crystal and a finished run, for slow tests alone."""
    folder = tmp_path_factory.mktemp("hard")
    (folder / "licl.vasp").write_text(CRYSTAL)
    assert cli.run(["distill", str(folder / "licl.vasp"), *JOB, *HARD, "--out", str(folder / "run")]) in (0, 4)
    return folder


def stages(run: Path) -> dict[Path, int]:
    return {p: p.stat().st_mtime_ns for p in run.glob("*/**/*") if p.is_file() and "figures" not in p.parts}


def table(results: Results, name: str) -> list[list[object]]:
    return next(one for one in results.tables if one.name == name).rows


@pytest.mark.slow
def test_what_follows_uses_the_hardened_students(place: Path) -> None:
    run = place / "run"
    for name in ("student.mdistill", "student-2.mdistill"):
        files = {folder: (run / folder / name).read_bytes() for folder in (".", "harden", "refine")}
        assert files["."] == files["harden"] != files["refine"]
    for stage in ("gates", "production", "check"):
        inputs = Ledger(run / stage).entries()[stage]["inputs"]
        assert inputs["student.mdistill"] == sha256(run / "harden" / "student.mdistill"), stage
    assert read_results(run).provenance["model_sha256"] == read_metadata(run / "harden" / "student.mdistill")["sha256"]
    made = read_metadata(run / "student.mdistill")["provenance"]
    assert made["hard"] == "toy_teacher:stiff" and made["teacher"] == "toy_teacher:salt" and made["hard_labels"] == 6


@pytest.mark.slow
def test_the_students_are_judged_by_the_corrected_teacher_and_by_hard_labels(place: Path) -> None:
    results = read_results(place / "run")
    gates = {gate.name: gate for gate in results.gates}
    assert gates["energy error"].measured.value < 3.0
    for name in ("force error", "energy error", "softening", "overlap with the teacher"):
        assert "toy_teacher:salt corrected by 6 labels of" in gates[name].detail, name
    assert gates["softening against DFT"].measured.value is not None and gates["force error against DFT"].passed
    assert "RDF overlap" not in gates and any("is those of the" in n or "without hard labels" in n for n in results.notes)
    rows = {(row[0], row[1]): row[2].value for row in table(results, "hard")}
    theory = next(
        key[1] for key in rows if key[0] == "student after" and "corrected" not in key[1] and key[1] != "toy_teacher:salt"
    )
    assert rows["toy_teacher:salt, corrected", theory] < 0.5 * rows["toy_teacher:salt", theory]
    assert rows["student after", theory] < rows["student before", theory]
    labels = LabelStore(place / "run" / "check" / "labels").read()
    assert labels and len(table(results, "hard-rounds")) == 2


@pytest.mark.slow
def test_the_report_tells_what_changed(place: Path) -> None:
    run = place / "run"
    rows = {str(row[0]): row[1:] for row in table(read_results(run), "changes")}
    density = rows["density"]
    assert 1.0 < density[0].value < 5.0 and density[0].value != density[1].value
    assert any("highest peak" in name for name in rows) and "pressure" in rows
    assert any(figure.name == "changes-rdf" for figure in read_results(run).figures)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "The dynamics before and after hard labels" in page and "<h2>What DFT changed</h2>" in page
    assert all(row[4] is None for row in table(read_results(run), "hard")), (
        "a constant is fitted: two frames have no energy error"
    )


@pytest.mark.slow
@pytest.mark.usefixtures("no_drawing")
def test_unit_cells_are_labelled_where_the_supercell_is_too_large(place: Path, tmp_path: Path) -> None:
    """Two atoms in the cell of the file, sixteen or more in that of the run; frames of the run have too many atoms."""
    run, words = tmp_path / "run", ["distill", str(place / "licl.vasp"), *JOB, *HARD, "--update"]
    shutil.copytree(place / "run", run, copy_function=shutil.copy2)
    small = ["--harden.most-atoms", "2", "--harden.unit-cell", "--harden.largest-force", "100"]
    assert cli.run([*words, *small, "--out", str(run)]) in (0, 4)
    labelled = LabelStore(run / "harden" / "labels").read()
    assert len(labelled) >= 4 and {frame.system.n_atoms for frame in labelled} == {2}
    assert (run / "harden" / "round-1" / "md-0-48K").is_dir() and (run / "harden" / "round-2" / "soft").is_dir()
    assert {frame.system.n_atoms for frame in LabelStore(run / "label").read()} != {2}
    made = read_metadata(run / "student.mdistill")["provenance"]
    assert made["hard_labels"] >= 2


@pytest.mark.slow
@pytest.mark.usefixtures("no_drawing")
def test_labels_are_never_asked_for_twice_and_the_run_can_go_back(place: Path, tmp_path: Path) -> None:
    run, words = tmp_path / "run", ["distill", str(place / "licl.vasp"), *JOB]
    shutil.copytree(place / "run", run, copy_function=shutil.copy2)
    before, answers = stages(run), sorted((run / "hard-answers").glob("*.npz"))
    assert len(answers) == 8
    assert cli.run([*words, *HARD, "--out", str(run)]) in (0, 4) and stages(run) == before
    more = ["--harden.fit.rate", "0.2", "--update", "--out", str(run)]
    assert cli.run([*words, *HARD, *more]) in (0, 4)
    assert (run / "harden.superseded-1").is_dir()
    same = [path for path in answers if path.stat().st_mtime_ns == before[path]]
    assert len(same) == 8, "answers are not written again"
    assert cli.run([*words, "--update", "--out", str(run)]) in (0, 4)
    assert (run / "student.mdistill").read_bytes() == (run / "refine" / "student.mdistill").read_bytes()
    assert "force error against DFT" not in {gate.name for gate in read_results(run).gates}


@pytest.mark.slow
def test_the_command_of_its_own_does_the_same_md(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the job's stage and of `mdistill harden`: same structures, temperatures, pressure, seed and settings."""
    run, given = tmp_path / "run", list[Rounds]()
    shutil.copytree(place / "run", run, copy_function=shutil.copy2)

    def caught(job: Hardening, *_: object, **__: object) -> Results:
        assert job.own is not None
        given.append(job.own)
        raise MdistillError("caught")

    monkeypatch.setattr(hard_stages, "harden", caught)
    assert (
        cli.run(["distill", str(place / "licl.vasp"), *JOB, *HARD, "--harden.fit.rate", "0.2", "--update", "--out", str(run)])
        == 1
    )
    stage = given[0]
    own = hard_stages.own_rounds(run, stage.teacher, read_labels(run), stage.train, HardSettings(time_ps=0.1))
    assert own.pressure_GPa == 0.0 and own.temperatures_K == (40.0, 48.0) and own.seed != 0
    for name in ("temperatures_K", "settings", "label", "pressure_GPa", "matter", "seed"):
        assert getattr(own, name) == getattr(stage, name), name
    assert all(torch.equal(a.positions, b.positions) for a, b in zip(own.systems, stage.systems, strict=True))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--hard", "cp2k", "--cp2k.command", "no-cp2k"], "apt-get install cp2k"),
        (["--hard", "cp2kk"], "--hard: "),
        (["--hard", "pyscf"], "--hard cp2k for periodic structures"),
        (["--hard", "toy_teacher:stiff", "--hard-budget", "3", "--hard-rounds", "2"], "--hard-budget 4"),
    ],
)
def test_an_engine_that_is_not_there_ends_the_job_before_it_begins(
    crystal: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert cli.run(["distill", crystal, *JOB, *words, "--out", str(tmp_path / "run")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_file_may_not_name_code_as_the_engine(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = place / "run" / "run.toml"
    assert 'hard = "toy_teacher:stiff"' in config.read_text(encoding="utf-8")
    given = ["--teacher", "toy_teacher:salt", "--out", str(tmp_path / "run")]
    assert cli.run(["distill", str(config), *given]) == 2
    assert "--trust" in capsys.readouterr().err and not (tmp_path / "run").exists()


@pytest.mark.slow
def test_harden_refuses_a_run_whose_student_knows_hard_labels(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["harden", str(place / "run"), "--engine", "toy_teacher:stiff"]) == 2
    assert "--hard-budget" in capsys.readouterr().err


def test_dry_run_tells_the_fits_on_hard_labels(crystal: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["distill", crystal, *JOB, *HARD, "--dry-run"]) == 0
    assert "8 labels by toy_teacher:stiff" in capsys.readouterr().out


@pytest.mark.slow
def test_a_bench_uses_the_corrected_labels(place: Path) -> None:
    from mdistill.workflows.run_parts import own_labels, read_labels

    run = place / "run"
    raw, own = read_labels(run), own_labels(run, run / "student.mdistill")
    assert any(float((a.target.forces - b.target.forces).abs().max()) > 1e-3 for a, b in zip(raw, own, strict=True))
    soft = own_labels(run, run / "refine" / "student.mdistill")
    assert all(a.target is not None and bool((a.target.forces == b.target.forces).all()) for a, b in zip(raw, soft, strict=True))
    assert json.loads((run / "harden" / "results.json").read_text())["command"] == "harden"
