"""The main job on Li6PS5Cl with a toy teacher: runs, resumes, skips what is done, and every README command works on it.

The README's one long command (SevenNet-0, a quarter of an hour) is run verbatim with --dry-run; the commands after it run
verbatim on the toy run, which stands at the same path.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mdistill import cli
from mdistill.nets.model_files import read_metadata
from mdistill.runs.results import read_results

ROOT = Path(__file__).parent.parent
ENVIRONMENT = {
    "PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}",
    "MDISTILL_QUIET": "1",
    "OMP_NUM_THREADS": "1",
    "PATH": os.environ["PATH"],
}
TINY = shlex.split(
    "--teacher toy_teacher:salt --temperatures 300 400 --prepare.relax-steps 200 --label.frames 20 --label.every-fs 20 "
    "--label.probe-every 20 --train.fit.steps 150 --train.channels 6 --train.radial 8 --train.hidden 24 --refine.time-ps 0.3 "
    "--refine.refit-share 0.8 --refine.refit-rate 0.3 "
    "--committee 2 --refine.frames 3 --validate.replays 4 --validate.drift-ps 0.4 --validate.stability-ps 0.2 --validate.equilibration-ps 0.1 "
    "--validate.speed-repeats 3 --production.time-ps 1.2 --production.equilibration-ps 0.2 "
    "--production.runs 2 --production.cell-ps 0.2 --production.atoms 50 --production.max-minutes 0.001 --production.no-size-check"
)

BEGUN = ("prepare/*", "label/*.npz", "train/*", "refine/round-1/*", "gates/*", "production/*K/*/trajectory.h5")
"""A stage is at work where one of these is there."""


@pytest.fixture(scope="session")
def workspace(tmp_path_factory) -> Path:
    """A folder as a user's, with examples/ and a finished run in runs/li6ps5cl."""
    place = tmp_path_factory.mktemp("work space é")
    shutil.copytree(ROOT / "examples", place / "examples")
    status = cli.run(
        ["distill", str(place / "examples" / "li6ps5cl.cif"), "--quick", *TINY, "--out", str(place / "runs" / "li6ps5cl")]
    )
    assert status in (0, 4)
    return place


def stages(run: Path) -> dict[Path, int]:
    return {p: p.stat().st_mtime_ns for p in run.glob("*/**/*") if p.is_file() and "figures" not in p.parts}


def test_the_run_is_complete_and_honest(workspace, trust):
    run = workspace / "runs" / "li6ps5cl"
    results = read_results(run)
    assert {g.name for g in results.gates} >= {
        "force error",
        "energy error",
        "stress error",
        "NVE drift",
        "stability",
        "RDF overlap",
    }
    assert results.values["atoms"].value == 52.0
    assert any("Li" in note and "occupan" in note.lower() for note in results.notes)
    assert {"diffusivity_300K", "conductivity_400K"} <= set(results.values)
    for name, value in results.values.items():
        assert value.value is not None or value.upper_limit is not None or value.samples == 0, name
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Li₆PS₅Cl" in page
    failed = [g.name for g in results.gates if not g.passed]
    assert ("FAILED" in page or "failed" in page) == bool(failed) or not failed
    trust("T28", "exit status of a run with failed gates", 4 if failed else 0, "4 exactly when a gate failed")


def test_the_committee_lies_beside_the_student_and_is_judged(workspace):
    run = workspace / "runs" / "li6ps5cl"
    for name in ("student.mdistill", "student-2.mdistill"):
        assert (run / name).read_bytes() == (run / "refine" / name).read_bytes() != (run / "train" / name).read_bytes()
    assert (run / "student.mdistill").read_bytes() != (run / "student-2.mdistill").read_bytes()
    assert not (run / "student-3.mdistill").exists()
    made = read_metadata(run / "student.mdistill")["provenance"]
    assert made["teacher"] == "toy_teacher:salt" and len(made["structure_sha256"]) == 64, "the refitted student names them too"
    results = read_results(run)
    assert results.values["committee_spread"].value > 0.0 and results.values["committee_error_over_spread"].value > 0.0
    assert next(table for table in results.tables if table.name == "committee").rows[1][1].value > 0.0
    assert any(figure.name == "committee_calibration" for figure in results.figures)
    assert "student 2: the fit had 150 steps, fewer than the 500 of a usable student" in results.notes


@pytest.mark.slow
@pytest.mark.usefixtures("no_drawing")
def test_a_damaged_member_is_made_again(workspace, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(workspace / "runs" / "li6ps5cl", run, copy_function=shutil.copy2)
    right = (run / "refine" / "student-2.mdistill").read_bytes()
    (run / "refine" / "student-2.mdistill").write_bytes(right[:-20])
    assert cli.run(["distill", str(workspace / "examples" / "li6ps5cl.cif"), "--quick", *TINY, "--out", str(run)]) in (0, 4)
    assert (run / "refine" / "student-2.mdistill").read_bytes() == (run / "student-2.mdistill").read_bytes() == right


def test_a_damaged_trajectory_is_noticed(workspace, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(workspace / "runs" / "li6ps5cl", run, copy_function=shutil.copy2)
    damaged = run / "production" / "300K" / "run-1" / "trajectory.h5"
    damaged.write_bytes(damaged.read_bytes()[:5000])
    assert cli.run(["distill", str(workspace / "examples" / "li6ps5cl.cif"), "--quick", *TINY, "--out", str(run)]) == 2
    assert "trajectory.h5" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("no_drawing")
def test_damaged_labels_are_named_and_update_labels_again(workspace, tmp_path, capsys, trust):
    run, whole = tmp_path / "run", workspace / "runs" / "li6ps5cl"
    shutil.copytree(whole, run, copy_function=shutil.copy2)
    damaged = sorted(run.glob("label/*.npz"))[1]
    damaged.write_bytes(damaged.read_bytes()[:-1])
    command = ["distill", str(workspace / "examples" / "li6ps5cl.cif"), "--quick", *TINY, "--out", str(run)]
    before = stages(run)
    assert cli.run(command) == 2
    said = capsys.readouterr().err
    assert f"label/{damaged.name}: was altered" in said and "--update" in said and stages(run) == before
    assert cli.run([*command, "--update"]) in (0, 4)
    for shard in sorted(whole.glob("label/*.npz")):
        assert (run / "label" / shard.name).read_bytes() == shard.read_bytes(), shard.name
    done = {path.relative_to(run).parts[0] for path, time_ns in stages(run).items() if before.get(path) != time_ns}
    assert done == {"label", "label.superseded-1"}, "labels are the same again, so what follows from them stands"
    trust("T20", "main job: stages done again for a damaged label file", "label", "label")


@pytest.mark.slow
@pytest.mark.usefixtures("no_drawing")
def test_a_run_is_repeated_from_its_settings_file_alone(workspace, tmp_path, trust):
    """The same weights, frames and numbers, bit for bit; only what a clock measured may differ."""
    run = tmp_path / "moved"
    shutil.copytree(workspace / "runs" / "li6ps5cl", run)
    again = tmp_path / "again"
    assert cli.run(["distill", str(run / "run.toml"), "--trust", "--out", str(again)]) in (0, 4)
    first, second = read_results(run), read_results(again)
    assert first.provenance["model_sha256"] == second.provenance["model_sha256"]
    clock = ("seconds", "ns_per_day", "us_per_atom", "speed", "µs")
    compared = {k: v for k, v in first.values.items() if not any(word in f"{k} {v.unit}" for word in clock)}
    assert len(compared) > 10 and {k: second.values[k] for k in compared} == compared
    for part in ("label/labels.jsonl", "production/300K/run-1/log.csv", "production/400K/run-1/log.csv"):
        assert (run / part).read_bytes() == (again / part).read_bytes(), part
    assert (run / "production/300K/run-1/log.csv").read_bytes() != (run / "production/400K/run-1/log.csv").read_bytes()
    other = [line for line in (again / "run.toml").read_text().splitlines() if not line.startswith("structure")]
    assert other == [line for line in (run / "run.toml").read_text().splitlines() if not line.startswith("structure")]
    trust("T20", "a run repeated from its run.toml: values that differ", 0, "0")


def test_the_student_learned(workspace):
    results = read_results(workspace / "runs" / "li6ps5cl")
    accuracy = next(t for t in results.tables if t.section == "accuracy")
    row = next(r for r in accuracy.rows if r[0] == "all")
    force, size = row[1].value, row[3]
    assert force is not None and force < 0.7 * float(size), "the student is hardly better than zero forces"


@pytest.mark.slow
@pytest.mark.usefixtures("no_drawing")
def test_rerun_does_nothing_and_one_changed_setting_reruns_what_follows(workspace, tmp_path, capsys, trust):
    run = tmp_path / "run"
    shutil.copytree(workspace / "runs" / "li6ps5cl", run, copy_function=shutil.copy2)
    base = ["distill", str(workspace / "examples" / "li6ps5cl.cif"), "--quick", *TINY, "--out", str(run)]
    before = stages(run)
    assert cli.run(base) in (0, 4)
    assert stages(run) == before
    changed = [*base, "--production.time-ps", "1.0"]
    assert cli.run(changed) == 2
    assert "production.time_ps: 1.2 → 1.0" in capsys.readouterr().err
    assert cli.run([*changed, "--update"]) in (0, 4)
    after = stages(run)
    rerun = {p.relative_to(run).parts[0] for p in after if before.get(p) != after[p]}
    assert {name.split(".")[0] for name in rerun} == {"production", "check"}
    assert (run / "production.superseded-1").is_dir()
    trust(
        "T20",
        "main job: stages touched by a changed production setting",
        ", ".join(sorted({n.split(".")[0] for n in rerun})),
        "check, production",
    )


@pytest.mark.slow
def test_sigkill_anywhere_then_resume(workspace, tmp_path, trust):
    """T34: killed at moments over the whole job, resumed by the same command: same labels and same student as uninterrupted."""
    run = tmp_path / "run"
    command = [sys.executable, "-m", "mdistill.cli", "distill", str(workspace / "examples" / "li6ps5cl.cif"), "--quick", *TINY]
    for begun in BEGUN:
        child = subprocess.Popen([*command, "--threads", "1", "--out", str(run)], env=ENVIRONMENT, stdout=subprocess.DEVNULL)
        while child.poll() is None and not any(run.glob(begun)):
            time.sleep(0.02)
        assert child.poll() is None, f"ended before {begun} was there"
        child.kill()
        child.wait()
    done = subprocess.run(
        [*command, "--threads", "1", "--out", str(run)], env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 4), done.stderr
    whole = workspace / "runs" / "li6ps5cl"
    shards = sorted(p.relative_to(whole) for p in whole.glob("label/*.npz"))
    assert shards
    for shard in shards:
        assert (run / shard).read_bytes() == (whole / shard).read_bytes(), shard
    assert (run / "train" / "student.mdistill").read_bytes() == (whole / "train" / "student.mdistill").read_bytes()
    trust("T34", f"main job killed {len(BEGUN)} times and resumed: labels and student equal", "bit for bit", "bit for bit")


def test_interrupt_says_how_to_resume(workspace, tmp_path, trust):
    import signal

    run = tmp_path / "run"
    command = [sys.executable, "-m", "mdistill.cli", "distill", str(workspace / "examples" / "li6ps5cl.cif"), "--quick", *TINY]
    child = subprocess.Popen(
        [*command, "--out", str(run)], env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    for _ in range(600):
        if (run / "label" / "labels.jsonl").exists():
            break
        time.sleep(0.1)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate()
    assert child.returncode == 130
    assert "resume: mdistill distill" in said
    assert not (run / ".lock.json").exists()
    assert not (run / "results.json").exists()
    trust("T35", "Ctrl-C in the main job", "saved, exit 130, resume line", "saved, exit 130, resume line, before the job's end")


def readme_commands() -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return [line for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) for line in block.splitlines() if line.strip()]


def test_readme_commands(workspace, monkeypatch, capsys, trust):
    monkeypatch.chdir(workspace)
    for command in readme_commands():
        words = shlex.split(command)
        assert words[0] == "mdistill"
        if words[1] == "distill" and "--out" in words:
            words.append("--dry-run")
        status = cli.run(words[1:])
        assert status == 0, f"{command}: {capsys.readouterr().err}"
        assert capsys.readouterr().out.strip(), command
    trust("T44", "README commands that work verbatim", len(readme_commands()), "all")


@pytest.mark.slow
def test_readme_python(workspace, monkeypatch):
    monkeypatch.chdir(workspace)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert done.returncode == 0, done.stderr
    assert "Estimate" in done.stdout


def test_results_schema(workspace):
    raw = json.loads((workspace / "runs" / "li6ps5cl" / "results.json").read_text(encoding="utf-8"))
    assert raw["format"] == 2
    assert all({"value", "error", "unit"} <= set(v) for v in raw["values"].values())
    assert raw["provenance"]["model_sha256"] and raw["provenance"]["structure_sha256"]
    ledger = json.loads((workspace / "runs" / "li6ps5cl" / "ledger.json").read_text(encoding="utf-8"))
    worked_with = ledger["work"]["command"]["settings"] | {"structure": raw["settings"]["structure"]}
    assert {name: (raw["settings"] | {"command": "distill"})[name] for name in worked_with} == worked_with, (
        "resolved, not as typed"
    )
    assert (raw["settings"]["matter"], raw["settings"]["mobile"]) == ("crystal", "Li")


@pytest.mark.slow
def test_bench_adds_accuracy_against_speed_to_the_run(workspace, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(workspace / "runs" / "li6ps5cl", run)
    command = ["bench", str(run), "--sizes", "tiny", "--minutes", "0.05", "--repeats", "3", "--teacher", "toy_teacher:salt"]
    for _ in range(2):
        assert cli.run(command) == 0
        results = read_results(run)
        assert [table.name for table in results.tables].count("front") == 1
        assert [figure.name for figure in results.figures].count("front") == 1
    rows = next(table for table in results.tables if table.name == "front").rows
    assert [row[0] for row in rows[1:]] == ["this run's student", "tiny"] and rows[2][1] < rows[1][1]
    assert all(row[2].value > 0 and row[4].value > 0 for row in rows[1:])
    assert "Accuracy against speed" in (run / "report.html").read_text(encoding="utf-8")
    assert "tiny" in capsys.readouterr().out
    assert 'sizes = ["tiny"]' in (run / "bench" / "run.toml").read_text()
    assert cli.run(["bench", str(tmp_path)]) == 2 and cli.run([*command, "--sizes", "huge"]) == 2


@pytest.mark.slow
def test_vibrations_adds_a_section_to_the_run(workspace, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(workspace / "runs" / "li6ps5cl", run)
    command = ["vibrations", str(run), "--teacher", "toy_teacher:salt", "--displaced", "2", "--teacher-steps", "2"]
    for more, teachers in (["--quick", "--probes", "4"], False), ([], True):
        assert cli.run([*command, "--relax-steps", "20", *more]) == 0
        results = read_results(run)
        assert [t.name for t in results.tables if t.section == "vibrations"] == ["curvature", "minimum", "displaced"]
        assert [f.name for f in results.figures].count("vibrational-density") == int(teachers)
        assert ("vibrations frequency_mae" in results.values) == teachers
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Vibrational density of states" in page and "Hessian error" in page and "Gates" in page
    assert "frequency MAE" in capsys.readouterr().out
    again = ["vibrations", "--config", str(run / "vibrations" / "run.toml"), "--trust", "--out", str(tmp_path / "again")]
    assert cli.run(again) == 0
    first, second = (read_results(folder) for folder in (run / "vibrations", tmp_path / "again"))
    assert first.values["vibrations frequency_mae"] == second.values["vibrations frequency_mae"]
    assert (run / "vibrations" / "report.html").exists() and list((run / "figures").glob("*vibrational-density.svg"))


WRONG = {
    "holds no student.mdistill": (lambda run: [p.unlink() for p in run.rglob("student.mdistill")], []),
    "holds no prepare/structures.extxyz": (lambda run: shutil.rmtree(run / "prepare"), []),
    "no such file": (lambda run: (run / "results.json").unlink(), ["--teacher", ""]),
    "did you mean 'sevennet-0'?": (lambda run: None, ["--teacher", "sevenet-0"]),
    "--probes: 1\n  allowed: at least 2": (lambda run: None, ["--probes", "1"]),
    "--temperature-K: -5": (lambda run: None, ["--temperature-K", "-5"]),
}


@pytest.mark.parametrize("message", WRONG)
def test_vibrations_says_what_is_wrong(workspace, tmp_path, capsys, message):
    spoil, flags = WRONG[message]
    run = tmp_path / "run"
    shutil.copytree(workspace / "runs" / "li6ps5cl", run)
    before = (run / "report.html").read_bytes()
    spoil(run)
    assert cli.run(["vibrations", str(run), "--teacher", "toy_teacher:salt", *flags]) == 2
    assert message in capsys.readouterr().err
    assert (run / "report.html").read_bytes() == before and not (run / "vibrations").exists()


@pytest.mark.slow
def test_train_closed_form(workspace, tmp_path, capsys):
    run = str(workspace / "runs" / "li6ps5cl")
    out = str(tmp_path / "linear")
    sizes = ["--closed-form.second", "6", "--closed-form.third", "4", "--cutoff", "4.5", "--radial", "6"]
    assert cli.run(["train", "potential", run, "--fit", "closed-form", *sizes, "--out", out]) == 0
    assert "within 1 σ" in capsys.readouterr().out
    results = read_results(Path(out))
    assert 0.3 < results.values["force_errors_within_1_sigma"].value <= 1.0
    assert cli.run(["info", f"{out}/student.mdistill"]) == 0
    structure = str(workspace / "runs" / "li6ps5cl" / "prepare" / "structures.extxyz")
    for kelvin, warned in ((50, False), (3000, True)):
        how = [
            "--temperature-K",
            f"{kelvin}",
            "--time-ps",
            "0.1",
            "--guard.temperature-margin-K",
            "50000",
            "--guard.largest-force",
            "500",
        ]
        assert cli.run(["simulate", structure, "--potential", out, *how, "--out", f"{out}/md{kelvin}"]) == 0
        assert ("leaves its training data" in capsys.readouterr().out) == warned
    refused = ["--start-from", f"{out}/student.mdistill", "--out", str(tmp_path / "x")]
    assert cli.run(["train", "potential", run, "--fit", "closed-form", *refused]) == 2


@pytest.mark.slow
def test_train_with_probes_drawn_anew(workspace, tmp_path, capsys):
    run = str(workspace / "runs" / "li6ps5cl")
    small = ["--cutoff", "4.5", "--radial", "6", "--channels", "4", "--hidden", "8", "--fit.steps", "6"]
    linear = [*small[:4], "--fit", "closed-form", "--closed-form.second", "5", "--closed-form.third", "3"]
    redraw = ["--redraw", "toy_teacher:salt", "--curvature-every", "3"]
    for name, flags in (("drawn", redraw), ("none", ["--curvature", "none"])):
        assert cli.run(["train", "potential", run, *small, *flags, "--out", str(tmp_path / name)]) == 0
    histories = {name: json.loads((tmp_path / name / "history.json").read_text()) for name in ("drawn", "none")}
    assert "curvature" in histories["drawn"][-1]["train"] and "curvature" not in histories["none"][-1]["train"]
    capsys.readouterr()
    assert cli.run(["train", "potential", run, *linear, *redraw[:2], "--out", str(tmp_path / "x")]) == 2
    assert "solved at once" in capsys.readouterr().err
    assert cli.run(["train", "potential", run, *small, "--curvature", "rows", "--out", str(tmp_path / "y")]) == 2
    assert "--probe-kind rows" in capsys.readouterr().err


@pytest.mark.slow
def test_train_stride_adds_the_rung_to_the_run_and_simulate_takes_it(workspace, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(workspace / "runs" / "li6ps5cl", run)
    tiny = shlex.split(
        "--segments.temperatures-K 300 --segments.segments 4 --segments.blocks 4 --segments.frames 4 --segments.between-fs 20 "
        "--segments.equilibration-ps 0.1 --train.fit.steps 150 --judge.time-ps 0.7 --judge.longest-ps 1 "
        "--judge.equilibration-ps 0.1 --judge.every-fs 16 --judge.repeats 3"
    )
    for _ in range(2):
        assert cli.run(["train", "stride", "--from", str(run), *tiny]) in (0, 4)
        results = read_results(run)
        assert [rung.kind for rung in results.rungs] == ["teacher", "potential", "stride"]
        assert results.rungs[2].name == "strides of 16 fs" and results.rungs[2].cost.value > 0.0
        assert len([gate for gate in results.gates if gate.name.startswith("stride")]) == 4
    temperatures = next(table for table in results.tables if table.name == "stride-temperatures")
    kinds = [str(row[0]) for row in temperatures.rows]
    assert len(kinds) == 11 and kinds.count("strides of 16 fs") == kinds.count("strides of 16 fs, no energy correction") == 3
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Long strides" in page and "strides of 16 fs" in page
    assert "Mean temperature" in capsys.readouterr().out
    start = str(run / "prepare" / "structures.extxyz")
    md = [
        "simulate",
        start,
        "--temperature-K",
        "300",
        "--time-ps",
        "0.32",
        "--every-fs",
        "32",
        "--stride-map",
        str(run / "stride"),
    ]
    assert cli.run([*md, "--potential", str(run), "--out", str(tmp_path / "md")]) == 0
    log = (tmp_path / "md" / "log.csv").read_text(encoding="ascii").splitlines()
    assert [float(line.split(",")[1]) for line in log[1:]] == pytest.approx([32.0 * k for k in range(11)])
    assert cli.run([*md, "--potential", str(run / "train" / "student.mdistill"), "--out", str(tmp_path / "other")]) == 2
    assert "belongs to another student" in capsys.readouterr().err
    assert cli.run([*md, "--time-step-fs", "2", "--potential", str(run), "--out", str(tmp_path / "step")]) == 2
    assert cli.run(["train", "stride", "--from", str(tmp_path), "--out", str(tmp_path / "no")]) == 2
    nve = ["simulate", start, "--potential", str(run), "--ensemble", "nve", "--temperature-K", "300", "--time-ps", "0.3"]
    assert cli.run([*nve, "--equilibration-ps", "0", "--every-fs", "4", "--out", str(tmp_path / "nve")]) == 0
    elsewhere = ["train", "stride", "--from", str(run), *tiny, "--out", str(tmp_path / "elsewhere")]
    assert cli.run([*elsewhere, "--nve", str(tmp_path / "nve" / "trajectory.h5")]) in (0, 4)
    assert (tmp_path / "elsewhere" / "stride.mdistill").is_file() and not (tmp_path / "elsewhere" / "segments").exists()
    said = re.search(r"learned from: (\d+) segments at ([\d.]+) K", capsys.readouterr().out)
    assert said is not None and int(said[1]) == 15
    assert read_results(tmp_path / "elsewhere").settings["judge"]["temperature_K"] == pytest.approx(float(said[2]))
    assert cli.run([*elsewhere, "--nve", str(tmp_path / "md" / "trajectory.h5")]) == 2
    assert "md/trajectory.h5" in capsys.readouterr().err
