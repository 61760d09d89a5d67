"""Tables and gates of hard targets: teacher, corrected teacher, and students before and after, against hard labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mdistill.analysis.accuracy import accuracy
from mdistill.analysis.reweighting import force_slope
from mdistill.analysis.settings import GateLimits
from mdistill.closed_form.references import references_judge, with_fitted_references
from mdistill.estimates import Estimate, Gate, gate
from mdistill.hardening.corrected import Correction
from mdistill.runs.results import Cell, Results, Table
from mdistill.types import LabelledFrame, Prediction

SECTION = "what DFT changed"
SOFTENING, ERROR = "softening against DFT", "force error against DFT"
"""Names of the gates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Answers for the same frames.

    Attributes:
        teacher, theory: Name of the teacher; level of theory of the hard labels.
        frames: Hard labels.
        soft: The teacher's answers.
        before, after: Answers of the first student, of soft labels and of hard ones.
        correction: What corrects the teacher.
        trained, tested: Number of hard labels in training, and of those left for the test.
    """

    teacher: str
    theory: str
    frames: Sequence[LabelledFrame]
    soft: Sequence[Prediction]
    before: Sequence[Prediction]
    after: Sequence[Prediction]
    correction: Correction
    trained: int
    tested: int


def hard_results(compared: Compared, limits: GateLimits) -> Results:
    """The table "What DFT changed" and its gates."""
    c = compared
    taught = [replace(frame, target=one, missing=frozenset()) for frame, one in zip(c.frames, c.soft, strict=True)]
    corrected = [c.correction.of(one, frame.system) for one, frame in zip(c.soft, c.frames, strict=True)]
    name = f"{c.teacher}, {c.correction.name}"
    given = [replace(frame, target=one, missing=frozenset()) for frame, one in zip(c.frames, corrected, strict=True)]
    rows = [
        _row("student before", c.teacher, taught, c.before), _row(c.teacher, c.theory, c.frames, c.soft),
        _row("student before", c.theory, c.frames, c.before), _row(name, c.theory, c.frames, corrected),
        _row("student after", c.theory, c.frames, c.after), _row("student after", name, given, c.after),
        _row("student after", c.teacher, taught, c.after),
    ]  # fmt: skip
    columns = ["model", "against", "force MAE (meV/Å)", "force RMSE (meV/Å)", "energy MAE (meV/atom)", "force slope"]
    caption = (
        f"{c.trained} labels in training, {len(c.frames)} {'left for the test' if c.tested else 'of them compared'}. "
        "Energies with one fitted constant for each element. Slope: of the model's forces against the others; below 1: soft. "
        f"{c.correction.name.capitalize()}: {c.correction.how} {c.theory}; the student after is taught by it, and gates compare "
        "the two."
    )
    table, softening = Table("hard", "What DFT changed", SECTION, columns, rows, caption), c.correction.softening
    return Results(
        command="harden", tables=[table], gates=_gates(c, limits),
        provenance={"engine": c.theory, "hard_labels": c.trained} | ({"softening": softening} if softening else {}),
        citations=[key for key in ("cp2k", "pyscf") if c.theory.lower().startswith(key)],
    )  # fmt: skip


def _gates(c: Compared, limits: GateLimits) -> list[Gate]:
    """Softening; and, where labels were left for the test, that the student is no worse on them than before."""
    slope = force_slope(_forces(f.target for f in c.frames), _forces(c.after))[0]
    detail = f"slope of the student's forces against {len(c.frames)} hard labels"
    gates = [gate(SOFTENING, slope, limits.force_slope, detail, sense="at least", errors=2.0)]
    if c.tested:
        before, after = force_error(c.frames, c.before), force_error(c.frames, c.after)
        detail = f"force MAE on {c.tested} hard labels left for the test; limit: that of the student before"
        gates.append(gate(ERROR, after, before.value or 0.0, detail, errors=2.0))
    return gates


def rounds_table(rows: list[list[Cell]]) -> Table:
    """Rounds of hard labels."""
    columns = ["round", "frames", "hard labels", "force MAE before (meV/Å)", "student MD"]
    caption = "Before: error of the students so far on the new labels, unseen. Frames are chosen by novelty × spread."
    return Table("hard-rounds", "Rounds of hard labels", SECTION, columns, rows, caption)


def force_error(frames: Sequence[LabelledFrame], answers: Sequence[Prediction]) -> Estimate:
    """Mean absolute error of force components, meV/Å."""
    return accuracy(frames, answers).force["all"].mean_absolute.scaled(1e3, "meV/Å")


def _forces(predictions: Any) -> list[np.ndarray]:
    return [one.forces.detach().double().numpy() for one in predictions]


def _row(model: str, against: str, frames: Sequence[LabelledFrame], answers: Sequence[Prediction]) -> list[Cell]:
    answers = [replace(one, forces=one.forces.detach(), energy=one.energy.detach()) for one in answers]
    errors = accuracy(frames, with_fitted_references(frames, answers))
    force, slope = errors.force["all"], force_slope(_forces(f.target for f in frames), _forces(answers))[0]
    energy = errors.energy["all"].mean_absolute.scaled(1e3, "meV/atom") if references_judge(frames) else None
    return [model, against, force.mean_absolute.scaled(1e3, "meV/Å"), 1e3 * force.root_mean_square, energy, slope]
