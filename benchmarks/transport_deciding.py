"""The deciding test: is a trajectory at high temperature worth more than the composition for σ measured at room temperature?

    MDISTILL_DATA=… python -m benchmarks.transport_deciding SET.npz [--teacher 6]

Cells: crystals of the trajectory set that OBELiX has measured.
Compared are rank correlations with log10 σ: log10 MSD of the students at each temperature, and the prediction of trees on
composition, density, lattice and group, made without the group of the cell (all 599 entries, 10 folds). Differences have 95 %
intervals from a bootstrap over groups. --teacher N: 5 ps at 1000 K of SevenNet-0 itself for the N smallest cells; about two
minutes of one core each. Writes results/transport_deciding.json.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from benchmarks.record import recorded, write_record
from benchmarks.transport_taught import system_of
from mdistill.analysis.msd import displacements, msd_of
from mdistill.campaign.settings import TrajectorySettings
from mdistill.campaign.trajectory_job import _at, _trajectory
from mdistill.data.relax import relax
from mdistill.interrupt import NEVER
from mdistill.teachers.models import load
from mdistill.transport.features import element_properties, features, material_of_entry
from mdistill.transport.fit import held_out_values, labels_of
from mdistill.transport.ion_rows import recorded_structure
from mdistill.transport.obelix import SAME, Entry, fractions_of, read_obelix
from mdistill.transport.settings import TransportSettings
from mdistill.transport.trajectory_set import CrystalRecord, read_trajectory_set
from mdistill.types import State

DRAWS, HOT, SHORT = 2000, 1000.0, 2.0
"""Bootstrap draws; temperature (K) of the test; lag (ps) at which five picoseconds are compared."""
BRIEF = TrajectorySettings(temperatures=(HOT,), time_ps=5.0, lag_ps=SHORT, equilibration_ps=1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", type=Path)
    parser.add_argument("--teacher", type=int, default=0, help="number of smallest cells that SevenNet-0 itself runs")
    given = parser.parse_args()
    torch.set_num_threads(1)
    entries = read_obelix()
    cells = measured_cells(read_trajectory_set(given.set), entries)
    rows = compared(cells, entries)
    old = [row for row in recorded("transport_deciding") if row["part"] == "teacher"]
    rows += by_teacher(cells, given.teacher) if given.teacher else old
    write_record("transport_deciding", {"set": given.set.name}, rows)


def measured_cells(records: Sequence[CrystalRecord], entries: Sequence[Entry]) -> list[tuple[CrystalRecord, int]]:
    """Records that diffuse Li, with the number of the entry of OBELiX: that of their CIF, else the first of their composition."""
    place = {entry.name: k for k, entry in enumerate(entries)}
    table, found = fractions_of([entry.composition for entry in entries]), list[tuple[CrystalRecord, int]]()
    for one in records:
        name = str(one.about["source"]).removeprefix("obelix-").removesuffix(".cif")
        apart = np.abs(table - fractions_of([recorded_structure(one).composition])).max(axis=1)
        number = place.get(name, int(np.argmin(apart)) if apart.min() < SAME else -1)
        if number >= 0 and str(one.about["mobile"]) == "Li":
            found.append((one, number))
    return found


def compared(cells: Sequence[tuple[CrystalRecord, int]], entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Rank correlations at each temperature, over the cells whose students can teach there, and over all."""
    labels = labels_of(entries)
    elements = sorted({z for entry in entries for z in entry.composition})
    x = features([material_of_entry(entry) for entry in entries], elements, element_properties(), mobile=3)
    trees = held_out_values(x, labels, TransportSettings(), seed=0)[:, 0]
    rows = []
    for k, kelvin in enumerate(cells[0][0].temperatures_K.tolist()):
        for kept in ("passed", "all"):
            used = [(one, n) for one, n in cells if np.isfinite(one.log_msd[k]) and (kept == "all" or one.usable[k])]
            if len(used) < 5:
                continue
            numbers = np.array([n for _, n in used])
            moved, truth, known = np.array([one.log_msd[k] for one, _ in used]), labels.target[numbers], trees[numbers]
            rows.append({"part": "students", "temperature (K)": kelvin, "frames": kept, "cells": len(used)}
                        | correlations(moved, known, truth, labels.group[numbers]))  # fmt: skip
    return rows


def correlations(moved: np.ndarray, known: np.ndarray, truth: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    """Spearman's ρ of trajectories, of trees, of the mean rank of both, and the gain over the trees with its interval."""
    rng, names = np.random.default_rng(0), np.unique(groups)
    rho, draws = three(moved, known, truth), list[np.ndarray]()
    for _ in range(DRAWS):
        chosen = np.concatenate([np.flatnonzero(groups == g) for g in rng.choice(names, len(names))])
        if len(np.unique(truth[chosen])) > 2 and len(np.unique(moved[chosen])) > 2:
            draws.append(three(moved[chosen], known[chosen], truth[chosen]))
    a, b = np.quantile(np.array([one[0] - one[1] for one in draws]), [0.025, 0.975]).tolist()
    c, d = np.quantile(np.array([one[2] - one[1] for one in draws]), [0.025, 0.975]).tolist()
    return {
        "groups": len(names), "ρ trajectory": rho[0], "ρ trees": rho[1], "ρ both": rho[2],
        "trajectory less trees": rho[0] - rho[1],
        "from": a, "to": b, "both less trees": rho[2] - rho[1], "both from": c, "both to": d,
    }  # fmt: skip


def three(moved: np.ndarray, known: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """ρ with the truth of the trajectories, of the trees, and of the mean of their ranks."""
    ranks = [np.argsort(np.argsort(values)) for values in (moved, known)]
    return np.array([float(spearmanr(values, truth).statistic) for values in (moved, known, ranks[0] + ranks[1])])


def by_teacher(cells: Sequence[tuple[CrystalRecord, int]], many: int) -> list[dict[str, Any]]:
    """log10 MSD (2 ps, 1000 K) of SevenNet-0 beside that of the students, for the smallest cells."""
    teacher, rows = load("sevennet-0"), []
    for one, _ in sorted(cells, key=lambda cell: len(cell[0].numbers))[:many]:
        start, states, begin = system_of(one), list[State](), time.process_time()
        relaxed, result = relax(start, teacher, max_steps=40, stop=NEVER)
        relaxed = start if result.distortion > 0.08 else relaxed
        _at(relaxed, teacher, HOT, BRIEF, seed=1, into=states, stop=NEVER)
        moved = displacements(_trajectory([replace(state) for state in states]), species="Li")
        lag = np.array([round(SHORT * 1000.0 / BRIEF.every_fs)])
        made = float(np.log10(float(msd_of(moved, BRIEF.every_fs, lags=lag).y[0])))
        k = int(np.argmin(abs(one.temperatures_K - HOT)))
        student = float(np.log10(np.interp(SHORT, one.lags_ps, one.msd[k])))
        rows.append({
            "part": "teacher", "crystal": one.about["formula"], "atoms": len(one.numbers), "log10 MSD (2 ps) teacher": made,
            "student": student, "passed": bool(one.usable[k]), "CPU s": time.process_time() - begin,
        })  # fmt: skip
    return rows


if __name__ == "__main__":
    main()
