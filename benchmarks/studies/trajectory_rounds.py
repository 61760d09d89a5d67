"""How far log10 MSD moves between students of one crystal, and how large their force errors are.

SET is a trajectory set (`mdistill train transport --structures … --trajectories SET`). Each crystal had two students in each
round; each ran at all temperatures and was judged on frames of its own trajectories. Good students give the same motion.
The record is of a set made before, with one student in each of three rounds: tiny in closed form, small, medium.

    python -m benchmarks.studies.trajectory_rounds SET
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from benchmarks.record import write_record
from mdistill.transport.trajectory_set import read_trajectory_set

CLOSE = 1.5
"""Force error over its limit up to which two students count as close to the gate."""


def main() -> None:
    """One row for each crystal, temperature and student; the settings hold the root mean square of the moves."""
    records = read_trajectory_set(Path(sys.argv[1]))
    rows, moves = [], []
    for one in records:
        students = one.about.get("students", [])
        for kelvin in (f"{t:g}" for t in one.temperatures_K):
            for number, student in enumerate(students, start=1):
                rows.append({
                    "crystal": one.about["formula"], "T (K)": float(kelvin), "student": number,
                    "labels": student["labels"], "force error over limit": student["force_error"].get(kelvin),
                    "log10 MSD (Å²)": student["log_msd"].get(kelvin),
                })  # fmt: skip
            good = [s for s in students if s["force_error"].get(kelvin, np.inf) <= CLOSE and kelvin in s["log_msd"]]
            moves += [good[-1]["log_msd"][kelvin] - good[-2]["log_msd"][kelvin]] if len(good) > 1 else []
    settings = {
        "crystals": len(records), "close": CLOSE, "pairs of close students": len(moves),
        "root mean square move of log10 MSD": float(np.sqrt(np.mean(np.square(moves)))) if moves else None,
        "largest move": float(np.abs(moves).max()) if moves else None,
    }  # fmt: skip
    write_record("trajectory_rounds", settings, rows)
    print(settings)


if __name__ == "__main__":
    main()
