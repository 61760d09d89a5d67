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
    atoms         … and the energies of the atoms                             (no more teacher calls)
    redrawn       … and a random probe drawn anew at every step               (molecules alone)
    reference+…   DFT energy and forces with the teacher's probe or 4 rows    (molecules alone; the published way)
    nodes, embedding   … and features tied to the teacher's                   (PaiNN students alone)

    MDISTILL_DATA=… python benchmarks/curvature.py --system ethanol --student spline [--seeds 3] [--steps 3000]

Everything done is kept in runs/curvature and not done again; the record holds all systems found there.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.io import read
from record import write_record
from torch import Generator

from mdistill.analysis.vibrations import displaced, normal_modes
from mdistill.data.label import BrokenLabel, label
from mdistill.data.relax import relax
from mdistill.data.store import LabelStore
from mdistill.derivatives import hessian
from mdistill.errors import BlowUp
from mdistill.graph import build_graph, make_system
from mdistill.io.files import write_json
from mdistill.io.structures import read_system
from mdistill.io.trajectories import read_hdf5
from mdistill.simulation.settings import GuardSettings, SimulateSettings
from mdistill.simulation.simulate import simulate
from mdistill.teachers import load_teacher
from mdistill.training.checkpoint import load_model
from mdistill.training.matching import EmbeddingMatching, Matching, NodeMatching
from mdistill.training.potential import MODEL, evaluate, train_potential
from mdistill.training.settings import FitSettings, PainnSize, TrainSettings
from mdistill.types import LabelledFrame, Potential, Prediction, System
from mdistill.workflows.models import load

ROOT = Path(__file__).parent.parent
RUNS = ROOT / "runs" / "curvature"
CRYSTALS = ("li6ps5cl", "li3ps4", "li7p3s11")
MOLECULES = ("ethanol", "aspirin", "salicylic", "toluene")
TEACHER = TrainSettings(
    net="painn", cutoff=5.0, painn=PainnSize(width=64, layers=3), held_out=0.05, energy_weight=3.0, fit=FitSettings(steps=6000)
)
TEACHER_STEPS = {"ethanol": 12000}
STUDENTS = {
    "spline": TrainSettings(size="small", held_out=0.05),
    "painn": TrainSettings(net="painn", cutoff=5.0, painn=PainnSize(width=24, layers=2), held_out=0.05),
}
RATTLE = {"crystal": 0.05, "molecule": 0.03}
"""Standard deviation per axis of the random displacements, Å."""
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
)
CRYSTAL_ARMS = ("soft", "probe", "row", "displaced", "displaced1", "displaced4", "displaced+probe", "rows4", "atoms")
PAINN_ARMS = ("nodes", "embedding")
NOTHING = Prediction(energy=torch.zeros(1, dtype=torch.float64), forces=torch.zeros((0, 3), dtype=torch.float64))
TIMES_PS = {"spline": (50.0, 20.0), "painn": (5.0, 5.0)}
"""Dynamics at 1000 K and in NVE, ps."""
WEIGHTS = {
    "probe": 0.3,
    "displaced+probe": 1.0,
    "redrawn": 0.3,
    "reference+probe": 0.3,
    "row": 1.0,
    "rows4": 1.0,
    "reference+rows4": 1.0,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One system: its teacher, what students are taught, and what they are judged on (all with the teacher's answers)."""

    name: str
    teacher: Potential
    reference: list[LabelledFrame]
    soft: list[LabelledFrame]
    rows: list[LabelledFrame]
    moved: list[LabelledFrame]
    moved_more: list[LabelledFrame]
    tests: dict[str, list[LabelledFrame]]
    minimum: System


def molecule(name: str, part: str) -> list[LabelledFrame]:
    """Frames of revised MD17, split 1, with their DFT labels."""
    path = Path(os.environ["MDISTILL_DATA"]) / "rmd17" / f"{name}_{part}_01.xyz.gz"
    with gzip.open(path, "rt") as handle:
        found = read(io.StringIO(handle.read()), index=":", format="extxyz")
    frames = []
    for k, atoms in enumerate(found):
        energy = atoms.info["Energy"] if "Energy" in atoms.info else atoms.get_potential_energy()
        forces = atoms.arrays["forces"] if "forces" in atoms.arrays else atoms.get_forces()
        target = Prediction(energy=torch.tensor([energy], dtype=torch.float64), forces=torch.from_numpy(forces))
        system = make_system(atoms.positions, atoms.numbers, np.zeros((3, 3)), [False] * 3)
        frames.append(LabelledFrame(system=system, target=target, source="dft", temperature_K=500.0, block=k // 50))
    return frames


def kept(path: Path, make: Callable[[], list[LabelledFrame]]) -> list[LabelledFrame]:
    """Labels from a store, made if it is empty."""
    store = LabelStore(path)
    if not len(store):
        store.append(make())
    return store.read()


def curved(frames: Sequence[LabelledFrame], teacher: Potential, kind: str, count: int) -> list[LabelledFrame]:
    """The teacher's answers on frames, with curvature along `count` probes or rows each."""
    generator = Generator().manual_seed(7)
    return [
        label(f.system, teacher, probes=count, kind=kind, generator=generator, temperature_K=f.temperature_K, block=f.block)  # type: ignore[arg-type]
        for f in frames
    ]


def moved_by(frames: Sequence[LabelledFrame], teacher: Potential, kind: str, seed: int = 8) -> list[LabelledFrame]:
    """Two randomly displaced copies of every frame with the teacher's answers; one it refuses is drawn again."""
    generator, made = Generator().manual_seed(seed), []
    for frame in frames:
        wanted = len(made) + 2
        while len(made) < wanted:
            shift = RATTLE[kind] * torch.randn(frame.system.positions.shape, generator=generator, dtype=torch.float64)
            moved = replace(frame.system, positions=frame.system.positions + shift)
            with suppress(BrokenLabel):
                made.append(label(moved, teacher, temperature_K=frame.temperature_K, block=frame.block))
    return made


def along_modes(minimum: System, teacher: Potential) -> list[LabelledFrame]:
    """The teacher's answers on 40 structures displaced along its normal modes, 300 K."""
    modes = normal_modes(minimum, hessian(teacher, minimum))
    moved = displaced(minimum, modes, 300.0, Generator().manual_seed(9), count=40)
    return [label(s, teacher, force_cap=200.0) for s in moved]


def hotter(start: System, teacher: Potential, folder: Path) -> list[LabelledFrame]:
    """100 frames of the teacher's dynamics of a molecule at 1000 K."""
    settings = SimulateSettings(
        ensemble="nvt", thermostat="langevin", friction_per_ps=10.0, temperature_K=1000.0, time_ps=2.0, time_step_fs=0.5,
        equilibration_ps=0.2, save_every_fs=20.0,
    )  # fmt: skip
    run = read_hdf5(simulate(start, teacher, settings, folder).trajectory)
    systems = [make_system(r.numpy(), run.numbers.numpy(), np.zeros((3, 3)), [False] * 3) for r in run.positions[1:]]
    return [label(s, teacher, temperature_K=1000.0, force_cap=200.0) for s in systems]


def molecule_case(name: str) -> Case:
    home = RUNS / name
    train, test = molecule(name, "train"), molecule(name, "test")
    if not (home / "teacher" / MODEL).is_file():
        fit = FitSettings(steps=TEACHER_STEPS.get(name, TEACHER.fit.steps))
        train_potential(train, replace(TEACHER, fit=fit), home / "teacher")
    teacher = load_model(home / "teacher" / MODEL)
    minimum = relax(train[0].system, teacher, max_steps=400, fmax=0.005)[0]
    return Case(
        name=name,
        teacher=teacher,
        minimum=minimum,
        reference=train,
        soft=kept(home / "probes", lambda: curved(train, teacher, "random", 1)),
        rows=kept(home / "rows", lambda: curved(train, teacher, "rows", 4)),
        moved=kept(home / "moved", lambda: moved_by(train, teacher, "molecule")),
        moved_more=kept(home / "moved-more", lambda: moved_by(train, teacher, "molecule", seed=10)),
        tests={
            "test, DFT": test[:500],
            "test": kept(home / "test", lambda: curved(test[:100], teacher, "random", 4)),
            "1000 K": kept(home / "hot", lambda: hotter(minimum, teacher, home / "md")),
            "modes": kept(home / "modes", lambda: along_modes(minimum, teacher)),
        },
    )


def crystal_case(name: str, labels: Path) -> Case:
    """Taught at 600 K and below, judged also at 1000 K."""
    home, teacher = RUNS / name, load_teacher("sevennet-0")
    frames = LabelStore(labels).read()
    cold = [replace(f, block=k // 10) for k, f in enumerate(f for f in frames if f.temperature_K != 1000.0)]
    hot = [f for f in frames if f.temperature_K == 1000.0]
    if name == CRYSTALS[0]:
        minimum = read_system(ROOT / "benchmarks" / "li6ps5cl_relaxed.extxyz")
    else:
        minimum = relax(next(f.system for f in frames if f.source == "relaxed"), teacher, max_steps=400, fmax=0.005)[0]
    train, test = [f for f in cold if f.block % 5 != 4], [f for f in cold if f.block % 5 == 4]
    return Case(
        name=name,
        teacher=teacher,
        minimum=minimum,
        reference=[],
        soft=train,
        rows=kept(home / "rows", lambda: curved(train, teacher, "rows", 4)),
        moved=kept(home / "moved", lambda: moved_by(train, teacher, "crystal")),
        moved_more=kept(home / "moved-more", lambda: moved_by(train, teacher, "crystal", seed=10)),
        tests={"test": test, "1000 K": hot, "modes": kept(home / "modes", lambda: along_modes(minimum, teacher))},
    )


def taught(case: Case, arm: str) -> list[LabelledFrame]:
    """What an arm's students are taught; "arm@weight" is the arm with another weight of its curvature."""
    arm = arm.split("@", maxsplit=1)[0]
    base = case.reference if arm.startswith("reference") else case.rows if arm == "atoms" else case.soft
    if arm in ("rows4", "reference+rows4", "row"):
        source = case.rows
        if arm == "row":
            source = [replace(f, probes=f.probes[:1], products=f.products[:1]) for f in source]  # type: ignore[index]
    elif arm in ("probe", "reference+probe", "displaced+probe"):
        source = case.soft
    else:
        source = [replace(f, probes=None, products=None) for f in base]
    found = [replace(f, probes=s.probes, products=s.products) for f, s in zip(base, source, strict=True)]
    extra = {"displaced1": case.moved[::2], "displaced4": case.moved + case.moved_more}
    return found + extra.get(arm, case.moved if arm.startswith("displaced") else [])


def settings_of(case: Case, student: str, arm: str, seed: int, steps: int) -> TrainSettings:
    arm, _, weight = arm.partition("@")
    curvature = {
        "curvature_weight": float(weight) if weight else WEIGHTS.get(arm, 0.0),
        "curvature_every": 1 if case.name not in CRYSTALS else 2,
        "curvature_probes": 4 if arm.endswith("rows4") else 1, "atomic_weight": 1.0 if arm == "atoms" else 0.0,
    }  # fmt: skip
    return replace(STUDENTS[student], fit=FitSettings(steps=steps, seed=seed), **curvature)


def judged(case: Case, path: Path) -> dict[str, float]:
    """Errors of a student: forces (meV/Å), energies (meV/atom), curvature (share of the teacher's)."""
    potential, found = load(path), {}
    plain = load_model(path)
    for name, frames in case.tests.items():
        predictions = evaluate(potential, frames)
        forces = [(p.forces - f.target.forces).abs().mean() for p, f in zip(predictions, frames, strict=True)]
        energies = torch.stack(
            [(p.energy - f.target.energy)[0] / f.system.n_atoms for p, f in zip(predictions, frames, strict=True)]
        )
        found[f"force MAE, {name} (meV/Å)"] = 1e3 * float(torch.stack(forces).mean())
        found[f"energy MAE, {name} (meV/atom)"] = 1e3 * float((energies - energies.median()).abs().mean())
        wrong, size = 0.0, 0.0
        for frame in [f for f in frames if f.probes is not None][:100]:
            products = plain.curvature(build_graph(frame.system, plain.cutoff), frame.probes)
            wrong += float((products - frame.products).square().sum())
            size += float(frame.products.square().sum())  # type: ignore[union-attr]
        if size > 0.0:
            found[f"curvature error, {name} (%)"] = 100.0 * (wrong / size) ** 0.5
    return found


def one(case: Case, student: str, arm: str, seed: int, steps: int) -> dict[str, Any]:
    """Train and judge one student, or read what was found before."""
    folder = RUNS / case.name / f"{student}-{steps}" / f"{arm}-{seed}"
    if (folder / "found.json").is_file():
        row: dict[str, Any] = json.loads((folder / "found.json").read_text(encoding="utf-8"))
        if not any("minimum" in name for name in row):
            row |= dynamics(case, student, folder / MODEL)
            write_json(folder / "found.json", row)
        return row
    matching: Matching | None = None
    if arm in PAINN_ARMS:
        net = case.teacher.net  # type: ignore[attr-defined]
        matching = NodeMatching(net) if arm == "nodes" else EmbeddingMatching(net)
    begun = time.process_time()
    result = train_potential(
        taught(case, arm),
        settings_of(case, student, arm, seed, steps),
        folder,
        redraw=case.teacher if arm == "redrawn" else None,
        matching=matching,
    )
    row = {
        "system": case.name, "student": student, "steps": steps, "arm": arm, "seed": seed, "parameters": result.parameters,
        "CPU ms a step": 1e3 * (time.process_time() - begun) / steps,
    } | judged(case, result.path) | dynamics(case, student, result.path)  # fmt: skip
    write_json(folder / "found.json", row)
    return row


def dynamics(case: Case, student: str, path: Path) -> dict[str, float]:
    """How long a student's dynamics holds at 1000 K, its drift in NVE, and the teacher's energy at its minimum."""
    potential, found = load(path, precision="float32"), {}
    low = case.minimum
    at_minimum = relax(low, load(path), max_steps=400, fmax=0.005)[0]
    energies = [float(evaluate(case.teacher, [LabelledFrame(system=s, target=NOTHING)])[0].energy[0]) for s in (at_minimum, low)]
    found["teacher's energy at the student's minimum (meV/atom)"] = 1e3 * (energies[0] - energies[1]) / low.n_atoms
    hot_ps, nve_ps = TIMES_PS[student]
    step = 0.5 if case.name not in CRYSTALS else 2.0
    for name, ensemble, kelvin, time_ps in (("hot", "nvt", 1000.0, hot_ps), ("nve", "nve", 500.0, nve_ps)):
        settings = SimulateSettings(
            ensemble=ensemble, thermostat="langevin", temperature_K=kelvin, time_ps=time_ps, time_step_fs=step,
            save_every_fs=20.0, equilibration_ps=0.5 if name == "nve" else 0.0, guard=GuardSettings(energy_change=100.0),
        )  # fmt: skip
        try:
            values = simulate(low, potential, settings, path.parent / name).values
        except BlowUp as error:
            found[f"{name} holds (ps)"] = max(error.step, 0) * step / 1000.0
            continue
        found[f"{name} holds (ps)"] = time_ps
        if name == "nve":
            found["NVE drift (meV/atom/ns)"] = 1e6 * (values["energy_drift"].value or 0.0)
    return found


def summary() -> list[dict[str, Any]]:
    """Mean and standard error over seeds of everything found so far."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for path in sorted(RUNS.glob("*/*/*/found.json")):
        row = json.loads(path.read_text(encoding="utf-8"))
        groups.setdefault(tuple(str(row[k]) for k in ("system", "student", "steps", "arm")), []).append(row)
    rows = []
    for (system, student, steps, arm), found in groups.items():
        row: dict[str, Any] = {"system": system, "student": student, "steps": int(steps), "arm": arm, "seeds": len(found)}
        for name in dict.fromkeys(key for one_seed in found for key in one_seed if isinstance(one_seed[key], float)):
            values = [one_seed[name] for one_seed in found if name in one_seed]
            row[name] = float(np.mean(values))
            row[f"± {name}"] = float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else None
        rows.append(row)
    return rows


def everything(given: argparse.Namespace) -> None:
    """Every arm with every seed of one system and kind of student."""
    case = crystal_case(given.system, given.labels) if given.system in CRYSTALS else molecule_case(given.system)
    usual = CRYSTAL_ARMS if given.system in CRYSTALS else MOLECULE_ARMS + (PAINN_ARMS if given.student == "painn" else ())
    for seed in range(given.seeds):
        for arm in given.arms or usual:
            print(one(case, given.student, arm, seed, given.steps), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--system", choices=CRYSTALS + MOLECULES, default=CRYSTALS[0])
    parser.add_argument("--student", choices=list(STUDENTS), default="spline")
    parser.add_argument("--arms", nargs="+", default=None)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--record-only", action="store_true", help="write the record of what was found so far")
    parser.add_argument("--labels", type=Path, default=ROOT / "runs" / "benchmark-li6ps5cl" / "label")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if not given.record_only:
        everything(given)
    write_record(
        "curvature", {"teacher of molecules": TEACHER, "students": STUDENTS, "rattle_A": RATTLE, "weights": WEIGHTS}, summary()
    )


if __name__ == "__main__":
    main()
