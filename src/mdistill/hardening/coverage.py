"""Choose structures of files for expensive labels, and show what they cover."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from mdistill.data.descriptors import invariants_of
from mdistill.data.select_frames import Describe, coverage, described, histogram, select
from mdistill.errors import BadInput
from mdistill.io.structures import write_systems
from mdistill.nets.model_files import load_net
from mdistill.runs.results import Cell, Figure, Results, Series, Table
from mdistill.teachers.models import find_student
from mdistill.types import System

SHOWN = 12


def select_frames(
    candidates: Sequence[System], budget: int, out: Path, *, student: Path | None = None, reference: Sequence[System] = (),
    method: Literal["farthest", "leverage"] = "farthest", floor: float = 0.75,
) -> Results:  # fmt: skip
    """Choose structures and write them; the figure shows their coverage.

    Args:
        candidates: Structures to choose from.
        budget: Number to choose.
        out: File of the chosen structures.
        student: Model file or run folder of the student whose invariants describe structures.
        reference: Structures that are labelled already.
        method, floor: As for `data.select_frames.select`.
    Raises:
        BadInput: A student that cannot be read, a budget below 1, or several compositions without a student.
    """
    if budget < 1:
        raise BadInput("--budget", f"{budget}", allowed="1 or more", fix="--budget 40")
    if out.suffix != ".extxyz":
        raise BadInput("--out", str(out), allowed="a file that ends in .extxyz", fix=f"--out {out.with_suffix('.extxyz')}")
    describe: Describe = histogram
    if student is not None:
        net = load_net(find_student(student) if student.is_dir() else student)
        unknown = {int(z) for s in [*candidates, *reference] for z in s.numbers} - net.elements
        if unknown:
            from ase.data import chemical_symbols

            names = ", ".join(chemical_symbols[z] for z in sorted(unknown))
            fix = "choose another student, or leave --student out"
            raise BadInput("--student", f"does not know {names}", allowed="a student of these elements", fix=fix)
        describe = invariants_of(net)
    elif len({tuple(sorted(set(s.numbers.tolist()))) for s in [*candidates, *reference]}) > 1:
        fix = "--student RUN: its invariants compare them"
        raise BadInput("structures", "have different elements", allowed="one set of elements without a student", fix=fix)
    chosen = select(candidates, reference, budget, floor=floor if reference else 0.0, describe=describe, method=method)
    if not chosen:
        problem = f"none of {len(candidates)} structures is finite and without too close pairs"
        raise BadInput("structures", problem, allowed="at least one", fix="lower --floor, or check the files")
    points, before = described(candidates, reference, describe)
    covered = coverage(points, chosen, before)
    write_systems(out, [candidates[k] for k in chosen])
    figure = Figure(
        name="coverage", title="Coverage", section="selection", x_label="structures chosen", kind="line",
        y_label="mean distance to the nearest one (that to the centre: 1)",
        series=[Series(method, [float(k + 1) for k in range(len(chosen))], covered.tolist(), style="points")],
    )  # fmt: skip
    rows: list[list[Cell]] = [
        [k + 1, chosen[k] + 1, candidates[chosen[k]].n_atoms, float(covered[k])] for k in range(len(chosen))
    ]
    columns = ["rank", "structure", "atoms", "mean distance to the nearest"]
    text = f"{len(chosen)} of {len(candidates)} structures" + (f"; {len(reference)} known" if reference else "")
    text += "" if len(chosen) == budget else f". The budget was {budget}: the rest are copies, or have too close pairs"
    table = Table("selected", "Chosen structures", "selection", columns, rows, text + f". First {SHOWN} shown.")
    return Results(command="select-frames", tables=[table], figures=[figure])
