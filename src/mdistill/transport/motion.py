r"""Motion at high temperature from the structure: training, errors on held-out groups, intervals.

    log10 y = ⟨trees⟩, ⟨nets⟩ or ½ ⟨trees⟩ + ½ ⟨nets⟩

trees: on composition, density, ion network and temperature, as in `fit`   nets: taught by trajectories (`taught`); they need the
features of a foundation model.

Groups are compositions with the mobile ion left open (Li3OCl and Na3OCl are one). Held-out errors over the spread of the
predictor give group-conformal intervals at each temperature, as in `fit`. The probability that ions do not diffuse measurably
follows from the predicted log10 MSD m by a logistic curve of the held-out predictions,

    P = 1 / (1 + exp(a (m − b)))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial.distance import cdist

from mdistill.errors import BadInput
from mdistill.settings import child_seed
from mdistill.transport.features import element_properties
from mdistill.transport.fit import Labels, conformal_factors, farthest_usual, fit_forest, fold_numbers, paired
from mdistill.transport.forest import Forest, tree_values
from mdistill.transport.ion_rows import (
    IonRows,
    IonStructure,
    Scales,
    Target,
    ion_rows,
    recorded_structure,
    scales_of,
    target_of,
    tree_columns,
    untaught_rows,
)
from mdistill.transport.obelix import fractions_of
from mdistill.transport.settings import LEVELS, MotionSettings, TransportSettings
from mdistill.transport.taught import TaughtNet, taught
from mdistill.transport.trajectory_set import CrystalRecord
from mdistill.units import BOLTZMANN

LAG_PS = 10.0
"""Lag of a set that does not name its own, ps."""
FEW = 8
"""Number of groups below which errors of activation energies are not told."""
_OPEN = 0
"""Atomic number that stands for the mobile ion in a group."""
SAME = 0.02
"""Difference of atomic fractions below which two crystals are of one composition; orderings of one crystal differ by less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictor:
    """Trees with the properties of elements that they know, and nets on scaled features of ions; either may be absent."""

    forest: Forest | None
    properties: Float[np.ndarray, "119 property"]
    scales: Scales | None
    nets: tuple[TaughtNet, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MotionModel:
    """A predictor, and what its numbers are worth.

    Attributes:
        predictor, target: It, and what it predicts.
        factors: Conformal factors of LEVELS at each temperature of training.
        curve: a and b of the logistic curve; a = 0 where all crystals diffuse, or none.
        activation: Quantiles (LEVELS) of the held-out error of the activation energy, eV; () where it is not better than that of
            a constant, or too few crystals have one.
        error, constant: Held-out mean absolute error by temperature (decades), and that of a constant by temperature.
        gain: Error less that of the constant, with its 95 % interval over groups.
        temperatures_K, lag_ps: Temperatures of training; lag of the mean square displacement.
        mobile, elements: Atomic numbers of the mobile ions and of all elements of training.
        fractions: Atomic fractions of its crystals.
        far: Distance above which a composition is far from all of them.
        crystals, groups: Their numbers.
        teacher: Name of the foundation model that taught, and whose features nets need.
        members: Held-out predictions, for the benchmark: crystal key → value and spread by temperature.
    """

    predictor: Predictor
    target: Target
    factors: tuple[tuple[float, ...], ...]
    curve: tuple[float, float]
    activation: tuple[float, ...]
    error: dict[float, float]
    constant: dict[float, float]
    gain: tuple[float, float, float]
    temperatures_K: tuple[float, ...]
    lag_ps: float
    mobile: tuple[int, ...]
    elements: tuple[int, ...]
    fractions: Float[np.ndarray, "crystal 119"]
    far: float
    crystals: int
    groups: int
    teacher: str
    members: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def honest(self) -> bool:
        """Whether it beats a constant by temperature on groups that it does not know, beyond chance."""
        return self.gain[2] < 0.0


def groups_of(records: Sequence[CrystalRecord]) -> Int[np.ndarray, " crystal"]:
    """Group numbers: crystals whose atomic fractions differ by less than SAME share a group, also with the mobile ion left open
    (Li3OCl and Na3OCl are one), and so do those that others link."""
    from scipy.sparse.csgraph import connected_components

    structures = [recorded_structure(one) for one in records]
    plain = fractions_of([one.composition for one in structures])
    ions = np.array([one.mobile for one in structures])[:, None]
    opened = plain.copy()
    opened[:, _OPEN] = np.take_along_axis(plain, ions, 1)[:, 0]
    np.put_along_axis(opened, ions, 0.0, 1)
    linked = np.minimum(cdist(plain, plain, "chebyshev"), cdist(opened, opened, "chebyshev")) < SAME
    return np.asarray(connected_components(linked, directed=False)[1])


def train_motion(records: Sequence[CrystalRecord], settings: MotionSettings) -> MotionModel:
    """The predictor of all usable crystals, and its errors from grouped cross-validation.

    Raises:
        BadInput: Fewer groups of usable crystals than folds, or crystals of other temperatures or features than the rest.
    """
    used = [one for one in records if np.isfinite(target_of(one, settings.target)).any()]
    if len({(*one.temperatures_K.tolist(), one.features.shape[1], one.spectra.shape[2]) for one in used}) > 1:
        problem, allowed = "crystals of different temperatures or teachers", "one set of --make.temperatures, one --make.teacher"
        raise BadInput("--trajectories", problem, allowed=allowed, fix="make a set of each")
    if settings.members and settings.teaching != "none" and (bare := sum(not one.followed for one in used)):
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
    structures, curve = [recorded_structure(one) for one in used], _curve(value, used, known)
    fractions, about = fractions_of([one.composition for one in structures]), used[0].about
    return MotionModel(
        predictor=predictor_of(used, settings), target=settings.target, curve=curve,
        activation=activation_errors(value, truth, used, groups, curve), factors=_factors(value - truth, spread, groups),
        error={float(t): float(np.nanmean(error[:, k])) for k, t in enumerate(kelvins) if known[:, k].any()},
        constant={float(t): float(np.nanmean(flat[:, k])) for k, t in enumerate(kelvins) if known[:, k].any()},
        gain=paired((error - flat)[known], wide[known]), temperatures_K=tuple(kelvins.tolist()),
        lag_ps=float(about.get("settings", {}).get("lag_ps", LAG_PS)),
        mobile=tuple(sorted({one.mobile for one in structures})),
        elements=tuple(sorted({z for one in structures for z in one.composition})), fractions=fractions,
        far=farthest_usual(fractions, groups), crystals=len(used), groups=count,
        teacher=str(about.get("teacher", "sevennet-0")),
        members={one.key: np.stack([v, s]) for one, v, s in zip(used, value, spread, strict=True)},
    )  # fmt: skip


def predictor_of(records: Sequence[CrystalRecord], settings: MotionSettings) -> Predictor:
    """Nets and trees on the same crystals.

    Raises:
        MissingPackage: scikit-learn is absent.
    """
    scales, nets = ensemble(records, settings) if settings.members else (None, ())
    forest, properties = None, element_properties()
    if settings.trees:
        truth, still = np.array([target_of(one, settings.target) for one in records]), ~np.array([r.diffusing for r in records])
        known = np.isfinite(truth)
        columns = tree_columns([recorded_structure(one) for one in records], records[0].temperatures_K.tolist(), properties)
        labels = Labels(target=truth[known], below=still[known], group=np.zeros(int(known.sum()), dtype=np.int64))
        forest = fit_forest(columns[known.ravel()], labels, TransportSettings(trees=settings.trees), seed=settings.seed)
    return Predictor(forest=forest, properties=properties, scales=scales, nets=nets)


def ensemble(records: Sequence[CrystalRecord], settings: MotionSettings) -> tuple[Scales, tuple[TaughtNet, ...]]:
    """Nets of other seeds on the same crystals."""
    scales = scales_of(records, expansion=settings.expansion, components=settings.components)
    items = [ion_rows(one, scales, target=settings.target) for one in records]
    seeds = [child_seed(settings.seed, f"member {k}") for k in range(settings.members)]
    made = [
        taught(items, teaching=settings.teaching, alone=settings.alone, share=settings.ridge, seed=seed,
               settings=settings.fit(), fine_tune=settings.fine_tune())
        for seed in seeds
    ]  # fmt: skip
    return scales, tuple(made)


def net_values(nets: Sequence[TaughtNet], items: Sequence[IonRows]) -> Float[np.ndarray, "member label"]:
    """What each net gives for the structures alone, crystal after crystal."""
    with torch.no_grad():
        return np.array([net(items).numpy() for net in nets], dtype=float)


def values_of(
    predictor: Predictor, structures: Sequence[IonStructure], temperatures_K: Sequence[float]
) -> tuple[Float[np.ndarray, "structure temperature"], Float[np.ndarray, "structure temperature"]]:
    """Mean of trees and nets, and the standard deviation over both, each kind with the same weight."""
    shape, kinds = (len(structures), len(temperatures_K), -1), list[np.ndarray]()
    if predictor.forest is not None:
        columns = tree_columns(structures, temperatures_K, predictor.properties)
        kinds.append(tree_values(predictor.forest, columns)[..., 0].reshape(shape))
    if predictor.scales is not None:
        items = [untaught_rows(one, predictor.scales, temperatures_K) for one in structures]
        kinds.append(net_values(predictor.nets, items).T.reshape(shape))
    means, variances = np.array([one.mean(-1) for one in kinds]), np.array([one.var(-1) for one in kinds])
    return means.mean(0), np.sqrt(variances.mean(0) + means.var(0))


def held_out(
    records: Sequence[CrystalRecord], groups: Int[np.ndarray, " crystal"], settings: MotionSettings
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predictions made without the group of each crystal: mean, spread, and a constant by temperature (that of all temperatures
    where the other groups have no label)."""
    folds = fold_numbers(groups, settings.folds, seed=settings.seed)
    truth = np.array([target_of(one, settings.target) for one in records])
    value, spread, constant = (np.full(truth.shape, np.nan) for _ in range(3))
    for fold in np.unique(folds):
        inside = [one for one, k in zip(records, folds, strict=True) if k != fold]
        outside = np.flatnonzero(folds == fold).tolist()
        asked = [recorded_structure(records[k]) for k in outside]
        kelvins = records[0].temperatures_K.tolist()
        value[outside], spread[outside] = values_of(predictor_of(inside, settings), asked, kelvins)
        columns = [(column[np.isfinite(column)], truth[folds != fold]) for column in truth[folds != fold].T]
        constant[outside] = [np.median(column) if len(column) else np.nanmedian(whole) for column, whole in columns]
    return value, spread, constant


def _factors(
    error: Float[np.ndarray, "crystal temperature"], spread: Float[np.ndarray, "crystal temperature"],
    groups: Int[np.ndarray, " crystal"],
) -> tuple[tuple[float, ...], ...]:  # fmt: skip
    """Conformal factors at each temperature; the larger of all temperatures together where fewer than FEW groups have labels."""
    known, wide = np.isfinite(error), np.broadcast_to(groups[:, None], error.shape)
    pooled, found = conformal_factors(error[known], spread[known], wide[known]), []
    for e, s, k in zip(error.T, spread.T, known.T, strict=True):
        own = conformal_factors(e[k], s[k], groups[k]) if k.any() else pooled
        few = len(np.unique(groups[k])) < FEW
        found.append(tuple(max(pair) for pair in zip(own, pooled, strict=True)) if few else own)
    return tuple(found)


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


def activation_energy(log10_y: Float[np.ndarray, " temperature"], temperatures_K: Float[np.ndarray, " temperature"]) -> float:
    """E_a (eV) of ln y = ln y₀ − E_a/(k_B T), by least squares; NaN for fewer than two temperatures."""
    if len(log10_y) < 2:
        return float("nan")
    return float(-BOLTZMANN * np.polyfit(1.0 / np.asarray(temperatures_K), np.log(10.0) * np.asarray(log10_y), 1)[0])


def moving(value: Float[np.ndarray, " temperature"], curve: tuple[float, float]) -> np.ndarray:
    """Temperatures at which ions diffuse more likely than not."""
    return (value >= curve[1]) | (curve[0] == 0.0)


def activation_errors(
    value: np.ndarray, truth: np.ndarray, records: Sequence[CrystalRecord], groups: Int[np.ndarray, " crystal"],
    curve: tuple[float, float],
) -> tuple[float, ...]:  # fmt: skip
    """Quantiles (LEVELS) of the error of activation energies: of held-out predictions over the temperatures at which ions diffuse
    by them, against labels over those at which ions do.

    () where the median of other groups does as well, or where fewer than FEW groups have both.
    """
    pairs, seen = list[tuple[float, float]](), list[int]()
    for k, one in enumerate(records):
        used, said = np.isfinite(truth[k]) & one.diffusing, moving(value[k], curve)
        if used.sum() >= 2 and said.sum() >= 2:
            made, right = (
                activation_energy(value[k][said], one.temperatures_K[said]),
                activation_energy(truth[k][used], one.temperatures_K[used]),
            )
            pairs.append((made, right))
            seen.append(int(groups[k]))
    if len(set(seen)) < FEW:
        return ()
    table, place = np.array(pairs), np.array(seen)
    flat = [float(np.median(table[place != group, 1])) for group in seen]
    apart = np.abs(table[:, 0] - table[:, 1])
    return tuple(float(np.quantile(apart, level)) for level in LEVELS) if apart.mean() < np.abs(flat - table[:, 1]).mean() else ()
