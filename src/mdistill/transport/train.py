"""Training of the predictor of σ(300 K): trees on every entry, a correction where there are CIFs, their intervals."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.spatial.distance import cdist

from mdistill.errors import BadInput, MdistillError
from mdistill.io.structures import read_structure
from mdistill.progress import progress
from mdistill.transport.correction import CLOSE, INPUTS, TRIES, Correction, correction_inputs, fit_ridge
from mdistill.transport.features import STRUCTURE_COLUMNS, element_properties, features, material_of_entry
from mdistill.transport.fit import (
    Labels,
    conformal_factors,
    farthest_usual,
    fit_forest,
    fold_numbers,
    held_out_values,
    labels_of,
    paired,
    repeat_scatter,
)
from mdistill.transport.model import Basis, Distances, TransportModel
from mdistill.transport.motion import MotionModel
from mdistill.transport.obelix import Entry, fractions_of
from mdistill.transport.settings import TransportSettings

INNER = 5
"""Folds within the others of a fold, whose residuals its correction learns."""
LEAST = 10
"""Entries with a CIF for each input from which a correction is learned."""


def train_transport(
    entries: Sequence[Entry], settings: TransportSettings, *, mobile: int = 3,
    sites: Float[np.ndarray, "entry input"] | None = None, motion: str = "",
) -> TransportModel:  # fmt: skip
    """Forests on all entries, with the structure and on composition alone, and their intervals from grouped cross-validation.

    Args:
        entries: The entries.
        settings: Size and validation.
        mobile: Atomic number of the mobile ion.
        sites: Inputs of the correction, NaN for entries without a CIF (default: no correction).
        motion: sha256 of the model of motion that made them.
    Raises:
        BadInput: Fewer groups than folds.
    """
    labels, compositions = labels_of(entries), [entry.composition for entry in entries]
    if (count := len(np.unique(labels.group))) < settings.folds:
        problem = f"{len(entries)} entries in {count} groups of equal composition or paper"
        raise BadInput("data", problem, allowed=f"at least {settings.folds} groups", fix="add entries, or fewer --folds")
    elements = sorted({number for composition in compositions for number in composition})
    properties = element_properties()
    columns = features([material_of_entry(entry) for entry in entries], elements, properties, mobile=mobile)
    bases, held = {}, dict[str, np.ndarray]()
    for name, part, how in (
        ("symmetry", columns, settings), ("composition", columns[:, :-STRUCTURE_COLUMNS], replace(settings, share=1.0))
    ):  # fmt: skip
        held[name] = held_out_values(part, labels, how, seed=settings.seed)
        error, spread = held[name][:, 0] - labels.target, held[name][:, 1]
        bases[name] = Basis(
            forest=fit_forest(part, labels, how, seed=settings.seed), error=float(np.abs(error).mean()),
            factors=conformal_factors(error, spread, labels.group),
        )  # fmt: skip
    fractions, correction = fractions_of(compositions), None
    if sites is not None:
        correction = train_correction(columns, labels, sites, held["symmetry"], settings, fractions=fractions, motion=motion)
    return TransportModel(
        mobile=mobile, elements=tuple(elements), properties=properties, bases=bases, scatter=repeat_scatter(entries),
        known=Distances(fractions=fractions[:, elements], targets=labels.target, far=farthest_usual(fractions, labels.group)),
        correction=correction,
    )  # fmt: skip


def train_correction(
    columns: Float[np.ndarray, "entry column"], labels: Labels, sites: Float[np.ndarray, "entry input"],
    held: Float[np.ndarray, "entry 3"], settings: TransportSettings, *, fractions: Float[np.ndarray, "entry element"],
    motion: str,
) -> Correction | None:  # fmt: skip
    """The correction of trees by sites; None where too few entries have a CIF and no close composition.

    Args:
        columns: Features of the trees.
        labels: Targets and groups.
        sites: Inputs of the correction, NaN for entries without a CIF.
        held: `held_out_values` of the trees with these settings.
        settings: Of the trees.
        fractions: Atomic fractions.
        motion: sha256 of the model of motion that made the inputs.
    """
    known = np.isfinite(sites).all(axis=1)
    if known.sum() < LEAST * len(INPUTS):
        return None
    added = held_out_corrections(columns, labels, sites, settings, fractions=fractions)
    used = np.isfinite(added)
    if used.sum() < LEAST * len(INPUTS):
        return None
    plain, group = held[:, 0] - labels.target, labels.group[used]
    error, before = (plain + added)[used], plain[used]
    return Correction(
        ridge=fit_ridge(sites[known], -plain[known]), factors=conformal_factors(error, held[used, 1], group), motion=motion,
        error=float(np.abs(error).mean()), without=float(np.abs(before).mean()), entries=int(used.sum()),
        groups=len(np.unique(group)), gain=paired(np.abs(error) - np.abs(before), group, tries=TRIES),
    )  # fmt: skip


def held_out_corrections(
    columns: Float[np.ndarray, "entry column"], labels: Labels, sites: Float[np.ndarray, "entry input"],
    settings: TransportSettings, *, fractions: Float[np.ndarray, "entry element"], close: float = CLOSE,
) -> Float[np.ndarray, " entry"]:  # fmt: skip
    """Corrections (decades) of a ridge that, like the trees behind its residuals, knows no entry of the fold; NaN for entries
    without sites or with a composition within `close` in the other folds. Arguments as in `train_correction`."""
    folds, added = fold_numbers(labels.group, settings.folds, seed=settings.seed), np.full(len(columns), np.nan)
    known, apart = np.isfinite(sites).all(axis=1), 0.5 * cdist(fractions, fractions, "cityblock")
    for fold in np.unique(folds):
        inside = folds != fold
        asked = ~inside & known & (apart[:, inside].min(axis=1, initial=np.inf) > close)
        if not asked.any() or not (inside & known).any():
            continue
        inner = held_out_values(columns[inside], labels.part(inside), replace(settings, folds=INNER), seed=settings.seed)
        residuals = labels.target[inside] - inner[:, 0]
        added[asked] = fit_ridge(sites[inside & known], residuals[known[inside]]).values(sites[asked])
    return added


def site_inputs(
    entries: Sequence[Entry], texts: Mapping[str, str], motion: MotionModel, *, mobile: int = 3
) -> Float[np.ndarray, "entry input"]:
    """Inputs of the correction of each entry, NaN where it has no CIF that can be read and has the mobile ion.

    Args:
        entries: The entries.
        texts: CIFs by name of the entry.
        motion: A model of motion of trees alone.
        mobile: Atomic number of the mobile ion.
    """
    found = np.full((len(entries), len(INPUTS)), np.nan)
    with tempfile.TemporaryDirectory(prefix="mdistill-") as folder, progress("read CIFs", len(texts), unit="CIF") as advance:
        path = Path(folder) / "entry.cif"
        for row, entry in zip(found, entries, strict=True):
            if entry.name not in texts:
                continue
            advance(1)
            path.write_text(texts[entry.name], encoding="utf-8")
            try:
                crystal = read_structure(path)
            except MdistillError:
                continue
            if crystal.composition.get(mobile, 0.0) > 0.0:
                row[:] = correction_inputs(crystal, motion, mobile=mobile)
    return found
