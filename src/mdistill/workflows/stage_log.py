"""Which stage of the main job runs, and about how long it and the later ones take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mdistill.errors import BadInput
from mdistill.labelling.plan import estimate_cost
from mdistill.processes import usable_cores
from mdistill.progress import say_stage
from mdistill.runs.results import read_results
from mdistill.teachers.tuned import to_tune
from mdistill.types import System
from mdistill.workflows.distill_settings import DistillSettings

STEP_CALLS = 9
"""Time of a step of training a teacher, in calls of it: 0.55 and 0.065 s of SevenNet-0 with 83 atoms (one thread, AVX-512)."""
STAGES = ("prepare", "label", "train", "refine", "harden", "gates", "stride", "production", "check", "follow", "before")


def stage_order(settings: DistillSettings, *, until: str = "") -> list[str]:
    """Names of the stages in the order in which they run; those before `until`."""
    asked = {"check": settings.check.frames, "follow": settings.check_ps, "stride": settings.stride_fs, "harden": settings.hard}
    asked["before"] = settings.harden.before if settings.hard else 0.0
    order = [name for name in STAGES if asked.get(name, True)]
    return order[: order.index(until)] if until else order


def tell_stage(name: str, names: Sequence[str], settings: DistillSettings, home: Path, systems: Sequence[System]) -> None:
    """Print "stage 3 of 7: train, about 9 min left" on standard error.

    Args:
        name: The stage that begins.
        names: All stages, in order.
        settings: Their budgets.
        home: Run folder; the cost of a teacher call is that of its label stage, once it is there.
        systems: The prepared structures.
    """
    number = names.index(name)
    minutes, teacher = minutes_of(names[number:], settings, systems, seconds=seconds_per_call(home, settings, systems))
    left = f", about {max(minutes, 1.0):.0f} min left" if minutes else ""
    say_stage(f"stage {number + 1} of {len(names)}: {name}{left}" + ("" if teacher or not left else " without teacher calls"))


def minutes_of(
    names: Sequence[str], settings: DistillSettings, systems: Sequence[System], *, seconds: float | None
) -> tuple[float, bool]:
    """Minutes that stages may take by their budgets, and whether those of all teacher calls are among them.

    Fits with a fixed number of steps, the dynamics of gates and refinement, and hard labels are not counted.

    Args:
        names: Stages.
        settings: Budgets: minutes of fits and of production, numbers of teacher calls.
        systems: The prepared structures.
        seconds: Time of a teacher call, s; None where it is not known.
    """
    fit = 0.0 if settings.train.fit.steps else settings.train.fit.max_minutes * max(1.0, settings.committee / usable_cores())
    budgets = {
        "train": fit, "refine": fit * settings.refine.refit_share * settings.refine.rounds,
        "harden": hardening_minutes(settings),
        "stride": settings.rung().train.most_minutes if settings.stride_fs else 0.0,
        "production": settings.production.max_minutes, "before": settings.production.max_minutes * settings.harden.before,
    }  # fmt: skip
    calls = {
        "label": estimate_cost(systems, settings.label, 1.0)[0] if "label" in names else 0,
        "refine": settings.refine.rounds * settings.refine.frames * len(settings.label.temperatures_K) * len(systems),
        "harden": hardening_calls(settings) + sum(tuning_calls(settings, systems)), "gates": settings.validate.speed_repeats + 1,
        "check": settings.check.frames * len(settings.temperatures),
    }  # fmt: skip
    asked = sum(calls.get(name, 0) for name in names)
    return sum(budgets.get(name, 0.0) for name in names) + asked * (seconds or 0.0) / 60.0, seconds is not None or not asked


def hardening_minutes(settings: DistillSettings) -> float:
    """Minutes of the fits on hard labels, one student after the other; 0 for a fixed number of steps."""
    fit = 0.0 if settings.train.fit.steps else settings.train.fit.max_minutes
    return fit * settings.committee * settings.harden.fit.time * settings.hard_rounds


def hardening_calls(settings: DistillSettings) -> int:
    """Hard labels that the teacher labels too, because they are of the students' MD: all in unit cells, else of later rounds."""
    budget, rounds = settings.hard_budget, settings.hard_rounds
    if not settings.hard:
        return 0
    return budget if settings.harden.unit_cell else budget - budget // rounds - (budget % rounds > 0)


def tuning_calls(settings: DistillSettings, systems: Sequence[System]) -> tuple[int, int]:
    """Training of the teacher on hard labels, and its labels afterwards, in teacher calls; 0 where it is not trained."""
    if not settings.hard or not to_tune(settings.teacher, settings.harden.teacher):
        return 0, 0
    tune, rounds = settings.harden.tune, settings.hard_rounds
    steps = max(tune.steps, tune.passes * settings.hard_budget)
    own = settings.refine.rounds * settings.refine.frames * len(settings.label.temperatures_K) * len(systems)
    again = estimate_cost(systems, settings.label, 1.0)[0] + own + tune.frames
    return rounds * steps * STEP_CALLS, rounds * again


def seconds_per_call(home: Path, settings: DistillSettings, systems: Sequence[System]) -> float | None:
    """Wall-clock seconds a teacher call of the run's label stage; None before it is done."""
    try:
        spent = read_results(home / "label").values["label_seconds"].value
    except (BadInput, KeyError):
        return None
    return spent / max(estimate_cost(systems, settings.label, 1.0)[0], 1) if spent else None
