"""How close a student comes to SevenNet-0 on Li6PS5Cl (52 atoms): at most 400 labelled frames, at most 10 minutes of training.

Labels (about half an hour of teacher time on two cores) and training are kept in runs/benchmark-li6ps5cl and resumed.
Held out: the last time blocks of the teacher's dynamics at 600 and 1000 K. Targets: force MAE ≤ 30 meV/Å at 600 K and
≤ 45 at 1000 K, energy ≤ 1 meV/atom.

    python -m benchmarks.student_accuracy [--runs FOLDER] [--minutes 10] [--threads 2]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from benchmarks.record import ROOT, write_record
from mdistill.data.settings import PrepareSettings
from mdistill.data.store import LabelStore
from mdistill.io.structures import read_structure
from mdistill.labelling.label import label_run
from mdistill.labelling.settings import LabelSettings
from mdistill.teachers import load_teacher
from mdistill.training.potential import train_potential
from mdistill.training.settings import FitSettings, TrainSettings
from mdistill.workflows.prepare import prepared_systems

PREPARE = PrepareSettings(cutoff=4.9, relax_steps=100)
LABEL = LabelSettings(
    temperatures_K=(600.0, 1000.0),
    frames=190,
    blocks=10,
    every_fs=48.0,
    equilibration_fs=480.0,
    probe_every=1,
    contacts=4,
    max_frames=400,
    displaced=0,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "benchmark-li6ps5cl")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    crystal, teacher = read_structure(ROOT / "examples" / "li6ps5cl.cif"), load_teacher("sevennet-0")
    systems, _ = prepared_systems(crystal, teacher, PREPARE, given.runs / "prepare", seed=0)
    label_run(systems, teacher, LABEL, given.runs / "label")
    frames = LabelStore(given.runs / "label").read()
    train = TrainSettings(cutoff=4.9, held_out=0.1, fit=FitSettings(max_minutes=given.minutes))
    begin = time.monotonic()
    result = train_potential(frames, train, given.runs / "train")
    minutes = (time.monotonic() - begin) / 60.0
    rows = []
    for group, force in result.accuracy.force.items():
        energy, stress = result.accuracy.energy.get(group), result.accuracy.stress.get(group)
        rows.append(
            {
                "held out": group,
                "force MAE (meV/Å)": 1e3 * (force.mean_absolute.value or 0.0),
                "± (meV/Å)": None if force.mean_absolute.error is None else 1e3 * force.mean_absolute.error,
                "mean |F| (meV/Å)": 1e3 * force.scale,
                "energy MAE (meV/atom)": None if energy is None else 1e3 * (energy.mean_absolute.value or 0.0),
                "stress MAE (meV/Å³)": None if stress is None else 1e3 * (stress.mean_absolute.value or 0.0),
            }
        )
    settings = {
        "frames": len(frames),
        "train_frames": result.train_frames,
        "held_out_frames": result.held_out_frames,
        "parameters": result.parameters,
        "curvature_error": result.curvature_error,
        "training_minutes": round(minutes, 2),
        "threads": given.threads,
        "label": LABEL,
        "train": train,
    }
    write_record("student_accuracy", settings, rows)


if __name__ == "__main__":
    main()
