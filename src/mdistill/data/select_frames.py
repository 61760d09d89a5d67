r"""Choosing few structures that cover much: distance filter, then farthest points in a descriptor space.

A structure is described by smoothed histograms of its pair distances, one per pair of elements,
    d_ab(k) = (1/n_ab) Σ_pairs exp(−(r − r_k)²/2w²) f_c(r),      r_k: grid up to the cutoff, n_ab: atoms of kinds a, b
and per element by the spread of the atoms' own histograms, so that one unusual atom among many shows.
Each next structure chosen is the one farthest from all chosen so far and from the reference set; with weights, the one whose
distance times weight is largest.

Reference:
    Gonzalez, Theor. Comput. Sci. 38, 293 (1985), doi 10.1016/0304-3975(85)90224-5 (farthest-point selection).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mdistill.graph import build_graph, edge_vectors
from mdistill.types import System

Describe = Callable[[System], Tensor]
"""A structure (one struct) as a vector of fixed length for a given composition."""
Method = Literal["farthest", "leverage"]
COPY = 1e-4
"""Distance over the size of the points up to which two structures count as copies."""


def closest_ratio(system: System, floors: dict[tuple[int, int], float]) -> float:
    """Smallest ratio of a pair's distance to its floor (Å, keys (Z, Z') with Z ≤ Z'); infinite where no pair is near."""
    reach = max(floors.values(), default=0.0)
    graph = build_graph(system, reach)
    if len(graph.receiver) == 0:
        return math.inf
    lengths = edge_vectors(graph).square().sum(1).sqrt()
    first, second = system.numbers[graph.receiver].tolist(), system.numbers[graph.sender].tolist()
    limits = torch.tensor(
        [floors.get((min(a, b), max(a, b)), 0.0) for a, b in zip(first, second, strict=True)], dtype=lengths.dtype
    )
    return float((lengths / limits).min())


def shortest_pairs(systems: Sequence[System], *, reach: float = 6.0) -> dict[tuple[int, int], float]:
    """Shortest distance (Å) of every pair of elements in a set of structures, up to `reach`."""
    shortest: dict[tuple[int, int], float] = {}
    for system in systems:
        graph = build_graph(system, reach)
        lengths = edge_vectors(graph).square().sum(1).sqrt()
        numbers = torch.stack([system.numbers[graph.receiver], system.numbers[graph.sender]]).sort(0).values
        kinds, kind = torch.unique(numbers, dim=1, return_inverse=True)
        least = lengths.new_full((kinds.shape[1],), math.inf).scatter_reduce(0, kind, lengths, "amin")
        for a, b, length in zip(*kinds.tolist(), least.tolist(), strict=True):
            shortest[a, b] = min(length, shortest.get((a, b), math.inf))
    return shortest


def histogram(system: System, *, cutoff: float = 5.0, bins: int = 16) -> Float[Tensor, " feature"]:
    """The default descriptor: mean and spread over atoms of pair-distance histograms, per ordered pair of elements.

    Unchanged by translation, rotation, permutation of like atoms, and choice of the periodic cell.
    """
    graph = build_graph(system, cutoff)
    lengths = edge_vectors(graph).square().sum(1).sqrt().double()
    grid = torch.linspace(0.5, cutoff, bins, dtype=torch.float64, device=lengths.device)
    fade = 0.5 * (1.0 + torch.cos(math.pi * lengths / cutoff))
    basis = torch.exp(-0.5 * ((lengths.unsqueeze(1) - grid) / float(grid[1] - grid[0])) ** 2) * fade.unsqueeze(1)
    elements, kind = torch.unique(system.numbers, return_inverse=True)
    slot = graph.receiver * len(elements) + kind[graph.sender]
    atomic = basis.new_zeros((system.n_atoms * len(elements), bins)).index_add(0, slot, basis)
    atomic = atomic.reshape(system.n_atoms, -1)
    parts = []
    for k in range(len(elements)):
        mine = atomic[kind == k]
        parts += [mine.mean(0), (mine - mine.mean(0)).square().mean(0).sqrt()]
    return torch.cat(parts)


def usable(candidates: Sequence[System], reference: Sequence[System], *, floor: float = 0.75) -> list[int]:
    """Indices of the candidates that are finite and have no pair closer than `floor` × the shortest such pair in `reference`."""
    floors = {pair: floor * length for pair, length in shortest_pairs(reference).items()}
    return [k for k, system in enumerate(candidates) if _finite(system) and closest_ratio(system, floors) >= 1.0]


def select(
    candidates: Sequence[System], reference: Sequence[System], count: int, *, floor: float = 0.75, describe: Describe = histogram,
    weigh: Callable[[System], float] | None = None, method: Method = "farthest",
) -> list[int]:  # fmt: skip
    """Indices of at most `count` candidates, most novel first (deterministic; ties go to the earlier candidate).

    Args:
        candidates: Structures whose descriptors have one length.
        reference: Structures already labelled; they also set the shortest distances allowed. May be empty.
        count: Number of frames to choose.
        floor: A candidate with a pair closer than this fraction of the shortest such pair in `reference` is dropped.
        describe: Structure → vector.
        weigh: Structure → weight of its novelty, such as the spread of a committee; by default all weigh the same.
        method: "farthest" points, or highest "leverage" (greedy D-optimal design).
    """
    usable_frames = usable(candidates, reference, floor=floor)
    if not usable_frames or count <= 0:
        return []
    points, known = described([candidates[k] for k in usable_frames], reference, describe)
    weights = torch.tensor([1.0 if weigh is None else weigh(candidates[k]) for k in usable_frames], dtype=points.dtype)
    choose = farthest if method == "farthest" else leverage
    return [usable_frames[k] for k in choose(points, known, weights, count)]


def described(
    systems: Sequence[System], reference: Sequence[System], describe: Describe
) -> tuple[Float[Tensor, "frame feature"], Float[Tensor, "reference feature"]]:
    """Features of structures and of the reference set: zero mean, and unit spread where a feature is not constant."""
    together = torch.stack([describe(system) for system in (*systems, *reference)])
    scaled = (together - together.mean(0)) / together.std(0, correction=0).clamp_min(1e-12)
    return scaled[: len(systems)], scaled[len(systems) :]


def farthest(
    points: Float[Tensor, "frame feature"],
    known: Float[Tensor, "reference feature"],
    weights: Float[Tensor, " frame"],
    count: int,
) -> list[int]:
    """Farthest points, one after the other. A copy of a point that is known or chosen is never chosen."""
    size = points.square().sum(1).mean().sqrt().clamp_min(1e-12)
    start = torch.cdist(points, known).amin(1) if len(known) else (points - points.mean(0)).square().sum(1).sqrt()
    distance, chosen = start, list[int]()
    while len(chosen) < min(count, len(points)):
        best = int(torch.where(distance < 0.0, distance, distance * weights).argmax())
        if (len(known) or chosen) and float(distance[best]) <= COPY * float(size):
            break
        from_best = (points - points[best]).square().sum(1).sqrt()
        distance = torch.minimum(distance, from_best) if len(known) or chosen else from_best
        chosen.append(best)
        distance[chosen] = -1.0
    return chosen


def leverage(
    points: Float[Tensor, "frame feature"],
    known: Float[Tensor, "reference feature"],
    weights: Float[Tensor, " frame"],
    count: int,
) -> list[int]:
    r"""Greedy D-optimal design: each next point raises det(λ1 + Σ x xᵀ) most, which is the largest leverage xᵀ(λ1 + Σ x xᵀ)⁻¹x.

    Computed on the kernel K = X Xᵀ by pivoted Cholesky, so that the number of features does not matter. λ: 1e-3 of the mean |x|².
    """
    count = min(count, len(points))
    together = torch.cat([known, points])
    centre = together.mean(0)
    kernel = (together - centre) @ (together - centre).T
    ridge = 1e-3 * float(kernel.diagonal().mean().clamp_min(1e-12))
    rest, chosen, first = kernel.clone(), list[int](), len(known)

    def take(k: int) -> None:
        column = rest[:, k] / (float(rest[k, k]) + ridge)
        rest.sub_(column.unsqueeze(1) * rest[k].unsqueeze(0).clone())

    for k in range(first):
        take(k)
    while len(chosen) < count:
        novelty = rest.diagonal()[first:] * weights
        novelty = torch.where(torch.isin(torch.arange(len(points)), torch.tensor(chosen, dtype=torch.int64)), -1.0, novelty)
        best = int(novelty.argmax())
        if float(rest[first + best, first + best]) <= COPY**2 * float(kernel.diagonal().mean()):
            break
        chosen.append(best)
        take(first + best)
    return chosen


def coverage(
    points: Float[Tensor, "frame feature"], chosen: Sequence[int], known: Float[Tensor, "reference feature"]
) -> Float[Tensor, " count"]:
    """Mean distance of all points to the nearest one known or among the first k chosen, for k = 1 … over the mean distance
    to the centre."""
    unit = (points - points.mean(0)).square().sum(1).sqrt().mean().clamp_min(1e-12)
    nearest = torch.cdist(points, known).amin(1) if len(known) else points.new_full((len(points),), torch.inf)
    means = []
    for k in chosen:
        nearest = torch.minimum(nearest, (points - points[k]).square().sum(1).sqrt())
        means.append(float(nearest.mean() / unit))
    return torch.tensor(means, dtype=torch.float64)


def _finite(system: System) -> bool:
    return bool(torch.isfinite(system.positions).all()) and bool(torch.isfinite(system.cell).all())
