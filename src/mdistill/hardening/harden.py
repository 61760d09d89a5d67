"""Hard targets of a run: a few of its frames get labels of a higher level of theory, and its students learn them.

Frames are chosen where the student's invariants are novel (times the committee's spread, where there is one). The engine labels
them, one write per label. The difference to the teacher is fitted in closed form, the run's soft labels are corrected by it, and
the students are fine-tuned on both. A part of the hard labels is left for the test.

Files in the folder: labels/ (label store of the engine), chosen.extxyz, delta.mdistill, student.mdistill, student-2.mdistill, …
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import copyfile
from typing import Any

import numpy as np

from mdistill.analysis.accuracy import accuracy
from mdistill.analysis.reweighting import force_slope
from mdistill.analysis.settings import GateLimits
from mdistill.closed_form.delta import Delta, fit_delta, offsets
from mdistill.data.descriptors import invariants_of
from mdistill.data.select_frames import select
from mdistill.data.store import LabelStore
from mdistill.errors import BadInput
from mdistill.estimates import Gate, gate
from mdistill.hardening.settings import HardSettings
from mdistill.interrupt import NEVER, StopRequest
from mdistill.io.files import replacing
from mdistill.io.structures import write_systems
from mdistill.judge.label_errors import with_fitted_references
from mdistill.judge.spread import forces_spread
from mdistill.labelling.engine import Engine
from mdistill.labelling.label import label_structures
from mdistill.labelling.remembered import longest_s, theory_of
from mdistill.labelling.settings import LabelSettings
from mdistill.nets.model_files import load_model, load_net
from mdistill.notices import notify
from mdistill.runs.identity import structure_sha256
from mdistill.runs.results import Cell, Results, Table
from mdistill.training.committee import member_file
from mdistill.training.hard_targets import fine_tune, split_hard
from mdistill.training.potential import evaluate
from mdistill.training.settings import TrainSettings
from mdistill.types import LabelledFrame, Prediction

SECTION = "what DFT changed"
LABELS, CHOSEN, DELTA = "labels", "chosen.extxyz", "delta.mdistill"
SHARE = 0.5
"""Share of hard calculations that may fail before the job stops."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardening:
    """What the job needs of a run.

    Attributes:
        soft: The run's soft labels.
        students: Model files of the committee.
        teacher: Its name, for tables.
        engine: Gives hard labels.
        train: Settings of the students' first fit.
        seed: For the members' fits.
        workers, address: Processes for calculations, or a Dask scheduler.
    """

    soft: Sequence[LabelledFrame]
    students: Sequence[Path]
    teacher: str
    engine: Engine
    train: TrainSettings
    seed: int = 0
    workers: int = 0
    address: str = ""


def harden(
    job: Hardening, settings: HardSettings, folder: Path, *, limits: GateLimits | None = None, stop: StopRequest = NEVER,
    provenance: dict[str, Any] | None = None,
) -> Results:  # fmt: skip
    """Do the job in a folder, or the rest of it.

    Returns:
        Tables of the section "what DFT changed", the softening gate, notes on calculations that failed.
    Raises:
        BadInput: No frame with energy and forces to choose from, or fewer than two hard labels.
        MdistillError: The engine failed on more than half of the structures.
        Interrupted: Stopped on request; the same call resumes.
    """
    chosen = _chosen(job, settings, folder)
    store = LabelStore(folder / LABELS)
    label = LabelSettings(probes=0, timeout_s=longest_s(job.engine))
    label_structures(
        [job.soft[k].system for k in chosen], job.engine, store, name="hard", settings=label, source="hard", workers=job.workers,
        stop=stop, group=1, share=SHARE, address=job.address,
    )  # fmt: skip
    answers = {structure_sha256(job.soft[k].system): job.soft[k].target for k in chosen}
    labelled = [frame for frame in store.read() if structure_sha256(frame.system) in answers]
    if len(labelled) < 2:
        fix = f"read {folder / LABELS / 'notes.jsonl'}, or raise the budget"
        raise BadInput("hard labels", f"{len(labelled)}", allowed="two or more", fix=fix)
    train, test = split_hard(labelled, settings.fit.test)
    delta = fit_delta(train, [answers[structure_sha256(f.system)] for f in train], job.train, around=job.soft)
    delta.save(folder / DELTA, engine=theory_of(job.engine), teacher=job.teacher)
    soft = [delta.corrected(frame) for frame in job.soft]
    for number, student in enumerate(job.students, 1):
        home = folder / f"fit-{number}"
        first = offsets(train, evaluate(load_model(student), train), sorted(load_net(student).elements))
        tuned = fine_tune(
            student, soft, train, job.train, settings.fit, folder=home, references=first, softening=delta.softening, stop=stop,
            provenance=provenance, member=number,
        )  # fmt: skip
        with replacing(folder / member_file(number)) as partial:
            copyfile(tuned.path, partial)
    missing = len(chosen) - len(labelled)
    notes = [f"{missing} of {len(chosen)} hard calculations failed; they are in {folder / LABELS / 'broken'}"] if missing else []
    if not test:
        notes.append("no hard label is left for the test: errors against DFT are those of trained structures")
    for note in notes:
        notify(note)
    compared = _Compared(job, delta, folder, test or train, answers)
    return replace(compared.results(limits or GateLimits(), counts=(len(train), len(test))), notes=notes)


def _chosen(job: Hardening, settings: HardSettings, folder: Path) -> list[int]:
    """Indices of the frames to label, novel ones first. The choice depends on labels, students and settings alone."""
    usable = [
        k for k, frame in enumerate(job.soft)
        if not frame.missing and float(frame.target.forces.norm(dim=1).max()) <= settings.largest_force
    ]  # fmt: skip
    if not usable:
        problem, allowed = "none with energy and forces below largest_force", "labelled frames"
        raise BadInput("frames for hard labels", problem, allowed=allowed, fix="raise --hard.largest-force")
    members = [load_model(student) for student in job.students]

    def spread(frame: LabelledFrame) -> float:
        return float(forces_spread([evaluate(member, [frame])[0] for member in members]).max())

    weights = {id(job.soft[k].system): spread(job.soft[k]) for k in usable} if len(members) > 1 else None
    picked = select(
        [job.soft[k].system for k in usable], [], settings.budget, floor=0.0, describe=invariants_of(load_net(job.students[0])),
        weigh=None if weights is None else lambda system: weights[id(system)], method=settings.select,
    )  # fmt: skip
    if len(picked) < settings.budget:
        notify(f"hard labels: {len(picked)} different frames for a budget of {settings.budget}")
    write_systems(folder / CHOSEN, [job.soft[usable[k]].system for k in picked])
    return [usable[k] for k in picked]


@dataclass(frozen=True, slots=True)
class _Compared:
    """Teacher, students before and after, and labels, on the test frames."""

    job: Hardening
    delta: Delta
    folder: Path
    test: Sequence[LabelledFrame]
    answers: dict[str, Prediction]

    def results(self, limits: GateLimits, *, counts: tuple[int, int]) -> Results:
        soft = [self.answers[structure_sha256(frame.system)] for frame in self.test]
        taught = [replace(frame, target=one, missing=frozenset()) for frame, one in zip(self.test, soft, strict=True)]
        before = evaluate(load_model(self.job.students[0]), self.test)
        after = evaluate(load_model(self.folder / member_file(1)), self.test)
        corrected = [self.delta.of(one, frame.system) for one, frame in zip(soft, self.test, strict=True)]
        label = theory_of(self.job.engine)
        rows = [
            _row("student before", self.job.teacher, taught, before), _row(self.job.teacher, label, self.test, soft),
            _row("student before", label, self.test, before), _row(f"{self.job.teacher}, corrected", label, self.test, corrected),
            _row("student after", label, self.test, after), _row("student after", self.job.teacher, taught, after),
        ]  # fmt: skip
        columns = ["model", "against", "force MAE (meV/Å)", "force RMSE (meV/Å)", "energy MAE (meV/atom)", "force slope"]
        caption = (
            f"{counts[0]} labels in training, {len(self.test)} {'left for the test' if counts[1] else 'of them compared'}. "
            "Energies with one fitted constant for each element. Slope: of the model's forces against the others; below 1: soft."
        )
        table = Table("hard", "What DFT changed", SECTION, columns, rows, caption)
        return Results(
            command="harden", tables=[table], gates=[self._softening(after, limits)],
            provenance={"engine": label, "hard_labels": counts[0], "softening": self.delta.softening},
        )  # fmt: skip

    def _softening(self, after: Sequence[Prediction], limits: GateLimits) -> Gate:
        slope = force_slope(_forces(f.target for f in self.test), _forces(after))[0]
        detail = "slope of the student's forces against hard labels"
        return gate("softening against DFT", slope, limits.force_slope, detail, sense="at least", errors=2.0)


def _forces(predictions: Any) -> list[np.ndarray]:
    return [one.forces.detach().double().numpy() for one in predictions]


def _row(model: str, against: str, frames: Sequence[LabelledFrame], answers: Sequence[Prediction]) -> list[Cell]:
    answers = [replace(one, forces=one.forces.detach(), energy=one.energy.detach()) for one in answers]
    errors = accuracy(frames, with_fitted_references(frames, answers))
    force, slope = errors.force["all"], force_slope(_forces(f.target for f in frames), _forces(answers))[0]
    energy = errors.energy["all"].mean_absolute.scaled(1e3, "meV/atom") if len(frames) > 1 and errors.energy else None
    return [model, against, force.mean_absolute.scaled(1e3, "meV/Å"), 1e3 * force.root_mean_square, energy, slope]
