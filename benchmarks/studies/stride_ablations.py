"""What each part of a long-stride map is worth: maps over one stride, each without one part, taught on the same segments.

    composition          kicks and drifts with learned potentials, two force calls a stride: symplectic (the one that ships)
    action               a generating function of midpoints, solved by iteration: symplectic, implicit
    direct               one equivariant step: free flight, the force, learned impulses of pairs
    direct, several      the same, taught 4 and 8 fs too
    direct, energy term  the same, the error of the energy after a stride in its loss
    direct, reversed     the same, half of the windows run backwards
    attention            a network without built-in symmetry, windows turned at random (the published kind)
    attention, unturned  … without turning them
    attention, unscaled  … what it gives not scaled by √m
    attention, absolute  … giving whole displacements and momenta instead of what differs from free flight

Maps of one kind are taught for equally many steps, of different kinds for one to four minutes of a core (STEPS), and
judged as `mdistill train stride` does (temperatures in NVE,
Langevin and Bussi dynamics with and without energy correction, RDFs, reversibility, speed), in shorter runs.

    MDISTILL_DATA=… python -m benchmarks.studies.stride_ablations [--arms direct …] [--time-ps 30] [--record-only]

Everything done is kept in runs/stride/li6ps5cl/ablations and not done again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.long_stride import FOUND, rows_of, settings_of
from benchmarks.record import ROOT, write_record
from benchmarks.stride_systems import Material, system
from mdistill.io.files import write_json
from mdistill.judge.stride import judge_map
from mdistill.labelling.segments import make_segments
from mdistill.nets.settings import OneStepAttentionSettings
from mdistill.runs.results import read_results, write_results
from mdistill.teachers.models import load
from mdistill.training import one_step_map as training
from mdistill.training.settings import FitSettings, StrideSettings
from mdistill.training.stride import train_stride
from research.train_action import train_action

ARMS: dict[str, dict[str, Any]] = {
    "composition": {},
    "action": {},
    "direct": {"map": "one_step"},
    "direct, several": {"map": "one_step", "shorter_fs": (4.0, 8.0)},
    "direct, energy term": {"map": "one_step", "energy_weight": 0.3},
    "direct, reversed": {"map": "one_step", "reversal": True},
    "attention": {"map": "one_step", "one_step_net": "attention"},
    "attention, unturned": {"map": "one_step", "one_step_net": "attention", "turning": False},
    "attention, unscaled": {"map": "one_step", "one_step_net": "attention"},
    "attention, absolute": {"map": "one_step", "one_step_net": "attention"},
}
WITHOUT: dict[str, dict[str, bool]] = {"attention, unscaled": {"mass_scaled": False}, "attention, absolute": {"residual": False}}
STEPS = {"composition": 1800, "action": 600, "direct": 3000, "attention": 800}
STRIDE_FS = 16.0


@contextmanager
def attention_without(parts: dict[str, bool]) -> Iterator[None]:
    """Attention networks made inside lack these parts."""
    usual = training.OneStepAttentionSettings
    training.OneStepAttentionSettings = partial(OneStepAttentionSettings, **parts)  # type: ignore[misc,assignment]
    try:
        yield
    finally:
        training.OneStepAttentionSettings = usual  # type: ignore[misc]


def one(material: Material, arm: str, given: argparse.Namespace, home: Path) -> None:
    """Train and judge one map."""
    folder = home / "ablations" / arm.replace(", ", "-").replace(" ", "-")
    if (folder / FOUND).is_file():
        return
    settings = settings_of(material, STRIDE_FS, given)
    fit = FitSettings(steps=STEPS[arm.partition(",")[0]], batch_size=4)
    train: StrideSettings = replace(settings.train, fit=fit, **ARMS[arm])
    settings = replace(settings, train=train, judge=settings.judge)
    segments = make_segments([material.start], load(material.student), settings.segments, home / "segments")
    begun = time.process_time()
    with attention_without(WITHOUT.get(arm, {})):
        teach = train_action if arm == "action" else train_stride
        result = teach(segments, material.student, train, folder)
    spent = {"training CPU minutes": (time.process_time() - begun) / 60.0, "steps": result.history[-1]["step"]}
    found = judge_map(result, load(material.student, precision="float32"), material.start, settings)
    write_results(folder, found)
    write_json(folder / FOUND, {"arm": arm, "errors": result.errors, "parameters": result.parameters} | spent)


def summary(home: Path) -> list[dict[str, Any]]:
    """Everything found so far, in the order of ARMS."""
    rows = []
    for path in sorted((home / "ablations").glob("*/" + FOUND)):
        results = read_results(path.parent)
        judged_ps = {"judged for (ps)": results.settings["judge"]["time_ps"]}
        rows.append(json.loads(path.read_text(encoding="utf-8")) | judged_ps | rows_of(results))
    return sorted(rows, key=lambda row: list(ARMS).index(row["arm"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--time-ps", type=float, default=30.0, help="of each judged run")
    parser.add_argument("--record-only", action="store_true")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs")
    given = parser.parse_args()
    given.kicks, given.kick_size, given.steps, given.longest_ps = 2, "student", 0, given.time_ps
    torch.set_num_threads(1)
    home = given.runs / "stride" / "li6ps5cl"
    if not given.record_only:
        material = system("li6ps5cl", given.runs)
        for arm in given.arms:
            one(material, arm, given, home)
    settings = {"stride_fs": STRIDE_FS, "steps": STEPS, "arms": ARMS, "without": WITHOUT}
    write_record("stride_ablations", settings, summary(home))


if __name__ == "__main__":
    main()
