"""The molecules and crystals of curvature.py: their teachers, what students are taught there, and what they are judged on.

Everything is kept in runs/curvature: a teacher is trained and a frame labelled once.
"""

from __future__ import annotations

import gzip
import io
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.io import read
from torch import Generator

from benchmarks.record import ROOT
from mdistill.analysis.vibrations import displaced, normal_modes
from mdistill.data.probes import draw_probes
from mdistill.data.relax import relax
from mdistill.data.store import LabelStore
from mdistill.derivatives import hessian
from mdistill.errors import BlowUp, MdistillError
from mdistill.graph import make_system
from mdistill.io.files import write_bytes
from mdistill.io.structures import read_system
from mdistill.io.trajectories import read_hdf5
from mdistill.labelling.engine import Failure, as_engine
from mdistill.labelling.tasks import Question, frame_of
from mdistill.nets.model_files import load_model
from mdistill.simulation.settings import SimulateSettings
from mdistill.simulation.simulate import simulate
from mdistill.teachers import load_teacher
from mdistill.training.potential import MODEL, train_potential
from mdistill.training.settings import FitSettings, PainnSize, TrainSettings
from mdistill.types import LabelledFrame, Potential, Prediction, System

RUNS = ROOT / "runs" / "curvature"
CRYSTALS = ("li6ps5cl", "li3ps4", "li7p3s11")
MOLECULES = ("ethanol", "aspirin", "salicylic", "toluene")
TEACHER = TrainSettings(
    net="painn", cutoff=5.0, painn=PainnSize(width=64, layers=3), held_out=0.05, energy_weight=3.0, fit=FitSettings(steps=6000)
)
TEACHER_STEPS = {"ethanol": 12000}
RATTLE = {"crystal": 0.05, "molecule": 0.03}
"""Standard deviation per axis of the random displacements, Å."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One system: its teacher, what students are taught, and what they are judged on (all with the teacher's answers).

    `rows_there` are all rows of the teacher's Hessian at its `minimum`.
    """

    name: str
    teacher: Potential
    reference: list[LabelledFrame]
    soft: list[LabelledFrame]
    rows: list[LabelledFrame]
    moved: list[LabelledFrame]
    moved_more: list[LabelledFrame]
    tests: dict[str, list[LabelledFrame]]
    minimum: System
    rows_there: torch.Tensor


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


def answered(
    system: System, teacher: Potential, *, probes: torch.Tensor | None = None, largest_force: float = 50.0, **kept: Any
) -> LabelledFrame:
    """A structure with the teacher's answer; raises where that cannot be learned from."""
    question = Question(name="", index=0, system=system, probes=probes, **kept)
    frame = frame_of(question, as_engine(teacher).label(system, Path(), probes=probes), largest_force=largest_force)
    if isinstance(frame, Failure):
        raise MdistillError(frame.reason)
    return frame


def curved(frames: Sequence[LabelledFrame], teacher: Potential, kind: str, count: int) -> list[LabelledFrame]:
    """The teacher's answers on frames, with curvature along `count` probes or rows each."""
    generator = Generator().manual_seed(7)
    return [
        answered(
            f.system,
            teacher,
            probes=draw_probes(f.system, count, generator, kind=kind),
            temperature_K=f.temperature_K,
            block=f.block,
        )  # type: ignore[arg-type]
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
            with suppress(MdistillError):
                made.append(answered(moved, teacher, temperature_K=frame.temperature_K, block=frame.block))
    return made


def hessian_of(teacher: Potential, minimum: System, home: Path) -> torch.Tensor:
    """All rows of the teacher's Hessian at its minimum, eV/Å²; computed once."""
    path = home / "hessian.npy"
    if not path.is_file():
        buffer = io.BytesIO()
        np.save(buffer, hessian(teacher, minimum).detach().cpu().double().numpy(), allow_pickle=False)
        write_bytes(path, buffer.getvalue())
    return torch.from_numpy(np.load(path, allow_pickle=False))


def along_modes(minimum: System, teacher: Potential, rows: torch.Tensor) -> list[LabelledFrame]:
    """The teacher's answers on 40 structures displaced along its normal modes, 300 K."""
    modes = normal_modes(minimum, rows)
    moved = displaced(minimum, modes, 300.0, Generator().manual_seed(9), count=40)
    return [answered(s, teacher, largest_force=200.0) for s in moved]


def hotter(start: System, teacher: Potential, folder: Path) -> list[LabelledFrame]:
    """100 frames of the teacher's dynamics at 1000 K, or those up to 0.1 ps before it broke (aspirin: after 1.3 ps)."""
    settings = SimulateSettings(
        ensemble="nvt", thermostat="langevin", friction_per_ps=10.0, temperature_K=1000.0, time_ps=2.0, time_step_fs=0.5,
        equilibration_ps=0.2, every_fs=20.0,
    )  # fmt: skip
    last = None
    with suppress(BlowUp):
        last = simulate(start, teacher, settings, folder)
    run = read_hdf5(folder / "trajectory.h5")
    whole = run.positions[1:] if last else run.positions[1:-5]
    systems = [make_system(r.numpy(), run.numbers.numpy(), np.zeros((3, 3)), [False] * 3) for r in whole]
    return [answered(s, teacher, largest_force=200.0, temperature_K=1000.0) for s in systems]


def molecule_case(name: str) -> Case:
    home = RUNS / name
    train, test = molecule(name, "train"), molecule(name, "test")
    if not (home / "teacher" / MODEL).is_file():
        fit = FitSettings(steps=TEACHER_STEPS.get(name, TEACHER.fit.steps))
        train_potential(train, replace(TEACHER, fit=fit), home / "teacher")
    teacher = load_model(home / "teacher" / MODEL)
    minimum = relax(train[0].system, teacher, max_steps=400, largest_force=0.005)[0]
    rows_there = hessian_of(teacher, minimum, home)
    return Case(
        name=name,
        teacher=teacher,
        minimum=minimum,
        rows_there=rows_there,
        reference=train,
        soft=kept(home / "probes", lambda: curved(train, teacher, "random", 1)),
        rows=kept(home / "rows", lambda: curved(train, teacher, "rows", 4)),
        moved=kept(home / "moved", lambda: moved_by(train, teacher, "molecule")),
        moved_more=kept(home / "moved-more", lambda: moved_by(train, teacher, "molecule", seed=10)),
        tests={
            "test, DFT": test[:500],
            "test": kept(home / "test", lambda: curved(test[:100], teacher, "random", 4)),
            "1000 K": kept(home / "hot", lambda: hotter(minimum, teacher, home / "md")),
            "modes": kept(home / "modes", lambda: along_modes(minimum, teacher, rows_there)),
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
        minimum = relax(next(f.system for f in frames if f.source == "relaxed"), teacher, max_steps=400, largest_force=0.005)[0]
    train, test = [f for f in cold if f.block % 5 != 4], [f for f in cold if f.block % 5 == 4]
    rows_there = hessian_of(teacher, minimum, home)
    return Case(
        name=name,
        teacher=teacher,
        minimum=minimum,
        rows_there=rows_there,
        reference=[],
        soft=train,
        rows=kept(home / "rows", lambda: curved(train, teacher, "rows", 4)),
        moved=kept(home / "moved", lambda: moved_by(train, teacher, "crystal")),
        moved_more=kept(home / "moved-more", lambda: moved_by(train, teacher, "crystal", seed=10)),
        tests={"test": test, "1000 K": hot, "modes": kept(home / "modes", lambda: along_modes(minimum, teacher, rows_there))},
    )
