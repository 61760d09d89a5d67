"""What minutes, settings and body order of a fit buy, at equal CPU time: aspirin (rMD17), Ge and Li (mlearn), Li6PS5Cl.

aspirin: the first split's 1,000 training frames, 50 of them held out; every fourth test frame. Ge, Li: official split.
Li6PS5Cl: LABELS of a run of the main job (label, refine/round-1/labels); tested on the teacher's dynamics up to 900 K of
HELD_OUT, the label folder of a run with another seed. One thread. A fit's row is kept in FOLDER; `record` writes all.

    python -m benchmarks.studies.fit_settings CASE MINUTES VARIANT… --data FOLDER [--held-out HELD_OUT --labels LABELS…]
    python -m benchmarks.studies.fit_settings record
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import edge_fits
from benchmarks.frontier import labels_of
from benchmarks.record import ROOT, write_record
from benchmarks.studies.mlearn import frames_of
from mdistill.analysis.accuracy import accuracy
from mdistill.data.store import LabelStore
from mdistill.derivatives import potential_of
from mdistill.io.files import write_json
from mdistill.nets.moment import MomentNet
from mdistill.runs.hardware import code_version, hardware
from mdistill.training.calibrate import calibrate
from mdistill.training.fit import fit
from mdistill.training.potential import Prepared, evaluate, prepare_fit
from mdistill.training.settings import FitSettings, TrainSettings
from mdistill.types import LabelledFrame
from research.moment_orders import richer

NAME = "fit_settings"


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """What a fit changes: settings of training and of its loop, size of the net, its class."""

    train: dict[str, Any] = field(default_factory=dict)
    loop: dict[str, Any] = field(default_factory=dict)
    net: type[MomentNet] | None = None


VARIANTS = {
    "default": Variant(),
    "small": Variant(train={"size": "small"}),
    "large": Variant(train={"size": "large"}),
    "16 channels": Variant(train={"channels": 16}),
    "decay 0.03": Variant(loop={"weight_decay": 0.03}),
    "decay 0.03, large": Variant(train={"size": "large"}, loop={"weight_decay": 0.03}),
    "energy weight 60": Variant(train={"energy_weight": 60.0}),
    "energy weight 60, 16 radial functions": Variant(train={"energy_weight": 60.0, "radial": 16}),
    "energy weight 10": Variant(train={"energy_weight": 10.0}),
    "energy weight 0.5": Variant(train={"energy_weight": 0.5}),
    "batches of 4": Variant(loop={"batch_size": 4}),
    "batches of 16": Variant(loop={"batch_size": 16}),
    "rate 0.01": Variant(loop={"learning_rate": 0.01}),
    "average 0.999": Variant(loop={"ema": 0.999}),
    "no curvature": Variant(train={"curvature": "none"}),
    "third order by degree": Variant(net=richer(("by degree",))),
    "third by degree, fourth": Variant(net=richer(("by degree", "fourth"))),
    "products across channels": Variant(net=richer(("across",))),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Labels and test frames of a material; blocks held out; settings it needs."""

    frames: list[LabelledFrame]
    test: list[LabelledFrame]
    held: tuple[int, ...] = ()
    train: dict[str, Any] = field(default_factory=dict)


def molecule(given: argparse.Namespace) -> Case:
    return Case(
        frames=edge_fits.frames_of(given.data, "aspirin", "train"),
        test=edge_fits.frames_of(given.data, "aspirin", "test")[::4],
        held=(19,),
    )


def element(given: argparse.Namespace) -> Case:
    """Every tenth block is held out: the last blocks are strained crystals alone, on which a fit seems to end early."""
    frames, test = (frames_of(given.data / "mlearn" / f"{given.case}_{part}.json") for part in ("training", "test"))
    return Case(frames=frames, test=test, held=tuple({f.block for f in frames if f.block % 10 == 5}), train={"cutoff": 5.2})


def crystal(given: argparse.Namespace) -> Case:
    test = LabelStore(given.held_out).read(lambda f: f.source == "md" and f.temperature_K <= 900.0)
    return Case(frames=labels_of(given.labels), test=test)


CASES: dict[str, Callable[[argparse.Namespace], Case]] = {
    "aspirin": molecule, "Ge": element, "Li": element, "Li6PS5Cl": crystal,
}  # fmt: skip


def prepared(case: Case, variant: Variant, minutes: float, seed: int) -> Prepared:
    """The fit before its first step, with the variant's net in place of the usual one."""
    loop = FitSettings(max_minutes=minutes, least_steps=1, max_epochs=10**6, seed=seed)
    loop = replace(loop, **variant.loop)
    ready = prepare_fit(case.frames, TrainSettings(fit=loop, **(case.train | variant.train)), held_blocks=case.held)
    if variant.net is None:
        return ready
    net = variant.net(ready.net.settings, seed=seed)
    calibrate(net, ready.items, fresh=True)
    return replace(ready, net=net.in_type(torch.float32))


def fitted(case: Case, variant: Variant, minutes: float, seed: int, folder: Path) -> dict[str, Any]:
    """Errors on test and training frames after the fit."""
    ready = prepared(case, variant, minutes, seed)
    found = fit(
        ready.net, ready.objective, ready.items, ready.held_items, ready.settings.fit.suited("moment"), folder=folder,
        work=ready.work,
    )  # fmt: skip
    potential, row = potential_of(found.module.folded().requires_grad_(False)), dict[str, Any]()
    row |= {"cpu minutes": found.cpu_minutes, "steps": found.steps, "ended": found.ended}
    row["parameters"] = sum(p.numel() for p in found.module.parameters())
    for name, frames in (("test", case.test), ("training", ready.train[:: max(1, len(ready.train) // 60)])):
        errors = accuracy(frames, evaluate(potential, frames))
        for group, force in errors.force.items():
            if group == "all" or (name == "test" and group.endswith(" K")):
                row[f"force MAE, {name}, {group} (meV/Å)"] = 1e3 * (force.mean_absolute.value or 0.0)
                row[f"force RMSE, {name}, {group} (meV/Å)"] = 1e3 * force.root_mean_square
        row[f"energy MAE, {name} (meV/atom)"] = 1e3 * (errors.energy["all"].mean_absolute.value or 0.0)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=[*CASES, "record"])
    parser.add_argument("minutes", type=float, nargs="?", default=2.0)
    parser.add_argument("variants", nargs="*")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("MDISTILL_DATA", ".")))
    parser.add_argument("--held-out", type=Path)
    parser.add_argument("--labels", type=Path, nargs="+", default=[])
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / NAME)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.case == "record":
        write_record(NAME, {"threads": 1}, [json.loads(path.read_text()) for path in sorted(given.runs.glob("*.json"))])
        return
    case = CASES[given.case](given)
    for name in given.variants:
        stem = f"{given.case}-{name}-{given.minutes:g}-{given.seed}".replace(" ", "_").replace(",", "")
        if (given.runs / f"{stem}.json").exists():
            continue
        (given.runs / stem).mkdir(parents=True, exist_ok=True)
        row = {"case": given.case, "variant": name, "minutes": given.minutes, "seed": given.seed}
        row |= fitted(case, VARIANTS[name], given.minutes, given.seed, given.runs / stem)
        row |= {"frames": len(case.frames), "test frames": len(case.test), "hardware": hardware()} | code_version()
        write_json(given.runs / f"{stem}.json", row)
        print(row, flush=True)


if __name__ == "__main__":
    main()
