"""Hard labels in the main job: the stage `harden`, the teacher that its students are judged by, and what changed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mdistill.crystals.crystal import Crystal
from mdistill.data.prepare import plan
from mdistill.errors import BadInput
from mdistill.hardening.corrected import DELTA, Reference, reference_of
from mdistill.hardening.hard_engine import check_engine, load_hard_engine
from mdistill.hardening.harden import ANSWERS, Hardening, harden
from mdistill.hardening.k_points import k_point_notice
from mdistill.hardening.made_elsewhere import given_by
from mdistill.hardening.refine import Rounds, teacher_alone
from mdistill.hardening.settings import HardSettings, RefineSettings
from mdistill.hardening.tune import TUNED
from mdistill.hardening.unit_cell import check_size
from mdistill.interrupt import StopRequest
from mdistill.io.structures import STRUCTURES, read_systems
from mdistill.labelling.engine import Engine
from mdistill.labelling.remembered import level_of, theory_of
from mdistill.matter.kinds import KINDS, recognised
from mdistill.notices import notify
from mdistill.runs.folder import run_settings
from mdistill.runs.ledger import LEDGER
from mdistill.runs.results import Cell, Results, Table
from mdistill.settings import amended, child_seed, from_json
from mdistill.teachers.tuned import to_tune
from mdistill.training.committee import member_file
from mdistill.training.hard_targets import left_for_test
from mdistill.training.settings import TrainSettings
from mdistill.types import LabelledFrame, Potential, System
from mdistill.units import PS
from mdistill.workflows.distill_settings import DistillSettings
from mdistill.workflows.run_parts import read_labels
from mdistill.workflows.settings import ProductionSettings

HARD = ("hard", "hard_budget", "hard_rounds", "harden", "cp2k", "pyscf")
"""Settings that do not count without an engine of hard labels."""
LEAST_FRAMES = 40
MEASURED_COST = "Measured on one thread of an AMD EPYC: 68 CPU s for 16 atoms of γ-Li3PS4 with 2×2×2 k-points and 400 Ry."


def hard_engine(settings: DistillSettings, run: Path, crystal: Crystal) -> Engine | None:
    """The engine of hard labels; None where none is asked for.

    Raises:
        BadInput, MissingPackage: It is unknown, or not installed, or cannot label this crystal; or its cell is too large.
    """
    if not settings.hard:
        return None
    to_tune(settings.teacher, settings.harden.teacher)
    check_engine(settings.hard, crystal, matter=settings.prepare.matter, cp2k=settings.cp2k, pyscf=settings.pyscf)
    engine = load_hard_engine(
        settings.hard, cp2k=settings.cp2k, pyscf=settings.pyscf, subject="--hard", device=settings.device, home=run / ANSWERS,
        elements=crystal.composition,
    )  # fmt: skip
    _check_cell(settings, crystal, engine)
    return engine


def _check_cell(settings: DistillSettings, crystal: Crystal, engine: Engine) -> None:
    """Refuse cells of too many atoms now, not after hours; tell where --harden.unit-cell does not make them smaller."""
    planned, most = plan(crystal, settings.prepare), settings.harden.most_atoms
    if given_by(engine):
        return
    whole, supercell = recognised(crystal, settings.prepare.matter)[1], np.array(planned.supercell)
    cell = whole.cell * (1 if settings.harden.unit_cell else supercell[:, None])
    if sampling := k_point_notice(engine, cell, whole.pbc, crystal.composition):
        notify(sampling)
    if settings.harden.unit_cell:
        check_size(crystal, most)
        if not in_unit_cell(settings, engine, crystal):
            where = f"the cell of the file, {planned.atoms} atoms, is that of the run"
            notify(f"--harden.unit-cell: {where}; hard labels are of MD of the students in it")
    elif planned.atoms > most and not settings.label.defects:
        smaller = math.prod(planned.supercell) > 1 and crystal.n_atoms <= most
        fix = f"--harden.unit-cell for the {crystal.n_atoms:.4g} atoms of the file, or " if smaller else ""
        problem = f"hard labels of {planned.atoms} atoms, the supercell of the run"
        raise BadInput("--hard", problem, allowed=f"at most {most}", fix=f"{fix}--harden.most-atoms {planned.atoms}")


def in_unit_cell(settings: DistillSettings, engine: Engine, crystal: Crystal) -> bool:
    """Whether the students' MD for hard labels runs in another cell than the run's: that of the file, which is smaller."""
    asked = settings.harden.unit_cell and not given_by(engine)
    return asked and math.prod(plan(crystal, settings.prepare).supercell) > 1


def hard_plan(settings: DistillSettings, engine: Engine, crystal: Crystal, system: System) -> Table:
    """What a dry run tells of hard labels. `system`: the prepared supercell."""
    given, rounds = given_by(engine), settings.hard_rounds
    atoms, cell, what = system.n_atoms, system.cell[0].numpy(), "supercell of the run"
    if settings.harden.unit_cell:
        atoms, cell, what = round(crystal.n_atoms), np.asarray(crystal.cell), "cell of the file"
    count = min(settings.hard_budget, len(given) or settings.hard_budget)
    sizes = [count // rounds + (number < count % rounds) for number in range(rounds)]
    tested = sum(left_for_test(size, settings.harden.fit.test) for size in sizes)
    rows: list[list[Cell]] = [["engine", theory_of(engine)], ["labels", count], ["of these left for the test", tested]]
    rows += [["rounds", rounds]] if rounds > 1 else []
    tuned = to_tune(settings.teacher, settings.harden.teacher)
    rows.append(["teacher", f"{settings.teacher}, {'trained further on them' if tuned else 'corrected by a fitted difference'}"])
    if given:
        return Table("hard-plan", "Hard labels", "settings", ["what", "value"], rows, "The labels are there; none is calculated.")
    sides = zip(np.linalg.norm(cell, axis=1), system.pbc[0].tolist(), strict=True)
    lengths = ", ".join(f"{length:.2f}" if periodic else "open" for length, periodic in sides)
    rows += [["cell", what], ["atoms", atoms], ["lengths (Å)", lengths]]
    cost = "Time of the labels: not known before the first, and not in the table below."
    caption = f"{cost} {MEASURED_COST}" if theory_of(engine).startswith("CP2K") else cost
    return Table("hard-plan", "Hard labels", "settings", ["what", "value"], rows, caption)


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


def later_rounds(refine: RefineSettings, asked: HardSettings) -> RefineSettings:
    """The students' MD in later rounds."""
    return replace(refine, time_ps=asked.time_ps, every_fs=min(refine.every_fs, 1000.0 * asked.time_ps))


def own_rounds(
    run: Path, teacher: Potential, soft: Sequence[LabelledFrame], train: TrainSettings, asked: HardSettings, *, workers: int = 0
) -> Rounds:
    """The students' MD of a run as in its main job, for a command that begins from its folder.

    Structures are those that the teacher relaxed, temperatures those of the labels. Where the folder lacks either, the teacher
    without MD, and a notice. Where it states no pressure, as one of `mdistill label`, the MD runs in the relaxed cell.

    Args:
        run: Run folder, or one that holds label/.
        teacher, soft: The teacher and the labels of the run.
        train: Settings of the students' first fit.
        asked: Length of the MD and number of its frames.
        workers: Number of worker processes for teacher calls; 0: this process.
    """
    alone = teacher_alone(teacher, train)
    if not asked.tune.frames:
        return alone
    places = (run, run / "label")
    files = [path for place in places if (path := place / "prepare" / STRUCTURES).is_file()]
    labelled = [place for place in places if "label" in run_settings(place)]
    try:
        if not files:
            raise BadInput(run, f"holds no prepare/{STRUCTURES}", allowed="a run folder", fix="")
        if not labelled:
            raise BadInput(run, "tells no temperatures of its labels", allowed="a run folder", fix="")
        told = run_settings(labelled[0])
        parts: dict[str, Any] = {name: told[name] for name in ("label", "refine", "production", "matter", "seed") if name in told}
        parts["label"] = {name: value for name, value in parts["label"].items() if name != "seed"}
        settings = from_json(DistillSettings, parts, source=labelled[0] / LEDGER, derived=True)
        systems = read_systems(files[0])
    except BadInput as error:
        notify(f"{error.subject}: {error.problem}, so the tuned teacher labels no frames of the students' MD, only the run's")
        return alone
    fixed = "production" not in told or settings.production.fixed_cell or any(frame.target.stress is None for frame in soft)
    return Rounds(
        systems=systems, teacher=teacher, temperatures_K=settings.label.temperatures_K, label=settings.label, train=train,
        settings=later_rounds(settings.refine, asked), pressure_GPa=None if fixed else settings.production.pressure_GPa,
        matter=KINDS["crystal" if settings.matter == "auto" else settings.matter], seed=child_seed(settings.seed, "harden"),
        workers=workers,
    )  # fmt: skip


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
    return reference_of(teacher, settings.teacher, correction(settings, run) if settings.hard else None)


def correction(settings: DistillSettings, run: Path) -> Path:
    """The file of what corrects the teacher."""
    return run / "harden" / (TUNED if to_tune(settings.teacher, settings.harden.teacher) else DELTA)


def brief_production(settings: DistillSettings, production: ProductionSettings) -> ProductionSettings:
    """Production of the soft students at one temperature: one run each, of at least `LEAST_FRAMES` frames."""
    share, runs = settings.harden.before, min(production.runs, settings.committee)
    minutes = production.max_minutes * share * runs / (production.runs * len(settings.temperatures))
    time_ps = max(production.time_ps * share, LEAST_FRAMES * production.every_fs / PS)
    return replace(production, runs=runs, time_ps=time_ps, max_minutes=minutes, size_check=False)
