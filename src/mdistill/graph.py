"""Structures to neighbour graphs: batches of `System`, neighbour search, and a skin list for dynamics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from vesin import NeighborList

from mdistill.types import Graph, System


def make_system(
    positions: Float[np.ndarray, "atom 3"],
    numbers: Int[np.ndarray, " atom"],
    cell: Float[np.ndarray, "3 3"],
    pbc: Sequence[bool],
    *,
    dtype: torch.dtype = torch.float64,
) -> System:
    """One structure from plain arrays (Å)."""
    return System(
        positions=torch.as_tensor(np.asarray(positions, dtype=np.float64), dtype=dtype).reshape(-1, 3),
        numbers=torch.as_tensor(np.asarray(numbers, dtype=np.int64)),
        cell=torch.as_tensor(np.asarray(cell, dtype=np.float64), dtype=dtype).reshape(1, 3, 3),
        pbc=torch.as_tensor(np.asarray(pbc, dtype=bool)).reshape(1, 3),
        owner=torch.zeros(len(np.asarray(numbers)), dtype=torch.int64),
    )


def concatenate(systems: Sequence[System]) -> System:
    """Join batches into one; struct k of the result is the k-th struct in order."""
    offsets = np.cumsum([0] + [s.n_structs for s in systems])
    return System(
        positions=torch.cat([s.positions for s in systems]),
        numbers=torch.cat([s.numbers for s in systems]),
        cell=torch.cat([s.cell for s in systems]),
        pbc=torch.cat([s.pbc for s in systems]),
        owner=torch.cat([s.owner + int(o) for s, o in zip(systems, offsets[:-1], strict=True)]),
    )


def split(system: System) -> list[System]:
    """The structs of a batch, one System each."""
    parts = []
    for k in range(system.n_structs):
        mine = system.owner == k
        parts.append(
            System(
                positions=system.positions[mine],
                numbers=system.numbers[mine],
                cell=system.cell[k : k + 1],
                pbc=system.pbc[k : k + 1],
                owner=torch.zeros(int(mine.sum()), dtype=torch.int64, device=system.owner.device),
            )
        )
    return parts


def cast(system: System, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> System:
    """The same structures in another float type or on another device."""
    return System(
        positions=system.positions.to(device=device, dtype=dtype),
        numbers=system.numbers.to(device=device),
        cell=system.cell.to(device=device, dtype=dtype),
        pbc=system.pbc.to(device=device),
        owner=system.owner.to(device=device),
    )


def volumes(system: System) -> Float[Tensor, " struct"]:
    """Cell volumes, Å³ (positive, also for left-handed cells; 0 where a lattice vector is missing)."""
    return torch.linalg.det(system.cell).abs()


def edge_vectors(graph: Graph) -> Float[Tensor, "edge 3"]:
    """r[sender] + shift·cell − r[receiver], Å; differentiable in positions and cell."""
    system = graph.system
    positions = system.positions
    vectors = positions.index_select(0, graph.sender) - positions.index_select(0, graph.receiver)
    if graph.shift.numel() == 0:
        return vectors
    if system.n_structs == 1:
        return vectors + graph.shift @ system.cell[0]
    cell = system.cell.index_select(0, system.owner.index_select(0, graph.receiver))
    return vectors + torch.einsum("ea,eab->eb", graph.shift, cell)


def empty_graph(system: System, cutoff: float = 0.0) -> Graph:
    """A graph without edges (for potentials that search neighbours themselves)."""
    none = torch.zeros(0, dtype=torch.int64, device=system.positions.device)
    return Graph(system=system, receiver=none, sender=none, shift=system.positions.new_zeros((0, 3)), cutoff=cutoff)


def build_graph(system: System, cutoff: float) -> Graph:
    """All directed pairs within the cutoff (Å), every periodic image counted, none of an atom with itself at shift 0.

    Works for any cell (skewed, left-handed, shorter than the cutoff), mixed periodicity, isolated atoms and atoms
    outside the cell. Edges are sorted by receiver, then sender, then shift, so equal input gives equal order.

    Raises:
        ValueError: Non-finite positions, or a periodic direction with a zero or linearly dependent lattice vector.
    """
    if cutoff <= 0.0:
        return empty_graph(system)
    receivers, senders, shifts, offset = [], [], [], 0
    for part in split(system) if system.n_structs > 1 else [system]:
        receiver, sender, shift = _pairs(part, cutoff)
        receivers.append(receiver + offset)
        senders.append(sender + offset)
        shifts.append(shift)
        offset += part.n_atoms
    device, dtype = system.positions.device, system.positions.dtype
    return Graph(
        system=system,
        receiver=torch.from_numpy(np.concatenate(receivers)).to(device),
        sender=torch.from_numpy(np.concatenate(senders)).to(device),
        shift=torch.from_numpy(np.concatenate(shifts)).to(device=device, dtype=dtype),
        cutoff=cutoff,
    )


def _pairs(system: System, cutoff: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Receiver, sender and shift arrays of one struct."""
    positions = system.positions.detach().cpu().numpy().astype(np.float64)
    cell = system.cell[0].detach().cpu().numpy().astype(np.float64)
    pbc = system.pbc[0].cpu().numpy()
    if not np.isfinite(positions).all() or not np.isfinite(cell).all():
        raise ValueError("positions or cell are not finite: no neighbour list can be built")
    search = NeighborList(cutoff=cutoff, full_list=True)
    i, j, shift = search.compute(points=positions, box=cell, periodic=pbc, quantities="ijS")
    order = np.lexsort((shift[:, 2], shift[:, 1], shift[:, 0], j, i))
    return i[order].astype(np.int64), j[order].astype(np.int64), shift[order].astype(np.float64)


@dataclass(slots=True)
class SkinList:
    """A neighbour list that is rebuilt only when an atom moved further than half the skin or the cell changed.

    `graph(system)` gives exactly the edges of `build_graph(system, cutoff)` (longer candidates are dropped).
    """

    cutoff: float
    skin: float = 0.5
    rebuilds: int = 0
    _candidates: Graph | None = None

    def graph(self, system: System) -> Graph:
        if self.cutoff <= 0.0:
            return empty_graph(system)
        if self._candidates is None or self._moved(self._candidates.system, system):
            self._candidates = build_graph(system, self.cutoff + self.skin)
            self.rebuilds += 1
        candidates = replace(self._candidates, system=system, cutoff=self.cutoff)
        near = (edge_vectors(candidates).square().sum(-1) < self.cutoff**2).nonzero()[:, 0]
        return Graph(
            system=system,
            receiver=candidates.receiver.index_select(0, near),
            sender=candidates.sender.index_select(0, near),
            shift=candidates.shift.index_select(0, near),
            cutoff=self.cutoff,
        )

    def _moved(self, old: System, new: System) -> bool:
        if old.n_atoms != new.n_atoms or not torch.equal(old.cell, new.cell):
            return True
        return bool(((new.positions - old.positions).square().sum(-1) > (0.5 * self.skin) ** 2).any())
