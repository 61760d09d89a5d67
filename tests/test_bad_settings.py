"""T31: settings nobody can use. Each is refused in under two seconds with a message that helps; nothing is written."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from ase.build import bulk

from mdistill import cli

MD = ["simulate", "{cu}", "--potential", "ase.calculators.emt:EMT", "--out", "{out}"]
LABEL = ["label", "{cu}", "--teacher", "ase.calculators.emt:EMT", "--out", "{out}"]
DISTILL = ["distill", "{cu}", "--teacher", "ase.calculators.emt:EMT", "--out", "{out}"]
TRAIN = ["train", "potential", "{labels}", "--out", "{out}"]

CASES = [
    ([*MD, "--temperature-K", "0"], "temperature_K"),
    ([*MD, "--temperature-K", "-300"], "temperature_K"),
    ([*MD, "--temperature-K", "nan"], "temperature_K"),
    ([*MD, "--temperature-K", "1e9"], "temperature_K"),
    ([*MD, "--time-step-fs", "0"], "time_step_fs"),
    ([*MD, "--time-step-fs", "50"], "time_step_fs"),
    ([*MD, "--time-step-fs", "-1"], "time_step_fs"),
    ([*MD, "--time-ps", "-1"], "time_ps"),
    ([*MD, "--time-ps", "inf"], "time_ps"),
    ([*MD, "--friction-per-ps", "-5"], "friction_per_ps"),
    ([*MD, "--relaxation-fs", "0"], "relaxation_fs"),
    ([*MD, "--every-fs", "0"], "every_fs"),
    ([*MD, "--ensemble", "nvx"], "nvx"),
    ([*MD, "--thermostat", "nose"], "nose"),
    ([*MD, "--seed", "seven"], "seven"),
    ([*MD, "--seed", "-1"], "seed"),
    ([*MD, "--tempreature-K", "300"], "temperature"),
    ([*MD, "--repeat", "0", "1", "1"], "repeat"),
    ([*MD, "--threads", "0"], "threads"),
    (["simulate", "{cu}", "--potential", "sevennet-9", "--out", "{out}"], "sevennet-0"),
    (["simulate", "{cu}", "--potential", "no.such.module:Thing", "--out", "{out}"], "no.such.module"),
    (["simulate", "{cu}", "--potential", "{out}/absent.mdistill", "--out", "{out}"], "absent.mdistill"),
    ([*LABEL, "--frames", "0"], "frames"),
    ([*LABEL, "--blocks", "0"], "blocks"),
    ([*LABEL, "--every-fs", "0.5", "--time-step-fs", "2"], "every_fs"),
    ([*LABEL, "--temperatures-K", "300", "-5"], "temperatures"),
    ([*LABEL, "--strains", "0.9"], "strains"),
    ([*LABEL, "--prepare.cutoff", "0"], "cutoff"),
    ([*LABEL, "--prepare.cutoff", "19", "--prepare.max-atoms", "500"], "max"),
    ([*DISTILL, "--temperatures", "300", "0"], "temperatures"),
    ([*DISTILL, "--mobile", "Li"], "Li"),
    ([*DISTILL, "--cutoff", "4.5", "--train.cutoff", "6"], "--cutoff 6"),
    ([*DISTILL, "--refine.rounds", "0"], "rounds"),
    ([*DISTILL, "--production.time-ps", "0"], "time_ps"),
    (TRAIN, "labels"),
    ([*TRAIN, "--fit.batch-size", "0"], "batch_size"),
    ([*TRAIN, "--held-out", "1.5"], "held_out"),
    ([*TRAIN, "--channels", "0"], "channels"),
    (["train", "wings", "{labels}"], "potential"),
    (["analyse", "{cu}", "--out", "{out}"], "species"),
    (["report", "{out}"], "results.json"),
    (["train", "stride", "--from", "{labels}", "--out", "{out}"], "--structure"),
    (["train", "stride", "--from", "{labels}", "--out", "{out}", "--train.stride-fs", "-4"], "stride_fs"),
    (["train", "stride", "--from", "{labels}", "--out", "{out}", "--train.stride-fs", "64"], "stride_fs"),
    (["train", "stride", "--from", "{labels}", "--out", "{out}", "--train.map", "magic"], "splitting"),
    (["train", "stride", "--from", "{labels}", "--out", "{out}", "--segments.temperatures-K", "-300"], "temperatures_K"),
    (["distill", "{cu}", "--mobile", "none", "--stride-fs", "soon", "--out", "{out}"], "--stride-fs"),
    ([*MD, "--stride-map", "{out}/absent.mdistill"], "absent.mdistill"),
    (["distil", "{cu}"], "did you mean: mdistill distill"),
    ([*DISTILL, "--production.time-step-fs", "-1", "--dry-run"], "--production.time-step-fs: -1"),
    ([*DISTILL, "--production.charge", "nan", "--dry-run"], "--production.charge: nan"),
    ([*DISTILL, "--label.frames", "0", "--dry-run"], "--label.frames: 0"),
    ([*DISTILL, "--label.blocks", "100"], "1 to the number of frames, 80"),
    ([*DISTILL, "--strides.train.fit.steps", "-4"], "--strides.train.fit.steps: -4"),
    ([*DISTILL, "--cutoff", "99"], "distill: --cutoff: 99.0"),
    ([*DISTILL, "--seed", "-3"], "distill: --seed: -3"),
    ([*DISTILL, "--stride-fs", "60"], "--stride-fs: 60.0\n  allowed: at most 32 fs"),
    ([*DISTILL, "--strides.train.strides", "9"], "--strides.train.stride-fs: 16.0"),
    ([*DISTILL, "--strides.train.stride-fs", "nan"], "--strides.train.stride-fs: nan"),
    ([*DISTILL, "--prepare.disorder.orderings", "3"], "Unrecognized"),
    ([*DISTILL, "--label.seed", "3"], "Unrecognized"),
    ([*MD, "--temperature-K", "0"], "simulate: --temperature-K: 0"),
    (["distill", "{out}.toml"], "no such file"),
    ([*DISTILL, "--config", "{cu}"], "is no TOML"),
]


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bad settings é")
    bulk("Cu", cubic=True).write(folder / "cu.cif")
    (folder / "labels").mkdir()
    return {"cu": folder / "cu.cif", "labels": folder / "labels"}


@pytest.mark.parametrize(("arguments", "named"), CASES, ids=[" ".join(a[-3:]) for a, _ in CASES])
def test_refused_with_help_and_nothing_written(places, tmp_path, capsys, trust, arguments, named):  # noqa: PLR0917
    out = tmp_path / "run"
    filled = [a.format(out=out, **places) for a in arguments]
    begin = time.process_time()
    try:
        status = cli.run(filled)
    except SystemExit as stop:
        status = int(stop.code or 0)
    seconds = time.process_time() - begin
    said = capsys.readouterr().err
    assert status == 2, said
    assert named.lower().replace("_", "-") in said.lower().replace("_", "-")
    assert "Traceback" not in said
    assert not out.exists() or not list(out.rglob("*"))
    assert seconds < 2.0
    trust("T31", " ".join(arguments[-2:]), f"exit {status}", "exit 2, named, nothing written, < 2 s")


def test_missing_extra_names_the_pip_line(places, tmp_path, capsys, monkeypatch):
    for name in [n for n in sys.modules if n.split(".")[0] == "chgnet"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "chgnet", None)
    status = cli.run(["simulate", str(places["cu"]), "--potential", "chgnet", "--out", str(tmp_path / "run")])
    assert status == 2
    assert 'pip install "mdistill[chgnet]"' in capsys.readouterr().err


def test_an_existing_run_with_other_settings_is_refused_with_the_difference(places, tmp_path, capsys):
    base = ["simulate", str(places["cu"]), "--potential", "ase.calculators.emt:EMT", "--time-ps", "0.02", "--out", str(tmp_path)]
    assert cli.run(base) == 0
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    capsys.readouterr()
    assert cli.run([*base, "--temperature-K", "400"]) == 2
    said = capsys.readouterr().err
    assert "temperature_K" in said and "300" in said and "400" in said
    assert before == {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}


def test_unwritable_folder(places, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    base = ["simulate", str(places["cu"]), "--potential", "ase.calculators.emt:EMT", "--out", str(tmp_path / "file" / "run")]
    assert cli.run(base) == 2
    assert "--out" in capsys.readouterr().err


def test_atoms_refused_by_the_teacher(tmp_path, capsys):
    bulk("Fe", cubic=True).write(tmp_path / "fe.cif")
    done = cli.run(["distill", str(tmp_path / "fe.cif"), "--teacher", "chgnet", "--mobile", "Zn", "--out", str(tmp_path / "r")])
    assert done == 2
    assert "Zn" in capsys.readouterr().err
