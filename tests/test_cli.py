"""The command line itself: quick help without torch, help on every command, suggestions, doctor."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from importlib import import_module

import pytest

from mdistill import cli

NAMES = sorted(cli.COMMANDS)


def fresh(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_overview_is_quick_and_imports_no_torch(trust):
    code = (
        "import sys, time; t = time.process_time(); from mdistill import cli; cli.run(['--help']);"
        "print(time.process_time() - t, 'torch' in sys.modules, file=sys.stderr)"
    )
    best = min((fresh(code).stderr.split() for _ in range(3)), key=lambda words: float(words[0]))
    assert best[1] == "False"
    assert float(best[0]) < 0.3
    trust("T44", "mdistill --help, CPU seconds after the interpreter's start", round(float(best[0]), 3), "≤ 0.3, no torch")


@pytest.mark.parametrize("name", NAMES)
def test_command_help_teaches_by_example_without_torch(name, trust):
    words = [name, "potential", "--help"] if name == "train" else [name, "--help"]
    code = (
        "import sys, time; t = time.process_time(); from mdistill import cli\n"
        f"try: cli.run({words!r})\nexcept SystemExit as stop: assert not stop.code\n"
        "print(time.process_time() - t, 'torch' in sys.modules, file=sys.stderr)"
    )
    runs = [fresh(code) for _ in range(2)]
    done = min(runs, key=lambda run: float(run.stderr.split()[-2]))
    assert f"mdistill {name}" in done.stdout and "examples" in done.stdout
    seconds, torch = done.stderr.split()[-2:]
    assert torch == "False"
    assert float(seconds) < 0.6
    trust("T44", f"mdistill {name} --help, CPU seconds", round(float(seconds), 3), "≤ 0.6, no torch")


@pytest.mark.parametrize("name", NAMES)
def test_help_examples_parse(name, capsys, monkeypatch):
    """Every example in a command's help is accepted by its parser (files are not opened)."""
    module = import_module(f"mdistill.commands.{name}")
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
    begin = time.monotonic()
    assert fresh(code).stdout == "quiet\n"
    assert time.monotonic() - begin < 60
    trust("T46", "network calls at import and in tests", 0, "0")
