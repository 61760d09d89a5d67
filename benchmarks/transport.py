"""Conductivity at 300 K from the structure: baselines, intervals and limits on OBELiX, by whole groups held out.

    MDISTILL_DATA=… python -m benchmarks.transport [--seeds 5] [--no-cifs]

One thread; ten minutes of one core. Writes results/transport.json. Errors are mean absolute errors
of log10 σ (decades), with 95 % intervals from a bootstrap over groups. Entries "<" count as their bound, at least −10.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.distance import cdist

from benchmarks.record import write_record
from mdistill.screening.screen import screen
from mdistill.transport.correction import CLOSE, SITES, TRIES, fit_ridge
from mdistill.transport.features import PROPERTIES, STRUCTURE_COLUMNS, element_properties, features, material_of_entry
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
    summary,
)
from mdistill.transport.forest import tree_values
from mdistill.transport.motion_file import shipped_motion
from mdistill.transport.obelix import SAME, Entry, cif_texts, fractions_of, group_entries, read_obelix
from mdistill.transport.settings import FLOOR, LEVELS, SPREAD, TransportSettings
from mdistill.transport.train import site_inputs, train_correction

TREES, INNER, GOOD = 64, 5, -4.0
MOTION_K = (600.0, 800.0, 1000.0, 1200.0)
Predict = Callable[[np.ndarray, np.ndarray, np.ndarray, int], np.ndarray]
"""(features and targets of training, features asked for, seed) → predictions."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--no-cifs", action="store_true", help="leave out what needs the CIFs: physics features, 220/59, speed")
    given = parser.parse_args()
    entries = read_obelix()
    labels = labels_of(entries)
    elements = sorted({z for entry in entries for z in entry.composition})
    x = features([material_of_entry(entry) for entry in entries], elements, element_properties(), mobile=3)
    arms, start = models(x.shape[1], len(elements)), time.process_time()
    values = {name: grouped(x, labels, predict, given.seeds) for name, predict in arms.items()}
    rows = [*compared(values, labels), noise(entries, labels)]
    rows += official(x, labels, entries, arms)
    texts = {} if given.no_cifs else cif_texts()
    sites, scatter = site_inputs(entries, texts, shipped_motion()), repeat_scatter(entries)
    fractions = fractions_of([entry.composition for entry in entries])
    nested = [outer(x, labels, sites, fractions, seed) | {"scatter": np.array(scatter)} for seed in range(min(given.seeds, 2))]
    rows += coverage(nested, labels, np.arange(len(x))) + limits(x, labels, entries, values["ours"], given.seeds)
    if not given.no_cifs:
        rows += [*corrected(nested, sites, labels), *by_distance(x, labels, sites, fractions, min(given.seeds, 2))]
        rows += [*published_split(x, labels, entries, texts, arms), speed(texts)]
    settings = {"seeds": given.seeds, "folds": 10, "trees": TREES, "CPU minutes": (time.process_time() - start) / 60}
    write_record("transport", settings, rows)


def models(width: int, elements: int) -> dict[str, Predict]:
    """What is compared. `ours` is the forest of the package."""
    from sklearn.ensemble import ExtraTreesRegressor, RandomForestRegressor

    composition = elements + 6 * len(PROPERTIES)

    def trees(kind: Any, columns: int, **options: Any) -> Predict:
        def predict(x: np.ndarray, y: np.ndarray, asked: np.ndarray, seed: int) -> np.ndarray:
            model = kind(n_estimators=TREES, random_state=seed, n_jobs=1, **options).fit(x[:, :columns], y)
            return np.asarray(model.predict(asked[:, :columns]))

        return predict

    return {
        "constant": lambda x, y, asked, seed: np.full(len(asked), np.median(y)),
        "random forest": trees(RandomForestRegressor, width, max_features=0.33),
        "extra trees, composition": trees(ExtraTreesRegressor, composition),
        "extra trees, and lattice and group": trees(ExtraTreesRegressor, width),
        "extra trees, and density": trees(ExtraTreesRegressor, composition + 2),
        "ours": trees(ExtraTreesRegressor, width, max_features=0.3),
    }


def grouped(x: np.ndarray, labels: Labels, predict: Predict, seeds: int) -> np.ndarray:
    """Predictions for every entry from training without its group, for each seed [seed, entry]."""
    given = np.zeros((seeds, len(x)))
    for seed in range(seeds):
        folds = fold_numbers(labels.group, 10, seed=seed)
        for fold in range(10):
            out = folds == fold
            given[seed, out] = predict(x[~out], labels.target[~out], x[out], seed)
    return given


def auc(score: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve: probability that a positive scores above a negative."""
    from scipy.stats import rankdata

    ranks, many = rankdata(score), int(positive.sum())
    return float((ranks[positive].sum() - many * (many + 1) / 2) / (many * (len(score) - many)))


def compared(values: dict[str, np.ndarray], labels: Labels) -> list[dict[str, Any]]:
    """Grouped cross-validation of all entries, each model paired with the extra trees on composition alone."""
    rows, y = [], labels.target
    base = np.abs(values["extra trees, composition"] - y).mean(axis=0)
    for name, given in values.items():
        error = np.abs(given - y)
        mean, low, high = paired(error.mean(axis=0), labels.group)
        gain, best, worst = paired(error.mean(axis=0) - base, labels.group)
        rows.append({
            "part": "grouped", "model": name, "MAE": mean, "low": low, "high": high,
            "seeds from": float(error.mean(axis=1).min()), "seeds to": float(error.mean(axis=1).max()),
            "against composition": gain, "gain low": best, "gain high": worst,
            "AUC above 1e-4": float(np.mean([auc(one, y > GOOD) for one in given])),
            "detectable MAE": float(error.mean(axis=0)[~labels.below].mean()),
            "below detection MAE": float(error.mean(axis=0)[labels.below].mean()),
        })  # fmt: skip
    return rows


def noise(entries: list[Entry], labels: Labels) -> dict[str, Any]:
    """What a measurement of the same composition by others tells: no predictor can be held to less."""
    from scipy.spatial.distance import cdist

    fractions, sources = fractions_of([e.composition for e in entries]), np.array([e.source for e in entries])
    others = (cdist(fractions, fractions, "chebyshev") < 0.002) & (sources[:, None] != sources[None, :])
    known = np.flatnonzero(others.any(axis=1))
    error = np.array([abs(labels.target[k] - np.median(labels.target[others[k]])) for k in known])
    mean, low, high = paired(error, labels.group[known])
    return {
        "part": "noise",
        "model": "other measurements of the composition",
        "entries": len(known),
        "MAE": mean,
        "low": low,
        "high": high,
    }


def official(x: np.ndarray, labels: Labels, entries: list[Entry], arms: dict[str, Predict]) -> list[dict[str, Any]]:
    """The official split, 478 to train and 121 to test."""
    test, rows = np.array([entry.test for entry in entries]), []
    for name, predict in arms.items():
        given = np.mean([predict(x[~test], labels.target[~test], x[test], seed) for seed in range(3)], axis=0)
        mean, low, high = paired(np.abs(given - labels.target[test]), labels.group[test])
        rows.append({"part": "official", "model": name, "entries": int(test.sum()), "MAE": mean, "low": low, "high": high})
    return rows


def outer(x: np.ndarray, labels: Labels, sites: np.ndarray, fractions: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Nested cross-validation: predictions, spreads and intervals of held-out groups, all made from the other groups alone."""
    settings = TransportSettings(trees=TREES, folds=INNER, seed=seed)
    folds, count = fold_numbers(labels.group, 10, seed=seed), len(x)
    names = ("value", "spread", "below", "68", "95", "corrected", "corrected 68", "corrected 95", "apart")
    made: dict[str, np.ndarray] = {name: np.zeros(count) for name in names}
    made |= {"folds": folds, "inner": np.zeros((10, count))}
    for fold in range(10):
        out = folds == fold
        inside = held_out_values(x[~out], labels.part(~out), settings, seed=seed)
        factors = conformal_factors(inside[:, 0] - labels.target[~out], inside[:, 1], labels.group[~out])
        given = summary(tree_values(fit_forest(x[~out], labels.part(~out), settings, seed=seed), x[out]))
        made["value"][out], made["spread"][out], made["below"][out] = given.T
        made["inner"][fold, ~out] = labels.target[~out] - inside[:, 0]
        made["apart"][out] = 0.5 * cdist(fractions[out], fractions[~out], "cityblock").min(axis=1)
        correction = train_correction(
            x[~out], labels.part(~out), sites[~out], inside, settings, fractions=fractions[~out], motion=""
        )
        for k, name in enumerate(("68", "95")):
            made[name][out] = factors[k]
            made[f"corrected {name}"][out] = np.nan if correction is None else correction.factors[k]
        made["corrected"][out] = np.nan if correction is None else given[:, 0] + correction.ridge.values(sites[out])
    return made


def held(
    nested: list[dict[str, np.ndarray]], value: str, prefix: str, labels: Labels, chosen: Callable[[dict[str, np.ndarray]], Any]
) -> list[dict[str, Any]]:
    """How often intervals hold the truth, at each level, for the entries chosen."""
    rows = []
    for k, (level, name) in enumerate(zip(LEVELS, ("68", "95"), strict=True)):
        parts = list[tuple[np.ndarray, ...]]()
        for one in nested:
            used = chosen(one)
            y, group, middle = labels.target[used], labels.group[used], one[value][used]
            half = np.maximum(one[f"{prefix}{name}"][used] * (one["spread"][used] + SPREAD), one["scatter"][k])
            inside = (np.abs(middle - y) <= half) | ((y <= FLOOR) & (middle - half <= FLOOR))
            _, place, sizes = np.unique(group, return_inverse=True, return_counts=True)
            parts.append((inside, 1.0 / sizes[place], labels.below[used], half))
        inside, weight, below, half = (np.concatenate(column) for column in zip(*parts, strict=True))
        rows.append({
            "level": level, "entries": float(inside.mean()), "groups": float((inside * weight).sum() / weight.sum()),
            "detectable": float(inside[~below].mean()), "below detection": float(inside[below].mean()),
            "mean half width": float(half.mean()), "count": len(inside) / len(nested),
        })  # fmt: skip
    return rows


def coverage(nested: list[dict[str, np.ndarray]], labels: Labels, every: np.ndarray) -> list[dict[str, Any]]:
    """How often intervals of nested cross-validation hold the truth, and what the probability to be below detection is worth."""
    rows: list[dict[str, Any]] = [{"part": "coverage"} | row for row in held(nested, "value", "", labels, lambda _one: every)]
    p = np.mean([one["below"] for one in nested], axis=0)
    bins = [(0.0, 0.1), (0.1, 0.3), (0.3, 0.6), (0.6, 1.01)]
    table = {f"{low:g} to {min(high, 1):g}": [int(m.sum()), float(p[m].mean()), float(labels.below[m].mean())]
             for low, high in bins if (m := (p >= low) & (p < high)).any()}  # fmt: skip
    share = float(labels.below.mean())
    brier = float(((p - labels.below) ** 2).mean())
    rows.append(
        {
            "part": "below detection",
            "AUC": auc(p, labels.below),
            "Brier": brier,
            "Brier of the share": share * (1 - share),
            "bins": table,
        }
    )
    return rows


def limits(x: np.ndarray, labels: Labels, entries: list[Entry], ours: np.ndarray, seeds: int) -> list[dict[str, Any]]:
    """Where it is worse: far compositions, families, stricter groups, and the space group that an ordering has."""
    from scipy.spatial.distance import cdist

    error, rows = np.abs(ours - labels.target).mean(axis=0), []
    fractions = fractions_of([entry.composition for entry in entries])
    apart = 0.5 * cdist(fractions, fractions, "cityblock")
    apart[labels.group[:, None] == labels.group[None, :]] = np.inf
    far = farthest_usual(fractions, labels.group)
    for name, chosen in (("applicable", apart.min(axis=1) <= far), ("far from the others", apart.min(axis=1) > far)):
        mean, low, high = paired(error[chosen], labels.group[chosen])
        rows.append({"part": "limits", "model": name, "entries": int(chosen.sum()), "MAE": mean, "low": low, "high": high})
    families = Counter(entry.family for entry in entries if entry.family)
    for family, count in families.most_common(9):
        chosen = np.array([entry.family == family for entry in entries])
        rows.append({"part": "family", "model": family, "entries": count, "MAE": float(error[chosen].mean())})
    strict = Labels(target=labels.target, below=labels.below, group=group_entries(entries, join_repeats=True))
    predict = models(x.shape[1], x.shape[1] - 6 * len(PROPERTIES) - STRUCTURE_COLUMNS)["ours"]
    mean, low, high = paired(np.abs(grouped(x, strict, predict, 2) - labels.target).mean(axis=0), strict.group)
    name = f"near repeats in one group ({len(np.unique(strict.group))} groups)"
    rows.append({"part": "limits", "model": name, "entries": len(x), "MAE": mean, "low": low, "high": high})
    triclinic = x.copy()
    triclinic[:, 2 - STRUCTURE_COLUMNS], triclinic[:, 3 - STRUCTURE_COLUMNS] = 1.0, 0.0
    given = grouped_as(x, triclinic, labels, predict, seeds=2)
    mean, low, high = paired(np.abs(given - labels.target).mean(axis=0), labels.group)
    rows.append({"part": "limits", "model": "all, asked for with P1 as an ordering has", "entries": len(x), "MAE": mean,
                 "low": low, "high": high, "mean change": float((given - ours[:2]).mean())})  # fmt: skip
    return rows


def grouped_as(x: np.ndarray, asked: np.ndarray, labels: Labels, predict: Predict, *, seeds: int) -> np.ndarray:
    """As `grouped`, but held-out entries are asked for with other features."""
    given = np.zeros((seeds, len(x)))
    for seed in range(seeds):
        folds = fold_numbers(labels.group, 10, seed=seed)
        for fold in range(10):
            out = folds == fold
            given[seed, out] = predict(x[~out], labels.target[~out], asked[out], seed)
    return given


def speed(texts: dict[str, str]) -> dict[str, Any]:
    """How many structures are screened in a minute of one core, with motion and without."""
    with tempfile.TemporaryDirectory() as folder:
        for name, text in texts.items():
            (Path(folder) / f"{name}.cif").write_text(text, encoding="utf-8")
        first, *some = (Path(folder) / f"{name}.cif" for name in sorted(texts)[::4])
        screen([first])
        begin = [time.process_time()]
        for kelvins in ((300.0,), (300.0, *MOTION_K)):
            screen(some, temperatures_K=kelvins)
            begin.append(time.process_time())
    plain, both = (60 * len(some) / seconds for seconds in np.diff(begin).tolist())
    return {"part": "speed", "structures": len(some), "a minute of one core": plain, "with motion": both}


VARIANTS = {
    "ion sites": (slice(0, SITES), 0.0), "predicted motion": (slice(SITES, None), 0.0), "both": (slice(None), 0.0),
    "both, where no composition is close": (slice(None), CLOSE),
}  # fmt: skip
"""Inputs of corrections, and the distance up to which a composition is close; the last is that of the package."""


def corrected(nested: list[dict[str, np.ndarray]], sites: np.ndarray, labels: Labels) -> list[dict[str, Any]]:
    """Ours with each correction on entries with a CIF: its gain with an interval, and with one that allows for all that were
    tried; then how often intervals hold the truth, without the correction of the package and with it."""
    known = np.flatnonzero(np.isfinite(sites).all(axis=1))
    y, group, below, rows = labels.target[known], labels.group[known], labels.below[known], []
    plain = np.array([one["value"][known] for one in nested])
    before, seen = np.abs(plain - y).mean(axis=0), ~below
    for name, (columns, close) in VARIANTS.items():
        after = np.abs([with_ridge(one, sites[known][:, columns], known, close) - y for one in nested]).mean(axis=0)
        mean, low, high = paired(after, group)
        gain, best, worst = paired(after - before, group)
        _, least, most = paired(after - before, group, tries=TRIES)
        rows.append({
            "part": "correction", "model": f"ours, and ridge of residuals on {name}", "entries": len(known),
            "MAE": mean, "low": low, "high": high, "without": float(before.mean()), "tries": TRIES,
            "gain": gain, "gain low": best, "gain high": worst, "allowing low": least, "allowing high": most,
            "gain detectable": float((after - before)[seen].mean()),
            "gain below detection": float((after - before)[below].mean()),
        })  # fmt: skip
    for model, value, prefix in (("without", "value", ""), ("with", "corrected", "corrected ")):
        for row in held(nested, value, prefix, labels, lambda one: known[one["apart"][known] > CLOSE]):
            rows.append({"part": "coverage of the correction", "model": model} | row)
    return rows


def with_ridge(one: dict[str, np.ndarray], inputs: np.ndarray, known: np.ndarray, close: float) -> np.ndarray:
    """Held-out values of entries, each without a close composition corrected by the ridge of inner residuals of other folds."""
    given = one["value"][known].copy()
    for fold in range(10):
        inside = one["folds"][known] != fold
        out = ~inside & (one["apart"][known] > close)
        given[out] += fit_ridge(inputs[inside], one["inner"][fold, known[inside]]).values(inputs[out])
    return given


def by_distance(x: np.ndarray, labels: Labels, sites: np.ndarray, fractions: np.ndarray, seeds: int) -> list[dict[str, Any]]:
    """Change of the error by the correction where trees know compositions near by: single entries held out, not groups."""
    known, rows = np.isfinite(sites).all(axis=1), []
    error, plain, apart = (np.full((seeds, len(x)), np.nan) for _ in range(3))
    for seed in range(seeds):
        settings = TransportSettings(trees=TREES, folds=INNER, seed=seed)
        folds = np.random.default_rng(seed).integers(0, 10, len(x))
        for fold in range(10):
            inside, out = folds != fold, (folds == fold) & known
            residuals = labels.target[inside] - held_out_values(x[inside], labels.part(inside), settings, seed=seed)[:, 0]
            given = summary(tree_values(fit_forest(x[inside], labels.part(inside), settings, seed=seed), x[out]))[:, 0]
            added = fit_ridge(sites[inside & known], residuals[known[inside]]).values(sites[out])
            plain[seed, out] = np.abs(given - labels.target[out])
            error[seed, out] = np.abs(given + added - labels.target[out])
            apart[seed, out] = 0.5 * cdist(fractions[out], fractions[inside], "cityblock").min(axis=1)
    group = np.broadcast_to(labels.group, apart.shape)
    for low, high in zip((-1.0, SAME, CLOSE, 0.12), (SAME, CLOSE, 0.12, 2.0), strict=True):
        chosen = (apart > low) & (apart <= high)
        gain, best, worst = paired((error - plain)[chosen], group[chosen])
        rows.append({
            "part": "correction by distance", "model": f"{max(low, 0.0):g} to {high:g}" if high < 1.0 else f"above {low:g}",
            "entries": round(chosen.sum() / seeds), "without": float(plain[chosen].mean()), "gain": gain, "gain low": best,
            "gain high": worst,
        })  # fmt: skip
    return rows


def published_split(
    x: np.ndarray, labels: Labels, entries: list[Entry], texts: dict[str, str], arms: dict[str, Predict]
) -> list[dict[str, Any]]:
    """The split of the published method (a CIF with Li, no upper bound; 220 and 59 entries), and ten random grouped ones."""
    lithium = {name for name, text in texts.items() if re.search(r"(?m)^\s*Li\d*[+\d]*\s+\S+\s", text)}
    used = np.array([entry.name in lithium and not entry.limit for entry in entries])
    test, rows, y = np.array([entry.test for entry in entries]) & used, [], labels.target
    train = used & ~np.array([entry.test for entry in entries])
    groups = np.unique(labels.group[used])
    for name, predict in arms.items():
        given = np.mean([predict(x[train], y[train], x[test], seed) for seed in range(3)], axis=0)
        mean, low, high = paired(np.abs(given - y[test]), labels.group[test])
        drawn = []
        for seed in range(10):
            order, out = np.random.default_rng(seed).permutation(groups), np.zeros(len(y), dtype=bool)
            for group in order:
                more = used & (labels.group == group)
                if out.sum() + more.sum() <= int(test.sum()) + 3:
                    out |= more
            rest = used & ~out
            drawn.append(float(np.abs(predict(x[rest], y[rest], x[out], seed) - y[out]).mean()))
        rows.append({"part": "published split", "model": name, "train": int(train.sum()), "test": int(test.sum()), "MAE": mean,
                     "low": low, "high": high, "ten random splits": float(np.mean(drawn)),
                     "± of a split": float(np.std(drawn, ddof=1))})  # fmt: skip
    return rows


if __name__ == "__main__":
    main()
