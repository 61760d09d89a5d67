"""The rung and the section of direct forces in a report: errors, broken symmetries, and the time of a step."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median

from mdistill.direct.diagnostics import antisymmetry, equivariance_error
from mdistill.estimates import Estimate
from mdistill.graph import build_graph
from mdistill.runs.results import Cell, Results, Rung, Table
from mdistill.training.potential import TrainingResult
from mdistill.types import LabelledFrame, Potential

SECTION = "direct"
_FRAMES, _ATOMS, _REPEATS = 3, 60, 5
HEATS = "Direct forces are not the gradient of an energy: NVE dynamics heats up (λ > 0). Use a thermostat or --inner-steps."


def direct_results(result: TrainingResult, potential: Potential, frames: Sequence[LabelledFrame]) -> Results:
    """The rung, its table and the values of a trained model.

    Args:
        result: Its training.
        potential: The model, float64.
        frames: Structures of the labels; E_eq and λ are measured on a few of 2 to 60 atoms.
    """
    small = [frame.system for frame in frames if 1 < frame.system.n_atoms <= _ATOMS]
    systems = small[:: max(1, len(small) // _FRAMES)][:_FRAMES]
    force = result.accuracy.force["all"].mean_absolute.scaled(1e3, "meV/Å")
    cost = step_cost(potential, frames[-1])
    errors, values = {"force MAE": force}, {"direct_cost": cost}
    rows: list[list[Cell]] = [["force error, held-out", force]]
    if systems:
        equivariance, asymmetry = equivariance_error(potential, systems).scaled(1e3, "meV/Å"), antisymmetry(potential, systems)
        errors |= {"E_eq": equivariance, "λ": asymmetry}
        rows += [["equivariance error E_eq", equivariance], ["antisymmetric share λ of the force Jacobian", asymmetry]]
        values |= {"equivariance_error": equivariance, "antisymmetry": asymmetry}
    rows.append(["time of a step", cost])
    caption = f"E_eq: spread over 60 rotations. λ: 0 of a potential, 0.71 of a random matrix. {len(systems)} structures."
    table = Table("direct_forces", "Direct forces", SECTION, ["what", "value"], rows, caption if systems else "")
    rung = Rung(
        kind="direct", name=potential.name, cost=cost, errors=errors, note=HEATS, command="train direct", model=result.sha256
    )
    return Results(command="train", rungs=[rung], tables=[table], values=values, notes=[HEATS])


def step_cost(potential: Potential, frame: LabelledFrame) -> Estimate:
    """Median CPU time of the forces of one structure, µs/atom."""
    graph, spent = build_graph(frame.system, potential.cutoff), []
    for _ in range(_REPEATS):
        begin = time.process_time()
        potential(graph)
        spent.append(time.process_time() - begin)
    scale = 1e6 / frame.system.n_atoms
    return Estimate(
        value=scale * median(spent), error=scale * (max(spent) - min(spent)) / 2.0, unit="µs/atom/step", samples=_REPEATS
    )
