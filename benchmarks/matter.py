"""The main job on a molecule, a slab and a liquid, short: what each kind of matter gets, its errors and the CPU time.

python -m benchmarks.matter FOLDER [CASE …]      a case that is done in FOLDER is only read

Cases: slab (Al(110), six layers, SevenNet-0), teacher (dynamics of SevenNet-0 on that slab, 72 atoms), ethanol (GFN2-xTB), water
(32 molecules, SevenNet-0).
Budgets are a fraction of those of --quick, so errors are larger than those of a real run.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from ase.build import fcc110
from ase.io import write

from benchmarks.record import recorded, write_record
from mdistill import cli
from mdistill.graph import build_graph
from mdistill.io.structures import read_structure, read_systems, to_system
from mdistill.io.trajectories import read_hdf5
from mdistill.observables.layers import displacements_by_layer, order_by_layer
from mdistill.runs.results import read_results
from mdistill.teachers.models import load

SHORT = (
    "--quick --committee 1 --label.frames 10 --prepare.relax-steps 40 --label.contacts 10 --train.fit.max-minutes {minutes} "
    "--refine.time-ps 2 --refine.frames 10 --validate.replays 4 --validate.stability-ps {hot} --check.frames 6 "
    "--production.runs {runs} --threads 1 --production.max-minutes 0.01 --production.despite-gates "
)
CASES = {
    "slab": "{folder}/al110.extxyz --teacher sevennet-0 --temperatures 300 500 700 --quick --committee 1 --train.fit.steps 500 "
    "--prepare.relax-steps 40 --label.frames 15 --label.contacts 10 --refine.time-ps 3 --refine.frames 20 "
    "--refine.refit-share 0.6 --validate.replays 4 --validate.drift-ps 3 --validate.stability-ps 3 --check.frames 6 "
    "--production.time-ps 6 --production.equilibration-ps 1 --production.atoms 72 --production.runs 3 "
    "--production.max-minutes 0.01 --production.despite-gates --threads 1",
    "ethanol": "--smiles CCO --teacher xtb --quick --committee 1 --temperatures 300 --label.frames 20 --label.every-fs 5 "
    "--label.equilibration-fs 20 --label.probe-every 20 --train.fit.steps 150 --train.channels 6 --train.radial 8 "
    "--train.hidden 24 --refine.time-ps 0.2 --refine.frames 3 --validate.replays 4 --validate.drift-ps 0.4 "
    "--validate.stability-ps 0.2 --validate.equilibration-ps 0.1 --validate.speed-repeats 3 --production.time-ps 1 "
    "--production.equilibration-ps 0.2 --production.runs 2 --production.cell-ps 0.5 --production.atoms 20 "
    "--production.max-minutes 0.001 --check.frames 4 --threads 1",
    "water": "--smiles O --copies 32 --density 1.0 --teacher sevennet-0 --heavy-h 3 --temperatures 300 --production.time-ps 4 "
    "--production.equilibration-ps 6 --production.cell-ps 6 --production.atoms 96 --validate.drift-ps 2 --refine.atoms 96 "
    "--refine.refit-share 0.1 --train.size tiny --train.fit.steps 600 " + SHORT.format(minutes=0.8, hot=1, runs=2),
}  # fmt: skip
TEACHER = (
    "{folder}/al110.extxyz --potential sevennet-0 --temperature-K {kelvin} --time-ps 6 --equilibration-ps 1 --time-step-fs 4 "
    "--every-fs 40 --threads 1"
)
TEACHER_K = (500, 700)
LIFTS_A = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0)
MEASURED = {
    "water": "density 0.997 g/cm³ at 298 K; O–O RDF: first peak 2.57 at 2.80 Å (Skinner et al., doi 10.1063/1.4790861)",
    "slab": "none",
    "ethanol": "none",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Commands of the cases."""

    commands: dict[str, str]
    teacher: str


def case(name: str, folder: Path) -> dict[str, Any]:
    """Run one case, or read it."""
    if name in ("slab", "teacher"):
        atoms = fcc110("Al", (4, 3, 6), a=4.05, vacuum=8.0)
        atoms.info.clear()
        write(folder / "al110.extxyz", atoms)
    if name == "teacher":
        return teacher(folder)
    out = folder / name
    begin, spent = time.process_time(), out / "cpu_seconds.txt"
    status = cli.run(["distill", *CASES[name].format(folder=folder).split(), "--update", "--out", str(out)])
    seconds = time.process_time() - begin + sum(os.times()[2:4])
    if not spent.exists():
        spent.write_text(f"{seconds:.1f}\n", encoding="utf-8")
    results = read_results(out)
    values = {key: [e.value, e.error, e.unit] for key, e in results.values.items() if _told(key)}
    row: dict[str, Any] = {
        "case": name, "exit status": status, "CPU min": float(spent.read_text(encoding="utf-8")) / 60.0,
        "gates passed": sum(gate.passed for gate in results.gates), "gates": len(results.gates),
        "failed": ", ".join(gate.name for gate in results.gates if not gate.passed), "values": values,
        "measured": MEASURED[name], "tables": {t.name: [t.columns, *map(_texts, t.rows)] for t in results.tables
                                              if t.name in ("layers", "internal", "density", "production")},
    }  # fmt: skip
    return row | (_water(out) if name == "water" else lifting(out) if name == "slab" else {})


def teacher(folder: Path) -> dict[str, Any]:
    """Dynamics of the teacher: u² (Å²) and order of the layers, atoms that left."""
    start, row = to_system(read_structure(folder / "al110.extxyz")), dict[str, Any](case="teacher")
    for kelvin in TEACHER_K:
        out = folder / "teacher" / f"{kelvin}K"
        status = cli.run(["simulate", *TEACHER.format(folder=folder, kelvin=kelvin).split(), "--out", str(out)])
        run = read_hdf5(out / "trajectory.h5")
        order, gone = order_by_layer(run, start)
        u2 = displacements_by_layer(run, start).tolist()
        row[f"{kelvin} K"] = {"exit status": status, "u²": u2, "order": order.tolist(), "atoms that left": gone}
    return row


def lifting(out: Path) -> dict[str, Any]:
    """Energy (eV) that it costs to lift one surface atom of the relaxed slab, at each height (Å)."""
    slab = read_systems(out / "prepare" / "structures.extxyz")[0]
    top, found = int(slab.positions[:, 2].argmax()), dict[str, Any]()
    for name, potential in (("teacher", load("sevennet-0")), ("student", load(out / "student.mdistill"))):
        energies = []
        for height in (0.0, *LIFTS_A):
            positions = slab.positions.clone()
            positions[top, 2] += height
            lifted = replace(slab, positions=positions)
            energies.append(float(potential(build_graph(lifted, potential.cutoff)).energy[0]))
        found[name] = [energy - energies[0] for energy in energies[1:]]
    return {"lifting": {"height": list(LIFTS_A)} | found}


def _told(key: str) -> bool:
    return key.startswith(("force_mae", "energy_mae", "speed_up", "density", "surface_", "atoms_that_left", "nve_drift"))


def _texts(row: list[Any]) -> list[Any]:
    return [[cell.value, cell.error] if hasattr(cell, "error") else cell for cell in row]


def _water(out: Path) -> dict[str, Any]:
    """First peak of the O–O RDF, from the figure of the page, and what the runs say of its error."""
    from mdistill.analysis.rdf import rdf

    peaks = []
    for path in sorted((out / "production" / "300K").glob("run-*/trajectory.h5")):
        curve = rdf(read_hdf5(path), pair=("O", "O"), r_max=4.5, bins=90)
        best = int(curve.y.argmax())
        peaks.append((float(curve.x[best]), float(curve.y[best])))
    found = np.array(peaks)
    error = found.std(axis=0, ddof=1) / len(found) ** 0.5
    return {"O–O peak (Å)": [found[:, 0].mean(), error[0]], "O–O peak g": [found[:, 1].mean(), error[1]]}


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[2:] or (*CASES, "teacher"):
        row = case(name, folder)
        rows = {one["case"]: one for one in recorded("matter")} | {name: row}
        write_record("matter", Settings(commands=CASES, teacher=TEACHER), list(rows.values()))


if __name__ == "__main__":
    main()
