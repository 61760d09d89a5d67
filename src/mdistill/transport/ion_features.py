r"""Features of a structure, one row for each mobile ion, from the first interaction block of SevenNet, and of its ion network.

    e_i = ⟨ x_j ‖ x_i ‖ d_ij ⟩ over the neighbours j of ion i      x: node features   d: edge features

"invariant" uses of x the channels of l = 0 and the norms of those of l = 1 and 2, and of d the radial functions: rotation,
translation, order of the atoms and the choice of the cell change nothing. "published" uses x and d as they are, all
components: they turn with the crystal, and with them the prediction. It is kept for comparison.

    temperature: 1, t, t², t³      t = T/5000 K

Reference: arXiv 2605.09311 (2026) for the mean over edges and the polynomial.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mdistill.crystals.checks import neighbour_pairs
from mdistill.crystals.crystal import Crystal
from mdistill.errors import BadInput
from mdistill.graph import build_graph, cast, concatenate
from mdistill.runs.identity import model_id, tensors_sha256
from mdistill.teachers.early_features import Features, early_features
from mdistill.types import Potential, System

Form = Literal["invariant", "published"]
HOTTEST = 5000.0
"""Scale of the temperature polynomial, K."""
PHYSICS = (
    "share of ions on partial sites", "any partial site", "nearest ion–ion (Å)", "nearest ion–other (Å)", "ion sites per Å³",
    "vacancies of ion sites", "ion sites within 4 Å", "smallest gap of the path (Å)",
)  # fmt: skip
"""Names of `ion_network`."""
_SAME = 1e-3
"""Largest difference of features of ions of one kind."""
_MOST_ATOMS = 600
"""Atoms of a batch."""
_MOST_KNOWN = 2000
"""Structures whose features are kept in memory."""
_known: dict[tuple[str, str, int, str], np.ndarray] = {}


def ion_features(
    systems: Sequence[System], potential: Potential, *, mobile: int, form: Form = "invariant"
) -> list[Float[np.ndarray, "ion feature"]]:
    """Features of the mobile ions of structures, in batches; what was computed for the same structure is kept in memory.

    Args:
        systems: One struct each, whole atoms.
        potential: A SevenNet model.
        mobile: Atomic number of the mobile ion.
        form: "invariant" or "published".
    Raises:
        BadInput: A structure without the mobile ion, an ion without a neighbour, an unknown element, another potential.
    """
    if len(_known) > _MOST_KNOWN:
        _known.clear()
    keys = [(digest_of(system), model_id(potential), mobile, form) for system in systems]
    missing = [k for k, key in enumerate(keys) if key not in _known]
    while missing:
        batch = [missing.pop(0)]
        atoms = systems[batch[0]].n_atoms
        while missing and atoms + systems[missing[0]].n_atoms <= _MOST_ATOMS:
            atoms += systems[missing[0]].n_atoms
            batch.append(missing.pop(0))
        for k, found in zip(batch, _batch([systems[k] for k in batch], potential, mobile, form), strict=True):
            _known[keys[k]] = found
    return [_known[key] for key in keys]


def digest_of(system: System) -> str:
    """sha256 of elements, positions and cell."""
    return tensors_sha256(system.numbers, system.positions, system.cell)


def _batch(systems: Sequence[System], potential: Potential, mobile: int, form: Form) -> list[np.ndarray]:
    for system in systems:
        if not bool((system.numbers == mobile).any()):
            problem = f"no mobile ion (atomic number {mobile})"
            raise BadInput("structure", problem, allowed="a conductor of it", fix="name another --species")
    whole = concatenate([cast(system, dtype=torch.float64) for system in systems])
    graph = build_graph(whole, float(getattr(potential, "cutoff", 0.0)))
    found = early_features(potential, graph)
    nodes, edges = (invariants(found), found.radial) if form == "invariant" else (found.nodes, _all_of(found))
    ions = torch.nonzero(whole.numbers == mobile)[:, 0]
    place = torch.full((whole.n_atoms,), -1)
    place[ions] = torch.arange(len(ions))
    chosen = place[graph.receiver] >= 0
    receiver, sender = graph.receiver[chosen], graph.sender[chosen]
    count = torch.bincount(place[receiver], minlength=len(ions))
    if bool((count == 0).any()):
        raise BadInput("structure", "a mobile ion without a neighbour", allowed="a bulk crystal", fix="check the cell")
    rows = torch.cat([nodes[sender], nodes[receiver], edges[chosen]], 1).double()
    mean = rows.new_zeros((len(ions), rows.shape[1])).index_add(0, place[receiver], rows) / count[:, None]
    owner = whole.owner[ions]
    return [mean[owner == k].numpy() for k in range(len(systems))]


def invariants(features: Features) -> Float[Tensor, "atom invariant"]:
    """Channels of l = 0 and norms of the channels of l > 0."""
    parts, start = [], 0
    for channels, components in features.blocks:
        block = features.nodes[:, start : start + channels * components].unflatten(1, (channels, components))
        parts.append(block[..., 0] if components == 1 else block.norm(dim=2))
        start += channels * components
    return torch.cat(parts, 1)


def _all_of(features: Features) -> Tensor:
    return torch.cat([features.radial, features.harmonics], 1)


def kinds_of(rows: Float[np.ndarray, "ion feature"]) -> tuple[Float[np.ndarray, "kind feature"], Int[np.ndarray, " ion"]]:
    """Ions of equal features: the features of each kind, and the kind of each ion."""
    kinds, place = list[np.ndarray](), np.zeros(len(rows), dtype=np.int64)
    for k, row in enumerate(rows):
        same = next((n for n, one in enumerate(kinds) if np.abs(one - row).max() < _SAME), len(kinds))
        if same == len(kinds):
            kinds.append(row)
        place[k] = same
    return np.array(kinds), place


def temperature_polynomial(temperatures_K: Float[np.ndarray, " temperature"]) -> Float[np.ndarray, "temperature 4"]:
    """1, t, t², t³ with t = T/5000 K."""
    return np.vander(np.asarray(temperatures_K, dtype=float) / HOTTEST, 4, increasing=True)


def ion_network(crystal: Crystal, *, mobile: int) -> Float[np.ndarray, " number"]:
    """Numbers of the network of ion sites (PHYSICS); partial occupancies are used as they are.

    The gap of the path is the smallest length h such that hops of at most h between ion sites connect an ion with its own
    image in another cell (6 Å where there is none below).

    Raises:
        BadInput: No mobile ion.
    """
    share = np.array([site.occupancies.get(mobile, 0.0) for site in crystal.sites])
    ions = share > 0.0
    if not ions.any():
        raise BadInput(crystal.source, "no mobile ion", allowed="a conductor of it", fix="name another --species")
    i, j, distance = neighbour_pairs(crystal, 6.0)
    pairs = ions[i] & ions[j] & (distance > 1.5)
    other = distance[ions[i] & ~ions[j]]
    partial = share[ions] < 0.999
    return np.array([
        share[ions][partial].sum() / share.sum(), float(partial.any()), distance[pairs].min(initial=6.0), other.min(initial=6.0),
        ions.sum() / crystal.volume, 1.0 - share.sum() / ions.sum(), (pairs & (distance < 4.0)).sum() / ions.sum(),
        _path_gap(crystal, ions),
    ])  # fmt: skip


def _path_gap(crystal: Crystal, ions: np.ndarray) -> float:
    """Shortest longest hop that leads an ion into another cell: union-find over hops with the cells that they cross."""
    from vesin import NeighborList

    points = np.asarray(crystal.positions)[ions]
    search = NeighborList(cutoff=6.0, full_list=True)
    i, j, shift, distance = search.compute(points=points, box=crystal.cell, periodic=np.array(crystal.pbc), quantities="ijSd")
    parent, offset = list(range(len(points))), np.zeros((len(points), 3), dtype=np.int64)

    def root(k: int) -> tuple[int, np.ndarray]:
        total = np.zeros(3, dtype=np.int64)
        while parent[k] != k:
            total, k = total + offset[k], parent[k]
        return k, total

    for k in np.argsort(distance):
        if distance[k] <= 1.5:
            continue
        (a, to_a), (b, to_b) = root(int(i[k])), root(int(j[k]))
        crossed = to_a - to_b - shift[k]
        if a == b and crossed.any():
            return float(distance[k])
        if a != b:
            parent[b], offset[b] = a, crossed
    return 6.0
