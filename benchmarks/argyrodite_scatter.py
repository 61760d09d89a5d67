"""Scatter of D over time slices and sub-cells of published AIMD of Li6PS5Cl, over the error quoted for each of them.

python -m benchmarks.argyrodite_scatter [DATA]      DATA: folder with argyrodite_aimd/, default $MDISTILL_DATA

Sub-cells are the ions of the eight octants of the 416-atom cell, each relative to the host of the whole cell. A ratio of 1 means
that errors are as large as the scatter. Parts with an upper limit have no value and are counted alone.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.analyse_argyrodite import FRAME_TIME_FS, TEMPERATURE_K, runs_of
from benchmarks.record import write_record
from mdistill.analysis.diffusion import Diffusion, diffusivity
from mdistill.io.import_trajectory import read_trajectory
from mdistill.types import Trajectory

LITHIUM = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Of the runs."""

    temperature_K: float = TEMPERATURE_K
    frame_time_fs: float = FRAME_TIME_FS


def slices(trajectory: Trajectory, count: int) -> list[Trajectory]:
    """Equal parts of a run in time."""
    ends = [k * len(trajectory.times) // count for k in range(count + 1)]
    return [
        replace(
            trajectory,
            positions=trajectory.positions[a:b],
            cell=trajectory.cell[a:b],
            times=trajectory.times[a:b],
        )
        for a, b in itertools.pairwise(ends)
    ]


def octants(trajectory: Trajectory) -> list[Trajectory]:
    """Li of each octant of the first frame, with the whole host."""
    mobile = trajectory.numbers.numpy() == LITHIUM
    scaled = trajectory.positions[0].numpy() @ np.linalg.inv(trajectory.cell[0].numpy()) % 1.0
    octant = (scaled >= 0.5) @ np.array([4, 2, 1])
    kept = [np.flatnonzero(~mobile | (octant == k)) for k in range(8)]
    return [replace(trajectory, numbers=trajectory.numbers[one], positions=trajectory.positions[:, one]) for one in kept]


def scatter(parts: Sequence[Diffusion]) -> dict[str, Any]:
    """Mean, scatter over quoted error, and its own relative error."""
    tracers = [part.tracer for part in parts if part.detected]
    values, errors = (np.array([getattr(t, name) for t in tracers], dtype=float) for name in ("value", "error"))
    known = len(values) > 2
    limits = [part.tracer.upper_limit for part in parts if part.tracer.upper_limit is not None]
    return {
        "parts": len(parts), "with a value": len(values), "mean D (cm²/s)": float(values.mean()) if known else None,
        "quoted error": float(np.sqrt((errors**2).mean())) if known else None,
        "scatter over error": float(values.std(ddof=1) / np.sqrt((errors**2).mean())) if known else None,
        "its error": float(values.std(ddof=1) / np.sqrt((errors**2).mean() * 2 * (len(values) - 1))) if known else None,
        "mean limit": float(np.mean(limits)) if limits else None,
        "inflation": float(np.mean([part.inflation for part in parts])),
        "log slope": float(np.mean([part.slope.value or 0.0 for part in parts])),
    }  # fmt: skip


def main() -> None:
    data = Path(sys.argv[1] if len(sys.argv) > 1 else os.environ["MDISTILL_DATA"])
    rows: list[dict[str, Any]] = []
    for disorder in ("0p", "50p"):
        whole = read_trajectory(runs_of(data, disorder), time_step_fs=FRAME_TIME_FS).trajectory
        for name, cells in (("cell", [whole]), ("octants", octants(whole))):
            for count in (1, 3, 5):
                parts = [diffusivity(part, species="Li") for cell in cells for part in slices(cell, count)]
                length = (len(whole.times) // count) * FRAME_TIME_FS / 1000.0
                row = {"disorder": f"{disorder[:-1]} %", "of": name, "slices": count, "each (ps)": length}
                rows.append(row | scatter(parts) | ({"D": parts[0].tracer.value} if len(parts) == 1 else {}))
    write_record("argyrodite_scatter", Settings(), rows)


if __name__ == "__main__":
    main()
