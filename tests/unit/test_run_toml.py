"""run.toml stands from the start of a run, and holds the settings of the work in its folder."""

from __future__ import annotations

import shlex
import shutil
import tomllib
from pathlib import Path

import pytest

from mdistill import cli

OLD = Path(__file__).parent.parent / "golden" / "ca4b391"
COMMANDS = {
    "distill": "distill crystal.extxyz --teacher toy_teacher:salt --cutoff 2.9 --label.frames 17 --out out",
    "label": "label crystal.extxyz --teacher toy_teacher:salt --prepare.cutoff 2.9 --frames 17 --out out",
    "simulate": "simulate crystal.extxyz --potential toy_teacher:salt --time-ps 17 --out out",
    "train": "train potential run --held-out 0.17 --channels 3 --radial 5 --hidden 8 --cutoff 2.9 --out out",
    "train stride": "train stride --from run --train.stride-fs 4 --segments.segments 17 --out out",
    "bench": "bench run --sizes tiny --minutes 17 --repeats 3 --teacher toy_teacher:salt --out out",
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a structure and a run."""
    shutil.copy(OLD / "crystal.extxyz", tmp_path)
    shutil.copytree(OLD / "run", tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", COMMANDS)
def test_an_interrupted_run_has_its_settings_file(name: str, place: Path) -> None:
    assert cli.run([*shlex.split(COMMANDS[name]), "--max-hours", "0"]) == 130
    text = (place / "out" / "run.toml").read_text(encoding="utf-8")
    assert "17" in text and f"mdistill {name.replace('train', 'train potential') if name == 'train' else name} run.toml" in text
    if name == "distill":
        assert (place / "out" / tomllib.loads(text)["structure"]).read_bytes() == (place / "crystal.extxyz").read_bytes()


@pytest.mark.parametrize(("name", "other"), [("distill", "--seed 3"), ("label", "--seed 3"), ("simulate", "--temperature-K 77")])
def test_refused_settings_leave_the_file_of_the_run(name: str, other: str, place: Path, capsys) -> None:
    first = [*shlex.split(COMMANDS[name]), "--max-hours", "0"]
    assert cli.run(first) == 130
    before = (place / "out" / "run.toml").read_text(encoding="utf-8")
    assert cli.run([*first, *shlex.split(other)]) == 2
    assert "other settings" in capsys.readouterr().err
    assert (place / "out" / "run.toml").read_text(encoding="utf-8") == before
    if name == "distill":
        assert cli.run([*first, *shlex.split(other), "--update"]) == 130
        assert "seed = 3" in (place / "out" / "run.toml").read_text(encoding="utf-8")
