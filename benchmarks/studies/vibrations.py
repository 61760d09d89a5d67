"""Curvature of the student of Li6PS5Cl (52 atoms) beside SevenNet-0's: Hessian, frequencies, displaced structures, minimum.

Needs the student of student_accuracy.py. The teacher's Hessian (about a minute) is kept beside it and reused.

    python -m benchmarks.studies.vibrations [--runs FOLDER] [--threads 1]
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.record import ROOT, write_record
from mdistill.io.structures import read_system
from mdistill.judge.settings import VibrationSettings
from mdistill.judge.vibrations import vibrations
from mdistill.teachers.models import load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "benchmark-li6ps5cl")
    parser.add_argument("--out", type=Path, default=None, help="keeps the teacher's curvature (default: RUNS/vibrations)")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    system, settings = read_system(ROOT / "benchmarks" / "li6ps5cl_relaxed.extxyz"), VibrationSettings()
    student, teacher = load(given.runs / "train" / "student.mdistill"), load("sevennet-0")
    folder = given.out or given.runs / "vibrations"
    rows = []
    for how, chosen in (("whole Hessian", settings), ("24 random directions", replace(settings, whole_up_to=0))):
        kept = folder / how.replace(" ", "-")
        found = vibrations(student, teacher, system, chosen, kept)
        rows += [
            {"from": how, "what": name.removeprefix("vibrations "), "value": v.value, "error": v.error, "unit": v.unit}
            for name, v in found.values.items()
        ]
    write_record("vibrations", settings, rows)


if __name__ == "__main__":
    main()
