r"""Bonds from covalent radii, whole molecules, and the bonds, angles and torsions within them.

Two atoms are bonded where  |d| < 1.25 (R_i + R_j)     d: distance, any image   R: covalent radius

A hydrogen has one bond, to the nearest atom; alkali and alkaline earth metals have none, for they are ions. Bonds are those of
one structure; nothing here follows a reaction.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from ase.data import chemical_symbols, covalent_radii
from jaxtyping import Float, Int

from mdistill.graph import build_graph, edge_vectors
from mdistill.types import System

_LONGEST = 1.25
"""Longest bond over the sum of covalent radii."""
_IONS = (3, 11, 19, 37, 55, 87, 12, 20, 38, 56, 88)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bonds:
    """Bonds of one structure, each once.

    Attributes:
        first, second: [bond] atoms.
        shift: [bond, 3] lattice vectors added to the second atom.
        elements: Symbol of each atom.
    """

    first: Int[np.ndarray, " bond"]
    second: Int[np.ndarray, " bond"]
    shift: Float[np.ndarray, "bond 3"]
    elements: tuple[str, ...]

    def partners(self) -> list[list[tuple[int, tuple[float, ...]]]]:
        """Bonded atoms of each atom, with the lattice vectors to them."""
        found: list[list[tuple[int, tuple[float, ...]]]] = [[] for _ in self.elements]
        for a, b, shift in zip(self.first.tolist(), self.second.tolist(), self.shift, strict=True):
            found[a].append((b, tuple(shift.tolist())))
            found[b].append((a, tuple((-shift).tolist())))
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Internal:
    """Internal coordinates of one type ("bond C–O", "angle C–C–O", "torsion H–C–C–O").

    Attributes:
        name: The type.
        atoms: [coordinate, 2 to 4] atoms.
        shift: [coordinate, 2 to 4, 3] lattice vectors added to each.
    """

    name: str
    atoms: Int[np.ndarray, "coordinate atom"]
    shift: Float[np.ndarray, "coordinate atom 3"]

    @property
    def kind(self) -> str:
        return self.name.partition(" ")[0]


def bonds_of(system: System) -> Bonds:
    """Bonds of one struct, by covalent radii."""
    numbers = system.numbers.cpu().numpy()
    radii = covalent_radii[numbers]
    graph = build_graph(system, 2.0 * _LONGEST * float(radii.max()))
    i, j = graph.receiver.cpu().numpy(), graph.sender.cpu().numpy()
    shift = graph.shift.cpu().numpy().astype(float)
    length = edge_vectors(graph).norm(dim=1).cpu().numpy()
    near = (length < _LONGEST * (radii[i] + radii[j])) & ~np.isin(numbers[i], _IONS) & ~np.isin(numbers[j], _IONS)
    nearest = np.full(len(numbers), np.inf)
    np.minimum.at(nearest, i[near], length[near])
    for end in (i, j):
        near &= (numbers[end] != 1) | (length <= nearest[end] + 1e-9)
    once = near & ((i < j) | ((i == j) & _positive(shift)))
    return Bonds(first=i[once], second=j[once], shift=shift[once], elements=tuple(chemical_symbols[z] for z in numbers))


def _positive(shift: Float[np.ndarray, "edge 3"]) -> np.ndarray:
    """Whether the first non-zero entry of each row is positive."""
    return (shift @ np.array([1e6, 1e3, 1.0])) > 0.0


def whole_molecules(bonds: Bonds, n_atoms: int) -> list[list[int]]:
    """Atoms of each group of bonded atoms that is finite: without a chain of bonds to its own image. Single atoms count."""
    partners, placed, molecules = bonds.partners(), dict[int, tuple[float, ...]](), []
    for start in range(n_atoms):
        if start in placed:
            continue
        placed[start], group, finite = (0.0, 0.0, 0.0), [start], True
        for atom in group:
            for other, shift in partners[atom]:
                where = tuple(a + b for a, b in zip(placed[atom], shift, strict=True))
                if other not in placed:
                    placed[other] = where
                    group.append(other)
                finite &= placed[other] == where
        if finite:
            molecules.append(group)
    return molecules


def internal_coordinates(bonds: Bonds) -> list[Internal]:
    """Bonds, angles and torsions of a structure by type; of a torsion the middle atoms bear at least one more atom each."""
    found: dict[str, list[tuple[tuple[int, ...], tuple[tuple[float, ...], ...]]]] = {}
    for chain in _chains(bonds):
        atoms, shifts = tuple(a for a, _ in chain), tuple(s for _, s in chain)
        symbols = [bonds.elements[a] for a in atoms]
        turned = symbols[::-1] < symbols
        name = ("bond", "angle", "torsion")[len(atoms) - 2] + " " + "–".join(symbols[::-1] if turned else symbols)
        found.setdefault(name, []).append((atoms[::-1], shifts[::-1]) if turned else (atoms, shifts))
    order = sorted(found, key=lambda name: (name.partition(" ")[0] != "bond", name.startswith("torsion"), name))
    return [
        Internal(name=name, atoms=np.array([a for a, _ in found[name]]), shift=np.array([s for _, s in found[name]]))
        for name in order
    ]


def _chains(bonds: Bonds) -> Iterator[list[tuple[int, tuple[float, ...]]]]:
    """Chains of two, three and four bonded atoms, each once, with the lattice vectors of each atom."""
    partners, here = bonds.partners(), (0.0, 0.0, 0.0)
    for middle, around in enumerate(partners):
        for k, (first, shift) in enumerate(around):
            for second, other in around[k + 1 :]:
                yield [(first, shift), (middle, here), (second, other)]
    for a, b, across in zip(bonds.first.tolist(), bonds.second.tolist(), bonds.shift.tolist(), strict=True):
        yield [(a, here), (b, tuple(across))]
        for first, shift in partners[a]:
            for last, beyond in partners[b]:
                end = tuple(x + y for x, y in zip(across, beyond, strict=True))
                distinct = len({(first, shift), (a, here), (b, tuple(across)), (last, end)}) == 4
                if distinct:
                    yield [(first, shift), (a, here), (b, tuple(across)), (last, end)]


def internal_values(
    kind: Internal, positions: Float[np.ndarray, "frame atom 3"], cells: Float[np.ndarray, "frame 3 3"]
) -> Float[np.ndarray, "frame coordinate"]:
    r"""Lengths (Å), angles (radian) or torsions (radian, −π to π) in each frame of an unwrapped trajectory.

    Torsion of a–b–c–d:  atan2(|v| u·(v×w), (u×v)·(v×w))      u = b − a   v = c − b   w = d − c
    """
    places = positions[:, kind.atoms] + np.einsum("cak,fkx->fcax", kind.shift, cells)
    steps = np.diff(places, axis=2)
    lengths = np.linalg.norm(steps, axis=-1)
    if kind.kind == "bond":
        return lengths[..., 0]
    if kind.kind == "angle":
        cosine = -(steps[..., 0, :] * steps[..., 1, :]).sum(-1) / (lengths[..., 0] * lengths[..., 1])
        return np.arccos(np.clip(cosine, -1.0, 1.0))
    u, v, w = (steps[..., k, :] for k in range(3))
    across, along = np.cross(v, w), np.cross(u, v)
    return np.arctan2(lengths[..., 1] * (u * across).sum(-1), (along * across).sum(-1))
