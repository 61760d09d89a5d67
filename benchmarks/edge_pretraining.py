"""Pre-training of direct forces: what more structures gain at equal steps, and what is left of it on public molecules.

    python -m benchmarks.edge_transformer pretraining tuned long_pretraining long_tuned --work FOLDER --data FOLDER

`pretraining` makes its structures, fits one model for each of `SIZES`, and fits a power law to what is measured; `tuned` starts
from the model of the largest size. `long_pretraining` and `long_tuned` do so with eight times the steps, up to ten times the
structures. All store each row, and continue. One core: about 20, 40, 140 and 40 CPU minutes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import exp, log
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.edge_fits import force_errors, frames_of
from mdistill.direct.diagnostics import antisymmetry, equivariance_error
from mdistill.direct.generate import generate, xtb
from mdistill.direct.settings import DirectSettings, MoleculeSettings
from mdistill.direct.shards import read_shards
from mdistill.direct.train import train_direct
from mdistill.graph import cast
from mdistill.nets.model_files import load_model, read_metadata
from mdistill.settings import to_json
from mdistill.training.settings import FitSettings
from mdistill.types import LabelledFrame, Prediction

SIZES, PRE_STEPS, PUBLISHED_SIZE, SEED = (300, 1000, 3000, 10_000), 3000, 3e7, 2
LONG_SIZES, LONG_STEPS, PER_MOLECULE = (10_000, 100_000), 25_000, 24
"""Of `long_pretraining`; its largest size has more structures of each molecule, because the list of molecules ends."""
TESTED, FEW = 40, 6
"""Molecules that no model is trained on; structures of them for E_eq, and for λ."""
TUNED = ("ethanol", "benzene", "toluene", "naphthalene", "salicylic", "aspirin", "3BPA")
TUNING_STEPS = 2000


def pretraining(work: Path, data: Path) -> None:
    """Errors, E_eq and λ on unseen molecules after equal steps on more and more structures, and their power laws."""
    del data
    pool, test = molecules_of(work)
    series(SIZES, PRE_STEPS, pool, test, work / "pretraining.json")


def long_pretraining(work: Path, data: Path) -> None:
    """The same with more steps, up to the largest size, which is fitted with fewer steps too."""
    del data
    pool, test = molecules_of(work)
    series(LONG_SIZES[:-1], LONG_STEPS, pool, test, work / "long-pretraining.json")
    many = work / "pretraining-many"
    generate(MoleculeSettings(structures=LONG_SIZES[-1], per_molecule=PER_MOLECULE), many, seed=SEED, workers=1)
    pool = [frame for frame in read_shards(many) if frame.block >= TESTED]
    series(LONG_SIZES[-1:], LONG_STEPS, pool, test, work / "long-pretraining.json")
    series(LONG_SIZES[-1:], PRE_STEPS, pool, test, work / "pretraining.json")


def molecules_of(work: Path) -> tuple[list[LabelledFrame], list[LabelledFrame]]:
    """Structures to learn from and to test on; the first molecules are the same in every folder of one seed."""
    folder = work / "pretraining-molecules"
    per = MoleculeSettings().per_molecule
    generate(MoleculeSettings(structures=max(SIZES) + per * TESTED), folder, seed=SEED, workers=1)
    frames = read_shards(folder)
    return [frame for frame in frames if frame.block >= TESTED], [frame for frame in frames if frame.block < TESTED]


def series(
    sizes: Sequence[int], steps: int, pool: Sequence[LabelledFrame], test: Sequence[LabelledFrame], at: Path
) -> None:  # fmt: skip
    """A row for each size, once, after equal steps, and their power laws."""
    rows: list[dict[str, Any]] = json.loads(at.read_text()) if at.exists() else []
    rows = [row for row in rows if row["part"] == "pre-training" and row["steps"] == steps]
    for size in sizes:
        if any(row["size"] == size for row in rows):
            continue
        result = pretrained(pool[:size], steps, at.with_name(f"{at.stem}-{size}"))
        rows.append(
            {"part": "pre-training", "size": size, "fitted structures": result.train_frames, "steps": result.steps}
            | {"molecules": len({frame.block for frame in pool[:size]})}
            | {"CPU minutes": result.cpu_minutes, "tested structures": len(test[::2])}
            | force_errors(result.path, test[::2])
            | symmetries(result.path, test)
        )
        rows.sort(key=lambda row: row["size"])
        at.write_text(json.dumps(to_json(rows + laws(to_json(rows)))))
        print(rows[-1], flush=True)
    for row in laws(to_json(rows)):
        print(row, flush=True)


def pretrained(frames: Sequence[LabelledFrame], steps: int, folder: Path) -> Any:
    """A model after some steps; it resumes. At most a thousand structures, and at most a tenth, are held out."""
    folder.mkdir(exist_ok=True)
    fit = FitSettings(steps=steps, batch_size=4, learning_rate=2e-3, warmup=100, ema=0.998, clip=1.0)
    held_out = min(0.1, 1000 / len(frames))
    return train_direct(frames, DirectSettings(width=64, layers=3, states=True, fit=fit, held_out=held_out), folder)


def symmetries(path: Path, frames: Sequence[LabelledFrame]) -> dict[str, Any]:
    """E_eq and λ on structures spread over the frames."""
    systems = [frame.system for frame in frames if 1 < frame.system.n_atoms <= 30]
    potential, exact = load_model(path, dtype=torch.float32), load_model(path)
    turned = [cast(system, dtype=torch.float32) for system in systems[:: max(1, len(systems) // TESTED)]]
    error = equivariance_error(potential, turned).scaled(1e3, "meV/Å")
    return {"E_eq (meV/Å)": error, "λ": antisymmetry(exact, systems[:: max(1, len(systems) // FEW)])}


def laws(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The power law of each quantity in the number of fitted structures, from three sizes on."""
    sizes = [row["fitted structures"] for row in rows]
    if len(sizes) < 3:
        return []
    found = {name: [_number(row[name]) for row in rows] for name in ("force MAE (meV/Å)", "E_eq (meV/Å)", "λ")}
    return [
        {"part": "pre-training fit", "quantity": name, "steps": rows[0]["steps"]} | power_law(sizes, values)
        for name, values in found.items()
    ]


def _number(value: Any) -> float:
    return float(value["value"] if isinstance(value, dict) else value)


def power_law(sizes: Sequence[float], values: Sequence[float], *, beyond: float = PUBLISHED_SIZE) -> dict[str, float]:
    """Exponent b of y = a n^b by least squares of logarithms, and y at another size, with errors from the scatter about the line.

    The error at the other size is a factor: its logarithm is the standard error of the line there.
    """
    x, y = np.log(np.asarray(sizes, float)), np.log(np.asarray(values, float))
    middle, spread = x.mean(), float(((x - x.mean()) ** 2).sum())
    exponent = float(((x - middle) * y).sum() / spread)
    residual = y - y.mean() - exponent * (x - middle)
    scatter = float((residual**2).sum() / (len(x) - 2)) ** 0.5
    away = log(beyond) - middle
    return {
        "exponent": exponent,
        "error": scatter / spread**0.5,
        "other size": beyond,
        "there": exp(float(y.mean()) + exponent * away),
        "within a factor of": exp(scatter * (1.0 / len(x) + away**2 / spread) ** 0.5),
    }


def tuned(work: Path, data: Path) -> None:
    """Public molecules: errors of the pre-trained model against its own level of theory, and after 2,000 steps on DFT frames."""
    tuned_from(work / f"pretraining-{max(SIZES)}", work, data, "tuned")


def long_tuned(work: Path, data: Path) -> None:
    """The same from the longer pre-training on most structures."""
    tuned_from(work / f"long-pretraining-{max(LONG_SIZES)}", work, data, "long-tuned")


def tuned_from(folder: Path, work: Path, data: Path, name: str) -> None:
    """A row for each molecule, once."""
    start = folder / "student.mdistill"
    made_with = read_metadata(start)["provenance"]["steps"]
    for molecule in TUNED:
        at = work / f"{name}-{molecule}.json"
        if at.exists():
            continue
        train, test = (frames_of(data, molecule, part) for part in ("train", "test"))
        chosen = test[:: len(test) // 250]
        own = [again for frame in chosen[::5] if (again := relabelled(frame)) is not None]
        before = force_errors(start, own)
        held = max(frame.block for frame in train)
        blocks = {block for block in range(held + 1) if block > held - round(50 * (held + 1) / len(train))}
        fit = FitSettings(steps=TUNING_STEPS, batch_size=5, learning_rate=1e-3, warmup=100, ema=0.998, clip=1.0)
        folder = work / at.stem
        folder.mkdir(exist_ok=True)
        settings = DirectSettings(width=64, layers=3, states=True, fit=fit)
        result = train_direct(train, settings, folder, start_from=start, held_blocks=blocks)
        row = {
            "part": "tuned",
            "molecule": molecule,
            "pre-training steps": made_with,
            "zero-shot, GFN2-xTB (meV/Å)": before["force MAE (meV/Å)"],
            "zero-shot, error": before["error"],
            "zero-shot structures": len(own),
            **{f"before {name}": value for name, value in symmetries(start, own).items()},
            **force_errors(result.path, chosen),
            **symmetries(result.path, chosen),
            "CPU minutes": result.cpu_minutes,
            "steps": result.steps,
            "train frames": result.train_frames,
        }
        at.write_text(json.dumps(to_json(row)))
        print(row, flush=True)


def relabelled(frame: LabelledFrame) -> LabelledFrame | None:
    """The structure of a neutral closed shell with the labels of GFN2-xTB."""
    answer = xtb(frame.system.numbers.numpy(), frame.system.positions.numpy(), charge=0, unpaired=0)
    if answer is None:
        return None
    energy, forces = torch.tensor([answer[0]], dtype=torch.float64), torch.from_numpy(answer[1])
    return replace(frame, target=Prediction(energy=energy, forces=forces))


PARTS: dict[str, Callable[[Path, Path], None]] = {
    part.__name__: part for part in (pretraining, tuned, long_pretraining, long_tuned)
}
