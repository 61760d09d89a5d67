"""Heating of alkanes by direct forces, and which of it still gives the right vibrations.

    python -m benchmarks.edge_transformer alkanes spectra --work FOLDER --data FOLDER

`pretraining` comes first. Structures of C2 to C8 by GFN2-xTB tune its largest model: a direct net, and one with the antisymmetry
penalty; a moment net, which conserves energy, learns them alone. Plans are of equal CPU time. `alkanes`: NVE from 300 K of each
molecule, and of isooctane, which no model was taught. `spectra`: vibrations and h(r) of butane by these, and by a direct net of a
quarter of the time, beside GFN2-xTB.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.edge_dynamics import SETTLED_FS, STEP_FS, heated_run, one, run
from benchmarks.edge_fits import force_errors, planned
from benchmarks.edge_pretraining import SIZES
from mdistill.direct.diagnostics import (
    antisymmetry,
    bonds,
    density_error,
    distance_density,
    equivariance_error,
    heating,
    stable_time,
)
from mdistill.direct.generate import generate
from mdistill.direct.safe import for_dynamics
from mdistill.direct.settings import DirectSettings, MoleculeSettings
from mdistill.direct.shards import read_shards
from mdistill.direct.train import train_direct
from mdistill.graph import cast
from mdistill.nets.model_files import load_model
from mdistill.settings import to_json
from mdistill.simulation.evaluator import Evaluator
from mdistill.simulation.initial_state import initial_state
from mdistill.simulation.verlet import VelocityVerlet
from mdistill.teachers import load_teacher
from mdistill.training.potential import train_potential
from mdistill.training.settings import FitSettings, TrainSettings
from mdistill.types import LabelledFrame, System, Trajectory

TAUGHT = {f"C{n}H{2 * n + 2}": "C" * n for n in range(2, 9)}
OUTSIDE = {"isooctane": "CC(C)CC(C)(C)C"}
EACH, MINUTES, SHORT, SEEDS = 240, 4.0, 1.0, (1, 2, 3)
"""Structures of a molecule; CPU minutes of a fit, and of the short one."""
PLAIN, PENALTY, HASTY, CONSERVING = "direct", "direct, antisymmetry penalty", "direct, a quarter of the time", "moment"
RUNS = (
    (PLAIN, "float32", False, 0),
    (PLAIN, "float32", True, 0),
    (PLAIN, "float64", True, 0),
    (PLAIN, "float32", False, 4),
    (PENALTY, "float32", False, 0),
    (CONSERVING, "float32", False, 0),
)
"""Model, type, random frame, inner steps."""
SPECTRUM_PS, SPECTRUM_EVERY, PIECE_FS = 3.0, 4, 1000.0
SPACING_FS = SPECTRUM_EVERY * STEP_FS
PER_CM = 1e15 / 2.99792458e10
"""Of a frequency in 1/fs: its wave number, 1/cm."""
Run = tuple[Trajectory, np.ndarray]
"""With its temperatures, K."""


def structures(work: Path, listed: dict[str, str], seed: int, each: int) -> dict[str, list[LabelledFrame]]:
    """Structures of each molecule by GFN2-xTB, shuffled into twenty blocks."""
    settings = MoleculeSettings(structures=each, per_molecule=each)
    found = {}
    for name, smiles in listed.items():
        folder = work / f"alkanes-{name}"
        generate(settings, folder, seed=seed, workers=1, listed=[one(smiles)])
        frames = read_shards(folder)
        order = np.random.default_rng(0).permutation(len(frames))
        found[name] = [replace(frames[k], block=place * 20 // len(frames)) for place, k in enumerate(order)]
    return found


def models(work: Path, frames: list[LabelledFrame]) -> tuple[dict[str, Path], list[dict[str, Any]]]:
    """The fits, and their errors on the block that none of them saw."""
    held = [frame for frame in frames if frame.block == 19]
    found, rows = {}, []
    for name, minutes in ((PLAIN, MINUTES), (PENALTY, MINUTES), (HASTY, SHORT), (CONSERVING, MINUTES)):
        start = work / f"pretraining-{max(SIZES)}" / "student.mdistill"
        result = planned(
            partial(fit, name, frames, start), work / f"alkanes-fit-{name.replace(' ', '_').replace(',', '')}", minutes
        )
        found[name] = result.path
        row = {"part": "alkanes", "model": name, "steps": result.steps, "CPU minutes": result.cpu_minutes}
        row |= force_errors(result.path, held)
        if name != CONSERVING:
            potential, systems = load_model(result.path), [frame.system for frame in held[:6]]
            row |= {
                "E_eq (meV/Å)": equivariance_error(potential, systems).scaled(1e3, "meV/Å"),
                "λ": antisymmetry(potential, systems),
            }
        rows.append(row)
        print(row, flush=True)
    return found, rows


def fit(name: str, frames: list[LabelledFrame], start: Path, steps: int, folder: Path) -> Any:
    if name == CONSERVING:
        settings = TrainSettings(net="moment", energy_weight=2.0, curvature="none", fit=FitSettings(steps=steps))
        return train_potential(frames, settings, folder, held_blocks={19})
    how = FitSettings(steps=steps, batch_size=5, learning_rate=1e-3, warmup=100, ema=0.998, clip=1.0)
    weight = 0.1 if name == PENALTY else 0.0
    made = DirectSettings(width=64, layers=3, states=True, energy_gradient_weight=0.1, antisymmetry_weight=weight, fit=how)
    return train_direct(frames, made, folder, start_from=start, held_blocks={19})


def lowest(frames: list[LabelledFrame]) -> System:
    return min(frames, key=lambda frame: float(frame.target.energy)).system


def alkanes(work: Path, data: Path) -> None:
    """Slope of the temperature in NVE of each alkane by each model and remedy, from three starts."""
    del data
    known = structures(work, TAUGHT, 3, EACH)
    paths, rows = models(work, [frame for frames in known.values() for frame in frames])
    outside = structures(work, OUTSIDE, 4, 60)
    rows.append({"part": "alkanes", "model": "error on isooctane"} | {
        name: force_errors(path, outside["isooctane"])["force MAE (meV/Å)"] for name, path in paths.items()
    })  # fmt: skip
    at = work / "alkanes-runs.json"
    runs: list[dict[str, Any]] = json.loads(at.read_text()) if at.exists() else []
    for molecule, frames in (known | outside).items():
        for name, dtype, frame, inner in RUNS:
            told = {"molecule": molecule, "model": name, "type": dtype, "random frame": frame, "inner steps": inner}
            if any(told.items() <= row.items() for row in runs):
                continue
            kind, low = getattr(torch, dtype), lowest(frames)
            potential = for_dynamics(load_model(paths[name], dtype=kind), random_frame=frame, inner_steps=inner)
            found = [heated_run(potential, cast(low, dtype=kind), inner, seed) for seed in SEEDS]
            slopes = np.array([slope for slope, _, _ in found if slope is not None]) / low.n_atoms
            runs.append(
                {"part": "alkanes", "taught": molecule in TAUGHT, "atoms": low.n_atoms}
                | told
                | {
                    "heating (K/ns/atom)": float(slopes.mean()) if len(slopes) else None,
                    "error": float(slopes.std(ddof=1) / len(slopes) ** 0.5) if len(slopes) > 1 else None,
                    "starts": len(slopes),
                    "mean T (K)": float(np.mean([kelvin for _, kelvin, _ in found])),
                    "bonds held (ps)": [bonded for _, _, bonded in found],
                }
            )
            at.write_text(json.dumps(to_json(runs)))
            print(runs[-1], flush=True)
    (work / "alkanes.json").write_text(json.dumps(to_json(rows + runs)))


def spectra(work: Path, data: Path) -> None:
    """Vibrations and h(r) of butane in NVE beside three runs of GFN2-xTB, with the heating of each."""
    del data
    known = structures(work, TAUGHT, 3, EACH)
    paths, _ = models(work, [frame for frames in known.values() for frame in frames])
    low = lowest(known["C4H10"])
    xtb = load_teacher("gfn2-xtb")
    references = [vibrating(xtb, low, seed, work / f"spectra-gfn2-{seed}.npz") for seed in SEEDS]
    rows = [compared("GFN2-xTB", False, references[k : k + 1], references[:k] + references[k + 1 :], low) for k in (0, 1, 2)]
    turned = ((PLAIN, True), (PENALTY, True), (HASTY, True))
    for name, frame in ((CONSERVING, False), (PLAIN, False), (PENALTY, False), (HASTY, False), *turned):
        potential = for_dynamics(load_model(paths[name], dtype=torch.float32), random_frame=frame)
        system = cast(low, dtype=torch.float32)
        stem = f"spectra-{name.replace(' ', '_').replace(',', '')}{'-turned' if frame else ''}"
        runs = [vibrating(potential, system, seed, work / f"{stem}-{seed}.npz") for seed in SEEDS]
        rows.append(compared(name, frame, runs, references, low))
        print({key: value for key, value in rows[-1].items() if not isinstance(value, list)}, flush=True)
    (work / "spectra.json").write_text(json.dumps(to_json(rows)))


def vibrating(potential: Any, system: System, seed: int, path: Path) -> Run:
    """A run from 300 K with momenta every 2 fs, and its temperatures; one that is stored is not repeated."""
    if not path.exists():
        state = initial_state(system, temperature_K=300.0, generator=torch.Generator().manual_seed(seed))
        evaluate = Evaluator(potential)
        step = VelocityVerlet(evaluate=evaluate, time_step=STEP_FS)
        made, kelvin = run(state, step, SPECTRUM_PS, seed, every=SPECTRUM_EVERY)
        assert made.momenta is not None
        np.savez(path, positions=made.positions, momenta=made.momenta, times=made.times, kelvin=kelvin)
    with np.load(path) as kept:
        times = torch.from_numpy(kept["times"])
        positions, momenta = (torch.from_numpy(kept[key]) for key in ("positions", "momenta"))
        cell = torch.zeros(len(times), 3, 3)
        return Trajectory(numbers=system.numbers, positions=positions, momenta=momenta, cell=cell, times=times), kept["kelvin"]


def compared(name: str, frame: bool, runs: list[Run], references: list[Run], low: System) -> dict[str, Any]:
    """Heating, mean temperature, and what differs from the reference, of the time in which all bonds hold."""
    pairs = bonds(low)
    lengths = (low.positions[pairs[:, 1]] - low.positions[pairs[:, 0]]).norm(dim=1).double()
    held = [stable_time(made, pairs, lengths) for made, _ in runs]
    parts = [settled(made) & (made.times <= end) for (made, _), end in zip(runs, held, strict=True)]
    row: dict[str, Any] = {"part": "spectra", "model": name, "random frame": frame}
    row["bonds held (ps)"] = [end / 1000.0 for end in held]
    whole = [(*run, part) for run, part in zip(runs, parts, strict=True) if int(part.sum()) * SPACING_FS > PIECE_FS]
    row["starts"] = len(whole)
    if not whole:
        return row
    slopes = [heating(made.times[part].numpy(), kelvin[part.numpy()]).value / low.n_atoms for made, kelvin, part in whole]
    wave, right = spectrum([(made, settled(made)) for made, _ in references])
    _, found = spectrum([(made, part) for made, _, part in whole])
    known = torch.cat([made.positions[settled(made)] for made, _ in references])
    places = torch.cat([made.positions[part] for made, _, part in whole])
    return row | {
        "heating (K/ns/atom)": float(np.mean(slopes)),
        "error": float(np.std(slopes, ddof=1) / len(slopes) ** 0.5) if len(slopes) > 1 else None,
        "mean T (K)": float(np.mean([kelvin[part.numpy()].mean() for _, kelvin, part in whole])),
        "half of ∫ |difference of spectra|": float(0.5 * np.abs(found - right).sum() * wave[1]),
        "mean of the C–H stretch (1/cm)": centre(wave, found, 2600.0, 3300.0),
        "mean below 1600 1/cm": centre(wave, found, 0.0, 1600.0),
        "error of h(r)": density_error(distance_density(places), distance_density(known)),
        "wave number (1/cm)": wave.tolist(),
        "density (cm)": found.tolist(),
    }


def settled(made: Trajectory) -> torch.Tensor:
    """Frames after the first 0.2 ps."""
    return made.times > SETTLED_FS


def spectrum(runs: list[tuple[Trajectory, torch.Tensor]]) -> tuple[np.ndarray, np.ndarray]:
    """Wave numbers (1/cm) and the density of mass-weighted velocities there, of integral 1 (Welch, pieces of 1 ps)."""
    from ase.data import atomic_masses
    from scipy.signal import welch

    total, wave = np.zeros(1), np.zeros(2)
    for made, part in runs:
        assert made.momenta is not None
        weighted = made.momenta[part].double().numpy() / np.sqrt(atomic_masses[made.numbers.numpy()])[None, :, None]
        frequency, power = welch(weighted, fs=1.0 / SPACING_FS, nperseg=round(PIECE_FS / SPACING_FS), axis=0)
        wave, total = frequency * PER_CM, total + power.sum((1, 2))
    return wave, total / (total.sum() * wave[1])


def centre(wave: np.ndarray, density: np.ndarray, low: float, high: float) -> float:
    """Mean wave number of a band."""
    inside = (wave >= low) & (wave <= high)
    return float((wave * density)[inside].sum() / density[inside].sum())


PARTS: dict[str, Callable[[Path, Path], None]] = {"alkanes": alkanes, "spectra": spectra}
