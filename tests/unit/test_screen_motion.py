"""Screening at other temperatures: motion by a model, ranked, joined with σ(300 K), kept, and told where it is not to be trusted."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from ase import Atoms
from ase.build import bulk
from ase.io import write
from rich.cells import cell_len
from rich.console import Console
from test_screen import After

import mdistill
from conductors import cif, conductor
from mdistill import cli
from mdistill.commands.screen import show
from mdistill.errors import BadInput, MdistillNotice
from mdistill.estimates import Estimate
from mdistill.nets.model_files import read_metadata
from mdistill.runs.results import Table
from mdistill.screening.motion_tables import narrow_motion
from mdistill.screening.screen import screen
from mdistill.transport.motion import train_motion
from mdistill.transport.motion_file import SHIPPED, load_motion, save_motion, shipped_motion
from mdistill.transport.settings import MotionSettings
from planted_motion import planted

TREES = MotionSettings(members=0, trees=16, folds=3)
KELVINS = (300.0, 600.0, 1000.0, 1200.0)
NAMES = ("Li6PS5Cl", "Li3YCl6", "Li7La3Zr2O12, tetragonal")


@pytest.fixture(scope="module")
def records():
    return planted(60, network=3.0)


@pytest.fixture(scope="module")
def motion(records, tmp_path_factory):
    """A model of trees alone, so that no foundation model is needed."""
    path = tmp_path_factory.mktemp("model") / "motion.mdistill"
    save_motion(path, train_motion(records, TREES), {"data": "planted"})
    return path


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "candidates"
    place.mkdir()
    for name in NAMES:
        (place / f"{name}.cif").write_text(cif(conductor(name)))
    write(place / "NaCl.vasp", bulk("NaCl", "rocksalt", a=5.64, cubic=True), format="vasp")
    return place


def table(results, name):
    return next(one for one in results.tables if one.name == name)


def test_trees_alone_learn_the_planted_motion(records):
    assert train_motion(records, TREES).honest


def test_both_products_are_ranked_and_joined(folder, motion, tmp_path):
    words = ["--temperature", *(f"{kelvin:g}" for kelvin in KELVINS), "--motion", str(motion)]
    assert cli.run(["screen", str(folder), "--out", str(tmp_path / "out"), *words]) == 2, "NaCl has no Li"
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out" / "screen.csv").read_text(encoding="utf-8"))))
    assert len(rows) == 3 and {row["file"] for row in rows} == {f"{name}.cif" for name in NAMES}
    assert sorted(row["motion_rank"] for row in rows) == ["1", "2", "3"] and all(row["log10_sigma_S_cm"] for row in rows)
    for row in rows:
        for kelvin in (600, 1000, 1200):
            msd, d = float(row[f"log10_MSD_{kelvin}_K_A2"]), float(row[f"log10_D_{kelvin}_K_cm2_s"])
            assert d - msd == pytest.approx(np.log10(1e-4 / 60.0), abs=2e-4), "D = MSD/(6 · 10 ps)"
            assert float(row[f"log10_MSD_{kelvin}_K_A2_half_width_68"]) > 0.0
    first = max(rows, key=lambda row: float(row["log10_MSD_600_K_A2"]))
    assert first["motion_rank"] == "1"
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert any("60 crystals" in note for note in results["notes"]) and "sevennet" in results["citations"]
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Motion of the ions, predicted" in page


def test_what_was_predicted_is_kept(folder, motion, tmp_path, monkeypatch):
    from mdistill.screening import read

    kept, asked = tmp_path / "read.jsonl", list[str]()
    predicted = read.predict_motion
    monkeypatch.setattr(read, "predict_motion", lambda *given: asked.append("") or predicted(*given))
    first = screen([folder], temperatures_K=KELVINS, motion=motion, kept=kept)
    again = screen([folder], temperatures_K=KELVINS, motion=motion, kept=kept)
    assert again.tables == first.tables and again.figures == first.figures and len(asked) == 3
    other = screen([folder], temperatures_K=(600.0,), motion=motion, kept=kept)
    assert len(asked) == 6 and not any(one.name == "screen" for one in other.tables)
    assert not any(one.name == "motion" for one in screen([folder], kept=kept).tables)


def test_an_ion_of_the_set_other_than_lithium(folder, records, tmp_path):
    sodium = [
        replace(one, about=one.about | {"mobile": "Na"}, numbers=np.where(one.numbers == 3, 11, one.numbers)) for one in records
    ]
    path = tmp_path / "motion.mdistill"
    save_motion(path, train_motion([*records, *sodium], TREES), {})
    found = screen([folder], species="Na", temperatures_K=(600.0, 800.0), motion=path)
    assert [row[1] for row in table(found, "motion").rows] == ["NaCl.vasp"] and len(table(found, "unread").rows) == 3
    with pytest.raises(BadInput, match="trained on Li conductors alone"):
        screen([folder], species="Na", temperatures_K=(300.0, 600.0), motion=path)


def test_what_is_outside_training_is_told(folder, motion):
    results = screen([folder], temperatures_K=(600.0, 1500.0), motion=motion)
    found = table(results, "motion")
    verdicts = {row[1]: row[found.columns.index("applicable")] for row in found.rows}
    assert "1500 K is outside training, 600 to 1200 K" in results.notes and verdicts["Li6PS5Cl.cif"] == "yes"
    assert "Zr, La not in the trajectory set" in verdicts["Li7La3Zr2O12, tetragonal.cif"]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("--temperature 0", "--temperature: 0 K"),
        ("--temperature 300 1e5", "100000 K"),
        ("--temperature nan", "--temperature: nan"),
        ("--temperature 1e-300", "numbers from 100 to 3000"),
        ("--species K --temperature 600", "Li: ions of the trajectory set"),
        ("--species K --temperature 600", "mdistill distill FILE --mobile K"),
        ("--temperature 300 --model no.mdistill --motion no.mdistill", "--motion: no.mdistill is not used"),
        ("--temperature 600 --model no.mdistill", "--model: no.mdistill is not used"),
        ("--species Xx --temperature 600", "--species: Xx"),
        ("--motion /etc/hostname --temperature 600", "no model file"),
        ("--motion no.mdistill --temperature 600", "no.mdistill: "),
    ],
)
def test_bad_input_is_refused(words, problem, folder, motion, capsys):
    given = words.split() + ([] if "--motion" in words else ["--motion", str(motion)])
    assert cli.run(["screen", str(folder), *given]) == 2
    assert problem in capsys.readouterr().err


def test_a_temperature_given_twice_and_numbers_of_other_kinds(folder, motion):
    asked = (600, 600), np.array([600.0]), [600], 600
    first, *others = (mdistill.screen(folder, temperature=one, motion=motion).rows("motion") for one in asked)
    assert len(first) == 3 and all(one == first for one in others)
    with pytest.raises(BadInput, match="--temperature"):
        mdistill.screen(folder, temperature=("hot",), motion=motion)


def test_objects_have_numbers_for_names(motion):
    salt = bulk("LiF", "rocksalt", a=4.03, cubic=True)
    found = mdistill.screen([salt, salt], temperature=(300, 600), motion=motion)
    assert {row["file"] for row in found.rows("motion")} == {"1", "2"} == {row["file"] for row in found.rows("screen")}


def test_a_composition_of_the_set_is_told(records, motion, tmp_path):
    """Its motion repeats that of the set."""
    numbers = records[2].numbers
    place = 2.5 * np.indices((3, 3, 2)).reshape(3, -1).T[: len(numbers)]
    write(tmp_path / "same.extxyz", Atoms(numbers, positions=place, cell=[7.5, 7.5, 5.0], pbc=True))
    found = screen([tmp_path / "same.extxyz"], temperatures_K=(600.0,), motion=motion)
    assert any("1 of 1 compositions are in the trajectory set" in note for note in found.notes)


def test_outside_training_the_ranking_is_that_of_the_lowest_temperature_inside(folder, motion):
    inside, outside = (
        table(screen([folder], temperatures_K=kelvins, motion=motion), "motion") for kelvins in ((600.0,), (400.0, 600.0))
    )
    assert [row[1] for row in inside.rows] == [row[1] for row in outside.rows]


def test_a_stop_within_a_file_of_many_structures_keeps_nothing_of_it(motion, tmp_path):
    write(tmp_path / "many.extxyz", [bulk("LiF", "rocksalt", a=4.0 + 0.01 * k, cubic=True) for k in range(6)])
    write(tmp_path / "a.vasp", bulk("LiF", "rocksalt", a=4.03, cubic=True), format="vasp")
    kept, stop = tmp_path / "read.jsonl", After(4)
    with pytest.warns(MdistillNotice, match="stopped after 1 of 2 files"):
        found = screen(
            [tmp_path / "a.vasp", tmp_path / "many.extxyz"], temperatures_K=(600.0,), motion=motion, kept=kept, stop=stop
        )
    assert len(table(found, "motion").rows) == 1 == len(kept.read_text().splitlines())


def test_a_model_of_diffusivities_is_refused(folder, records, tmp_path):
    path = tmp_path / "d.mdistill"
    save_motion(path, train_motion(records, replace(TREES, target="diffusivity")), {})
    with pytest.raises(BadInput, match="a model of log10 diffusivity"):
        screen([folder], temperatures_K=(600.0,), motion=path)


@pytest.mark.parametrize("width", [40, 80, 120])
def test_the_ranking_fits_the_terminal(folder, motion, width):
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    show(screen([folder], temperatures_K=KELVINS[1:], motion=motion), folder, console)
    lines = console.file.getvalue().splitlines()
    head = next(line for line in lines if line.startswith("rank"))
    rows = [line for line in lines if (line[:1].isdigit() and ".cif" in line) or "…" in line]
    assert max(map(cell_len, [head, *rows])) <= width and "600 K" in head and ("applicable" in head) == (width >= 60)
    assert "E_a" not in head, "a constant is as good for planted crystals"
    told = " ".join(console.file.getvalue().split())
    missing = [f"{kelvin:g} K" for kelvin in KELVINS[1:] if f"{kelvin:g} K" not in head]
    assert f"… {', '.join([*missing, 'D'])} and σ are in screen.csv" in told and len(missing) == (2 if width < 60 else 0)


@pytest.mark.parametrize(("width", "shown"), [(40, ["1000 K"]), (80, ["600 K", "800 K", "1000 K"]), (120, None)])
def test_the_temperature_of_the_ranking_is_shown(width, shown):
    """Four temperatures, ranked at the last."""
    at = (400.0, 600.0, 800.0, 1000.0)
    columns = ["rank", "file", "formula", *(f"log10 MSD {kelvin:g} K (Å²)" for kelvin in at), "E_a (eV)", "applicable"]
    msd = [[0.1, 0.2, 0.3, 2.0], [0.2, 0.3, 0.4, 1.0]]
    rows = [
        [k + 1, f"{k}.cif", "LiF", *(Estimate(value=x, error=0.1, unit="") for x in row), None, "yes"]
        for k, row in enumerate(msd)
    ]
    found = narrow_motion(Table("motion", "", "screening", columns, rows), width=width)
    assert [name for name in found.columns if name.endswith(" K")] == (shown or [f"{kelvin:g} K" for kelvin in at])


def test_from_python(folder, motion):
    found = mdistill.screen(folder / "Li6PS5Cl.cif", temperature=(300.0, 600.0, 1000.0), motion=motion)
    assert len(found.rows("motion")) == len(found.rows("screen")) == 1


@pytest.mark.parametrize("members", [0, 1])
def test_a_model_file_keeps_trees_and_nets(records, tmp_path, members):
    from mdistill.transport.ion_rows import recorded_structure
    from mdistill.transport.predict_motion import predict_motion

    model = train_motion(records, replace(TREES, members=members, trees=16 * (1 - members), steps=5, expansion="none"))
    save_motion(tmp_path / "m.mdistill", model, {})
    one = recorded_structure(records[3])
    assert predict_motion(load_motion(tmp_path / "m.mdistill"), one, KELVINS[1:]) == predict_motion(model, one, KELVINS[1:])


def test_a_model_of_nothing_is_refused():
    with pytest.raises(BadInput, match="members"):
        MotionSettings(members=0, trees=0)


def test_the_shipped_model_is_small_and_says_what_it_is(capsys):
    assert SHIPPED.stat().st_size < 300_000
    assert all(array.dtype.kind in "fiu" for array in safetensors.numpy.load_file(SHIPPED).values())
    assert cli.run(["info", "motion"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert all(words in said for words in ("sevennet-0", "Li, Na", "not MD", "decades", "2605.09311", "trajectories.npz"))
    assert shipped_motion().honest, "a model that is no better than a constant is not shipped"


def test_the_training_command_makes_the_shipped_model(tmp_path, capsys):
    """From the set in the repository, which is made by a command of its own (hours)."""
    data = Path(__file__).parents[2] / "benchmarks" / "results" / "trajectories.npz"
    assert cli.run(["train", "transport", "--trajectories", str(data), "--out", str(tmp_path)]) == 0
    made, shipped = load_motion(tmp_path / "motion.mdistill"), shipped_motion()
    assert made.error == pytest.approx(shipped.error, abs=0.03) and made.crystals == shipped.crystals
    assert read_metadata(SHIPPED)["provenance"]["data_sha256"] == hashlib.sha256(data.read_bytes()).hexdigest()


def test_the_shipped_model_knows_a_superionic_conductor_from_a_blocked_crystal(folder):
    """Li6PS5Cl moves by far more than 10 Å² in 10 ps at 1000 K; tetragonal garnet is slower; the set knows both kinds."""
    found = table(screen([folder], temperatures_K=(1000.0,)), "motion")
    value = {row[1]: row[3].value for row in found.rows}
    assert value["Li6PS5Cl.cif"] > 1.2 > value["Li7La3Zr2O12, tetragonal.cif"]
