"""When curvature helps: students taught with and without their teacher's Hessian, every control beside them, equal steps.

Systems: molecules of revised MD17 (teacher: a larger PaiNN of ours, taught on the DFT labels) and crystals (teacher: SevenNet-0;
Li6PS5Cl needs the labels of student_accuracy.py, the others a label folder given with --labels). Arms, by what a student is
taught per training structure:

    reference     DFT energy and forces                                       (molecules alone)
    soft          the teacher's energy and forces
    probe         … and the product with one fixed random probe               (2 more teacher calls)
    row           … and one row of the Hessian                                (2 more teacher calls)
    displaced     … and those of 2 randomly displaced structures              (2 more teacher calls)
    displaced1    … of 1                                                      (1 more teacher call)
    displaced4    … of 4                                                      (4 more teacher calls)
    displaced+probe … of 2, and the product with a probe                      (4 more teacher calls)
    rows4         … and 4 rows                                                (8 more teacher calls)
    hessian       … and all its rows                                          (with few structures alone)
    atoms         … and the energies of the atoms                             (no more teacher calls)
    redrawn       … and a random probe drawn anew at every step               (molecules alone)
    reference+…   DFT energy and forces with the teacher's probe or 4 rows    (molecules alone; the published way)
    nodes         … and node features tied to the teacher's                   (no more teacher calls)
    embedding     … and the embedding of elements a projection of its own     (PaiNN students alone)

    MDISTILL_DATA=… python -m benchmarks.studies.curvature --system ethanol --student moment [--seeds 3] [--steps 3000]
        [--frames 50]

Everything done is kept in runs/curvature and not done again; the record holds all systems found there.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch

from benchmarks.record import RESULTS, write_record
from benchmarks.studies.curvature_judge import cost, curvature, dynamics, judged, relaxed, vibrations
from benchmarks.studies.curvature_systems import (
    CRYSTALS,
    MOLECULES,
    RATTLE,
    ROOT,
    RUNS,
    TEACHER,
    Case,
    crystal_case,
    curved,
    kept,
    molecule_case,
)
from mdistill.io.files import write_json
from mdistill.training.potential import MODEL, train_potential
from mdistill.training.settings import FitSettings, PainnSize, TrainSettings
from mdistill.types import LabelledFrame
from research.matching import EmbeddingMatching, NodeMatching, train_tied

STUDENTS = {
    "moment": TrainSettings(size="small", held_out=0.05),
    "painn": TrainSettings(net="painn", cutoff=5.0, painn=PainnSize(width=24, layers=2), held_out=0.05),
}
MOLECULE_ARMS = (
    "reference",
    "soft",
    "probe",
    "row",
    "displaced",
    "displaced1",
    "displaced4",
    "displaced+probe",
    "rows4",
    "atoms",
    "redrawn",
    "reference+probe",
    "reference+rows4",
    "nodes",
)
CRYSTAL_ARMS = ("soft", "probe", "row", "displaced", "displaced1", "displaced4", "displaced+probe", "rows4", "atoms", "nodes")
PAINN_ARMS = ("embedding",)
WEIGHTS = {
    "probe": 1.0,
    "displaced+probe": 1.0,
    "redrawn": 1.0,
    "reference+probe": 1.0,
    "row": 1.0,
    "rows4": 1.0,
    "hessian": 1.0,
    "reference+rows4": 1.0,
}
JUDGES: dict[str, Callable[[Case, Path], dict[str, float]]] = {
    "force MAE": judged,
    "median": curvature,
    "minimum (meV": dynamics,
    "frequency": vibrations,
    "RMSD": relaxed,
}
"""What adds to a student's row, by a word in the names of what it adds."""


SHOWN = {
    "force MAE, test (meV/Å)": "forces, held out",
    "force MAE, 1000 K (meV/Å)": "forces, 1000 K",
    "force MAE, modes (meV/Å)": "forces, modes",
    "curvature error, test, median (%)": "curvature",
    "frequency MAE (THz)": "frequencies",
}
PLOTTED = {
    "probe": "a random probe (2 calls)",
    "row": "a row (2)",
    "rows4": "4 rows (8)",
    "hessian": "the whole Hessian",
    "displaced1": "1 displaced copy (1)",
    "displaced": "2 displaced copies (2)",
    "displaced4": "4 displaced copies (4)",
    "displaced+probe": "2 displaced copies, a probe (4)",
    "nodes@0.1": "node features",
    "embedding": "embedding",
}
"""Arms drawn, with the further teacher calls a structure takes."""


def taught(case: Case, arm: str) -> list[LabelledFrame]:
    """What an arm's students are taught; "arm@weight" is the arm with another weight of its curvature or node features."""
    arm = arm.split("@", maxsplit=1)[0]
    base = case.reference if arm.startswith("reference") else case.rows if arm == "atoms" else case.soft
    if arm in ("rows4", "reference+rows4", "row"):
        source = case.rows
        if arm == "row":
            source = [replace(f, probes=f.probes[:1], products=f.products[:1]) for f in source]  # type: ignore[index]
    elif arm in ("probe", "reference+probe", "displaced+probe"):
        source = case.soft
    elif arm == "hessian":
        every = 3 * case.minimum.n_atoms
        source = kept(RUNS / case.name / f"hessians-{len(base)}", lambda: curved(base, case.teacher, "rows", every))
    else:
        source = [replace(f, probes=None, products=None) for f in base]
    found = [replace(f, probes=s.probes, products=s.products) for f, s in zip(base, source, strict=True)]
    extra = {"displaced1": case.moved[::2], "displaced4": case.moved + case.moved_more}
    return found + extra.get(arm, case.moved if arm.startswith("displaced") else [])


def fewer(case: Case, count: int) -> Case:
    """The same judged on the same, but taught so many structures only, evenly chosen, with what belongs to them."""
    chosen = np.linspace(0, len(case.soft) - 1, count).round().astype(int).tolist()
    pairs = [index for k in chosen for index in (2 * k, 2 * k + 1)]
    return replace(
        case,
        reference=[case.reference[k] for k in chosen] if case.reference else [],
        soft=[case.soft[k] for k in chosen],
        rows=[case.rows[k] for k in chosen],
        moved=[case.moved[k] for k in pairs],
        moved_more=[case.moved_more[k] for k in pairs],
    )


def settings_of(case: Case, student: str, arm: str, seed: int, steps: int) -> TrainSettings:
    arm, _, weight = arm.partition("@")
    every_row = 3 * case.minimum.n_atoms
    curvature = {
        "curvature_weight": float(weight) if weight and arm in WEIGHTS else WEIGHTS.get(arm, 0.0),
        "curvature_every": 1 if case.name not in CRYSTALS else 2,
        "curvature_probes": {"rows4": 4, "reference+rows4": 4, "hessian": every_row}.get(arm, 1),
        "atomic_weight": 1.0 if arm == "atoms" else 0.0,
    }
    return replace(STUDENTS[student], fit=FitSettings(steps=steps, seed=seed), **curvature)


def one(case: Case, student: str, arm: str, seed: int, given: argparse.Namespace) -> dict[str, Any]:
    """Train and judge one student, or read what was found before and add what was not asked then."""
    name = f"{student}-{given.steps}" + (f"-{given.frames}-frames" if given.frames else "")
    folder = RUNS / case.name / name / f"{arm}-{seed}"
    path = folder / "found.json"
    row: dict[str, Any] = {"system": case.name, "student": student, "steps": given.steps, "arm": arm, "seed": seed}
    row |= {"frames": given.frames} if given.frames else {}
    if path.is_file():
        row = json.loads(path.read_text(encoding="utf-8"))
    else:
        row |= trained(case, folder, arm, settings_of(case, student, arm, seed, given.steps))
    for key, judge in JUDGES.items():
        if not any(key in name for name in row):
            row |= judge(case, folder / MODEL)
            write_json(path, row)
    return row


def trained(case: Case, folder: Path, arm: str, settings: TrainSettings) -> dict[str, float]:
    """Train one student; its size and what a step cost."""
    control, _, weight = arm.partition("@")
    begun = time.process_time()
    if control in ("nodes", *PAINN_ARMS):
        net = case.teacher.net  # type: ignore[attr-defined]
        matching = NodeMatching(net, weight=float(weight or 10.0)) if control == "nodes" else EmbeddingMatching(net)
        result = train_tied(taught(case, arm), settings, folder, matching)
    else:
        result = train_potential(taught(case, arm), settings, folder, redraw=case.teacher if arm == "redrawn" else None)
    spent = time.process_time() - begun
    return {"parameters": result.parameters, "CPU ms a step": 1e3 * spent / settings.fit.steps}


def summary() -> list[dict[str, Any]]:
    """Mean and standard error over seeds of everything found so far."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for path in sorted(RUNS.glob("*/*/*/found.json")):
        row = json.loads(path.read_text(encoding="utf-8"))
        groups.setdefault(tuple(str(row.get(k, "all")) for k in ("system", "student", "steps", "frames", "arm")), []).append(row)
    rows = []
    for (system, student, steps, frames, arm), found in groups.items():
        row: dict[str, Any] = {"system": system, "student": student, "steps": int(steps), "frames": frames, "arm": arm}
        row["seeds"] = len(found)
        for name in dict.fromkeys(key for one_seed in found for key in one_seed if isinstance(one_seed[key], float)):
            values = [one_seed[name] for one_seed in found if name in one_seed]
            row[name] = float(np.mean(values))
            row[f"± {name}"] = float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else None
        rows.append(row)
    return rows


def speeds(case: Case) -> None:
    """What a step costs, of the teacher and one student of either kind, kept beside the case."""
    students = {}
    for student in STUDENTS:
        known = sorted((RUNS / case.name).glob(f"{student}-*/soft-0/{MODEL}"))
        students |= {student: known[0]} if known else {}
    write_json(RUNS / case.name / "speed.json", cost(case, students))


def plot(rows: list[dict[str, Any]]) -> None:
    """Errors of every arm over those of "soft", with their standard errors over seeds."""
    mpl.use("svg")
    import matplotlib.pyplot as plt

    known = {(r["student"], r["system"], r["frames"]) for r in rows if r["arm"] in PLOTTED}
    groups = sorted(known, key=lambda g: (g[0] == "painn", (MOLECULES + CRYSTALS).index(g[1]), str(g[2]) != "all", str(g[2])))
    figure, axes = plt.subplots(len(SHOWN), 1, figsize=(11.0, 2.0 * len(SHOWN)), sharex=True)
    for axis, (key, title) in zip(axes, SHOWN.items(), strict=True):
        for k, (arm, label) in enumerate(PLOTTED.items()):
            found = [(g, r) for g, group in enumerate(groups) if (r := ratio(rows, group, arm, key))]
            where = [g + (k - (len(PLOTTED) - 1) / 2) * 0.09 for g, _ in found]
            axis.errorbar(where, [r[0] for _, r in found], [r[1] for _, r in found], fmt="o", ms=4, capsize=2, label=label)
        axis.axhline(1.0, color="0.6", lw=0.8)
        axis.set(ylabel=title, xlim=(-0.5, len(groups) - 0.5))
        for g in range(len(groups) - 1):
            axis.axvline(g + 0.5, color="0.9", lw=0.8, zorder=0)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, ncols=5, fontsize=8, loc="upper center", frameon=False)
    names = [f"{system}\n{student}" + ("" if n == "all" else f"\n{n} frames") for student, system, n in groups]
    axes[-1].set_xticks(range(len(groups)), names, fontsize=8)
    figure.supylabel("error over that of a student taught energies and forces alone", fontsize=9)
    figure.tight_layout(rect=(0.0, 0.0, 1.0, 0.95))
    figure.savefig(RESULTS / "curvature.svg")


def ratio(rows: list[dict[str, Any]], group: tuple[str, str, str], arm: str, key: str) -> tuple[float, float] | None:
    """An arm's error over that of "soft", and its standard error."""
    mine = [r for r in rows if (r["student"], r["system"], r["frames"]) == group and key in r]
    top, base = (next((r for r in mine if r["arm"] == name), None) for name in (arm, "soft"))
    if top is None or base is None:
        return None
    value = top[key] / base[key]
    errors = [(r[f"± {key}"] or 0.0) / r[key] for r in (top, base)]
    return value, value * float(np.hypot(*errors))


def everything(given: argparse.Namespace) -> None:
    """Every arm with every seed of one system and kind of student."""
    case = crystal_case(given.system, given.labels) if given.system in CRYSTALS else molecule_case(given.system)
    case = fewer(case, given.frames) if given.frames else case
    usual = CRYSTAL_ARMS if given.system in CRYSTALS else MOLECULE_ARMS
    usual += PAINN_ARMS if given.student == "painn" else ()
    if given.speed:
        speeds(case)
        return
    for seed in range(given.seeds):
        for arm in given.arms or usual:
            print(one(case, given.student, arm, seed, given), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--system", choices=CRYSTALS + MOLECULES, default=CRYSTALS[0])
    parser.add_argument("--student", choices=list(STUDENTS), default="moment")
    parser.add_argument("--arms", nargs="+", default=None)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--frames", type=int, default=0, help="teach this many structures only (evenly chosen; 0: all)")
    parser.add_argument("--speed", action="store_true", help="time a step of the teacher and of students, train nothing")
    parser.add_argument("--record-only", action="store_true", help="write the record of what was found so far")
    parser.add_argument("--labels", type=Path, default=ROOT / "runs" / "benchmark-li6ps5cl" / "label")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if not given.record_only:
        everything(given)
    rows = summary()
    costs = [row for path in sorted(RUNS.glob("*/speed.json")) for row in json.loads(path.read_text(encoding="utf-8"))]
    plot(rows)
    settings = {"teacher of molecules": TEACHER, "students": STUDENTS, "rattle_A": RATTLE, "weights": WEIGHTS}
    write_record("curvature", settings, rows + costs)


if __name__ == "__main__":
    main()
