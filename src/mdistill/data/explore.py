"""Structures around a given one, for labelling: strained, rattled, pairs pushed together, defects, atoms lifted off a surface.

Pure functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import torch
from torch import Generator, Tensor

from mdistill.crystals.charges import usual_charges
from mdistill.errors import BadInput
from mdistill.graph import build_graph, edge_vectors
from mdistill.types import System

_REACH = 6.0
"""Pairs are sought within this distance, Å."""
_CONE, _CLOSEST, _TRIES = 0.7, 0.75, 20
"""Cosine of the angle to the way out within which a surface atom has no neighbour; closest distance of a lifted atom over the
smallest of the structure; draws."""


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


def defects(system: System, *, count: int, rattle: float = 0.03, generator: Generator) -> list[tuple[str, System]]:
    """Structures with one defect each, and its kind: "vacancy" or "swap", in turn; with open directions all are "lifted".

    A vacancy lacks one atom; elements take turns, and the last atom of an element stays. A swap exchanges two atoms of different
    elements whose usual charges have one sign and differ by at most 1 e, such as S and Cl; without such atoms all are vacancies.

    Args:
        system: One struct of at least two atoms.
        count: Number of structures.
        rattle: Standard deviation (Å) of random displacements on top.
        generator: Draws atoms and displacements.
    """
    if not bool(system.pbc.all()):
        return [("lifted", one) for one in lifted(system, count=count, generator=generator)]
    elements = [z for z in torch.unique(system.numbers).tolist() if int((system.numbers == z).sum()) > 1]
    pairs = _like_charged(system)
    made = list[tuple[str, System]]()
    for turn in range(count if elements or pairs else 0):
        half = turn // 2 if pairs and elements else turn
        if pairs and (turn % 2 or not elements):
            first, second = (_one_of(system, z, generator) for z in pairs[half % len(pairs)])
            numbers = system.numbers.clone()
            numbers[first], numbers[second] = system.numbers[second], system.numbers[first]
            kind, changed = "swap", replace(system, numbers=numbers)
        else:
            left = torch.arange(system.n_atoms) != _one_of(system, elements[half % len(elements)], generator)
            parts = {name: getattr(system, name)[left] for name in ("positions", "numbers", "owner")}
            kind, changed = "vacancy", replace(system, **parts)
        made.append((kind, _displaced(changed, rattle, generator)))
    return made


def lifted(
    system: System, *, count: int, nearest: float = 0.5, farthest: float = 5.0, free: float = 9.0, rattle: float = 0.1,
    generator: Generator,
) -> list[System]:  # fmt: skip
    """Structures in which one atom has left the surface of a slab or wire, so that a student learns what that costs.

    A surface atom has no neighbour within 45° of its way out. It moves out by a length drawn uniformly, and aside by less; in
    every third structure it is free and no other atom moves, so that the energy of a free atom can be told from the labels.

    Args:
        system: One struct with one or two periodic directions.
        count: Number of structures.
        nearest, farthest: Range of the length, Å.
        free: Length of a free atom's way, Å.
        rattle: Standard deviation (Å) of random displacements on top.
        generator: Draws atoms, ways and displacements.
    """
    ways = _ways_out(system)
    surface = ways.square().sum(1).nonzero()[:, 0]
    if not len(surface):
        return []
    least = _CLOSEST * float(edge_vectors(build_graph(system, _REACH)).norm(dim=1).min())
    made = list[System]()
    for number in range(count):
        atom, away = int(surface[_draw(len(surface), generator)]), number % 3 == 2
        rattled_one = system if away else _displaced(system, rattle, generator)
        length = nearest + (farthest - nearest) * float(torch.rand((), generator=generator, dtype=torch.float64))
        length = free if away else length
        for turn in range(_TRIES):
            aside = torch.randn(3, generator=generator, dtype=torch.float64).to(ways) * (0.4 if turn < _TRIES - 1 else 0.0)
            aside -= (aside @ ways[atom]) * ways[atom]
            positions = rattled_one.positions.clone()
            positions[atom] += length * (ways[atom] + aside / max(1.0, float(aside.norm())))
            one = replace(system, positions=positions)
            graph = build_graph(one, least)
            if not bool(((graph.receiver == atom) | (graph.sender == atom)).any()):
                break
        made.append(one)
    return made


def _ways_out(system: System) -> Tensor:
    """Unit vectors out of the surface of a slab or wire, for each atom; zero within it, and where nothing is a surface."""
    periodic = system.cell[0][system.pbc[0]].to(system.positions)
    if len(periodic) not in (1, 2):
        return torch.zeros_like(system.positions)
    basis = torch.linalg.qr(periodic.T)[0]
    out = system.positions - system.positions.mean(0)
    out -= (out @ basis) @ basis.T
    ways = out / out.norm(dim=1, keepdim=True).clamp_min(1e-9)
    graph = build_graph(system, _REACH)
    vectors = edge_vectors(graph)
    hidden = (vectors * ways[graph.receiver]).sum(1) > _CONE * vectors.norm(dim=1)
    ways[graph.receiver[hidden]] = 0.0
    return ways


def can_have_defects(system: System) -> bool:
    """Whether `defects` makes any: a surface, two atoms of one element, or of two that can be swapped."""
    if not bool(system.pbc.all()):
        return bool(_ways_out(system).any())
    return len(torch.unique(system.numbers)) < system.n_atoms or bool(_like_charged(system))


def _like_charged(system: System) -> list[tuple[int, int]]:
    """Pairs of elements whose usual charges have one sign and differ by at most 1 e."""
    usual = {z: usual_charges(z)[:1] for z in torch.unique(system.numbers).tolist()}
    return [
        (a, b) for a, b in combinations(usual, 2)
        if usual[a] and usual[b] and usual[a][0] * usual[b][0] > 0.0 and abs(usual[a][0] - usual[b][0]) <= 1.0
    ]  # fmt: skip


def _one_of(system: System, number: int, generator: Generator) -> int:
    """The index of a random atom of an element."""
    atoms = (system.numbers == number).nonzero()[:, 0]
    return int(atoms[_draw(len(atoms), generator)])


def _displaced(system: System, amplitude: float, generator: Generator) -> System:
    noise = torch.randn((system.n_atoms, 3), generator=generator, dtype=torch.float64).to(system.positions)
    return replace(system, positions=system.positions + amplitude * noise)


def _draw(size: int, generator: Generator) -> int:
    return int(torch.randint(0, size, (), generator=generator))


def _check(name: str, value: float, limit: float) -> None:
    if not value < limit:
        raise BadInput(name, f"{value:g}", allowed=f"below {limit:g}", fix="choose a smaller one")
