"""Motion at 600 to 1200 K from the structure, taught by trajectories: baselines, ablations, transfer, speed, invariance.

    python -m benchmarks.transport_taught SET.npz [--seeds 5] [--no-teacher]

One thread; about a second of CPU time per fit, crystal and arm. Writes results/transport_taught.json. Errors are mean absolute
errors of log10 MSD (10 ps), in decades, of groups (compositions with the mobile ion left open) held out whole; differences are
paired, with 95 % intervals from a bootstrap over groups, and with the interval widened for the number of arms (Bonferroni).
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import cdist
from scipy.spatial.transform import Rotation

from benchmarks.gradient_distillation import taught_by_gradient
from benchmarks.record import STRUCTURE, write_record
from mdistill.campaign.settings import TrajectorySettings
from mdistill.campaign.trajectory_job import _at
from mdistill.graph import make_system
from mdistill.interrupt import NEVER
from mdistill.io.structures import from_atoms, read_system, repeated, to_atoms
from mdistill.teachers.models import load
from mdistill.transport.features import Material, element_properties, features
from mdistill.transport.fit import fold_numbers
from mdistill.transport.ion_features import ion_features, temperature_polynomial
from mdistill.transport.ion_rows import (
    COLUMNS,
    ion_rows,
    ion_structure,
    raw_rows,
    recorded_structure,
    scales_of,
    target_of,
    untaught_rows,
)
from mdistill.transport.motion import groups_of, net_values, predictor_of, values_of
from mdistill.transport.obelix import fractions_of
from mdistill.transport.settings import MotionSettings
from mdistill.transport.taught import ACROSS, TaughtNet, taught, train_alone, train_both
from mdistill.transport.trajectory_set import CrystalRecord, read_trajectory_set
from mdistill.types import System

DRAWS, LEAST = 4000, 6
Arm = Callable[[Sequence[CrystalRecord], Sequence[CrystalRecord], int], np.ndarray]
"""(crystals of training, crystals asked for, seed) → log10 MSD [crystal, temperature]."""
OURS, ALONE = "taught, ridge", "structure alone"
TREES, BOTH, CONSTANT = "extra trees, composition and network", "taught and these trees", "constant by temperature"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--no-teacher", action="store_true", help="leave out what needs SevenNet-0: invariance and speed")
    given = parser.parse_args()
    torch.set_num_threads(1)
    records = read_trajectory_set(given.set)
    used = [one for one in records if one.usable.any()]
    groups = groups_of(used) if used else np.zeros(0, dtype=int)
    rows: list[dict[str, Any]] = [contents(records, used, groups)]
    if not given.no_teacher and used:
        teacher = load("sevennet-0")
        rows += [*invariance(records, teacher), speed(used, teacher)]
    if len(np.unique(groups)) >= LEAST:
        rows += compared(used, groups, given.seeds)
        rows += sizes(used, groups, given.seeds)
        rows += transfer(used, groups, given.seeds)
        rows += by_kind(used)
    write_record("transport_taught", {"set": given.set.name, "seeds": given.seeds, "least_groups": LEAST}, rows)


def contents(records: Sequence[CrystalRecord], used: Sequence[CrystalRecord], groups: np.ndarray) -> dict[str, Any]:
    """What the set holds."""
    flags = Counter(flag for one in records for these in one.about["flags"].values() for flag in these[:1])
    return {
        "part": "set", "crystals": len(records), "usable": len(used), "groups": len(np.unique(groups)),
        "ions": dict(Counter(str(one.about["mobile"]) for one in records)),
        "gate passed": sum(bool(one.about["gate_passed"]) for one in records), "flags": dict(flags),
        "error of log10 MSD": float(np.sqrt(np.nanmean([np.square(one.log_msd_error).mean() for one in used]))) if used else None,
        "CPU seconds a crystal": float(np.median([one.about["cpu_seconds"] for one in records])) if records else 0.0,
    }  # fmt: skip


def arms() -> dict[str, Arm]:
    """All predictors that are compared."""
    nets = MotionSettings(members=1, trees=0)
    trees = replace(nets, members=0, trees=64)
    variants = {
        OURS: nets, ALONE: replace(nets, teaching="none"), "taught, without λ_b": replace(nets, alone=0.0),
        "taught, cubic features": replace(nets, expansion="cubic"),
        TREES: trees, BOTH: replace(nets, trees=64),
    }  # fmt: skip
    made: dict[str, Arm] = {name: _predictor(settings) for name, settings in variants.items()}
    made |= {
        CONSTANT: _constant, "ridge, same features": _ridge, "extra trees, same features": _trees(_described),
        "extra trees, composition": _trees(_composition), "taught from log10 D first": _data_start,
        "taught, by gradient": _by_gradient,
    }  # fmt: skip
    return made


def _predictor(settings: MotionSettings) -> Arm:
    def predict(train: Sequence[CrystalRecord], asked: Sequence[CrystalRecord], seed: int) -> np.ndarray:
        kelvins = asked[0].temperatures_K.tolist()
        return values_of(predictor_of(train, replace(settings, seed=seed)), list(map(recorded_structure, asked)), kelvins)[0]

    return predict


def _constant(train: Sequence[CrystalRecord], asked: Sequence[CrystalRecord], seed: int) -> np.ndarray:
    return np.tile(np.nanmedian([target_of(one, "msd") for one in train], axis=0), (len(asked), 1))


def _described(records: Sequence[CrystalRecord], scales: Any) -> np.ndarray:
    """Mean features of the ions and the temperature polynomial, with products of the two: a row for each temperature."""
    rows = []
    for one in records:
        mean = (scales.structure(raw_rows(one))[one.kind]).mean(axis=0)
        t = temperature_polynomial(one.temperatures_K)
        rows.append(np.column_stack([np.tile(mean, (len(t), 1)), t[:, 1:], t[:, 1:2] * mean]))
    return np.concatenate(rows)


def _composition(records: Sequence[CrystalRecord], scales: Any) -> np.ndarray:
    known, rows = element_properties(), []
    for one in map(recorded_structure, records):
        row = features([Material(composition=one.composition, volume=one.volume)], COLUMNS, known, mobile=one.mobile)[0]
        rows += [np.r_[row, one.mobile, kelvin] for kelvin in records[0].temperatures_K]
    return np.array(rows)


def _labels(train: Sequence[CrystalRecord]) -> np.ndarray:
    return np.concatenate([target_of(one, "msd") for one in train])


def _ridge(train: Sequence[CrystalRecord], asked: Sequence[CrystalRecord], seed: int) -> np.ndarray:
    scales = scales_of(train, components=MotionSettings().components)
    x, y = _described(train, scales), _labels(train)
    x, y = x[np.isfinite(y)], y[np.isfinite(y)]
    middle, spread = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-9)
    a = (x - middle) / spread
    weights = np.linalg.solve(a.T @ a + 0.1 * len(a) * np.eye(a.shape[1]), a.T @ (y - y.mean()))
    return ((_described(asked, scales) - middle) / spread @ weights + y.mean()).reshape(len(asked), -1)


def _trees(rows: Callable[[Sequence[CrystalRecord], Any], np.ndarray]) -> Arm:
    def predict(train: Sequence[CrystalRecord], asked: Sequence[CrystalRecord], seed: int) -> np.ndarray:
        from sklearn.ensemble import ExtraTreesRegressor

        scales, y = scales_of(train, components=MotionSettings().components), _labels(train)
        x, known = rows(train, scales), np.isfinite(y)
        model = ExtraTreesRegressor(n_estimators=64, max_features=0.3, random_state=seed, n_jobs=1)
        return np.asarray(model.fit(x[known], y[known]).predict(rows(asked, scales))).reshape(len(asked), -1)

    return predict


def _by_gradient(train: Sequence[CrystalRecord], asked: Sequence[CrystalRecord], seed: int) -> np.ndarray:
    scales = scales_of(train, components=MotionSettings().components)
    net = taught_by_gradient([ion_rows(one, scales) for one in train], seed=seed)
    rows = [untaught_rows(recorded_structure(one), scales, one.temperatures_K.tolist()) for one in asked]
    return net_values([net], rows)[0].reshape(len(asked), -1)


def _data_start(train: Sequence[CrystalRecord], asked: Sequence[CrystalRecord], seed: int) -> np.ndarray:
    """f₂: g is trained on log10 D, then its encoder and the decoder of f₁ begin a structure-only predictor of log10 MSD."""
    settings = MotionSettings()
    scales = scales_of(train, components=settings.components)
    first = [one for one in train if np.isfinite(target_of(one, "diffusivity")).any()]
    if not first:
        return _constant(train, asked, seed)
    other = [ion_rows(one, scales, target="diffusivity") for one in first]
    both, alone = train_both(other, settings.fit(), seed=seed), taught(other, settings=settings.fit(), seed=seed)
    start = TaughtNet(both.structure.in_features - 4, both.trajectory.in_features)
    start.load_state_dict({**alone.state_dict(), "structure.weight": both.structure.weight.detach()})
    items = [ion_rows(one, scales) for one in train]
    start.begin_at(items)
    fit = replace(settings.fit(), learning_rate=1e-2)
    net = train_alone(items, fit, seed=seed, start=start, rates=ACROSS)
    rows = [untaught_rows(recorded_structure(one), scales, one.temperatures_K.tolist()) for one in asked]
    return net_values([net], rows)[0].reshape(len(asked), -1)


def held_out(records: Sequence[CrystalRecord], groups: np.ndarray, arm: Arm, seed: int) -> np.ndarray:
    """Predictions by an arm that does not know the group of each crystal."""
    folds = fold_numbers(groups, min(5, len(np.unique(groups))), seed=seed)
    given = np.zeros((len(records), len(records[0].temperatures_K)))
    for fold in np.unique(folds):
        out = np.flatnonzero(folds == fold).tolist()
        train = [one for one, k in zip(records, folds, strict=True) if k != fold]
        given[out] = arm(train, [records[k] for k in out], seed)
    return given


def interval(values: np.ndarray, groups: np.ndarray, *, many: int = 1) -> tuple[float, float, float]:
    """Mean of known values with its interval (95 %, for `many` comparisons), groups drawn with replacement."""
    known = np.isfinite(values)
    place = np.unique(np.broadcast_to(groups[:, None], values.shape)[known], return_inverse=True)[1]
    total, count = np.bincount(place, weights=values[known]), np.bincount(place)
    drawn = np.random.default_rng(0).integers(0, len(total), (DRAWS, len(total)))
    means = total[drawn].sum(axis=1) / count[drawn].sum(axis=1)
    low, high = np.quantile(means, [0.025 / many, 1.0 - 0.025 / many]).tolist()
    return float(values[known].mean()), low, high


def compared(records: Sequence[CrystalRecord], groups: np.ndarray, seeds: int) -> list[dict[str, Any]]:
    """Grouped cross-validation of all arms; each paired with the constant, the structure alone, and the trees of the package."""
    truth, names = np.array([target_of(one, "msd") for one in records]), arms()
    errors = {
        name: np.mean([np.abs(held_out(records, groups, arm, seed) - truth) for seed in range(seeds)], axis=0)
        for name, arm in names.items()
    }
    rows = []
    for name, error in errors.items():
        mean, low, high = interval(error, groups)
        flat, alone, trees = (interval(error - errors[other], groups, many=len(names)) for other in (CONSTANT, ALONE, TREES))
        by = {f"{t:g} K": float(np.nanmean(error[:, k])) for k, t in enumerate(records[0].temperatures_K)}
        rows.append({
            "part": "grouped", "model": name, "crystals": len(records), "groups": len(np.unique(groups)), "MAE": mean, "low": low,
            "high": high, "against constant": flat[0], "from": flat[1], "to": flat[2], "against structure alone": alone[0],
            "alone from": alone[1], "alone to": alone[2], "against trees": trees[0], "trees from": trees[1],
            "trees to": trees[2], **by,
        })  # fmt: skip
    return rows


def sizes(records: Sequence[CrystalRecord], groups: np.ndarray, seeds: int) -> list[dict[str, Any]]:
    """Errors against the number of crystals of training (rounded up to whole groups), on the rest."""
    rows, names = [], np.unique(groups)
    for count in (10, 20, 40, 80):
        if count + 5 > len(records):
            break
        for name in (OURS, ALONE, TREES, BOTH, CONSTANT):
            errors = []
            for seed in range(seeds):
                order = np.random.default_rng(seed).permutation(names)
                place = np.argsort(np.array([int(np.flatnonzero(order == group)[0]) for group in groups]), kind="stable")
                cut = next(k for k in range(count, len(place)) if groups[place[k]] != groups[place[k - 1]])
                asked = [records[k] for k in place[cut:]]
                given = arms()[name]([records[k] for k in place[:cut]], asked, seed)
                errors.append(float(np.nanmean(np.abs(given - np.array([target_of(one, "msd") for one in asked])))))
            rows.append({"part": "n_train", "model": name, "train": count, "MAE": np.mean(errors), "±": np.std(errors)})
    return rows


def by_kind(records: Sequence[CrystalRecord]) -> list[dict[str, Any]]:
    """The hardest question: whole stoichiometries held out, whatever the elements (AgI with LiF, Li3OCl with Na3OBr)."""
    sorted_rows = np.sort(fractions_of([recorded_structure(one).composition for one in records]), axis=1)
    groups = connected_components(cdist(sorted_rows, sorted_rows, "chebyshev") < 0.02, directed=False)[1]
    truth, rows = np.array([target_of(one, "msd") for one in records]), []
    for name in (TREES, CONSTANT):
        error = np.mean([np.abs(held_out(records, groups, arms()[name], seed) - truth) for seed in range(5)], axis=0)
        mean, low, high = interval(error, groups)
        rows.append({"part": "stoichiometries", "model": name, "groups": len(np.unique(groups)), "MAE": mean, "low": low,
                     "high": high})  # fmt: skip
    return rows


def transfer(records: Sequence[CrystalRecord], groups: np.ndarray, seeds: int) -> list[dict[str, Any]]:
    """Training on Li, testing on each other ion: with the Li compounds of the same group in training, and without them."""
    ions, rows = np.array([str(one.about["mobile"]) for one in records]), []
    names = (OURS, ALONE, TREES, BOTH, "extra trees, composition", CONSTANT)
    for ion, apart in ((ion, apart) for ion in ("Na", "Ag") for apart in (False, True)):
        asked, lithium = np.flatnonzero(ions == ion), np.flatnonzero(ions == "Li")
        if len(lithium) < LEAST or len(np.unique(groups[asked])) < 2:
            continue
        own = groups[asked]
        folds = fold_numbers(own, min(5, len(np.unique(own))), seed=0) if apart else np.zeros(len(asked), dtype=int)
        errors = {name: np.full((seeds, len(asked), len(records[0].temperatures_K)), np.nan) for name in names}
        for fold in range(folds.max() + 1):
            there = asked[folds == fold]
            train = [records[k] for k in lithium.tolist() if not apart or groups[k] not in groups[there]]
            tested = [records[k] for k in there.tolist()]
            truth = np.array([target_of(one, "msd") for one in tested])
            for name, seed in ((name, seed) for name in names for seed in range(seeds)):
                errors[name][seed, folds == fold] = np.abs(arms()[name](train, tested, seed) - truth)
        for name in names:
            error = errors[name].mean(axis=0)
            mean, low, high = interval(error, own)
            flat = interval(error - errors[CONSTANT].mean(axis=0), own)
            rows.append({
                "part": f"Li to {ion}" + (", without its group" if apart else ""), "model": name, "train": len(lithium),
                "test": len(asked), "groups": len(np.unique(own)), "MAE": mean, "low": low, "high": high,
                "against constant": flat[0], "from": flat[1], "to": flat[2],
            })  # fmt: skip
    return rows


def system_of(record: CrystalRecord) -> System:
    """The ordered supercell of a record."""
    return make_system(record.positions, record.numbers, record.cell, (True, True, True))


def invariance(records: Sequence[CrystalRecord], teacher: Any) -> list[dict[str, Any]]:
    """Largest relative change of features by another description of the same crystals."""
    from ase.data import atomic_numbers

    rows = []
    turn = torch.from_numpy(Rotation.from_rotvec([0.4, -1.1, 0.7]).as_matrix())
    for form in ("invariant", "published"):
        worst = {"rotation": 0.0, "translation": 0.0, "supercell": 0.0}
        for one in records[:5]:
            system, mobile = system_of(one), atomic_numbers[str(one.about["mobile"])]
            plain = ion_features([system], teacher, mobile=mobile, form=form)[0]  # type: ignore[arg-type]
            others = {
                "rotation": replace(system, positions=system.positions @ turn.T, cell=system.cell @ turn.T),
                "translation": replace(system, positions=system.positions + 1.7), "supercell": repeated(system, (2, 1, 1)),
            }  # fmt: skip
            for name, other in others.items():
                found = ion_features([other], teacher, mobile=mobile, form=form)[0]  # type: ignore[arg-type]
                nearest = np.array([np.abs(plain - row).max(axis=1).min() for row in found])
                worst[name] = max(worst[name], float(nearest.max() / np.abs(plain).max()))
        rows.append({"part": "invariance", "model": form, **worst})
    return rows


def speed(records: Sequence[CrystalRecord], teacher: Any) -> dict[str, Any]:
    """CPU seconds a structure of features and predictor, against dynamics of the student and of the teacher."""
    times = {"trees": list[float](), "nets": list[float]()}
    models = {
        "trees": predictor_of(records, MotionSettings(members=0)),
        "nets": predictor_of(records, MotionSettings(trees=0, members=3, steps=5)),
    }
    for one in records[:20]:
        for name, predictor in models.items():
            crystal = from_atoms(to_atoms(system_of(one)))
            begin = time.process_time()
            structure = ion_structure(crystal, teacher if name == "nets" else None, mobile=recorded_structure(one).mobile)
            values_of(predictor, [structure], one.temperatures_K.tolist())
            times[name].append(time.process_time() - begin)
    made = {name: float(np.median(these)) for name, these in times.items()}
    return (
        {"part": "speed", "structures": len(times["nets"])}
        | {f"CPU s a structure, {name}": seconds for name, seconds in made.items()}
        | dynamics(teacher, made)
    )


def dynamics(teacher: Any, made: dict[str, float]) -> dict[str, Any]:
    """CPU seconds of 25 ps at each of four temperatures by a student and by its teacher, of Li6PS5Cl, from 2 ps of them."""
    system, found = read_system(STRUCTURE), dict[str, float]()
    brief = TrajectorySettings(temperatures=(600.0,), time_ps=2.0, lag_ps=1.0, equilibration_ps=0.1)
    for name, potential in (("student", load("li6ps5cl-sevennet-0", precision="float32")), ("teacher", teacher)):
        times = list[float]()
        for length in (2.0, 4.0):
            begin = time.process_time()
            _at(system, potential, 600.0, replace(brief, time_ps=length), seed=0, into=[], stop=NEVER)
            times.append(time.process_time() - begin)
        found[name] = (times[1] - times[0]) / 2.0 * 100.0
    return (
        {"atoms": system.n_atoms}
        | {f"CPU s of 100 ps, {name}": seconds for name, seconds in found.items()}
        | {f"{predictor} faster than {name} (×)": found[name] / seconds for predictor, seconds in made.items() for name in found}
    )


if __name__ == "__main__":
    main()
