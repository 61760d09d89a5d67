"""Where the time of a long stride goes, and the multiply-adds it is made of: what limits its gain over time steps.

For maps made by `long_stride.py`, on one thread, in one run: µs an atom of one evaluation of the student and of a kick where
the neighbours are known, of one neighbour search, and of whole strides without energy correction and with one at every tenth and
twentieth stride; strides from one search to the next; and multiply-adds an atom, as the equations have them and with what the
registers' 16 numbers are filled up with. Times are medians over rounds in which everything is timed once.

    MDISTILL_DATA=… python -m benchmarks.studies.stride_costs [--maps li6ps5cl/16fs-2 …] [--runs FOLDER] [--rounds 9]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.record import ROOT, write_record
from benchmarks.stride_systems import Material, system
from mdistill.nets.model_files import load_net
from mdistill.nets.settings import MomentSettings
from mdistill.nets.splitting_map import SplittingMap
from mdistill.simulation.compiled import compile_propagator
from mdistill.simulation.energy_correction import CorrectEnergy
from mdistill.simulation.evaluator import EngineEvaluator, make_evaluator
from mdistill.simulation.initial_state import initial_state
from mdistill.simulation.rollout import rollout
from mdistill.simulation.splitting_map import SplittingStrides
from mdistill.simulation.stride_maps import LongStrides, long_strides
from mdistill.simulation.verlet import Evaluate, VelocityVerlet, evaluated
from mdistill.teachers.models import load, load_stride
from mdistill.types import Propagator, State

MAPS = ["li6ps5cl/16fs-2", "li3ps4/16fs-2", "aluminium/32fs-2"]
LANES = 16
"""Numbers of a register in which the kernels compute."""
SKIN, PS, CALLS, STILL = 1.5, 16.0, 4000, 1e-4
"""Skin of the lists, Å; dynamics timed at once, ps; or steps so short (fs) that the neighbours stay as they are."""
POINTS = {1: 13, 2: 13, 3: 19}
"""Of the sphere on which invariants of third order are taken, by degree."""


def multiply_adds(size: MomentSettings, edges: float, lanes: int = 1) -> float:
    """Of the energy and forces of one atom with so many neighbours; sums filled up to whole registers.

    Per edge: radial functions and harmonics with their slopes, their products into the sums, and twice as much back.
    Per atom, each there and back: sums into channels, invariants on the sphere, the network.
    """

    def full(count: int) -> int:
        return -(-count // lanes) * lanes

    components, species = (size.degree + 1) ** 2, len(size.elements)
    wide, channels, hidden = full(components), full(size.channels), full(size.hidden)
    edge = 4 * size.radial + 3 * components + 3 * size.radial * wide
    mixing = species * size.radial * (components * channels + size.channels * wide)
    invariants = 4 * POINTS[size.degree] * components * channels
    features = (size.degree + 3) * size.channels
    network = 2 * (features * hidden + size.hidden * hidden)
    return full(round(edges)) * edge + mixing + invariants + network


def in_turn(calls: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each, timed one after the other in every round; the first round is not counted."""
    rows = [{name: call() for name, call in calls.items()} for _ in range(rounds + 1)][1:]
    return {name: [row[name] for row in rows] for name in calls}


def motion(step: Propagator, state: State, count: int) -> Callable[[], float]:
    """Seconds of one step of dynamics."""

    def call() -> float:
        begun = time.perf_counter()
        rollout(state, step, steps=count, generator=torch.Generator().manual_seed(0), leap=count)
        return (time.perf_counter() - begun) / count

    return call


def costs(material: Material, folder: Path, rounds: int) -> dict[str, Any]:
    """A row of the record."""
    net, evaluate = load_stride(folder), make_evaluator(load(material.student, precision="float32"), material.start, skin=SKIN)
    inner = long_strides(net, material.start, evaluate, time=net.settings.stride_fs, skin=SKIN, small_step=material.time_step_fs)
    assert isinstance(net, SplittingMap)
    assert isinstance(inner, SplittingStrides)
    kick = inner.stages[0]
    assert isinstance(kick, EngineEvaluator)
    calls = timed(material, evaluate, inner, kick)
    found, atoms = in_turn(calls, rounds), material.start.n_atoms
    micro = {name: 1e6 * float(np.median(seconds)) / atoms for name, seconds in found.items()}
    before = kick.engine.counts()
    calls["stride"]()
    after, strides = kick.engine.counts(), round(1000.0 * PS / net.settings.stride_fs)
    searches = max(1, after["searches"] - before["searches"])
    per_stride, calls_each = net.settings.stride_fs / material.time_step_fs, net.settings.kicks
    gains = [np.array(found["time step"]) * per_stride / found[f"stride, energy right at one of {n}"] for n in (10, 20)]
    sizes = {"student": load_net(material.student).settings, "kick": net.settings.potential}
    neighbours = after["edges"] / atoms
    return {
        "material": material.name,
        "map": folder.name,
        "atoms": atoms,
        "neighbours": neighbours,
        **micro,
        "neighbour search": 1e6 * (after["search_seconds"] - before["search_seconds"]) / searches / atoms,
        "strides from one search to the next": strides / searches,
        "times the student (×), energy right at one of 10": float(np.median(gains[0])),
        "times the student (×), at one of 20": float(np.median(gains[1])),
        "times the student (×), were it kicks alone": per_stride * micro["time step"] / (calls_each * micro["kick"]),
        **{f"multiply-adds, {name}": multiply_adds(size, neighbours) for name, size in sizes.items()},
        **{f"multiply-adds in full registers, {name}": multiply_adds(size, neighbours, LANES) for name, size in sizes.items()},
    }


def timed(material: Material, evaluate: Evaluate, inner: LongStrides, kick: Evaluate) -> dict[str, Callable[[], float]]:
    """What is timed: a time step, strides, and evaluations of the student and of a kick while nothing moves."""
    hot = initial_state(material.start, temperature_K=2 * material.temperature_K, generator=torch.Generator().manual_seed(0))
    step = compile_propagator(VelocityVerlet(evaluate=evaluate, time_step=material.time_step_fs), evaluate)
    state = rollout(evaluated(hot, evaluate), step, steps=2000, generator=torch.Generator().manual_seed(0), leap=2000)
    moving = {"time step": step, "stride": compile_propagator(inner, evaluate)}
    for n in (10, 20):
        kept = CorrectEnergy(inner=inner, evaluate=evaluate, every=n)
        moving[f"stride, energy right at one of {n}"] = compile_propagator(kept, evaluate)
    calls = {name: motion(way, state, round(1000.0 * PS / way.stride_fs)) for name, way in moving.items()}
    for name, still in (("student", evaluate), ("kick", kick)):
        barely = compile_propagator(VelocityVerlet(evaluate=still, time_step=STILL), still)
        calls[name] = motion(barely, evaluated(replace(state, prediction=None), still), CALLS)
    return calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--maps", nargs="+", default=MAPS, help="below runs/stride")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs")
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = [costs(system(name.split("/")[0], given.runs), given.runs / "stride" / name, given.rounds) for name in given.maps]
    write_record("stride_costs", {"rounds": given.rounds, "skin (Å)": SKIN, "ps a round": PS}, rows)


if __name__ == "__main__":
    main()
