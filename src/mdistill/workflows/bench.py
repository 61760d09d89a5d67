"""Students of several sizes on one run's labels: cost of a step and errors of each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mdistill.analysis.accuracy import accuracy
from mdistill.data.split import split_blocks
from mdistill.estimates import Estimate
from mdistill.interrupt import NEVER, StopRequest
from mdistill.judge.timing import Speed, compare_speed
from mdistill.nets.model_files import load_net, read_metadata
from mdistill.runs.folder import run_stage
from mdistill.runs.ledger import Work
from mdistill.runs.results import Cell, Figure, Results, Series, Table, in_section
from mdistill.teachers.models import find_student, load
from mdistill.training.labels import frames_hash
from mdistill.training.potential import evaluate, train_potential
from mdistill.training.settings import FitSettings, TrainSettings
from mdistill.types import LabelledFrame, Potential, System
from mdistill.workflows.run_parts import own_labels, relaxed_systems
from mdistill.workflows.settings import BenchSettings

FRONT = "front"
"""Name of the table and of the figure."""


@dataclass(frozen=True, slots=True)
class _Point:
    """One model: mean absolute errors (meV/Å, meV/atom) and its speed."""

    name: str
    parameters: int
    force: Estimate
    energy: Estimate
    speed: Speed


def bench(run: Path, teacher: Potential, settings: BenchSettings, *, stop: StopRequest = NEVER) -> Results:
    """Train each size on the labels of a run folder, compare all on the same held-out blocks, and time all with the teacher.

    Students are stored in `run`/bench/<size> and not trained again; the table and the plot are added to the run's results.

    Raises:
        BadInput: The folder holds no student, labels or structure.
        Interrupted: A stop was requested; the same call resumes.
    """
    student = find_student(run)
    frames = own_labels(run, student)
    system, made = relaxed_systems(run)[0], read_metadata(student)["provenance"].get("settings", {})
    share = float(made.get("held_out", TrainSettings().held_out))
    held_out, fit = split_blocks(frames, held_out=share)[1], FitSettings(max_minutes=settings.minutes, seed=settings.seed)
    judge = _Judge(teacher, held_out, system, settings.repeats)
    points = [judge.point("this run's student", student)]
    for size in settings.sizes:
        train = TrainSettings(size=size, held_out=share, fit=fit)  # type: ignore[arg-type]
        path = _student(run / "bench" / size, train, frames, stop)
        points.append(judge.point(size, path))
    return _results(points, teacher.name)


def _student(folder: Path, train: TrainSettings, frames: list[LabelledFrame], stop: StopRequest) -> Path:
    work = Work(key=folder.name, settings=train, inputs={"labels": frames_hash(frames)})
    run_stage(folder, work, ["student.mdistill"], lambda: train_potential(frames, train, folder, stop=stop))
    return folder / "student.mdistill"


@dataclass(frozen=True, slots=True)
class _Judge:
    """Data and timings of the comparison."""

    teacher: Potential
    held_out: list[LabelledFrame]
    system: System
    repeats: int

    def point(self, name: str, path: Path) -> _Point:
        errors = accuracy(self.held_out, evaluate(load(path), self.held_out))
        return _Point(
            name,
            sum(weight.numel() for weight in load_net(path).parameters()),
            errors.force["all"].mean_absolute.scaled(1e3, "meV/Å"),
            errors.energy["all"].mean_absolute.scaled(1e3, "meV/atom"),
            compare_speed(self.teacher, load(path, precision="float32"), self.system, repeats=self.repeats),
        )


def _results(points: list[_Point], teacher: str) -> Results:
    rows: list[list[Cell]] = [[teacher, None, points[0].speed.teacher, None, None, None]]
    rows += [[p.name, p.parameters, p.speed.student, p.speed.ratio, p.force, p.energy] for p in points]
    table = Table(
        name=FRONT, title="Accuracy against speed", section="accuracy",
        columns=["model", "parameters", "µs/atom/step", "speed-up", "force MAE (meV/Å)", "energy MAE (meV/atom)"], rows=rows,
        caption="Whole steps of dynamics, each student timed alternately with the teacher; errors on the same held-out blocks.",
    )  # fmt: skip
    series = [
        Series(
            label=p.name, x=[p.speed.student.value or 0.0], y=[p.force.value or 0.0],
            error=None if p.force.error is None else [p.force.error], style="points",
        )
        for p in points
    ]  # fmt: skip
    figure = Figure(
        name=FRONT, title="Accuracy against speed", section="accuracy", kind="loglog", x_label="time per step (µs/atom)",
        y_label="force error (meV/Å)", series=series,
        caption="Left and down is better. Error bars: scatter between held-out time blocks.",
    )  # fmt: skip
    values = {f"front {p.name} us_per_atom_step": p.speed.student for p in points}
    values |= {f"front {p.name} force_mae": p.force for p in points}
    return in_section(FRONT, Results(command="bench", tables=[table], figures=[figure], values=values))
