"""A long-stride map compared with time steps of its student."""

from __future__ import annotations

from dataclasses import replace

from mdistill.interrupt import NEVER, StopRequest
from mdistill.judge.dynamics import (
    BLOCKS,
    ENSEMBLES,
    Judged,
    Longer,
    equilibrated_start,
    judged,
    likeness,
    reversal_error,
    small_steps,
)
from mdistill.judge.settings import JudgeSettings, StrideRungSettings
from mdistill.judge.stride_tables import SECTION, Compared, gates, rung, tables, target_of, values
from mdistill.judge.timing import speeds
from mdistill.matter.masses import usual_time_step
from mdistill.progress import progress
from mdistill.runs.hardware import hardware
from mdistill.runs.results import Headline, Results, in_section
from mdistill.settings import to_json
from mdistill.simulation.energy_correction import CorrectEnergy
from mdistill.simulation.evaluator import make_evaluator
from mdistill.simulation.propagators import Evaluate
from mdistill.simulation.sample import dynamics
from mdistill.simulation.stride_maps import long_strides
from mdistill.simulation.verlet import VelocityVerlet
from mdistill.teachers.models import load_stride
from mdistill.training.stride import StrideResult
from mdistill.types import Potential, Propagator, State, System

_REVERSED_STRIDES = 50


def judge_map(
    result: StrideResult, potential: Potential, system: System, settings: StrideRungSettings, *, seed: int = 0,
    stop: StopRequest = NEVER,
) -> Results:  # fmt: skip
    """Dynamics of a map, of time steps of its student, and of velocity Verlet with as many force calls."""
    judge = settings.judge
    net = load_stride(result.path)
    evaluate = make_evaluator(potential, system)
    usual = usual_time_step(system)
    small = small_steps(evaluate, system, judge)
    stride = net.settings.stride_fs
    kicks = net.settings.kicks if net.has_kicks else max(1, round(stride / 8.0))
    long = long_strides(net, system, evaluate, time=stride, skin=settings.skin_A, small_step=usual)
    coarse = VelocityVerlet(evaluate=evaluate, time_step=min(stride / kicks, 10.0))
    start = equilibrated_start(small, system, judge, seed=seed)
    corrected = long if long.keeps_energy else CorrectEnergy(inner=long, evaluate=evaluate)
    kinds: dict[str, dict[str, Propagator]] = {
        "small steps": dict.fromkeys(("NVE", "Bussi"), small),
        "long strides": dict.fromkeys(ENSEMBLES, corrected),
        "no energy correction": dict.fromkeys(ENSEMBLES, long.uncorrected()),
        "as many force calls": dict.fromkeys(ENSEMBLES, coarse),
    }
    runs = _run_all(kinds, start, evaluate, judge, seed=seed, stop=stop)
    counts = replace(long.counts)  # without the strides that a clock ends
    reference, strides = runs["small steps"]["Bussi"].trajectory, runs["long strides"]["Bussi"].trajectory
    ordinary = VelocityVerlet(evaluate=evaluate, time_step=usual)
    timed = {f"Verlet, {usual:g} fs": ordinary, f"strides, {stride:g} fs": corrected}
    per_day, faster = speeds({n: dynamics(step, evaluate).propagator for n, step in timed.items()}, start, repeats=judge.repeats)
    compared = Compared(
        stride_fs=stride, kicks=kicks, usual_fs=usual, errors=result.errors, adjusted=result.adjusted, runs=runs,
        overlaps=likeness(reference, strides) if reference is not None and strides is not None else {},
        reversal_A=reversal_error(long, start, _REVERSED_STRIDES), per_day=list(per_day.values()),
        speed_up=list(faster.values())[1], fallbacks=counts.fallbacks, strides=counts.strides, name=net.name,
        atoms=system.n_atoms, light=net.has_kicks and settings.train.kick_size == "light",
    )  # fmt: skip
    results = Results(
        command="train stride", settings=to_json(settings), hardware=hardware(),
        provenance={"stride": net.name, "potential": potential.name}, values=values(compared),
        headlines=[Headline(quantity="stride_speed_up", value="stride_speed_up")], gates=gates(compared, judge),
        rungs=[rung(compared, result.sha256)], tables=tables(compared, judge), citations=["mdistill", "flashmd", "sympnets"],
    )  # fmt: skip
    return in_section(SECTION, results)


def _run_all(
    kinds: dict[str, dict[str, Propagator]], start: State, evaluate: Evaluate, settings: JudgeSettings, *, seed: int,
    stop: StopRequest,
) -> dict[str, dict[str, Judged]]:  # fmt: skip
    """Runs of every kind of step and ensemble: gated ones until their verdicts are certain, as are the NVE reference runs."""
    runs: dict[str, dict[str, Judged]] = {}
    with progress("judge strides", sum(map(len, kinds.values())) * BLOCKS, unit="block") as advance:
        for name, steps in kinds.items():
            for e, step in steps.items():
                gated = name == "long strides"
                longer: Longer = "elements" if gated else "all" if (name, e) == ("small steps", "NVE") else ""
                aim = target_of(runs, e, settings.temperature_K or 0.0) if gated else None
                runs.setdefault(name, {})[e] = judged(
                    step, e, start, evaluate, settings, seed=seed, longer=longer, target_K=aim.value if aim else None,
                    stop=stop, advance=advance,
                )  # fmt: skip
    return runs
