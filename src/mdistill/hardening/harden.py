"""Hard targets of a run: a few frames get labels of a higher level of theory, and the run's students learn them.

Frames are chosen where the student's invariants are novel (times the committee's spread, where there is one), none of the blocks
that judge the student. The engine labels them, one write per label. The difference to the teacher is fitted in closed form, or
the teacher itself is trained further (`hardening.tune`). The run's soft labels are corrected accordingly, and the students are
fine-tuned on both. Of each round some hard labels are left for the test. In later rounds, and in all of them for unit cells, the
frames are those of MD of the students so far; every fit begins at the students of soft labels. Labels made elsewhere are chosen
among the structures that they are of.

Files in the folder: labels/ (label store of the engine), chosen.extxyz, delta.mdistill or tuned.mdistill, student.mdistill, …;
round-2/, round-3/, … with the students' MD, its labels by the teacher, and fits. round-1/ is there where the first round is not
one of the run's labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from shutil import copyfile
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mdistill.analysis.settings import GateLimits
from mdistill.closed_form.delta import fit_delta, offsets
from mdistill.data.descriptors import invariants_of
from mdistill.data.select_frames import select
from mdistill.data.split import split_blocks
from mdistill.data.store import LabelStore
from mdistill.errors import BadInput
from mdistill.hardening.corrected import DELTA, Correction
from mdistill.hardening.coverage import largest_of
from mdistill.hardening.hard_tables import Compared, force_error, hard_results, rounds_table
from mdistill.hardening.refine import Rounds, own_frames, spread_of
from mdistill.hardening.settings import HardSettings
from mdistill.hardening.tune import RELABELLED, TUNED, Tuned, labelled_again, tune
from mdistill.interrupt import NEVER, StopRequest
from mdistill.io.files import replacing
from mdistill.io.structures import write_systems
from mdistill.judge.spread import forces_spread
from mdistill.labelling.engine import Engine
from mdistill.labelling.label import label_structures
from mdistill.labelling.remembered import longest_s, theory_of
from mdistill.labelling.settings import LabelSettings
from mdistill.nets.model_files import load_model, load_net
from mdistill.notices import notify
from mdistill.runs.identity import model_id, structure_sha256
from mdistill.runs.results import Cell, Results
from mdistill.simulation.evaluator import make_evaluator
from mdistill.teachers.models import load
from mdistill.teachers.tuned import save_tuned, to_tune
from mdistill.training.committee import member_file
from mdistill.training.hard_targets import fine_tune, shifted_student, split_hard
from mdistill.training.potential import evaluate
from mdistill.training.settings import TrainSettings
from mdistill.types import LabelledFrame, Prediction, System

LABELS, CHOSEN, SCALED = "labels", "chosen.extxyz", "scaled.mdistill"
ANSWERS = "hard-answers"
"""Folder in the run with all answers of hard engines, so that no stage or command asks for one again."""
SHARE = 0.5
"""Share of hard calculations that may fail before the job stops."""
FIX = "raise --harden.largest-force or --harden.most-atoms (mdistill harden: --largest-force, --most-atoms)"
FIRST_OWN_BLOCK, FIRST_TUNED_BLOCK, BLOCKS_PER_ROUND = 50_000_000, 75_000_000, 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardening:
    """What the job needs of a run.

    Attributes:
        soft: The run's soft labels.
        students: Model files of the committee.
        teacher: Its name, for tables.
        engine: Gives hard labels.
        train: Settings of the students' first fit.
        budget: Number of hard labels.
        rounds: Number of rounds that share them.
        own: The students' MD, and the teacher that labels its frames; needed for more than one round, unit cells and `given`.
        given: Structures that the engine has labels of: all hard labels are chosen among them, in one round.
        workers, address: Processes for calculations, or a Dask scheduler.
    """

    soft: Sequence[LabelledFrame]
    students: Sequence[Path]
    teacher: str
    engine: Engine
    train: TrainSettings
    budget: int = 40
    rounds: int = 1
    own: Rounds | None = None
    given: Sequence[System] = ()
    workers: int = 0
    address: str = ""

    def __post_init__(self) -> None:
        if self.given and self.rounds > 1:
            raise BadInput("rounds", f"{self.rounds} of labels made elsewhere", allowed="1", fix="--hard-rounds 1")
        if self.budget < 2 * self.rounds:
            allowed = "two hard labels a round, or more"
            raise BadInput("hard labels", f"a budget of {self.budget}", allowed=allowed, fix=f"--budget {2 * self.rounds}")
        if self.rounds > 1 and self.own is None:
            raise BadInput("rounds", f"{self.rounds}", allowed="1 without dynamics of the students", fix="one round")


def harden(
    job: Hardening, settings: HardSettings, folder: Path, *, limits: GateLimits | None = None, stop: StopRequest = NEVER,
    provenance: dict[str, Any] | None = None,
) -> Results:  # fmt: skip
    """Do the job in a folder, or the rest of it.

    Returns:
        Tables of the section "what DFT changed", gates on softening and error against hard labels, notes on calculations that
        failed.
    Raises:
        BadInput: No frame with energy and forces to choose from, or fewer than two hard labels.
        MdistillError: The engine failed on more than half of the structures.
        Interrupted: Stopped on request; the same call resumes.
    """
    if settings.teacher == "tuned" and job.own is None:
        fix = 'own=teacher_alone(teacher, train), or teacher="corrected"'
        raise BadInput("teacher", "tuned, without the teacher", allowed="a job with the teacher itself", fix=fix)
    work = _Work(job, settings, folder, stop, provenance or {}, soft=list(job.soft), students=list(job.students))
    for number in range(1, job.rounds + 1):
        work.round(number, job.budget // job.rounds + (number <= job.budget % job.rounds))
    for number, student in enumerate(work.students, 1):
        with replacing(folder / member_file(number)) as partial:
            copyfile(student, partial)
    return work.told(limits or GateLimits())


def first_offsets(student: Path, hard: Sequence[LabelledFrame], softening: float, folder: Path) -> Float[Tensor, " element"]:
    """Energy per element (eV) that the student needs once its learned energy is times 1 + softening; see `fine_tune`."""
    elements = sorted(load_net(student).elements)
    scaled = shifted_student(student, folder / SCALED, torch.zeros(len(elements)), softening)
    return offsets(hard, evaluate(load_model(scaled), hard), elements)


@dataclass(slots=True)
class _Work:
    """The job, and its state after each round: soft labels (the teacher's), students, hard labels, the difference."""

    job: Hardening
    settings: HardSettings
    folder: Path
    stop: StopRequest
    provenance: dict[str, Any]
    soft: list[LabelledFrame]
    students: list[Path]
    train: list[LabelledFrame] = field(default_factory=list)
    test: list[LabelledFrame] = field(default_factory=list)
    answers: dict[str, Prediction] = field(default_factory=dict)
    chosen: list[System] = field(default_factory=list)
    rows: list[list[Cell]] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    correction: Correction = field(init=False)

    def round(self, number: int, count: int) -> None:
        """Choose, label, learn."""
        of_labels = number == 1 and not self.settings.unit_cell and not self.job.given
        home = self.folder if of_labels else self.folder / f"round-{number}"
        frames, md = (self.of_labels(count), "frames of the labels") if of_labels else self.new(number, count, home)
        labelled = self.hard_labels(frames, number)
        before = force_error(labelled, evaluate(load_model(self.students[0]), labelled)) if labelled else None
        self.rows.append([f"{number}", len(frames), len(labelled), before, md])
        train, test = split_hard(labelled, self.settings.fit.test)
        self.train, self.test = self.train + train, self.test + test
        if len(self.train) < 2:
            fix = f"read {self.folder / LABELS / 'notes.jsonl'}, or raise the budget"
            raise BadInput("hard labels", f"{len(self.train)}", allowed="two or more", fix=fix)
        self.learn(home)

    def of_labels(self, count: int) -> list[LabelledFrame]:
        """Frames of the soft labels, novel ones first. The choice depends on labels, students and settings alone."""
        job, least, most = self.job, self.settings.largest_force, self.settings.most_atoms
        frames = [
            frame for frame in split_blocks(job.soft, held_out=job.train.held_out)[0]
            if not frame.missing and frame.system.n_atoms <= most
        ]  # fmt: skip
        usable = [frame for frame in frames if largest_of(frame.target) <= least]
        if not usable:
            problem = f"none with energy and forces below {least:g} eV/Å, and at most {most} atoms"
            raise BadInput("frames for hard labels", problem, allowed="labelled frames", fix=FIX)
        self.leave_out(len(frames) - len(usable), len(frames), "frames of the labels")
        members = [load_model(student) for student in job.students]

        def spread(frame: LabelledFrame) -> float:
            return float(forces_spread([evaluate(member, [frame])[0] for member in members]).max())

        weights = {id(frame.system): spread(frame) for frame in usable} if len(members) > 1 else None
        picked = select(
            [frame.system for frame in usable], [], count, floor=0.0, describe=invariants_of(load_net(job.students[0])),
            weigh=None if weights is None else lambda system: weights[id(system)], method=self.settings.select,
        )  # fmt: skip
        return [usable[k] for k in picked]

    def new(self, number: int, count: int, home: Path) -> tuple[list[LabelledFrame], str]:
        """Structures that were given, or frames of MD of the students so far and why that MD broke; labelled by the teacher.

        They join the soft labels.
        """
        rounds, given = self.job.own, list(self.job.given)
        assert rounds is not None  # noqa: S101  (`Hardening` checks it)
        candidates, weights, notes = (given, {}, ["structures given"]) if given else self.own(rounds, number, home)
        known = [frame.system for frame in (*self.train, *self.test)]
        picked = select(
            candidates, known, count, floor=0.0 if given else 0.75, describe=invariants_of(load_net(self.students[0])),
            weigh=lambda one: weights.get(id(one), 1.0), method=self.settings.select,
        )  # fmt: skip
        store = LabelStore(home / "soft")
        label_structures(
            [candidates[k] for k in picked], rounds.teacher, store, name="soft", workers=self.job.workers, stop=self.stop,
            settings=replace(rounds.label, probes=0, largest_force=self.settings.largest_force),
        )  # fmt: skip
        self.leave_out(len(picked) - len(store), len(picked), f"frames of round {number}, judged by the teacher,")
        if not len(store):
            problem = f"round {number} has none with forces below {self.settings.largest_force:g} eV/Å; {'; '.join(notes)}"
            raise BadInput("frames for hard labels", problem.rstrip("; "), allowed="one or more", fix=FIX)
        first = FIRST_OWN_BLOCK + number * BLOCKS_PER_ROUND
        frames = [replace(frame, block=frame.block + first) for frame in store.read()]
        self.soft += frames
        return frames, "; ".join(notes) or "stable"

    def own(self, rounds: Rounds, number: int, home: Path) -> tuple[list[System], dict[int, float], list[str]]:
        """Frames of MD of the students so far, without those of large forces; the committee's spread on each by identity, and why
        the MD broke. What the student calls a large force costs the teacher nothing, and no place among the chosen."""
        members, made = [load(student, precision="float32") for student in self.students], 0
        candidates, weights, notes = list[System](), dict[int, float](), list[str]()
        for temperature, (index, system) in product(rounds.temperatures_K, enumerate(rounds.systems)):
            found, broken = own_frames(rounds, number, index, temperature, student=members[0], home=home, stop=self.stop)
            weigh, answer = spread_of(members, system) or (lambda _: 1.0), make_evaluator(members[0], system)
            below = [one for one in found if largest_of(answer(one)) <= self.settings.largest_force]
            weights |= {id(one): weigh(one) for one in below}
            candidates, notes, made = candidates + below, notes + ([broken] if broken else []), made + len(found)
        self.leave_out(made - len(candidates), made, f"frames of round {number}, judged by the student,")
        return candidates, weights, notes

    def leave_out(self, count: int, among: int, what: str) -> None:
        """Note frames with large forces."""
        if count:
            limit = f"no finite force, or one above {self.settings.largest_force:g} eV/Å (largest-force)"
            note = f"{count} of {among} {what} are no candidates for hard labels: {limit}"
            self.left += [] if note in self.left else [note]

    def hard_labels(self, frames: Sequence[LabelledFrame], number: int) -> list[LabelledFrame]:
        """Hard labels of a round's frames; those that the engine failed on are missing."""
        mine, job = {structure_sha256(frame.system): frame.target for frame in frames}, self.job
        self.answers |= mine
        self.chosen += [frame.system for frame in frames]
        write_systems(self.folder / CHOSEN, self.chosen)
        store, label = LabelStore(self.folder / LABELS), LabelSettings(probes=0, timeout_s=longest_s(job.engine))
        label_structures(
            [frame.system for frame in frames], job.engine, store, name="hard" if number == 1 else f"hard-{number}",
            settings=label, source="hard", workers=job.workers, stop=self.stop, group=1, share=SHARE, attempts=2,
            address=job.address,
        )  # fmt: skip
        store.finished()
        return [frame for frame in store.read() if structure_sha256(frame.system) in mine]

    def learn(self, home: Path) -> None:
        """The difference to the teacher and the students, from all hard labels so far."""
        job, train, students, fit = self.job, self.train, list[Path](), self.settings.fit
        if to_tune(job.teacher, self.settings.teacher) and job.own is not None:
            self.correction, more = self.tuned(home)
            fit = replace(fit, share=fit.share or self.settings.tune.share)
        else:
            self.correction, more = self.difference(), []
        soft = [*(self.correction.corrected(frame) for frame in self.soft), *more]
        for number, student in enumerate(job.students, 1):
            place, softening = home / f"fit-{number}", self.correction.softening
            tuned = fine_tune(
                student, soft, train, job.train, fit, folder=place, softening=softening, stop=self.stop,
                references=first_offsets(student, train, softening, place), provenance=self.provenance, member=number,
            )  # fmt: skip
            students.append(tuned.path)
        self.students = students

    def difference(self) -> Correction:
        """The fitted difference to the teacher."""
        train, job = self.train, self.job
        delta = fit_delta(train, [self.answers[structure_sha256(f.system)] for f in train], job.train, around=self.soft)
        delta.save(self.folder / DELTA, engine=theory_of(job.engine), teacher=job.teacher)
        return delta

    def tuned(self, home: Path) -> tuple[Correction, list[LabelledFrame]]:
        """The teacher trained further, with its labels of the soft frames; and frames of the students' MD that it labelled."""
        job, train = self.job, self.train
        assert job.own is not None  # noqa: S101  (`Hardening` checks it)
        net = tune(job.own.teacher, train, self.settings.tune, home / "teacher", seed=job.train.fit.seed, stop=self.stop)
        told = {"engine": theory_of(job.engine), "labels": len(train), "teacher": job.teacher}
        save_tuned(self.folder / TUNED, net, told)
        tuned = Tuned(potential=net.potential(), labels=len(train))
        more = self.labelled_by(tuned, home) if job.own.systems and self.settings.tune.frames else []
        return labelled_again(self.soft, tuned, self.folder / RELABELLED, stop=self.stop), more

    def labelled_by(self, tuned: Tuned, home: Path) -> list[LabelledFrame]:
        """Frames evenly over the MD of the students, labelled by the tuned teacher."""
        rounds, number, store = self.job.own, len(self.rows), LabelStore(home / "tuned-soft")
        assert rounds is not None  # noqa: S101  (`Hardening` checks it)
        (found, _, broken), most = self.own(rounds, number, home), self.settings.tune.frames
        self.left += [f"MD of the students for labels of the tuned teacher broke: {'; '.join(broken)}"] if broken else []
        chosen = [found[k] for k in sorted({int(k) for k in np.linspace(0, len(found) - 1, min(most, len(found)))})]
        label = replace(rounds.label, largest_force=self.settings.largest_force)
        name = model_id(tuned.potential)[:12]
        label_structures(chosen, tuned.potential, store, name=name, settings=label, workers=self.job.workers, stop=self.stop)
        first = FIRST_TUNED_BLOCK + number * BLOCKS_PER_ROUND
        return [replace(frame, block=frame.block + first) for frame in store.read()]

    def told(self, limits: GateLimits) -> Results:
        """Tables and gates, with notes on what is missing."""
        job, asked, notes = self.job, len(self.chosen), list(self.left)
        missing, shown = asked - len(self.train) - len(self.test), self.test or self.train
        if missing:
            notes.append(f"{missing} of {asked} hard calculations failed; they are in {self.folder / LABELS / 'broken'}")
        if asked < min(job.budget, len(job.given) or job.budget):
            notes.append(f"hard labels: {asked} different frames for a budget of {job.budget}")
        if not self.test:
            notes.append("no hard label is left for the test: errors against DFT are those of trained structures")
        bulk = [frame for frame in (*self.train, *self.test) if bool(frame.system.pbc.all())]
        if without := sum(frame.target.stress is None for frame in bulk):
            what = f"{without} of {len(bulk)} hard labels have no stress"
            notes.append(f"{what}, which alone teaches the pressure: density and cell need not be those of their level of theory")
        for note in notes:
            notify(note)
        compared = Compared(
            teacher=job.teacher, theory=theory_of(job.engine), frames=shown, correction=self.correction,
            soft=[self.answers[structure_sha256(frame.system)] for frame in shown],
            before=evaluate(load_model(job.students[0]), shown), after=evaluate(load_model(self.students[0]), shown),
            trained=len(self.train), tested=len(self.test),
        )  # fmt: skip
        results = hard_results(compared, limits)
        tables = [*results.tables, *([rounds_table(self.rows)] if job.rounds > 1 else [])]
        return replace(results, tables=tables, notes=notes)
