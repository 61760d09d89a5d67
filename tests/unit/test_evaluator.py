"""The evaluator: the potential's answer, whatever was asked before; NaN where there is no structure."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from mdistill.derivatives import Conservative
from mdistill.graph import build_graph, edge_vectors, make_system
from mdistill.simulation.evaluator import Evaluator
from mdistill.types import Graph, Prediction, System


@dataclass(frozen=True)
class CountsEdges:
    """E = number of edges, in single precision; F = sum of edge vectors."""

    cutoff: float = 3.0
    elements: frozenset[int] = frozenset()
    name: str = "counts"

    def __call__(self, graph: Graph) -> Prediction:
        forces = torch.zeros_like(graph.system.positions).index_add(0, graph.receiver, edge_vectors(graph))
        return Prediction(energy=torch.tensor([float(len(graph.receiver))]), forces=forces.float())


def gas(seed: int) -> System:
    positions = np.random.default_rng(seed).uniform(0.0, 6.0, (20, 3))
    return make_system(positions, np.full(20, 3), 6.0 * np.eye(3), [True] * 3)


def test_answers_do_not_depend_on_history() -> None:
    evaluate = Evaluator(CountsEdges(), skin=0.5)
    system = gas(0)
    for shift in (0.0, 0.1, 0.2, 3.0, 0.05):
        moved = replace(system, positions=system.positions + shift * torch.sin(system.positions))
        found = evaluate(moved)
        assert float(found.energy) == len(build_graph(moved, 3.0).receiver)
        assert found.forces.dtype == torch.float64 and found.stress is None


def test_a_structure_with_nan_has_nan_energy() -> None:
    system = gas(1)
    system = replace(system, positions=torch.full_like(system.positions, torch.nan))
    found = Evaluator(CountsEdges())(system)
    assert bool(torch.isnan(found.energy).all()) and bool(torch.isnan(found.forces).all())
    assert found.energy.shape == (1,)


def test_a_potential_is_evaluated_where_its_weights_are() -> None:
    net = torch.nn.Linear(1, 1)
    net.cutoff, net.elements, net.name = 3.0, frozenset({3}), "net"
    assert Evaluator(Conservative(net)).device == torch.device("cpu")  # type: ignore[arg-type]
