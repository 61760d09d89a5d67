"""T16: does the student conserve energy? NVE of Li6PS5Cl, 416 atoms, at 600 and 1000 K for 20 ps.

Needs the student of student_accuracy.py. Dynamics are kept beside it and resumed.

    python -m benchmarks.student_drift [--runs FOLDER] [--time-ps 20]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from ase.build import make_supercell

from benchmarks.record import ROOT, STRUCTURE, write_record
from mdistill.analysis.gates import energy_drift
from mdistill.io.logs import read_log
from mdistill.io.structures import from_atoms, read_system, to_atoms, to_system
from mdistill.simulation.settings import SimulateSettings
from mdistill.simulation.simulate import simulate
from mdistill.teachers.models import load
from mdistill.types import Potential, System
from mdistill.units import PS


def measure(system: System, potential: Potential, temperature_K: float, time_ps: float, folder: Path) -> dict[str, Any]:
    settings = SimulateSettings(
        ensemble="nve", temperature_K=temperature_K, time_ps=time_ps, equilibration_ps=2.0, time_step_fs=1.0, every_fs=10.0
    )
    log = read_log(simulate(system, potential, settings, folder).log)
    after = log["time_fs"] > 0.0
    drift = energy_drift(log["time_fs"][after], log["total_eV"][after], system.n_atoms)
    return {
        "atoms": system.n_atoms,
        "temperature (K)": temperature_K,
        "time (ps)": float(log["time_fs"][-1]) / PS,
        "drift (eV/atom/ps)": drift.slope.value,
        "± (eV/atom/ps)": drift.slope.error,
        "fluctuation (eV/atom)": drift.fluctuation.value,
        "required": "≤ 1e-6 eV/atom/ps",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "benchmark-li6ps5cl")
    parser.add_argument("--time-ps", type=float, default=20.0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    student = load(given.runs / "train" / "student.mdistill", precision="float32")
    cell = to_atoms(read_system(STRUCTURE))
    system = to_system(from_atoms(make_supercell(cell, [[2, 0, 0], [0, 2, 0], [0, 0, 2]])))
    rows = [measure(system, student, kelvin, given.time_ps, given.runs / f"drift-{kelvin:g}K") for kelvin in (600.0, 1000.0)]
    write_record("student_drift", {"time_step_fs": 1.0, "time_ps": given.time_ps, "student": student.name}, rows)


if __name__ == "__main__":
    main()
