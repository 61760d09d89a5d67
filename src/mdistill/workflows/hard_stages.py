"""Hard labels in the main job: the stage `harden`, the teacher that its students are judged by, and what changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mdistill.crystals.crystal import Crystal
from mdistill.hardening.corrected import Reference, reference_of
from mdistill.hardening.hard_engine import check_engine, load_hard_engine
from mdistill.hardening.harden import ANSWERS, DELTA, Hardening, harden
from mdistill.hardening.made_elsewhere import given_by
from mdistill.hardening.refine import Rounds
from mdistill.hardening.settings import RefineSettings
from mdistill.interrupt import StopRequest
from mdistill.labelling.engine import Engine
from mdistill.labelling.remembered import level_of
from mdistill.runs.results import Results
from mdistill.settings import amended
from mdistill.training.committee import member_file
from mdistill.types import Potential
from mdistill.units import PS
from mdistill.workflows.distill_settings import DistillSettings
from mdistill.workflows.run_parts import read_labels
from mdistill.workflows.settings import ProductionSettings

HARD = ("hard", "hard_budget", "hard_rounds", "harden", "cp2k", "pyscf")
"""Settings that do not count without an engine of hard labels."""
LEAST_FRAMES = 40


def hard_engine(settings: DistillSettings, run: Path, crystal: Crystal) -> Engine | None:
    """The engine of hard labels; None where none is asked for.

    Raises:
        BadInput, MissingPackage: It is unknown, or not installed, or cannot label this crystal.
    """
    if not settings.hard:
        return None
    check_engine(settings.hard, crystal, matter=settings.prepare.matter, cp2k=settings.cp2k, pyscf=settings.pyscf)
    return load_hard_engine(
        settings.hard, cp2k=settings.cp2k, pyscf=settings.pyscf, subject="--hard", device=settings.device, home=run / ANSWERS,
        elements=crystal.composition,
    )  # fmt: skip


def recorded(settings: DistillSettings, values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings as the ledger holds them."""
    return {name: one for name, one in amended(settings, values).items() if settings.hard or name not in HARD}


def student_files(settings: DistillSettings, run: Path, stage: str = "") -> list[Path]:
    """Model files of the students of a stage; of the last one that makes any where it is not given."""
    stage = stage or ("harden" if settings.hard else "refine")
    return [run / stage / member_file(number) for number in range(1, settings.committee + 1)]


def harden_work(settings: DistillSettings, engine: Engine, refined: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that the stage depends on. `refined`: those of the on-policy rounds."""
    asked = {"budget": settings.hard_budget, "rounds": settings.hard_rounds, "engine": level_of(engine)}
    asked |= {"harden": amended(settings.harden, {"before": 0.0})}
    return {name: one for name, one in refined.items() if name != "refine"} | asked


def later_rounds(settings: DistillSettings) -> RefineSettings:
    """The students' MD in later rounds."""
    time_ps = settings.harden.time_ps
    return replace(settings.refine, time_ps=time_ps, every_fs=min(settings.refine.every_fs, 1000.0 * time_ps))


def harden_stage(
    settings: DistillSettings, run: Path, engine: Engine, own: Rounds, *, told: dict[str, Any], stop: StopRequest
) -> Results:
    """The students of the on-policy rounds, fine-tuned on hard labels.

    Args:
        settings, run: The job and its folder.
        engine: Gives the labels.
        own: The students' MD in later rounds.
        told: Stored in the model files.
        stop: Checked in every loop.
    """
    job = Hardening(
        soft=read_labels(run), students=student_files(settings, run, "refine"), engine=engine, teacher=settings.teacher,
        train=settings.train, budget=settings.hard_budget, rounds=settings.hard_rounds, own=own, workers=own.workers,
        given=given_by(engine),
    )  # fmt: skip
    told = told | {"hard": settings.hard}
    return harden(job, settings.harden, run / "harden", limits=settings.validate.limits, stop=stop, provenance=told)


def judged_by(settings: DistillSettings, run: Path, teacher: Potential) -> Reference:
    """The teacher, corrected where there are hard labels."""
    return reference_of(teacher, settings.teacher, run / "harden" / DELTA if settings.hard else None)


def brief_production(settings: DistillSettings, production: ProductionSettings) -> ProductionSettings:
    """Production of the soft students at one temperature: one run each, of at least `LEAST_FRAMES` frames."""
    share, runs = settings.harden.before, min(production.runs, settings.committee)
    minutes = production.max_minutes * share * runs / (production.runs * len(settings.temperatures))
    time_ps = max(production.time_ps * share, LEAST_FRAMES * production.every_fs / PS)
    return replace(production, runs=runs, time_ps=time_ps, max_minutes=minutes, size_check=False)
