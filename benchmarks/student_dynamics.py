"""Does the student move like its teacher? RDFs and D(Li) of Li6PS5Cl at 900 K against the long SevenNet-0 trajectory.

Needs student_accuracy.py (the student) and teacher_trajectory.py (the reference, run by ASE). The student runs several replicas
of the teacher's length from the same structure with other random numbers.

    python -m benchmarks.student_dynamics [--runs FOLDER] [--teacher FOLDER] [--replicas 8]
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.record import ROOT, STRUCTURE, write_record
from mdistill.analysis.diffusion import Diffusion, diffusivity
from mdistill.analysis.gates import overlap
from mdistill.analysis.rdf import largest_radius, rdf, species_pairs
from mdistill.errors import BadInput
from mdistill.io.structures import read_structure, to_system
from mdistill.io.trajectories import read_hdf5
from mdistill.simulation.settings import SimulateSettings
from mdistill.simulation.simulate import simulate
from mdistill.teachers.models import load
from mdistill.types import Trajectory

EQUILIBRATION_PS = 1.0


def teacher_trajectory(folder: Path) -> Trajectory:
    """The teacher's frames after equilibration, as a `Trajectory` (ASE leaves positions unwrapped)."""
    path = folder / "trajectory.npz"
    if not path.exists():
        raise BadInput(path, "no teacher trajectory", allowed="the output of teacher_trajectory.py", fix="run it first")
    with np.load(path) as held:
        spacing = float(held["frame_fs"])
        positions = torch.from_numpy(held["positions"][round(1000.0 * EQUILIBRATION_PS / spacing) :])
        count = len(positions)
        cell = torch.from_numpy(held["cell"]).expand(count, 3, 3).clone()
        numbers = torch.from_numpy(held["numbers"]).to(torch.int64)
    return Trajectory(numbers=numbers, positions=positions, cell=cell, times=spacing * torch.arange(count, dtype=torch.float64))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "benchmark-li6ps5cl")
    parser.add_argument("--teacher", type=Path, default=ROOT / "runs" / "teacher-900K")
    parser.add_argument("--replicas", type=int, default=8)
    parser.add_argument("--temperature", type=float, default=900.0)
    given = parser.parse_args()
    teacher = teacher_trajectory(given.teacher)
    length_ps = float(teacher.times[-1]) / 1000.0
    student = load(given.runs / "train" / "student.mdistill", precision="float32")
    system = to_system(read_structure(STRUCTURE))
    runs = []
    for seed in range(given.replicas):
        settings = SimulateSettings(
            temperature_K=given.temperature,
            time_ps=length_ps,
            equilibration_ps=EQUILIBRATION_PS,
            every_fs=10.0,
            time_step_fs=2.0,
            seed=seed + 1,
        )
        runs.append(read_hdf5(simulate(system, student, settings, given.runs / f"md-{given.temperature:g}K-{seed}").trajectory))
    rows = rdf_rows(teacher, runs[0]) + diffusion_rows(teacher, runs)
    settings = {"temperature_K": given.temperature, "teacher_ps": length_ps, "time_step_fs": 2.0, "thermostat": "bussi, 100 fs"}
    write_record("student_dynamics", settings, rows)


def rdf_rows(teacher: Trajectory, student: Trajectory) -> list[dict[str, Any]]:
    """Divergence and shift of every pair's RDF, with the divergence that finite sampling alone gives."""
    radius = min(largest_radius(teacher), largest_radius(student))
    rows = []
    for pair in species_pairs(teacher):
        alike = overlap(rdf(teacher, pair=pair, r_max=radius), rdf(student, pair=pair, r_max=radius))
        if alike is not None:  # pairs that never come within the radius have no RDF to compare
            rows.append(
                {
                    "what": f"RDF {'–'.join(pair)}",
                    "JS (%)": 100.0 * alike.divergence,
                    "sampling alone (%)": 100.0 * alike.noise,
                    "W1 (Å)": alike.shift,
                }
            )
    return rows


def diffusion_rows(teacher: Trajectory, runs: list[Trajectory]) -> list[dict[str, Any]]:
    """D of Li of the teacher and of every student run, and the distance of their mean in combined standard errors."""
    judged = diffusivity(teacher, species="Li")
    found = [diffusivity(run, species="Li") for run in runs]
    rows = [_diffusion_row("D(Li) teacher", judged)] + [_diffusion_row(f"D(Li) student, run {k}", d) for k, d in enumerate(found)]
    values = [d.tracer.value for d in found]
    if judged.tracer.value is not None and all(v is not None for v in values):
        mean = float(np.mean([v for v in values if v is not None]))
        error = math.sqrt(sum((d.tracer.error or 0.0) ** 2 for d in found)) / len(found)
        combined = math.hypot(judged.tracer.error or 0.0, error)
        distance = (mean - judged.tracer.value) / combined
        rows.append({"what": "D(Li) student, mean", "D (cm²/s)": mean, "± (cm²/s)": error, "combined errors apart": distance})
    return rows


def _diffusion_row(name: str, found: Diffusion) -> dict[str, Any]:
    tracer = found.tracer
    return {
        "what": name,
        "D (cm²/s)": tracer.value,
        "± (cm²/s)": tracer.error,
        "95 % interval": str(tracer.interval),
        "hops": found.hops,
    }


if __name__ == "__main__":
    main()
