"""The edge transformer: accuracy on rMD17 and 3BPA, kernel, heating and its remedies, stability, taught rows, pre-training.

    python -m benchmarks.edge_transformer accuracy --work FOLDER     (parts: accuracy, longer, kernel, stability,
    alkanes, spectra, taught, pretraining, tuned, long_pretraining, long_tuned, record)

Each part keeps what it measured in FOLDER and continues there; `record` writes results/edge_transformer.json and the figure.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks import edge_alkanes, edge_dynamics, edge_pretraining
from benchmarks.edge_fits import MINUTES, fitted, force_errors, frames_of
from benchmarks.edge_plot import plot
from benchmarks.record import RESULTS, recorded, write_record
from mdistill.derivatives import Direct
from mdistill.graph import build_graph, make_system
from mdistill.kernels.edge_attention import Triples
from mdistill.nets.edge_transformer import EdgeTransformerNet, attend
from mdistill.nets.settings import EdgeTransformerSettings

PUBLISHED = {
    "aspirin": {"MACE": 6.6, "NequIP": 8.2, "ACE": 17.9},
    "benzene": {"MACE": 0.3, "NequIP": 0.3, "ACE": 0.5},
    "ethanol": {"MACE": 2.1, "NequIP": 2.8, "ACE": 7.3},
    "naphthalene": {"MACE": 1.6, "NequIP": 1.3, "ACE": 5.1},
    "salicylic": {"MACE": 3.1, "NequIP": 4.0, "ACE": 9.3},
    "toluene": {"MACE": 1.5, "NequIP": 1.6, "ACE": 6.5},
}
"""Force MAE of others on rMD17 with 950 + 50 frames, meV/Å: I. Batatia et al., MACE, NeurIPS 2022, arXiv 2206.07697."""
PUBLISHED_RMSE = {"3BPA": {"MACE": 8.8, "NequIP": 10.8, "Allegro": 13.0}}
"""Force RMSE at 300 K of others, trained on the 500 frames at 300 K, meV/Å; the same reference."""
LONG, SHORT = 10.0, 1.0
EDGE, NETS = "edge transformer", ("edge transformer", "moment", "painn")
ROWS = [
    *(("ethanol", name, MINUTES) for name in (*NETS, "edge transformer, AdamW")),
    *((molecule, name, MINUTES) for molecule in ("aspirin", "3BPA") for name in (EDGE, "moment")),
    *((one, name, SHORT) for one in ("toluene", "salicylic", "naphthalene", "benzene") for name in (EDGE, "moment")),
]
LATER = [("ethanol", EDGE, LONG), ("aspirin", "painn", MINUTES), ("3BPA", "painn", MINUTES)]
"""Molecule, student, budget (CPU min)."""


def accuracy(work: Path, data: Path) -> None:
    """From scratch with 950 + 50 frames (3BPA: 450 + 50) and equal CPU time."""
    fit_all(ROWS, work, data)


def longer(work: Path, data: Path) -> None:
    """What more time gains on ethanol; PaiNN on the two largest molecules."""
    fit_all(LATER, work, data)


def fit_all(rows: Sequence[tuple[str, str, float]], work: Path, data: Path) -> None:
    """A row for each molecule, student and budget, once."""
    for molecule, name, minutes in rows:
        at = work / f"accuracy-{molecule}-{name.replace(' ', '_').replace(',', '')}-{minutes:g}.json"
        if at.exists():
            continue
        train, test = (frames_of(data, molecule, part) for part in ("train", "test"))
        result = fitted(name, train, work / at.stem, minutes)
        row = {
            "molecule": molecule,
            "student": name,
            "budget (CPU min)": minutes,
            **force_errors(result.path, test[:: len(test) // 250]),
            "CPU minutes": result.cpu_minutes,
            "steps": result.steps,
            "parameters": result.parameters,
            "train frames": result.train_frames,
        }
        at.write_text(json.dumps(row))
        print(row, flush=True)


def kernel(work: Path, data: Path) -> None:
    """Time of an attention layer (12 heads of 16, float32) beside the einsum form; of 12 layers; of the local form.

    One thread is timed by its CPU, two by the clock, which needs an idle machine: see "load".
    """
    del data
    rows = [
        attention_row(n, threads) | {"threads": threads, "load": os.getloadavg()[0]}
        for threads in (1, 2)
        for n in (9, 21, 42, 92, 200)
    ]
    rows += [network_row(92, threads) for threads in (1, 2)] + [local_row(k) for k in (4, 8, 14)]
    (work / "kernel.json").write_text(json.dumps(rows))
    for row in rows:
        print(row, flush=True)


def attention_row(n: int, threads: int) -> dict[str, Any]:
    """One layer for a molecule of n atoms."""
    sides, bias = torch.randn(n * n, 4, 12, 16), torch.zeros(n * n)
    triples, repeats = Triples(tokens=n * n, sizes=np.array([n])), 3
    inputs = sides.clone().requires_grad_()
    forms: dict[str, Any] = {"kernel": partial(attend, sides, bias, triples)}
    if n < 200:
        forms["einsum"] = partial(einsum_form, sides, bias, n)
    cost = seconds(forms, repeats, threads)
    both = seconds({"kernel": lambda: attend(inputs, bias, triples).sum().backward()}, repeats, threads)
    return {
        "part": "kernel",
        "atoms": n,
        "forward (ms)": 1e3 * cost["kernel"],
        "forward + backward (ms)": 1e3 * both["kernel"],
        "einsum, forward (ms)": 1e3 * cost["einsum"] if "einsum" in cost else None,
        "einsum over kernel": cost["einsum"] / cost["kernel"] if "einsum" in cost else None,
        "largest array of einsum (MB)": 4e-6 * n**3 * 192,
        "of the kernel (MB)": 4e-6 * n * n * 4 * 192,
    }


def einsum_form(sides: torch.Tensor, bias: torch.Tensor, n: int) -> torch.Tensor:
    """The oracle of the tests, for one molecule."""
    q, k, v, w = sides.view(n, n, *sides.shape[1:]).unbind(2)
    score = torch.einsum("ilhd,ljhd->ijlh", q, k) / sides.shape[3] ** 0.5
    return torch.einsum("ijlh,ilhd,ljhd->ijhd", score.softmax(2), v, w)


def seconds(forms: dict[str, Any], repeats: int, threads: int = 1) -> dict[str, float]:
    """Median time of calls, taken in turns: CPU time of one thread, or the clock's of more."""
    found: dict[str, list[float]] = {name: [] for name in forms}
    clock = time.process_time if threads == 1 else time.perf_counter
    torch.set_num_threads(threads)
    for k in range(repeats + 1):
        for name, call in forms.items():
            begin = clock()
            call()
            if k:
                found[name].append(clock() - begin)
    torch.set_num_threads(1)
    return {name: median(values) for name, values in found.items()}


def network_row(atoms: int, threads: int) -> dict[str, Any]:
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
    cost = seconds({"net": partial(Direct(net), graph)}, 3, threads)["net"]
    return {"part": "12 layers × 192", "atoms": atoms, "threads": threads, "time (s)": cost, "load": os.getloadavg()[0]}


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
    cost = seconds({"net": partial(Direct(net), graph)}, 1)["net"]
    edges = len(graph.sender) / len(places)
    return {"part": "local form", "atoms": len(places), "neighbours": edges, "µs/atom": 1e6 * cost / len(places)}


def record(work: Path, data: Path) -> None:
    """Write the record and the figure."""
    del data
    before = recorded("edge_transformer")
    rows = [{"part": "accuracy"} | json.loads(path.read_text()) for path in sorted(work.glob("accuracy-*.json"))]
    fitted_now = [(row["molecule"], row["student"], row["budget (CPU min)"]) for row in rows]
    rows += [
        row
        for row in before
        if row["part"] == "accuracy" and (row["molecule"], row["student"], row.get("budget (CPU min)")) not in fitted_now
    ]
    for measure, known in (("force MAE (meV/Å)", PUBLISHED), ("force RMSE (meV/Å)", PUBLISHED_RMSE)):
        rows += [
            {"part": "published", "molecule": molecule, "student": name, measure: value}
            for molecule, others in known.items()
            for name, value in others.items()
        ]
    for name, parts in (
        ("diagnostics", ("diagnostics",)),
        ("kernel", ("kernel", "12 layers × 192", "local form")),
        ("stability", ("stability",)),
        ("taught", ("taught",)),
        ("alkanes", ("alkanes",)),
        ("spectra", ("spectra",)),
    ):
        at = work / f"{name}.json"
        rows += json.loads(at.read_text()) if at.exists() else [row for row in before if row["part"] in parts]
    for name, steps in (("pretraining", edge_pretraining.PRE_STEPS), ("long-pretraining", edge_pretraining.LONG_STEPS)):
        at = work / f"{name}.json"
        known = [row for row in before if row["part"].startswith("pre-training") and row.get("steps") == steps]
        rows += json.loads(at.read_text()) if at.exists() else known
    tuned = [json.loads(path.read_text()) for path in sorted(work.glob("*tuned-*.json"))]
    tuned_now = {(row["molecule"], row.get("pre-training steps", edge_pretraining.PRE_STEPS)) for row in tuned}
    rows += tuned + [
        row
        for row in before
        if row["part"] == "tuned"
        and (row["molecule"], row.get("pre-training steps", edge_pretraining.PRE_STEPS)) not in tuned_now
    ]
    settings = {"minutes": MINUTES, "minutes of the smaller molecules": SHORT, "tuning steps": edge_pretraining.TUNING_STEPS}
    settings |= {"pre-training steps": edge_pretraining.PRE_STEPS, "of the longer one": edge_pretraining.LONG_STEPS}
    write_record("edge_transformer", settings, rows)
    plot(rows, RESULTS / "edge_transformer.svg")


PARTS = {
    "accuracy": accuracy,
    "longer": longer,
    "kernel": kernel,
    **edge_dynamics.PARTS,
    **edge_alkanes.PARTS,
    **edge_pretraining.PARTS,
    "record": record,
}


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
