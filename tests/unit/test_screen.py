"""Screening: the good structures are ranked, the bad ones are listed with reasons, and what is printed fits the terminal."""

from __future__ import annotations

import csv
import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.io import write
from rich.cells import cell_len
from rich.console import Console

import mdistill
from conductors import cif, conductor
from mdistill import cli
from mdistill.commands import screen as screen_command
from mdistill.commands.screen import show
from mdistill.errors import BadInput, BlowUp, Interrupted, MdistillNotice
from mdistill.interrupt import StopRequest
from mdistill.io.listing import structure_files
from mdistill.runs.lock import working
from mdistill.screening.screen import screen

NAMES = ("Li6PS5Cl", "Li10GeP2S12", "Li7La3Zr2O12, tetragonal", "Li3YCl6")


@pytest.fixture
def folder(tmp_path):
    """Four conductors, two broken files, one without Li, and a file that is no structure."""
    place = tmp_path / "candidates"
    (place / "deep").mkdir(parents=True)
    for name in NAMES:
        (place / f"{name}.cif").write_text(cif(conductor(name)))
    (place / "broken.cif").write_text("data_x\n_cell_length_a 3\n")
    (place / "empty.cif").write_text("")
    write(place / "deep" / "POSCAR_copper", bulk("Cu", cubic=True), format="vasp")
    (place / "README").write_text("no structure")
    return place


def test_bad_files_are_listed_and_the_rest_is_ranked(folder, tmp_path, capsys, monkeypatch):
    written, finish = list[bool](), screen_command.finish
    monkeypatch.setattr(
        screen_command, "finish", lambda *a, **b: written.append(working(tmp_path / "out") is not None) or finish(*a, **b)
    )
    assert cli.run(["screen", str(folder), "--species", "Li", "--out", str(tmp_path / "out")]) == 2
    assert written == [True], "the folder is locked until all is written"
    assert working(tmp_path / "out") is None
    said = capsys.readouterr().out
    assert "Not predicted: 3 of 7 structures" in said and "no mobile ion Li in Cu" in said and "not opened" in said
    assert "not from MD" in said and "MSD, D and σ of the ions' motion: --temperature 300 600" in said
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out" / "screen.csv").read_text(encoding="utf-8"))))
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4"] and {row["file"] for row in rows} == {f"{n}.cif" for n in NAMES}
    values = [float(row["log10_sigma_S_cm"]) for row in rows]
    assert values == sorted(values, reverse=True) and rows[-1]["file"].startswith("Li7La3Zr2O12")
    assert all(
        float(row["low_95"]) < v - float(row["half_width_68"]) < v < float(row["high_95"])
        for v, row in zip(values, rows, strict=True)
    )
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    table = next(table for table in results["tables"] if table["name"] == "screen")
    assert not any("MSD" in column or "D(" in column or "1000 K" in column for column in table["columns"])
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Li10GeP2S12.cif" in page and "not from MD" in page and "Therrien" in page


class After:
    """A stop request that is pending from its n-th question on."""

    def __init__(self, files: int) -> None:
        self.left = files

    def pending(self) -> bool:
        self.left -= 1
        return self.left < 0


def test_after_a_stop_what_was_read_is_ranked_and_the_next_call_reads_the_rest(folder, tmp_path, monkeypatch):
    """Ctrl-C after three files; then the whole folder, of which only the other files are opened, and the ranking is the same."""
    from mdistill.screening import screen as module

    opened, read = list[str](), module.structures_in
    monkeypatch.setattr(module, "structures_in", lambda file, name, asked: opened.append(name) or read(file, name, asked))
    kept = tmp_path / "read.jsonl"
    with pytest.warns(MdistillNotice, match="stopped after 3 of 7 files"):
        some = screen([folder], kept=kept, stop=After(3))
    ranked = len(next(table for table in some.tables if table.name == "screen").rows)
    assert len(opened) == 3 and ranked <= 3
    with open(kept, "a", encoding="utf-8") as file:
        file.write('{"key": "torn')
    assert screen([folder], kept=kept).tables == screen([folder]).tables
    assert len(opened) == 3 + 4 + 7
    (folder / f"{NAMES[0]}.cif").write_text(cif(conductor(NAMES[2])))
    screen([folder], kept=kept)
    assert opened[-1] == f"{NAMES[0]}.cif" and len(opened) in (15, 16), "a file that changed is read again"
    with pytest.raises(Interrupted):
        screen([folder], stop=StopRequest(signal_number=2))


def test_a_folder_of_good_files_ends_with_0(folder):
    assert cli.run(["screen", *(str(folder / f"{name}.cif") for name in NAMES)]) == 0


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("width", [40, 80, 120])
def test_what_a_terminal_shows_is_aligned(folder, width, terminal, monkeypatch):
    """A table of at most 20 rows that fits, in a pipe of a given width too, whatever the length of the files' names."""
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr("mdistill.commands.screen.SHOWN", 2)
    deep = folder / ("a long name of a folder " * 2)
    (folder / "deep").rename(deep)
    for name in NAMES:
        (folder / f"{name}.cif").rename(deep / f"{name}.cif")
    console = Console(file=io.StringIO(), force_terminal=terminal, width=width, color_system=None)
    show(screen([folder]), folder, console)
    lines = console.file.getvalue().splitlines()
    head = next(line for line in lines if line.startswith("rank"))
    rows = [line for line in lines if line[:1].isdigit() and ".cif" in line]
    assert max(map(cell_len, [head, *rows])) <= width
    place = head.index("log10 σ")
    assert len(rows) == 2 and all(row[place] in "−-0123456789" and row[place - 1] == " " for row in rows)
    assert all("…" in row for row in rows)
    assert ("95 %" in head) == (width >= 60) and ("formula" in head) == (width >= 110)
    assert "… and 2 more in screen.csv" in lines and "… and 1 more in results.json" in lines


def test_a_pipe_without_a_width_has_whole_names(folder, monkeypatch, capsys):
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr("mdistill.commands.screen.SHOWN", 2)
    assert cli.run(["screen", str(folder)]) == 2
    said = capsys.readouterr().out
    assert "Li10GeP2S12.cif" in said and "formula" in said and "… and 2 more in screen.csv, which --out FOLDER writes" in said


def test_many_structures_of_one_file_each_get_a_row(tmp_path):
    """A bad structure among them is listed by its number."""
    good = [bulk("LiCl", "rocksalt", a=5.1 + 0.01 * k) for k in range(3)]
    bad = bulk("LiCl", "rocksalt", a=5.1)
    bad.positions[1] = bad.positions[0] + 0.1
    write(tmp_path / "frames.extxyz", [good[0], bad, *good[1:], bulk("NaCl", "rocksalt", a=5.6)])
    results = screen([tmp_path / "frames.extxyz"])
    ranked, unread = results.tables
    assert sorted(str(row[1]).rpartition("#")[2] for row in ranked.rows) == ["1", "3", "4"]
    assert [str(row[0]).rpartition("#")[2] for row in unread.rows] == ["2", "5"] and "no mobile ion" in str(unread.rows[1][1])


def test_partial_occupancies_need_no_ordering_and_low_symmetry_of_orderings_is_not_used(tmp_path):
    """Distorted cells (P1) are asked for by composition alone, so that all of them get one value."""
    (tmp_path / "average.cif").write_text(cif(conductor("Li7La3Zr2O12, tetragonal")))
    from mdistill.io.structures import read_structure, to_atoms

    atoms = to_atoms(read_structure(tmp_path / "average.cif"))
    for seed, name in enumerate(("p1.vasp", "also_p1.vasp")):
        moved = atoms.copy()
        moved.positions += np.random.default_rng(seed).normal(scale=0.05, size=atoms.positions.shape)
        moved.set_cell(moved.cell * (1.0 + 0.01 * seed), scale_atoms=True)
        write(tmp_path / name, moved, format="vasp")
    table = screen([tmp_path]).tables[0]
    rows = {str(row[1]): dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert rows["p1.vasp"]["basis"] == "composition" and rows["p1.vasp"]["space group"] == 1
    assert rows["average.cif"]["basis"] == "symmetry"
    values = {name: row["log10 σ(300 K) (S/cm)"].value for name, row in rows.items()}
    assert values["p1.vasp"] == values["also_p1.vasp"] != values["average.cif"]


def test_the_order_of_files_changes_nothing(folder):
    files = [folder / f"{name}.cif" for name in NAMES]
    one, other = screen(files).tables[0], screen(files[::-1]).tables[0]
    assert one.rows == other.rows


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["no.cif"], "no such file"),
        (["empty"], "no structure in this folder"),
        (["POSCAR", "--species", "Na"], "trained on Li conductors alone"),
        (["POSCAR", "--species", "Na"], "--species Li; for other ions: mdistill distill FILE --mobile Na"),
        (["POSCAR", "--species", "Xx"], "fix: --species Li\n"),
        (["POSCAR", "--model", "POSCAR"], "no readable header"),
        (["POSCAR"], "no mobile ion Li in Cu"),
    ],
)
def test_input_that_leaves_nothing_to_rank_is_refused(words, problem, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    write("POSCAR", bulk("Cu", cubic=True), format="vasp")
    assert cli.run(["screen", *words]) == 2
    assert problem in capsys.readouterr().err


@pytest.mark.parametrize("odd", [0, 1])
def test_an_unknown_element_in_a_file_of_several_structures_is_named(odd, tmp_path, capsys):
    frames = ['2\nLattice="4 0 0 0 4 0 0 0 4"\nLi 0 0 0\nF 2 2 2\n'] * 2
    frames[odd] = frames[odd].replace("F 2", "Xq 2")
    (tmp_path / "two.xyz").write_text("".join(frames))
    assert cli.run(["screen", str(tmp_path / "two.xyz")]) == 2
    assert "unknown element 'Xq'" in (said := capsys.readouterr().err) and "correct the symbol" in said


def test_names_in_folders_decide(tmp_path):
    for name in ("a.cif", "B.CIF.gz", "CONTCAR", "POSCAR.relaxed", "x.vasp", "y.extxyz", "notes.txt", ".hidden.cif", "OUTCAR"):
        (tmp_path / name).write_text("x")
    files, left_out = structure_files([tmp_path])
    assert [name for _, name in files] == [
        "B.CIF.gz",
        "CONTCAR",
        "POSCAR.relaxed",
        "a.cif",
        "x.vasp",
        "y.extxyz",
    ] and left_out == 2


def test_from_python_objects_and_files_mix(folder, tmp_path):
    atoms = bulk("LiF", "rocksalt", a=4.02)
    outcome = mdistill.screen([folder / "Li6PS5Cl.cif", atoms], out=tmp_path / "out", report=False)
    best, worst = outcome.rows("screen")
    assert (
        best["formula"].startswith("Li")
        and worst["formula"] == "LiF"
        and best["log10 σ(300 K) (S/cm)"] > worst["log10 σ(300 K) (S/cm)"]
    )
    assert (tmp_path / "out" / "screen.csv").is_file() and not (tmp_path / "out" / "report.html").exists()
    with pytest.raises(BadInput, match="Li conductors alone"):
        mdistill.screen(atoms, species="Na")


@pytest.mark.skipif(not os.environ.get("MDISTILL_DATA"), reason="MDISTILL_DATA is not set")
def test_cifs_of_obelix_that_were_refused_are_read(tmp_path):
    """Full Li sites 0.42 Å apart (13q, 9rc, ik8, mtn) are read as split sites, with a note; a CIF that lost its Li is refused."""
    with tarfile.open(Path(os.environ["MDISTILL_DATA"]) / "obelix" / "all_cifs.tar.gz") as archive:
        for name in ("13q", "9rc", "ik8", "mtn", "5tl"):
            member = archive.extractfile(f"all_randomized_cifs/{name}.cif")
            (tmp_path / f"{name}.cif").write_bytes(member.read())
    ranked, unread = screen([tmp_path]).tables
    assert {str(row[1]) for row in ranked.rows} == {"13q.cif", "9rc.cif", "ik8.cif", "mtn.cif"}
    assert all("full site in the middle" in str(row[-1]) for row in ranked.rows)
    assert [row[0] for row in unread.rows] == ["5tl.cif"]


def test_the_best_go_on_to_distill_and_one_that_fails_stops_none(folder, tmp_path, monkeypatch, capsys):
    """The flags of `mdistill distill` for each, best first; the exit status is that of the worst."""
    ran = []

    def distill(words):
        ran.append(words)
        if len(ran) == 1:
            raise BlowUp(3, "too hot")
        return 0

    monkeypatch.setattr("mdistill.commands.distill.main", distill)
    assert cli.run(["screen", str(folder), "--out", str(tmp_path / "out"), "--then", "distill", "--top", "2"]) == 3
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out" / "screen.csv").read_text(encoding="utf-8"))))
    best = [str(folder / row["file"]) for row in rows if row["applicable"] == "yes"][:2]
    assert [words[:3] for words in ran] == [[path, "--mobile", "Li"] for path in best]
    assert ran[0][4] == str(tmp_path / "out" / "distill" / Path(best[0]).stem)
    assert "too hot" in capsys.readouterr().err
    assert cli.run(["screen", str(folder), "--then", "distill"]) == 2 and "--out" in capsys.readouterr().err


def test_an_interruption_promises_nothing_that_is_not_kept(folder, monkeypatch, capsys):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("mdistill.screening.screen.predict", stop)
    assert cli.run(["screen", str(folder)]) == 130
    assert "run the same command again: it starts from the beginning" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"), [(["--out", "out", "--then", "distill", "--top", "0"], "--top: 0"), (["--dry-run"], "add --then distill")]
)
def test_flags_of_the_best_that_cannot_hold_are_refused(words, said, folder, capsys):
    assert cli.run(["screen", str(folder), *words]) == 2 and said in capsys.readouterr().err


def test_what_the_best_would_cost_is_told(folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert cli.run(["screen", str(folder), "--out", str(out), "--then", "distill", "--top", "1", "--dry-run"]) == 2
    said = capsys.readouterr().out
    assert "--dry-run" in said and "label" in said and not (out / "distill").exists()


def test_an_unknown_element_is_named(tmp_path, folder):
    path = tmp_path / "POSCAR_x"
    write(path, bulk("LiF", "rocksalt", a=4.02), format="vasp")
    path.write_text(path.read_text(encoding="utf-8").replace("F", "Xx"))
    table = next(one for one in screen([folder, path]).tables if one.name == "unread")
    assert next(row for row in table.rows if "POSCAR_x" in str(row[0]))[1:] == ["unknown element 'Xx'", "correct the symbol"]
