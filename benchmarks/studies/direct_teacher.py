"""A direct-force teacher gains or loses energy; the conservative student it teaches must not.

Ethanol of revised MD17: a PaiNN with a direct head and one whose forces are a gradient are taught on DFT; the first teaches
two moment students (with its force Jacobian and without), the second two PaiNN students with direct heads (with its Hessian
and without). All run NVE at 300 K from the same start.

    MDISTILL_DATA=… python -m benchmarks.studies.direct_teacher [--steps 6000] [--time-ps 20]
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.record import write_record
from benchmarks.studies.curvature import STUDENTS
from benchmarks.studies.curvature_systems import RUNS, TEACHER, curved, kept, molecule
from mdistill.analysis.accuracy import accuracy
from mdistill.data.relax import relax
from mdistill.errors import BlowUp
from mdistill.nets.model_files import load_model
from mdistill.simulation.settings import GuardSettings, SimulateSettings
from mdistill.simulation.simulate import simulate
from mdistill.teachers.models import load
from mdistill.training.potential import MODEL, evaluate, train_potential
from mdistill.training.settings import FitSettings, TrainSettings
from mdistill.types import LabelledFrame, System

HOME = RUNS / "direct"


def trained(name: str, frames: list[LabelledFrame], settings: TrainSettings) -> Path:
    """A model file, trained if it is not there."""
    path = HOME / name / MODEL
    return path if path.is_file() else train_potential(frames, settings, path.parent).path


def drift(path: Path, start: System, time_ps: float) -> dict[str, Any]:
    """What a run in NVE does to the total energy and the temperature."""
    settings = SimulateSettings(
        ensemble="nve", temperature_K=300.0, time_ps=time_ps, time_step_fs=0.5, equilibration_ps=0.5, every_fs=10.0,
        guard=GuardSettings(energy_change=100.0),
    )  # fmt: skip
    try:
        values = simulate(start, load(path), settings, path.parent / "nve").values
    except BlowUp as error:
        return {"NVE": f"stopped at step {error.step}: {error.reason}"}
    return {
        "drift (eV/atom/ns)": 1e3 * (values["energy_drift"].value or 0.0),
        "± drift": 1e3 * (values["energy_drift"].error or 0.0),
        "fluctuation (meV/atom)": 1e3 * (values["energy_fluctuation"].value or 0.0),
        "mean T (K)": values["temperature"].value,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--time-ps", type=float, default=20.0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    train, test = molecule("ethanol", "train"), molecule("ethanol", "test")[:300]
    fit = FitSettings(steps=given.steps)
    teacher = trained("teacher", train, replace(TEACHER, painn=replace(TEACHER.painn, direct=True), fit=fit))
    soft = kept(HOME / "labels", lambda: curved(train, load_model(teacher), "random", 1))
    gradient = RUNS / "ethanol" / "teacher" / MODEL
    if not gradient.is_file():
        train_potential(train, TEACHER, gradient.parent)
    reverse = kept(RUNS / "ethanol" / "probes", lambda: curved(train, load_model(gradient), "random", 1))
    direct = replace(STUDENTS["painn"], fit=replace(fit, steps=given.steps // 2))
    direct = replace(direct, painn=replace(direct.painn, direct=True))
    student = replace(STUDENTS["moment"], fit=replace(fit, steps=given.steps // 2))
    models = {
        "teacher, direct forces": teacher,
        "student, forces": trained("student", soft, replace(student, curvature="none")),
        "student, forces and Jacobian": trained("curved", soft, replace(student, curvature_weight=0.3, curvature_every=1)),
        "teacher, gradient forces": gradient,
        "its direct student, forces": trained("direct", reverse, replace(direct, curvature="none")),
        "its direct student, forces and Hessian": trained(
            "direct-curved", reverse, replace(direct, curvature_weight=0.3, curvature_every=1)
        ),
    }
    start = relax(train[0].system, load_model(gradient), max_steps=300, largest_force=0.01)[0]
    rows = []
    for name, path in models.items():
        errors = accuracy(test, evaluate(load(path), test)).force["all"].mean_absolute
        rows.append({"model": name, "force MAE to DFT (meV/Å)": 1e3 * (errors.value or 0.0)} | drift(path, start, given.time_ps))
        print(rows[-1], flush=True)
    write_record("direct_teacher", {"time_ps": given.time_ps, "time_step_fs": 0.5, "teacher_steps": given.steps}, rows)


if __name__ == "__main__":
    main()
