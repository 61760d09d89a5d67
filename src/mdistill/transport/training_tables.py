"""Tables of training: errors of both predictors on groups held out whole."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mdistill.estimates import exactly
from mdistill.runs.results import Cell, Results, Table
from mdistill.transport.correction import worth
from mdistill.transport.model import BASES, TransportModel
from mdistill.transport.motion import MotionModel
from mdistill.transport.obelix import Entry
from mdistill.transport.trajectory_set import CrystalRecord

_NAMES = {"msd": "log10 MSD", "diffusivity": "log10 D"}
_PRELIMINARY = 40
"""Number of groups below which errors are told to be preliminary."""


def fit_results(model: TransportModel, entries: Sequence[Entry]) -> Results:
    """Errors of grouped cross-validation, and half widths of the intervals where trees agree and where they do not."""
    columns = ["features", "mean absolute error (decades)", "68 % half width / (spread + 0.5)", "95 % half width"]
    rows: list[list[Cell]] = [[BASES[name], basis.error, *basis.factors] for name, basis in model.bases.items()]
    caption = (
        f"{len(entries)} entries; groups of equal composition or paper are held out together. Spread: standard deviation over"
        f" trees. No interval is narrower than repeated measurements scatter: ± {model.scatter[0]:.1f} (68 %),"
        f" ± {model.scatter[1]:.1f} (95 %)."
    )
    told, made = "No correction by ion sites and predicted motion: too few entries have a CIF that can be read.", model.correction
    if made is not None:
        rows.append([f"corrected by ion sites and predicted motion, {made.entries} entries", made.error, *made.factors])
        told = f"Correction by ion sites and predicted motion: {worth(made)}"
    table = Table("validation", "Grouped cross-validation", "accuracy", columns, rows, caption)
    return Results(command="train transport", tables=[table], notes=[told], citations=["obelix"], provenance={})


def motion_results(model: MotionModel, records: Sequence[CrystalRecord]) -> Results:
    """Errors by temperature, and whether the model is better than a constant beyond chance."""
    widths = dict(zip(model.temperatures_K, model.factors, strict=True))
    rows: list[list[Cell]] = [
        [kelvin, round(error, 3), round(model.constant[kelvin], 3), *(round(q, 2) for q in widths[kelvin])]
        for kelvin, error in model.error.items()
    ]
    gain, low, high = model.gain
    caption = (
        f"{_NAMES[model.target]}; {model.crystals} of {len(records)} crystals in {model.groups} groups of equal composition,"
        " whatever the mobile ion; groups are held out whole. Half widths are over (spread + 0.5)."
    )
    columns = [
        "temperature (K)",
        "mean absolute error (decades)",
        "of a constant (decades)",
        "68 % half width",
        "95 % half width",
    ]
    table = Table("motion", "Grouped cross-validation", "accuracy", columns, rows, caption)
    verdict = f"error less that of a constant by temperature: {gain:+.3f} decades, 95 % from {low:+.3f} to {high:+.3f}"
    notes = [verdict if model.honest else f"{verdict}: the predictor is no better than a constant. Do not rank materials by it"]
    if model.target == "msd":
        energy = "not predicted: a constant does as well, or too few crystals have one"
        if model.activation:
            energy = f"± {model.activation[0]:.2f} eV (68 %), ± {model.activation[1]:.2f} eV (95 %) for other groups"
        notes.append(f"activation energy: {energy}")
    else:
        notes.append("mdistill screen uses models of log10 MSD alone (--motion.target msd)")
    if model.groups < _PRELIMINARY:
        notes.append(f"{model.groups} groups are few: intervals and errors will change as the set grows")
    mean = float(np.mean(list(model.error.values())))
    return Results(
        command="train transport", tables=[table], notes=notes, citations=[], provenance={},
        values={"crystals": exactly(model.crystals), "motion_error": exactly(mean, "decades")},
    )  # fmt: skip
