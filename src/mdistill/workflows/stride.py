"""The stride rung: segments of a student's exact flow → a long-stride map → judged beside small steps of that student."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from mdistill.data.segments import Segment
from mdistill.interrupt import NEVER, StopRequest
from mdistill.io.results import Results, merge, read_results, write_results
from mdistill.nets.composition import CompositionNet
from mdistill.progress import progress
from mdistill.simulation.compiled import compile_propagator
from mdistill.simulation.engines import make_evaluator
from mdistill.simulation.flight import Flight
from mdistill.simulation.guard import Guard
from mdistill.simulation.kept import EnergyKept
from mdistill.simulation.simulate import default_time_step
from mdistill.simulation.strides import long_strides
from mdistill.simulation.verlet import Evaluate, VelocityVerlet
from mdistill.training.stride import StrideResult, train_stride
from mdistill.types import Potential, Propagator, State, System
from mdistill.workflows.judge_stride import (
    BLOCKS,
    ENSEMBLES,
    Judged,
    Longer,
    equilibrated_start,
    judged,
    likeness,
    reversal_error,
    small_steps,
    speeds,
)
from mdistill.workflows.models import load, load_stride
from mdistill.workflows.run import hardware, plain
from mdistill.workflows.segments import make_segments
from mdistill.workflows.strength import set_strength
from mdistill.workflows.stride_settings import JudgeSettings, StrideRungSettings
from mdistill.workflows.stride_tables import LADDER, PREFIX, SECTION, Compared, gates, ladder_row, tables, target_of, values

SEGMENTS, STRENGTH = "segments", "strength.json"
_REVERSED_STRIDES = 50


def stride_rung(
    student: Path,
    systems: list[System],
    settings: StrideRungSettings,
    folder: Path,
    *,
    recorded: Sequence[Segment] = (),
    stop: StopRequest = NEVER,
) -> Results:
    """Train a map on the student's own flow and judge it.

    Args:
        student: Model file of a spline student.
        systems: Structures whose dynamics is learned; the first is where the map is judged.
        settings: Segments, training, judging.
        folder: Gets segments/, stride.mdistill, its training and strength.json; what is there is not done again.
        recorded: Segments to learn from in place of new ones.
    Returns:
        Tables, gates and values of the section "strides", and the row of the ladder.
    Raises:
        BadInput: As `make_segments`, `train_stride`.
        BlowUp: The student's own dynamics broke.
        Interrupted: A stop was requested; the same call resumes.
    """
    segments = recorded or make_segments(systems, load(student), settings.segments, folder / SEGMENTS, stop=stop)
    potential = load(student, precision="float32")
    known = folder / STRENGTH
    settle = partial(set_strength, potential=potential, system=systems[0], settings=settings, kept=known, stop=stop)
    result = train_stride(segments, student, settings.train, folder, settle=settle, stop=stop)
    return judge_map(result, potential, systems[0], settings, stop=stop)


def judge_map(
    result: StrideResult, potential: Potential, system: System, settings: StrideRungSettings, *, stop: StopRequest = NEVER
) -> Results:
    """Dynamics of a map beside small steps of the potential it was taught, and beside as many force calls of plain Verlet."""
    how = settings.judge
    net = load_stride(result.path)
    evaluate = make_evaluator(potential, system)
    usual = default_time_step(system)
    small = small_steps(evaluate, system, how)
    stride = net.settings.stride_fs
    kicks = net.settings.kicks if isinstance(net, CompositionNet) else max(1, round(stride / 8.0))
    long = long_strides(net, system, evaluate, time=stride, skin=settings.skin_A, small_step=usual)
    alike = VelocityVerlet(evaluate=evaluate, time_step=min(stride / kicks, 10.0))
    start = equilibrated_start(small, system, how)
    kept = long if isinstance(long, Flight) else EnergyKept(inner=long, evaluate=evaluate)
    alone = replace(long, rescale=False) if isinstance(long, Flight) else long
    kinds: dict[str, dict[str, Propagator]] = {
        "small steps": dict.fromkeys(("NVE", "Bussi"), small),
        "long strides": dict.fromkeys(ENSEMBLES, kept),
        "energy left alone": dict.fromkeys(ENSEMBLES, alone),
        "as many force calls": dict.fromkeys(ENSEMBLES, alike),
    }
    runs = _run_all(kinds, start, evaluate, how, stop=stop)
    reference, own = runs["small steps"]["Bussi"].trajectory, runs["long strides"]["Bussi"].trajectory
    ordinary = VelocityVerlet(evaluate=evaluate, time_step=usual)
    timed = {f"Verlet, {usual:g} fs": ordinary, f"strides, {stride:g} fs": kept}
    moving = {name: compile_propagator(step, evaluate, Guard()) for name, step in timed.items()}
    per_day, faster = speeds(moving, start, rounds=how.rounds)
    compared = Compared(
        stride_fs=stride,
        kicks=kicks,
        usual_fs=usual,
        errors=result.errors,
        settled=result.settled,
        runs=runs,
        overlaps=likeness(reference, own) if reference is not None and own is not None else {},
        reversal_A=reversal_error(long, start, _REVERSED_STRIDES),
        per_day=list(per_day.values()),
        speed_up=list(faster.values())[1],
        fallbacks=long.counts.fallbacks,
        strides=long.counts.strides,
        name=net.name,
        atoms=system.n_atoms,
        light=isinstance(net, CompositionNet) and settings.train.kick_size == "light",
    )
    return Results(
        command="train stride",
        settings=plain(settings),
        hardware=hardware(),
        provenance={"stride": net.name, "potential": potential.name},
        values=values(compared),
        gates=gates(compared, how),
        tables=tables(compared, how),
        citations=["mdistill", "flashmd", "sympnets"],
    )


def _run_all(
    kinds: dict[str, dict[str, Propagator]], start: State, evaluate: Evaluate, how: JudgeSettings, *, stop: StopRequest
) -> dict[str, dict[str, Judged]]:
    """Every kind of step in its ensembles: gated ones until their verdicts are known, what they are held against in NVE too."""
    runs: dict[str, dict[str, Judged]] = {}
    with progress("judge strides", sum(map(len, kinds.values())) * BLOCKS, unit="block") as advance:
        for name, steps in kinds.items():
            for e, step in steps.items():
                gated = name == "long strides"
                longer: Longer = "elements" if gated else "all" if (name, e) == ("small steps", "NVE") else ""
                aim = target_of(runs, e, how.temperature_K or 0.0) if gated else None
                runs.setdefault(name, {})[e] = judged(
                    step, e, start, evaluate, how, longer=longer, target_K=aim.value if aim else None, stop=stop, advance=advance
                )
    return runs


def add_to_run(run: Path, found: Results) -> Results:
    """The run's results with this rung in place of an older one; written to its results.json."""
    merged = with_rung(read_results(run), found)
    write_results(run, merged)
    return merged


def with_rung(old: Results, found: Results) -> Results:
    """Results of a run with this rung in its ladder, and its section in place of an older one."""
    table = next((t for t in old.tables if t.name == LADDER), None)
    kept = replace(
        old,
        tables=[t for t in old.tables if t.section != SECTION],
        gates=[g for g in old.gates if not g.name.startswith(PREFIX)],
        values={name: value for name, value in old.values.items() if not name.startswith(PREFIX)},
    )
    if table is not None:
        kept = replace(kept, tables=[ladder_row(table, found) if t is table else t for t in kept.tables])
    return merge(kept, replace(found, notes=[]))
