"""Errors of a potential against labels: all, by element and by group, with parity plots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from ase.data import chemical_symbols

from mdistill.analysis.accuracy import Deviation, accuracy
from mdistill.closed_form.references import references_judge, with_fitted_references
from mdistill.errors import BadInput
from mdistill.estimates import Estimate
from mdistill.graph import build_graph
from mdistill.interrupt import NEVER, StopRequest
from mdistill.judge.fit_tables import parity_figures
from mdistill.judge.label_notes import label_notes
from mdistill.progress import progress
from mdistill.runs.results import Cell, Results, Table
from mdistill.training.potential import parity
from mdistill.types import LabelledFrame, Potential, Prediction
from mdistill.units import GPA

OFFSET = 5.0
"""Energy error over that with fitted element references from which the labels have other reference energies."""


def label_errors(potential: Potential, frames: Sequence[LabelledFrame], *, stop: StopRequest = NEVER) -> Results:
    """Compare a potential with labels.

    Reference energies of the elements may differ between codes, so the energy error is also given with one constant per
    element fitted to the differences.

    Args:
        potential: Any potential.
        frames: Labels; missing ones are left out.
        stop: Checked between frames.
    Returns:
        Errors of forces (meV/Å), energy (meV/atom) and stress (GPa): all, by element, by group; parity plots.
    Raises:
        BadInput: No frames, or an element that the potential does not know.
        Interrupted: A stop was requested.
    """
    _check_elements(potential, frames)
    predictions: list[Prediction] = []
    with progress("test", len(frames), unit="frame") as advance:
        for frame in frames:
            predictions.append(potential(build_graph(frame.system, potential.cutoff)))
            stop.raise_if_pending()
            advance(1, "")
    _check_finite(predictions)
    shifted = with_fitted_references(frames, predictions)
    whole, judge, values = accuracy(frames, predictions), references_judge(frames), {}
    aligned = accuracy(frames, shifted).energy if judge else {}
    for name, deviations, factor, unit in (
        ("force_mae", whole.force, 1e3, "meV/Å"), ("energy_mae", whole.energy, 1e3, "meV/atom"),
        ("energy_mae_fitted_references", aligned, 1e3, "meV/atom"), ("stress_mae", whole.stress, 1.0 / GPA, "GPa"),
    ):  # fmt: skip
        if "all" in deviations:
            values[name] = deviations["all"].mean_absolute.scaled(factor, unit)
    notes, offset = list[str](), False
    if whole.energy and not judge:
        notes.append("energy errors with fitted references are not known: too few labelled energies for one constant for each "
                     "element; labels of other programs need them")  # fmt: skip
    elif whole.energy and (raw := whole.energy["all"].root_mean_square) > 1e-3:
        offset = raw > OFFSET * aligned["all"].root_mean_square
    if offset:
        notes.append("the labels have other reference energies than the model: judge energies by the column with fitted "
                     "references, one constant for each element; the parity plot has them too")  # fmt: skip
    notes += label_notes(potential, frames, predictions)
    figures = [
        replace(one, x_label=one.x_label.replace("teacher", "label"), y_label=one.y_label.replace("student", "model"),
                caption="Labels against the model's answers.")
        for one in parity_figures(parity(frames, shifted if offset else predictions))
    ]  # fmt: skip
    return Results(
        command="test", values=values, tables=_tables(frames, predictions, shifted), figures=figures, notes=notes,
        provenance={"model": potential.name, "frames": len(frames)},
    )  # fmt: skip


def _tables(frames: Sequence[LabelledFrame], predictions: Sequence[Prediction], shifted: Sequence[Prediction]) -> list[Table]:
    groups, judge = dict[str, list[int]](all=list(range(len(frames)))), references_judge(frames)
    for k, frame in enumerate(frames):
        groups.setdefault(frame.source, []).append(k)
    if len(groups) == 2:
        groups = {"all": groups["all"]}
    rows: list[list[Cell]] = []
    elements: list[list[Cell]] = []
    for name, mine in groups.items():
        part = [frames[k] for k in mine]
        errors = accuracy(part, [predictions[k] for k in mine])
        aligned = accuracy(part, [shifted[k] for k in mine]).energy if judge else {}
        force, component = errors.force.get("all"), 1e3 * errors.force["all"].component if "all" in errors.force else None
        rows.append([
            name, len(mine), _mean(force, 1e3, "meV/Å"), None if force is None else 1e3 * force.root_mean_square, component,
            _mean(errors.energy.get("all"), 1e3, "meV/atom"), _mean(aligned.get("all"), 1e3, "meV/atom"),
            _mean(errors.stress.get("all"), 1.0 / GPA, "GPa"),
        ])  # fmt: skip
        if name == "all":
            elements = [
                [element, _mean(one, 1e3, "meV/Å"), 1e3 * one.root_mean_square, 1e3 * one.component]
                for element, one in errors.force.items() if element in chemical_symbols
            ]  # fmt: skip
    columns = [
        "group", "frames", "force MAE (meV/Å)", "RMSE (meV/Å)", "mean |Fᵢ| (meV/Å)", "energy MAE (meV/atom)",
        "with fitted references (meV/atom)", "stress MAE (GPa)",
    ]  # fmt: skip
    caption = "Fᵢ: Cartesian component of a labelled force. Fitted references: one energy for each element."
    tables = [Table("errors", "Errors against the labels", "accuracy", columns, rows, caption)]
    if elements:
        titles = ["element", "force MAE (meV/Å)", "RMSE (meV/Å)", "mean |Fᵢ| (meV/Å)"]
        tables.append(Table("errors_elements", "Force errors by element", "accuracy", titles, elements))
    return tables


def _mean(deviation: Deviation | None, factor: float, unit: str) -> Estimate | None:
    return None if deviation is None else deviation.mean_absolute.scaled(factor, unit)


def _check_elements(potential: Potential, frames: Sequence[LabelledFrame]) -> None:
    present = {int(z) for frame in frames for z in frame.system.numbers.tolist()}
    unknown = present - potential.elements if potential.elements else set()
    if unknown:
        names, known = ([chemical_symbols[z] for z in sorted(part)] for part in (unknown, potential.elements))
        problem = f"{potential.name} does not know {', '.join(names)}"
        raise BadInput("labels", problem, allowed=", ".join(known), fix="test it on structures of these elements")


def _check_finite(predictions: Sequence[Prediction]) -> None:
    finite = [bool(torch.isfinite(one.energy).all() and torch.isfinite(one.forces).all()) for one in predictions]
    bad = [k for k, good in enumerate(finite) if not good]
    if bad:
        problem = f"the model's answer to frame {bad[0] + 1} is not finite ({len(bad)} such frames)"
        raise BadInput("labels", problem, allowed="structures that the model can answer", fix="leave these frames out")
