"""Campaigns: which runs there are, what is repeated after kills of runs, workers and the driver, what is told of them.

A stand-in for `mdistill distill` writes results without any dynamics; one slow test does real runs with a toy teacher.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conductors import cif, conductor
from mdistill import cli
from mdistill.campaign import queue, tables
from mdistill.campaign.plan import Record, open_campaign, read_campaign, write_jobs
from mdistill.campaign.slurm import slurm_script
from mdistill.campaign.tables import mean_of, status_table
from mdistill.errors import BadInput
from mdistill.estimates import Estimate
from mdistill.runs.results import Headline, Results, read_results, write_results

ROOT = Path(__file__).parents[2]
NAMES = {"a": "Li6PS5Cl", "b": "Li10GeP2S12", "c": "Li3YCl6"}
CHILD = """
import json, os, signal, sys, time, tomllib
from pathlib import Path
from mdistill.processes import end_with_parent
end_with_parent({parent})
toml, out = Path(sys.argv[2]), Path(sys.argv[sys.argv.index("--out") + 1])
out.mkdir(parents=True, exist_ok=True)
given = tomllib.loads(toml.read_text())
with open(out / "begun", "a") as file:
    file.write(f"{{os.getpid()}} {{' '.join(sys.argv[3:])}}\\n")
name = Path(given["structure"]).stem
for _ in range(int(20 * given.get("check_ps", 0.0))):
    time.sleep(0.05)
if name == "b":
    print("mdistill distill: b.cif: no charges\\n  allowed: charges\\n  fix: add charges", file=sys.stderr)
    sys.exit(2)
sigma = {{"a": 10.0, "c": 30.0}}[name] + given["seed"]
estimate = dict(value=sigma, error=1.0, unit="mS/cm", samples=1, interval=None, upper_limit=None)
gates = [dict(name="force error", measured=dict(estimate, unit="meV/Å"), limit=5.0, passed=False, detail="Li", parts={{}}, limits={{}},
              sense="at most", fix="more labels", judged=True)] if name == "c" else []
from mdistill.runs.results import Headline, Results, write_results
from mdistill.estimates import Estimate, Gate
write_results(out, Results(command="distill", values={{"conductivity_700K": Estimate(**estimate)}},
              headlines=[Headline(quantity="conductivity", value="conductivity_700K", temperature_K=700.0)],
              gates=[Gate(**one | dict(measured=Estimate(**one["measured"]))) for one in gates]))
sys.exit(4 if gates else 0)
"""


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with three crystals and a campaign of them; the main job is the stand-in."""
    (tmp_path / "crystals").mkdir()
    for name, formula in NAMES.items():
        (tmp_path / "crystals" / f"{name}.cif").write_text(cif(conductor(formula)))
    write(tmp_path)
    monkeypatch.setattr(queue, "_CHILD", CHILD)
    monkeypatch.setattr(queue, "_LOOK_S", 0.02)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, *lines: str, seeds: str = "[0]") -> None:
    text = f'structures = ["crystals/*.cif"]\nseeds = {seeds}\ntemperatures = [500, 700]\npreset = "quick"\n'
    (folder / "campaign.toml").write_text(text + "\n".join(lines) + "\n")


def campaign(*more: str) -> int:
    return cli.run(["campaign", "campaign.toml", "--out", "camp", "--workers", "2", *more])


def begun(name: str, folder: str = "camp") -> int:
    path = Path(folder) / "runs" / name / "begun"
    return len(path.read_text().splitlines()) if path.is_file() else 0


def test_good_runs_are_ranked_bad_ones_come_first_and_nothing_is_repeated(place, capsys):
    write(place, 'only."c".label.frames = 30', seeds="[0, 4]")
    assert campaign() == 1
    said = capsys.readouterr().out
    assert said.index("Failures") < said.index("Ranking") and "no charges" in said and "add charges" in said
    results = read_results(place / "camp")
    ranking = next(table for table in results.tables if table.name == "ranking")
    assert [row[:2] for row in ranking.rows] == [["1", "a"], ["–", "c"]] and [row[-1] for row in ranking.rows] == [
        "pass",
        "FAILED",
    ]
    sigma = ranking.rows[0][2]
    assert sigma.value == 12.0 and sigma.error == pytest.approx(2.0), "scatter of two seeds"
    rows = list(csv.DictReader(io.StringIO((place / "camp" / "campaign.csv").read_text())))
    assert {row["run"]: row["state"] for row in rows} == {
        f"{name}-seed{seed}": "failed" if name == "b" else "done" for name in "abc" for seed in (0, 4)
    }
    assert next(row for row in rows if row["run"] == "c-seed4")["conductivity_700K (mS/cm)"] == "34.0"
    settings = (place / "camp" / "jobs" / "c-seed0.toml").read_text()
    assert "label.frames = 30" in settings and 'structure = "../../crystals/c.cif"' in settings and settings.index("preset") < 120
    page = (place / "camp" / "report.html").read_text()
    assert page.index("did not") < page.index("Ranking by") and "no charges" in page
    assert campaign() == 1
    assert [begun(f"{name}-seed0") for name in "abc"] == [1, 2, 1], "what was bad input is tried again, the rest is not"
    write(place, 'only."c".label.frames = 31', seeds="[0, 4]")
    assert campaign() == 2 and "label.frames: 30 → 31" in capsys.readouterr().err
    write(place, 'only."c".label.frames = 31', seeds="[0, 4, 5]")
    assert campaign("--update") == 1
    assert "--update" in (place / "camp" / "runs" / "c-seed0" / "begun").read_text().splitlines()[-1]
    assert begun("a-seed5") == 1


def test_a_campaign_that_passes_ends_with_0(place):
    for name in "bc":
        (place / "crystals" / f"{name}.cif").unlink()
    assert campaign() == 0 and cli.run(["campaign", "status", "camp"]) == 0
    (place / "crystals" / "c.cif").write_text(cif(conductor(NAMES["c"])))
    assert campaign() == 4 and begun("a") == 1


def bad(text: str) -> tuple[str, str]:
    name = text.partition(" ")[0]
    return text, name


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('structures = ["absent/*.cif"]', "matches nothing"),
        ("structures = []", "none given"),
        ('structure = "crystals/a.cif"', "structures = ['crystals/a.cif']"),
        ('seeds = ["x"]', "a list of int"),
        ("seeds = [1, 1]", "each once"),
        ('temperatures = ["hot"]', "numbers, K"),
        ("temperatures = 500", "in a list"),
        ("temperatures = [true]", "in a list"),
        ("temperatures = [-3]", "above 0"),
        ("label.frmes = 3", "did you mean label.frames"),
        ('only."x".label.frames = 3', "names no structure"),
        ('only."a" = 3', "settings of single structures"),
        ("max_hours = -1", "above 0"),
        ("max_hours = inf", "above 0"),
        ("max_hours = true", "above 0"),
        ("attempts = 0", "1 to 100"),
        ("attempts = true", "1 to 100"),
        ('teacher = "evil.module:run"', "--trust"),
        ('preset = "slow"', "quick, or none"),
        ("committee = 0", "at least 1"),
    ],
)
def test_bad_files_are_refused_before_anything_begins(place, line, words, capsys):
    text = 'structures = ["crystals/*.cif"]\n'
    (place / "campaign.toml").write_text(line if line.startswith("structures") else text + line)
    assert campaign() == 2
    said = capsys.readouterr().err
    assert words in said and not (place / "camp").exists(), said


def test_other_bad_input(place, capsys):
    for words in (["nothing.toml"], ["status", "crystals"], ["status"], ["hello"], ["campaign.toml", "--workers", "0"]):
        assert cli.run(["campaign", *words]) == 2, words
    shutil.copytree(place / "crystals", place / "more")
    (place / "campaign.toml").write_text('structures = ["crystals", "more"]\n')
    assert campaign() == 2 and "have one name" in capsys.readouterr().err


def test_damaged_files_of_a_campaign_are_told(place, capsys):
    made = _read(place)
    write_jobs(made, place / "campaign.toml", update=False)
    assert cli.run(["campaign", "status", "camp"]) == 1
    capsys.readouterr()
    for name, content, words in (
        ("jobs/a.toml", None, "a.toml: no such file"),
        ("jobs/b.toml", "x = [", "b.toml: is no TOML"),
        ("campaign.json", "{}", "campaign.json: is not that of a campaign (KeyError('jobs'))"),
        ("campaign.json", '{"jobs": [1]}', "is not that of a campaign"),
    ):
        path = place / "camp" / name
        before = path.read_text()
        path.unlink() if content is None else path.write_text(content)
        assert cli.run(["campaign", "status", "camp"]) == 2
        said = capsys.readouterr().err
        assert words in said and "it is written anew" in said, said
        path.write_text(before)


def driver(place: Path, *more: str) -> subprocess.Popen[bytes]:
    """A driver in a process of its own, with the stand-in."""
    code = f"import sys; from mdistill import cli; from mdistill.campaign import queue; queue._CHILD = {CHILD!r}; sys.exit(cli.run(sys.argv[1:]))"
    words = ["campaign", "campaign.toml", "--out", "camp", "--workers", "2", *more]
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}", "MDISTILL_QUIET": "1"}
    with open(place / "said.txt", "w") as said:
        return subprocess.Popen([sys.executable, "-c", code, *words], cwd=place, env=environment, stderr=said)


def until(what, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


def process(name: str) -> int:
    return int(json.loads(Path(f"camp/jobs/{name}.json").read_text())["process"])


@pytest.mark.slow
def test_a_killed_run_is_repeated_and_a_killed_driver_loses_nothing(place, capsys, trust):
    write(place, "check_ps = 1.5")
    first = driver(place)
    until(lambda: begun("a") == 1 and begun("b") == 1)
    assert campaign() == 2 and "is working in this run folder" in capsys.readouterr().err
    os.kill(process("a"), signal.SIGKILL)
    until(lambda: begun("a") == 2)
    left = process("a")
    first.kill()
    first.wait()
    until(lambda: not Path(f"/proc/{left}").exists() or "Z" in Path(f"/proc/{left}/stat").read_text().split()[2], 20)
    assert open_campaign(Path("camp")).record("a").state == "stopped", "the run ended with its driver"
    assert campaign() == 1
    states = {name: open_campaign(Path("camp")).record(name) for name in "abc"}
    assert [states[name].state for name in "abc"] == ["done", "failed", "done"] and states["a"].attempts >= 2
    trust("T42", "campaign: runs lost after a kill of a run and of the driver", 0, "0")


@pytest.mark.slow
def test_a_stop_request_reaches_the_runs(place):
    write(place, "check_ps = 30")
    first = driver(place)
    until(lambda: begun("a") == 1)
    first.send_signal(signal.SIGINT)
    assert first.wait(timeout=60) == 130 and "resume: mdistill campaign campaign.toml" in (place / "said.txt").read_text()
    assert open_campaign(Path("camp")).record("a").state == "stopped"


def test_a_run_that_dies_again_and_again_fails(place, monkeypatch):
    monkeypatch.setattr(queue, "_CHILD", "import os, signal; os.kill(os.getpid(), signal.SIGKILL) if {parent} else None")
    assert campaign() == 1
    record = open_campaign(Path("camp")).record("a")
    assert record.state == "failed" and record.attempts == 2 and "lack of memory" in record.reason


@pytest.mark.slow
@pytest.mark.loopback
def test_dask_goes_on_when_a_worker_dies(place, capsys, trust):
    distributed = pytest.importorskip("distributed")
    write(place, "check_ps = 1.0")
    preload = place / "stand_in.py"
    preload.write_text(f"from mdistill.campaign import queue\nqueue._CHILD = {CHILD!r}\n")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0", preload=str(preload)
    ) as local:
        import threading

        def kill_one() -> None:
            until(lambda: begun("a") == 1)
            parent = int(Path(f"/proc/{process('a')}/stat").read_text().split()[3])
            os.kill(parent, signal.SIGKILL)

        killer = threading.Thread(target=kill_one)
        killer.start()
        address = local.scheduler_address.replace("tcp://", "dask://")
        assert cli.run(["campaign", "campaign.toml", "--out", "camp", "--workers", address]) == 1
        killer.join()
    assert [open_campaign(Path("camp")).record(name).state for name in "abc"] == ["done", "failed", "done"]
    assert begun("a") == 2 and begun("c") == 1
    trust("T42", "campaign: runs lost after a kill of a Dask worker", 0, "0")


@pytest.mark.slow
@pytest.mark.loopback
def test_executorlib_does_the_runs(place, capsys, monkeypatch):
    pytest.importorskip("executorlib")
    (place / "sitecustomize.py").write_text(f"from mdistill.campaign import queue\nqueue._CHILD = {CHILD!r}\n")
    monkeypatch.setenv("PYTHONPATH", f"{place}:{os.environ.get('PYTHONPATH', '')}")
    assert campaign("--workers", "executorlib:SingleNodeExecutor") == 1
    assert [open_campaign(Path("camp")).record(name).state for name in "abc"] == ["done", "failed", "done"]
    assert begun("a") == begun("c") == 1
    assert campaign("--workers", "executorlib:Nowhere") == 2
    assert "SlurmJobExecutor" in capsys.readouterr().err


@pytest.mark.loopback
def test_no_scheduler_is_told(place, capsys, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr("mdistill.labelling.dask_executor._CONNECT_S", 0.5)
    assert cli.run(["campaign", "campaign.toml", "--workers", "dask://127.0.0.1:9"]) == 2
    assert "no Dask scheduler answers" in capsys.readouterr().err


def test_the_slurm_script_runs_every_run_and_refuses_odd_lines(place, capsys):
    write(place, 'slurm = ["--partition=long", "--time=1:00:00"]', "max_hours = 1")
    assert campaign("--slurm") == 0
    path = place / "camp" / "campaign.sbatch"
    assert f"sbatch {path.relative_to(place)}" in capsys.readouterr().out
    text = path.read_text()
    options = [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH")]
    assert "--array=0-2" in options and "--partition=long" in options and options.count("--time=1:00:00") == 1
    assert "--signal=B:USR1@120" in options and not any(one.startswith("--time=65") for one in options)
    line = text.splitlines()[-1]
    for number, name in enumerate("abc"):
        shown = text.replace(line, line.replace("exec ", "echo "))
        said = subprocess.run(
            ["bash", "-c", shown],
            env=os.environ | {"SLURM_ARRAY_TASK_ID": f"{number}"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        words = shlex.split(said)
        assert words[-5:-1] == ["mdistill.cli", "campaign", "run", str(place / "camp")] and words[-1] == name
        assert cli.run(words[-4:]) == {"a": 0, "b": 2, "c": 4}[name]
    assert cli.run(["campaign", "status", "camp"]) == 1
    assert campaign("--slurm") == 0 and "--array=0-0" in path.read_text(), "only b is left"
    for odd in ("--array=0-9", "--wrap=x; rm y", "rm -r x", "--output=x"):
        write(place, f"slurm = [{json.dumps(odd)}]")
        with pytest.raises(BadInput, match="an option of sbatch"):
            slurm_script(_read(place), ["a"])


def _read(place: Path):
    import tomllib

    path = place / "campaign.toml"
    return read_campaign(path, place / "camp", tomllib.loads(path.read_text()), lambda _: None)


def test_sets_of_temperatures_are_runs_of_their_own(place):
    (place / "campaign.toml").write_text('structures = ["crystals/a.cif"]\ntemperatures = [[300, 500], [700]]\n')
    jobs = _read(place).jobs
    assert [(job.name, job.entries["temperatures"]) for job in jobs] == [("a-300-500K", [300.0, 500.0]), ("a-700K", [700.0])]


def test_two_runs_of_one_name_are_refused(place):
    """Else both would have one folder, and one crystal the results of the other."""
    for name in ("a b", "a-b"):
        (place / "crystals" / f"{name}.cif").write_text((place / "crystals" / "a.cif").read_text())
    with pytest.raises(BadInput, match="two runs are called a-b"):
        _read(place)
    (place / "campaign.toml").write_text('structures = ["crystals/a.cif"]\ntemperatures = [[300, 500], [300, 500]]\n')
    with pytest.raises(BadInput, match="two runs are called a-300-500K"):
        _read(place)


def test_a_headline_without_a_value_leaves_its_column_empty(place, monkeypatch):
    """As of a run whose labels have no energies: force_mae and energy_mae are headlines of every run."""
    shown = Results(command="distill", headlines=[Headline(quantity="energy_mae", value="energy_mae")])
    job = _read(place).jobs[0]
    run = tables.Finished(job=job, record=Record(state="done", status=0), results=shown)
    monkeypatch.setattr(tables, "_finished", lambda campaign, job: run)
    rows = list(csv.DictReader(io.StringIO(tables.campaign_csv(_read(place)))))
    assert rows[0]["energy_mae"] == ""


def test_runs_without_results_do_not_pass(place):
    write(place, seeds="[0, 1, 2]")
    (place / "campaign.toml").write_text((place / "campaign.toml").read_text().replace("*.cif", "a.cif"))
    made = _read(place)
    for name in ("a-seed0", "a-seed1", "a-seed2"):
        made.keep(name, Record(state="done", status=0))
        made.run(name).mkdir(parents=True)
        path = write_results(made.run(name), Results(command="distill"))
    path.write_text(path.read_text().replace("distill", "other"))
    (made.run("a-seed1") / "results.json").unlink()
    results = tables.campaign_results(made)
    assert results.values["runs_gates_passed"].value == 1.0 and not results.gates[1].passed
    assert tables.exit_status(made, results) == 4
    failures = next(table for table in results.tables if table.name == "failures").rows
    assert [row[:2] for row in failures] == [["a-seed1", "no results"], ["a-seed2", "no results"]]
    assert "no such file" in failures[0][2] and "was altered" in failures[1][2] and "remove jobs/a-seed1.json" in failures[0][3]
    rows = list(csv.DictReader(io.StringIO(tables.campaign_csv(made))))
    assert [row["gates_failed"] for row in rows] == ["", "no results", "no results"]


def test_a_run_whose_results_cannot_be_read_has_failed(place):
    """Else one damaged file would end the queue of all others."""
    made = _read(place)
    made.run("a-seed0").mkdir(parents=True)
    path = write_results(made.run("a-seed0"), Results(command="distill"))
    path.write_text(path.read_text()[:-20])
    record = queue.judged(made, "a-seed0", 0, 0)
    assert record.state == "failed" and str(path) in record.reason


def test_an_extrapolated_conductivity_is_not_ranked(place):
    value = Estimate(value=1.0, error=0.1, unit="mS/cm")
    shown = [Headline(quantity="conductivity", value="extrapolated_conductivity_300K", temperature_K=300.0)]
    measured = [Headline(quantity="conductivity", value="conductivity_700K", temperature_K=700.0)]

    def ended(*headlines: Headline) -> tables.Finished:
        results = Results(command="distill", values={h.value: value for h in headlines}, headlines=list(headlines))
        return tables.Finished(job=_read(place).jobs[0], record=Record(state="done", status=0), results=results)

    assert tables.ranked_at([ended(*shown, *measured)] * 2) == 700.0 and tables.ranked_at([ended(*shown)]) is None
    assert ended(*shown).headline("conductivity", 300.0) is None


@pytest.mark.parametrize("width", [40, 80])
def test_status_fits_the_terminal(place, width, monkeypatch):
    from rich.console import Console

    from mdistill.report.terminal import print_table

    campaign()
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    print_table(status_table(open_campaign(Path("camp")), width=width), console)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width and "3 runs: 2 done, 1 failed; gates failed in 1" in " ".join(" ".join(lines).split())


def test_means_of_runs():
    one, two = (Estimate(value=v, error=1.0, unit="S") for v in (10.0, 10.0))
    assert mean_of([one, two]).error == pytest.approx(0.5**0.5)
    limit = Estimate(value=None, error=None, unit="S", upper_limit=3.0)
    assert mean_of([limit, limit]).upper_limit == 3.0 and mean_of([limit, one]) == one
