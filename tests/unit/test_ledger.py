"""The ledger: the same work resumes or is skipped, other work is told apart by what differs, and no path matters."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace

import pytest
import torch

from mdistill.errors import BadInput
from mdistill.io.files import read_json, write_json
from mdistill.runs import ledger
from mdistill.runs.identity import contents, structure_digests, structure_sha256
from mdistill.runs.ledger import LEDGER, Ledger, Work
from systems import SYSTEMS


@dataclass(frozen=True)
class Settings:
    temperatures_K: tuple[float, ...] = (300.0, 500.0)
    time_ps: float = 1.0


WORK = Work(key="simulation", settings=Settings(), inputs={"structure": "ab"}, models={"teacher": "cd"})


def test_begun_then_done_then_skipped(tmp_path):
    book = Ledger(tmp_path)
    assert not book.begun(WORK, holds="a simulation")
    book.begin(WORK)
    assert book.begun(WORK, holds="a simulation") and not book.is_done(WORK)
    (tmp_path / "log.csv").write_text("1")
    book.finish(WORK, ["log.csv"], seconds=1.234)
    assert book.is_done(WORK)
    entry = book.entries()["simulation"]
    assert entry["seconds"] == 1.23 and entry["settings"]["temperatures_K"] == [300.0, 500.0]
    (tmp_path / "log.csv").write_text("2")
    assert not book.is_done(WORK), "an altered output is noticed"
    (tmp_path / "log.csv").unlink()
    assert not book.is_done(WORK)


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (replace(WORK, settings=Settings(time_ps=2.0)), "time_ps: 1.0 → 2.0"),
        (replace(WORK, settings=Settings(temperatures_K=(300.0,))), "temperatures_K: [300.0, 500.0] → [300.0]"),
        (replace(WORK, inputs={"structure": "ef"}), "inputs.structure: ab → ef"),
        (replace(WORK, models={"teacher": "ef"}), "models.teacher: cd → ef"),
    ],
)
def test_other_work_is_refused_with_the_difference(tmp_path, other, difference):
    Ledger(tmp_path).begin(WORK)
    assert Ledger(tmp_path).differences(other) == [difference]
    assert other.fingerprint() != WORK.fingerprint()
    with pytest.raises(BadInput, match="with other settings or inputs") as caught:
        Ledger(tmp_path).begun(other, holds="a simulation")
    assert difference in str(caught.value) and "--out" in str(caught.value)


def test_another_version_of_the_package_is_other_work(tmp_path, monkeypatch):
    Ledger(tmp_path).begin(WORK)
    monkeypatch.setattr(ledger, "__version__", "9.9")
    assert Ledger(tmp_path).differences(WORK) == ["version: 0.1.0 → 9.9"]


def test_settings_that_may_change_do_not_count(tmp_path):
    Ledger(tmp_path).begin(WORK)
    longer = replace(WORK, settings=Settings(time_ps=9.0))
    assert Ledger(tmp_path).begun(longer, holds="a simulation", may_change=("time_ps",))


def test_files_that_nobody_entered_are_refused(tmp_path):
    (tmp_path / "trajectory.h5").write_text("")
    with pytest.raises(BadInput, match=r"holds trajectory.h5, but no ledger.json"):
        Ledger(tmp_path).begun(WORK, holds="a simulation", files=("trajectory.*", "log.csv"))
    assert not (tmp_path / LEDGER).exists()


def test_last_settings_undo_only_done(tmp_path):
    judged = replace(WORK, last={"judge": 1})
    Ledger(tmp_path).finish(judged)
    again = replace(WORK, last={"judge": 2})
    assert Ledger(tmp_path).is_done(judged) and not Ledger(tmp_path).is_done(again)
    assert Ledger(tmp_path).differences(again) == []


def test_small_values_are_kept_for_the_same_work_only(tmp_path):
    book = Ledger(tmp_path)
    assert book.kept(WORK) is None
    book.keep(WORK, {"scale": 1.005, "strains": (0.0, 0.1)})
    assert book.kept(WORK) == {"scale": 1.005, "strains": [0.0, 0.1]}
    assert book.kept(replace(WORK, inputs={"structure": "ef"})) is None
    book.begin(WORK)
    assert book.kept(WORK) is None


def test_entries_of_several_works_stand_side_by_side_and_equal_ones_write_nothing(tmp_path):
    book = Ledger(tmp_path)
    book.begin(WORK)
    book.begin(replace(WORK, key="training"))
    before = (tmp_path / LEDGER).stat().st_mtime_ns
    book.begin(WORK)
    assert set(book.entries()) == {"simulation", "training"} and (tmp_path / LEDGER).stat().st_mtime_ns == before


def test_a_moved_folder_goes_on(tmp_path):
    def work(folder) -> Work:
        return Work(key="train", settings=Settings(), inputs=contents(folder / "label" / "labels.jsonl"))

    first, second = tmp_path / "here", tmp_path / "there" / "renamed"
    (first / "label").mkdir(parents=True)
    (first / "label" / "labels.jsonl").write_text("labels")
    (first / "student").write_text("x")
    Ledger(first).finish(work(first), ["student"])
    second.parent.mkdir()
    shutil.move(first, second)
    assert Ledger(second).is_done(work(second))
    assert str(tmp_path) not in (second / LEDGER).read_text()


def test_the_last_bit_of_a_structure_does_not_change_its_work(tmp_path):
    system = SYSTEMS["box"]()
    book, work = Ledger(tmp_path), Work(key="simulation", inputs={"structure": structure_digests(system)})
    book.begin(replace(work, inputs={"structure": structure_sha256(system)}))  # as earlier versions entered it
    assert book.begun(work, holds="a simulation")
    book.begin(work)
    for change, same in ((4e-16, True), (1e-6, False)):
        moved = replace(system, positions=system.positions * (1.0 + change))
        assert not torch.equal(moved.positions, system.positions)
        changed = book.differences(replace(work, inputs={"structure": structure_digests(moved)}))
        assert (changed == []) is same, change


@pytest.mark.parametrize("content", [[], {"format": 2, "work": {}}, {"format": 1}])
def test_a_file_that_is_no_ledger_is_named(tmp_path, content):
    write_json(tmp_path / LEDGER, content)
    with pytest.raises(BadInput, match="is no ledger of this version"):
        Ledger(tmp_path).entries()
    assert read_json(tmp_path / LEDGER) == content
