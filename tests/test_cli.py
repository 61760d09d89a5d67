"""The command line itself: help that imports nothing heavy, help on every command, suggestions, doctor."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mdistill import cli

NAMES = sorted(cli.COMMANDS)


def fresh(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


HEAVY = ("torch", "scipy", "matplotlib", "pymatgen", "h5py", "sevenn", "chgnet")
"""What makes help slow where it is imported."""


def imported(code: str) -> tuple[str, list[str]]:
    """What a fresh process prints, and which heavy packages it has imported at its end."""
    done = fresh(f"import sys\n{code}\nprint([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)")
    assert done.returncode == 0, done.stderr
    return done.stdout, eval(done.stderr.splitlines()[-1])  # noqa: S307


def test_overview_imports_nothing_heavy(trust):
    said, heavy = imported("from mdistill import cli; cli.run(['--help'])")
    assert "distill" in said and not heavy
    trust("T44", "mdistill --help: heavy packages imported", len(heavy), "0")


@pytest.fixture(scope="module")
def helps() -> dict[str, tuple[str, list[str]]]:
    """The help of every command in one fresh process, and the heavy packages that it imported."""
    words = {name: [name, "potential", "--help"] if name == "train" else [name, "--help"] for name in NAMES}
    code = f"""
import contextlib, io, json, sys
from mdistill import cli
found, before = {{}}, set()
for name, words in {words!r}.items():
    with contextlib.redirect_stdout(io.StringIO()) as said:
        try: cli.run(words)
        except SystemExit as stop: assert not stop.code
    now = {{package for package in {HEAVY!r} if package in sys.modules}}
    found[name], before = (said.getvalue(), sorted(now - before)), now
print(json.dumps(found))
"""
    done = fresh(code)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", NAMES)
def test_command_help_teaches_by_example_without_torch(name, helps, trust):
    said, heavy = helps[name]
    assert f"mdistill {name}" in said and "examples" in said
    assert not heavy
    trust("T44", f"mdistill {name} --help: heavy packages imported", len(heavy), "0")


@pytest.mark.parametrize("name", ["", *NAMES, "train potential", "train direct", "train stride", "train transport"])
def test_help_fits_a_screen(name, capsys):
    with contextlib.suppress(SystemExit):
        cli.run([*name.split(), "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert 10 < len(lines) <= 60
    assert max(map(len, lines)) <= 80


def test_all_flags_are_shown_on_request(capsys):
    with pytest.raises(SystemExit):
        cli.run(["distill", "--help-all"])
    said = capsys.readouterr().out
    assert "--strides.segments.friction-per-ps" in said and "--label.seed" not in said and "--seed" in said


@pytest.mark.parametrize("name", NAMES)
def test_help_examples_parse(name, capsys, monkeypatch, tmp_path):
    """Every example in a command's help is accepted by its parser (only settings files are opened)."""
    monkeypatch.chdir(tmp_path)
    for path in re.findall(r"[\w/]+\.toml", cli.module_of(name).HELP):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text('structure = "crystal.cif"\n')
    module = cli.module_of(name)
    examples = re.findall(rf"^  mdistill {name} ((?:.*\\\n)*.*)$", module.HELP, re.MULTILINE)
    assert examples
    parsed: list[object] = []

    class Parsed(Exception):
        pass

    original = module.parse

    def stop(*arguments: object, **options: object) -> None:
        parsed.append(original(*arguments, **options))
        raise Parsed

    monkeypatch.setattr(module, "parse", stop)
    for example in examples:
        with pytest.raises(Parsed):
            module.main(example.replace("\\\n", " ").split())
    assert len(parsed) == len(examples)


def test_doctor_names_what_is_missing(capsys, monkeypatch, tmp_path):
    from mdistill.commands import doctor

    monkeypatch.setattr(doctor, "version", lambda package: None if package == "chgnet" else "1.0")
    assert cli.run(["doctor", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "missing" in said and 'pip install "mdistill[chgnet]"' in said
    assert (tmp_path / "results.json").exists()


def test_unexpected_errors_exit_1(monkeypatch, capsys):
    from mdistill.commands import doctor

    def broken(_: list[str]) -> int:
        raise RuntimeError("surprise")

    monkeypatch.setattr(doctor, "main", broken)
    assert cli.run(["doctor"]) == 1
    assert "surprise" in capsys.readouterr().err


def test_import_reaches_no_network(trust):
    code = (
        "import socket, sys\n"
        "def refuse(*a): raise SystemExit('network')\n"
        "socket.socket.connect = refuse; socket.getaddrinfo = refuse\n"
        "import mdistill, mdistill.workflows.distill, mdistill.commands.doctor\nprint('quiet')"
    )
    assert fresh(code).stdout == "quiet\n"
    trust("T46", "network calls at import and in tests", 0, "0")


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("mdistill tr", "train"),
        ("mdistill distill --stride", "--stride-fs"),
        ("mdistill train stride --judge.time-", "--judge.time-ps"),
    ],
)
def test_bash_completes(typed, offered, tmp_path):
    from mdistill.commands.completion import script

    (tmp_path / "script").write_text(script("bash"))
    words = typed.split()
    ask = f"source ./script; COMP_WORDS=({typed}); COMP_CWORD={len(words) - 1}; _mdistill; echo ${{COMPREPLY[@]}}"
    done = subprocess.run(["bash", "-c", ask], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert offered in done.stdout.split()


def test_other_shells_know_every_command_and_flag():
    from mdistill.commands.completion import script

    assert "label_files" not in script("fish"), "a file of the room that is no command"
    assert "bashcompinit" in script("zsh") and "--production.time-ps" in script("zsh")
    fish = script("fish")
    assert all(name in fish.splitlines()[0] for name in cli.COMMANDS) and "-l production.time-ps" in fish
    assert "label.seed" not in fish
