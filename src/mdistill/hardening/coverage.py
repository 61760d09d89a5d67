"""Choose structures of files for expensive labels, and show what they cover."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from mdistill.data.descriptors import invariants_of
from mdistill.data.select_frames import Describe, coverage, described, histogram, select
from mdistill.errors import BadInput
from mdistill.graph import build_graph
from mdistill.hardening.settings import LARGEST_FORCE
from mdistill.io.structures import write_systems
from mdistill.labelling.label_files import FORCES
from mdistill.nets.model_files import load_model, load_net
from mdistill.nets.network import Student
from mdistill.runs.results import Cell, Figure, Results, Series, Table
from mdistill.teachers.models import find_student
from mdistill.types import Prediction, System

SHOWN = 12


def select_frames(
    candidates: Sequence[System], budget: int, out: Path, *, student: Path | None = None, reference: Sequence[System] = (),
    method: Literal["farthest", "leverage"] = "farthest", floor: float = 0.75, forces: Sequence[float | None] | None = None,
    largest_force: float = LARGEST_FORCE,
) -> Results:  # fmt: skip
    """Choose structures and write them; the figure shows their coverage.

    Args:
        candidates: Structures to choose from.
        budget: Number to choose.
        out: File of the chosen structures.
        student: Model file or run folder of the student whose invariants describe structures.
        reference: Structures that are labelled already.
        method, floor: As for `data.select_frames.select`.
        forces: Largest force of each candidate, eV/Å; where it is None the student's counts, without a student none does.
        largest_force: Candidates with a larger one, eV/Å, or one that is not finite, are left out.
    Raises:
        BadInput: A student that cannot be read, a budget below 1, no candidate below the limit, or several compositions without
            a student.
    """
    if budget < 1:
        raise BadInput("--budget", f"{budget}", allowed="1 or more", fix="--budget 40")
    if not largest_force > 0.0:
        fix = f"--largest-force {LARGEST_FORCE:g}"
        raise BadInput("--largest-force", f"{largest_force:g}", allowed="above 0 (eV/Å)", fix=fix)
    if out.suffix != ".extxyz":
        raise BadInput("--out", str(out), allowed="a file that ends in .extxyz", fix=f"--out {out.with_suffix('.extxyz')}")
    model = None if student is None else find_student(student) if student.is_dir() else student
    describe = _describe(None if model is None else load_net(model), [*candidates, *reference])
    sizes = _sizes(candidates, forces or [None] * len(candidates), model)
    below = [k for k, size in enumerate(sizes) if size is None or size <= largest_force]
    told = _told(sizes, below, largest_force)
    usable = [candidates[k] for k in below]
    picked = select(usable, reference, budget, floor=floor if reference else 0.0, describe=describe, method=method)
    if not picked:
        problem = f"none of {len(usable)} structures is finite and without too close pairs"
        raise BadInput("structures", problem, allowed="at least one", fix="lower --floor, or check the files")
    points, before = described(usable, reference, describe)
    covered, chosen = coverage(points, picked, before), [below[k] for k in picked]
    write_systems(out, [candidates[k] for k in chosen])
    figure = Figure(
        name="coverage", title="Coverage", section="selection", x_label="structures chosen", kind="line",
        y_label="mean distance to the nearest one (that to the centre: 1)",
        series=[Series(method, [float(k + 1) for k in range(len(chosen))], covered.tolist(), style="points")],
    )  # fmt: skip
    rows: list[list[Cell]] = [
        [k + 1, chosen[k] + 1, candidates[chosen[k]].n_atoms, sizes[chosen[k]], float(covered[k])] for k in range(len(chosen))
    ]
    columns = ["rank", "structure", "atoms", "largest force (eV/Å)", "mean distance to the nearest"]
    text = f"{len(chosen)} of {len(candidates)} structures" + (f"; {len(reference)} known" if reference else "")
    text += "" if len(chosen) == budget else f". The budget was {budget}: the rest are left out, copies, or have too close pairs"
    table = Table("selected", "Chosen structures", "selection", columns, rows, text + f". First {SHOWN} shown.")
    return Results(command="select-frames", tables=[table], figures=[figure], notes=told)


def largest_of(prediction: Prediction) -> float:
    """Largest force on an atom, eV/Å; NaN where one is not finite."""
    return float(prediction.forces.detach().norm(dim=1).max())


def forces_in(path: Path) -> list[float | None]:
    """Largest force of each structure of a file, eV/Å as other programs write it; None where a structure has no forces."""
    from ase.io import read

    found = list[float | None]()
    for atoms in read(path, index=":", do_not_split_by_at_sign=True):
        named = {name.lower(): array for name, array in (atoms.arrays | (atoms.calc.results if atoms.calc else {})).items()}
        arrays = [np.asarray(named[name]) for name in FORCES if name in named]
        sizes = [float(np.linalg.norm(array, axis=1).max()) for array in arrays if array.shape == (len(atoms), 3)]
        found.append(sizes[0] if sizes else None)
    return found


def _describe(net: Student | None, systems: Sequence[System]) -> Describe:
    """Structures in the invariants of a student; in histograms of distances without one."""
    if net is not None:
        unknown = {int(z) for s in systems for z in s.numbers} - net.elements
        if unknown:
            from ase.data import chemical_symbols

            names = ", ".join(chemical_symbols[z] for z in sorted(unknown))
            fix = "choose another student, or leave --student out"
            raise BadInput("--student", f"does not know {names}", allowed="a student of these elements", fix=fix)
        return invariants_of(net)
    if len({tuple(sorted(set(s.numbers.tolist()))) for s in systems}) > 1:
        fix = "--student RUN: its invariants compare them"
        raise BadInput("structures", "have different elements", allowed="one set of elements without a student", fix=fix)
    return histogram


def _sizes(candidates: Sequence[System], forces: Sequence[float | None], model: Path | None) -> list[float | None]:
    """Largest force of each structure, eV/Å: as told, else the student's."""
    if model is None:
        return list(forces)
    potential = load_model(model)

    def of(system: System) -> float:
        finite = bool(torch.isfinite(system.positions).all() and torch.isfinite(system.cell).all())
        return largest_of(potential(build_graph(system, potential.cutoff))) if finite else math.nan

    return [of(system) if size is None else size for system, size in zip(candidates, forces, strict=True)]


def _told(sizes: Sequence[float | None], below: Sequence[int], limit: float) -> list[str]:
    """Notes on structures left out by their forces, and on those whose forces are not known.

    Raises:
        BadInput: All are left out.
    """
    if not below and sizes:
        least = min((size for size in sizes if size is not None and np.isfinite(size)), default=None)
        problem = f"all {len(sizes)} have a force above {limit:g} eV/Å" + ("" if least is None else f", the least {least:.4g}")
        fix = "check the trajectory" + ("" if least is None else f", or --largest-force {math.ceil(least)}")
        raise BadInput("structures", problem, allowed=f"largest forces of at most {limit:g} eV/Å", fix=fix)
    left, unknown, notes = len(sizes) - len(below), sum(size is None for size in sizes), list[str]()
    if left:
        notes.append(f"{left} of {len(sizes)} structures left out: a force above {limit:g} eV/Å (--largest-force)")
    if unknown:
        notes.append(f"{unknown} of {len(sizes)} structures tell no forces and are not limited by them: --student computes them")
    return notes
