"""Potentials with known answers: no forces, atoms tied to sites by springs, Lennard-Jones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mdistill.graph import concatenate, edge_vectors, make_system, volumes
from mdistill.types import Graph, Prediction, System


@dataclass(frozen=True)
class IdealGas:
    """E = 0."""

    cutoff: float = 0.0
    elements: frozenset[int] = frozenset()
    name: str = "ideal gas"

    def __call__(self, graph: Graph) -> Prediction:
        system = graph.system
        return Prediction(
            energy=system.positions.new_zeros(system.n_structs),
            forces=torch.zeros_like(system.positions),
            stress=torch.zeros_like(system.cell),
        )


@dataclass(frozen=True)
class Springs:
    """Einstein crystal: E = ½ Σ k_i |r_i − s_i|²; no stress (a crystal tied to sites in space)."""

    sites: Tensor
    constants: Tensor
    cutoff: float = 0.0
    elements: frozenset[int] = frozenset()
    name: str = "springs"

    def __call__(self, graph: Graph) -> Prediction:
        system = graph.system
        away = system.positions - self.sites
        forces = -self.constants.unsqueeze(1) * away
        energy = torch.zeros(system.n_structs, dtype=away.dtype).index_add(0, system.owner, -0.5 * (forces * away).sum(1))
        return Prediction(energy=energy, forces=forces)


def _pair(square: Tensor, epsilon: float, sigma: float, cutoff: float) -> tuple[Tensor, Tensor]:
    """Energy u(r) and −u'(r)/r of the shifted-force Lennard-Jones potential, from r²; zero beyond the cutoff."""
    inside = square < cutoff**2
    square = torch.where(inside, square, cutoff**2)
    six = (sigma**2 / square) ** 3
    edge = (sigma / cutoff) ** 6
    slope = 24.0 * epsilon * (2.0 * edge**2 - edge) / cutoff
    length = square.sqrt()
    energy = 4.0 * epsilon * (six**2 - six) - 4.0 * epsilon * (edge**2 - edge) + slope * (length - cutoff)
    push = 24.0 * epsilon * (2.0 * six**2 - six) / square - slope / length
    return energy * inside, push * inside


@dataclass(frozen=True)
class LennardJones:
    """Shifted-force Lennard-Jones (argon by default) on the edges of a graph."""

    epsilon: float = 0.0104
    sigma: float = 3.4
    cutoff: float = 6.5
    elements: frozenset[int] = frozenset()
    name: str = "lj"

    def __call__(self, graph: Graph) -> Prediction:
        system = graph.system
        vectors = edge_vectors(graph)
        energy, push = _pair(vectors.square().sum(1), self.epsilon, self.sigma, self.cutoff)
        owner = system.owner[graph.receiver]
        forces = torch.zeros_like(system.positions).index_add(0, graph.receiver, -push.unsqueeze(1) * vectors)
        virial = torch.zeros_like(system.cell).index_add(
            0, owner, -0.5 * push.reshape(-1, 1, 1) * vectors.unsqueeze(2) * vectors.unsqueeze(1)
        )
        return Prediction(
            energy=0.5 * torch.zeros(system.n_structs, dtype=energy.dtype).index_add(0, owner, energy),
            forces=forces,
            stress=virial / volumes(system).reshape(-1, 1, 1),
        )


@dataclass(frozen=True)
class CopiesOfLennardJones:
    """The same potential for a batch of equal-sized structs, by the minimum image of all pairs (cutoff below half the cell)."""

    epsilon: float = 0.0104
    sigma: float = 3.4
    reach: float = 6.5
    stress_sign: float = 1.0
    cutoff: float = 0.0
    elements: frozenset[int] = frozenset()
    name: str = "lj copies"

    def __call__(self, graph: Graph) -> Prediction:
        system = graph.system
        inverse = torch.linalg.inv(system.cell)
        reduced = system.positions.reshape(system.n_structs, -1, 3) @ inverse
        receiver, sender = torch.triu_indices(reduced.shape[1], reduced.shape[1], 1)
        away = reduced[:, sender] - reduced[:, receiver]
        vectors = (away - away.round()) @ system.cell
        energy, push = _pair(vectors.square().sum(2), self.epsilon, self.sigma, self.reach)
        pairs = push.unsqueeze(2) * vectors
        forces = torch.zeros_like(reduced).index_add(1, sender, pairs).index_add(1, receiver, -pairs)
        virial = -pairs.transpose(1, 2) @ vectors
        stress = self.stress_sign * virial / volumes(system).reshape(-1, 1, 1)
        return Prediction(energy=energy.sum(1), forces=forces.reshape(-1, 3), stress=stress)


def fcc(repeats: int, lattice: float = 5.4, *, number: int = 18, copies: int = 1) -> System:
    """A cubic fcc crystal of repeats³ cells, as many copies in a batch."""
    cells = np.stack(np.meshgrid(*[np.arange(repeats)] * 3, indexing="ij"), -1).reshape(-1, 1, 3)
    basis = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    positions = lattice * (cells + basis).reshape(-1, 3)
    system = make_system(positions, np.full(len(positions), number), lattice * repeats * np.eye(3), [True] * 3)
    return concatenate([system] * copies)
