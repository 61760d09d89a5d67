"""Students on the mlearn data (DFT; Li and Ge, official split) beside the published GAP and MTP test errors.

The closed-form and the nonlinear student learn the training structures (energies and forces); a tenth of them, in blocks of
consecutive structures, chooses nothing here but is held out as in every training. Errors are those on the official test set.
Ni and Cu have test structures only in the data at hand and are left out.

    python -m benchmarks.studies.mlearn [--data FOLDER] [--minutes 5]
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import atomic_numbers

from benchmarks.record import ROOT, write_record
from mdistill.analysis.accuracy import accuracy
from mdistill.closed_form.linear_fit import fit_closed_form
from mdistill.graph import make_system
from mdistill.teachers.models import load
from mdistill.training.potential import TrainingResult, evaluate, train_potential
from mdistill.training.settings import ClosedFormSettings, FitSettings, TrainSettings
from mdistill.types import LabelledFrame, Prediction

PUBLISHED = {"Li": {"GAP": (0.49, 0.01), "MTP": (0.49, 0.01)}, "Ge": {"GAP": (2.06, 0.05), "MTP": (1.79, 0.05)}}
"""Test errors, meV/atom and eV/Å, of Zuo et al., J. Phys. Chem. A 124, 731 (2020), doi 10.1021/acs.jpca.9b08723."""
BLOCK = 5


def frames_of(path: Path) -> list[LabelledFrame]:
    """Structures with DFT energies and forces; five consecutive ones share a block."""
    frames = []
    for number, entry in enumerate(json.loads(path.read_text(encoding="utf-8"))):
        structure, answer = entry["structure"], entry["outputs"]
        cell = np.array(structure["lattice"]["matrix"], dtype=float)
        numbers = np.array([atomic_numbers[site["species"][0]["element"]] for site in structure["sites"]])
        fractions = np.array([site["abc"] for site in structure["sites"]], dtype=float)
        system = make_system(fractions @ cell, numbers, cell, [True] * 3)
        target = Prediction(
            energy=torch.tensor([answer["energy"]], dtype=torch.float64),
            forces=torch.tensor(answer["forces"], dtype=torch.float64),
        )
        frames.append(LabelledFrame(system=system, target=target, source="md", block=number // BLOCK))
    return frames


def row_of(name: str, element: str, result: TrainingResult, test: list[LabelledFrame], minutes: float) -> dict[str, Any]:
    found = accuracy(test, evaluate(load(result.path), test))
    energy, force = found.energy["all"], found.force["all"]
    return {
        "element": element,
        "model": name,
        "weights": result.parameters,
        "energy MAE (meV/atom)": 1e3 * (energy.mean_absolute.value or 0.0),
        "energy RMSE (meV/atom)": 1e3 * energy.root_mean_square,
        "force MAE (eV/Å)": force.mean_absolute.value,
        "force RMSE (eV/Å)": force.root_mean_square,
        "minutes": round(minutes, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("MDISTILL_DATA", ".")) / "mlearn")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "mlearn")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--cutoff", type=float, default=5.2)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    how = ClosedFormSettings(second=16, third=10)
    fit = FitSettings(max_minutes=given.minutes, max_epochs=400)
    settings = TrainSettings(cutoff=given.cutoff, radial=16, held_out=0.1, energy_weight=60.0, fit=fit)
    rows: list[dict[str, Any]] = []
    for element, published in PUBLISHED.items():
        train, test = (frames_of(given.data / f"{element}_{part}.json") for part in ("training", "test"))
        for name, (energy, force) in published.items():
            rows.append({"element": element, "model": name, "energy MAE (meV/atom)": energy, "force MAE (eV/Å)": force})
        begun = time.monotonic()
        linear = fit_closed_form(train, settings, given.runs / element / "closed-form", closed_form=how)[0]
        rows.append(row_of("closed form", element, linear, test, (time.monotonic() - begun) / 60.0))
        begun = time.monotonic()
        learned = train_potential(train, settings, given.runs / element / "gradient")
        rows.append(row_of("gradient", element, learned, test, (time.monotonic() - begun) / 60.0))
        print(rows[-2:], flush=True)
    write_record("mlearn", {"train": settings, "closed_form": how, "threads": given.threads}, rows)


if __name__ == "__main__":
    main()
