"""Speed of compiled students: whole MD steps of Li6PS5Cl, timed in one run with the teacher and other potentials.

Students of size tiny to large are trained on the labels of student_accuracy.py and kept in runs/benchmark-li6ps5cl/sizes. They
are timed with 52 to 26,624 atoms on 1 and 2 threads: µs per atom and per edge, memory, error. In each round everything is timed
once; the median over rounds is recorded. Peers: the teacher and CHGNet with their own neighbour lists, the student in torch and
a PaiNN student. NEP and DeePMD-kit are timed on request, each by its own Python.

    python -m benchmarks.student_speed [--runs FOLDER] [--train-only] [--rounds 5] [--nep-python PYTHON] [--deepmd-python PYTHON]
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols
from vesin import NeighborList

from benchmarks.record import HOME, ROOT, STRUCTURE, recorded, write_record
from mdistill.analysis.accuracy import accuracy
from mdistill.data.split import split_blocks
from mdistill.data.store import LabelStore
from mdistill.graph import make_system
from mdistill.io.files import write_bytes, write_text
from mdistill.io.structures import read_system, to_atoms
from mdistill.kernels.moment import neighbours
from mdistill.nets.settings import SIZES
from mdistill.simulation.bussi import Bussi
from mdistill.simulation.compiled import compile_propagator
from mdistill.simulation.evaluator import EngineEvaluator, make_evaluator
from mdistill.simulation.initial_state import initial_state
from mdistill.simulation.rollout import rollout
from mdistill.simulation.verlet import VelocityVerlet
from mdistill.teachers import load_teacher
from mdistill.teachers.models import load
from mdistill.training.potential import evaluate, train_potential
from mdistill.training.settings import FitSettings, TrainSettings
from mdistill.types import Potential, System

KELVIN, STEP_FS, HELD_OUT, CUTOFF = 600.0, 2.0, 0.1, 4.9
FIRST_STEP = (
    "import sys,time; t=time.time(); from mdistill.teachers.models import load; import mdistill.simulation.evaluator as c;"
    "from mdistill.io.structures import read_system; p=load(sys.argv[1],precision='float32'); s=read_system(sys.argv[2]);"
    "c.make_evaluator(p,s)(s); print(time.time()-t)"
)
MEMORY = (
    "import sys,resource; from mdistill.teachers.models import load; import mdistill.simulation.evaluator as c;"
    "from mdistill.graph import make_system; from mdistill.io.structures import read_system,to_atoms;"
    "p=load(sys.argv[1],precision='float32'); a=to_atoms(read_system(sys.argv[2])).repeat(int(sys.argv[3]));"
    "s=make_system(a.positions,a.numbers,a.cell.array,a.pbc); before=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
    "c.make_evaluator(p,s)(s); print(before/1024, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024)"
)


class Stepper:
    """Dynamics of one potential on one structure, a stretch at a time."""

    def __init__(self, potential: Potential, system: System, threads: int) -> None:
        torch.set_num_threads(threads)
        self.threads, self.evaluate = threads, make_evaluator(potential, system)
        plain = Bussi(inner=VelocityVerlet(evaluate=self.evaluate, time_step=STEP_FS), temperature_K=KELVIN)
        self.propagator = compile_propagator(plain, self.evaluate)
        self.generator = torch.Generator().manual_seed(0)
        self.state = initial_state(system, temperature_K=2 * KELVIN, generator=self.generator)

    def seconds_per_step(self, steps: int) -> float:
        torch.set_num_threads(self.threads)
        begun = time.perf_counter()
        self.state = rollout(self.state, self.propagator, steps=steps, generator=self.generator, leap=steps)
        return (time.perf_counter() - begun) / steps

    def edges(self) -> float | None:
        return self.evaluate.engine.counts()["edges"] if isinstance(self.evaluate, EngineEvaluator) else None


def students(runs: Path, *, with_painn: bool = False) -> dict[str, tuple[Path, dict[str, float]]]:
    """A trained student of each size with its held-out errors."""
    frames = LabelStore(runs / "label").read()
    held_out, found = split_blocks(frames, held_out=HELD_OUT)[1], {}
    painn = TrainSettings(net="painn", held_out=HELD_OUT, fit=FitSettings(steps=2800, batch_size=4))
    wanted = {"painn": (runs / "painn", painn)} if with_painn else {}
    for size in SIZES:
        moment = TrainSettings(size=size, held_out=HELD_OUT, fit=FitSettings(max_minutes=9.0))  # type: ignore[arg-type]
        wanted[size] = (runs / "sizes" / size, moment)
    for size, (folder, settings) in wanted.items():
        path = folder / "student.mdistill"
        if not path.is_file():
            train_potential(frames, settings, folder)
        errors = accuracy(held_out, evaluate(load(path), held_out))
        found[size] = (
            path,
            {f"force MAE {t} (meV/Å)": 1e3 * (errors.force[t].mean_absolute.value or 0.0) for t in ("600 K", "1000 K")},
        )
    return found


def timed(steppers: dict[Any, tuple[Stepper, int]], rounds: int) -> dict[Any, list[float]]:
    """Seconds per step of each, one measurement per round, all in turn; two rounds before are not counted."""
    times: dict[Any, list[float]] = {key: [] for key in steppers}
    for number in range(rounds + 2):
        for key, (stepper, steps) in steppers.items():
            seconds = stepper.seconds_per_step(steps)
            if number >= 2:
                times[key].append(seconds)
    return times


def student_rows(runs: Path, rounds: int) -> list[dict[str, Any]]:
    cell, rows = to_atoms(read_system(STRUCTURE)), []
    trained = students(runs, with_painn=True)
    painn = trained.pop("painn")
    teacher, chgnet = load_teacher("sevennet-0"), load_teacher("chgnet")
    for repeat in (1, 2, 4, 8):
        atoms = cell.repeat(repeat)
        system = make_system(atoms.positions, atoms.numbers, atoms.cell.array, atoms.pbc)
        n = system.n_atoms
        steps = max(4, 20_000 // n)
        runners: dict[Any, tuple[Stepper, int]] = {}
        for size, (path, _) in trained.items():
            if repeat < 8 or size == "medium":
                for threads in (1, 2):
                    runners[size, threads] = (Stepper(load(path, precision="float32"), system, threads), steps)
        if repeat <= 2:
            for threads in (1, 2):
                runners["medium, float64", threads] = (Stepper(load(trained["medium"][0]), system, threads), max(steps // 4, 2))
                plain = load(trained["medium"][0], precision="float32").plain  # type: ignore[attr-defined]
                runners["medium in torch", threads] = (Stepper(plain, system, threads), 3)
                runners["painn", threads] = (Stepper(load(painn[0], precision="float32"), system, threads), 2)
                runners["sevennet-0", threads] = (Stepper(teacher, system, threads), 1)
                if repeat == 1:
                    runners["chgnet", threads] = (Stepper(chgnet, system, threads), 1)
        times = timed(runners, rounds)
        for (name, threads), found in times.items():
            middle, edges = float(np.median(found)), runners[name, threads][0].edges()
            reference = times.get(("sevennet-0", threads))
            errors = (trained | {"painn": painn}).get(name.split(",")[0].split(" in ")[0], (None, {}))[1]
            rows.append(
                {
                    "model": name, "atoms": n, "threads": threads, "us_per_atom": 1e6 * middle / n,
                    "us_per_edge": None if edges is None else 1e6 * middle / edges,
                    "spread (%)": 100.0 * float(np.std(found)) / middle,
                    "over the teacher (×)": None if reference is None else float(np.median(reference)) / middle,
                    "edges per atom": None if edges is None else edges / n,
                } | errors
            )  # fmt: skip
    return rows


def other_rows(runs: Path) -> list[dict[str, Any]]:
    """Neighbour search beside vesin's, and the time from a cold process to the first forces."""
    rows: list[dict[str, Any]] = []
    cell = to_atoms(read_system(STRUCTURE))
    path = students(runs)["medium"][0]
    kernel = load(path, precision="float32").kernel  # type: ignore[attr-defined]
    for repeat in (2, 4):
        atoms = cell.repeat(repeat)
        own, theirs = [], []
        for _ in range(7):
            begun = time.perf_counter()
            neighbours(kernel, atoms.positions, atoms.cell.array, atoms.pbc, CUTOFF + 0.5)
            own.append(time.perf_counter() - begun)
            begun = time.perf_counter()
            NeighborList(cutoff=CUTOFF + 0.5, full_list=True).compute(
                points=atoms.positions, box=atoms.cell.array, periodic=True, quantities="ijS"
            )
            theirs.append(time.perf_counter() - begun)
        for name, found in (("neighbour search, compiled, sorted", own), ("neighbour search, vesin", theirs)):
            rows.append(
                {"model": name, "atoms": len(atoms), "threads": 1, "us_per_atom": 1e6 * float(np.median(found)) / len(atoms)}
            )
    structure = str(STRUCTURE)
    cold = [
        float(
            subprocess.run(
                [sys.executable, "-c", FIRST_STEP, str(path), structure], capture_output=True, text=True, check=True
            ).stdout
        )
        for _ in range(3)
    ]
    for repeat in (1, 2, 4, 8):
        command = [sys.executable, "-c", MEMORY, str(path), structure, str(repeat)]
        before, after = map(float, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
        rows.append(
            {
                "model": "peak memory of a process, medium",
                "atoms": 52 * repeat**3,
                "MiB": after,
                "of it for the evaluation": after - before,
            }
        )
    rows.append({"model": "from python's start to the first forces, kernel in the cache (s)", "seconds": float(np.median(cold))})
    return rows


def nep_rows(python: Path) -> list[dict[str, Any]]:
    """A NEP4 potential of usual size through calorine, by another Python that has it (see peer_nep.py)."""
    script, structure = HOME / "studies" / "peer_nep.py", STRUCTURE
    done = subprocess.run([str(python), str(script), str(structure)], capture_output=True, text=True, check=True)
    return [{"model": "NEP4, calorine CPUNEP, force call", "threads": 1} | row for row in json.loads(done.stdout)]


def export_deepmd(runs: Path) -> Path:
    """The labels in DeePMD-kit's npy format, once: training frames, and the held-out frames by temperature."""
    folder, frames = runs / "deepmd" / "data", LabelStore(runs / "label").read()
    if (folder / "held-out-1000K" / "type_map.raw").is_file():
        return folder.parent
    train, held_out = split_blocks(frames, held_out=HELD_OUT)
    symbols = ["Li", "P", "S", "Cl"]
    sets = {"train": train} | {f"held-out-{k:g}K": [f for f in held_out if f.temperature_K == k] for k in (600.0, 1000.0)}
    for name, chosen in sets.items():
        stresses = [f.target.stress for f in chosen]
        virials = [-s[0] * torch.det(f.system.cell[0]).abs() for s, f in zip(stresses, chosen, strict=True) if s is not None]
        arrays = {
            "coord": [f.system.positions for f in chosen],
            "box": [f.system.cell[0] for f in chosen],
            "energy": [f.target.energy for f in chosen],
            "force": [f.target.forces for f in chosen],
            "virial": virials,
        }
        for key, values in arrays.items():
            buffer = io.BytesIO()
            np.save(buffer, np.stack([v.double().numpy().ravel() for v in values]), allow_pickle=False)
            write_bytes(folder / name / "set.000" / f"{key}.npy", buffer.getvalue())
        kinds = [symbols.index(chemical_symbols[z]) for z in chosen[0].system.numbers.tolist()]
        write_text(folder / name / "type.raw", "\n".join(map(str, kinds)) + "\n")
        write_text(folder / name / "type_map.raw", "\n".join(symbols) + "\n")
    return folder.parent


def deepmd_rows(python: Path, runs: Path, *more: str) -> list[dict[str, Any]]:
    """DeePMD-kit's potentials trained on the same frames, by another Python that has it (see peer_deepmd.py)."""
    script, structure = HOME / "studies" / "peer_deepmd.py", STRUCTURE
    command = [str(python), str(script), str(export_deepmd(runs)), str(structure), *more]
    return list(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "benchmark-li6ps5cl")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--train-only", action="store_true")
    parser.add_argument("--nep-python", type=Path, help="a Python with calorine, for the NEP row")
    parser.add_argument("--deepmd-python", type=Path, help="a Python with deepmd-kit, for the DPA4C and se_e2_a rows")
    given = parser.parse_args()
    if given.train_only:
        torch.set_num_threads(1)
        students(given.runs, with_painn=True)
        if given.deepmd_python:
            deepmd_rows(given.deepmd_python, given.runs, "--train-only")
        return
    rows = other_rows(given.runs) + student_rows(given.runs, given.rounds)
    rows += nep_rows(given.nep_python) if given.nep_python else []
    rows += deepmd_rows(given.deepmd_python, given.runs) if given.deepmd_python else []
    rows += [row for row in recorded("student_speed") if "instruction set" in row]  # of instruction_sets.py
    write_record("student_speed", {"temperature_K": KELVIN, "time_step_fs": STEP_FS, "thermostat": "bussi", "sizes": SIZES}, rows)


if __name__ == "__main__":
    main()
