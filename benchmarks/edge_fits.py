"""What the benchmarks of direct forces share: public frames, errors of a model, fits of a given CPU time."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from mdistill.direct.settings import DirectSettings
from mdistill.direct.train import train_direct
from mdistill.labelling.import_labels import import_labels
from mdistill.labelling.settings import LabelFileSettings
from mdistill.nets.model_files import load_model
from mdistill.training import optimiser
from mdistill.training.potential import TrainingResult, evaluate, train_potential
from mdistill.training.settings import FitSettings, TrainSettings
from mdistill.types import LabelledFrame, System

MINUTES, TRIAL = 2.0, 25


def frames_of(data: Path, molecule: str, part: str) -> list[LabelledFrame]:
    """Training or test frames: the first split of rMD17, or 3BPA at 300 K."""
    if molecule == "3BPA":
        name = "3bpa/train_300K.xyz" if part == "train" else "3bpa/test_300K.npz"
    else:
        name = f"rmd17/{molecule}_{part}_01.xyz.gz"
    frames = import_labels([data / name], LabelFileSettings(), hold_out=False).frames
    return [replace(frame, system=opened(frame.system)) for frame in frames]


def opened(system: System) -> System:
    """A molecule out of the box of 50 Å that its file states."""
    return replace(system, pbc=torch.zeros_like(system.pbc), cell=torch.zeros_like(system.cell))


def force_errors(path: Path, frames: list[LabelledFrame]) -> dict[str, float]:
    """Mean absolute error of force components with its standard error over frames, and the root mean square, meV/Å."""
    answers = evaluate(load_model(path, dtype=torch.float32), frames)
    off = [1e3 * (a.forces.double() - f.target.forces) for a, f in zip(answers, frames, strict=True)]
    each, squares = [float(one.abs().mean()) for one in off], [float(one.square().mean()) for one in off]
    return {
        "force MAE (meV/Å)": float(np.mean(each)),
        "error": float(np.std(each) / len(each) ** 0.5),
        "force RMSE (meV/Å)": float(np.mean(squares) ** 0.5),
    }


def fitted(name: str, train: list[LabelledFrame], folder: Path, minutes: float) -> TrainingResult:
    """A student after the steps that fit into this CPU time, by a trial of `TRIAL` steps."""
    blocks = max(frame.block for frame in train)
    held = {frame.block for frame in train if frame.block > blocks - round(50 * (blocks + 1) / len(train))}

    def run(steps: int, where: Path) -> TrainingResult:
        if name.startswith("edge"):
            optimiser.WIDEST = 0 if "AdamW" in name else 256
            fit = FitSettings(steps=steps, batch_size=5, learning_rate=2e-3, warmup=100, ema=0.998, clip=1.0)
            return train_direct(train, DirectSettings(width=64, layers=3, fit=fit), where, held_blocks=held)
        optimiser.WIDEST = 256
        settings = TrainSettings(net=name, energy_weight=2.0, curvature="none", fit=FitSettings(steps=steps))
        return train_potential(train, settings, where, held_blocks=held)

    return planned(run, folder, minutes)


def planned(run: Callable[[int, Path], TrainingResult], folder: Path, minutes: float) -> TrainingResult:
    """The fit of as many steps as a trial of `TRIAL` steps says; it resumes."""
    for part in ("trial", "fit"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    plan = folder / "steps.json"
    if not plan.exists():
        cost = run(TRIAL, folder / "trial").cpu_minutes / TRIAL
        plan.write_text(json.dumps(int(minutes / cost)))
    return run(json.loads(plan.read_text()), folder / "fit")
