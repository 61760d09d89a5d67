"""A long SevenNet-0 trajectory of Li6PS5Cl (52 atoms) at 900 K, run by ASE: the reference of the student's dynamics.

ASE's Bussi thermostat moves the atoms, so that mdistill's simulation takes no part; its adapter evaluates the teacher in less
than half the time. The run (about an hour on one core) is kept in runs/teacher-900K and resumed. student_dynamics.py writes the
record.

    python -m benchmarks.teacher_trajectory [--runs FOLDER] [--temperature 900] [--picoseconds 41]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from ase import Atoms, units
from ase.io import read
from ase.md.bussi import Bussi
from ase.md.velocitydistribution import Stationary, thermalize_momenta

from benchmarks.record import ROOT, STRUCTURE
from mdistill.export.ase import calculator
from mdistill.io.files import replacing
from mdistill.progress import progress
from mdistill.teachers import load_teacher

STEP_FS, SAVE_EVERY, FLUSH_EVERY, SEED = 2.0, 5, 500, 11


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "teacher-900K")
    parser.add_argument("--temperature", type=float, default=900.0)
    parser.add_argument("--picoseconds", type=float, default=41.0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    atoms = read(STRUCTURE)
    atoms.calc = calculator(load_teacher("sevennet-0"))
    generator = np.random.RandomState(SEED)
    path = given.runs / "trajectory.npz"
    rows = start(atoms, path, given.temperature, generator)
    dynamics = Bussi(atoms, STEP_FS * units.fs, given.temperature, 100 * units.fs, rng=generator)
    steps = round(1000.0 * given.picoseconds / STEP_FS)
    done = SAVE_EVERY * (len(rows["positions"]) - 1)
    with progress("teacher", steps, done=done) as advance:
        for step in range(done + 1, steps + 1):
            dynamics.run(1)
            advance(1, f"{atoms.get_temperature():.0f} K")
            if step % SAVE_EVERY == 0:
                keep(rows, atoms)
            if step % FLUSH_EVERY == 0 or step == steps:
                save(path, rows, atoms)


def start(atoms: Atoms, path: Path, temperature: float, generator: np.random.RandomState) -> dict[str, list[np.ndarray]]:
    """Frames so far, with the atoms set to the last of them; or a Maxwell–Boltzmann start."""
    if path.exists():
        with np.load(path) as held:
            rows = {name: list(held[name]) for name in ("positions", "momenta", "energy", "temperature")}
        atoms.positions[:] = rows["positions"][-1]
        atoms.set_momenta(rows["momenta"][-1])
        return rows
    thermalize_momenta(atoms, temperature, exact_temperature=True, rng=generator)
    Stationary(atoms)
    rows = {name: [] for name in ("positions", "momenta", "energy", "temperature")}
    keep(rows, atoms)
    return rows


def keep(rows: dict[str, list[np.ndarray]], atoms: Atoms) -> None:
    """Add the present frame."""
    rows["positions"].append(atoms.positions.copy())
    rows["momenta"].append(atoms.get_momenta())
    rows["energy"].append(np.array(atoms.get_potential_energy()))
    rows["temperature"].append(np.array(atoms.get_temperature()))


def save(path: Path, rows: dict[str, list[np.ndarray]], atoms: Atoms) -> None:
    """Write all frames, all or nothing."""
    with replacing(path) as partial, open(partial, "wb") as handle:
        frames = {name: np.array(values) for name, values in rows.items()}
        np.savez(handle, numbers=atoms.numbers, cell=atoms.cell.array, frame_fs=SAVE_EVERY * STEP_FS, **frames)


if __name__ == "__main__":
    main()
