"""Long strides against small steps of the same student: errors, temperatures, structure, density, diffusion, speed.

For each material (`stride_systems.py`) and stride a map of learned kicks is trained on the student's NVE segments. It is compared
with small steps, and with Verlet at as many force calls a picosecond (`judge/stride.py`). `--npt` adds the density at constant
pressure, `--million` 10⁶ strides, `--conductivity` σ(T) by strides and by time steps.

    MDISTILL_DATA=… python -m benchmarks.long_stride --material li6ps5cl --strides 8 16 24 [--steps 1800] [--time-ps 500]
    python -m benchmarks.long_stride --material li6ps5cl --strides 16 --npt --million --conductivity 500 600 700 800
    python -m benchmarks.long_stride --record-only

Results are kept in runs/stride and not computed again. The record holds all results found there and those recorded before.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.record import HOME, ROOT, recorded, write_record
from benchmarks.stride_plots import kick_size, plot, stride_and_calls
from benchmarks.stride_systems import NAMES, Material, system
from mdistill.errors import BlowUp
from mdistill.estimates import Estimate
from mdistill.graph import make_system
from mdistill.io.files import write_json
from mdistill.io.structures import to_atoms
from mdistill.io.trajectories import read_hdf5
from mdistill.judge.dynamics import ENSEMBLES, equilibrated_start, judged
from mdistill.judge.kick_scale import set_kick_scale
from mdistill.judge.settings import JudgeSettings, StrideRungSettings
from mdistill.judge.stride import judge_map
from mdistill.judge.timing import speeds
from mdistill.labelling.segments import make_segments
from mdistill.labelling.settings import SegmentSettings
from mdistill.matter.masses import usual_time_step
from mdistill.nets.network import StrideMap
from mdistill.observables.trajectories import Runs, transport_results
from mdistill.runs.results import Results, read_results, write_results
from mdistill.simulation.compiled import compile_propagator
from mdistill.simulation.energy_correction import CorrectEnergy
from mdistill.simulation.evaluator import make_evaluator
from mdistill.simulation.initial_state import initial_state
from mdistill.simulation.settings import SimulateSettings
from mdistill.simulation.simulate import SimulationResult, simulate
from mdistill.simulation.stride_maps import long_strides
from mdistill.simulation.verlet import VelocityVerlet, evaluated
from mdistill.teachers.models import load, load_stride
from mdistill.training.settings import FitSettings, StrideSettings
from mdistill.training.stride import train_stride
from mdistill.types import Propagator, State, System

MATERIALS = NAMES
SEGMENTS, FRAMES = 200, 16
MOBILE = {"li6ps5cl": 3, "li3ps4": 3}
RESULTS, FOUND = "results.json", "found.json"


def settings_of(material: Material, stride_fs: float, given: argparse.Namespace) -> StrideRungSettings:
    """How a map of this stride is taught and judged: 4 fs between frames (1 fs for water, 16 fs for aluminium); 40 ps of
    equilibration for water, which as a frame of another density is a liquid that relaxes."""
    spacing = {"water": 1.0, "aluminium": 16.0}.get(material.name, 4.0)
    segments = SegmentSettings(
        temperatures_K=material.temperatures_K, segments=SEGMENTS, frames=FRAMES, every_fs=spacing
    )  # fmt: skip
    fit = FitSettings(steps=given.steps, batch_size=4)
    train = StrideSettings(stride_fs=stride_fs, kicks=given.kicks, kick_size=given.kick_size, fit=fit)
    first_ps = 40.0 if material.name == "water" else 5.0
    judge = JudgeSettings(
        temperature_K=material.temperature_K, time_ps=given.time_ps, longest_ps=given.longest_ps, equilibration_ps=first_ps
    )
    return StrideRungSettings(segments=segments, train=train, judge=judge)


def folder_of(home: Path, settings: StrideRungSettings, tag: str) -> Path:
    size = "" if settings.train.kick_size == "light" else f"-{settings.train.kick_size}"
    return home / f"{settings.train.stride_fs:g}fs-{settings.train.evaluations}{size}{tag}"


def one(material: Material, stride_fs: float, given: argparse.Namespace, runs: Path) -> Path:
    """Train and judge one map; gives its folder."""
    home, settings = runs / "stride" / material.name, settings_of(material, stride_fs, given)
    folder = folder_of(home, settings, given.tag)
    if (folder / RESULTS).is_file():
        return folder
    segments = make_segments([material.start], load(material.student), settings.segments, home / "segments")
    begun = time.process_time()
    potential, seconds = load(material.student, precision="float32"), []

    def adjust(net: StrideMap) -> dict[str, float]:
        seconds.append(time.process_time() - begun)
        return set_kick_scale(net, potential, material.start, settings, folder)

    result = train_stride(segments, material.student, settings.train, folder, adjust=adjust)
    minutes = seconds[0] / 60.0
    found = judge_map(result, potential, material.start, settings)
    extra = {
        "errors": result.errors,
        "parameters": result.parameters,
        "kicks": settings.train.kick_size,
        "settled": result.adjusted,
    }
    known = json.loads((folder / FOUND).read_text(encoding="utf-8")) if (folder / FOUND).is_file() else {}
    write_json(folder / FOUND, {"training CPU minutes": minutes} | known | {"material": material.name, "tag": given.tag} | extra)
    write_results(folder, found)
    return folder


def run(material: Material, folder: Path, net: StrideMap | None, **how: Any) -> SimulationResult | str:
    """A simulation of the student, or why it broke."""
    how = {"thermostat": "bussi", "every_fs": 96.0, "equilibration_ps": 5.0} | how
    if net is None:
        how["time_step_fs"] = material.time_step_fs
    try:
        return simulate(material.start, load(material.student, precision="float32"), SimulateSettings(**how), folder, stride=net)
    except BlowUp as error:
        return f"step {error.step}: {error.reason}"


def density(material: Material, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Mean volume per atom at no pressure, by strides and by time steps."""
    rows: dict[str, Any] = {}
    for name, net in (("strides", load_stride(folder)), ("steps", None)):
        how = {"ensemble": "npt", "temperature_K": material.temperature_K, "time_ps": given.time_ps, "equilibration_ps": 20.0}
        done = run(material, folder / f"npt-{name}", net, **how)
        rows[f"volume, {name} (Å³/atom)"] = done if isinstance(done, str) else per_atom(done.values["volume"], material)
    return rows


def per_atom(volume: Estimate, material: Material) -> list[float | None]:
    atoms = material.start.n_atoms
    return [None if x is None else x / atoms for x in (volume.value, volume.error)]


def million(material: Material, folder: Path) -> dict[str, Any]:
    """10⁶ strides under Langevin: temperatures, fall-backs, anything that is not a number."""
    net = load_stride(folder)
    time_ps = 1e6 * net.settings.stride_fs / 1000.0
    done = run(
        material, folder / "million", net, ensemble="nvt", thermostat="langevin", temperature_K=material.temperature_K,
        time_ps=time_ps, every_fs=200.0 * net.settings.stride_fs,
    )  # fmt: skip
    if isinstance(done, str):
        return {"10⁶ strides": done}
    shown = {k: [v.value, v.error] for k, v in done.values.items() if k.startswith(("temperature", "T_", "fallbacks"))}
    return {"10⁶ strides": shown | {"hours": done.seconds / 3600.0}}


def longer_steps(material: Material, given: argparse.Namespace, settings: StrideRungSettings) -> dict[str, Any]:
    """The same judgement of plain Verlet with longer steps than usual: how far one gets without a map."""
    evaluate = make_evaluator(load(material.student, precision="float32"), material.start)
    small = VelocityVerlet(evaluate=evaluate, time_step=0.5 * material.time_step_fs)
    start = equilibrated_start(small, material.start, settings.judge)
    rows: dict[str, Any] = {}
    for step in given.longer_steps:
        verlet = VelocityVerlet(evaluate=evaluate, time_step=step)
        for ensemble in ENSEMBLES:
            found = judged(verlet, ensemble, start, evaluate, settings.judge)
            rows[f"{step:g} fs, {ensemble}"] = found.broken or {k: [v.value, v.error] for k, v in found.temperatures.items()}
    return {"plain Verlet, mean temperatures (K)": rows}


def over_student(material: Material, folder: Path) -> dict[str, Any]:
    """How many times the student's Verlet a map is, its energy kept, timed in turn on one thread, in the cell and in 8 of it."""
    rows = {}
    for cell in cells(material):
        per_day, faster = speeds(*both(material, folder, cell), repeats=9)
        rows[f"{cell.n_atoms} atoms"] = [faster["strides"].value, faster["strides"].error, per_day["strides"].value]
    return {"times the student": rows}


def over_teacher(material: Material, folder: Path, teacher: str) -> dict[str, Any]:
    """The same, and the student's Verlet, over the teacher's."""
    rows = {}
    for cell in cells(material):
        timed, start = both(material, folder, cell)
        asked = VelocityVerlet(evaluate=make_evaluator(load(teacher), cell), time_step=usual_time_step(cell))
        per_day, faster = speeds({teacher: asked} | timed, start, repeats=5)
        rows |= {
            f"{name}, {cell.n_atoms} atoms": [per_day[name].value, faster[name].value, faster[name].error] for name in per_day
        }
    return {"ns/day, times the teacher": rows}


def cells(material: Material) -> list[System]:
    """The cell, and one of twice its edges."""
    larger = to_atoms(material.start).repeat(2)
    return [material.start, make_system(larger.positions, larger.numbers, np.asarray(larger.cell), larger.pbc)]


def both(material: Material, folder: Path, cell: System) -> tuple[dict[str, Propagator], State]:
    """The student's Verlet and the map, its energy kept, compiled, and where to start."""
    net, evaluate = load_stride(folder), make_evaluator(load(material.student, precision="float32"), cell)
    usual = usual_time_step(cell)
    steps = VelocityVerlet(evaluate=evaluate, time_step=usual)
    inner = long_strides(net, cell, evaluate, time=net.settings.stride_fs, skin=1.5, small_step=usual)
    start = initial_state(cell, temperature_K=material.temperature_K, generator=torch.Generator().manual_seed(0))
    moving = {"student": steps, "strides": CorrectEnergy(inner=inner, evaluate=evaluate)}
    return {name: compile_propagator(step, evaluate) for name, step in moving.items()}, evaluated(start, evaluate)


def conductivity(material: Material, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """D and σ of the mobile ion at several temperatures, by strides and by time steps: of one run with its own error, or the mean
    of several (`--seeds`) with its standard error."""
    rows: dict[str, Any] = {}
    for name, net in (("strides", load_stride(folder)), ("steps", None)):
        place = folder.parent / "steps" if net is None else folder
        for kelvin in given.conductivity:
            found: list[dict[str, Estimate]] = []
            how = {"ensemble": "nvt", "temperature_K": kelvin, "time_ps": given.production_ps}
            for seed in range(given.seeds):
                done = run(material, place / (f"md-{kelvin:g}K" + (f"-{seed}" if seed else "")), net, seed=seed, **how)
                if isinstance(done, str):
                    rows[f"{name}, {kelvin:g} K"] = done
                    break
                runs = [Runs(temperature_K=kelvin, trajectories=[read_hdf5(done.trajectory)])]
                found.append(transport_results(runs, species=MOBILE[material.name], charge=0.0).values)
            else:
                rows[f"{name}, {kelvin:g} K"] = {
                    key.rpartition("_")[0]: over_runs([one_run[key] for one_run in found])
                    for key in found[0]
                    if key.startswith(("diffusivity", "conductivity"))
                }
    return {"transport": rows}


def over_runs(found: list[Estimate]) -> list[Any]:
    """Value, error, upper limit and number of runs."""
    values = [one_run.value for one_run in found]
    if len(found) == 1 or None in values:
        return [found[0].value, found[0].error, found[0].upper_limit, 1]
    return [float(np.mean(values)), float(np.std(values, ddof=1) / len(values) ** 0.5), None, len(values)]  # type: ignore[arg-type]


def summary(runs: Path) -> list[dict[str, Any]]:
    """Everything found so far, and of the record on disk the maps that have no folder here."""
    rows = []
    for path in sorted(runs.glob("stride/*/*fs-*/" + FOUND)):
        if not (path.parent / RESULTS).is_file():
            continue
        found = json.loads(path.read_text(encoding="utf-8"))
        rows.append(found | rows_of(read_results(path.parent)) | timed_again(found))
    here = {key(row) for row in rows}
    return [row for row in recorded("long_stride") if key(row) not in here] + rows


def timed_again(found: dict[str, Any]) -> dict[str, Any]:
    """The speed in the cell by `--speed`, in place of that of the judgement."""
    of_cell = next(iter(found.get("times the student", {}).values()), None)
    return {} if of_cell is None else {"stride_speed_up": of_cell[:2], "stride_ns_per_day": [of_cell[2], None]}


def key(row: dict[str, Any]) -> tuple[str, ...]:
    """What tells a map from others: material, stride and force calls, size of its kicks, tag."""
    return row["material"], stride_and_calls(row), kick_size(row), row["tag"]


def rows_of(results: Results) -> dict[str, Any]:
    """What the judgement of a map found, as plain numbers with their errors."""
    row: dict[str, Any] = {k: [v.value, v.error] for k, v in results.values.items()}
    row["gates"] = {g.name: [g.measured.value, g.measured.error, g.passed] for g in results.gates}
    for name, key in (("stride-temperatures", "temperatures"), ("stride-facts", "facts")):
        table = next(t for t in results.tables if t.name == name)
        row[key] = [
            dict(zip(table.columns, [[c.value, c.error] if isinstance(c, Estimate) else c for c in cells], strict=True))
            for cells in table.rows
        ]
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--material", choices=MATERIALS, default="li6ps5cl")
    parser.add_argument("--strides", type=float, nargs="+", default=None, help="fs")
    parser.add_argument("--kicks", type=int, default=None, help="force calls a stride")
    parser.add_argument("--steps", type=int, default=1800, help="of training")
    parser.add_argument(
        "--kick-size", choices=("light", "student"), default="light", help="lighter than the student, or as large"
    )
    parser.add_argument("--tag", default="", help="added to the folder's name")
    parser.add_argument("--time-ps", type=float, default=500.0, help="of each judged run")
    parser.add_argument("--longest-ps", type=float, default=4000.0, help="of a run that goes on for its errors")
    parser.add_argument("--longer-steps", type=float, nargs="*", default=(), help="of plain Verlet, fs")
    parser.add_argument("--npt", action="store_true")
    parser.add_argument("--million", action="store_true")
    parser.add_argument("--conductivity", type=float, nargs="*", default=(), help="temperatures, K")
    parser.add_argument("--production-ps", type=float, default=1000.0)
    parser.add_argument("--seeds", type=int, default=1, help="runs at each of these temperatures")
    parser.add_argument("--speed", action="store_true", help="time the map beside the student again, in the cell and in 8 of it")
    parser.add_argument("--teacher", default=None, help="time its steps beside the student's and the map's, e.g. sevennet-0")
    parser.add_argument("--record-only", action="store_true")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if not given.record_only:
        material = system(given.material, given.runs)
        for stride_fs in given.strides or material.strides_fs:
            folder = one(material, stride_fs, given, given.runs)
            row = json.loads((folder / FOUND).read_text(encoding="utf-8"))
            parts = [density(material, folder, given)] if given.npt else []
            if given.longer_steps:
                parts.append(longer_steps(material, given, settings_of(material, stride_fs, given)))
            parts += [over_student(material, folder)] if given.speed else []
            parts += [over_teacher(material, folder, given.teacher)] if given.teacher else []
            parts += [million(material, folder)] if given.million else []
            parts += [conductivity(material, folder, given)] if given.conductivity else []
            for part in parts:
                row |= part
            write_json(folder / FOUND, row)
    rows = summary(given.runs)
    plot(rows, given.runs / "stride" / "li6ps5cl", HOME / "results" / "long_stride.svg")
    fixed = replace(StrideRungSettings(), segments=SegmentSettings(segments=SEGMENTS, frames=FRAMES))
    write_record("long_stride", fixed, rows)


if __name__ == "__main__":
    main()
