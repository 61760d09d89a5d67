"""Cost of a training step against the number of structures of a rank, and what adding up the gradients costs.

A step takes a + b·n seconds of CPU time for n structures of 52 atoms (Li6PS5Cl, size `medium`, curvature labels at every fourth
step), where a is the optimiser, which every rank repeats. Two ranks then share batches; the time of the message is measured
without other work, so that neither waits for the other. From these follow speed-ups on more processes: (a + b·B) over
(a + b·B/W + message). Labels are random: the cost of a step does not depend on them.

    python -m benchmarks.training_ranks [--steps 8]
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from benchmarks.record import ROOT, STRUCTURE, write_record
from mdistill.io.structures import read_system
from mdistill.training.potential import prepare_fit
from mdistill.training.ranks import here, joined
from mdistill.training.settings import FitSettings, TrainSettings
from mdistill.types import LabelledFrame, Prediction

SIZES, BATCH, MESSAGES = (1, 2, 4, 8, 16), 16, 200


def frames(count: int) -> list[LabelledFrame]:
    """Rattled copies with random labels."""
    box, random = read_system(STRUCTURE), np.random.default_rng(0)
    n = box.n_atoms

    def drawn(*shape: int) -> torch.Tensor:
        return torch.from_numpy(random.normal(size=shape))

    return [
        LabelledFrame(
            system=replace(box, positions=box.positions + 0.1 * drawn(n, 3)), probes=drawn(1, n, 3), products=drawn(1, n, 3),
            block=k, target=Prediction(energy=drawn(1), forces=drawn(n, 3), stress=0.01 * drawn(1, 3, 3)),
        )
        for k in range(count)
    ]  # fmt: skip


def step_times(sizes: tuple[int, ...], steps: int) -> dict[str, Any]:
    """CPU seconds of this rank's thread per step, mean over every kind of step, for batches of these sizes."""
    from mdistill.training.fit import _Run

    settings = TrainSettings(cutoff=4.9, held_out=0.1, fit=FitSettings(steps=100))
    ready = prepare_fit(frames(max(sizes) + 4), settings)
    run = _Run(ready.net, ready.objective, settings.fit.suited("moment"), ROOT)
    found: dict[str, Any] = {"bytes": sum(p.numel() * p.element_size() for p in run.parameters), "seconds": {}}
    for size in (sizes[0], *sizes):
        each = []
        for _ in range(4 * max(1, steps // 4)):
            begin = time.thread_time()
            run.update(ready.items[:size])
            each.append(time.thread_time() - begin)
        found["seconds"][size] = statistics.fmean(each)
    return found


def message_times(size: int) -> dict[str, float]:
    """Milliseconds of adding up gradients of this many bytes: by the clock (the fastest tenth) and of CPU."""
    gradient, wall, cpu = [torch.ones(size // 4)], [], []
    for _ in range(MESSAGES):
        begin, used = time.monotonic(), time.process_time()
        here().add(gradient, 1.0)
        gradient[0].fill_(1.0)
        wall.append(time.monotonic() - begin)
        cpu.append(time.process_time() - used)
    return {"wall_ms": 1e3 * statistics.quantiles(wall, n=10)[0], "cpu_ms": 1e3 * statistics.fmean(cpu)}


def rank(steps: int) -> None:
    with joined() as ranks:
        found = step_times((BATCH,), steps)
        found["messages"] = {size: message_times(size) for size in (found["bytes"], 10 * found["bytes"])}
        if ranks.first:
            print(json.dumps(found))


def two_ranks(steps: int) -> dict[str, Any]:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    command = [sys.executable, "-m", "benchmarks.training_ranks", "--steps", f"{steps}", "--rank"]
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}", "GLOO_SOCKET_IFNAME": "lo"}
    started = [
        subprocess.Popen(command, env=os.environ | place | {"RANK": f"{r}"}, stdout=subprocess.PIPE, text=True) for r in range(2)
    ]
    said = [process.communicate()[0] for process in started]
    return json.loads(said[0].strip().splitlines()[-1])  # type: ignore[no-any-return]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rank", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.rank:
        return rank(given.steps)
    alone = step_times(SIZES, given.steps)
    b, a = np.polyfit(SIZES, [alone["seconds"][size] for size in SIZES], 1)
    two = two_ranks(given.steps)
    message = two["messages"][f"{alone['bytes']}"]
    values = {
        "bytes": alone["bytes"], "ms_of_optimiser": 1e3 * a, "ms_per_structure": 1e3 * b,
        "one_process_ms": 1e3 * alone["seconds"][BATCH], "two_processes_ms": 1e3 * two["seconds"][f"{BATCH}"],
        "message_ms": message["wall_ms"], "message_cpu_ms": message["cpu_ms"],
        "message_ten_times_ms": two["messages"][f"{10 * alone['bytes']}"]["wall_ms"],
    }  # fmt: skip
    for ranks in (2, 8, 64):
        for batch in (8, 32, 128, 512):
            shared = a + b * -(-batch // ranks) + 1e-3 * message["wall_ms"]
            values[f"speed_up_{ranks}_ranks_batch_{batch}"] = (a + b * batch) / shared
    write_record("training_ranks", {"steps": given.steps, "sizes": SIZES, "batch": BATCH}, [values])
    return None


if __name__ == "__main__":
    main()
