"""On-policy rounds: the student runs MD, frames of it go to the teacher, all students of the committee are refitted.

Student 1 runs the MD. Frames are chosen by novelty × spread: distance from all known frames in the space of
`data.select_frames`, times the largest spread of the committee's forces on an atom. A single student chooses by novelty.

The student's dynamics visits configurations that its teacher's trajectories did not. Their labels make that dynamics reliable;
`distill` does at least one round. A small labelled cell is repeated for it: in 32 atoms the ions see their own images, and three
students of AgI taught there alone had forces in 128 atoms that were wrong by more than the gates allow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from shutil import copyfile
from typing import Any

from mdistill.analysis.accuracy import accuracy
from mdistill.data.select_frames import select
from mdistill.data.store import LabelStore
from mdistill.errors import BlowUp
from mdistill.estimates import Estimate, unknown
from mdistill.hardening.settings import RefineSettings
from mdistill.interrupt import NEVER, StopRequest
from mdistill.io.files import replacing
from mdistill.io.trajectories import read_hdf5
from mdistill.judge.committee import committee_results
from mdistill.judge.spread import calibration, forces_spread
from mdistill.labelling.label import label_structures
from mdistill.labelling.settings import LabelSettings
from mdistill.matter.kinds import KINDS, Matter
from mdistill.matter.masses import repartitioned, usual_time_step
from mdistill.runs.results import Cell, Results, Table, merge
from mdistill.settings import child_seed
from mdistill.simulation.evaluator import make_evaluator
from mdistill.simulation.settings import QUICK_BAROSTAT_PS, SimulateSettings
from mdistill.simulation.simulate import simulate
from mdistill.teachers.models import load
from mdistill.training.committee import member_file, train_committee
from mdistill.training.potential import TrainingResult, evaluate
from mdistill.training.settings import TrainSettings
from mdistill.types import LabelledFrame, Potential, Prediction, System

_BLOCKS_PER_ROUND = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounds:
    """Data that all rounds share.

    Attributes:
        systems: Structures the student's MD starts from, at the size of production rather than of the labels.
        teacher: Labels the selected frames.
        temperatures_K: Temperatures of the student's MD, K.
        settings: Numbers of rounds and frames, length of the MD.
        label: Probes and caps for the new labels.
        train: Size and weights of the student; each refit takes `settings.refit_share` of its time.
        pressure_GPa: Pressure of the student's MD, GPa, so that labels cover its volumes; None: the relaxed cell.
        matter: Kind of matter, for the barostat.
        seed: Seed of the student's MD.
        workers: Number of worker processes for teacher calls; 0: this process.
    """

    systems: Sequence[System]
    teacher: Potential
    temperatures_K: Sequence[float]
    settings: RefineSettings
    label: LabelSettings
    train: TrainSettings
    pressure_GPa: float | None = None
    matter: Matter = KINDS["crystal"]
    seed: int = 0
    workers: int = 0


def teacher_alone(teacher: Potential, train: TrainSettings) -> Rounds:
    """A teacher that labels structures, without MD of the students."""
    return Rounds(systems=(), teacher=teacher, temperatures_K=(), settings=RefineSettings(), label=LabelSettings(), train=train)


def refine(
    rounds: Rounds, frames: Sequence[LabelledFrame], students: Sequence[Path], folder: Path, *, stop: StopRequest = NEVER,
    provenance: dict[str, Any] | None = None,
) -> tuple[list[TrainingResult], Results]:  # fmt: skip
    """Do the rounds; each stores its MD, labels and fits in `folder/round-k` and resumes from there.

    Args:
        rounds: Data and settings.
        frames: Labels the students were trained on.
        students: Model files of the first fits; the first runs the MD.
        folder: Folder of the stage; `student.mdistill`, `student-2.mdistill`, … in it become the last fits.
        stop: Checked in every loop.
        provenance: Stored in the model files.
    Returns:
        The last fits, and a table of the rounds; with a committee also its table and figure.
    """
    settings, everything = rounds.settings, list(frames)
    first = rounds.train.fit.suited(rounds.train.net)
    refit = replace(
        rounds.train,
        fit=replace(
            first,
            max_minutes=first.max_minutes * settings.refit_share,
            max_epochs=max(round(first.max_epochs * settings.refit_share), 1),
            steps=round(first.steps * settings.refit_share),
            least_steps=max(round(first.least_steps * settings.refit_share), 1),
            learning_rate=(first.learning_rate or 0.0) * settings.refit_rate,
        ),
    )
    rows: list[list[Cell]] = []
    unseen: list[LabelledFrame] = []
    answers: list[list[Prediction]] = [[] for _ in students]
    for number in range(1, settings.rounds + 1):
        home = folder / f"round-{number}"
        new, notes = _label_own_frames(rounds, number, everything, students, home, stop=stop)
        for given, student in zip(answers, students, strict=True):
            given.extend(evaluate(load(student), new))
        unseen += new
        before = _force_error(new, answers[0][len(answers[0]) - len(new) :])
        everything += new
        results = train_committee(
            everything, refit, home / "train", count=len(students), start_from=students, stop=stop, provenance=provenance
        )
        students = [result.path for result in results]
        rows.append([f"{number}", len(new), before, _force_error(new, evaluate(load(students[0]), new)), notes or "stable"])
    for number, student in enumerate(students, 1):
        with replacing(folder / member_file(number)) as partial:
            copyfile(student, partial)
    columns = ["round", "new teacher frames", "force MAE before refit (meV/Å)", "after (meV/Å)", "student MD"]
    chosen = "the most novel" if len(students) == 1 else "novel ones with a large spread of the committee"
    caption = f"The new frames are {chosen} of the student's own MD. Before: its error on them, unseen."
    table = Table("rounds", "On-policy rounds", "training", columns, rows, caption)
    found = Results(command="refine", tables=[table])
    if len(students) > 1:
        judged = calibration(unseen, answers) if unseen else None
        found = merge(found, committee_results(results, judged, frames="the new frames, before the refit"))
    return results, found


def _label_own_frames(
    rounds: Rounds, number: int, known: Sequence[LabelledFrame], students: Sequence[Path], home: Path, *, stop: StopRequest
) -> tuple[list[LabelledFrame], str]:
    """Novel frames of the student's MD from each structure at each temperature, labelled; reasons of runs that broke."""
    store, notes = LabelStore(home / "labels"), list[str]()
    members = [load(student, precision="float32") for student in students]
    seed = child_seed(rounds.seed, f"round {number}", "label")
    for temperature, (index, system) in product(rounds.temperatures_K, enumerate(rounds.systems)):
        candidates, broken = own_frames(rounds, number, index, temperature, student=members[0], home=home, stop=stop)
        notes += [broken] if broken else []
        elements = set(system.numbers.tolist())
        like = [f.system for f in known if f.temperature_K == temperature and set(f.system.numbers.tolist()) == elements]
        chosen = select(candidates, like[:: max(len(like) // 40, 1)], rounds.settings.frames, weigh=spread_of(members, system))
        label_structures(
            [candidates[k] for k in sorted(chosen)], rounds.teacher, store, name=f"{index}/{temperature:g}",
            settings=rounds.label, temperature_K=temperature, seed=seed, workers=rounds.workers, stop=stop,
        )  # fmt: skip
    return [replace(frame, block=frame.block + number * _BLOCKS_PER_ROUND) for frame in store.read()], "; ".join(notes)


def own_frames(
    rounds: Rounds, number: int, structure: int, temperature: float, *, student: Potential, home: Path, stop: StopRequest
) -> tuple[list[System], str]:
    """Frames of the student's MD from one of the structures, and why it broke; "" where it did not."""
    system, where, broken = rounds.systems[structure], home / f"md-{structure}-{temperature:g}K", ""
    try:
        masses = repartitioned(system, rounds.label.heavy_h)
        simulate(system, student, _dynamics(rounds, number, structure, temperature), where, stop=stop, masses=masses)
    except BlowUp as blown:
        broken = f"{temperature:g} K: {blown.reason} at step {blown.step}"
    return _frames(where / "trajectory.h5", system), broken


def _dynamics(rounds: Rounds, number: int, structure: int, temperature: float) -> SimulateSettings:
    return SimulateSettings(
        ensemble="nvt" if rounds.pressure_GPa is None else "npt", barostat=rounds.matter.barostat or "anisotropic",
        barostat_ps=QUICK_BAROSTAT_PS, compressibility_per_GPa=rounds.matter.compressibility_per_GPa,
        time_step_fs=usual_time_step(rounds.systems[structure], heavy_h=rounds.label.heavy_h),
        thermostat="langevin", friction_per_ps=10.0, temperature_K=temperature, pressure_GPa=rounds.pressure_GPa or 0.0,
        time_ps=rounds.settings.time_ps, every_fs=rounds.settings.every_fs,
        seed=child_seed(rounds.seed, f"round {number}", f"structure {structure}", f"{temperature:g} K"),
    )  # fmt: skip


def _frames(trajectory: Path, system: System) -> list[System]:
    if not trajectory.exists():
        return []
    read = read_hdf5(trajectory)
    frames = zip(read.positions.to(system.positions), read.cell.to(system.cell), strict=True)
    return [replace(system, positions=positions, cell=cell[None]) for positions, cell in frames]


def spread_of(members: Sequence[Potential], like: System) -> Callable[[System], float] | None:
    """Largest spread of the members' forces on an atom of a structure, eV/Å; None with a single member."""
    if len(members) == 1:
        return None
    evaluators = [make_evaluator(member, like) for member in members]
    return lambda system: float(forces_spread([evaluate(system) for evaluate in evaluators]).max())


def _force_error(frames: Sequence[LabelledFrame], predictions: Sequence[Prediction]) -> Estimate:
    if not frames:
        return unknown("meV/Å")
    return accuracy(frames, predictions).force["all"].mean_absolute.scaled(1e3, "meV/Å")
