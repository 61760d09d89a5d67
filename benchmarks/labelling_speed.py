"""Labels a minute: what each way of asking SevenNet-0 for labels of Li6PS5Cl (52 atoms) costs, and which time steps are stable.

Variants on one thread are timed in turn by the CPU time of the process, so that other processes do not matter much; medians over
rounds. Processes and threads are timed in turn by the clock. What the package uses is `compiled`; the rest is in this file alone.

    python -m benchmarks.labelling_speed [--only calls batches neighbours compilers workers time_steps] [--rounds 15]
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.record import STRUCTURE, recorded, write_record
from mdistill.data.explore import rattled
from mdistill.derivatives import Conservative
from mdistill.graph import SkinList, build_graph, concatenate, edge_vectors
from mdistill.io.structures import read_system, to_atoms
from mdistill.simulation.evaluator import Evaluator
from mdistill.simulation.initial_state import initial_state
from mdistill.simulation.kinetics import kinetic_energy, prediction_of, temperature
from mdistill.simulation.langevin import Baoab
from mdistill.simulation.rollout import Calling, rollout
from mdistill.simulation.verlet import VelocityVerlet
from mdistill.teachers import load_teacher
from mdistill.types import Graph, State

TEACHER, KELVIN, FRICTION, CUTOFF = "sevennet-0", 900.0, 10.0, 5.0
ACCELERATORS = {"cuEquivariance": "cuequivariance_torch", "flashTP": "flashTP_e3nn", "openEquivariance": "openequivariance"}
Call = Callable[[], object]


def medians(calls: dict[str, Call], rounds: int, clock: Callable[[], float] = time.process_time) -> dict[str, float]:
    """Median milliseconds of each call, all in turn; the first round is not counted."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            begun = clock()
            call()
            if number:
                found[name].append(1e3 * (clock() - begun))
    return {name: float(np.median(values)) for name, values in found.items()}


def rows_of(part: str, times: dict[str, float], reference: str, **more: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"part": part, "variant": name, "ms": ms, "times faster": times[reference] / ms} | more.get(name, {})
        for name, ms in times.items()
    ]


def largest(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


def calls(rounds: int) -> list[dict[str, Any]]:
    """Energy, forces and stress of one structure, and a curvature product: the package's own calculator, torch, compiled code."""
    from sevenn.calculator import SevenNetCalculator

    system, compiled, own = read_system(STRUCTURE), load_teacher(TEACHER), SevenNetCalculator("7net-0", device="cpu")
    system = rattled(system, amplitudes=(0.1,), generator=torch.Generator().manual_seed(0))[0]
    graph, atoms, in_torch = build_graph(system, CUTOFF), to_atoms(system), Conservative(compiled.net)  # type: ignore[attr-defined]
    probe = torch.randn((1, system.n_atoms, 3), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    times = medians(
        {
            "torch": lambda: in_torch(graph),
            "compiled": lambda: compiled(graph),
            "calculator of sevenn": lambda: own.calculate(atoms),
            "curvature product": lambda: compiled.curvature(graph, probe),  # type: ignore[attr-defined]
        },
        rounds,
    )
    energy, forces = double_precision(graph)
    found = {name: potential(graph) for name, potential in (("torch", in_torch), ("compiled", compiled))}
    errors = {
        name: {
            "force RMSE against float64 (eV/Å)": float((answer.forces - forces).square().mean().sqrt()),
            "largest force error (eV/Å)": largest(answer.forces, forces),
            "energy error (eV/atom)": abs(float(answer.energy) - energy) / system.n_atoms,
        }
        for name, answer in found.items()
    }
    return rows_of("calls", times, "torch", **errors)


def double_precision(graph: Graph) -> tuple[float, Tensor]:
    """Energy and forces of the package's network in float64."""
    import sevenn._keys as keys
    from sevenn.util import load_checkpoint

    model = load_checkpoint("7net-0").build_model()
    model.set_is_batch_data(False)
    model.eval().requires_grad_(False).double()
    vectors = edge_vectors(graph).detach().requires_grad_()
    types = torch.tensor([model.type_map[int(z)] for z in graph.system.numbers])
    data = {keys.NODE_FEATURE: types, keys.EDGE_IDX: torch.stack([graph.receiver, graph.sender]), keys.EDGE_VEC: vectors}
    torch.set_default_dtype(torch.float64)
    for name, layer in model._modules.items():
        if name not in ("reduce_total_enegy", "force_output"):
            data = {key: part.double() if part.dtype == torch.float32 else part for key, part in layer(data).items()}
    torch.set_default_dtype(torch.float32)
    energy = data[keys.ATOMIC_ENERGY].sum()
    (gradient,) = torch.autograd.grad(energy, vectors)
    zeros = torch.zeros_like(graph.system.positions)
    return float(energy.detach()), zeros.index_add(0, graph.receiver, gradient).index_add(0, graph.sender, -gradient)


def batches(rounds: int) -> list[dict[str, Any]]:
    """Milliseconds per structure where several are computed in one call."""
    system, compiled = read_system(STRUCTURE), load_teacher(TEACHER)
    potentials = {"torch": Conservative(compiled.net), "compiled": compiled}  # type: ignore[attr-defined]
    asked: dict[str, Call] = {}
    for size in (1, 2, 4, 8):
        graph = build_graph(concatenate([system] * size), CUTOFF)
        for name, potential in potentials.items():
            asked[f"{name}, {size} at once"] = partial(potential, graph)
    times = {name: ms / int(name.split()[1]) for name, ms in medians(asked, max(rounds // 3, 3)).items()}
    return [
        {"part": "batches", "variant": name, "ms": ms, "times faster": times[f"{name.split(',')[0]}, 1 at once"] / ms}
        for name, ms in times.items()
    ]


def neighbours(rounds: int) -> list[dict[str, Any]]:
    """Neighbour lists: the search with vesin that the package uses, a list with a skin, and the one of sevenn."""
    from sevenn.atom_graph_data import AtomGraphData
    from sevenn.train.dataload import unlabeled_atoms_to_graph

    system, pairs = read_system(STRUCTURE), SkinList(cutoff=CUTOFF)
    atoms = to_atoms(system)
    times = medians(
        {
            "vesin": lambda: build_graph(system, CUTOFF),
            "skin of 0.5 Å": lambda: pairs.graph(system),
            "sevenn": lambda: AtomGraphData.from_numpy_dict(unlabeled_atoms_to_graph(atoms, CUTOFF)),
        },
        10 * rounds,
    )
    return rows_of("neighbours", times, "vesin")


def compilers(rounds: int) -> list[dict[str, Any]]:
    """torch.compile of the network in torch, with the time it takes; accelerators that sevenn knows."""
    system, net = read_system(STRUCTURE), load_teacher(TEACHER).net  # type: ignore[attr-defined]
    graph, begun = build_graph(system, CUTOFF), time.process_time()

    def gradient(energies: Callable[[Tensor], Tensor]) -> Tensor:
        vectors = edge_vectors(graph).float().requires_grad_()
        return torch.autograd.grad(energies(vectors).sum(), vectors)[0]

    def eager(vectors: Tensor) -> Tensor:
        return net(graph, vectors)

    rows: list[dict[str, Any]] = []
    try:
        whole = torch.compile(eager)
        difference, seconds = largest(gradient(whole), gradient(eager)), time.process_time() - begun
        times = medians({"torch": lambda: gradient(eager), "torch.compile": lambda: gradient(whole)}, rounds)
        extra = {"compile (s)": seconds, "largest force error (eV/Å)": difference}
        rows += rows_of("compilers", times, "torch", **{"torch.compile": extra})
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
        rows.append({"part": "compilers", "variant": "torch.compile", "note": reason, "compile (s)": time.process_time() - begun})
    for name, module in ACCELERATORS.items():
        note = "installed" if importlib.util.find_spec(module) else "not installed; its kernels are for CUDA"
        rows.append({"part": "compilers", "variant": name, "note": note})
    return rows


def _worker(threads: int, kind: str, pipe: Any) -> None:
    torch.set_num_threads(threads)
    potential, graph = load_teacher(TEACHER), build_graph(read_system(STRUCTURE), CUTOFF)
    chosen = potential if kind == "compiled" else Conservative(potential.net)  # type: ignore[attr-defined]
    chosen(graph)
    while (count := pipe.recv()) is not None:
        for _ in range(count):
            chosen(graph)
        pipe.send(count)


def workers(rounds: int) -> list[dict[str, Any]]:
    """Calls by the clock: processes × threads, all alive, one group at work at a time."""
    context, groups = multiprocessing.get_context("spawn"), {}
    for kind in ("torch", "compiled"):
        for processes, threads in ((1, 1), (1, 2), (2, 1)):
            pipes = []
            for _ in range(processes):
                here, there = context.Pipe()
                context.Process(target=_worker, args=(threads, kind, there), daemon=True).start()
                pipes.append(here)
            groups[f"{kind}, {processes} processes × {threads} threads"] = pipes

    def ask(pipes: list[Any], count: int) -> None:
        for pipe in pipes:
            pipe.send(count)
        for pipe in pipes:
            pipe.recv()

    count = 4
    found = {name: partial(ask, pipes, count) for name, pipes in groups.items()}
    times = {name: ms / count / len(groups[name]) for name, ms in medians(found, rounds, time.perf_counter).items()}
    for pipe in [pipe for pipes in groups.values() for pipe in pipes]:
        pipe.send(None)
    return rows_of("workers", times, "torch, 1 processes × 2 threads")


def time_steps(rounds: int) -> list[dict[str, Any]]:
    """Energy of the teacher's NVE dynamics at several time steps, from one state at about 900 K."""
    evaluate, generator = Evaluator(load_teacher(TEACHER)), torch.Generator().manual_seed(0)
    thermostat = Baoab(evaluate=evaluate, time_step=2.0, temperature_K=KELVIN, friction_per_ps=FRICTION)
    state = initial_state(read_system(STRUCTURE), temperature_K=2.0 * KELVIN, generator=generator)
    state, rows, atoms = rollout(state, thermostat, steps=60, generator=generator), [], read_system(STRUCTURE).n_atoms
    for step_fs in (2.0, 3.0, 4.0):
        total: list[float] = []
        kelvin: list[float] = []

        def record(_: int, now: State, total: list[float] = total, kelvin: list[float] = kelvin) -> None:
            total.append(1e3 * (float(prediction_of(now).energy) + float(kinetic_energy(now))) / atoms)
            kelvin.append(float(temperature(now)))

        verlet, steps = VelocityVerlet(evaluate=evaluate, time_step=step_fs), round(25.0 * rounds / step_fs)
        rollout(state, verlet, steps=steps, generator=generator, observers=[Calling(record)])
        times = 1e-3 * step_fs * np.arange(len(total))
        rows.append(
            {
                "part": "time_steps", "variant": f"{step_fs:g} fs", "time (fs)": steps * step_fs, "T (K)": float(np.mean(kelvin)),
                "energy scatter (meV/atom)": float(np.std(total)), "drift (meV/atom/ps)": float(np.polyfit(times, total, 1)[0]),
                "times faster": step_fs / 2.0,
            }
        )  # fmt: skip
    return rows


PARTS: dict[str, Callable[[int], list[dict[str, Any]]]] = {
    part.__name__: part for part in (calls, batches, neighbours, compilers, workers, time_steps)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for row in recorded("labelling_speed") if row["part"] not in given.only]
    for name in given.only:
        rows += PARTS[name](given.rounds)
    rows.sort(key=lambda row: list(PARTS).index(row["part"]))
    settings = {"rounds": given.rounds, "capability": torch.backends.cpu.get_cpu_capability(), "teacher": TEACHER}
    write_record("labelling_speed", settings, rows)


if __name__ == "__main__":
    main()
