"""The edge transformer: accuracy on rMD17 beside conservative students, its kernel, heating and its remedies, pre-training.

    python -m benchmarks.edge_transformer accuracy --work FOLDER     (parts: accuracy, kernel, dynamics, pretraining, record)

Each part keeps what it measured in FOLDER and continues there; `record` writes results/edge_transformer.json and the figure.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.record import write_record
from mdistill.derivatives import Direct
from mdistill.direct.diagnostics import BROKEN, antisymmetry, bonds, equivariance_error, heating
from mdistill.direct.safe import for_dynamics
from mdistill.direct.settings import DirectSettings
from mdistill.direct.shards import read_shards
from mdistill.direct.train import train_direct
from mdistill.graph import build_graph, cast, make_system
from mdistill.kernels.edge_attention import Triples
from mdistill.labelling.import_labels import import_labels
from mdistill.labelling.settings import LabelFileSettings
from mdistill.nets.edge_transformer import EdgeTransformerNet, attend
from mdistill.nets.model_files import load_model
from mdistill.nets.settings import EdgeTransformerSettings
from mdistill.settings import to_json
from mdistill.simulation.evaluator import Evaluator
from mdistill.simulation.initial_state import initial_state
from mdistill.simulation.kinetics import kinetic_energy, prediction_of, temperature
from mdistill.simulation.verlet import VelocityVerlet
from mdistill.training import optimiser
from mdistill.training.potential import TrainingResult, evaluate, train_potential
from mdistill.training.settings import FitSettings, TrainSettings
from mdistill.types import LabelledFrame

PUBLISHED = {
    "ethanol": {"MACE": 2.1, "NequIP": 2.8, "FCHL19": 6.2},
    "aspirin": {"MACE": 6.6, "NequIP": 8.2, "FCHL19": 20.9},
}
"""Force MAE of others on rMD17 with 950 + 50 frames, meV/Å: I. Batatia et al., MACE, NeurIPS 2022, arXiv 2206.07697."""
MINUTES, TRIAL, STEPS, PRE_STEPS, NVE_FS = 1.0, 25, 500, 300, 500.0


def rmd17(data: Path, molecule: str, part: str) -> list[LabelledFrame]:
    """The first split's 1,000 training or test frames."""
    return import_labels([data / "rmd17" / f"{molecule}_{part}_01.xyz.gz"], LabelFileSettings()).frames


def force_mae(path: Path, frames: list[LabelledFrame]) -> tuple[float, float]:
    """Mean absolute error of force components and its standard error over frames, meV/Å."""
    answers = evaluate(load_model(path, dtype=torch.float32), frames)
    each = [1e3 * float((a.forces.double() - f.target.forces).abs().mean()) for a, f in zip(answers, frames, strict=True)]
    return float(np.mean(each)), float(np.std(each) / len(each) ** 0.5)


def fitted(name: str, train: list[LabelledFrame], folder: Path) -> TrainingResult:
    """A student after the steps that fit into `MINUTES` of CPU time, by a trial of `TRIAL` steps."""

    def run(steps: int, where: Path) -> TrainingResult:
        if name.startswith("edge"):
            optimiser.WIDEST = 0 if "AdamW" in name else 256
            fit = FitSettings(steps=steps, batch_size=5, learning_rate=2e-3, warmup=100, ema=0.998, clip=1.0)
            return train_direct(train, DirectSettings(width=64, layers=3, fit=fit), where, held_blocks={19})
        settings = TrainSettings(net=name, curvature="none", fit=FitSettings(steps=steps))
        return train_potential(train, settings, where, held_blocks={19})

    plan = folder / "steps.json"
    if not plan.exists():
        cost = run(TRIAL, folder / "trial").cpu_minutes / TRIAL
        plan.write_text(json.dumps(int(MINUTES / cost)))
    return run(json.loads(plan.read_text()), folder / "fit")


def accuracy(work: Path, data: Path) -> None:
    """From scratch with 950 + 50 frames and equal CPU time."""
    rows = [
        ("ethanol", "edge transformer"),
        ("ethanol", "moment"),
        ("ethanol", "painn"),
        ("ethanol", "edge transformer, AdamW"),
        ("aspirin", "moment"),
        ("aspirin", "edge transformer"),
    ]
    for molecule, name in rows:
        at = work / f"accuracy-{molecule}-{name.replace(' ', '_').replace(',', '')}.json"
        if at.exists():
            continue
        train, test = (rmd17(data, molecule, part) for part in ("train", "test"))
        for folder in ("trial", "fit"):
            (work / at.stem / folder).mkdir(parents=True, exist_ok=True)
        result = fitted(name, train, work / at.stem)
        mae, error = force_mae(result.path, test[::4])
        row = {
            "molecule": molecule,
            "student": name,
            "force MAE (meV/Å)": mae,
            "error": error,
            "CPU minutes": result.cpu_minutes,
            "steps": result.steps,
            "parameters": result.parameters,
            "train frames": result.train_frames,
        }
        at.write_text(json.dumps(row))
        print(row, flush=True)


def kernel(work: Path, data: Path) -> None:
    """CPU time of an attention layer (12 heads of 16, float32) beside the einsum form; of 12 layers; of the local form."""
    del data
    rows: list[dict[str, Any]] = []
    for n in (9, 21, 42, 92, 200):
        sides, bias = torch.randn(n * n, 4, 12, 16), torch.zeros(n * n)
        triples = Triples(tokens=n * n, sizes=np.array([n]))
        naive = partial(einsum_form, sides, bias, n)
        forms = {"kernel": partial(attend, sides, bias, triples)} | ({"einsum": naive} if n < 200 else {})
        cost = cpu_seconds(forms, 1 if n > 42 else 3)
        inputs = sides.clone().requires_grad_()
        both = cpu_seconds(
            {"kernel": lambda one=inputs, t=triples, b=bias: attend(one, b, t).sum().backward()}, 1 if n > 42 else 3
        )
        ratio = cost["einsum"] / cost["kernel"] if "einsum" in cost else None
        rows.append(
            {
                "part": "kernel",
                "atoms": n,
                "forward (ms)": 1e3 * cost["kernel"],
                "forward + backward (ms)": 1e3 * both["kernel"],
                "einsum, forward (ms)": 1e3 * cost["einsum"] if "einsum" in cost else None,
                "einsum over kernel": ratio,
                "largest array of einsum (MB)": 4e-6 * n**3 * 192,
                "of the kernel (MB)": 4e-6 * n * n * 4 * 192,
            }
        )
    rows += [network_row(92)] + [local_row(k) for k in (4, 8, 14)]
    (work / "kernel.json").write_text(json.dumps(rows))


def einsum_form(sides: torch.Tensor, bias: torch.Tensor, n: int) -> torch.Tensor:
    """The oracle of the tests, for one molecule."""
    q, k, v, w = sides.view(n, n, *sides.shape[1:]).unbind(2)
    score = torch.einsum("ilhd,ljhd->ijlh", q, k) / sides.shape[3] ** 0.5
    return torch.einsum("ijlh,ilhd,ljhd->ijhd", score.softmax(2), v, w)


def cpu_seconds(forms: dict[str, Any], repeats: int) -> dict[str, float]:
    """Median CPU time of calls, taken in turns."""
    found: dict[str, list[float]] = {name: [] for name in forms}
    for k in range(repeats + 1):
        for name, call in forms.items():
            begin = time.process_time()
            call()
            if k or repeats == 1:
                found[name].append(time.process_time() - begin)
    return {name: median(values) for name, values in found.items()}


def network_row(atoms: int) -> dict[str, Any]:
    """Forces of one molecule by 12 layers of width 192, float32."""
    random = np.random.default_rng(0)
    settings = EdgeTransformerSettings(elements=(1, 6), width=192, layers=12, heads=12, cutoff=50.0)
    net = EdgeTransformerNet(settings).in_type(torch.float32).requires_grad_(False)
    system = make_system(
        random.uniform(0, 1.9 * atoms ** (1 / 3), (atoms, 3)),
        random.choice([1, 6], atoms),
        np.zeros((3, 3)),
        [False] * 3,
        dtype=torch.float32,
    )
    graph = build_graph(system, net.cutoff)
    seconds = cpu_seconds({"net": partial(Direct(net), graph)}, 2)["net"]
    return {"part": "12 layers × 192", "atoms": atoms, "CPU time (s)": seconds}


def local_row(cells: int) -> dict[str, Any]:
    """Time per atom of the local form in a rattled crystal, cutoff 5 Å, 3 layers of width 64."""
    random = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(cells)] * 3, indexing="ij"), -1).reshape(-1, 3) * 3.0
    places = grid + random.normal(0.0, 0.1, grid.shape)
    net = (
        EdgeTransformerNet(EdgeTransformerSettings(elements=(18,), cutoff=5.0, layers=3))
        .in_type(torch.float32)
        .requires_grad_(False)
    )
    system = make_system(places, np.full(len(places), 18), np.eye(3) * 3.0 * cells, [True] * 3, dtype=torch.float32)
    graph = build_graph(system, net.cutoff)
    seconds = cpu_seconds({"net": partial(Direct(net), graph)}, 1)["net"]
    edges = len(graph.sender) / len(places)
    return {"part": "local form", "atoms": len(places), "neighbours": edges, "µs/atom": 1e6 * seconds / len(places)}


def dynamics(work: Path, data: Path) -> None:
    """Heating of ethanol in NVE with and without remedies, E_eq and λ, by a model whose energy gradient was trained too."""
    train, test = (rmd17(data, "ethanol", part) for part in ("train", "test"))
    fit = FitSettings(steps=STEPS, batch_size=5, learning_rate=2e-3, warmup=100, ema=0.998, clip=1.0)
    folder = work / "dynamics"
    folder.mkdir(exist_ok=True)
    result = train_direct(
        train, DirectSettings(width=64, layers=3, energy_gradient_weight=0.1, fit=fit), folder, held_blocks={19}
    )
    rows: list[dict[str, Any]] = []
    systems = [frame.system for frame in test[:20]]
    for dtype in ("float32", "float64"):
        potential = load_model(result.path, dtype=getattr(torch, dtype))
        start = [cast(system, dtype=getattr(torch, dtype)) for system in systems]
        rows.append(
            {
                "part": "diagnostics",
                "type": dtype,
                "E_eq (meV/Å)": equivariance_error(potential, start[:5]).scaled(1e3, "meV/Å"),
                "λ": antisymmetry(potential, start[:3]),
            }
        )
    rows[0]["force MAE (meV/Å)"] = force_mae(result.path, test[::8])[0]
    for name, dtype, frame, inner in (
        ("plain", "float32", False, 0),
        ("random frame", "float32", True, 0),
        ("plain", "float64", False, 0),
        ("random frame", "float64", True, 0),
        ("4 inner steps", "float32", False, 4),
    ):
        potential = for_dynamics(load_model(result.path, dtype=getattr(torch, dtype)), random_frame=frame, inner_steps=inner)
        rows.append({"part": "NVE", "forces": name, "type": dtype} | nve(potential, systems[0], inner))
        (work / "dynamics.json").write_text(json.dumps(to_json(rows)))
        print(rows[-1], flush=True)


def nve(potential: Any, system: Any, inner: int) -> dict[str, Any]:
    """2 ps at 300 K: slope of the temperature, total energy, and whether bonds held."""
    evaluate, step = Evaluator(potential), 2.0 if inner else 0.5
    make = getattr(potential, "nve_step", VelocityVerlet)
    propagator = make(evaluate=evaluate, time_step=step)
    state = initial_state(system, temperature_K=300.0, generator=torch.Generator().manual_seed(1))
    pairs = bonds(system)
    lengths = (system.positions[pairs[:, 1]] - system.positions[pairs[:, 0]]).norm(dim=1)
    times, kelvin, total, broken = [], [], [], None
    for _k in range(int(NVE_FS / step)):
        state = propagator.step(state, torch.Generator())
        times.append(state.time)
        kelvin.append(float(temperature(state)[0]))
        total.append(float(prediction_of(state).energy) + float(kinetic_energy(state)))
        now = (state.system.positions[pairs[:, 1]] - state.system.positions[pairs[:, 0]]).norm(dim=1)
        if not float((now - lengths).abs().max()) < BROKEN or not np.isfinite(kelvin[-1]):
            broken = state.time
            break
    slope = heating(np.array(times), np.array(kelvin)) if len(times) >= 20 else None
    return {
        "heating (K/ns)": slope,
        "mean T (K)": float(np.mean(kelvin)),
        "unstable at (fs)": broken,
        "simulated (fs)": times[-1],
        "drift of E + E_kin (meV/atom)": 1e3 * (total[-1] - total[0]) / system.n_atoms,
    }


def pretraining(work: Path, data: Path) -> None:
    """E_eq and force error on unseen molecules after pre-training on more and more structures, at equal steps."""
    rows = []
    frames = read_shards(work / "molecules")
    held = max(frame.block for frame in frames) - 20
    test = [frame for frame in frames if frame.block > held]
    for count in (150, 1950):
        chosen = [frame for frame in frames if frame.block <= held][:count]
        fit = FitSettings(steps=PRE_STEPS, batch_size=4, learning_rate=2e-3, warmup=100, ema=0.99, clip=1.0)
        folder = work / f"pretraining-{count}"
        folder.mkdir(exist_ok=True)
        result = train_direct(chosen, DirectSettings(width=64, layers=3, states=True, fit=fit), folder)
        potential = load_model(result.path, dtype=torch.float32)
        error = equivariance_error(potential, [cast(frame.system, dtype=torch.float32) for frame in test[::40]])
        mae, spread = force_mae(result.path, test[::2])
        rows.append(
            {
                "part": "pre-training",
                "structures": len(chosen),
                "CPU minutes": result.cpu_minutes,
                "steps": result.steps,
                "force MAE, unseen molecules (meV/Å)": mae,
                "error": spread,
                "E_eq (meV/Å)": error.scaled(1e3, "meV/Å"),
            }
        )
        (work / "pretraining.json").write_text(json.dumps(to_json(rows)))
        print(rows[-1], flush=True)


def record(work: Path, data: Path) -> None:
    """Write the record and the figure."""
    del data
    rows = [{"part": "accuracy"} | json.loads(path.read_text()) for path in sorted(work.glob("accuracy-*.json"))]
    rows += [
        {"part": "published", "molecule": molecule, "student": name, "force MAE (meV/Å)": mae}
        for molecule, others in PUBLISHED.items()
        for name, mae in others.items()
    ]
    for name in ("kernel", "dynamics", "pretraining"):
        rows += json.loads((work / f"{name}.json").read_text()) if (work / f"{name}.json").exists() else []
    write_record("edge_transformer", {"minutes": MINUTES, "steps": STEPS, "pre-training steps": PRE_STEPS}, rows)


PARTS = {"accuracy": accuracy, "kernel": kernel, "dynamics": dynamics, "pretraining": pretraining, "record": record}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="+", choices=[*PARTS])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for part in given.parts:
        PARTS[part](given.work, given.data)


if __name__ == "__main__":
    main()
