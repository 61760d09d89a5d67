"""Tables of a predictor of motion: its errors on held-out groups beside those of a constant."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mdistill.estimates import exactly
from mdistill.runs.results import Cell, Results, Table
from mdistill.transport.motion import MotionModel
from mdistill.transport.trajectory_set import CrystalRecord

_NAMES = {"msd": "log10 MSD", "diffusivity": "log10 D"}


def motion_results(model: MotionModel, records: Sequence[CrystalRecord]) -> Results:
    """Errors by temperature, and whether the model is better than a constant beyond chance."""
    rows: list[list[Cell]] = [
        [kelvin, round(error, 3), round(model.constant[kelvin], 3)] for kelvin, error in model.error.items()
    ]
    gain, low, high = model.gain
    caption = (
        f"{_NAMES[model.target]}; {model.crystals} of {len(records)} crystals in {model.groups} groups of equal composition,"
        " whatever the mobile ion; groups are held out whole. Half width over (spread + 0.5):"
        f" {model.factors[0]:.2f} (68 %), {model.factors[1]:.2f} (95 %)."
    )
    columns = ["temperature (K)", "mean absolute error (decades)", "of a constant (decades)"]
    table = Table("motion", "Grouped cross-validation, taught by trajectories", "accuracy", columns, rows, caption)
    verdict = f"error less that of a constant by temperature: {gain:+.3f} decades, 95 % from {low:+.3f} to {high:+.3f}"
    notes = [verdict if model.honest else f"{verdict}: the predictor is no better than a constant. Do not rank materials by it"]
    if model.groups < _FEW:
        notes.append(f"{model.groups} groups are few: intervals and errors will change as the set grows")
    mean = float(np.mean(list(model.error.values())))
    return Results(
        command="train transport", tables=[table], notes=notes, citations=[], provenance={},
        values={"crystals": exactly(model.crystals), "motion_error": exactly(mean, "decades")},
    )  # fmt: skip


_FEW = 40
"""Number of groups below which errors are told to be preliminary."""
