"""Plan of the main job: sites, disorder rule, supercell, teacher calls and minutes. It writes nothing."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from mdistill.crystals.crystal import Crystal
from mdistill.data.disorder import order
from mdistill.data.prepare import Plan, plan
from mdistill.direct.safe import safe_teacher
from mdistill.errors import MissingPackage
from mdistill.graph import empty_graph
from mdistill.hardening.made_elsewhere import given_by
from mdistill.io.structures import read_structure, to_system
from mdistill.labelling.engine import Engine
from mdistill.labelling.plan import estimate_cost
from mdistill.processes import usable_cores
from mdistill.runs.results import Cell, Results, Table
from mdistill.settings import child_seed
from mdistill.types import Potential, System
from mdistill.workflows import hard_stages
from mdistill.workflows.distill_settings import DistillSettings, dispersion_notes, resolved
from mdistill.workflows.stage_log import hardening_calls, hardening_minutes, tuning_calls


def dry_run(settings: DistillSettings) -> Results:
    """The plan as tables; one teacher call on the real supercell is timed where the teacher is installed.

    Raises:
        BadInput: As `distill` would.
    """
    crystal = read_structure(settings.structure)
    settings = resolved(settings, crystal)
    planned = plan(crystal, settings.prepare)
    engine = hard_stages.hard_engine(settings, Path(), crystal)
    ordered = order(
        crystal, supercell=planned.supercell, settings=settings.prepare.disorder, seed=child_seed(settings.seed, "prepare")
    )
    notes = [ordered[0].rule, *planned.notes, *dispersion_notes(settings)]
    system = to_system(ordered[0].crystal)
    teacher: Potential | None = None
    try:
        teacher = safe_teacher(settings.teacher, device=settings.device, timeout_s=settings.label.timeout_s)
        plan(crystal, settings.prepare, elements=teacher.elements, subject=settings.teacher)
    except MissingPackage as missing:
        notes.append(f"No minutes could be estimated: {missing}")
    seconds = None if teacher is None else seconds_per_call(teacher, system)
    structure = Table(
        name="supercell",
        title="Structure",
        section="structure",
        columns=["what", "value"],
        rows=[
            ["composition", planned.composition],
            ["atoms", planned.atoms],
            ["supercell", " × ".join(map(str, planned.supercell))],
            ["lengths (Å)", ", ".join(f"{x:.2f}" for x in planned.lengths)],
            ["mobile ion", settings.mobile],
        ],
    )
    sites = replace(planned.sites, caption=ordered[0].rule)
    hardening = _hard_costs(settings, planned, crystal, engine, seconds)
    costs = _costs(settings, planned, system, teacher, seconds, hard=hardening)
    hard = [] if engine is None else [hard_stages.hard_plan(settings, engine, crystal, system)]
    return Results(command="distill --dry-run", tables=[sites, structure, *hard, costs], notes=notes)


Costs = list[tuple[str, int, float | None]]
"""Stages with their teacher calls and minutes."""


def _hard_costs(
    settings: DistillSettings, planned: Plan, crystal: Crystal, engine: Engine | None, seconds: float | None
) -> Costs:  # fmt: skip
    """The stage of hard labels without the labels: the teacher's calls for the same structures, and the fits."""
    if engine is None:
        return []
    given = min(len(given_by(engine)), settings.hard_budget)
    calls = given or hardening_calls(settings)
    small = hard_stages.in_unit_cell(settings, engine, crystal)
    share = crystal.n_atoms / planned.atoms if small else 1.0
    calls += planned.relaxation_calls if small else 0
    what = "relax the unit cell (at most), label its MD" if small else "structures of hard labels"
    rows: Costs = [(what, calls, calls * share * (seconds or 0.0) / 60.0)] if calls else []
    name = f"fits on {given or settings.hard_budget} labels by {settings.hard}, without the labels"
    return [*rows, (name, 0, hardening_minutes(settings) or None)]


def _fit(name: str, steps: int, minutes: float) -> tuple[str, int, float | None]:
    """The row of a fit. With a fixed number of steps its minutes are not known."""
    return (f"{name}, {steps} steps", 0, None) if steps else (name, 0, minutes)


def seconds_per_call(potential: Potential, system: System, *, calls: int = 3) -> float:
    """Median wall-clock seconds of a call after one to warm up, each of a structure shifted a little: no calculator stored it."""
    from mdistill.graph import build_graph

    graph = build_graph(system, potential.cutoff) if potential.cutoff > 0.0 else empty_graph(system)
    potential(graph)
    times = []
    for k in range(calls):
        shifted = replace(graph, system=replace(system, positions=system.positions + 1e-4 * (k + 1)))
        begin = time.perf_counter()
        potential(shifted)
        times.append(time.perf_counter() - begin)
    return sorted(times)[len(times) // 2]


def _costs(
    settings: DistillSettings, planned: Plan, system: System, teacher: Potential | None, seconds: float | None, *, hard: Costs
) -> Table:  # fmt: skip
    per_call = seconds or 0.0
    label_calls = estimate_cost([system] * settings.prepare.orderings, settings.label, per_call, teacher=teacher)[0]
    refine_calls = (
        settings.refine.rounds * settings.refine.frames * len(settings.label.temperatures_K) * settings.prepare.orderings
    )
    fit = settings.train.fit.max_minutes * max(1.0, settings.committee / usable_cores())
    refit = fit * settings.refine.refit_share * settings.refine.rounds
    checks = settings.check.frames * len(settings.temperatures)
    stages: Costs = [
        ("relax (at most)", planned.relaxation_calls, planned.relaxation_calls * per_call / 60.0),
        ("label", label_calls, label_calls * per_call / 60.0),
        _fit("train", settings.train.fit.steps, fit),
        ("on-policy labels", refine_calls, refine_calls * per_call / 60.0),
        _fit("refit", round(settings.train.fit.steps * settings.refine.refit_share), refit),
        (
            "time the teacher (gates)",
            settings.validate.speed_repeats + 1,
            (settings.validate.speed_repeats + 1) * per_call / 60.0,
        ),
    ]
    stages += hard
    steps, again = tuning_calls(settings, [system] * settings.prepare.orderings)
    if steps:
        stages.append(("train the teacher further (at most)", 0, steps * per_call / 60.0))
        stages.append(("label again by it", again, again * per_call / 60.0))
    stages.append(("check production (at the size trained)", checks, checks * per_call / 60.0))
    if settings.stride_fs:
        learn = settings.rung().train
        stages.append(_fit(f"learn strides of {settings.stride_fs:g} fs (at most)", learn.fit.steps, learn.most_minutes))
    rows: list[list[Cell]] = [
        [name, calls, None if minutes is None or (seconds is None and calls) else round(minutes, 1)]
        for name, calls, minutes in stages
    ]
    known = [minutes for _, _, minutes in stages if minutes is not None]
    total = None if seconds is None else round(sum(known), 1)
    name = "together" if len(known) == len(stages) else "together, without fits of a fixed number of steps"
    rows.append([name, sum(calls for _, calls, _ in stages), total])
    measured = "not measured" if seconds is None else f"{seconds:.3f} s per call, measured now on this structure"
    return Table(
        name="costs", title=f"Teacher {settings.teacher}: {measured}", section="settings",
        columns=["stage", "teacher calls", "minutes"], rows=rows,
        caption="Dynamics of the student (gates, production, judgement of strides) are not included; the ladder shows its speed.",
    )  # fmt: skip
