"""What curvature in the loss costs: a training step of ethanol with no, one, four and all 27 rows of the Hessian.

    MDISTILL_DATA=… python -m benchmarks.studies.curvature_cost [--rounds 5]

Products are zeros, because only the time counts. Kinds of student and numbers of rows are timed in turn: CPU time, one thread.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from benchmarks.record import write_record
from benchmarks.studies.curvature import STUDENTS
from benchmarks.studies.curvature_systems import molecule
from mdistill.derivatives import unit_directions
from mdistill.nets.model_files import network_of
from mdistill.training.calibrate import calibrate
from mdistill.training.fit import Objective
from mdistill.training.labels import Item, items_of
from mdistill.training.objective import PotentialObjective, loss_terms
from mdistill.types import LabelledFrame

ROWS = (0, 1, 4, 27)
BATCH, STEPS = 8, 6


def prepared(frames: list[LabelledFrame], student: str, rows: int) -> tuple[torch.nn.Module, Objective[Item], list[Item]]:
    """A network, its loss with so many rows at every step, and a batch."""
    directions = unit_directions(frames[0].system, range(27))
    known = [replace(f, probes=directions, products=torch.zeros_like(directions)) for f in frames] if rows else frames
    settings = replace(STUDENTS[student], curvature_every=1, curvature_probes=max(rows, 1))
    net = network_of(settings.student(tuple(sorted({int(z) for z in frames[0].system.numbers}))))
    items = items_of(known, net.cutoff, torch.float32)
    calibrate(net, items, fresh=True)
    objective = PotentialObjective(terms=loss_terms(known, settings), every=1, probes=max(rows, 1), seed=0)
    return net.in_type(torch.float32), objective, items


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    frames = molecule("ethanol", "train")[:BATCH]
    cases = {(student, rows): prepared(frames, student, rows) for student in STUDENTS for rows in ROWS}
    times: dict[tuple[str, int], list[float]] = {case: [] for case in cases}
    for _ in range(given.rounds + 1):
        for case, (net, objective, items) in cases.items():
            parameters = [p for p in net.parameters() if p.requires_grad]
            begun = time.process_time()
            for step in range(STEPS):
                loss, _ = objective(net, items, step)
                torch.autograd.grad(loss, parameters, allow_unused=True)
            times[case].append((time.process_time() - begun) / STEPS)
    found: list[dict[str, Any]] = []
    for (student, rows), seconds in times.items():
        plain = np.array(times[student, 0][1:])
        each = np.array(seconds[1:])
        found.append(
            {"student": student, "rows": rows, "CPU ms a step": 1e3 * float(np.median(each)),
             "times energy and forces": float(np.median(each / plain))}
        )  # fmt: skip
    write_record("curvature_cost", {"batch": BATCH, "students": STUDENTS, "rounds": given.rounds}, found)


if __name__ == "__main__":
    main()
