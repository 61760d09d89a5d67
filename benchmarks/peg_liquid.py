"""Liquid polyethylene glycol by students of one oligomer: density and pair distributions at 298 K beside experiment.

The student is that of a main job on tetraethylene glycol, six molecules in a box, whatever its teacher:

    mdistill distill --smiles OCCOCCOCCOCCO --copies 6 --density 0.95 --heavy-h 3 --temperatures 298 400 \\
        --teacher sevennet-0+d3 --quick --committee 1 --threads 1 --production.max-minutes 6 --out FOLDER

It runs tetraethylene glycol (15 molecules, 465 atoms) and PEG-400, which it was not taught (HO–(CH2CH2O)9–H, 7 chains, 462
atoms). Two boxes of each, packed from other shapes at half the density: NpT at 400 K and 0.3 GPa until it is dense, at 400 K and
1 bar, then 100 ps at 298 K and 1 bar, steps of 1 fs with hydrogen of 3 u. Measured: 1.12 to 1.13 g/cm³ for both.

    python -m benchmarks.peg_liquid --runs FOLDER --students NAME=RUN …
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import atomic_masses
from ase.io import write
from ase.optimize import FIRE

from benchmarks.record import recorded, write_record
from mdistill import cli
from mdistill.analysis.rdf import rdf
from mdistill.export.ase import calculator
from mdistill.io.structures import from_atoms, to_system
from mdistill.io.trajectories import read_hdf5
from mdistill.matter.masses import repartitioned
from mdistill.matter.smiles import from_smiles
from mdistill.runs.results import read_results
from mdistill.teachers.models import load
from mdistill.units import DENSITY_G_CM3

LIQUIDS = {"tetraethylene glycol": ("OCCOCCOCCOCCO", 15, 1.12), "PEG-400": ("O" + 9 * "CCO", 7, 1.125)}
"""SMILES, molecules, measured density at 298 K, g/cm³."""
LOOSE, HEAVY_H = 0.5, 3.0
"""Density of the packing, g/cm³; mass of hydrogen, u."""
RUN = "--ensemble npt --time-step-fs 1 --every-fs 50 --compressibility-per-GPa 0.5 --threads 1"
STAGES = {
    "pressed": "--temperature-K 400 --pressure-GPa 0.3 --time-ps 15",
    "hot": "--temperature-K 400 --pressure-GPa 0.0001 --time-ps 30",
    "cold": "--temperature-K 298 --pressure-GPa 0.0001 --time-ps 100 --equilibration-ps 30",
}
PAIRS, REACH_A, BINS = (("O", "O"), ("C", "O"), ("H", "O"), ("C", "C")), 7.0, 350
SEEDS = (0, 1)


def packed(name: str, seed: int, student: Path, path: Path) -> None:
    """A loose box after 200 steps of the student's FIRE, with its masses."""
    smiles, copies, _ = LIQUIDS[name]
    atoms = from_smiles(smiles, copies=copies, density=LOOSE, seed=seed).atoms
    atoms.calc = calculator(load(student, precision="float32"))
    FIRE(atoms, logfile=None).run(fmax=0.1, steps=200)
    atoms.calc = None
    masses = repartitioned(to_system(from_atoms(atoms)), HEAVY_H)
    assert masses is not None
    atoms.set_masses(masses.numpy())
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, atoms, columns=["symbols", "positions", "masses"])


def simulated(start: Path, student: Path, words: str, seed: int, out: Path) -> int:
    """Exit status; a run that is done is not repeated."""
    given = [str(start), "--potential", str(student), *RUN.split(), *words.split(), "--seed", str(seed), "--out", str(out)]
    return 0 if (out / "results.json").is_file() else cli.run(["simulate", *given])


def densities(run: Path) -> np.ndarray:
    """Density of every frame, g/cm³, with the usual masses: those of the run give the same sum."""
    trajectory = read_hdf5(run / "trajectory.h5")
    mass = float(atomic_masses[trajectory.numbers.numpy()].sum())
    return np.asarray(DENSITY_G_CM3 * mass / np.abs(np.linalg.det(trajectory.cell.double().numpy())))


def liquid(name: str, teacher: str, student: Path, folder: Path) -> dict[str, Any]:
    """Density with the scatter of the boxes; peaks of the pair distributions, without error."""
    row: dict[str, Any] = {"part": "liquid", "liquid": name, "teacher": teacher, "measured density (g/cm³)": LIQUIDS[name][2]}
    means, halves, curves = [], [], {pair: [] for pair in PAIRS}
    for seed in SEEDS:
        at = folder / f"{name.replace(' ', '-')}-{seed}"
        if not (start := at / "start.extxyz").is_file():
            packed(name, seed, student, start)
        status = 0
        for name_of_stage, words in STAGES.items():
            status = status or simulated(start, student, words, seed, at / name_of_stage)
            start = at / name_of_stage / "trajectory.h5"
        row.setdefault("exit status", []).append(status)
        if status:
            continue
        density = densities(at / "cold")
        means.append(float(density.mean()))
        halves.append(float(density[len(density) // 2 :].mean() - density[: len(density) // 2].mean()))
        trajectory = read_hdf5(at / "cold" / "trajectory.h5")
        row["atoms"], row["ps"] = len(trajectory.numbers), float(trajectory.times[-1] - trajectory.times[0]) / 1e3
        for pair in PAIRS:
            curves[pair].append(rdf(trajectory, pair=pair, r_max=REACH_A, bins=BINS))
    if not means:
        return row
    row |= {"density (g/cm³)": float(np.mean(means)), "± (density)": float(np.std(means, ddof=1) / len(means) ** 0.5)}
    row |= {"second half minus first (g/cm³)": halves}
    for pair, found in curves.items():
        x, g = np.asarray(found[0].x), np.mean([np.asarray(one.y) for one in found], axis=0)
        row[f"{'–'.join(pair)}: first peak (Å)"] = float(x[g.argmax()]) if pair != ("O", "O") else _peak(x, g, 2.4, 3.3)
        row[f"g {'–'.join(pair)}"] = [round(float(one), 4) for one in g]
    row["H–O: hydrogen bonds, peak (Å)"] = _peak(x, np.mean([np.asarray(one.y) for one in curves[("H", "O")]], axis=0), 1.5, 2.3)
    row["r (Å)"] = [round(float(one), 4) for one in x]
    return row


def _peak(x: np.ndarray, g: np.ndarray, low: float, high: float) -> float:
    within = (x > low) & (x < high)
    return float(x[within][g[within].argmax()])


def of_the_job(teacher: str, run: Path) -> dict[str, Any]:
    """What the main job told: gates, errors against the teacher, speed-up."""
    results = read_results(run)
    values = {key: [one.value, one.error, one.unit] for key, one in results.values.items() if np.isfinite(one.value)}
    gates = {gate.name: bool(gate.passed) for gate in results.gates}
    return {"part": "main job", "teacher": teacher, "values": values, "gates": gates}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--students", nargs="+", required=True, help="TEACHER=RUN: run folders of the main job")
    given, rows = parser.parse_args(), []
    torch.set_num_threads(1)
    for word in given.students:
        teacher, _, run = word.partition("=")
        rows.append(of_the_job(teacher, Path(run)))
        for name in LIQUIDS:
            rows.append(liquid(name, teacher, Path(run), given.runs / teacher))
            print({key: value for key, value in rows[-1].items() if not key.startswith(("g ", "r "))}, flush=True)
    made = {row["teacher"] for row in rows}
    rows = [row for row in recorded("peg_liquid") if row["teacher"] not in made] + rows
    write_record("peg_liquid", {"run": RUN, "stages": STAGES, "packed at (g/cm³)": LOOSE, "hydrogen (u)": HEAVY_H}, rows)


if __name__ == "__main__":
    main()
