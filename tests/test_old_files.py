"""Files that commit ca4b391 wrote (`golden/make_ca4b391.py`) still load, and give the numbers that they gave there."""

from __future__ import annotations

import gzip
import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mdistill import cli
from mdistill.data.segments import read_segments
from mdistill.data.store import LabelStore
from mdistill.derivatives import Direct
from mdistill.errors import BadInput, MdistillNotice
from mdistill.graph import build_graph
from mdistill.io.structures import read_system
from mdistill.nets.catalogue import MAPS
from mdistill.nets.model_files import load_model, tensor_hash
from mdistill.runs.results import read_results
from mdistill.simulation.evaluator import make_evaluator
from mdistill.simulation.initial_state import initial_state
from mdistill.simulation.restart import load_restart
from mdistill.simulation.settings import SimulateSettings
from mdistill.simulation.simulate import simulate
from mdistill.simulation.stride_maps import long_strides
from mdistill.teachers.models import load, load_stride
from mdistill.types import State
from systems import SYSTEMS

OLD = Path(__file__).parent / "golden" / "ca4b391"
EXACT = 1e-10
RUNS = {
    "verlet": {"thermostat": "langevin", "time_ps": 0.02, "time_step_fs": 1.0, "every_fs": 5.0},
    "strides": {"thermostat": "bussi", "time_ps": 0.08, "every_fs": 20.0, "format": "extxyz"},
}


def stored(name: str) -> dict:
    return json.loads((OLD / f"{name}.json").read_text(encoding="utf-8"))


def apart(state: State, stored_point: dict) -> float:
    """Largest difference of positions (Å) and momenta (u·Å/fs) from a stored phase-space point."""
    positions, momenta = (torch.tensor(stored_point[name], dtype=torch.float64) for name in ("positions", "momenta"))
    return max(float((state.system.positions - positions).abs().max()), float((state.momenta - momenta).abs().max()))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A copy of the old run folder, beside its structure."""
    shutil.copy(OLD / "crystal.extxyz", tmp_path)
    return Path(shutil.copytree(OLD / "run", tmp_path / "run"))


@pytest.mark.parametrize("name", ["spline", "painn", "painn_direct"])
@pytest.mark.parametrize("compiled", [False, True])
def test_potentials(name: str, compiled: bool, trust) -> None:
    path, worst = OLD / f"{name}.mdistill", 0.0
    potential = load(path) if compiled else load_model(path)
    assert isinstance(potential, Direct) == (name == "painn_direct")
    for system, expected in stored(name)["predictions"].items():
        found = potential(build_graph(SYSTEMS[system](), potential.cutoff))
        forces = torch.tensor(expected["forces"], dtype=torch.float64)
        worst = max(worst, abs(float(found.energy[0]) - expected["energy"]), float((found.forces - forces).abs().max()))
    assert worst < EXACT
    trust("T21", f"{name} of ca4b391: stored E (eV), F (eV/Å){', compiled' if compiled else ''}", worst, f"{EXACT:g}")


def strides_of(name: str, change: float = 0.0) -> float:
    """How far two strides of an old map end from where the old code ended."""
    net = load_stride(OLD / f"map_{name}.mdistill", student=OLD / "taught_maps.mdistill", precision="float64")
    start = initial_state(SYSTEMS["box"](), temperature_K=300.0, generator=torch.Generator())
    begin = stored(f"map_{name}")["start"]
    momenta = torch.tensor(begin["momenta"], dtype=torch.float64) * (1.0 + change)
    start = replace(start, momenta=momenta)
    assert apart(start, begin) <= abs(change)
    evaluate = make_evaluator(load(OLD / "taught_maps.mdistill"), start.system)
    long = long_strides(net, start.system, evaluate, time=4.0, skin=0.5, small_step=1.0)
    if hasattr(long, "worst"):
        long = replace(long, clip=0.5, worst=1.0)
    generator, state = torch.Generator().manual_seed(5), start
    for _ in range(2):
        state = long.step(state, generator)
    assert long.counts.fallbacks == 0
    return apart(state, stored(f"map_{name}")["end"])


@pytest.mark.parametrize("name", ["composition", "direct", "attention"])
def test_maps(name: str, trust) -> None:
    worst = strides_of(name)
    assert worst < EXACT
    trust("T21", f"{name} map of ca4b391: ends of two strides (Å, u·Å/fs)", worst, f"{EXACT:g}")


def test_a_map_that_moved_to_research_is_refused_by_name(monkeypatch) -> None:
    """Its numbers are checked in `research/tests/test_implicit.py`, whose import enters it in the catalogue."""
    monkeypatch.delitem(MAPS, "action", raising=False)
    with pytest.raises(BadInput, match="kind 'action'"):
        load_stride(OLD / "map_action.mdistill")


@pytest.mark.planted
def test_maps_catch_a_slightly_other_start(trust) -> None:
    assert strides_of("composition", change=1e-7) > EXACT
    trust("T21", "momenta off by 1e-7 relative at the start of a map's strides", "caught", "caught", planted=True)


@pytest.mark.parametrize("name", RUNS)
def test_half_finished_simulations_go_on(name: str, tmp_path: Path, trust) -> None:
    folder = tmp_path / "half"
    shutil.copytree(OLD / f"half_{name}", folder)
    for packed in folder.glob("*.gz"):
        packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
        packed.unlink()
    expected = stored(f"half_{name}")
    assert load_restart(folder / "restart.npz").step == expected["stopped_after"]
    stride = load_stride(OLD / "map_composition.mdistill", precision="float64") if name == "strides" else None
    settings = SimulateSettings(temperature_K=300.0, **RUNS[name])
    student, box = load(OLD / "taught_maps.mdistill"), read_system(OLD / "box.extxyz")
    # The positions as that processor read them: what is computed from a file differs in the last bit.
    exact = torch.tensor(json.loads((OLD / "box_positions.json").read_text(encoding="utf-8")), dtype=torch.float64)
    assert float((exact - box.positions).abs().max()) < 1e-14
    box = replace(box, positions=exact)
    with pytest.warns(MdistillNotice, match="does not say what it was taught"):
        done = simulate(box, student, settings, folder, stride=stride)
    assert done.resumed and done.steps == expected["steps"]
    worst = apart(done.state, expected["end"])
    assert worst < EXACT
    trust("T17", f"simulation of ca4b391 ({name}) continued here: last state (Å, u·Å/fs)", worst, f"{EXACT:g}")


def test_labels_and_segments(run: Path) -> None:
    expected = stored("run")
    frames = LabelStore(run / "label").read()
    assert [float(f.target.energy[0]) for f in frames] == expected["labels"]["energies"]
    assert tensor_hash({f"{k}": f.target.forces.numpy() for k, f in enumerate(frames)}) == expected["labels"]["sha256"]
    assert sum(f.probes is not None for f in frames) == expected["labels"]["probes"]
    segments = [s for path in sorted(run.glob("stride/segments/*.npz")) for s in read_segments(path)]
    assert len(segments) == expected["segments"]["count"] and segments[0].every_fs == expected["segments"]["spacing_fs"]
    assert tensor_hash({f"{k}": s.momenta.numpy() for k, s in enumerate(segments)}) == expected["segments"]["sha256"]


def test_results(run: Path) -> None:
    raw = json.loads((OLD / "run" / "results.json").read_text(encoding="utf-8"))
    found = read_results(run)
    assert set(found.values) == set(raw["values"])
    for name, value in found.values.items():
        assert (value.value, value.error, value.unit) == tuple(raw["values"][name][k] for k in ("value", "error", "unit"))
    assert [(g.name, g.passed) for g in found.gates] == [(g["name"], g["passed"]) for g in raw["gates"]]
    assert [t.name for t in found.tables] == [t["name"] for t in raw["tables"] if t["section"] != "ladder"]
    assert [rung.name for rung in found.rungs] == [row[0] for t in raw["tables"] if t["section"] == "ladder" for row in t["rows"]]
    assert [f.name for f in found.figures] == [f["name"] for f in raw["figures"]]


COMMANDS = {
    "info": "info run",
    "info of a map": "info run/stride/stride.mdistill",
    "report": "report run",
    "cite": "cite run",
    "simulate": "simulate run/prepare/structures.extxyz --potential run --temperature-K 100 --time-ps 0.02 --out md",
    "simulate in long strides": "simulate run/prepare/structures.extxyz --potential run --stride-map run/stride --temperature-K 100 "
    "--time-ps 0.04 --every-fs 8 --out md",
    "train": "train potential run --fit.steps 3 --channels 3 --radial 5 --hidden 8 --cutoff 2.9 --out fit",
    "train stride": "train stride --from run --train.stride-fs 4 --train.fit.steps 3 --segments.segments 4 --segments.blocks 4 "
    "--segments.frames 2 --segments.between-fs 20 --segments.equilibration-ps 0.1 --segments.temperatures-K 300 "
    "--judge.time-ps 0.4 --judge.longest-ps 0.5 --judge.equilibration-ps 0.1 --judge.every-fs 16 --judge.repeats 3 --out map",
    "bench": "bench run --sizes tiny --minutes 0.01 --repeats 3 --teacher toy_teacher:salt",
    "vibrations": "vibrations run --teacher toy_teacher:salt --quick --probes 2 --displaced 2 --teacher-steps 1 --relax-steps 5",
}
_LONG = ("bench", "train stride", "vibrations")


def test_stages_of_an_old_run_are_not_taken_for_todays(run: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(run.parent)
    assert cli.run(["distill", "crystal.extxyz", "--teacher", "toy_teacher:salt", "--cutoff", "2.9", "--out", "run"]) == 2
    said = capsys.readouterr().err
    assert "run: holds a run of an earlier version" in said and "--update" in said and "--out" in said
    assert not (run / "ledger.json").exists() and not (run / "train.superseded-1").exists()


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in _LONG else []) for n in COMMANDS])
def test_every_command_takes_the_old_run(name: str, run: Path, request, monkeypatch, capsys) -> None:
    """Short ones in plain PyTorch: kernels of their sizes would be compiled for nothing else, and old ones are tested above."""
    monkeypatch.chdir(run.parent)
    if name not in _LONG:
        request.getfixturevalue("no_kernels")
    status = cli.run(shlex.split(COMMANDS[name]))
    said = capsys.readouterr()
    assert status == 0 or (status == 4 and name == "train stride"), said.err
    assert said.out.strip()
    if name == "report":
        page = (run / "report.html").read_text(encoding="utf-8")
        assert "LiCl" in page and "strides of 4 fs" in page and "Gates" in page
    if name == "train":
        values = read_results(Path("fit")).values
        used = values["train_frames"].value + values["held_out_frames"].value
        assert used >= stored("run")["labels"]["frames"]
