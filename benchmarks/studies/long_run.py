"""Long-run health of the compiled student: 10⁷ steps of Li6PS5Cl at 900 K, then NVE drift over a nanosecond.

Needs the student of student_accuracy.py. Dynamics are kept beside it and resumed.

    python -m benchmarks.studies.long_run [--runs FOLDER] [--steps 10000000] [--nve-ps 1000]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import psutil
import torch

from benchmarks.record import ROOT, STRUCTURE, write_record
from mdistill.analysis.gates import energy_drift
from mdistill.io.logs import read_log
from mdistill.io.structures import read_system
from mdistill.simulation.settings import SimulateSettings
from mdistill.simulation.simulate import simulate
from mdistill.teachers.models import load
from mdistill.units import PS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "benchmark-li6ps5cl")
    parser.add_argument("--steps", type=int, default=10_000_000)
    parser.add_argument("--nve-ps", type=float, default=1000.0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    system = read_system(STRUCTURE)
    rows: list[dict[str, Any]] = []
    for precision in ("float32", "float64"):
        student = load(given.runs / "train" / "student.mdistill", precision=precision)  # type: ignore[arg-type]
        length = given.nve_ps if precision == "float32" else 0.1 * given.nve_ps
        settings = SimulateSettings(
            ensemble="nve", temperature_K=900.0, time_ps=length, equilibration_ps=2.0, time_step_fs=1.0, every_fs=100.0
        )
        log = read_log(simulate(system, student, settings, given.runs / f"nve-long-{precision}").log)
        drift = energy_drift(log["time_fs"][log["time_fs"] > 0], log["total_eV"][log["time_fs"] > 0], system.n_atoms)
        rows.append(
            {
                "run": f"NVE {precision}, 1 fs",
                "steps": round(1000.0 * length),
                "drift (eV/atom/ns)": 1e3 * (drift.slope.value or 0.0),
                "± (eV/atom/ns)": 1e3 * (drift.slope.error or 0.0),
                "fluctuation (eV/atom)": drift.fluctuation.value,
            }
        )
    before = psutil.Process().memory_info().rss
    student = load(given.runs / "train" / "student.mdistill", precision="float32")
    settings = SimulateSettings(
        temperature_K=900.0, time_ps=2e-3 * given.steps, equilibration_ps=2.0, time_step_fs=2.0, every_fs=2000.0
    )
    done = simulate(system, student, settings, given.runs / "long-900K")
    log = read_log(done.log)
    rows.append(
        {
            "run": "NVT float32, 2 fs, bussi",
            "steps": given.steps,
            "temperature (K)": done.values["temperature"].value,
            "± (K)": done.values["temperature"].error,
            "energy, first tenth (eV/atom)": float(log["potential_eV"][: len(log["step"]) // 10].mean()) / system.n_atoms,
            "energy, last tenth (eV/atom)": float(log["potential_eV"][-len(log["step"]) // 10 :].mean()) / system.n_atoms,
            "µs/atom/step": 1e6 * done.seconds / given.steps / system.n_atoms,
            "memory grown (MiB)": (psutil.Process().memory_info().rss - before) / 2**20,
            "time (ns)": float(log["time_fs"][-1]) / PS / 1000.0,
        }
    )
    write_record("long_run", {"atoms": system.n_atoms, "threads": 1}, rows)


if __name__ == "__main__":
    main()
