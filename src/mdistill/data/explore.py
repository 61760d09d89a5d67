"""Structures around a given one, for labelling: strained cells, rattled atoms, pairs pushed together. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Generator, Tensor

from mdistill.errors import BadInput
from mdistill.graph import build_graph, edge_vectors
from mdistill.types import System

_REACH = 6.0
"""Pairs are sought within this distance, Å."""


def deformed(system: System, strain: Tensor) -> System:
    """One struct under a homogeneous strain: r → r + r·ε, cell → cell + cell·ε (ε symmetric [3, 3], pure number)."""
    change = torch.eye(3, dtype=system.positions.dtype, device=system.positions.device) + strain.to(system.positions)
    return replace(system, positions=system.positions @ change, cell=system.cell @ change)


def in_cell(system: System, cell: Tensor) -> System:
    """One struct laid into another cell ([3, 3], Å): scaled coordinates stay. One with open directions is returned as it is."""
    if not bool(system.pbc.all()):
        return system
    cell = cell.to(system.cell)
    positions = system.positions @ torch.linalg.solve(system.cell[0], cell)
    return replace(system, positions=positions, cell=cell.unsqueeze(0))


def strained(
    system: System, *, isotropic: Sequence[float] = (-0.03, -0.015, 0.015, 0.03), shears: int = 4, shear: float = 0.03,
    rattle: float = 0.0, generator: Generator,
) -> list[System]:  # fmt: skip
    """Cells under isotropic strain, then under random symmetric strain.

    Args:
        system: One struct, periodic in three directions.
        isotropic: Relative changes of length, negative for compression.
        shears: Number of random strains.
        shear: Largest entry of a random strain.
        rattle: Standard deviation (Å) of random displacements on top, so that the forces are not all zero.
        generator: Draws strains and displacements.
    Raises:
        BadInput: A strain of 30 % or more, or an open direction.
    """
    if not bool(system.pbc.all()):
        raise BadInput(
            "structure", "not periodic in three directions", allowed="a crystal", fix="label it without strained cells"
        )
    _check("strain", max(map(abs, (*isotropic, shear))), 0.3)
    strains = [value * torch.eye(3, dtype=torch.float64) for value in isotropic]
    for _ in range(shears):
        entries = shear * (2.0 * torch.rand((3, 3), generator=generator, dtype=torch.float64) - 1.0)
        strains.append(0.5 * (entries + entries.T))
    made = [deformed(system, strain) for strain in strains]
    return made if rattle == 0.0 else [_displaced(part, rattle, generator) for part in made]


def rattled(system: System, *, amplitudes: Sequence[float] = (0.02, 0.05, 0.1, 0.15), generator: Generator) -> list[System]:
    """Random Gaussian displacements of all atoms, one structure per amplitude (standard deviation per axis, Å)."""
    _check("rattle", max(amplitudes, default=0.0), 1.0)
    return [_displaced(system, amplitude, generator) for amplitude in amplitudes]


def short_contacts(
    system: System, *, count: int = 4, closest: float = 0.6, farthest: float = 0.9, generator: Generator
) -> list[System]:
    """Structures in which one random pair is pushed to a fraction of its distance (both atoms move half the way).

    Kinds of pairs take turns, so that each is seen nearer than dynamics brings it; a pair is drawn from those no longer than
    1.3 times the shortest of its kind.

    Args:
        system: One struct.
        count: Number of structures.
        closest, farthest: Range of the fraction, drawn uniformly.
        generator: Draws pairs and fractions.
    Raises:
        BadInput: 0 < closest ≤ farthest < 1 does not hold.
    """
    if not 0.0 < closest <= farthest < 1.0:
        raise BadInput("contact", f"{closest} to {farthest}", allowed="0 < closest ≤ farthest < 1", fix="use 0.6 to 0.9")
    graph = build_graph(system, _REACH)
    proper = graph.receiver != graph.sender
    receiver, sender, vectors = graph.receiver[proper], graph.sender[proper], edge_vectors(graph)[proper]
    if len(receiver) == 0:
        return []
    lengths = vectors.square().sum(1).sqrt()
    low = torch.minimum(system.numbers[receiver], system.numbers[sender])
    kinds, kind = torch.unique(low * 1000 + system.numbers[receiver] + system.numbers[sender] - low, return_inverse=True)
    made = []
    for turn in range(count):
        mine = (kind == turn % len(kinds)).nonzero()[:, 0]
        mine = mine[lengths[mine] <= 1.3 * lengths[mine].min()]
        edge = mine[_draw(len(mine), generator)]
        fraction = closest + (farthest - closest) * float(torch.rand((), generator=generator, dtype=torch.float64))
        shift = 0.5 * (1.0 - fraction) * vectors[edge]
        positions = system.positions.clone()
        positions[receiver[edge]] += shift
        positions[sender[edge]] -= shift
        made.append(replace(system, positions=positions))
    return made


def _displaced(system: System, amplitude: float, generator: Generator) -> System:
    noise = torch.randn((system.n_atoms, 3), generator=generator, dtype=torch.float64).to(system.positions)
    return replace(system, positions=system.positions + amplitude * noise)


def _draw(size: int, generator: Generator) -> int:
    return int(torch.randint(0, size, (), generator=generator))


def _check(name: str, value: float, limit: float) -> None:
    if not value < limit:
        raise BadInput(name, f"{value:g}", allowed=f"below {limit:g}", fix="choose a smaller one")
