"""Structures to neighbour graphs: batches of `System`, neighbour search, and a skin list for dynamics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from ase.data import chemical_symbols
from jaxtyping import Bool, Float, Int
from torch import Tensor
from vesin import NeighborList

from mdistill.errors import BadInput
from mdistill.types import Graph, System

_MOST_PAIRS = 1e8
_MOST_CUTOFFS = 1e5
_STATE = "state charge=-1 of an ion, or unpaired=1 of a radical, in the comment line of an extxyz file (in Python atoms.info)"


def make_system(
    positions: Float[np.ndarray, "atom 3"], numbers: Int[np.ndarray, " atom"], cell: Float[np.ndarray, "3 3"],
    pbc: Sequence[bool], *, dtype: torch.dtype = torch.float64,
) -> System:  # fmt: skip
    """One structure from plain arrays (Å), which are copied."""
    return System(
        positions=torch.tensor(np.asarray(positions, dtype=np.float64), dtype=dtype).reshape(-1, 3),
        numbers=torch.tensor(np.asarray(numbers, dtype=np.int64)),
        cell=torch.tensor(np.asarray(cell, dtype=np.float64), dtype=dtype).reshape(1, 3, 3),
        pbc=torch.tensor(np.asarray(pbc, dtype=bool)).reshape(1, 3),
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
        charge=_joined([s.charge for s in systems], systems, usual=0),
        unpaired=_joined([s.unpaired for s in systems], systems, usual=-1),
    )


def _joined(parts: Sequence[Tensor | None], systems: Sequence[System], *, usual: int) -> Tensor | None:
    """Values of all structs, `usual` where a batch has none; None where no batch has any."""
    if all(part is None for part in parts):
        return None
    filler = [torch.full((s.n_structs,), usual, dtype=torch.int64, device=s.owner.device) for s in systems]
    return torch.cat([other if part is None else part for part, other in zip(parts, filler, strict=True)])


def split(system: System) -> list[System]:
    """The structs of a batch, one System each."""
    parts = []
    for k in range(system.n_structs):
        mine = system.owner == k
        parts.append(
            System(
                positions=system.positions[mine], numbers=system.numbers[mine], cell=system.cell[k : k + 1],
                pbc=system.pbc[k : k + 1], owner=torch.zeros(int(mine.sum()), dtype=torch.int64, device=system.owner.device),
                charge=None if system.charge is None else system.charge[k : k + 1],
                unpaired=None if system.unpaired is None else system.unpaired[k : k + 1],
            )
        )  # fmt: skip
    return parts


def cast(system: System, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> System:
    """The same structures in another float type or on another device."""
    return System(
        positions=system.positions.to(device=device, dtype=dtype), numbers=system.numbers.to(device=device),
        cell=system.cell.to(device=device, dtype=dtype), pbc=system.pbc.to(device=device), owner=system.owner.to(device=device),
        charge=None if system.charge is None else system.charge.to(device=device),
        unpaired=None if system.unpaired is None else system.unpaired.to(device=device),
    )  # fmt: skip


def turned(system: System, turn: Float[Tensor, "3 3"]) -> System:
    """The system rotated or reflected, positions and lattice vectors: r → r Q. Neighbours and shifts do not change."""
    return replace(system, positions=system.positions @ turn, cell=system.cell @ turn)


def volumes(system: System) -> Float[Tensor, " struct"]:
    """Cell volumes, Å³ (positive, also for left-handed cells; 0 where a lattice vector is missing)."""
    return torch.linalg.det(system.cell).abs()


def electronic_states(system: System) -> Int[Tensor, "struct 3"]:
    """Charge, its square, and the number of unpaired electrons of every struct; the fewest where only a charge is stated.

    Raises:
        BadInput: An odd number of electrons with none unpaired, or such a number without a stated charge or unpaired electron.
    """
    zeros = torch.zeros(system.n_structs, dtype=torch.int64, device=system.owner.device)
    charge = zeros if system.charge is None else system.charge
    stated = zeros - 1 if system.unpaired is None else system.unpaired
    electrons = zeros.index_add(0, system.owner, system.numbers) - charge
    odd = electrons.remainder(2)
    unpaired = torch.where(stated < 0, odd, stated)
    wrong = (unpaired.remainder(2) != odd) | ((stated < 0) & (odd == 1) & (charge == 0))
    if bool(wrong.any()):
        k = int(wrong.nonzero()[0])
        symbols = "".join(chemical_symbols[int(z)] for z in system.numbers[system.owner == k][:8])
        problem = f"{symbols}… has {int(electrons[k])} electrons at charge {int(charge[k])}"
        problem += ", and no number of unpaired ones" if int(stated[k]) < 0 else f", and {int(stated[k])} unpaired"
        raise BadInput("structure", problem, allowed="both even or both odd", fix=_STATE)
    return torch.stack([charge, charge.square(), unpaired], 1)


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
    """All directed pairs closer than the cutoff (Å), every periodic image counted, none of an atom with itself at shift 0.

    A pair at exactly the cutoff is left out (|edge vector| < cutoff, strictly, as computed in the system's own precision).
    Works for any cell (skewed, left-handed, shorter than the cutoff), mixed periodicity (the cell vector of an open
    direction is ignored), isolated atoms, and atoms any number of cells outside. Edges are sorted by receiver, then
    sender, then shift, so equal input gives equal order.

    Raises:
        BadInput: Non-finite positions or cell, a periodic direction whose lattice vector is missing or lies in the plane
            (line) of the others, or more pairs than memory allows.
    """
    if cutoff <= 0.0:
        return empty_graph(system)
    candidates = _candidates(system, cutoff)
    return _closer_than(cutoff, candidates, _offsets(candidates), system)


def _candidates(system: System, reach: float) -> Graph:
    """All pairs closer than `reach` and perhaps a few a rounding error beyond it, in the order of `build_graph`."""
    receivers, senders, shifts, offset = [], [], [], 0
    for part in split(system) if system.n_structs > 1 else [system]:
        receiver, sender, shift = _pairs(part, reach)
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
        cutoff=reach,
    )


def _offsets(graph: Graph) -> Float[Tensor, "edge 3"]:
    """shift·cell of each edge. Written out: a matrix product may round a row differently in a longer list."""
    cell = graph.system.cell.detach()
    rows = cell[0].unbind(0) if graph.system.n_structs == 1 else cell[graph.system.owner[graph.receiver]].unbind(1)
    x, y, z = graph.shift.unsqueeze(2).unbind(1)
    return x * rows[0] + y * rows[1] + z * rows[2]


def _closer_than(cutoff: float, candidates: Graph, offsets: Float[Tensor, "edge 3"], system: System) -> Graph:
    """The candidates that are closer than the cutoff in `system`, in their order."""
    positions, receiver, sender = system.positions.detach(), candidates.receiver, candidates.sender
    x, y, z = (positions.index_select(0, sender) - positions.index_select(0, receiver)).add_(offsets).unbind(1)
    near = (x * x + y * y + z * z < cutoff * cutoff).nonzero().squeeze(1)
    return Graph(
        system=system, receiver=receiver.index_select(0, near), sender=sender.index_select(0, near),
        shift=candidates.shift.index_select(0, near), cutoff=cutoff,
    )  # fmt: skip


def _pairs(system: System, reach: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Receiver, sender and shift arrays of one struct; the search sees all atoms inside the cell."""
    positions = system.positions.detach().cpu().numpy().astype(np.float64)
    cell = system.cell[0].detach().cpu().numpy().astype(np.float64)
    pbc = system.pbc[0].cpu().numpy()
    if not np.isfinite(positions).all() or not np.isfinite(cell).all():
        raise BadInput("structure", "positions or cell are not finite", allowed="finite numbers", fix="check the structure")
    if len(positions) == 0:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros((0, 3))
    box = _box(cell, pbc)
    inverse = np.linalg.inv(box)
    turns = np.floor(positions @ inverse) * pbc
    scale = max(np.abs(positions).max(), (np.abs(turns) @ np.abs(box)).max(), reach)
    reach += 100.0 * torch.finfo(system.positions.dtype).eps * scale
    inside = positions - turns @ box
    for axis in box[~pbc]:
        inside -= np.outer(_excess(inside @ axis, 1.5 * reach), axis)
    extent = np.where(pbc, 1.0 / np.linalg.norm(inverse, axis=0), np.ptp(inside @ inverse, axis=0))
    _check_size(float(extent.max()), len(inside) ** 2 / np.abs(np.linalg.det(box)) if pbc.all() else 0.0, reach)
    i, j, shift = NeighborList(cutoff=reach, full_list=True).compute(points=inside, box=box, periodic=pbc, quantities="ijS")
    i, j = i.astype(np.int64), j.astype(np.int64)
    shift = shift + turns[i] - turns[j]
    order = np.lexsort((shift[:, 2], shift[:, 1], shift[:, 0], i * len(positions) + j))
    return i[order], j[order], shift[order]


def checked_box(system: System, reach: float) -> Float[np.ndarray, "3 3"]:
    """The cell of one struct with vectors of length 1 along open directions, for other neighbour searches.

    Raises:
        BadInput: As `build_graph`.
    """
    positions, cell = system.positions.detach().numpy().astype(np.float64), system.cell[0].numpy().astype(np.float64)
    pbc = system.pbc[0].numpy()
    box = _box(cell, pbc)
    inverse = np.linalg.inv(box)
    spread = np.ptp(positions @ inverse, axis=0) if len(positions) and not pbc.all() else np.zeros(3)
    extent = np.where(pbc, 1.0 / np.linalg.norm(inverse, axis=0), spread)
    _check_size(float(extent.max()), len(positions) ** 2 / np.abs(np.linalg.det(box)) if pbc.all() else 0.0, reach)
    return np.ascontiguousarray(box)


def _box(cell: Float[np.ndarray, "3 3"], pbc: Bool[np.ndarray, " 3"]) -> Float[np.ndarray, "3 3"]:
    """The cell with unit vectors along open directions, normal to the periodic vectors and to each other."""
    box, periodic = cell.copy(), cell[pbc]
    if not pbc.all():
        box[~pbc] = np.linalg.svd(periodic)[2][len(periodic) :]
    lengths = np.linalg.norm(box, axis=1, keepdims=True)
    if not lengths.all() or np.abs(np.linalg.det(box / lengths)) < 1e-6:
        raise BadInput(
            "cell",
            f"the lattice vectors along the periodic directions are {periodic.tolist()}: one is missing, or they span no volume",
            allowed="linearly independent lattice vectors along periodic directions",
            fix="give the missing lattice vector, or make its direction open (pbc False)",
        )
    return box


def _excess(coordinates: Float[np.ndarray, " atom"], widest: float) -> Float[np.ndarray, " atom"]:
    """Shift of each atom that closes gaps along an open axis wider than `widest`; no pair comes within it."""
    order = np.argsort(coordinates)
    gaps = np.diff(coordinates[order], prepend=coordinates[order[:1]])
    excess = np.empty_like(coordinates)
    excess[order] = np.cumsum(np.maximum(gaps - widest, 0.0))
    return excess


def _check_size(extent: float, density: float, reach: float) -> None:
    """Reject structures that would exhaust memory or the cell grid of the search, which would end the process.

    Args:
        extent: Largest height of the cell, or spread of the atoms along an open direction, Å.
        density: Pairs of atoms per volume, 1/Å³; 0 where not periodic in three directions.
        reach: Cutoff, Å.
    """
    if extent > _MOST_CUTOFFS * reach:
        problem, allowed = f"{extent:.3g} Å across with a cutoff of {reach:.3g} Å", f"at most {_MOST_CUTOFFS:.0f} cutoffs"
        raise BadInput("cell", problem, allowed=allowed, fix="check the units of the structure (Å)")
    if (pairs := 4.0 / 3.0 * np.pi * reach**3 * density) > _MOST_PAIRS:
        problem = f"{reach:.3g} Å gives about {pairs:.2g} neighbour pairs"
        fix = "check the units of the cell (Å), or choose a shorter cutoff or a smaller supercell"
        raise BadInput("cutoff", problem, allowed=f"at most {_MOST_PAIRS:.0e} pairs", fix=fix)


@dataclass(slots=True)
class SkinList:
    """A neighbour list that is rebuilt only when a pair outside it can have come closer than the cutoff.

    `graph(system)` gives exactly the edges of `build_graph(system, cutoff)`, in the same order. Atoms may move, and the
    cells of fully periodic structures may change (barostats); any other change repeats the search.

    With A = (old cell)⁻¹ (new cell) and u = r − r_old A, a pair vector becomes d = d_old A + u_j − u_i, so
        |d| ≥ |d_old| (1 − ‖A − 1‖) − 2 max|u|,     ‖·‖: Frobenius norm
    and pairs left out at the search stay beyond the cutoff while 2 max|u| < (cutoff + skin)(1 − ‖A − 1‖) − cutoff. A shift
    common to all u does not matter and is taken off.
    """

    cutoff: float
    skin: float = 0.5
    rebuilds: int = 0
    _candidates: Graph | None = None
    _lattice_parts: Tensor | None = None
    _cell: Tensor | None = None

    def graph(self, system: System) -> Graph:
        """The neighbour graph of the system.

        Raises:
            BadInput: As `build_graph`.
        """
        if self.cutoff <= 0.0:
            return empty_graph(system)
        if self._candidates is None or not self._covers(self._candidates.system, system):
            own = replace(system, positions=system.positions.detach().clone(), cell=system.cell.detach().clone())
            self._candidates, self._cell = _candidates(own, self.cutoff + self.skin), None
            self.rebuilds += 1
        if self._lattice_parts is None or self._cell is None or not torch.equal(self._cell, system.cell):
            self._cell = system.cell.detach().clone()
            self._lattice_parts = _offsets(replace(self._candidates, system=system))
        return _closer_than(self.cutoff, self._candidates, self._lattice_parts, system)

    def _covers(self, old: System, new: System) -> bool:
        """Whether the candidates of the old system include every pair that is now closer than the cutoff."""
        if old.positions.dtype != new.positions.dtype or old.positions.device != new.positions.device:
            return False
        if not (torch.equal(old.owner, new.owner) and torch.equal(old.pbc, new.pbc)):
            return False
        if torch.equal(old.cell, new.cell):
            stretch, moves = 0.0, new.positions.detach() - old.positions
        else:
            if not bool(new.pbc.all()):
                return False
            change = torch.linalg.solve(old.cell, new.cell.detach())
            unchanged = torch.eye(3, dtype=change.dtype, device=change.device)
            stretch = float((change - unchanged).square().sum((1, 2)).max().sqrt())
            moves = new.positions.detach() - (old.positions.unsqueeze(1) @ change[old.owner]).squeeze(1)
            moves -= moves.mean(0)
        farthest = float(moves.square_().sum(1).max().sqrt())
        return 2.0 * farthest < (self.cutoff + self.skin) * (1.0 - stretch) - self.cutoff
