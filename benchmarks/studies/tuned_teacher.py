r"""Is a foundation potential that is fine-tuned on a few DFT labels a better teacher than one with a fitted difference?

The data, students, choice of labels and errors of `benchmarks/hard_targets.py` (Li27P12S44; with its stored runs). All weights
of SevenNet-0 are trained on n labels, one structure a step, STEPS steps, by Adam with a rate that falls from RATE as a cosine:

    loss = mean |F − F_DFT|²/3 + 10 ((E + Σ_i ε_i − E_DFT)/N)²      ε: an energy for each element, fitted before

The tuned potential then labels the soft structures again (energies, forces, stress and curvature products), and the student of
the plain soft labels is fitted to them and to the n labels, as *ours* is to labels with the difference. RATE and STEPS come from
a run with ten random labels whose test frames are among those here
(60, 120 and 180 of 240 steps gave 73, 68 and 66 meV/Å). Writes results/tuned_teacher.json.

    MDISTILL_DATA=… python -m benchmarks.studies.tuned_teacher --runs FOLDER [--counts 10] [--seeds 3]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.hard_targets import PASSES, TRAIN, Bench, errors
from benchmarks.record import write_record
from mdistill.closed_form.delta import offsets
from mdistill.derivatives import predict
from mdistill.graph import build_graph
from mdistill.hardening.harden import first_offsets
from mdistill.io.files import write_json
from mdistill.nets.model_files import load_model
from mdistill.teachers.sevennet import SevenNetEnergy, fastest, load_sevennet
from mdistill.training.hard_targets import fine_tune, share_of
from mdistill.training.potential import evaluate
from mdistill.training.settings import HardFitSettings
from mdistill.types import CurvedPotential, LabelledFrame, Prediction

STEPS, RATE, WARM, CLIP, ENERGY = 120, 1e-3, 10, 1.0, 10.0
LONGER = 5
"""Of a second fit of the student: with ten labels it has as many steps (3,000) as the fit of a hundred hard labels alone."""
ELEMENTS = (3, 15, 16)


def network() -> SevenNetEnergy:
    """SevenNet-0 in torch, as a network that can be differentiated twice."""
    found: Any = load_sevennet("sevennet-0")
    return found.net  # type: ignore[no-any-return]


def parameters(net: SevenNetEnergy) -> list[torch.nn.Parameter]:
    """All weights."""
    modules = [getattr(layer, "layer", layer) for layer in net.layers]
    return [weight for module in modules for weight in module.parameters()]


def answer(net: SevenNetEnergy, frame: LabelledFrame, *, train: bool) -> Prediction:
    """Energy (eV) and forces (eV/Å), in training differentiable in the weights."""
    return predict(net, build_graph(frame.system, net.cutoff), create_graph=train)[0]


def counted(frame: LabelledFrame) -> torch.Tensor:
    """Number of atoms of each element of ELEMENTS."""
    return torch.tensor([float((frame.system.numbers == z).sum()) for z in ELEMENTS], dtype=torch.float64)


def shifts(net: SevenNetEnergy, frames: Sequence[LabelledFrame]) -> torch.Tensor:
    """ε of each element of ELEMENTS, eV."""
    return offsets(frames, [answer(net, one, train=False) for one in frames], ELEMENTS)


def tune(net: SevenNetEnergy, frames: Sequence[LabelledFrame], *, steps: int, seed: int) -> torch.Tensor:
    """Train all weights in place; returns ε."""
    epsilon = shifts(net, frames)
    weights = [weight.requires_grad_(True) for weight in parameters(net)]
    optimizer, order = torch.optim.Adam(weights, lr=RATE), list[int]()
    generator = np.random.default_rng(seed)
    for step in range(steps):
        order = order or generator.permutation(len(frames)).tolist()
        one = frames[order.pop()]
        for group in optimizer.param_groups:
            group["lr"] = RATE * 0.5 * (1.0 + np.cos(np.pi * step / steps)) * min(1.0, (step + 1) / WARM)
        given = answer(net, one, train=True)
        off = (given.energy[0] + counted(one) @ epsilon.double() - one.target.energy[0]) / one.system.n_atoms
        loss = (given.forces - one.target.forces).square().mean() + ENERGY * off.square()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, CLIP)
        optimizer.step()
    for weight in weights:
        weight.requires_grad_(False)
    return epsilon


def relabelled(teacher: CurvedPotential, frame: LabelledFrame, epsilon: torch.Tensor) -> LabelledFrame:
    """A frame with the labels of this teacher, energies with ε."""
    graph = build_graph(frame.system, teacher.cutoff)
    given = teacher(graph)
    target = replace(given, energy=given.energy.double() + counted(frame) @ epsilon.double())
    target = replace(target, stress=None if frame.target.stress is None else target.stress)
    products = None if frame.probes is None else teacher.curvature(graph, frame.probes).to(frame.target.forces)
    return replace(frame, target=target, products=products)


def row(bench: Bench, home: Path, count: int, seed: int) -> dict[str, Any]:
    """Errors of the tuned teacher and of its student; stored."""
    path = home / f"{count}-{seed}.json"
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    indices = bench.chosen("ours", count, seed)
    hard = [bench.pool[k] for k in indices]
    net, begin = network(), time.process_time()
    epsilon = tune(net, hard, steps=max(STEPS, count), seed=seed)
    tuned, teacher = time.process_time() - begin, fastest(net)
    given = [relabelled(teacher, frame, epsilon).target for frame in bench.test]
    made: dict[str, Any] = {"labels": count, "seed": seed, "CPU s of tuning": round(tuned, 1)}
    made |= {f"tuned teacher: {name}": value for name, value in errors(given, bench.test, "DFT").items()}
    begin = time.process_time()
    soft, how = [relabelled(teacher, frame, epsilon) for frame in bench.soft], HardFitSettings()
    made["CPU s of labels"] = round(time.process_time() - begin, 1)
    again = [replace(frame, target=target) for frame, target in zip(bench.test, given, strict=True)]
    for factor in (1, LONGER):
        begin, folder = time.process_time(), home / f"fit-{count}-{seed}-{factor}"
        steps = round(factor * PASSES * count / share_of(count, how) / TRAIN.fit.batch_size)
        train, longer = replace(TRAIN, fit=replace(TRAIN.fit, seed=seed)), replace(how, time=steps / TRAIN.fit.steps)
        result = fine_tune(
            bench.student(), soft, hard, train, longer, folder=folder, softening=0.0, held_blocks=bench.held,
            references=first_offsets(bench.student(), hard, 0.0, folder),
        )  # fmt: skip
        student, name = evaluate(load_model(result.path), bench.test), f"student, {result.steps} steps"
        made |= {f"{name}: {key}": value for key, value in errors(student, bench.test, "DFT").items()}
        made[f"{name}: force RMSE to the tuned teacher (meV/Å)"] = errors(student, again, "x")["force RMSE to x (meV/Å)"]
        made[f"{name}: CPU s"] = round(time.process_time() - begin, 1)
    write_json(path, made)
    print(made, flush=True)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="folder of benchmarks.hard_targets")
    parser.add_argument("--counts", type=int, nargs="+", default=[10])
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    bench, home = Bench(given.runs), given.runs / "tuned"
    home.mkdir(exist_ok=True)
    rows = [row(bench, home, count, seed) for seed in range(given.seeds) for count in given.counts]
    ours = [bench.row("ours", count, seed) for seed in range(given.seeds) for count in given.counts]
    settings: dict[str, Any] = {"steps": STEPS, "rate": RATE, "soft frames": len(bench.soft), "test frames": len(bench.test)}
    settings |= {"ours": [{name: one[name] for name in ("labels", "seed", "force RMSE to DFT (meV/Å)")} for one in ours]}
    write_record("tuned_teacher", settings, rows)


if __name__ == "__main__":
    main()
