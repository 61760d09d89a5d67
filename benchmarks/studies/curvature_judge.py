"""What a student of curvature.py is judged on: errors, vibrations, dynamics, its minimum, and what a step of it costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.student_speed import Stepper
from benchmarks.studies.curvature_systems import CRYSTALS, Case
from mdistill.analysis.vibrations import normal_modes
from mdistill.data.relax import relax
from mdistill.derivatives import hessian
from mdistill.errors import BlowUp
from mdistill.graph import build_graph
from mdistill.nets.model_files import load_model
from mdistill.simulation.settings import GuardSettings, SimulateSettings
from mdistill.simulation.simulate import simulate
from mdistill.teachers.models import load
from mdistill.training.potential import evaluate
from mdistill.types import LabelledFrame, Prediction

NOTHING = Prediction(energy=torch.zeros(1, dtype=torch.float64), forces=torch.zeros((0, 3), dtype=torch.float64))
TIMES_PS = {"moment": (50.0, 20.0), "painn": (5.0, 5.0)}
"""Dynamics at 1000 K and in NVE, ps."""


def judged(case: Case, path: Path) -> dict[str, float]:
    """Errors of a student: forces (meV/Å), energies (meV/atom)."""
    potential, found = load(path), {}
    for name, frames in case.tests.items():
        predictions = evaluate(potential, frames)
        forces = [(p.forces - f.target.forces).abs().mean() for p, f in zip(predictions, frames, strict=True)]
        energies = torch.stack(
            [(p.energy - f.target.energy)[0] / f.system.n_atoms for p, f in zip(predictions, frames, strict=True)]
        )
        found[f"force MAE, {name} (meV/Å)"] = 1e3 * float(torch.stack(forces).mean())
        found[f"energy MAE, {name} (meV/atom)"] = 1e3 * float((energies - energies.median()).abs().mean())
    return found


def curvature(case: Case, path: Path) -> dict[str, float]:
    """Error of products H·v over the teacher's, %: root mean square over all structures, and of the structure in the middle.

    One structure nearer than any the teacher was taught, where its core begins, can make up nearly all of the former.
    """
    plain, found = load_model(path), {}
    for name, frames in case.tests.items():
        wrong, size = [], []
        for frame in [f for f in frames if f.probes is not None][:100]:
            products = plain.curvature(build_graph(frame.system, plain.cutoff), frame.probes)
            wrong.append(float((products - frame.products).square().sum()))
            size.append(float(frame.products.square().sum()))  # type: ignore[union-attr]
        if wrong:
            found[f"curvature error, {name} (%)"] = 100.0 * (sum(wrong) / sum(size)) ** 0.5
            found[f"curvature error, {name}, median (%)"] = 100.0 * float(np.median(np.array(wrong) / np.array(size)) ** 0.5)
    return found


def cost(case: Case, students: dict[str, Path], rounds: int = 5) -> list[dict[str, Any]]:
    """Whole MD steps of the teacher and of students at its minimum, timed in turn on one thread; medians over rounds."""
    runners = {"teacher": (Stepper(case.teacher, case.minimum, 1), 2)}
    for name, path in students.items():
        runners[name] = (Stepper(load(path, precision="float32"), case.minimum, 1), 2000 if name == "moment" else 20)
    times: dict[str, list[float]] = {name: [] for name in runners}
    for k in range(rounds + 1):
        for name, (stepper, steps) in runners.items():
            seconds = stepper.seconds_per_step(steps)
            if k:
                times[name].append(seconds)
    ratios = {name: np.array(times["teacher"]) / np.array(found) for name, found in times.items()}
    return [
        {
            "system": case.name, "student": name, "atoms": case.minimum.n_atoms,
            "us/atom/step": 1e6 * float(np.median(found)) / case.minimum.n_atoms,
            "times faster than the teacher": float(np.median(ratios[name])),
            "± times faster than the teacher": float(np.std(ratios[name], ddof=1) / rounds**0.5),
        }
        for name, found in times.items()
    ]  # fmt: skip


def vibrations(case: Case, path: Path) -> dict[str, float]:
    """A student's Hessian and frequencies at the teacher's minimum beside the teacher's."""
    rows = hessian(load_model(path), case.minimum).detach().cpu().double()
    own, known = (normal_modes(case.minimum, found).frequencies for found in (rows, case.rows_there))
    return {
        "Hessian error, minimum (%)": 100.0 * float((rows - case.rows_there).norm() / case.rows_there.norm()),
        "frequency MAE (THz)": float((own - known).abs().mean()),
    }


def relaxed(case: Case, path: Path) -> dict[str, float]:
    """How far a student's minimum is from the teacher's, from where it starts; a common shift left out."""
    shift = relax(case.minimum, load(path), max_steps=400, largest_force=0.005)[0].positions - case.minimum.positions
    return {"RMSD of the minimum (Å)": float((shift - shift.mean(0)).square().sum(1).mean().sqrt())}


def dynamics(case: Case, path: Path) -> dict[str, float]:
    """How long a student's dynamics holds at 1000 K, its drift in NVE, and the teacher's energy at its minimum."""
    potential, found = load(path, precision="float32"), {}
    low = case.minimum
    at_minimum = relax(low, load(path), max_steps=400, largest_force=0.005)[0]
    energies = [float(evaluate(case.teacher, [LabelledFrame(system=s, target=NOTHING)])[0].energy[0]) for s in (at_minimum, low)]
    found["teacher's energy at the student's minimum (meV/atom)"] = 1e3 * (energies[0] - energies[1]) / low.n_atoms
    hot_ps, nve_ps = TIMES_PS[load_model(path).net.kind]  # type: ignore[attr-defined]
    step = 0.5 if case.name not in CRYSTALS else 2.0
    for name, ensemble, kelvin, time_ps in (("hot", "nvt", 1000.0, hot_ps), ("nve", "nve", 500.0, nve_ps)):
        settings = SimulateSettings(
            ensemble=ensemble, thermostat="langevin", temperature_K=kelvin, time_ps=time_ps, time_step_fs=step,
            every_fs=20.0, equilibration_ps=0.5 if name == "nve" else 0.0, guard=GuardSettings(energy_change=100.0),
        )  # fmt: skip
        try:
            values = simulate(low, potential, settings, path.parent / name).values
        except BlowUp as error:
            found[f"{name} holds (ps)"] = max(error.step, 0) * step / 1000.0
            continue
        found[f"{name} holds (ps)"] = time_ps
        if name == "nve":
            found["NVE drift (meV/atom/ns)"] = 1e6 * (values["energy_drift"].value or 0.0)
    return found
