"""Make tests/golden/ca4b391: files of every kind as commit ca4b391 wrote them. It runs against that commit, not against this one:

git worktree add ../old ca4b391
PYTHONPATH=../old/src:../old/tests python tests/golden/make_ca4b391.py

Never run it again to make a test pass: what is there was written by the old code, and stays.
"""

from __future__ import annotations

import gzip
import json
import os
import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import torch
from actions import tiny_action
from mdistill.simulation.engines import make_evaluator
from mdistill.simulation.strides import long_strides
from mdistill.training.checkpoint import save_model, tensor_hash
from mdistill.workflows.models import load, load_stride

from laws import evaluate
from maps import at_rest, tiny_attention, tiny_direct
from mdistill import cli
from mdistill.data.segments import read_segments
from mdistill.data.store import LabelStore
from mdistill.errors import Interrupted
from mdistill.interrupt import StopRequest
from mdistill.io.files import write_json
from mdistill.io.structures import read_system, to_atoms
from mdistill.simulation.restart import load_restart
from mdistill.simulation.settings import SimulateSettings
from mdistill.simulation.simulate import simulate
from systems import SYSTEMS, random_box, tiny_map, tiny_net, tiny_painn

HOME = Path(__file__).parent / "ca4b391"
SYSTEM_NAMES = ("box", "dimer")
POTENTIALS = {
    "spline": lambda: tiny_net(0, channels=3, radial=4, hidden=6),
    "painn": lambda: tiny_painn(0),
    "painn_direct": lambda: tiny_painn(0, direct=True),
}
MAPS = {
    "composition": lambda: tiny_map(stride_fs=4.0, channels=3, radial=4, hidden=6),
    "direct": lambda: tiny_direct(0),
    "attention": lambda: tiny_attention(0),
    "action": lambda: tiny_action(0),
}
STRUCTURE = """\
8
Lattice="5.9 0 0 0 5.9 0 0 0 5.9" Properties=species:S:1:pos:R:3 pbc="T T T"
Li 0.0 0.0 0.0
Li 0.0 2.95 2.95
Li 2.95 0.0 2.95
Li 2.95 2.95 0.0
Cl 1.475 1.475 1.475
Cl 1.475 4.425 4.425
Cl 4.425 1.475 4.425
Cl 4.425 4.425 1.475
"""
RUN = shlex.split(
    "distill crystal.extxyz --quick --teacher toy_teacher:salt --temperatures 300 --cutoff 2.9 --mobile Li --threads 1 "
    "--prepare.relax-steps 20 --label.frames 8 --label.spacing-fs 20 --label.equilibration-fs 40 --label.blocks 4 "
    "--label.probe-every 4 --label.contacts 4 --label.shears 1 --label.rattles 0.05 --label.strains 0.02 "
    "--train.fit.steps 600 --train.channels 3 --train.radial 5 --train.hidden 8 --refine.time-ps 0.1 --refine.frames 2 "
    "--validate.replays 4 --validate.drift-ps 0.2 --validate.stability-ps 0.1 --validate.equilibration-ps 0.05 "
    "--validate.speed-rounds 3 --validate.parity-points 20 --production.time-ps 1.2 --production.equilibration-ps 0.1 "
    "--stride 4fs --strides.segments.segments 4 --strides.segments.blocks 4 --strides.segments.frames 2 "
    "--strides.segments.temperatures-K 300 --strides.segments.apart-fs 20 --strides.segments.equilibration-ps 0.1 "
    "--strides.train.stride-fs 4 --strides.train.fit.steps 30 --strides.judge.time-ps 0.4 --strides.judge.longest-ps 0.5 "
    "--strides.judge.equilibration-ps 0.1 --strides.judge.every-fs 16 --strides.judge.rounds 3 --out run"
)
NOT_READ_LATER = ("report.html", "figures", "*.h5", "log.csv", "restart.npz", "training.ckpt", "history.json", "*.superseded-*")
STEPS, HALF = 20, 10


class After(StopRequest):
    """Pending once it was asked so often."""

    def __init__(self, times: int) -> None:
        super().__init__(signal_number=0)
        self.left = times

    def pending(self) -> bool:
        self.left -= 1
        return self.left < 0


def potentials(home: Path) -> None:
    for name, make in POTENTIALS.items():
        net = make()
        save_model(home / f"{name}.mdistill", net, {"command": "python tests/golden/make_ca4b391.py"})
        direct = getattr(net.settings, "direct", False)
        predictions = {}
        for system in SYSTEM_NAMES:
            found = load(home / f"{name}.mdistill")(graph(net, system)) if direct else evaluate(net, SYSTEMS[system]())
            predictions[system] = {"energy": float(found.energy[0]), "forces": found.forces.tolist()}
        write_json(home / f"{name}.json", {"predictions": predictions})


def graph(net: object, system: str) -> object:
    from mdistill.graph import build_graph

    return build_graph(SYSTEMS[system](), net.cutoff)  # type: ignore[attr-defined]


def point(state: object) -> dict[str, list]:
    return {"positions": state.system.positions.tolist(), "momenta": state.momenta.tolist()}  # type: ignore[attr-defined]


def maps(home: Path) -> None:
    """Two strides of each map as a propagator, in float64, from the same state; none may fall back to small steps."""
    teacher = home / "taught_maps.mdistill"
    digest = save_model(teacher, tiny_net(0), {})
    for name, make in MAPS.items():
        file = home / f"map_{name}.mdistill"
        save_model(file, make(), {"potential": digest})
        net = load_stride(file, student=teacher, precision="float64")
        start = at_rest(random_box(1))
        evaluator = make_evaluator(load(teacher), start.system)
        long = long_strides(net, start.system, evaluator, time=4.0, skin=0.5, small_step=1.0)
        if hasattr(long, "worst"):
            long = replace(long, clip=0.5, worst=1.0)
        generator, state = torch.Generator().manual_seed(5), start
        for _ in range(2):
            state = long.step(state, generator)
        assert long.counts.fallbacks == 0
        write_json(home / f"map_{name}.json", {"start": point(start), "end": point(state)})


def restarts(home: Path) -> None:
    """Runs stopped half way, beside the last state of the same run uninterrupted."""
    structure = home / "box.extxyz"
    to_atoms(random_box(1)).write(structure)
    system = read_system(structure)
    student = load(home / "taught_maps.mdistill")
    kinds = {
        "verlet": (SimulateSettings(thermostat="langevin", temperature_K=300.0, time_ps=0.001 * STEPS, time_step_fs=1.0,
                                    save_every_fs=5.0), None),
        "strides": (SimulateSettings(thermostat="bussi", temperature_K=300.0, time_ps=0.004 * STEPS, save_every_fs=20.0,
                                     format="extxyz"),
                    load_stride(home / "map_composition.mdistill", precision="float64")),
    }  # fmt: skip
    for name, (settings, stride) in kinds.items():
        whole = simulate(system, student, settings, home / "whole", stride=stride)
        state = whole.state
        for times in range(1, STEPS):
            folder = home / f"half_{name}"
            shutil.rmtree(folder, ignore_errors=True)
            try:
                simulate(system, student, settings, folder, stride=stride, stop=After(times))
            except Interrupted:
                step = load_restart(folder / "restart.npz").step
                if step >= HALF:
                    break
        print(name, "stopped after step", step, "of", whole.steps)
        write_json(home / f"half_{name}.json", {"stopped_after": step, "steps": whole.steps, "end": point(state)})
        shutil.rmtree(home / "whole")
    packed = home / "half_verlet" / "trajectory.h5"
    packed.with_suffix(".h5.gz").write_bytes(gzip.compress(packed.read_bytes(), mtime=0))
    packed.unlink()


def run(home: Path) -> None:
    (home / "crystal.extxyz").write_text(STRUCTURE, encoding="utf-8")
    os.chdir(home)
    status = cli.run(RUN)
    assert status in (0, 4), status
    for pattern in NOT_READ_LATER:
        for path in sorted((home / "run").rglob(pattern)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    frames = LabelStore(home / "run" / "label").read()
    segments = [s for path in sorted((home / "run").glob("stride/segments/*.npz")) for s in read_segments(path)]
    expected = {
        "command": "mdistill " + shlex.join(RUN),
        "labels": {
            "frames": len(frames),
            "energies": [float(f.target.energy[0]) for f in frames],
            "sha256": tensor_hash({f"{k}": f.target.forces.numpy() for k, f in enumerate(frames)}),
            "probes": sum(f.probes is not None for f in frames),
        },
        "segments": {
            "count": len(segments),
            "spacing_fs": segments[0].spacing_fs,
            "sha256": tensor_hash({f"{k}": s.momenta.numpy() for k, s in enumerate(segments)}),
        },
    }
    write_json(home / "run.json", expected)


def main() -> None:
    if (HOME / "run.json").exists():
        sys.exit(f"{HOME} is made: its files stay as the old commit wrote them")
    HOME.mkdir(exist_ok=True)
    for part in (potentials, maps, restarts, run):
        part(HOME)
    print(json.dumps({"bytes": sum(p.stat().st_size for p in HOME.rglob("*") if p.is_file())}))


if __name__ == "__main__":
    main()
