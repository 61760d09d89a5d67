"""What to ask a teacher: settings, the fixed list of tasks they mean, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mdistill.data.label import FORCE_CAP, curvature_calls
from mdistill.errors import BadInput
from mdistill.types import Potential, System

Kind = Literal["strain", "rattle", "contact", "md"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSettings:
    """What the teacher is asked.

    Attributes:
        temperatures_K: The ladder, visited in this order, each from where the one before ended, K.
        frames: Frames kept per temperature and structure.
        blocks: Contiguous time blocks per temperature, the units of held-out sets.
        spacing_fs: Time between two frames, fs.
        equilibration_fs: Time before the first frame at each temperature, fs.
        time_step_fs: Time step, fs.
        friction_per_ps: Langevin friction, 1/ps; high, since decorrelated frames matter more than dynamics.
        strains: Isotropic strains of the cell.
        shears: Random strained cells.
        rattles: Standard deviations of random displacements, Å, one structure each (the undisturbed one is always labelled).
        contacts: Structures with one pair pressed to 0.6–0.9 of its distance.
        probes: Curvature directions per probed frame.
        probe_every: Every how many frames one is probed.
        force_cap: Frames with a larger force are left out, eV/Å.
        max_frames: Total; frames per temperature are reduced to fit.
        timeout_s: A teacher call that takes longer counts as failed, s.
        seed: Seed of all randomness.
    """

    temperatures_K: tuple[float, ...] = (300.0, 600.0, 900.0, 1200.0)
    frames: int = 80
    blocks: int = 5
    spacing_fs: float = 20.0
    equilibration_fs: float = 200.0
    time_step_fs: float = 2.0
    friction_per_ps: float = 10.0
    strains: tuple[float, ...] = (-0.03, -0.015, 0.015, 0.03)
    shears: int = 4
    rattles: tuple[float, ...] = (0.02, 0.05, 0.1, 0.15)
    contacts: int = 4
    probes: int = 1
    probe_every: int = 4
    force_cap: float = FORCE_CAP
    max_frames: int = 100_000
    timeout_s: float = 1800.0
    seed: int = 0

    def __post_init__(self) -> None:
        for value in self.temperatures_K:
            _require("temperatures", value, 0.0 < value <= 20_000.0, "above 0 and at most 20000 K")
        _require("time_step_fs", self.time_step_fs, 0.0 < self.time_step_fs <= 20.0, "above 0 and at most 20 fs")
        _require("spacing_fs", self.spacing_fs, self.spacing_fs >= self.time_step_fs, "at least one time step")
        _require("equilibration_fs", self.equilibration_fs, self.equilibration_fs >= 0.0, "0 or more")
        _require("friction_per_ps", self.friction_per_ps, 0.0 < self.friction_per_ps <= 1000.0, "above 0 and at most 1000 1/ps")
        _require("blocks", self.blocks, 1 <= self.blocks <= max(self.frames, 1), "1 to the number of frames")
        _require("frames", self.frames, self.frames >= 1, "1 or more")
        for name in ("shears", "contacts", "probes", "seed"):
            _require(name, getattr(self, name), getattr(self, name) >= 0, "0 or more")
        _require("probe_every", self.probe_every, self.probe_every >= 1, "1 or more")
        _require("strains", self.strains, all(abs(x) < 0.3 for x in self.strains), "between -0.3 and 0.3")
        _require("rattles", self.rattles, all(0.0 < x < 1.0 for x in self.rattles), "above 0 and below 1 Å")
        for name in ("force_cap", "timeout_s", "max_frames"):
            _require(name, getattr(self, name), getattr(self, name) > 0, "above 0")


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
    still = [
        [strains * c, 1 + len(settings.rattles), settings.contacts * (s.n_atoms > 1)]
        for c, s in zip(crystal, systems, strict=True)
    ]
    ladder = len(systems) * len(settings.temperatures_K)
    room = (settings.max_frames - sum(map(sum, still))) // max(ladder * settings.blocks, 1)
    per_block = min(settings.frames // settings.blocks, room)
    if ladder and per_block < 1:
        needed = sum(map(sum, still)) + ladder * settings.blocks
        raise BadInput(
            "max_frames", str(settings.max_frames), allowed=f"{needed} or more for this plan", fix="raise it or shorten the plan"
        )
    tasks: list[Task] = []
    block = 0
    for k, counts in enumerate(still):
        kinds: tuple[Kind, ...] = ("strain", "rattle", "contact")
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
    systems: Sequence[System], settings: LabelSettings, seconds_per_call: float, *, potential: Potential | None = None
) -> tuple[int, float]:
    """Teacher calls and minutes that `label_run` will take; probes are counted in calls they cost."""
    calls = 0
    for task in plan(systems, settings):
        calls += task_calls(task, settings) + (task.kind == "md")
        if settings.probes:
            probed = -(-task.frames // settings.probe_every)
            calls += probed * (2 * settings.probes if potential is None else curvature_calls(potential, settings.probes))
    return calls, calls * seconds_per_call / 60.0


def steps(settings: LabelSettings) -> tuple[int, int]:
    """Time steps before the first frame's interval, and between frames."""
    return round(settings.equilibration_fs / settings.time_step_fs), max(round(settings.spacing_fs / settings.time_step_fs), 1)


def task_calls(task: Task, settings: LabelSettings) -> int:
    """Teacher calls of a task without probes: time steps of dynamics, or structures."""
    equilibration, spacing = steps(settings)
    return equilibration + task.frames * spacing if task.kind == "md" else task.frames


def _require(name: str, value: Any, fine: bool, allowed: str) -> None:
    if not fine:
        raise BadInput(name, str(value), allowed=allowed, fix="change this setting")
