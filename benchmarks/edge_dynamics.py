"""Dynamics with direct forces: stability and distances of ethanol, rows of a teacher; what the runs of others need.

    python -m benchmarks.edge_transformer stability taught --work FOLDER --data FOLDER

`stability` and `taught` start from the models that the part `accuracy` left in FOLDER.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.edge_fits import force_errors, frames_of, planned
from mdistill.data.probes import draw_probes
from mdistill.derivatives import curvature_products
from mdistill.direct.diagnostics import (
    antisymmetry,
    bonds,
    density_error,
    distance_density,
    equivariance_error,
    heating,
    stable_time,
)
from mdistill.direct.molecules import parsed
from mdistill.direct.safe import for_dynamics
from mdistill.direct.settings import DirectSettings
from mdistill.direct.train import train_direct
from mdistill.graph import build_graph, cast
from mdistill.nets.model_files import load_model
from mdistill.settings import to_json
from mdistill.simulation.evaluator import Evaluator
from mdistill.simulation.initial_state import initial_state
from mdistill.simulation.kinetics import temperature
from mdistill.simulation.langevin import Baoab
from mdistill.simulation.verlet import VelocityVerlet
from mdistill.training.settings import FitSettings
from mdistill.types import LabelledFrame, Prediction, State, System, Trajectory

SEEDS, NVT_PS, NVT_K, STEP_FS, EVERY, SETTLED_FS = (1, 2, 3), 1.0, 500.0, 0.5, 20, 200.0
NVE_PS, TAUGHT, TAUGHT_MINUTES, PROBES, HOT_K = 1.0, 100, 1.0, 6, 1e4


def run(state: State, propagator: Any, picoseconds: float, seed: int, *, every: int = EVERY) -> tuple[Trajectory, np.ndarray]:
    """Frames every so many time steps of 0.5 fs, and temperatures; it ends where these are above `HOT_K` or not a number."""
    random, frames, kelvin = torch.Generator().manual_seed(seed), [], []
    steps = max(1, round(every * STEP_FS / propagator.stride_fs))
    for _ in range(round(1000.0 * picoseconds / (steps * propagator.stride_fs))):
        for _ in range(steps):
            state = propagator.step(state, random)
        frames.append(state)
        kelvin.append(float(temperature(state)[0]))
        if not kelvin[-1] < HOT_K:
            break
    trajectory = Trajectory(
        numbers=state.system.numbers,
        positions=torch.stack([frame.system.positions.double() for frame in frames]),
        momenta=torch.stack([frame.momenta.double() for frame in frames]),
        cell=torch.stack([frame.system.cell[0].double() for frame in frames]),
        times=torch.tensor([frame.time for frame in frames]),
    )
    return trajectory, np.array(kelvin)


def stability(work: Path, data: Path) -> None:
    """Time until a bond breaks and error of h(r) of ethanol in NVT, by the published protocol but for the length of the runs."""
    test = frames_of(data, "ethanol", "test")
    places = torch.stack([frame.system.positions for frame in test])
    pairs = bonds(test[0].system)
    lengths = (places[:, pairs[:, 1]] - places[:, pairs[:, 0]]).norm(dim=2).mean(0)
    reference, noise = distance_density(places), density_error(distance_density(places[::2]), distance_density(places[1::2]))
    at = work / "stability.json"
    rows: list[dict[str, Any]] = json.loads(at.read_text()) if at.exists() else []
    for name, friction in (
        ("edge_transformer-2", 1.0),
        ("moment-2", 1.0),
        ("edge_transformer-2", 10.0),
        ("edge_transformer-10", 1.0),
    ):
        path, budget = work / f"accuracy-ethanol-{name}" / "fit" / "student.mdistill", float(name.rpartition("-")[2])
        for seed in SEEDS:
            student = name.rpartition("-")[0].replace("_", " ")
            known = {"student": student, "budget (CPU min)": budget, "friction (1/ps)": friction, "seed": seed}
            if not path.exists() or any(known.items() <= row.items() for row in rows):
                continue
            potential = for_dynamics(load_model(path, dtype=torch.float32))
            state = initial_state(
                cast(test[seed].system, dtype=torch.float32), temperature_K=NVT_K, generator=torch.Generator().manual_seed(seed)
            )
            step = Baoab(evaluate=Evaluator(potential), time_step=STEP_FS, temperature_K=NVT_K, friction_per_ps=friction)
            trajectory, kelvin = run(state, step, NVT_PS, seed)
            held = stable_time(trajectory, pairs, lengths)
            kept = (trajectory.times > SETTLED_FS) & (trajectory.times <= held)
            rows.append(
                {
                    "part": "stability",
                    "molecule": "ethanol",
                    **known,
                    "stable (ps)": held / 1000.0,
                    "simulated (ps)": float(trajectory.times[-1]) / 1000.0,
                    "mean T (K)": float(kelvin[kept.numpy()].mean()) if bool(kept.any()) else None,
                    "error of h(r)": density_error(distance_density(trajectory.positions[kept]), reference),
                    "error of h(r), half of the reference against the other": noise,
                }
            )
            at.write_text(json.dumps(rows))
            print(rows[-1], flush=True)


def one(smiles: str) -> Any:
    """The molecule of a SMILES."""
    molecule = parsed(smiles)
    assert molecule is not None
    return molecule


def heated_run(potential: Any, system: System, inner: int, seed: int) -> tuple[float | None, float, float]:
    """Slope of the temperature after 0.2 ps (K/ns; None where bonds broke by 0.4 ps), its mean, how long bonds held (ps)."""
    make = getattr(potential, "nve_step", VelocityVerlet)
    step = make(evaluate=Evaluator(potential), time_step=inner * STEP_FS if inner else STEP_FS)
    state = initial_state(system, temperature_K=300.0, generator=torch.Generator().manual_seed(seed))
    trajectory, kelvin = run(state, step, NVE_PS, seed)
    pairs = bonds(system)
    lengths = (system.positions[pairs[:, 1]] - system.positions[pairs[:, 0]]).norm(dim=1).double()
    held = stable_time(trajectory, pairs, lengths)
    kept = ((trajectory.times <= held) & (trajectory.times > SETTLED_FS)).numpy()
    if kept.sum() < 20:
        return None, float(kelvin.mean()), held / 1000.0
    return heating(trajectory.times.numpy()[kept], kelvin[kept]).value, float(kelvin[kept].mean()), held / 1000.0


def labelled(frame: LabelledFrame, teacher: Any, seed: int) -> LabelledFrame:
    """A structure with energy, forces and products of a conservative teacher."""
    system = frame.system
    answer = teacher(build_graph(system, teacher.cutoff))
    probes = draw_probes(system, PROBES, torch.Generator().manual_seed(seed), kind="rows")
    target = Prediction(energy=answer.energy, forces=answer.forces)
    return replace(frame, target=target, probes=probes, products=curvature_products(teacher, system, probes))


def taught(work: Path, data: Path) -> None:
    """A direct net taught by 100 frames of a moment net, with and without rows of its force Jacobian, at equal CPU time."""
    teacher = load_model(work / "accuracy-ethanol-moment-2" / "fit" / "student.mdistill")
    train = [labelled(frame, teacher, k) for k, frame in enumerate(frames_of(data, "ethanol", "train")[:TAUGHT])]
    train = [replace(frame, block=k * 10 // TAUGHT) for k, frame in enumerate(train)]
    test = [labelled(frame, teacher, k) for k, frame in enumerate(frames_of(data, "ethanol", "test")[::10])]
    rows: list[dict[str, Any]] = []
    for seed in (1, 2):
        for weight in (0.0, 0.5):

            def fit(steps: int, folder: Path, weight: float = weight, seed: int = seed) -> Any:
                fit = FitSettings(steps=steps, batch_size=5, learning_rate=2e-3, warmup=100, ema=0.998, clip=1.0, seed=seed)
                settings = DirectSettings(width=64, layers=3, curvature_weight=weight, fit=fit)
                return train_direct(train, settings, folder, held_blocks={9})

            result = planned(fit, work / f"taught-{weight:g}-{seed}", TAUGHT_MINUTES)
            potential, systems = load_model(result.path), [frame.system for frame in test[:6]]
            rows.append(
                {"part": "taught", "molecule": "ethanol", "curvature weight": weight, "seed": seed, "steps": result.steps}
                | {"CPU minutes": result.cpu_minutes}
                | force_errors(result.path, test)
                | {"products MAE (eV/Å²)": product_mae(potential, test[::4]), "λ": antisymmetry(potential, systems)}
                | {"E_eq (meV/Å)": equivariance_error(potential, systems).scaled(1e3, "meV/Å")}
            )
            (work / "taught.json").write_text(json.dumps(to_json(rows)))
            print(rows[-1], flush=True)


def product_mae(potential: Any, frames: list[LabelledFrame]) -> float:
    """Mean absolute error of −vᵀJ against the labelled products."""
    off = []
    for frame in frames:
        assert frame.probes is not None
        assert frame.products is not None
        off.append(float((curvature_products(potential, frame.system, frame.probes) - frame.products).abs().mean()))
    return float(np.mean(off))


PARTS: dict[str, Callable[[Path, Path], None]] = {"stability": stability, "taught": taught}
