"""No file of a run folder runs code: an import path in it is shown and refused, unless the user types it or `--trust`."""

from __future__ import annotations

import ast
import json
import shlex
import shutil
from pathlib import Path

import pytest

from mdistill import cli
from mdistill.commands import distill, label
from mdistill.flags.arguments import write_config
from mdistill.flags.trust import POTENTIALS
from mdistill.workflows.distill_settings import DistillSettings

OLD = Path(__file__).parent.parent / "golden" / "ca4b391"
COMMANDS = Path(cli.__file__).parent / "commands"
EVIL = "./run/evil.py:salt"
FILES = {
    "distill": ("distill given.toml --out out", 'structure = "crystal.extxyz"\nteacher = "{}"\ncutoff = 2.9\n'),
    "distill --dry-run": ("distill given.toml --dry-run", 'structure = "crystal.extxyz"\nteacher = "{}"\ncutoff = 2.9\n'),
    "label": ("label crystal.extxyz --config given.toml --out out", 'teacher = "{}"\nprepare.cutoff = 2.9\n'),
    "simulate": ("simulate crystal.extxyz --config=given.toml --out out", 'potential = "{}"\ntime_ps = 1.0\n'),
    "test": ("test --config given.toml", 'model = "{}"\nlabels = ["run"]\n'),
    "train": ("train potential run --config given.toml --out out", 'redraw = "{}"\ncutoff = 2.9\n'),
    "bench": ("bench run --config given.toml", 'teacher = "{}"\n'),
    "vibrations": ("vibrations run --config given.toml", 'teacher = "{}"\n'),
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a structure and somebody's run, whose module writes the file `ran`."""
    shutil.copy(OLD / "crystal.extxyz", tmp_path)
    shutil.copytree(OLD / "run", tmp_path / "run")
    code = "from pathlib import Path\nPath('ran').touch()\nfrom toy_teacher import salt\n"
    (tmp_path / "run" / "evil.py").write_text(code, encoding="utf-8")
    results = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))
    results["provenance"]["teacher"] = EVIL
    (tmp_path / "run" / "results.json").write_text(json.dumps(results), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["bench", "vibrations"])
def test_results_of_a_run_cannot_name_code(name: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([name, "run", "--max-hours", "0"]) == 2
    said = capsys.readouterr().err
    assert EVIL in said and "results.json" in said and "--trust" in said and not Path("ran").exists()
    assert cli.run([name, "run", "--max-hours", "0", "--trust"]) == 130 and Path("ran").exists()


@pytest.mark.parametrize("name", FILES)
def test_a_settings_file_cannot_name_code(name: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command, text = FILES[name]
    limit = [] if name in ("test", "distill --dry-run") else ["--max-hours", "0"]
    Path("given.toml").write_text(text.format(EVIL), encoding="utf-8")
    assert cli.run([*shlex.split(command), *limit]) == 2
    said = capsys.readouterr().err
    assert EVIL in said and "given.toml" in said and "--trust" in said and not Path("ran").exists()
    Path("given.toml").write_text(text.format(EVIL) + "trust = true\n", encoding="utf-8")
    assert cli.run([*shlex.split(command), *limit]) == 2 and not Path("ran").exists()
    assert "trust in given.toml" in capsys.readouterr().err
    Path("given.toml").write_text(text.format(EVIL), encoding="utf-8")
    cli.run([*shlex.split(command), *limit, "--trust"])
    assert Path("ran").exists(), capsys.readouterr().err


@pytest.mark.parametrize("line", ["update = true", 'out = "elsewhere"'])
def test_a_settings_file_decides_neither_where_to_write_nor_what_to_set_aside(line: str, place: Path, capsys) -> None:
    command, text = FILES["distill"]
    Path("given.toml").write_text(text.format("toy_teacher:salt") + line, encoding="utf-8")
    assert cli.run([*shlex.split(command), "--trust", "--max-hours", "0"]) == 2
    assert f"{line.partition(' ')[0]} in given.toml" in capsys.readouterr().err and not Path("out").exists()


def test_what_the_user_types_is_imported(place: Path) -> None:
    command, text = FILES["label"]
    Path("given.toml").write_text(text.format("./run/other.py:salt"), encoding="utf-8")
    assert cli.run([*shlex.split(command), "--max-hours", "0", "--teacher", EVIL]) == 130 and Path("ran").exists()
    assert cli.run([*shlex.split(command), "--max-hours", "0", f"--teacher={EVIL}"]) == 130, "the same command resumes"


@pytest.mark.parametrize(
    "name", ["x" * 5000, "x" * 5000 + ":y", "../:x", "./run/evil.py:boom", "./run/evil.py:leave", "./run/sick.py:x"]
)
def test_names_and_modules_that_cannot_be_used_are_bad_input(name: str, place: Path, capsys) -> None:
    (place / "run" / "sick.py").write_text("1 / 0\n", encoding="utf-8")
    with (place / "run" / "evil.py").open("a", encoding="utf-8") as code:
        code.write("import sys\ndef boom(): raise RuntimeError('no licence')\ndef leave(): sys.exit(7)\n")
    status, said = cli.run(["simulate", "crystal.extxyz", "--potential", name, "--out", "out"]), capsys.readouterr().err
    assert status == 2 and "--potential" in said and "fix:" in said, said[:200]


def test_control_characters_of_a_file_are_not_printed(place: Path, capsys) -> None:
    Path("given.toml").write_text('teacher = "a:\\u001b[2J"\n', encoding="utf-8")
    assert cli.run(["bench", "run", "--config", "given.toml"]) == 2
    assert "\x1b" not in capsys.readouterr().err


def test_run_toml_says_what_repeats_it(tmp_path: Path) -> None:
    for teacher, flag in (("toy_teacher:salt", " --trust"), ("chgnet", "")):
        given = label.LabelArguments(structure=Path("a.cif"), out=tmp_path, teacher=teacher, trust=True)
        text = write_config(tmp_path, "mdistill label", given).read_text(encoding="utf-8")
        assert f"mdistill label run.toml{flag}\n" in text and "trust =" not in text
    settings = DistillSettings(structure=Path("a.cif"), teacher="toy_teacher:salt")
    text = write_config(tmp_path, "mdistill distill", distill.DistillArguments(settings=settings)).read_text(encoding="utf-8")
    assert "mdistill distill run.toml --trust\n" in text


def test_every_potential_that_a_command_loads_is_checked() -> None:
    """Arguments of `load(given.NAME…)` in the commands are `POTENTIALS`; labels only tell the name of their teacher."""
    loaded = set()
    for path in COMMANDS.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("load", "teacher_of"):
                loaded |= {one.attr for one in node.args if isinstance(one, ast.Attribute) and ast.unparse(one.value) == "given"}
    assert loaded - {"run", "labels"} <= POTENTIALS.keys() and len(loaded) >= 4
