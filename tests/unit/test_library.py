"""Ready students: those of the package hold what their cards say, and one's own are added, shown, used, refused."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase.io import read, write

from mdistill import cli
from mdistill.derivatives import Conservative
from mdistill.errors import BadInput
from mdistill.estimates import Estimate, gate
from mdistill.graph import build_graph
from mdistill.io.files import sha256
from mdistill.io.structures import from_atoms, to_system
from mdistill.library import cards
from mdistill.nets.model_files import read_metadata, save_model
from mdistill.report.citations import works
from mdistill.runs.results import Results, write_results
from mdistill.teachers.cards import TEACHERS, find_teacher
from mdistill.teachers.models import load
from systems import random_box, tiny_net

SHIPPED = sorted(path.stem for path in cards.SHIPPED.glob("*.json"))
TOML = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MDISTILL_MODELS", str(tmp_path / "own"))
    return tmp_path / "own"


@pytest.mark.parametrize("name", SHIPPED)
def test_a_student_of_the_package_is_what_its_card_says(name):
    card = cards.read_card(name)
    student, structure = (cards.checked(card, cards.SHIPPED, end) for end in (cards.STUDENT, cards.STRUCTURE))
    assert card.name == name and sha256(student) == card.student_sha256 and student.stat().st_size <= cards.LARGEST
    assert card.licence and works(card.citations) and find_teacher(card.teacher).citation and not card.failed
    assert card.temperatures_K[0] < card.temperatures_K[1] <= card.taught_K[1]
    raw = student.read_bytes() + json.dumps(read_metadata(student)).encode() + (cards.SHIPPED / f"{name}.json").read_bytes()
    assert b"/home" not in raw and b"/work" not in raw and b"/root" not in raw and b"/tmp" not in raw
    assert all(f'"library/*{end}"' in TOML for end in (cards.STUDENT, cards.STRUCTURE, cards.RESULTS, ".json"))
    atoms = read(structure)
    assert set(atoms.get_chemical_symbols()) == set(card.elements)
    potential = load(name, precision="float64")
    system = to_system(from_atoms(atoms, source=name))
    forces = potential(build_graph(system, potential.cutoff)).forces.numpy()
    assert np.abs(forces).max() < 1.0, "its structure is near a minimum of its teacher, and so of its own"


@pytest.mark.parametrize("name", [name for name in SHIPPED if cards.read_card(name).results_sha256])
def test_the_results_of_a_run_are_those_of_the_card(name):
    card = cards.read_card(name)
    results = cards.results_of(card)
    assert results is not None and results.created == card.created and results.provenance["teacher"] == card.teacher
    assert [one.name for one in results.gates if one.judged] == [one.name for one in card.gates]
    text = gzip.decompress((cards.SHIPPED / f"{name}{cards.RESULTS}").read_bytes()).decode()
    assert not re.search(r"/(home|work|root|tmp)/", text)


def test_a_new_file_in_the_package_is_one_more_card_and_an_altered_one_is_refused(tmp_path, monkeypatch):
    """What the gallery of the site shows."""
    shutil.copytree(cards.SHIPPED, tmp_path / "library", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    monkeypatch.setattr(cards, "SHIPPED", tmp_path / "library")
    assert [card.name for card in cards.shipped()] == SHIPPED
    for end in cards.read_card("cu-sevennet-0").files | {".json": ""}:
        text = (cards.SHIPPED / f"cu-sevennet-0{end}").read_bytes()
        (cards.SHIPPED / f"zz-new{end}").write_bytes(text.replace(b"cu-sevennet-0", b"zz-new") if end == ".json" else text)
    assert [card.name for card in cards.shipped()] == [*SHIPPED, "zz-new"]
    with open(cards.SHIPPED / "zz-new.extxyz", "a", encoding="utf-8") as handle:
        handle.write("\n")
    with pytest.raises(BadInput, match="altered"):
        cards.shipped()


def test_the_package_has_ready_students(capsys):
    assert {"li6ps5cl-sevennet-0", "al-sevennet-0"} <= set(SHIPPED)
    assert cli.run(["models"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in SHIPPED)


def run_folder(place: Path, *, passes: bool = True) -> Path:
    """What `add` reads of a run."""
    run = place / "run"
    (run / "prepare").mkdir(parents=True)
    system = random_box(1, atoms=12, length=8.0)
    from mdistill.io.structures import to_atoms

    write(run / "prepare" / "structures.extxyz", to_atoms(system))
    made = {
        "teacher": "toy",
        "structure": "/home/me/crystal.cif",
        "taught": {"sources": {"md": 3}, "temperatures_K": [300.0, 600.0]},
    }
    save_model(run / "student.mdistill", tiny_net(), made)
    force = gate("force error", Estimate(value=10.0, error=0.4, unit="meV/Å"), 30.0 if passes else 5.0)
    near = gate("RDF overlap", Estimate(value=0.021, error=0.01, unit=""), 0.02, errors=1.0)
    results = Results(
        command="distill", gates=[force, near], citations=["mdistill"],
        provenance={"formula": "LiPSCl", "teacher": "toy", "command_line": f"mdistill distill '{place}/my crystal.cif' --out r"},
        settings={"structure": f"{place}/my crystal.cif", "hard": f"{place}/pool.xyz"},
        notes=[f"a label is in {run.resolve()}/label/broken/1.extxyz: 5 meV/Å"],
    )  # fmt: skip
    write_results(run, results)
    return run


def test_ones_own_is_added_shown_used_and_copied(tmp_path, own, capsys):
    run = run_folder(tmp_path)
    assert cli.run(["models", "add", str(run), "--licence", "CC0"]) == 0
    assert cli.run(["models", "lipscl-toy", "--out", str(tmp_path / "start")]) == 0
    said = capsys.readouterr().out
    page = (tmp_path / "start" / "lipscl-toy.html").read_text(encoding="utf-8")
    assert "force error" in page and "LiPSCl" in page
    stored = gzip.decompress((own / "lipscl-toy.results.gz").read_bytes()).decode()
    assert str(tmp_path) not in page + stored and "run/label/broken/1.extxyz: 5 meV/Å" in stored
    assert json.loads(stored)["settings"] == {"structure": "my crystal.cif", "hard": "pool.xyz"}
    assert "10.0 ± 0.4 meV/Å" in said and "passed within its error" in said and "CC0" in said and "3 md" in said
    assert read_metadata(own / "lipscl-toy.mdistill")["provenance"]["structure"] == "crystal.cif"
    system = random_box(2, atoms=10)
    ready, plain = load("lipscl-toy"), Conservative(tiny_net())
    graph = build_graph(system, plain.cutoff)
    assert np.abs(ready(graph).forces.numpy() - plain(graph).forces.numpy()).max() < 1e-9
    words = ["simulate", str(tmp_path / "start" / "lipscl-toy.extxyz"), "--potential", "lipscl-toy", "--ensemble", "nve"]
    assert cli.run([*words, "--time-ps", "0.002", "--equilibration-ps", "0", "--out", str(tmp_path / "md")]) in (0, 3)
    assert cli.run(["models", "add", str(run)]) == 2 and "is taken" in capsys.readouterr().err


def test_failures_stand_on_the_card(tmp_path, capsys):
    assert cli.run(["models", "add", str(run_folder(tmp_path, passes=False)), "--name", "bad"]) == 0
    assert "force error" in capsys.readouterr().err
    assert cli.run(["models"]) == 0 and "1 of 2 FAILED" in capsys.readouterr().out
    assert cli.run(["models", "bad"]) == 0
    said = capsys.readouterr().out
    assert said.index("RDF overlap") < said.index("FAILED"), "failed gates come last, where they are seen"


def test_altered_files_and_bad_names_are_refused(tmp_path, own, capsys):
    run = run_folder(tmp_path)
    cards.add(run, "mine", own)
    (own / "mine.mdistill").write_bytes((own / "mine.mdistill").read_bytes()[:-1] + b"x")
    with pytest.raises(BadInput, match="was altered"):
        load("mine")
    (own / "mine.results.gz").write_bytes(gzip.compress(b"{}"))
    with pytest.raises(BadInput, match="was altered"):
        cards.results_of(cards.read_card("mine"))
    card = replace(cards.read_card("mine"), results_sha256=sha256(own / "mine.results.gz"))
    with pytest.raises(BadInput, match=r"mine.results.gz.*format None"):
        cards.results_of(card)
    (own / "mine.results.gz").write_bytes(b"no archive")
    with pytest.raises(BadInput, match=r"(?s)cannot be read .*fix: remove .*mine.\*, then mdistill models add"):
        cards.results_of(replace(card, results_sha256=sha256(own / "mine.results.gz")))
    (own / "mine.json").rename(own / "moved.json")
    with pytest.raises(BadInput, match="is the card of mine"):
        cards.read_card("moved")
    shutil.rmtree(own)
    for words, what in {
        ("mine",): "no ready student", ("al-sevenet-0",): "did you mean al-sevennet-0", ("add",): "one run folder",
        ("add", str(tmp_path / "absent")): "no such file", ("add", str(run), "--name", "sevennet-0"): "not yet taken",
        ("add", str(run), "--name", "../x"): "lower-case letters", ("a", "b"): "one name",
    }.items():  # fmt: skip
        assert cli.run(["models", *words]) == 2, words
        assert what in capsys.readouterr().err, words
    assert not {*TEACHERS} & {*SHIPPED}, "a ready student hides no teacher"


def test_a_file_at_the_path_comes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / "al-sevennet-0", tiny_net())
    assert len(load("al-sevennet-0").elements) == 4


def test_a_ready_student_gets_a_long_stride_map_by_its_name(tmp_path, monkeypatch):
    from mdistill.workflows import stride

    asked = []

    def stand_in(student, *_, **__):
        asked.append(student)
        return Results(command="train stride")

    monkeypatch.setattr(stride, "stride_rung", stand_in)
    words = ["train", "stride", "--from", "al-sevennet-0", "--structure", str(cards.SHIPPED / "al-sevennet-0.extxyz")]
    more = ["--segments.temperatures-K", "600", "--out", str(tmp_path / "stride")]
    assert cli.run([*words, *more]) == 0
    assert asked == [cards.SHIPPED / "al-sevennet-0.mdistill"]
