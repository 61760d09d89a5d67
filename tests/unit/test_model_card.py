"""The card of a model file: what it must say, at 80 and at 40 columns, for new and for older files."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from mdistill import cli
from mdistill.errors import BadInput
from mdistill.estimates import exactly, gate
from mdistill.nets.model_files import read_metadata, save_model
from mdistill.report.cards import card
from mdistill.report.terminal import print_table
from mdistill.runs.results import Results, write_results
from mdistill.training.potential import train_potential
from mdistill.training.settings import FitSettings, TrainSettings
from systems import morse_frames, tiny_net

GOLDEN = Path(__file__).parent.parent / "golden"
SMALL = TrainSettings(cutoff=4.0, channels=2, radial=4, hidden=4, held_out=0.2, fit=FitSettings(steps=12, warmup=5, seed=7))


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return train_potential(morse_frames(16, atoms=4), SMALL, folder, provenance={"teacher": "sevennet-0"})


def rows(path: Path, name: str = "model") -> dict[str, list]:
    return {row[0]: row[1:] for table in card(path).tables if table.name == name for row in table.rows}


def test_the_card_names_teacher_labels_cutoff_size_and_sha256(result):
    known = {name: str(value[0]) for name, value in rows(result.path).items()}
    assert known["teacher"] == "sevennet-0: PBE (+U), trained on MPtrj"
    assert known["formula"] == "Li2SCl" and known["elements"] == "Li, S, Cl"
    assert known["temperatures"] == "600, 1000 K" and known["cutoff"] == "4 Å"
    assert known["labels"] == f"{result.train_frames} fitted, {result.held_out_frames} held out"
    assert known["composition"] == "Li 50 %, S 25 %, Cl 25 %" and known["closest pairs"].endswith(" Å")
    assert known["sha256"] == result.sha256 == read_metadata(result.path)["sha256"]
    assert known["file"].startswith(f"{result.path.stat().st_size / 1000:.4g} kB") and "12 steps" in known["model"]


def test_errors_stand_by_element_and_temperature(result):
    found = rows(result.path, "errors")
    assert list(found) == ["all", "600 K", "1000 K", "Li", "S", "Cl"]
    force = result.accuracy.force
    assert [float(found[group][0]) for group in found] == [
        pytest.approx(1e3 * force[group].root_mean_square, rel=5e-3) for group in found
    ]
    assert float(found["all"][1]) == pytest.approx(1e3 * result.accuracy.energy["all"].root_mean_square, rel=5e-3)
    assert found["Li"][1:] == [None, None]


def test_gates_are_those_of_the_run_that_made_the_file(result):
    assert card(result.path).gates == []
    folder = result.path.parent
    judged = Results(
        command="distill", gates=[gate("force error", exactly(3.0, "meV/Å"), 30.0, "")], provenance={"model_sha256": "0"}
    )
    write_results(folder, judged)
    assert card(result.path).gates == [], "of another student"
    judged.provenance["model_sha256"] = result.sha256
    write_results(folder, judged)
    found = card(result.path)
    assert [one.name for one in found.gates] == ["force error"] and rows(result.path)["run"] == [str(folder)]
    cited = "\n".join(row[0] for table in found.tables if table.name == "cite" for row in table.rows)
    assert "mdistill developers" in cited and "4857" in cited and f"mdistill cite {folder}" in cited


@pytest.mark.parametrize("width", [80, 40])
def test_the_card_fits(width, result):
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    for table in card(result.path).tables:
        print_table(table, console)
    lines = console.file.getvalue().splitlines()
    assert max(len(line.rstrip()) for line in lines) <= width
    assert (result.sha256 in console.file.getvalue()) == (width == 80), "one line where it fits"
    assert "energy/atom" in console.file.getvalue()


def test_files_of_older_versions_have_a_card_that_says_what_is_missing():
    known = rows(GOLDEN / "student_format_1.mdistill")
    assert known["elements"] == ["Li, P, S, Cl"] and known["taught"] == ["not told by this file (an older version wrote it)"]


def test_a_map_has_a_card(capsys):
    assert cli.run(["info", str(GOLDEN / "ca4b391" / "map_composition.mdistill")]) == 0
    said = capsys.readouterr().out
    assert "long-stride map, splitting" in said and "4 fs" in said and "Li, P, S, Cl" in said and "its student" in said


@pytest.mark.parametrize(
    "provenance",
    [
        {"taught": 3, "errors": 5},
        {"errors": {"force": 1}},
        {"errors": {"force": {"all": {"root_mean_square": "x"}}}},
        {"teacher": 4},
    ],
)
def test_a_card_of_odd_provenance_is_shown(provenance, tmp_path):
    save_model(tmp_path / "student.mdistill", tiny_net(), provenance)
    assert rows(tmp_path / "student.mdistill")["elements"] == ["Li, P, S, Cl"]


def test_a_file_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "x.mdistill").write_bytes(b"no model")
    with pytest.raises(BadInput):
        card(tmp_path / "x.mdistill")
