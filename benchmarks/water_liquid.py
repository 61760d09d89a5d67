"""Liquid water by students of a few revPBE0-D3 labels: the O–O RDF and the density beside experiment.

The students are those of `benchmarks/hard_targets.py --case water`: taught by SevenNet-0 alone, and by SevenNet-0 tuned on a few
labels. Each runs 64 molecules at 298 K, twice, from a relaxed frame: in the cell of the measured density (NVT), and at 1 bar
(NpT). Nuclei are classical. Measured: O–O at 298 K as in the data of mdgrad (github torchmd/mdgrad; in MDISTILL_DATA), whose
first peak is that of L. B. Skinner et al., J. Chem. Phys. 138, 074506 (2013), doi 10.1063/1.4790861; 0.997 g/cm³ at 298 K.

    MDISTILL_DATA=… python -m benchmarks.water_liquid --runs FOLDER [--labels 10 50]
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import atomic_masses
from ase.optimize import FIRE

from benchmarks.hard_targets import water
from benchmarks.record import RESULTS, write_record
from mdistill import cli
from mdistill.analysis.rdf import rdf
from mdistill.export.ase import calculator
from mdistill.io.structures import from_atoms, to_atoms, to_system, write_systems
from mdistill.io.trajectories import read_hdf5
from mdistill.teachers.models import load
from mdistill.types import LabelledFrame
from mdistill.units import DENSITY_G_CM3

SIDE_A = 12.42
"""Side of a cube of 64 molecules at 0.997 g/cm³."""
RUN = "--temperature-K 298 --time-step-fs 0.5 --every-fs 20 --threads 1"
LENGTHS = {
    "nvt": "--time-ps 40 --equilibration-ps 10",
    "npt": "--ensemble npt --pressure-GPa 0.0001 --time-ps 60 --equilibration-ps 20",
}
REACH_A, BINS = 6.0, 120
SEEDS = (0, 1)


def measured(data: Path) -> tuple[np.ndarray, np.ndarray]:
    """r (Å) and g of O–O at 298 K."""
    table = np.loadtxt(data / "water" / "exp_rdf" / "water_exp_298K_redd.csv", delimiter=",")
    return table[:, 0], table[:, 1]


def ran(student: Path, start: Path, ensemble: str, seed: int, out: Path) -> int:
    """Exit status of a run; one that is done is not repeated."""
    words = [str(start), "--potential", str(student), *RUN.split(), *LENGTHS[ensemble].split(), "--seed", str(seed)]
    return 0 if (out / "results.json").is_file() else cli.run(["simulate", *words, "--out", str(out)])


def relaxed(student: Path, path: Path, sets: Sequence[Sequence[LabelledFrame]]) -> Path:
    """The frame nearest to the measured density after 100 steps of the student's FIRE: its atoms have quantum energies."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        frames = [frame.system for part in sets for frame in part]
        atoms = to_atoms(min(frames, key=lambda one: abs(float(one.cell[0, 0, 0]) - SIDE_A)))
        atoms.calc = calculator(load(student, precision="float32"))
        FIRE(atoms, logfile=None).run(fmax=0.05, steps=100)
        write_systems(path, [to_system(from_atoms(atoms))])
    return path


def row(name: str, labels: int, student: Path, runs: Path, data: Path) -> dict[str, Any]:
    """RDF and density with the scatter of the two runs."""
    start = relaxed(student, runs / "liquid" / f"{student.parent.name}.extxyz", water(data, runs))
    r, g = measured(data)
    found: dict[str, list[float]] = {}
    curves, made = [], dict[str, Any]({"student": name, "labels": labels, "exit status": []})
    for seed in SEEDS:
        out = runs / "liquid" / f"{student.parent.name}-{seed}"
        statuses = [ran(student, start, ensemble, seed, out.with_name(f"{out.name}-{ensemble}")) for ensemble in LENGTHS]
        made["exit status"] += statuses
        if any(statuses):  # the student blew up
            continue
        nvt, npt = (read_hdf5(out.with_name(f"{out.name}-{ensemble}") / "trajectory.h5") for ensemble in LENGTHS)
        curve = rdf(nvt, pair=("O", "O"), r_max=REACH_A, bins=BINS)
        x, y = np.asarray(curve.x), np.asarray(curve.y)
        curves.append(y)
        beyond = x > 3.0
        mass, volumes = float(atomic_masses[npt.numbers.numpy()].sum()), np.abs(np.linalg.det(npt.cell.double().numpy()))
        values = {
            "first peak (Å)": x[y.argmax()], "first peak g": y.max(), "first minimum g": y[beyond & (x < 4.0)].min(),
            "mean |Δg| to 6 Å": np.abs(y - np.interp(x, r, g)).mean(), "density (g/cm³)": DENSITY_G_CM3 * mass / volumes.mean(),
        }  # fmt: skip
        for key, value in values.items():
            found.setdefault(key, []).append(float(value))
    for key, pair in found.items():
        made |= {key: float(np.mean(pair))}
        made |= {f"± ({key})": float(np.std(pair, ddof=1) / len(pair) ** 0.5)} if len(pair) > 1 else {}
    return made | ({"r (Å)": x.tolist(), "g": np.mean(curves, axis=0).tolist()} if curves else {})


def plot(rows: list[dict[str, Any]], data: Path, path: Path) -> None:
    """The RDFs beside the measured one."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 4.0), layout="constrained")
    axes, (r, g) = figure.add_subplot(), measured(data)
    axes.plot(r, g, color="black", lw=2.0, label="measured")
    for one, colour in zip([row for row in rows if "g" in row], ("#c0392b", "#e08e0b", "#1b6ca8"), strict=False):
        axes.plot(one["r (Å)"], one["g"], color=colour, lw=1.3, label=one["student"])
    axes.set(xlim=(2.0, REACH_A), ylim=(0.0, None), xlabel="r (Å)", ylabel="g(r) of O–O, 298 K, 0.997 g/cm³")
    axes.legend(fontsize=8, frameon=False)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, required=True, help="folder of benchmarks.hard_targets --case water")
    parser.add_argument("--labels", type=int, nargs="+", default=[10, 50])
    given = parser.parse_args()
    fits, data = given.runs / "fit", Path(os.environ["MDISTILL_DATA"])
    students = [("student of SevenNet-0", 0, fits / "soft")]
    students += [(f"of SevenNet-0 tuned on {n} labels", n, fits / f"ours-tuned-teacher-{n}-0") for n in given.labels]
    rows = [row(name, labels, folder / "student.mdistill", given.runs, data) for name, labels, folder in students]
    told = {"run": RUN, "lengths": LENGTHS, "molecules": 64, "runs": len(SEEDS), "measured density (g/cm³)": 0.997}
    r, g = measured(data)
    told |= {"measured: first peak (Å)": float(r[g.argmax()]), "measured: first peak g": float(g.max())}
    write_record("water_liquid", told, rows)
    plot(rows, data, RESULTS / "water_liquid.svg")


if __name__ == "__main__":
    main()
