r"""Teacher labels from structures: strained, rattled and pressed cells, then teacher dynamics up a temperature ladder.

A plan is a fixed list of tasks per structure: "strain", "rattle", "contact", then "md" at each temperature in turn, each
starting where the one before ended. Frames of dynamics are the teacher's own predictions along the way. Every append to
the store names its task and how far it came, and `restart.npz` holds the phase-space point of the running dynamics, so a
run that was stopped or killed goes on with the very numbers an uninterrupted one gives, and adds no frame twice.

Files in the folder: labels.jsonl and labels-*.npz (`data.store`), plan.json, restart.npz, notes.jsonl, broken/*.extxyz.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Generator

from mdistill.data.explore import rattled, short_contacts, strained
from mdistill.data.label import BrokenLabel, TimedPotential, label
from mdistill.data.store import LabelStore
from mdistill.errors import BadInput, BlowUp, MdistillError
from mdistill.estimates import exactly
from mdistill.interrupt import NEVER, StopRequest
from mdistill.io.files import append_line, read_json, replacing, write_json
from mdistill.labelling.plan import Task, plan, steps, task_calls, task_frames
from mdistill.labelling.settings import LabelSettings
from mdistill.progress import Advance, progress, silent
from mdistill.runs.ledger import differences, plain
from mdistill.runs.results import Results, Table
from mdistill.simulation.evaluator import Evaluator
from mdistill.simulation.guard import Guard
from mdistill.simulation.initial_state import initial_state
from mdistill.simulation.langevin import Baoab
from mdistill.simulation.restart import RestartPoint, load_restart, save_restart
from mdistill.simulation.rollout import Calling, rollout
from mdistill.simulation.settings import GuardSettings
from mdistill.types import LabelledFrame, Potential, State, System

LARGEST_SHARE = 0.05
"""Share of structures the teacher may fail on before the run stops."""
_GROUP = 8
"""Single structures between two writes; also the block size of on-policy frames."""


@dataclass(slots=True)
class _Run:
    """What one run carries along: frames wait in `pending` until they are written."""

    potential: Potential
    settings: LabelSettings
    store: LabelStore
    stop: StopRequest
    advance: Advance = silent
    pending: list[LabelledFrame] = field(default_factory=list)

    def position(self, name: str) -> int:
        """How far a task came, by what is in the store."""
        return max((int(key.rpartition("@")[2]) for key in self.store.keys if key.rpartition("@")[0] == name), default=0)

    def flush(self, name: str, position: int) -> None:
        if self.pending:
            self.store.append(self.pending, key=f"{name}@{position}")
            self.pending = []

    def add(self, name: str, index: int, system: System, *, probe: bool = True, **keep: Any) -> None:
        """Label one structure and keep it; set a broken one aside, and stop the run when too many are broken."""
        probed = self.settings.probes if probe and index % self.settings.probe_every == 0 else 0
        generator = seeded(self.settings.seed, f"{name} probe {index}")
        try:
            self.pending.append(
                label(
                    system,
                    self.potential,
                    probes=probed,
                    kind=self.settings.probe_kind,
                    generator=generator,
                    force_cap=self.settings.force_cap,
                    **keep,
                )
            )
        except BrokenLabel as broken:
            where = _set_aside(self.store.folder, f"{name}-{index}", broken.system)
            _note(self.store.folder, f"{name}, frame {index} left out: {broken.reason} ({where})", failure=not broken.beyond_cap)
            self.check(at_least=2.0 / LARGEST_SHARE)

    def check(self, *, at_least: float) -> None:
        """Raise when the teacher failed on more than 5 % of the structures (of `at_least` many)."""
        failed = sum(entry["failure"] for entry in _notes(self.store.folder))
        asked = len(self.store) + len(self.pending) + failed
        if failed > LARGEST_SHARE * max(asked, at_least):
            raise MdistillError(
                f"{self.potential.name} failed on {failed} of {asked} structures (limit {LARGEST_SHARE:.0%}); they are in "
                f"{self.store.folder / 'broken'}, the reasons in {self.store.folder / 'notes.jsonl'}.\n"
                "  fix: look at the reasons, e.g. lower the highest temperature or raise --timeout-s; what was labelled is kept"
            )


def label_run(
    systems: Sequence[System], potential: Potential, settings: LabelSettings, folder: Path, *, stop: StopRequest = NEVER
) -> Results:
    """Carry out the plan; a folder in which it was begun is gone on with.

    Args:
        systems: Prepared (relaxed) structures, one struct each.
        potential: The teacher.
        settings: What to ask it.
        folder: Holds the label store.
        stop: Asked between steps and structures.
    Returns:
        Table of frames per structure, source and temperature, and notes on what was left out.
    Raises:
        Interrupted: After saving, when a stop was asked for.
        MdistillError: The teacher failed on more than 5 % of the structures, or twice at the same point of a dynamics (the
            structures are in `folder/broken`); or the folder cannot be written.
        BadInput: The folder holds a run of another plan; or the teacher does not know an element.
    """
    tasks = plan(systems, settings)
    _keep_plan(folder, systems, potential, settings)
    begin = time.monotonic()
    run = _Run(potential=TimedPotential(potential, settings.timeout_s), settings=settings, store=LabelStore(folder), stop=stop)
    done = sum(run.position(task.name) for task in tasks)
    with progress("labels", sum(task_calls(task, settings) for task in tasks), unit="call", done=done) as run.advance:
        for number, task in enumerate(tasks):
            if task.kind == "md":
                _dynamics(run, number, task, systems[task.structure])
            else:
                _label_each(
                    run, task.name, _structures(task, systems[task.structure], settings), [task.first_block] * task.frames
                )
    run.check(at_least=0.0)
    return _results(run, tasks, time.monotonic() - begin)


def label_structures(
    systems: Sequence[System],
    potential: Potential,
    store: LabelStore,
    *,
    name: str,
    settings: LabelSettings,
    source: str = "on-policy",
    temperature_K: float = 0.0,
    stop: StopRequest = NEVER,
) -> int:
    """Label structures found elsewhere (the student's own dynamics) and add them to a store; resumes like `label_run`.

    Args:
        systems: One struct each.
        potential: The teacher.
        store: Where the frames go, in blocks of 8.
        name: Names this set ("round-1"); a set of this name that is already there is completed, not repeated.
        settings: Its probes, probe_every, force_cap, timeout_s and seed are used.
        source, temperature_K: Kept with the frames.
        stop: Asked between structures.
    Returns:
        How many frames of this set the store holds.
    Raises:
        Interrupted, MdistillError, BadInput: As `label_run`.
    """
    run = _Run(potential=TimedPotential(potential, settings.timeout_s), settings=settings, store=store, stop=stop)
    others = [block for entry in store.index() if not entry["key"].startswith(f"{name}@") for block in entry["blocks"]]
    first = max(others, default=-1) + 1
    with progress(f"labels {name}", len(systems), unit="call", done=run.position(name)) as run.advance:
        blocks = [first + k // _GROUP for k in range(len(systems))]
        _label_each(run, name, [(source, system) for system in systems], blocks, temperature_K=temperature_K)
    return sum(entry["frames"] for entry in store.index() if entry["key"].startswith(f"{name}@"))


def seeded(seed: int, name: str) -> Generator:
    """A generator of its own for each named purpose of a run."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:7], "little"))


def _structures(task: Task, system: System, settings: LabelSettings) -> list[tuple[str, System]]:
    """The single structures of a task, each with its source."""
    generator = seeded(settings.seed, task.name)
    if task.kind == "strain":
        made = strained(system, isotropic=settings.strains, shears=settings.shears, rattle=0.03, generator=generator)
    elif task.kind == "rattle":
        return [("relaxed", system), *(("rattle", s) for s in rattled(system, amplitudes=settings.rattles, generator=generator))]
    else:
        made = short_contacts(system, count=settings.contacts, generator=generator)
    return [(task.kind, s) for s in made]


def _label_each(
    run: _Run, name: str, structures: Sequence[tuple[str, System]], blocks: Sequence[int], *, temperature_K: float = 0.0
) -> None:
    for index in range(run.position(name), len(structures)):
        source, system = structures[index]
        run.add(name, index, system, source=source, temperature_K=temperature_K, block=blocks[index])
        run.advance()
        if (index + 1) % _GROUP == 0 or index + 1 == len(structures) or run.stop.pending():
            run.flush(name, index + 1)
        run.stop.raise_if_pending()


def _dynamics(run: _Run, number: int, task: Task, relaxed: System) -> None:
    """Dynamics at one temperature, from the restart point if there is one for this task."""
    settings, path = run.settings, run.store.folder / "restart.npz"
    before = load_restart(path) if path.exists() else None
    if before is not None and (before.extras["task"] > number or (before.extras["task"] == number and before.extras["over"])):
        return
    if before is not None and before.extras["task"] == number:
        state, generator, step = before.state, before.generator(), before.step
    else:
        usable = before is not None and before.extras["structure"] == task.structure and not before.extras["blown"]
        generator, step = seeded(settings.seed, task.name), 0
        system = before.state.system if before is not None and usable else relaxed
        state = initial_state(system, temperature_K=task.temperature_K, generator=generator)

    def save(*, over: bool, blown: bool = False) -> None:
        run.flush(task.name, step)
        extras = {"task": float(number), "structure": float(task.structure), "over": float(over), "blown": float(blown)}
        save_restart(path, RestartPoint(step=step, state=state, generator_state=generator.get_state(), extras=extras))

    guard = Guard(settings=GuardSettings(largest_force=settings.force_cap), temperature_K=task.temperature_K)
    propagator = Baoab(
        evaluate=Evaluator(run.potential), time_step=settings.time_step_fs, temperature_K=task.temperature_K,
        friction_per_ps=settings.friction_per_ps,
    )  # fmt: skip
    (equilibration, spacing), stored = steps(settings), run.position(task.name)
    last = equilibration + task.frames * spacing
    while step < last:
        until = equilibration if step < equilibration else step + spacing - (step - equilibration) % spacing
        try:
            state, step = _advance(
                run,
                task,
                partial(rollout, propagator=propagator, guard=guard),
                state,
                generator=generator,
                step=step,
                until=until,
            )
        except BlowUp as blown:
            _note(
                run.store.folder,
                f"{task.name}: {blown.reason} at step {blown.step}; the frames before it are kept",
                failure=False,
            )
            save(over=True, blown=True)
            return
        except MdistillError:
            save(over=False)
            raise
        frames, rest = divmod(step - equilibration, spacing)
        if frames > 0 and rest == 0 and step > stored:
            block = task.first_block + (frames - 1) // task.per_block
            run.add(task.name, frames - 1, state.system, target=state.prediction, temperature_K=task.temperature_K, block=block)
            _displaced_copies(run, task, frames - 1, state.system, block)
        if run.stop.pending() or step == last or (frames > 0 and rest == 0 and frames % task.per_block == 0):
            save(over=step == last)
            run.stop.raise_if_pending()


def _displaced_copies(run: _Run, task: Task, index: int, system: System, block: int) -> None:
    """Copies of a frame with all atoms displaced, labelled and kept in its block; they belong to no temperature."""
    settings = run.settings
    generator = seeded(settings.seed, f"{task.name} displaced {index}")
    for moved in rattled(system, amplitudes=(settings.displacement_A,) * settings.displaced, generator=generator):
        run.add(f"{task.name}-displaced", index, moved, probe=False, source="displaced", block=block)
        run.advance(1, f"{task.temperature_K:g} K")


def _advance(
    run: _Run, task: Task, move: Callable[..., State], state: State, *, generator: Generator, step: int, until: int
) -> tuple[State, int]:
    """Dynamics to step `until`, or less far when a stop was asked for. A call that fails is repeated once."""
    start, reached = generator.get_state(), step

    def count(number: int, _: State) -> None:
        nonlocal reached
        reached = number
        run.advance(1, f"{task.temperature_K:g} K")

    for attempt in (1, 2):
        generator.set_state(start)
        try:
            moved = move(
                state, steps=until - step, generator=generator, observers=(Calling(count),), stop=run.stop, first_step=step
            )
            return moved, reached
        except (BlowUp, BadInput):
            raise
        except Exception as error:
            if attempt == 2:
                generator.set_state(start)
                where = _set_aside(run.store.folder, f"{task.name}-step-{step}", state.system)
                raise MdistillError(
                    f"{run.potential.name} failed twice after step {step} of the dynamics at {task.temperature_K:g} K: {error}\n"
                    f"  saved: the structure in {where}, all labels so far in {run.store.folder}\n"
                    "  fix: run the teacher on that structure to see what is wrong, then run the same command again: it resumes"
                ) from error
    raise AssertionError("unreachable")


def _keep_plan(folder: Path, systems: Sequence[System], potential: Potential, settings: LabelSettings) -> None:
    digest = hashlib.sha256()
    for system in systems:
        for tensor in (system.positions, system.numbers, system.cell, system.pbc):
            digest.update(tensor.cpu().numpy().tobytes())
    new = {"teacher": potential.name, "structures": digest.hexdigest(), "settings": plain(replace(settings, timeout_s=1.0))}
    path = folder / "plan.json"
    changed = differences(read_json(path), new) if path.exists() else []
    if changed:
        raise BadInput(
            folder, "holds labels of another plan:\n    " + "\n    ".join(changed), allowed="the same plan (the run resumes)",
            fix="choose another --out",
        )  # fmt: skip
    if not path.exists():
        write_json(path, new)


def _note(folder: Path, text: str, *, failure: bool) -> None:
    if all(entry["text"] != text for entry in _notes(folder)):
        append_line(folder / "notes.jsonl", json.dumps({"text": text, "failure": failure}))


def _notes(folder: Path) -> list[dict[str, Any]]:
    path = folder / "notes.jsonl"
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        with suppress(ValueError):
            found.append(json.loads(line))
    return found


def _set_aside(folder: Path, name: str, system: System) -> Path:
    """Write a structure the teacher failed on, for the user to look at."""
    from ase import Atoms
    from ase.io import write

    path = folder / "broken" / (name.replace("/", "-") + ".extxyz")
    atoms = Atoms(
        numbers=system.numbers.cpu().numpy(), positions=system.positions.cpu().numpy(), cell=system.cell[0].cpu().numpy(),
        pbc=system.pbc[0].cpu().numpy(),
    )  # fmt: skip
    with replacing(path) as partial_path:
        write(partial_path, atoms, format="extxyz")
    return path


def _results(run: _Run, tasks: Sequence[Task], seconds: float) -> Results:
    frames = run.store.read()
    rows: list[list[Any]] = []
    for key in sorted({(f.source, f.temperature_K) for f in frames}):
        mine = [f for f in frames if (f.source, f.temperature_K) == key]
        energies = torch.stack([f.target.energy[0] / f.system.n_atoms for f in mine])
        force = torch.cat([f.target.forces for f in mine]).square().sum(1).sqrt()
        spread = float(energies.std(correction=0)) * 1000.0
        rows.append([key[0], key[1] or None, len(mine), len({f.block for f in mine}), sum(f.probes is not None for f in mine),
                     float(force.mean()), float(force.max()), spread])  # fmt: skip
    table = Table(
        name="labels", title="Teacher labels", section="training", rows=rows,
        columns=["source", "T (K)", "frames", "blocks", "with curvature", "mean |F| (eV/Å)", "max |F| (eV/Å)", "σ(E) (meV/atom)"],
    )  # fmt: skip
    return Results(
        command="label",
        settings=plain(run.settings),
        provenance={"teacher": run.potential.name},
        values={
            "frames": exactly(len(frames)),
            "planned_frames": exactly(sum(task_frames(task, run.settings) for task in tasks)),
            "label_seconds": exactly(seconds, "s"),
        },
        tables=[table],
        notes=[entry["text"] for entry in _notes(run.store.folder)],
    )
