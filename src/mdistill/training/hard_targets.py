"""Hard targets: a student of soft labels learns a few labels of higher accuracy, with replay of the soft ones.

The soft labels that are replayed are corrected first (`closed_form.delta`): the teacher's own would pull the student back to its
errors. The student starts scaled by 1 + s and with the element offsets of the new level of theory. A frame with a hard label
counts several times, so that hard labels are a given share of all, and its soft label is left out. Without soft labels beside
them few hard ones would be learned by heart: n of them have a share of n / (n + EQUAL).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mdistill.data.split import split_blocks
from mdistill.interrupt import NEVER, StopRequest
from mdistill.nets.model_files import load_net, read_metadata, save_model
from mdistill.runs.identity import structure_sha256
from mdistill.training.potential import TrainingResult, train_potential
from mdistill.training.settings import HardFitSettings, TrainSettings
from mdistill.types import LabelledFrame

HARD = "hard"
"""`source` of frames with hard labels."""
START = "start.mdistill"
FIRST_BLOCK = 100_000_000
"""Number of the first block of hard labels; each label is a block of its own."""
EQUAL = 10
"""Number of hard labels that have half of all steps."""


def share_of(labels: int, settings: HardFitSettings) -> float:
    """Share of hard labels among all in training."""
    return labels / (labels + EQUAL) if settings.share is None else settings.share


def split_hard(frames: Sequence[LabelledFrame], share: float) -> tuple[list[LabelledFrame], list[LabelledFrame]]:
    """Hard labels for training and for the test: evenly over their order, at least one in the test where there are four."""
    count = left_for_test(len(frames), share)
    chosen = {int(k) for k in np.linspace(0, len(frames) - 1, count + 2)[1:-1]}
    return [f for k, f in enumerate(frames) if k not in chosen], [f for k, f in enumerate(frames) if k in chosen]


def left_for_test(count: int, share: float) -> int:
    """Number of hard labels of a round that are left for the test."""
    return max(round(share * count), 1) if count >= 4 and share > 0.0 else 0


def shifted_student(student: Path, path: Path, references: torch.Tensor, softening: float) -> Path:
    """Write the student with its learned energy times 1 + softening, and other energies per element (eV) added."""
    net = load_net(student)
    with torch.no_grad():
        net.scale.mul_(1.0 + softening)
        net.reference.add_(references.to(net.reference))
    save_model(path, net, read_metadata(student)["provenance"])
    return path


def together(soft: Sequence[LabelledFrame], hard: Sequence[LabelledFrame], share: float) -> list[LabelledFrame]:
    """Soft frames and hard ones, each hard one as often as makes them this share of all (at least once)."""
    often = max(1, round(share / (1.0 - share) * len(soft) / max(len(hard), 1)))
    blocks = [replace(frame, source=HARD, block=FIRST_BLOCK + k) for k, frame in enumerate(hard)]
    return [*soft, *(frame for frame in blocks for _ in range(often))]


def not_labelled(soft: Sequence[LabelledFrame], hard: Sequence[LabelledFrame]) -> list[LabelledFrame]:
    """Soft frames without the structures that have a hard label: a corrected label beside it would contradict it."""
    known = {structure_sha256(frame.system, decimals=6) for frame in hard}
    return [frame for frame in soft if structure_sha256(frame.system, decimals=6) not in known]


def fine_tune(
    student: Path, soft: Sequence[LabelledFrame], hard: Sequence[LabelledFrame], train: TrainSettings, settings: HardFitSettings,
    *, folder: Path, references: torch.Tensor, softening: float, held_blocks: Sequence[int] = (), stop: StopRequest = NEVER,
    provenance: dict[str, Any] | None = None, member: int = 1,
) -> TrainingResult:  # fmt: skip
    """Train a student on hard labels with replay; writes `start.mdistill` and what `train_potential` writes, or resumes.

    Args:
        student: The student of the soft labels.
        soft: Soft labels, corrected.
        hard: Hard labels to train on.
        train: Settings of the student's first fit.
        settings: Rate, time, share of hard labels.
        folder: Folder of the fit.
        references: Energy per element of the student (eV) to add at the start.
        softening: s of the correction.
        held_blocks: Blocks of the soft labels that are held out; by default the usual ones. No hard label is held out.
        stop, provenance, member: As for `train_potential`.
    """
    first, folder = train.fit.suited(train.net), Path(folder)
    fit = replace(
        first, learning_rate=(first.learning_rate or 0.0) * settings.rate, max_minutes=first.max_minutes * settings.time,
        steps=round(first.steps * settings.time), max_epochs=max(round(first.max_epochs * settings.time), 1),
        least_steps=max(round(first.least_steps * settings.time), 1),
    )  # fmt: skip
    start = shifted_student(student, folder / START, references, softening)
    held = set(held_blocks) or {frame.block for frame in split_blocks(soft, held_out=train.held_out, member=member)[1]}
    replayed = not_labelled(soft, hard)
    if all(frame.block not in held for frame in replayed):
        replayed += [frame for frame in soft if frame.block in held]
    return train_potential(
        together(replayed, hard, share_of(len(hard), settings)), replace(train, fit=fit), folder, stop=stop, start_from=start,
        member=member, provenance=(provenance or {}) | {"hard_labels": len(hard)}, held_blocks=held,
    )  # fmt: skip
