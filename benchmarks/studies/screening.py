"""Which of a student's own frames are worth a teacher's call: chosen at random, by novelty, or by the variance of a fit.

A student taught at 600 K and below moves by itself at 1000 K; of its frames some are labelled and it is refitted. All
choices start from the same student and the same frames; errors are on the teacher's own dynamics at 1000 K, which no one
was taught. Needs the labels of student_accuracy.py and SevenNet-0.

    python -m benchmarks.studies.screening [--runs FOLDER] [--seeds 3] [--counts 6 12 24]
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.record import ROOT, write_record
from benchmarks.studies.curvature_systems import answered
from mdistill.analysis.accuracy import accuracy
from mdistill.closed_form.linear_fit import fit_closed_form
from mdistill.data.select_frames import select, usable
from mdistill.data.store import LabelStore
from mdistill.graph import make_system
from mdistill.io.trajectories import read_hdf5
from mdistill.simulation.settings import SimulateSettings
from mdistill.simulation.simulate import simulate
from mdistill.teachers import load_teacher
from mdistill.teachers.models import load
from mdistill.training.potential import MODEL, evaluate, train_potential
from mdistill.training.settings import ClosedFormSettings, FitSettings, TrainSettings
from mdistill.types import LabelledFrame, System
from research.variance import most_uncertain

KELVIN = 1000.0
FIRST = TrainSettings(cutoff=4.9, held_out=0.1, fit=FitSettings(steps=1500))
REFIT = replace(FIRST, fit=FitSettings(steps=800, learning_rate=1.5e-3))
SCREEN = ClosedFormSettings(second=8, third=5, curvature_frames=0)


def own_frames(student: Path, start: System, seed: int, folder: Path) -> list[System]:
    """A hundred frames of 5 ps of the student's own dynamics."""
    settings = SimulateSettings(
        ensemble="nvt",
        thermostat="langevin",
        friction_per_ps=10.0,
        temperature_K=KELVIN,
        time_ps=5.0,
        every_fs=50.0,
        seed=seed,
    )
    run = read_hdf5(simulate(start, load(student, precision="float32"), settings, folder).trajectory)
    numbers = run.numbers.numpy()
    return [make_system(r.numpy(), numbers, h.numpy(), [True] * 3) for r, h in zip(run.positions, run.cell, strict=True)][1:]


def choices(pool: list[System], taught: list[LabelledFrame], posterior: Any, count: int, seed: int) -> dict[str, list[int]]:
    """The frames each way of choosing takes."""
    known = [frame.system for frame in taught]
    kept = usable(pool, known)
    return {
        "random": [int(k) for k in np.random.default_rng(seed).choice(kept, count, replace=False)],
        "novelty": select(pool, known[:: max(len(known) // 40, 1)], count),
        "variance": [kept[k] for k in most_uncertain(posterior, [pool[k] for k in kept], count)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "benchmark-li6ps5cl")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--counts", type=int, nargs="+", default=[6, 12, 24])
    given = parser.parse_args()
    torch.set_num_threads(1)
    frames = LabelStore(given.runs / "label").read()
    taught = [frame for frame in frames if frame.temperature_K != KELVIN]
    unseen = [frame for frame in frames if frame.temperature_K == KELVIN]
    home, teacher = given.runs / "screening", load_teacher("sevennet-0")
    first = home / "first" / MODEL
    if not first.is_file():
        train_potential(taught, FIRST, first.parent)
    _, posterior, _ = fit_closed_form(taught, FIRST, home / "closed-form", closed_form=SCREEN)

    def error(path: Path) -> float:
        return 1e3 * (accuracy(unseen, evaluate(load(path), unseen)).force["all"].mean_absolute.value or 0.0)

    rows: list[dict[str, Any]] = [{"chosen by": "nothing (first fit)", "frames": 0, "force MAE (meV/Å)": error(first)}]
    for seed in range(given.seeds):
        pool = own_frames(first, taught[0].system, seed, home / f"md-{seed}")
        labels: dict[int, LabelledFrame] = {}
        for count in given.counts:
            for name, chosen in choices(pool, taught, posterior, count, seed).items():
                where = home / f"{name}-{count}-{seed}"
                path = where / MODEL
                if not path.is_file():
                    for k in chosen:
                        if k not in labels:
                            labels[k] = answered(pool[k], teacher, source="on-policy", temperature_K=KELVIN, block=10**6 + k // 8)
                    train_potential([*taught, *(labels[k] for k in chosen)], REFIT, where, start_from=first)
                rows.append({"chosen by": name, "frames": count, "seed": seed, "force MAE (meV/Å)": error(path)})
                print(rows[-1], flush=True)
    for count in given.counts:
        for name in ("random", "novelty", "variance"):
            found = [row["force MAE (meV/Å)"] for row in rows if row["chosen by"] == name and row["frames"] == count]
            spread = float(np.std(found, ddof=1) / len(found) ** 0.5) if len(found) > 1 else None
            rows.append({"chosen by": name, "frames": count, "mean (meV/Å)": float(np.mean(found)), "error": spread})
    write_record("screening", {"temperature_K": KELVIN, "seeds": given.seeds, "first": FIRST, "refit": REFIT}, rows)


if __name__ == "__main__":
    main()
