"""Run folders: stages run once, rerun when touched, never lose what was there; locks; settings differences."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mdistill.errors import BadInput
from mdistill.runs import folder as run
from mdistill.runs.identity import contents
from mdistill.runs.ledger import Work
from mdistill.workflows.run_parts import check_labels

ONE = Work(key="one", settings={"a": 1})
OLD = Path(__file__).parent.parent / "golden" / "ca4b391" / "run"


def chain(folder: Path, first: dict, second: dict, log: list[str]) -> None:
    """Two stages: `one` writes a number, `two` reads it."""

    def one() -> None:
        log.append("one")
        (folder / "one" / "value.txt").write_text(str(first["value"] // 10))

    def two() -> None:
        log.append("two")
        (folder / "two" / "sum.txt").write_text(str(int((folder / "one" / "value.txt").read_text()) + second["add"]))

    run.run_stage(folder / "one", Work(key="one", settings=first), ["value.txt"], one)
    inputs = contents(folder / "one" / "value.txt")
    run.run_stage(folder / "two", Work(key="two", settings=second, inputs=inputs), ["sum.txt"], two)


def test_rerun_with_nothing_changed_does_nothing(tmp_path, trust):
    log: list[str] = []
    chain(tmp_path, {"value": 10}, {"add": 1}, log)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    chain(tmp_path, {"value": 10}, {"add": 1}, log)
    assert log == ["one", "two"]
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    trust("T20", "stages run again when nothing changed", 0, "0")


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [({"value": 10}, {"add": 2}, ["two"]), ({"value": 20}, {"add": 1}, ["one", "two"]), ({"value": 11}, {"add": 1}, ["one"])],
)
def test_a_changed_setting_reruns_only_what_follows(tmp_path, trust, first, second, expected):
    chain(tmp_path, {"value": 10}, {"add": 1}, [])
    log: list[str] = []
    chain(tmp_path, first, second, log)
    assert log == expected
    trust("T20", f"stages rerun after {first}, {second}", ",".join(log), ",".join(expected))


def test_superseded_stage_is_kept(tmp_path):
    chain(tmp_path, {"value": 10}, {"add": 1}, [])
    chain(tmp_path, {"value": 10}, {"add": 5}, [])
    assert (tmp_path / "two.superseded-1" / "sum.txt").read_text() == "2"


def test_altered_output_is_noticed(tmp_path):
    chain(tmp_path, {"value": 10}, {"add": 1}, [])
    (tmp_path / "one" / "value.txt").write_text("999")
    log: list[str] = []
    chain(tmp_path, {"value": 10}, {"add": 1}, log)
    assert log == ["one"]
    assert (tmp_path / "two" / "sum.txt").read_text() == "2"


@pytest.mark.parametrize("stage", ["label", "refine"])
def test_damaged_labels_are_named_or_their_stage_is_set_aside(stage, tmp_path):
    home = tmp_path / "run"
    shutil.copytree(OLD, home)
    check_labels(home, update=False)
    next((home / stage).rglob("labels-*.npz")).write_bytes(b"x")
    with pytest.raises(BadInput, match=r"(?s)labels-\d+.npz: was altered.*--update") as caught:
        check_labels(home, update=False)
    assert stage in str(caught.value) and (home / stage).is_dir()
    check_labels(home, update=True)
    assert not (home / stage).exists() and (home / f"{stage}.superseded-1").is_dir()


def test_interrupted_stage_finds_its_files(tmp_path):
    def stop() -> None:
        (tmp_path / "one" / "partial.txt").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.run_stage(tmp_path / "one", ONE, ["done.txt"], stop)

    def resume() -> None:
        assert (tmp_path / "one" / "partial.txt").read_text() == "half"
        (tmp_path / "one" / "done.txt").write_text("whole")

    assert run.run_stage(tmp_path / "one", ONE, ["done.txt"], resume)


def test_what_a_stage_does_last_is_done_again_in_its_folder(tmp_path):
    learned: list[str] = []

    def work() -> None:
        if not (tmp_path / "one" / "learned.txt").exists():
            learned.append("once more")
            (tmp_path / "one" / "learned.txt").write_text("much")
        (tmp_path / "one" / "judged.txt").write_text("so")

    def again(settings: dict, judge: dict) -> bool:
        one = Work(key="one", settings=settings, last=judge)
        return run.run_stage(tmp_path / "one", one, ["learned.txt", "judged.txt"], work)

    assert again({"a": 1}, {"time": 1}) and not again({"a": 1}, {"time": 1})
    assert again({"a": 1}, {"time": 2}) and not again({"a": 1}, {"time": 2})
    assert len(learned) == 1
    assert again({"a": 2}, {"time": 2}) and len(learned) == 2
    assert (tmp_path / "one.superseded-1").exists() and not (tmp_path / "one.superseded-2").exists()


def test_other_settings_are_refused_with_the_difference(tmp_path):
    run.keep_settings(tmp_path, "distill", {"temperature_K": 300, "deep": {"seed": 1}})
    run.keep_settings(tmp_path, "distill", {"temperature_K": 300, "deep": {"seed": 1}})
    with pytest.raises(BadInput, match="deep.seed: 1 → 2"):
        run.keep_settings(tmp_path, "distill", {"temperature_K": 300, "deep": {"seed": 2}})
    run.keep_settings(tmp_path, "distill", {"temperature_K": 300, "deep": {"seed": 2}}, update=True)
    run.keep_settings(tmp_path, "distill", {"temperature_K": 300, "deep": {"seed": 2}})


def test_a_moved_run_goes_on_and_the_path_of_an_input_does_not_count(tmp_path, trust):
    def settings(structure: str) -> dict:
        return {"structure": structure, "seed": 1}

    first, second = tmp_path / "here" / "run", tmp_path / "elsewhere"
    run.keep_settings(first, "distill", settings("/a/crystal.cif"), inputs={"structure": "ab"}, paths=("structure",))
    chain(first, {"value": 10}, {"add": 1}, [])
    first.rename(second)
    log: list[str] = []
    run.keep_settings(second, "distill", settings("b.cif"), inputs={"structure": "ab"}, paths=("structure",))
    chain(second, {"value": 10}, {"add": 1}, log)
    assert log == []
    with pytest.raises(BadInput, match="inputs.structure: ab → cd"):
        run.keep_settings(second, "distill", settings("b.cif"), inputs={"structure": "cd"}, paths=("structure",))
    assert run.run_settings(second) == {"command": "distill", "structure": "b.cif", "seed": 1}
    assert {name: entry["state"] for name, entry in run.stages(second).items()} == {"one": "done", "two": "done"}
    trust("T20", "stages run again in a moved run folder", len(log), "0")


def test_a_run_of_an_earlier_version_is_refused_and_update_redoes_it(tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(OLD, folder)
    with pytest.raises(BadInput, match="earlier version of mdistill") as caught:
        run.keep_settings(folder, "distill", {"seed": 0}, update=False)
    assert "--update" in str(caught.value) and "--out" in str(caught.value)
    assert run.run_settings(folder)["command"] == "distill" and run.run_settings(folder)["label"]["temperatures_K"]
    assert {entry["state"] for entry in run.stages(folder).values()} == {"done"} and len(run.stages(folder)) == 7
    run.keep_settings(folder, "distill", {"seed": 0}, update=True)
    assert run.run_stage(folder / "train", Work(key="train"), [], lambda: None)
    assert (folder / "train.superseded-1" / "student.mdistill").is_file() and "train.superseded-1" not in run.stages(folder)


def test_an_empty_stage_folder_is_no_other_work(tmp_path):
    """What a kill between making the folder and its ledger leaves: begun again, nothing is set aside."""
    (tmp_path / "one").mkdir()
    assert run.run_stage(tmp_path / "one", ONE, ["done.txt"], lambda: (tmp_path / "one" / "done.txt").write_text("x"))
    assert [path.name for path in tmp_path.iterdir()] == ["one"]
