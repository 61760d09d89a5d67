"""The teacher trained further on hard labels: all weights of a foundation potential, by the one loop of training.

A few labels gain more this way than by a fitted difference (`benchmarks/hard_targets.py`). The tuned teacher is asked for all
soft labels again.

Reference: arXiv 2506.10956 (a fine-tuned foundation potential labels the structures that a small student learns).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from mdistill.closed_form.delta import offsets
from mdistill.data.store import LabelStore
from mdistill.derivatives import curvature_products
from mdistill.graph import build_graph, cast
from mdistill.hardening.settings import TuneSettings
from mdistill.interrupt import NEVER, StopRequest
from mdistill.nets.model_files import read_metadata
from mdistill.progress import progress
from mdistill.runs.identity import model_id, structure_sha256
from mdistill.teachers.tuned import TunedNet, TunedTeacher, load_tuned
from mdistill.training.fit import TRAINING, fit
from mdistill.training.labels import frames_hash, items_of
from mdistill.training.objective import PotentialObjective, loss_terms
from mdistill.training.potential import evaluate
from mdistill.training.settings import FitSettings, TrainSettings
from mdistill.types import LabelledFrame, Potential, Prediction, System

TUNED, RELABELLED = "tuned.mdistill", "tuned-labels"
_GROUP = 8
"""Frames of a write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """A tuned teacher, as a `Correction` of its teacher.

    Attributes:
        potential: The tuned teacher.
        labels: Number of hard labels that it was trained on.
        known: Frames that it labelled before, by the sha256 of their structures.
    """

    potential: TunedTeacher
    labels: int
    known: Mapping[str, LabelledFrame] = field(default_factory=dict)

    @property
    def softening(self) -> float:
        """Of the student before training: none, for the tuned teacher has no factor."""
        return 0.0

    @property
    def name(self) -> str:
        """Of the tuned teacher, after the teacher's."""
        return "tuned"

    @property
    def told(self) -> str:
        """The same with the number of labels."""
        return f"tuned on {self.labels} labels"

    @property
    def how(self) -> str:
        """The same in words, before the level of theory."""
        return "all its weights trained further on labels of"

    def of(self, base: Prediction, system: System) -> Prediction:
        """Its prediction of one struct; that of the teacher does not count."""
        del base
        return self.potential(build_graph(cast(system, dtype=torch.float64), self.potential.cutoff))

    def corrected(self, frame: LabelledFrame) -> LabelledFrame:
        """A frame with its labels, curvature products too; with stress where the frame has one."""
        if before := self.known.get(_identity(frame)):
            return replace(frame, target=before.target, probes=before.probes, products=before.products)
        target, products = self.of(frame.target, frame.system), frame.products
        if products is not None and frame.probes is not None:
            products = curvature_products(self.potential, frame.system, frame.probes).to(products)
        if frame.target.stress is None:
            target = replace(target, stress=None)
        return replace(frame, target=target, products=products)

    def applied(self, teacher: Potential) -> Potential:
        """The tuned teacher; `teacher` is what it was before."""
        del teacher
        return self.potential


def tune(
    teacher: Potential, hard: Sequence[LabelledFrame], settings: TuneSettings, folder: Path, *, seed: int = 0,
    stop: StopRequest = NEVER,
) -> TunedNet:  # fmt: skip
    """Train all weights of a teacher on hard labels; resumes in its folder.

    Args:
        teacher: SevenNet or CHGNet in this process.
        hard: Structures with labels of higher accuracy.
        settings: Steps and rate.
        folder: Gets the checkpoint.
        seed: Seed of the order of structures.
        stop: Checked between steps.
    Raises:
        BadInput: The weights of this teacher cannot be trained.
        MdistillError: Training diverged.
        Interrupted: Stopped on request, after saving.
    """
    elements = sorted({int(z) for frame in hard for z in frame.system.numbers.unique()})
    reference = torch.zeros(120, dtype=torch.float64)
    reference[elements] = offsets(hard, evaluate(teacher, hard), elements)
    net, train = TunedNet(teacher, reference), TrainSettings(curvature="none")
    steps = max(settings.steps, settings.passes * len(hard))
    how = FitSettings(
        steps=steps, batch_size=1, learning_rate=settings.rate, warmup=10, ema=settings.ema, clip=settings.clip,
        weight_decay=0.0, seed=seed,
    )  # fmt: skip
    objective = PotentialObjective(terms=loss_terms(hard, train), every=1, seed=seed)
    work = replace(TRAINING, settings=settings, inputs={"train": frames_hash(hard)}, models={"teacher": net.teacher_sha256})
    items = items_of(hard, net.cutoff, torch.float64)
    return fit(net, objective, items, [], how, folder=folder, stop=stop, work=work, title="teacher").module


def labelled_again(frames: Sequence[LabelledFrame], tuned: Tuned, folder: Path, *, stop: StopRequest = NEVER) -> Tuned:
    """The tuned teacher with its labels of these frames; each group is stored once it is there, so that this resumes."""
    store, digest = LabelStore(folder), model_id(tuned.potential)[:12]
    known = store.keys
    with progress("labels of the tuned teacher", len(frames), unit="frame") as advance:
        for start in range(0, len(frames), _GROUP):
            stop.raise_if_pending()
            group, key = frames[start : start + _GROUP], f"{digest}@{start}"
            if key not in known:
                store.append([tuned.corrected(frame) for frame in group], key=key)
            advance(len(group))
    return replace(tuned, known=_known(folder))


def load_tuning(path: Path) -> Tuned:
    """Read a tuned teacher with the labels beside it. Raises as `load_tuned`."""
    labels = int(read_metadata(path)["provenance"].get("labels", 0))
    return Tuned(potential=load_tuned(path), labels=labels, known=_known(path.parent / RELABELLED))


def _known(folder: Path) -> dict[str, LabelledFrame]:
    """The frames of a store by structure; of later rounds where several labelled one."""
    return {_identity(frame): frame for frame in LabelStore(folder).read()}


def _identity(frame: LabelledFrame) -> str:
    return structure_sha256(frame.system, decimals=9)
