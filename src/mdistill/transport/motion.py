r"""Motion at high temperature from the structure: taught predictors, their errors on held-out groups, intervals.

Groups are compositions with the mobile ion left open (Li3OCl and Na3OCl are one). The held-out errors over the spread of the
ensemble give group-conformal intervals, as in `fit`. The probability that ions do not diffuse measurably follows from the
predicted log10 MSD m by a logistic curve of the held-out predictions,

    P = 1 / (1 + exp(a (m − b)))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from ase.data import atomic_numbers
from jaxtyping import Float, Int
from scipy.spatial.distance import cdist

from mdistill.crystals.crystal import Crystal, reduced_formula
from mdistill.data.disorder import order
from mdistill.errors import BadInput
from mdistill.io.structures import to_system
from mdistill.settings import child_seed
from mdistill.transport.fit import conformal_factors, farthest_usual, fold_numbers
from mdistill.transport.ion_features import ion_features, ion_network, kinds_of, temperature_polynomial
from mdistill.transport.ion_rows import IonRows, Scales, Target, ion_rows, scales_of, target_of
from mdistill.transport.obelix import fractions_of
from mdistill.transport.settings import SPREAD, MotionSettings
from mdistill.transport.taught import TaughtNet, taught
from mdistill.transport.trajectory_set import CrystalRecord
from mdistill.types import Potential

DRAWS = 2000
"""Bootstrap draws of groups."""
_OPEN = 0
"""Atomic number that stands for the mobile ion in a group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MotionModel:
    """An ensemble, and what its numbers are worth.

    Attributes:
        nets, scales, target: The predictors, scales of their features, and what they predict.
        factors: Conformal factors of LEVELS.
        curve: a and b of the logistic curve; a = 0 where no crystal of training tells.
        error, constant: Held-out mean absolute error by temperature (decades), and that of a constant by temperature.
        gain: Error less that of the constant, with its 95 % interval over groups.
        temperatures_K: Temperatures of training.
        elements: Atomic numbers of training.
        fractions: Atomic fractions of its crystals.
        far: Distance above which a composition is far from all of them.
        crystals, groups: Their numbers.
        members: Held-out predictions, for the benchmark: crystal key → value and spread by temperature.
    """

    nets: tuple[TaughtNet, ...]
    scales: Scales
    target: Target
    factors: tuple[float, ...]
    curve: tuple[float, float]
    error: dict[float, float]
    constant: dict[float, float]
    gain: tuple[float, float, float]
    temperatures_K: tuple[float, ...]
    elements: tuple[int, ...]
    fractions: Float[np.ndarray, "crystal 119"]
    far: float
    crystals: int
    groups: int
    members: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def honest(self) -> bool:
        """Whether it beats a constant by temperature on groups that it does not know, beyond chance."""
        return self.gain[2] < 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Motion:
    """A prediction at one temperature: log10 of the target with intervals, P(not diffusing), reasons to doubt it."""

    temperature_K: float
    value: float
    interval_68: tuple[float, float]
    interval_95: tuple[float, float]
    not_diffusing: float
    doubts: tuple[str, ...] = ()


def groups_of(records: Sequence[CrystalRecord]) -> Int[np.ndarray, " crystal"]:
    """Group numbers: crystals of one composition, whatever the mobile ion, share a group."""
    names = [reduced_formula({z: float(n) for z, n in _open_composition(one).items()}) for one in records]
    return np.unique(names, return_inverse=True)[1]


def _open_composition(record: CrystalRecord) -> dict[int, int]:
    mobile = atomic_numbers[str(record.about["mobile"])]
    numbers, counts = np.unique(record.numbers, return_counts=True)
    return {_OPEN if z == mobile else int(z): int(n) for z, n in zip(numbers, counts, strict=True)}


def composition_of_record(record: CrystalRecord) -> dict[int, float]:
    """Atoms of each element in the supercell."""
    numbers, counts = np.unique(record.numbers, return_counts=True)
    return {int(z): float(n) for z, n in zip(numbers, counts, strict=True)}


def train_motion(records: Sequence[CrystalRecord], settings: MotionSettings) -> MotionModel:
    """The ensemble on all usable crystals, and its errors from grouped cross-validation.

    Raises:
        BadInput: Fewer groups of usable crystals than folds, or crystals of other temperatures or features than the rest.
    """
    used = [one for one in records if np.isfinite(target_of(one, settings.target)).any()]
    if len({(*one.temperatures_K.tolist(), one.features.shape[1], one.spectra.shape[2]) for one in used}) > 1:
        problem, allowed = "crystals of different temperatures or teachers", "one set of --make.temperatures, one --make.teacher"
        raise BadInput("--trajectories", problem, allowed=allowed, fix="make a set of each")
    if settings.teaching != "none" and (bare := sum(not one.followed for one in used)):
        problem, allowed = (
            f"{bare} of {len(used)} crystals have D but no trajectory",
            "trajectories of all, or no teaching by them",
        )
        raise BadInput("--trajectories", problem, allowed=allowed, fix="--motion.teaching none")
    groups = groups_of(used) if used else np.zeros(0, dtype=np.int64)
    if (count := len(np.unique(groups))) < settings.folds:
        problem = f"{len(used)} usable crystals of {len(records)} in {count} groups of equal composition"
        alone = not used and any(one.diffusing.any() for one in records)
        fix = "--motion.target diffusivity (D alone is known)" if alone else "add crystals with --structures"
        raise BadInput("--trajectories", problem, allowed=f"at least {settings.folds} groups", fix=fix)
    value, spread, constant = held_out(used, groups, settings)
    truth = np.array([target_of(one, settings.target) for one in used])
    known = np.isfinite(truth)
    wide = np.broadcast_to(groups[:, None], truth.shape)
    kelvins = used[0].temperatures_K
    error, flat = np.abs(value - truth), np.abs(constant - truth)
    compositions = [composition_of_record(one) for one in used]
    fractions = fractions_of(compositions)
    scales, nets = ensemble(used, settings)
    return MotionModel(
        nets=nets, scales=scales, target=settings.target, curve=_curve(value, used, known),
        factors=conformal_factors((value - truth)[known], spread[known], wide[known]),
        error={float(t): float(np.nanmean(error[:, k])) for k, t in enumerate(kelvins) if known[:, k].any()},
        constant={float(t): float(np.nanmean(flat[:, k])) for k, t in enumerate(kelvins) if known[:, k].any()},
        gain=paired((error - flat)[known], wide[known]), temperatures_K=tuple(kelvins.tolist()),
        elements=tuple(sorted({z for one in compositions for z in one})), fractions=fractions,
        far=farthest_usual(fractions, groups), crystals=len(used), groups=count,
        members={one.key: np.stack([v, s]) for one, v, s in zip(used, value, spread, strict=True)},
    )  # fmt: skip


def ensemble(records: Sequence[CrystalRecord], settings: MotionSettings) -> tuple[Scales, tuple[TaughtNet, ...]]:
    """Predictors of other seeds on the same crystals."""
    scales = scales_of(records, expansion=settings.expansion, components=settings.components)
    items = [ion_rows(one, scales, target=settings.target) for one in records]
    seeds = [child_seed(settings.seed, f"member {k}") for k in range(settings.members)]
    made = [
        taught(items, teaching=settings.teaching, alone=settings.alone, share=settings.ridge, seed=seed,
               settings=settings.fit(), fine_tune=settings.fine_tune())
        for seed in seeds
    ]  # fmt: skip
    return scales, tuple(made)


def values_of(nets: Sequence[TaughtNet], items: Sequence[IonRows]) -> Float[np.ndarray, "member label"]:
    """What each predictor gives for the structures alone, crystal after crystal."""
    with torch.no_grad():
        return np.array([net(items).numpy() for net in nets], dtype=float)


def held_out(
    records: Sequence[CrystalRecord], groups: Int[np.ndarray, " crystal"], settings: MotionSettings
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predictions made without the group of each crystal: mean, spread of the ensemble, and a constant by temperature (that of
    all temperatures where the other groups have no label)."""
    folds = fold_numbers(groups, settings.folds, seed=settings.seed)
    truth = np.array([target_of(one, settings.target) for one in records])
    value, spread, constant = (np.full(truth.shape, np.nan) for _ in range(3))
    for fold in np.unique(folds):
        inside = [one for one, k in zip(records, folds, strict=True) if k != fold]
        outside = np.flatnonzero(folds == fold).tolist()
        scales, nets = ensemble(inside, settings)
        items = [ion_rows(records[k], scales, target=settings.target, taught=False) for k in outside]
        given = values_of(nets, items).reshape(len(nets), len(outside), -1)
        value[outside], spread[outside] = given.mean(axis=0), given.std(axis=0)
        columns = [(column[np.isfinite(column)], truth[folds != fold]) for column in truth[folds != fold].T]
        constant[outside] = [np.median(column) if len(column) else np.nanmedian(whole) for column, whole in columns]
    return value, spread, constant


def paired(
    difference: Float[np.ndarray, " label"], groups: Int[np.ndarray, " label"], *, seed: int = 0
) -> tuple[float, float, float]:
    """Mean over labels with its 95 % interval, groups drawn with replacement."""
    _, place = np.unique(groups, return_inverse=True)
    total, count = np.bincount(place, weights=difference), np.bincount(place)
    drawn = np.random.default_rng(seed).integers(0, len(total), (DRAWS, len(total)))
    low, high = np.quantile(total[drawn].sum(axis=1) / count[drawn].sum(axis=1), [0.025, 0.975]).tolist()
    return float(difference.mean()), low, high


def _curve(value: np.ndarray, records: Sequence[CrystalRecord], known: np.ndarray) -> tuple[float, float]:
    """a and b of the logistic curve by Newton's method with a weak prior; (0, 0) where all diffuse or none."""
    still = np.array([~one.diffusing for one in records])[known].astype(float)
    if still.min(initial=1.0) == still.max(initial=0.0) or still.mean() in (0.0, 1.0):
        return 0.0, 0.0
    rows = np.column_stack([value[known], np.ones(int(known.sum()))])
    weights = np.zeros(2)
    for _ in range(50):
        p = 1.0 / (1.0 + np.exp(-np.clip(rows @ weights, -30, 30)))
        hessian = rows.T @ (rows * (p * (1 - p))[:, None]) + 0.1 * np.eye(2)
        weights = weights - np.linalg.solve(hessian, rows.T @ (p - still) + 0.1 * weights)
    slope = -float(weights[0])
    return (slope, float(weights[1]) / slope) if slope > 1e-6 else (0.0, 0.0)


def structure_rows(
    crystal: Crystal, model: MotionModel, teacher: Potential, temperatures_K: Sequence[float], *, mobile: int, seed: int = 0
) -> IonRows:
    """Rows of a structure alone; partial occupancies are ordered in one cell first.

    Args:
        crystal: As read.
        model, teacher: The predictor, and the SevenNet model of its features.
        temperatures_K: Temperatures, K.
        mobile: Atomic number of the mobile ion.
        seed: Seed of the ordering.
    Raises:
        BadInput: No mobile ion, an unknown element, or no ordering.
    """
    whole = crystal if crystal.ordered else order(crystal, count=1, seed=seed)[0].crystal
    features, kind = kinds_of(ion_features([to_system(whole)], teacher, mobile=mobile)[0])
    network = np.tile(ion_network(crystal, mobile=mobile), (len(features), 1))
    rows, many = model.scales.structure(np.concatenate([features, network], axis=1)), len(temperatures_K)
    return IonRows(
        structure=torch.from_numpy(rows).float(), weight=torch.from_numpy(np.bincount(kind) / len(kind)).float(),
        polynomial=torch.from_numpy(temperature_polynomial(np.asarray(temperatures_K))).float(), trajectory=None,
        target=torch.zeros(many), known=torch.zeros(many, dtype=torch.bool),
    )  # fmt: skip


def predict_motion(
    model: MotionModel, rows: IonRows, composition: dict[int, float], temperatures_K: Sequence[float]
) -> list[Motion]:
    """Motion of one structure at temperatures; one outside those of training is predicted with a doubt."""
    values = values_of(model.nets, [rows])
    found, doubts = list[Motion](), _doubts(model, composition)
    for k, kelvin in enumerate(temperatures_K):
        value, width = float(values[:, k].mean()), float(values[:, k].std()) + SPREAD
        (a, b), (c, d) = ((value - q * width, value + q * width) for q in model.factors)
        steep, middle = model.curve
        still = float("nan") if steep == 0.0 else 1.0 / (1.0 + np.exp(np.clip(steep * (value - middle), -30, 30)))
        low, high = min(model.temperatures_K), max(model.temperatures_K)
        outside = () if low <= kelvin <= high else (f"{kelvin:g} K is outside training, {low:g} to {high:g} K",)
        found.append(Motion(
            temperature_K=float(kelvin), value=value, interval_68=(a, b), interval_95=(c, d), not_diffusing=float(still),
            doubts=(*doubts, *outside),
        ))  # fmt: skip
    return found


def _doubts(model: MotionModel, composition: dict[int, float]) -> tuple[str, ...]:
    """Reasons why training says little about a composition, or why the model says little at all."""
    from ase.data import chemical_symbols

    unseen = [chemical_symbols[z] for z in composition if z not in model.elements]
    nearest = float(0.5 * cdist(fractions_of([composition]), model.fractions, "cityblock").min())
    found = [f"{', '.join(unseen)} not in the training set"] if unseen else []
    found += [f"composition is far from the training set ({nearest:.2f}, usual up to {model.far:.2f})"] * (nearest > model.far)
    found += ["the model is no better than a constant"] * (not model.honest)
    return tuple(found)
