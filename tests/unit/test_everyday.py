"""What people type: missing files, commas, file names with @, narrow terminals, a run that still goes on."""

from __future__ import annotations

import io
import json
import shlex

import pytest
from rich.console import Console
from rich.progress import Progress

from mdistill import cli
from mdistill.commands.distill import DistillArguments
from mdistill.commands.simulate import SimulateArguments
from mdistill.errors import BadInput, BlowUp
from mdistill.flags.arguments import parse
from mdistill.io.files import write_json
from mdistill.io.import_trajectory import read_trajectory
from mdistill.progress import NARROW, columns, progress, published, say_stage
from mdistill.report.cards import card
from mdistill.runs.folder import keep_settings
from mdistill.runs.ledger import Ledger, Work
from mdistill.runs.lock import PROGRESS, locked
from mdistill.runs.results import Results, write_results

EMT = "ase.calculators.emt:EMT"


@pytest.mark.parametrize(
    "command",
    [
        "distill absent.cif --out runs/new",
        "distill absent.cif",
        f"label absent.cif --teacher {EMT} --out runs/new",
        f"simulate absent.cif --potential {EMT} --out runs/new",
        "analyse absent.h5 --species Li --out runs/new",
        "train potential absent --out runs/new",
        "train stride --from absent.mdistill --structure copper.extxyz --out runs/new",
        f"vibrations runs/new --teacher {EMT}",
        f"bench runs/new --teacher {EMT}",
        "report runs/new",
    ],
)
def test_a_missing_input_leaves_no_folder_behind(command, tmp_path, monkeypatch, capsys):
    from ase.build import bulk

    monkeypatch.chdir(tmp_path)
    bulk("Cu", cubic=True).write("copper.extxyz")
    assert cli.run(shlex.split(command)) == 2
    assert "fix:" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["copper.extxyz"]


def test_an_output_folder_below_a_file_is_refused_before_anything_is_read(tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    assert cli.run(["distill", "absent.cif", "--out", str(tmp_path / "file" / "run")]) == 2
    assert "is a file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "typed", "fix"),
    [
        (DistillArguments, ["x.cif", "--temperatures", "500,600"], "--temperatures 500 600"),
        (DistillArguments, ["x.cif", "--temperatures=500,600,"], "--temperatures 500 600"),
        (DistillArguments, ["x.cif", "--label.temperatures-K", "5e2,-1"], "--label.temperatures-K 5e2 -1"),
        (SimulateArguments, ["x", "--potential", "p", "--out", "o", "--repeat", "2,2,2"], "--repeat 2 2 2"),
        (SimulateArguments, ["x", "--potential", "p", "--out", "o", "--time-ps", "0,5"], "--time-ps 0.5"),
    ],
)
def test_numbers_with_commas_are_refused_with_what_to_type(kind, typed, fix):
    with pytest.raises(BadInput) as caught:
        parse(kind, typed, program="mdistill", description="")
    assert caught.value.fix == fix


def test_names_that_hold_commas_are_left_alone():
    typed = ["x,1.cif", "--potential", "a,b", "--out", "o"]
    assert str(parse(SimulateArguments, typed, program="mdistill", description="").structure) == "x,1.cif"


def test_a_trajectory_may_have_an_at_sign_in_its_name(tmp_path):
    from ase.build import bulk
    from ase.io import write

    frames = [bulk("Cu", cubic=True) for _ in range(3)]
    for k, atoms in enumerate(frames):
        atoms.rattle(0.01, seed=k)
        atoms.info["time"] = 10.0 * k
    path = tmp_path / "run@300K.extxyz"
    write(str(tmp_path / "run.extxyz"), frames)
    (tmp_path / "run.extxyz").rename(path)
    assert read_trajectory(path, time_step_fs=10.0).trajectory.positions.shape == (3, 4, 3)


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_bar_stays_on_one_line_and_shows_its_share(width):
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    bar = Progress(*columns(width, "step"), console=console, expand=width < NARROW)
    bar.update(bar.add_task("production: a cell eight times as large", total=200, note="12.3 ns/day  700 K"), completed=50)
    console.print(bar.get_renderable())
    lines = console.file.getvalue().rstrip("\n").split("\n")
    assert len(lines) == 1 and len(lines[0]) <= width
    assert ("25%" if width < NARROW else "50/200") in lines[0]


def test_bars_are_published_with_their_time_left():
    heard: list[dict] = []
    with published(lambda facts: heard.append(json.loads(json.dumps(facts)))):
        say_stage("stage 3 of 7: train")
        with progress("student", 10.0, unit="step") as advance:
            for _ in range(10):
                advance(1)
    assert heard[0]["stage"] == "stage 3 of 7: train" and heard[0]["bar"] is None
    assert (heard[1]["bar"]["done"], heard[-1]["bar"]["done"], heard[-1]["bar"]["total"]) == (1, 10, 10)
    assert heard[-1]["bar"]["left_s"] == 0 and len(heard) <= 4
    with published(lambda _: 1 / 0), progress("student", 1.0) as advance:
        advance(1)


def test_info_on_a_running_run_shows_progress_and_time_left(tmp_path, monkeypatch):
    from mdistill.report import cards

    keep_settings(tmp_path, "simulate", {"time_ps": 1.0})
    assert not [table for table in card(tmp_path).tables if table.name == "now"]
    (tmp_path / PROGRESS).write_text('{"stage": "of a process that died"}')
    with locked(tmp_path):
        assert not (tmp_path / PROGRESS).exists()
        say_stage("stage 3 of 7: train, about 9 min left")
        bar = {"name": "student", "done": 30, "total": 120, "unit": "step", "left_s": 300.0, "time": 1000.0}
        facts = json.loads((tmp_path / PROGRESS).read_text())
        write_json(tmp_path / PROGRESS, facts | {"bar": bar, "stage_time": 900.0})
        monkeypatch.setattr(cards.time, "time", lambda: 1020.0)
        rows = dict(next(table for table in card(tmp_path).tables if table.name == "now").rows)
    assert rows["stage"] == "stage 3 of 7: train, about 9 min left (told 2 min ago)"
    assert rows["student"] == "30 of 120 step (25%, 20 s ago)" and rows["left of student"] == "5 min"
    assert not (tmp_path / PROGRESS).exists()
    assert not [table for table in card(tmp_path).tables if table.name == "now"], "the process has ended"


def test_info_on_a_run_that_blew_up_says_so(tmp_path):
    """Its command does not simply resume: the same dynamics would blow up again."""
    from mdistill.workflows.distill_settings import quick_settings
    from mdistill.workflows.verdict import broken_results

    keep_settings(tmp_path, "distill", {"seed": 0})
    (tmp_path / "stride").mkdir()
    Ledger(tmp_path / "stride").begin(Work(key="stride"))
    write_results(tmp_path, Results(command="distill"))
    status = dict(card(tmp_path).tables[0].rows)["status"]
    assert status == "interrupted: the same command resumes it"
    blown = BlowUp(10, "force on atom 13 is 62.8 eV/Å (limit 50)")
    write_results(tmp_path, broken_results(Results(command="distill"), "stride", blown, quick_settings(tmp_path)))
    assert dict(card(tmp_path).tables[0].rows)["status"].startswith("stopped: stride MD blew up")


@pytest.mark.parametrize(
    ("shell", "place"),
    [
        ("bash", ".local/share/bash-completion/completions/mdistill"),
        ("zsh", ".local/share/mdistill/completion.zsh"),
        ("fish", ".config/fish/completions/mdistill.fish"),
    ],
)
def test_completion_is_installed_for_the_shell_in_use(shell, place, tmp_path, monkeypatch, capsys):
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "ZDOTDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SHELL", f"/usr/bin/{shell}")
    (tmp_path / ".zshrc").write_text("setopt autocd")
    for _ in range(2):
        assert cli.run(["--install-completion"]) == 0
    assert str(tmp_path / place) in capsys.readouterr().out
    assert "temperature-K" in (tmp_path / place).read_text()
    lines = (tmp_path / ".zshrc").read_text().splitlines()
    assert lines[0] == "setopt autocd" and len(lines) == (2 if shell == "zsh" else 1)


def test_completion_names_the_shells_it_knows(monkeypatch, capsys):
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    assert cli.run(["--install-completion"]) == 2
    assert "bash, zsh, fish" in capsys.readouterr().err


def test_the_overview_names_every_command_within_80_columns():
    lines = cli.overview().splitlines()
    assert max(map(len, lines)) <= 80
    assert all(any(line.startswith(f"  {name} ") for line in lines) for name in cli.COMMANDS)
