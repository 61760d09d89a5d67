"""Plan of labels: the list of tasks of the settings, and its cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from mdistill.data.explore import can_have_defects
from mdistill.errors import BadInput
from mdistill.labelling.engine import Engine, curvature_calls
from mdistill.labelling.settings import LabelSettings
from mdistill.matter.kinds import WITHOUT_H_FS
from mdistill.matter.masses import usual_time_step
from mdistill.types import Potential, System

LIFTED = 20
"""Number of structures of a slab with an atom lifted off the surface, where the settings name none."""
Kind = Literal["strain", "rattle", "contact", "defect", "md"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One part of the plan: `frames` frames of one kind from one structure, stored in blocks of `per_block`."""

    kind: Kind
    structure: int
    temperature_K: float
    frames: int
    per_block: int
    first_block: int

    @property
    def name(self) -> str:
        suffix = f"-{self.temperature_K:g}" if self.kind == "md" else ""
        return f"{self.structure}/{self.kind}{suffix}"


def plan(systems: Sequence[System], settings: LabelSettings) -> list[Task]:
    """The tasks in order, with the numbers of their blocks.

    Raises:
        BadInput: No structures, or `max_frames` leaves less than one frame per block.
    """
    if not systems:
        raise BadInput("structures", "none given", allowed="at least one", fix="prepare a structure first")
    crystal = [bool(system.pbc.all()) for system in systems]
    strains = len(settings.strains) + settings.shears
    defects = [(settings.defects or (0 if c else LIFTED)) * can_have_defects(s) for c, s in zip(crystal, systems, strict=True)]
    still = [
        [strains * c, 1 + len(settings.rattles), settings.contacts * (s.n_atoms > 1), d]
        for c, s, d in zip(crystal, systems, defects, strict=True)
    ]
    ladder, labels = len(systems) * len(settings.temperatures_K), 1 + settings.displaced
    room = (settings.max_frames - sum(map(sum, still))) // max(ladder * settings.blocks * labels, 1)
    per_block = min(settings.frames // settings.blocks, room)
    if ladder and per_block < 1:
        needed = sum(map(sum, still)) + ladder * settings.blocks * labels
        raise BadInput(
            "max_frames", str(settings.max_frames), allowed=f"{needed} or more for this plan", fix="raise it or shorten the plan"
        )
    tasks: list[Task] = []
    block = 0
    for k, counts in enumerate(still):
        kinds: tuple[Kind, ...] = ("strain", "rattle", "contact", "defect")
        for kind, count in zip(kinds, counts, strict=True):
            if count:
                tasks.append(Task(kind=kind, structure=k, temperature_K=0.0, frames=count, per_block=count, first_block=block))
                block += 1
        for temperature in settings.temperatures_K:
            frames = per_block * settings.blocks
            tasks.append(
                Task(kind="md", structure=k, temperature_K=temperature, frames=frames, per_block=per_block, first_block=block)
            )
            block += settings.blocks
    return tasks


def estimate_cost(
    systems: Sequence[System], settings: LabelSettings, seconds_per_call: float, *, teacher: Potential | Engine | None = None
) -> tuple[int, float]:
    """Teacher calls and minutes of `label_run`; probes count as the calls they cost."""
    calls, settings = 0, with_time_step(settings, systems[0])
    for task in plan(systems, settings):
        calls += task_calls(task, settings) + (task.kind == "md")
        if settings.probes:
            probed = -(-task.frames // settings.probe_every)
            calls += probed * curvature_calls(teacher, settings.probes)
    return calls, calls * seconds_per_call / 60.0


def steps(settings: LabelSettings) -> tuple[int, int]:
    """Time steps before the first frame's interval, and between frames."""
    step = settings.time_step_fs or WITHOUT_H_FS
    return round(settings.equilibration_fs / step), max(round(settings.every_fs / step), 1)


def with_time_step(settings: LabelSettings, system: System) -> LabelSettings:
    """The settings with the usual time step of a structure where none is set."""
    return replace(settings, time_step_fs=settings.time_step_fs or usual_time_step(system, heavy_h=settings.heavy_h))


def task_frames(task: Task, settings: LabelSettings) -> int:
    """Labelled structures of a task: displaced copies are counted too."""
    return task.frames * (1 + settings.displaced) if task.kind == "md" else task.frames


def task_calls(task: Task, settings: LabelSettings) -> int:
    """Teacher calls of a task without probes: time steps of dynamics and displaced copies, or structures."""
    equilibration, spacing = steps(settings)
    return equilibration + task.frames * (spacing + settings.displaced) if task.kind == "md" else task.frames
