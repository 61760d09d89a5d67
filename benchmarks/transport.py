"""Conductivity at 300 K from the structure: baselines, intervals and limits on OBELiX, by whole groups held out.

    MDISTILL_DATA=… python -m benchmarks.transport [--seeds 5] [--no-cifs]

One thread; a few minutes of one core, one of them for the CIFs. Writes results/transport.json. Errors are mean absolute errors
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

from benchmarks.record import write_record
from mdistill.crystals.checks import neighbour_pairs
from mdistill.crystals.crystal import Crystal
from mdistill.io.structures import read_structure
from mdistill.screening.screen import screen
from mdistill.transport.features import PROPERTIES, STRUCTURE_COLUMNS, element_properties, features, material_of_entry
from mdistill.transport.fit import (
    Labels,
    conformal_factors,
    farthest_usual,
    fit_forest,
    fold_numbers,
    held_out_values,
    labels_of,
    repeat_scatter,
    summary,
)
from mdistill.transport.forest import tree_values
from mdistill.transport.ion_rows import ion_structure
from mdistill.transport.motion_file import shipped_motion
from mdistill.transport.obelix import Entry, cif_texts, fractions_of, group_entries, read_obelix
from mdistill.transport.predict_motion import predict_motion
from mdistill.transport.settings import FLOOR, LEVELS, SPREAD, TransportSettings

TREES, INNER, DRAWS, GOOD = 64, 5, 2000, -4.0
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
    held = {name: grouped(x, labels, predict, given.seeds) for name, predict in arms.items()}
    rows = [*compared(held, labels), noise(entries, labels)]
    rows += official(x, labels, entries, arms)
    nested = [outer(x, labels, seed) for seed in range(min(given.seeds, 2))]
    rows += coverage(nested, labels, entries) + limits(x, labels, entries, held["ours"], given.seeds)
    if not given.no_cifs:
        texts = cif_texts()
        physics, speed = read_cifs(entries, texts)
        rows += [*corrected(nested, physics, labels), *published_split(x, labels, entries, texts, arms), speed]
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


def interval(values: np.ndarray, groups: np.ndarray) -> tuple[float, float, float]:
    """Mean over entries with its 95 % interval, groups drawn with replacement."""
    names, place = np.unique(groups, return_inverse=True)
    total, count = np.bincount(place, weights=values), np.bincount(place)
    drawn = np.random.default_rng(0).integers(0, len(names), (DRAWS, len(names)))
    means = total[drawn].sum(axis=1) / count[drawn].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975]).tolist()
    return float(values.mean()), low, high


def auc(score: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve: probability that a positive scores above a negative."""
    from scipy.stats import rankdata

    ranks, many = rankdata(score), int(positive.sum())
    return float((ranks[positive].sum() - many * (many + 1) / 2) / (many * (len(score) - many)))


def compared(held: dict[str, np.ndarray], labels: Labels) -> list[dict[str, Any]]:
    """Grouped cross-validation of all entries, each model paired with the extra trees on composition alone."""
    rows, y = [], labels.target
    base = np.abs(held["extra trees, composition"] - y).mean(axis=0)
    for name, given in held.items():
        error = np.abs(given - y)
        mean, low, high = interval(error.mean(axis=0), labels.group)
        gain, best, worst = interval(error.mean(axis=0) - base, labels.group)
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
    mean, low, high = interval(error, labels.group[known])
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
        mean, low, high = interval(np.abs(given - labels.target[test]), labels.group[test])
        rows.append({"part": "official", "model": name, "entries": int(test.sum()), "MAE": mean, "low": low, "high": high})
    return rows


def outer(x: np.ndarray, labels: Labels, seed: int) -> dict[str, np.ndarray]:
    """Nested cross-validation: predictions, spreads and intervals of held-out groups, all made from the other groups alone."""
    settings = TransportSettings(trees=TREES, folds=INNER, seed=seed)
    folds, count = fold_numbers(labels.group, 10, seed=seed), len(x)
    made: dict[str, np.ndarray] = {name: np.zeros(count) for name in ("value", "spread", "below", "68", "95")}
    made |= {"folds": folds, "inner": np.zeros((10, count))}
    for fold in range(10):
        out = folds == fold
        inside = held_out_values(x[~out], labels.part(~out), settings, seed=seed)
        factors = conformal_factors(inside[:, 0] - labels.target[~out], inside[:, 1], labels.group[~out])
        given = summary(tree_values(fit_forest(x[~out], labels.part(~out), settings, seed=seed), x[out]))
        made["value"][out], made["spread"][out], made["below"][out] = given.T
        for level, factor in zip(("68", "95"), factors, strict=True):
            made[level][out] = factor
        made["inner"][fold, ~out] = labels.target[~out] - inside[:, 0]
    return made


def coverage(nested: list[dict[str, np.ndarray]], labels: Labels, entries: list[Entry]) -> list[dict[str, Any]]:
    """How often intervals of nested cross-validation hold the truth, and what the probability to be below detection is worth."""
    rows, y, scatter = [], labels.target, repeat_scatter(entries)
    _, place, sizes = np.unique(labels.group, return_inverse=True, return_counts=True)
    weight = 1.0 / sizes[place]
    for level, least, name in zip(LEVELS, scatter, ("68", "95"), strict=True):
        half = np.array([np.maximum(one[name] * (one["spread"] + SPREAD), least) for one in nested])
        error = np.array([np.abs(one["value"] - y) for one in nested])
        open_end = (y <= FLOOR) & (np.array([one["value"] for one in nested]) - half <= FLOOR)
        inside = (error <= half) | open_end
        rows.append({
            "part": "coverage", "level": level, "entries": float(inside.mean()),
            "groups": float((inside * weight).sum() / weight.sum() / len(inside)),
            "detectable": float(inside[:, ~labels.below].mean()), "below detection": float(inside[:, labels.below].mean()),
            "mean half width": float(half.mean()),
        })  # fmt: skip
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
        mean, low, high = interval(error[chosen], labels.group[chosen])
        rows.append({"part": "limits", "model": name, "entries": int(chosen.sum()), "MAE": mean, "low": low, "high": high})
    families = Counter(entry.family for entry in entries if entry.family)
    for family, count in families.most_common(9):
        chosen = np.array([entry.family == family for entry in entries])
        rows.append({"part": "family", "model": family, "entries": count, "MAE": float(error[chosen].mean())})
    strict = Labels(target=labels.target, below=labels.below, group=group_entries(entries, join_repeats=True))
    predict = models(x.shape[1], x.shape[1] - 6 * len(PROPERTIES) - STRUCTURE_COLUMNS)["ours"]
    mean, low, high = interval(np.abs(grouped(x, strict, predict, 2) - labels.target).mean(axis=0), strict.group)
    name = f"near repeats in one group ({len(np.unique(strict.group))} groups)"
    rows.append({"part": "limits", "model": name, "entries": len(x), "MAE": mean, "low": low, "high": high})
    triclinic = x.copy()
    triclinic[:, 2 - STRUCTURE_COLUMNS], triclinic[:, 3 - STRUCTURE_COLUMNS] = 1.0, 0.0
    given = grouped_as(x, triclinic, labels, predict, seeds=2)
    mean, low, high = interval(np.abs(given - labels.target).mean(axis=0), labels.group)
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


def read_cifs(entries: list[Entry], texts: dict[str, str]) -> tuple[dict[int, np.ndarray], dict[str, Any]]:
    """Features of the entries with a CIF that holds Li, physics first and predicted motion last, and how many structures are
    screened in a minute of one core, with motion and without."""
    physics, place = {}, {entry.name: k for k, entry in enumerate(entries)}
    with tempfile.TemporaryDirectory() as folder:
        for name, text in texts.items():
            (Path(folder) / f"{name}.cif").write_text(text, encoding="utf-8")
        first, *some = (Path(folder) / f"{name}.cif" for name in sorted(texts)[::4])
        screen([first])
        begin = [time.process_time()]
        for kelvins in ((300.0,), (300.0, *MOTION_K)):
            screen(some, temperatures_K=kelvins)
            begin.append(time.process_time())
        for name in texts:
            crystal = read_structure(Path(folder) / f"{name}.cif")
            if crystal.composition.get(3, 0.0) > 0.0:
                physics[place[name]] = np.concatenate([physics_of(crystal), motion_of(crystal)])
    plain, both = (60 * len(some) / seconds for seconds in np.diff(begin).tolist())
    return physics, {"part": "speed", "structures": len(some), "a minute of one core": plain, "with motion": both}


def motion_of(crystal: Crystal) -> np.ndarray:
    """log10 MSD predicted at the lowest temperature, and its growth to the highest."""
    found = predict_motion(shipped_motion(), ion_structure(crystal, None, mobile=3), MOTION_K).motions
    return np.array([found[0].value, found[-1].value - found[0].value])


def physics_of(crystal: Crystal) -> np.ndarray:
    """Share of Li on partial sites, any at all, nearest Li–Li and Li–other (Å), Li sites per Å³, vacancies of Li sites."""
    share = np.array([site.occupancies.get(3, 0.0) for site in crystal.sites])
    lithium = share > 0.0
    i, j, distance = neighbour_pairs(crystal, 6.0)
    pairs = distance[lithium[i] & lithium[j] & (distance > 1.5)]
    other = distance[lithium[i] & ~lithium[j]]
    partial = share[lithium] < 0.999
    return np.array([
        share[lithium][partial].sum() / share.sum(), float(partial.any()), pairs.min(initial=6.0), other.min(initial=6.0),
        lithium.sum() / crystal.volume, 1.0 - share.sum() / lithium.sum(),
    ])  # fmt: skip


def corrected(nested: list[dict[str, np.ndarray]], physics: dict[int, np.ndarray], labels: Labels) -> list[dict[str, Any]]:
    """Ours with a ridge of inner out-of-fold residuals on physics features, without and with predicted motion, and its gain, on
    entries with a CIF."""
    known = np.array(sorted(physics))
    raw = np.array([physics[k] for k in known])
    chosen = {"physics features": slice(0, -2), "predicted motion": slice(-2, None), "both": slice(None)}
    return [ridge_of(nested, raw[:, columns], known, labels, name) for name, columns in chosen.items()]


def ridge_of(
    nested: list[dict[str, np.ndarray]], raw: np.ndarray, known: np.ndarray, labels: Labels, name: str
) -> dict[str, Any]:
    table = (raw - raw.mean(axis=0)) / raw.std(axis=0)
    plain, better = [], []
    for one in nested:
        given = one["value"].copy()
        for fold in range(10):
            train, out = one["folds"][known] != fold, one["folds"][known] == fold
            a, r = table[train], one["inner"][fold, known[train]]
            weights = np.linalg.solve(a.T @ a + len(a) * np.eye(a.shape[1]), a.T @ (r - r.mean()))
            given[known[out]] += table[out] @ weights
        plain.append(np.abs(one["value"] - labels.target)[known])
        better.append(np.abs(given - labels.target)[known])
    before, after = np.mean(plain, axis=0), np.mean(better, axis=0)
    mean, low, high = interval(after, labels.group[known])
    gain, best, worst = interval(after - before, labels.group[known])
    return {"part": "correction", "model": f"ours, and ridge of residuals on {name}", "entries": len(known),
            "MAE": mean, "low": low, "high": high, "without": float(before.mean()),
            "gain": gain, "gain low": best, "gain high": worst}  # fmt: skip


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
        mean, low, high = interval(np.abs(given - y[test]), labels.group[test])
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
