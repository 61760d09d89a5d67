"""Is a committee started from its first student as wide as one from scratch? Spread of the forces against the true error.

Needs a run folder with labels, such as that of `mdistill distill examples/li6ps5cl.cif --quick`. The last block of each
temperature is kept from every member and judges both committees.

    python -m benchmarks.studies.committee RUN [--steps 1000] [--share 0.4] [--rate 0.3] [--threads 2]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.record import write_record
from mdistill.data.split import split_blocks
from mdistill.judge.spread import calibration
from mdistill.training.committee import train_committee
from mdistill.training.potential import TrainingResult, evaluate
from mdistill.training.settings import TrainSettings
from mdistill.types import LabelledFrame
from mdistill.workflows.run_parts import read_labels


def judged(name: str, members: Sequence[TrainingResult], unseen: Sequence[LabelledFrame]) -> dict[str, Any]:
    """Spread and error of a committee on unseen frames, by temperature too."""
    from mdistill.teachers.models import load

    answers = [evaluate(load(member.path), unseen) for member in members]
    row: dict[str, Any] = {"committee": name, "steps": [member.steps for member in members]}
    for group in ("all", *sorted({frame.temperature_K for frame in unseen})):
        mine = [k for k, frame in enumerate(unseen) if group in ("all", frame.temperature_K)]
        found = calibration([unseen[k] for k in mine], [[own[k] for k in mine] for own in answers])
        where = "" if group == "all" else f" {group:g} K"
        row |= {
            f"spread{where} (meV/Å)": 1e3 * found.spread, f"error{where} (meV/Å)": 1e3 * found.error,
            f"error / spread{where}": found.ratio, f"Spearman{where}": found.rank,
        }  # fmt: skip
    row["frames"] = len(unseen)
    row["force MAE of members on own held-out blocks (meV/Å)"] = [
        1e3 * (member.accuracy.force["all"].mean_absolute.value or 0.0) for member in members
    ]
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--share", type=float, default=0.4)
    parser.add_argument("--rate", type=float, default=0.3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, default=None, help="folder of the fits, to resume")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    known, unseen = split_blocks(read_labels(given.run), held_out=0.15)
    unseen = [frame for frame in unseen if frame.source == "md"]
    base = TrainSettings()
    fit = replace(base.fit.suited(base.net), steps=given.steps)
    afresh, short = replace(base, fit=fit), replace(base, fit=replace(fit, steps=round(given.share * given.steps)))
    warm = replace(short, fit=replace(short.fit, learning_rate=given.rate * (fit.learning_rate or 0.0)))
    work = given.work or Path(tempfile.mkdtemp())
    scratch = train_committee(known, afresh, work / "scratch", count=3)
    begun = [scratch[0].path] * 3
    rows = [judged("from scratch", scratch, unseen)]
    for name, how in (("from student 1, refit rate", warm), ("from student 1, full rate", short)):
        later = train_committee(known, how, work / name.replace(" ", "-").replace(",", ""), count=3, start_from=begun)
        rows.append(judged(name, [scratch[0], *later[1:]], unseen))
    settings = {"steps": given.steps, "share": given.share, "rate": given.rate, "train": afresh, "frames": len(known)}
    write_record("committee", settings, rows)


if __name__ == "__main__":
    main()
