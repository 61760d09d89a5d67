"""Predictions of the conductivity at 300 K with intervals, probability to be below detection, and when not to trust them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from mdistill.crystals.crystal import reduced_formula
from mdistill.transport.correction import CLOSE
from mdistill.transport.features import STRUCTURE_COLUMNS, Material, features
from mdistill.transport.forest import tree_values
from mdistill.transport.model import CORRECTED, TransportModel
from mdistill.transport.settings import FLOOR, SPREAD

Inputs = Float[np.ndarray, " input"] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomConductivity:
    """A predicted conductivity at 300 K, log10 of S/cm.

    Attributes:
        value: Mean over the trees, with the correction.
        interval_68, interval_95: Conformal intervals; a lower end at FLOOR stands for everything below.
        below_detection: Probability of less than 10^DETECTION S/cm, by the trees alone.
        basis: "symmetry" or "composition": what the forest that was asked knows; CORRECTED: the first, with a correction.
        distance: To the nearest composition of training (0 equal, 1 no element in common).
        nearest: Formula of that composition.
        nearest_measured: Median of the values measured for it.
        doubts: Reasons not to trust it; none: applicable.
        correction: Decades added to the mean over the trees.
        notes: Inputs of the correction beyond training.
    """

    value: float
    interval_68: tuple[float, float]
    interval_95: tuple[float, float]
    below_detection: float
    basis: str
    distance: float
    nearest: str
    nearest_measured: float
    doubts: tuple[str, ...] = ()
    correction: float = 0.0
    notes: tuple[str, ...] = ()


def predict(
    model: TransportModel, materials: Sequence[Material], sites: Sequence[Inputs] | None = None
) -> list[RoomConductivity]:
    """Conductivity at 300 K of each material.

    A symmetry that is likely that of an ordering (`Material.symmetry_known`) is not used, nor are the sites of one. Where a
    composition within CLOSE was measured, nothing is corrected.

    Args:
        model: The model.
        materials: The materials.
        sites: Inputs of the correction of each (`correction_inputs`); None: of none.
    """
    if not materials:
        return []
    columns = features(materials, model.elements, model.properties, mobile=model.mobile)
    given: list[RoomConductivity | None] = [None] * len(materials)
    for name, basis in model.bases.items():
        chosen = [k for k, one in enumerate(materials) if one.symmetry_known == (name == "symmetry")]
        part = columns[chosen] if name == "symmetry" else columns[chosen][:, :-STRUCTURE_COLUMNS]
        values = tree_values(basis.forest, part)
        for k, one in zip(chosen, values, strict=True):
            given[k] = _conductivity(model, materials[k], one, name, None if sites is None else sites[k])
    return [one for one in given if one is not None]


def _conductivity(model: TransportModel, material: Material, values: np.ndarray, basis: str, inputs: Inputs) -> RoomConductivity:
    factors, added, notes = model.bases[basis].factors, 0.0, tuple[str, ...]()
    distance, nearest, measured = nearest_known(model, material.composition)
    if basis == "symmetry" and model.correction is not None and inputs is not None and distance > CLOSE:
        ridge, factors, basis = model.correction.ridge, model.correction.factors, CORRECTED
        added, notes = float(ridge.values(inputs)), ridge.outside(inputs)
    value, width = float(values[:, 0].mean()) + added, float(values[:, 0].std()) + SPREAD
    halves = [max(q * width, least) for q, least in zip(factors, model.scatter, strict=True)]
    (low_68, high_68), (low_95, high_95) = ((max(value - half, FLOOR), value + half) for half in halves)
    return RoomConductivity(
        value=value, interval_68=(low_68, high_68), interval_95=(low_95, high_95), below_detection=float(values[:, 1].mean()),
        basis=basis, distance=distance, nearest=nearest, nearest_measured=measured,
        doubts=tuple(doubts(model, material, distance)), correction=added, notes=notes,
    )  # fmt: skip


def nearest_known(model: TransportModel, composition: dict[int, float]) -> tuple[float, str, float]:
    """Distance to the nearest composition of training, its formula, and the median of its measured values (log10 S/cm)."""
    total = sum(composition.values())
    shares = np.array([composition.get(number, 0.0) / total for number in model.elements])
    known = model.known
    apart = 0.5 * (np.abs(known.fractions - shares).sum(axis=1) + 1.0 - shares.sum())
    best = int(np.argmin(apart))
    same = np.abs(known.fractions - known.fractions[best]).max(axis=1) < 1e-3
    parts = {number: float(share) for number, share in zip(model.elements, known.fractions[best], strict=True) if share > 0.0}
    return float(max(apart[best], 0.0)), _formula(parts), float(np.median(known.targets[same]))


def _formula(fractions: dict[int, float]) -> str:
    """The smallest formula with whole numbers up to 100 atoms, else per 10 atoms."""
    for atoms in range(2, 101):
        counts = {number: share * atoms for number, share in fractions.items()}
        if all(abs(count - round(count)) < 0.004 and round(count) for count in counts.values()):
            return reduced_formula({number: float(round(count)) for number, count in counts.items()})
    return reduced_formula({number: round(10.0 * share, 2) for number, share in fractions.items()})


def doubts(model: TransportModel, material: Material, distance: float) -> list[str]:
    """Reasons why training says little about a material."""
    from ase.data import chemical_symbols

    unseen = [chemical_symbols[number] for number in material.composition if number not in model.elements]
    found = [f"{', '.join(unseen)} not in the training set"] if unseen else []
    if distance > model.known.far:
        found.append(f"composition is far from the training set ({distance:.2f}, usual up to {model.known.far:.2f})")
    return found
