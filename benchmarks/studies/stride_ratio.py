"""Speed of a run's long strides over time steps of its student, in turn in one process: CPU time of one thread, medians.

python -m benchmarks.studies.stride_ratio RUN [--rounds 12]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.record import write_record
from mdistill.io.structures import STRUCTURES, read_system
from mdistill.runs.hardware import hardware
from mdistill.simulation.energy_correction import CorrectEnergy
from mdistill.simulation.evaluator import make_evaluator
from mdistill.simulation.initial_state import initial_state
from mdistill.simulation.rollout import rollout
from mdistill.simulation.sample import dynamics
from mdistill.simulation.stride_maps import long_strides
from mdistill.simulation.verlet import VelocityVerlet
from mdistill.teachers.models import load, load_stride

STEP_FS, KELVIN, ATOM_STEPS, SKIN_A = 2.0, 600.0, 800_000, 1.5


def row(run: Path, repeat: tuple[int, int, int], rounds: int) -> dict[str, Any]:
    """One structure: the run's own, repeated."""
    system, net = read_system(run / "prepare" / STRUCTURES, repeat=repeat), load_stride(run / "stride")
    evaluate = make_evaluator(load(run / "student.mdistill", precision="float32"), system)
    stride, atoms = net.settings.stride_fs, system.n_atoms
    long = long_strides(net, system, evaluate, time=stride, skin=SKIN_A, small_step=STEP_FS)
    ways = {
        "time steps": VelocityVerlet(evaluate=evaluate, time_step=STEP_FS),
        "strides": long if long.keeps_energy else CorrectEnergy(inner=long, evaluate=evaluate),
    }  # fmt: skip
    steps = {name: dynamics(way, evaluate).propagator for name, way in ways.items()}
    generator = torch.Generator().manual_seed(0)
    start = initial_state(system, temperature_K=KELVIN, generator=generator)
    start = rollout(start, steps["time steps"], steps=500, generator=generator, leap=500)
    count = {"time steps": ATOM_STEPS // atoms, "strides": ATOM_STEPS // atoms // 3}
    times = np.zeros((rounds, 2))
    for k in range(rounds):
        for j, (name, step) in enumerate(steps.items()):
            begun = time.process_time()
            rollout(start, step, steps=count[name], generator=generator, leap=count[name])
            times[k, j] = 1e6 * (time.process_time() - begun) / count[name] / atoms
    ratios = stride / STEP_FS * times[1:, 0] / times[1:, 1]
    return {
        "atoms": atoms, "stride (fs)": stride, "µs/atom/step": float(np.median(times[1:, 0])),
        "µs/atom/stride": float(np.median(times[1:, 1])), "speed-up": float(np.median(ratios)),
        "± (speed-up)": float(ratios.std(ddof=1) / len(ratios) ** 0.5),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--rounds", type=int, default=12)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row(given.run, repeat, given.rounds) for repeat in ((1, 1, 1), (2, 2, 2))]
    write_record("stride_ratio", {"run": given.run.name, "time_step_fs": STEP_FS} | hardware(), rows)


if __name__ == "__main__":
    main()
