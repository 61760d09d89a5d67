"""Students of gamma-Li3PS4 before and after a few CP2K labels: those of examples/, against others of them that no model saw.

Soft labels: SevenNet-0 on the unit cell (16 atoms) at 300, 600 and 900 K, by the command of docs/howto/hard_labels.md. Students
of three seeds learn them. Then each learns the first 5, 10 and all of the selected CP2K labels, with the settings that
`mdistill harden` has by default: taught by the teacher trained further on these labels ("student, tuned teacher"), or by the
teacher corrected by the difference ("student"). Compared with the teacher and these two. Every fit is stored, so an interrupted
benchmark resumes.

    python -m benchmarks.hard_example [--runs FOLDER] [--seeds 3]
"""

from __future__ import annotations

import argparse
import json
import shlex
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.record import ROOT, write_record
from mdistill import cli
from mdistill.analysis.accuracy import accuracy
from mdistill.analysis.reweighting import force_slope
from mdistill.closed_form.delta import Delta, fit_delta
from mdistill.closed_form.references import with_fitted_references
from mdistill.data.store import LabelStore
from mdistill.graph import build_graph
from mdistill.hardening.harden import first_offsets
from mdistill.hardening.settings import TuneSettings
from mdistill.hardening.tune import RELABELLED, TUNED, Tuned, labelled_again, load_tuning, tune
from mdistill.io.files import write_json
from mdistill.labelling.import_labels import import_labels
from mdistill.nets.model_files import load_model
from mdistill.teachers import load_teacher
from mdistill.teachers.tuned import save_tuned
from mdistill.training.hard_targets import fine_tune
from mdistill.training.potential import evaluate, train_potential
from mdistill.training.settings import FitSettings, HardFitSettings, TrainSettings
from mdistill.types import LabelledFrame, Potential, Prediction

EXAMPLES = ROOT / "examples"
LABEL = (
    "--prepare.cutoff 3 --temperatures-K 300 600 900 --frames 60 --every-fs 40 --displaced 0 --contacts 8 --probe-every 8 "
    "--threads 1"
)
TRAIN = TrainSettings(held_out=0.15, fit=FitSettings(steps=1500, batch_size=4))
HARD = HardFitSettings()
COUNTS = (5, 10)


class Bench:
    """The labels, and fits that are stored by name."""

    def __init__(self, home: Path) -> None:
        self.home = home
        cli.run(["label", str(EXAMPLES / "li3ps4.cif"), *shlex.split(LABEL), "--out", str(home / "soft")])
        self.soft = LabelStore(home / "soft").read()
        self.hard, self.test = (
            import_labels(EXAMPLES / f"li3ps4_{name}.extxyz", hold_out=False).frames for name in ("cp2k", "cp2k_test")
        )
        teacher = load_teacher("sevennet-0")
        self.taught, self.taught_test = answers(teacher, self.hard), answers(teacher, self.test)

    def student(self, seed: int) -> Path:
        train = replace(TRAIN, fit=replace(TRAIN.fit, seed=seed))
        return train_potential(self.soft, train, self.home / "fit" / f"soft-{seed}").path

    def delta(self, count: int) -> Delta:
        return fit_delta(self.hard[:count], self.taught[:count], TRAIN, around=self.soft)

    def tuned(self, count: int, seed: int) -> Tuned:
        """The teacher trained further; stored."""
        folder, labels = self.home / "tuned" / f"{count}-{seed}", self.hard[:count]
        if not (folder / TUNED).is_file():
            folder.mkdir(parents=True, exist_ok=True)
            net = tune(load_teacher("sevennet-0"), labels, TuneSettings(), folder / "teacher", seed=seed)
            save_tuned(folder / TUNED, net, {"labels": count})
        return labelled_again(self.soft, load_tuning(folder / TUNED), folder / RELABELLED)

    def hardened(self, count: int, seed: int, *, tuned: bool) -> Path:
        correction = self.tuned(count, seed) if tuned else self.delta(count)
        folder = self.home / "fit" / f"{'tuned' if tuned else 'hard'}-{count}-{seed}"
        shift = first_offsets(self.student(seed), self.hard[:count], correction.softening, folder)
        train = replace(TRAIN, fit=replace(TRAIN.fit, seed=seed))
        how = replace(HARD, share=TuneSettings().share) if tuned else HARD
        soft = [correction.corrected(frame) for frame in self.soft]
        return fine_tune(
            self.student(seed),
            soft,
            self.hard[:count],
            train,
            how,
            folder=folder,
            references=shift,
            softening=correction.softening,
        ).path

    def answers(self, method: str, count: int, seed: int) -> list[Prediction]:
        """Answers of a method to the test frames."""
        if method == "teacher":
            return self.taught_test
        if method == "teacher + difference":
            delta = self.delta(count)
            return [delta.of(one, frame.system) for one, frame in zip(self.taught_test, self.test, strict=True)]
        if method == "tuned teacher":
            return evaluate(self.tuned(count, seed).potential, self.test)
        student = self.hardened(count, seed, tuned="tuned" in method) if count else self.student(seed)
        return evaluate(load_model(student), self.test)

    def row(self, method: str, count: int, seed: int) -> dict[str, Any]:
        """Errors of a method; stored."""
        path = self.home / "rows" / f"{method}-{count}-{seed}.json"
        if path.is_file():
            return json.loads(path.read_text(encoding="utf-8"))
        begin = time.process_time()
        row = {"model": method, "labels": count, "seed": seed} | errors(self.answers(method, count, seed), self.test)
        row |= {"CPU s": round(time.process_time() - begin, 1)}
        write_json(path, row)
        print(row, flush=True)
        return row


def answers(potential: Potential, frames: Sequence[LabelledFrame]) -> list[Prediction]:
    """Answers of a potential that searches its own neighbours or none."""
    return [potential(build_graph(frame.system, potential.cutoff)) for frame in frames]


def errors(predictions: Sequence[Prediction], labels: Sequence[LabelledFrame]) -> dict[str, float | None]:
    """Errors with their standard error over frames; energies with one fitted constant."""
    plain = [replace(p, forces=p.forces.detach(), energy=p.energy.detach()) for p in predictions]
    found = accuracy(labels, with_fitted_references(labels, plain))
    force, energy = found.force["all"], found.energy["all"]
    slope = force_slope([f.target.forces.numpy() for f in labels], [p.forces.double().numpy() for p in plain])[0]
    by_frame = [float((p.forces - f.target.forces).abs().mean()) for p, f in zip(plain, labels, strict=True)]
    return {
        "force MAE (meV/Å)": 1e3 * float(np.mean(by_frame)),
        "± (frames)": 1e3 * float(np.std(by_frame, ddof=1) / len(by_frame) ** 0.5),
        "force RMSE (meV/Å)": 1e3 * force.root_mean_square, "energy MAE (meV/atom)": 1e3 * (energy.mean_absolute.value or 0.0),
        "slope": slope.value, "± (slope)": slope.error,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "hard-example")
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(given.runs)
    rows = [bench.row("teacher", 0, 0)]
    counts = [*COUNTS, len(bench.hard)]
    rows += [bench.row("teacher + difference", count, 0) for count in counts]
    rows += [bench.row("student", count, seed) for count in (0, *reversed(counts)) for seed in range(given.seeds)]
    for method in ("tuned teacher", "student, tuned teacher"):
        rows += [bench.row(method, count, seed) for count in counts for seed in range(given.seeds)]
    settings = {"label": LABEL, "train": TRAIN, "hard": HARD, "soft frames": len(bench.soft)}
    settings |= {"hard labels": len(bench.hard), "test frames": len(bench.test)}
    write_record("hard_example", settings, rows)


if __name__ == "__main__":
    main()
