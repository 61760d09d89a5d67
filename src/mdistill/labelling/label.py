r"""Teacher labels from structures: strained, rattled and compressed cells, then teacher dynamics up a temperature ladder.

A plan is a fixed list of tasks per structure: "strain", "rattle", "contact", "defect", then "md" at each temperature in turn,
each starting at the end of the one before, in the cell expected at zero pressure. Frames of dynamics are labelled by the
teacher's predictions along the way. Each append to the store names its task and progress, and `restart.npz` holds the phase-space
point of the running dynamics. So a run that was stopped or killed continues bit for bit and adds no frame twice.

Files in the folder: labels.jsonl and labels-*.npz (`data.store`), ledger.json, restart.npz, notes.jsonl, broken/*.extxyz.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mdistill.data.store import LabelStore
from mdistill.errors import BlowUp, MdistillError
from mdistill.interrupt import NEVER, StopRequest
from mdistill.io.files import append_line
from mdistill.io.structures import write_systems
from mdistill.labelling.engine import Answer, Engine, Failure, as_engine
from mdistill.labelling.executor import AskedPotential, Executor, NoAnswer, executor
from mdistill.labelling.expansion import expanded
from mdistill.labelling.plan import Task, plan, steps, task_calls, with_time_step
from mdistill.labelling.settings import LabelSettings
from mdistill.labelling.tables import label_results
from mdistill.labelling.tasks import Question, frame_of, frame_questions, questions, still_questions
from mdistill.matter.kinds import WITHOUT_H_FS
from mdistill.matter.masses import repartitioned
from mdistill.progress import Advance, progress, silent
from mdistill.runs.identity import model_id, structure_digests
from mdistill.runs.ledger import Ledger, Work
from mdistill.runs.results import Results
from mdistill.settings import amended, stream
from mdistill.simulation.evaluator import Evaluator
from mdistill.simulation.guard import Guard
from mdistill.simulation.initial_state import initial_state
from mdistill.simulation.restart import RestartPoint, load_restart, save_restart
from mdistill.simulation.rollout import Calling
from mdistill.simulation.sample import langevin, sampled
from mdistill.simulation.settings import GuardSettings
from mdistill.types import LabelledFrame, Potential, State, System

LARGEST_SHARE = 0.05
"""Share of structures the teacher may fail on before the run stops."""
_GROUP = 8
"""Number of single structures per write by default; also the block size of on-policy frames."""


@dataclass(slots=True)
class _Run:
    """State of one run; frames are in `pending` until they are written."""

    executor: Executor
    settings: LabelSettings
    store: LabelStore
    seed: int
    stop: StopRequest
    group: int = _GROUP
    share: float = LARGEST_SHARE
    attempts: int = 1
    advance: Advance = silent
    pending: list[LabelledFrame] = field(default_factory=list)

    def position(self, name: str) -> int:
        """Progress of a task, from the store."""
        return max((int(key.rpartition("@")[2]) for key in self.store.keys if key.rpartition("@")[0] == name), default=0)

    def flush(self, name: str, position: int) -> None:
        if self.pending:
            self.store.append(self.pending, key=f"{name}@{position}")
            self.pending = []

    def keep(self, question: Question, answer: Answer | Failure) -> None:
        """Collect the frame; write a broken one to `broken/`, and stop the run when too many are broken."""
        frame = frame_of(question, answer, largest_force=self.settings.largest_force)
        if isinstance(frame, Failure):
            where = _set_aside(self.store.folder, f"{question.name}-{question.index}", question.system)
            text = f"{question.name}, frame {question.index} left out: {frame.reason} ({where})"
            _note(self.store.folder, text, failure=frame.engine_failed)
            self.check(at_least=2.0 / self.share)
        else:
            self.pending.append(frame)

    def check(self, *, at_least: float) -> None:
        """Raise when the engine failed on more than `share` of the structures (of `at_least` many)."""
        failed = sum(entry["failure"] for entry in _notes(self.store.folder))
        asked = len(self.store) + len(self.pending) + failed
        if failed > self.share * max(asked, at_least):
            raise MdistillError(
                f"{self.executor.engine.name} failed on {failed} of {asked} structures (limit {self.share:.0%}); they are in "
                f"{self.store.folder / 'broken'}, the reasons in {self.store.folder / 'notes.jsonl'}.\n"
                "  fix: read the reasons; lower the highest temperature or raise --timeout-s. Labels so far are stored"
            )


def label_run(
    systems: Sequence[System], teacher: Potential | Engine, settings: LabelSettings, folder: Path, *, seed: int = 0,
    workers: int = 0, stop: StopRequest = NEVER,
) -> Results:  # fmt: skip
    """Carry out the plan, or continue it in its folder.

    Args:
        systems: Prepared (relaxed) structures, one struct each.
        teacher: The teacher.
        settings: Labels to compute.
        folder: Holds the label store.
        seed: Seed of everything random.
        workers: Number of worker processes for teacher calls; 0: this process. The labels are the same.
        stop: Checked between steps and structures.
    Returns:
        Table of frames per structure, source and temperature, and notes on what was left out.
    Raises:
        Interrupted: A stop was requested; everything is saved.
        MdistillError: The teacher failed on more than 5 % of the structures, or twice at the same point of a dynamics (the
            structures are in `folder/broken`); or the folder cannot be written.
        BadInput: The folder holds a run of another plan, or damaged labels; or the teacher does not know an element.
    """
    tasks = plan(systems, settings)
    settings = with_time_step(settings, systems[0])
    inputs, models = {"structures": structure_digests(*systems)}, {"teacher": model_id(teacher)}  # type: ignore[arg-type]
    work = Work(key="labels", settings=amended(settings, {"seed": seed}), inputs=inputs, models=models)
    ledger, begin = Ledger(folder), time.monotonic()
    ledger.resumes(work, holds="labels", may_change=("timeout_s", "version"), files=("labels.jsonl",))
    with _asking(teacher, settings, LabelStore(folder), seed=seed, workers=workers, stop=stop) as run:
        done = sum(run.position(task.name) for task in tasks)
        with progress("labels", sum(task_calls(task, settings) for task in tasks), unit="call", done=done) as run.advance:
            for number, task in enumerate(tasks):
                if task.kind == "md":
                    before = [other for other in tasks[:number] if other.structure == task.structure]
                    _dynamics(run, number, task, systems[task.structure], before)
                else:
                    _label_each(run, still_questions(task, systems[task.structure], settings, seed=seed))
        run.check(at_least=0.0)
        notes = [entry["text"] for entry in _notes(folder)]
        name, seconds = run.executor.engine.name, time.monotonic() - begin
        ledger.finish(work, seconds=seconds)
        run.store.finished()
        return label_results(run.store.read(), tasks, settings, teacher=name, seconds=seconds, notes=notes)


def label_structures(
    systems: Sequence[System], teacher: Potential | Engine, store: LabelStore, *, name: str, settings: LabelSettings,
    source: str = "on-policy", temperature_K: float = 0.0, seed: int = 0, workers: int = 0, stop: StopRequest = NEVER,
    group: int = _GROUP, share: float = LARGEST_SHARE, attempts: int = 1, address: str = "",
) -> int:  # fmt: skip
    """Label given structures (from the student's dynamics) and add them to a store; resumes like `label_run`.

    Args:
        systems: One struct each.
        teacher: The teacher.
        store: Label store; frames are added in blocks of `group`.
        name: Names this set ("round-1"); a set of this name that is already there is completed, not repeated.
        settings: Its probes, probe_every, largest_force and timeout_s are used.
        source, temperature_K: Stored with the frames.
        seed, workers, stop: As for `label_run`.
        group: Number of structures per write; 1 where each is expensive.
        share: Share of structures the engine may fail on before the run stops.
        attempts: Number of calls for a structure where the first may have failed by chance, as when its process was killed.
        address: Of a Dask scheduler that carries out the calculations (`labelling.executor`); "" for this machine.
    Returns:
        Number of frames of this set in the store.
    Raises:
        Interrupted, MdistillError, BadInput: As `label_run`.
    """
    others = [block for entry in store.index() if not entry["key"].startswith(f"{name}@") for block in entry["blocks"]]
    first = max(others, default=-1) + 1
    blocks = [first + k // group for k in range(len(systems))]
    asked = questions(
        name, systems, settings, sources=[source] * len(systems), blocks=blocks, seed=seed, temperature_K=temperature_K
    )
    with (
        _asking(teacher, settings, store, seed=seed, workers=workers, stop=stop, address=address) as run,
        progress(f"labels {name}", len(systems), unit="call", done=run.position(name)) as run.advance,
    ):
        run.group, run.share, run.attempts = group, share, attempts
        _label_each(run, asked)
    return sum(entry["frames"] for entry in store.index() if entry["key"].startswith(f"{name}@"))


@contextmanager
def _asking(
    teacher: Potential | Engine, settings: LabelSettings, store: LabelStore, *, seed: int, workers: int, stop: StopRequest,
    address: str = "",
) -> Iterator[_Run]:  # fmt: skip
    store.check()
    place, engine = store.folder / "engine", as_engine(teacher)
    asked = executor(engine, workers=workers, seconds=settings.timeout_s, folder=place, address=address)
    with closing(asked):
        yield _Run(executor=asked, settings=settings, store=store, seed=seed, stop=stop)


def _label_each(run: _Run, asked: Sequence[Question]) -> None:
    """Single structures of one set, after those in the store."""
    left = asked[run.position(asked[0].name) :] if asked else []
    answers = run.executor.answers(left, attempts=run.attempts, stop=run.stop)
    for question, answer in zip(left, answers, strict=False):
        run.keep(question, answer)
        run.advance()
        if (question.index + 1) % run.group == 0 or question is left[-1] or run.stop.pending():
            run.flush(question.name, question.index + 1)
    run.stop.raise_if_pending()


def _dynamics(run: _Run, number: int, task: Task, relaxed: System, before: Sequence[Task]) -> None:
    """Dynamics at one temperature, from the restart point if there is one for this task. `before`: tasks of this structure."""
    settings, path = run.settings, run.store.folder / "restart.npz"
    point = _begin(run, number, task, relaxed, before)
    if point is None:
        return
    state, step, generator = point.state, point.step, point.generator()

    def save(*, over: bool, blown: bool = False) -> None:
        run.flush(task.name, step)
        extras = {"task": float(number), "structure": float(task.structure), "over": float(over), "blown": float(blown)}
        save_restart(path, RestartPoint(step=step, state=state, generator_state=generator_state, extras=extras))

    guard = Guard(settings=GuardSettings(largest_force=settings.largest_force), temperature_K=task.temperature_K)
    moving = langevin(Evaluator(AskedPotential(run.executor)), guard, temperature_K=task.temperature_K,
                      time_step_fs=settings.time_step_fs or WITHOUT_H_FS, friction_per_ps=settings.friction_per_ps)  # fmt: skip
    (equilibration, every), stored, generator_state = steps(settings), run.position(task.name), generator.get_state()
    reached = sampled(
        state, moving, generator=generator, equilibration=equilibration, frames=task.frames, every=every, step=step,
        observers=[Calling(lambda *_: run.advance(1, f"{task.temperature_K:g} K"))], stop=run.stop,
    )  # fmt: skip
    try:
        for step, frame, state in reached:
            generator_state = generator.get_state()
            if frame and step > stored:
                _keep_frame(run, task, frame - 1, state)
            last = frame == task.frames
            if run.stop.pending() or last or (frame and frame % task.per_block == 0):
                save(over=last)
                run.stop.raise_if_pending()
    except BlowUp as blown:
        text = f"{task.name}: {blown.reason} at step {blown.step}; frames before it are stored"
        _note(run.store.folder, text, failure=False)
        save(over=True, blown=True)
    except NoAnswer as error:
        where = _set_aside(run.store.folder, f"{task.name}-step-{step}", state.system)
        save(over=False)
        raise MdistillError(
            f"{run.executor.engine.name} failed twice after step {step} of the dynamics at {task.temperature_K:g} K: {error}\n"
            f"  saved: the structure in {where}, all labels so far in {run.store.folder}\n"
            "  fix: run the teacher on that structure to find the cause, then run the same command again: it resumes"
        ) from error


def _begin(run: _Run, number: int, task: Task, relaxed: System, before: Sequence[Task]) -> RestartPoint | None:
    """Start of a dynamics: its restart point, or the end of the last one unless that blew up. None: it is finished."""
    path = run.store.folder / "restart.npz"
    last = load_restart(path) if path.exists() else None
    if last is not None and (last.extras["task"] > number or (last.extras["task"] == number and last.extras["over"])):
        return None
    if last is not None and last.extras["task"] == number:
        return last
    system = relaxed
    if last is not None and last.extras["structure"] == task.structure and not last.extras["blown"]:
        first = min(other.first_block for other in before)
        labels = [frame for frame in run.store.read() if first <= frame.block < task.first_block]
        system = expanded(last.state.system, relaxed, labels, next_K=task.temperature_K)
    generator = stream(run.seed, task.name)
    masses = repartitioned(system, run.settings.heavy_h)
    state = initial_state(system, temperature_K=task.temperature_K, generator=generator, masses=masses)
    return RestartPoint(step=0, state=state, generator_state=generator.get_state())


def _keep_frame(run: _Run, task: Task, number: int, state: State) -> None:
    """A frame of dynamics and its displaced copies."""
    asked = frame_questions(task, number, state.system, state.prediction, run.settings, seed=run.seed)
    for question, answer in zip(asked, run.executor.answers(asked), strict=True):
        run.keep(question, answer)
        if question is not asked[0]:
            run.advance(1, f"{task.temperature_K:g} K")


def _note(folder: Path, text: str, *, failure: bool) -> None:
    if all(entry["text"] != text for entry in _notes(folder)):
        append_line(folder / "notes.jsonl", json.dumps({"text": text, "failure": failure}))


def _notes(folder: Path) -> list[dict[str, Any]]:
    path = folder / "notes.jsonl"
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        with suppress(ValueError):
            entries.append(json.loads(line))
    return [entry for entry in entries if isinstance(entry, dict) and {"text", "failure"} <= entry.keys()]


def _set_aside(folder: Path, name: str, system: System) -> Path:
    """Write a structure that the teacher failed on."""
    path = folder / "broken" / (name.replace("/", "-") + ".extxyz")
    write_systems(path, [system])
    return path
