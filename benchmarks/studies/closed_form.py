"""Closed form against gradient descent on the same labels of Li6PS5Cl: errors, time, whether its error bars hold, and
whether gradient descent gains by starting from it.

Needs the labels and the student of student_accuracy.py.

    python -m benchmarks.studies.closed_form [--runs FOLDER] [--threads 1]
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.record import RESULTS, ROOT, write_record
from mdistill.analysis.accuracy import Accuracy
from mdistill.closed_form.linear_fit import fit_closed_form
from mdistill.data.store import LabelStore
from mdistill.training.potential import MODEL, train_potential
from mdistill.training.settings import ClosedFormSettings, TrainSettings

WARM_STEPS = (300, 1000, 3000)
SIZES = {"small": ClosedFormSettings(second=8, third=5), "default": ClosedFormSettings()}


def errors(found: Accuracy) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for group in ("600 K", "1000 K"):
        row[f"force MAE {group} (meV/Å)"] = 1e3 * (found.force[group].mean_absolute.value or 0.0)
        row[f"energy MAE {group} (meV/atom)"] = 1e3 * (found.energy[group].mean_absolute.value or 0.0)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "benchmark-li6ps5cl")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    frames = LabelStore(given.runs / "label").read()
    settings = TrainSettings(cutoff=4.9, held_out=0.1)
    rows: list[dict[str, Any]] = []
    for name, how in SIZES.items():
        begun = time.monotonic()
        result, posterior, within = fit_closed_form(frames, settings, given.runs / f"closed-form-{name}", closed_form=how)
        rows.append(
            {"fit": f"closed form, {name}", "weights": result.parameters, "minutes": (time.monotonic() - begun) / 60.0}
            | errors(result.accuracy)
            | {f"force errors {k} (%)": 100.0 * share for k, share in within.items()}
            | {"curvature error": result.curvature_error, "weights determined": posterior.effective}
        )
    known = json.loads((RESULTS / "student_accuracy.json").read_text(encoding="utf-8"))
    by_group = {row["held out"]: row for row in known["rows"]}
    row = {"fit": "gradient", "weights": known["settings"]["parameters"], "minutes": known["settings"]["training_minutes"]}
    for group in ("600 K", "1000 K"):
        row[f"force MAE {group} (meV/Å)"] = by_group[group]["force MAE (meV/Å)"]
        row[f"energy MAE {group} (meV/atom)"] = by_group[group]["energy MAE (meV/atom)"]
    rows.append(row | {"curvature error": known["settings"]["curvature_error"]})
    linear = given.runs / "closed-form-default" / MODEL
    for steps in WARM_STEPS:
        for name, start in (("gradient, afresh", None), ("gradient, from the closed form", linear)):
            folder = given.runs / "warm" / f"{steps}-{'warm' if start else 'cold'}"
            begun = time.monotonic()
            short = replace(settings, fit=replace(settings.fit, steps=steps))
            result = train_potential(frames, short, folder, start_from=start)
            rows.append({"fit": name, "steps": steps, "minutes": (time.monotonic() - begun) / 60.0} | errors(result.accuracy))
    write_record("closed_form", {"frames": len(frames), "train": settings, "threads": given.threads}, rows)


if __name__ == "__main__":
    main()
