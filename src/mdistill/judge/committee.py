"""The committee as a table and a figure: errors of its members, and whether their spread tells the true error."""

from __future__ import annotations

from collections.abc import Sequence

from mdistill.estimates import Estimate, exactly
from mdistill.judge.spread import Calibration
from mdistill.runs.results import Cell, Figure, Results, Series, Table
from mdistill.training.potential import TrainingResult


def committee_results(members: Sequence[TrainingResult], unseen: Calibration | None, *, frames: str) -> Results:
    """Held-out force error of each member, and spread against error on frames that no member was trained on.

    Args:
        members: Fits of the members; number 1 is the student that all else uses.
        unseen: Spread against error; None without such frames.
        frames: Name of these frames, for captions.
    """
    rows: list[list[Cell]] = [[f"student {k}, held-out force MAE (meV/Å)", _error(member)] for k, member in enumerate(members, 1)]
    values = {f"committee_force_mae_{k}": _error(member) for k, member in enumerate(members, 1)}
    figures: list[Figure] = []
    if unseen is not None:
        rows += [
            ["spread of the forces, RMS (meV/Å)", 1e3 * unseen.spread],
            ["force error of student 1, RMS (meV/Å)", 1e3 * unseen.error],
            ["error / spread", unseen.ratio],
            ["rank correlation of error and spread (Spearman)", unseen.rank],
        ]
        values |= {
            "committee_spread": exactly(1e3 * unseen.spread, "meV/Å", samples=unseen.atoms),
            "committee_error_over_spread": exactly(unseen.ratio, samples=unseen.atoms),
            "committee_spearman": exactly(unseen.rank, samples=unseen.atoms),
        }
        figures.append(calibration_figure(unseen, frames))
    caption = (
        "Each student holds out other time blocks. Spread and RMS error are lengths of force vectors, "
        f"on {frames}: {0 if unseen is None else unseen.atoms} atoms."
    )
    table = Table("committee", "Committee", "training", ["quantity", "value"], rows, caption)
    return Results(command="train", values=values, tables=[table], figures=figures)


def calibration_figure(found: Calibration, frames: str) -> Figure:
    """Force error of student 1 against the committee's spread, for groups of atoms by spread."""
    spread = [1e3 * wide for wide, _ in found.by_spread]
    series = [
        Series(label="groups of atoms by spread", x=spread, y=[1e3 * wrong for _, wrong in found.by_spread], style="points"),
        Series(label="error = spread", x=[min(spread), max(spread)], y=[min(spread), max(spread)], style="dashed"),
    ]
    return Figure(
        "committee_calibration", "Committee: force error against spread", "training", "spread of the forces (meV/Å)",
        "force error of student 1 (meV/Å)", series, kind="loglog",
        caption=f"Root mean squares over groups of atoms, on {frames}. Errors that all students share lie above the line.",
    )  # fmt: skip


def _error(member: TrainingResult) -> Estimate:
    return member.accuracy.force["all"].mean_absolute.scaled(1e3, "meV/Å")
