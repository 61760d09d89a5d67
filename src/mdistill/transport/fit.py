r"""Trees of the transport predictors, groups held out whole, and intervals from them.

Grouped cross-validation gives for every entry i an error e_i and the spread s_i of the trees, made without its group. The score

    r_i = |e_i| / (s_i + s₀)      s₀: SPREAD

has a quantile q over groups of equal weight, one group more than there are (hierarchical conformal prediction). The interval
of a new material is ŷ ± q (s + s₀), but no narrower than measurements of one composition scatter. It holds the truth at the
stated level for a material of a group that training does not know.

Reference: Lee, Barber & Willett, arXiv 2306.06342 (2023); Dunn, Wasserman & Ramdas, JASA 118, 2491 (2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from mdistill.errors import MissingPackage
from mdistill.transport.forest import Forest, forest_of, tree_values
from mdistill.transport.obelix import SAME, Entry, fractions_of, group_entries
from mdistill.transport.settings import LEVELS, SPREAD, TransportSettings

DRAWS = 4000
"""Bootstrap draws of groups."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """Targets of entries (log10 S/cm), whether each is below detection, and its group."""

    target: Float[np.ndarray, " entry"]
    below: Bool[np.ndarray, " entry"]
    group: Int[np.ndarray, " entry"]

    def part(self, chosen: np.ndarray) -> Labels:
        return Labels(target=self.target[chosen], below=self.below[chosen], group=self.group[chosen])


def labels_of(entries: Sequence[Entry]) -> Labels:
    """Labels and groups of entries."""
    target, below = np.array([one.target for one in entries]), np.array([one.below_detection for one in entries])
    return Labels(target=target, below=below, group=group_entries(entries))


def fit_forest(columns: np.ndarray, labels: Labels, settings: TransportSettings, *, seed: int) -> Forest:
    """Extremely randomised trees on these features.

    Raises:
        MissingPackage: scikit-learn is absent.
    """
    try:
        from sklearn.ensemble import ExtraTreesRegressor
    except ImportError as error:
        raise MissingPackage("scikit-learn", "pip install 'mdistill[transport]'", "mdistill train transport") from error
    model: Any = ExtraTreesRegressor(
        n_estimators=settings.trees, max_features=settings.share, random_state=seed, n_jobs=1, bootstrap=False
    )
    model.fit(columns, labels.target)
    return forest_of(model.estimators_, columns, labels.below)


def fold_numbers(groups: Int[np.ndarray, " entry"], folds: int, *, seed: int) -> Int[np.ndarray, " entry"]:
    """The fold of each entry: whole groups, the largest first, each to one of the emptiest folds."""
    generator = np.random.default_rng(seed)
    names, sizes = np.unique(groups, return_counts=True)
    order, load, fold_of = generator.permutation(len(names)), np.zeros(folds), {}
    for k in sorted(order.tolist(), key=lambda k: -sizes[k]):
        fold = int(np.argmin(load + generator.random(folds) * 0.02 * len(groups)))
        fold_of[int(names[k])] = fold
        load[fold] += sizes[k]
    return np.array([fold_of[int(group)] for group in groups])


def held_out_values(columns: np.ndarray, labels: Labels, settings: TransportSettings, *, seed: int) -> np.ndarray:
    """What trees made without the group of each entry give for it: mean target, spread, share below detection [entry, 3]."""
    folds, given = fold_numbers(labels.group, settings.folds, seed=seed), np.zeros((len(columns), 3))
    for fold in np.unique(folds):
        held = folds == fold
        given[held] = summary(tree_values(fit_forest(columns[~held], labels.part(~held), settings, seed=seed), columns[held]))
    return given


def summary(values: Float[np.ndarray, "material tree 2"]) -> Float[np.ndarray, "material 3"]:
    """Mean target, standard deviation over trees, share below detection."""
    return np.column_stack([values[..., 0].mean(axis=1), values[..., 0].std(axis=1), values[..., 1].mean(axis=1)])


def conformal_factors(
    error: Float[np.ndarray, " entry"], spread: Float[np.ndarray, " entry"], groups: Int[np.ndarray, " entry"]
) -> tuple[float, ...]:
    """q of each of LEVELS: half width of the interval over (spread + SPREAD).

    Every group has weight 1/(G+1), shared among its entries, and a group that was not seen the rest. Where that rest exceeds
    1 − level, the largest score is used.
    """
    scores = np.abs(error) / (spread + SPREAD)
    _, place, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    weights = 1.0 / sizes[place] / (len(sizes) + 1)
    order = np.argsort(scores)
    reached = np.cumsum(weights[order])
    return tuple(float(scores[order][min(np.searchsorted(reached, level - 1e-12), len(order) - 1)]) for level in LEVELS)


def paired(
    difference: Float[np.ndarray, " label"], groups: Int[np.ndarray, " label"], *, seed: int = 0, tries: int = 1
) -> tuple[float, float, float]:
    """Mean over labels with its 95 % interval, groups drawn with replacement.

    Args:
        difference: One number a label.
        groups: Group of each label.
        seed: Seed of the draws.
        tries: Number of comparisons that the interval allows for (Bonferroni).
    """
    _, place = np.unique(groups, return_inverse=True)
    total, count = np.bincount(place, weights=difference), np.bincount(place)
    drawn = np.random.default_rng(seed).integers(0, len(total), (DRAWS, len(total)))
    tail = 0.025 / tries
    low, high = np.quantile(total[drawn].sum(axis=1) / count[drawn].sum(axis=1), [tail, 1.0 - tail]).tolist()
    return float(difference.mean()), low, high


def repeat_scatter(entries: Sequence[Entry]) -> tuple[float, ...]:
    """Quantiles (LEVELS) of the distance of a value to the median of other papers' values of the same composition, decades."""
    from scipy.spatial.distance import cdist

    fractions = fractions_of([entry.composition for entry in entries])
    targets, sources = np.array([one.target for one in entries]), np.array([one.source for one in entries])
    others = (cdist(fractions, fractions, "chebyshev") < SAME) & (sources[:, None] != sources[None, :])
    apart = [abs(targets[k] - np.median(targets[others[k]])) for k in np.flatnonzero(others.any(axis=1))]
    return tuple(float(np.quantile(apart, level)) for level in LEVELS) if apart else tuple(0.0 for _ in LEVELS)


def farthest_usual(fractions: Float[np.ndarray, "entry 119"], groups: Int[np.ndarray, " entry"]) -> float:
    """Distance of a composition to the nearest one of another group that nine of ten groups do not exceed."""
    from scipy.spatial.distance import cdist

    apart = 0.5 * cdist(fractions, fractions, "cityblock")
    apart[groups[:, None] == groups[None, :]] = np.inf
    nearest = apart.min(axis=1)
    usual = [float(nearest[groups == group].mean()) for group in np.unique(groups) if np.isfinite(nearest[groups == group]).all()]
    return float(np.quantile(usual, 0.9)) if usual else 1.0
