"""Quantities set from the labels before training: reference energies, closest distances, scales, basis."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mdistill.graph import edge_vectors
from mdistill.nets.catalogue import POTENTIALS, resolve
from mdistill.nets.moment import MomentNet
from mdistill.nets.network import Student
from mdistill.training.labels import Item, join, known_forces
from mdistill.training.losses import root_mean_square

_NEAREST = 0.3
_FRAMES = 48
_FLOOR, _RIDGE = 1e-2, 1e-3


def calibrate(net: Student, items: Sequence[Item], *, fresh: bool) -> None:
    """Set the buffers of a float64 network from the training items.

    The start of learned functions and the whitening of a moment network are always set. Reference energies, scale and the
    normalisation of features are set only where `fresh`: a refit starts from its earlier function.
    """
    with torch.no_grad():
        closest = beginnings(net, items)
        net.set_closest(closest if fresh else torch.minimum(closest, net.closest))
        if fresh:
            net.reference.copy_(reference_energies(net, items))
            net.scale.fill_(max(root_mean_square(known_forces([item.frame for item in items])), 1e-6))
        if special := POTENTIALS[net.kind].calibrate:
            resolve(special)(net, items, fresh=fresh)


def calibrate_moments(net: MomentNet, items: Sequence[Item], *, fresh: bool) -> None:
    """Whitening of the moments; where fresh, the normalisation of the features and the energy of free atoms too."""
    sample = spread_over(items)
    basis = whitening(net, sample)
    if not fresh:
        net.mixing.copy_(torch.linalg.solve(basis, net.mixing))
    net.whitening = basis
    if fresh:
        normalise_features(net, sample)
        bind(net, sample, free_energies(net, items))


def spread_over(items: Sequence[Item]) -> list[Item]:
    """A sample of at most 48 items, evenly spaced."""
    return [items[int(k)] for k in np.unique(np.linspace(0, len(items) - 1, min(_FRAMES, len(items))).astype(int))]


def beginnings(net: Student, items: Sequence[Item]) -> Float[Tensor, "species species"]:
    """Where the learned functions of every pair begin, Å."""
    return (closest_distances(net, items) - net.begins_below).clamp_min(_NEAREST)


def closest_distances(net: Student, items: Sequence[Item]) -> Float[Tensor, "species species"]:
    """Shortest distance of every pair of elements over all items, Å (symmetric; infinite for a pair without labels)."""
    n = len(net.settings.elements)
    closest = torch.full((n * n,), torch.inf, dtype=torch.float64)
    for item in items:
        species = net.species(item.graph.system.numbers)
        pair = n * species.index_select(0, item.graph.receiver) + species.index_select(0, item.graph.sender)
        distance = edge_vectors(item.graph).norm(dim=1).to(torch.float64)
        closest = closest.scatter_reduce(0, pair, distance, "amin")
    return closest.view(n, n)


def reference_energies(net: Student, items: Sequence[Item]) -> Float[Tensor, " species"]:
    """Least-squares energy per element, eV: min ‖n·E0 − E‖², the smallest deviation from the mean energy per atom where
    the compositions leave it open (at a single composition every element gets that mean; without energies zero)."""
    items = [item for item in items if "energy" not in item.frame.missing]
    if not items:
        return torch.zeros(len(net.settings.elements), dtype=torch.float64)
    counts = torch.stack(
        [torch.bincount(net.species(i.graph.system.numbers), minlength=len(net.settings.elements)) for i in items]
    )
    counts = counts.to(torch.float64)
    energies = torch.cat([item.frame.target.energy for item in items]).to(torch.float64)
    mean = energies.sum() / counts.sum()
    correction = np.linalg.lstsq(counts.numpy(), (energies - counts.sum(1) * mean).numpy(), rcond=1e-8)[0]
    return mean + torch.from_numpy(correction)


def free_energies(net: Student, items: Sequence[Item]) -> Float[Tensor, " species"]:
    """Energy that it takes to free an atom of each element, eV; 0 where no label has free atoms of it alone.

    ε_Z = min over frames with m free atoms, all of Z, of (E − E_b) / m      E_b: lowest energy of a frame of the same composition
    without free atoms      free: no neighbour within the cutoff. Frames of no such composition are left out.
    """
    bound, free = dict[tuple[int, ...], float](), list[tuple[tuple[int, ...], float, Tensor]]()
    for item in (one for one in items if "energy" not in one.frame.missing):
        species, size = net.species(item.graph.system.numbers), len(net.settings.elements)
        key = tuple(torch.bincount(species, minlength=size).tolist())
        alone = torch.bincount(species[torch.bincount(item.graph.receiver, minlength=len(species)) == 0], minlength=size)
        energy = float(item.frame.target.energy[0])
        if bool(alone.any()):
            free.append((key, energy, alone))
        else:
            bound[key] = min(energy, bound.get(key, energy))
    costs = torch.full((len(net.settings.elements),), torch.inf, dtype=torch.float64)
    for key, energy, alone in free:
        cost = (energy - bound.get(key, torch.nan)) / float(alone.sum())
        if cost > 0.0 and int((alone > 0).sum()) == 1:
            costs[alone > 0] = costs[alone > 0].clamp_max(cost)
    return torch.where(costs.isfinite(), costs, 0.0)


def bind(net: MomentNet, items: Sequence[Item], free: Float[Tensor, " species"]) -> None:
    """Raise E0 by the energy of a free atom (eV), and lower atoms with neighbours by as much on average by the last layer.

    An atom without neighbours has the energy E0 whatever is learned: at the mean of bound atoms it would cost next to nothing to
    take one off a surface. The change of the last layer is that whose lowering varies least from atom to atom.
    """
    moments, species = moments_of(net, items)
    slots = net.layout(species)
    features = net.last_features(moments, slots)
    for z in free.nonzero()[:, 0].tolist():
        own = (features[z] - features[z, -1])[slots[z] < len(species)]
        if not len(own):
            continue
        second, mean = own.T @ own / len(own), own.mean(0)
        way = torch.linalg.solve(second + _RIDGE * second.trace() / len(second) * torch.eye(len(second), dtype=own.dtype), mean)
        lacking = -free[z] / net.scale - (mean @ net.last.weight[z]).squeeze()
        net.last.weight[z] += (way * lacking / (way @ mean)).unsqueeze(1)
        net.reference[z] += free[z]


def whitening(net: MomentNet, items: Sequence[Item]) -> Float[Tensor, "species degree basis basis"]:
    """(C + λ)^(−1/2), C the second moment ⟨M Mᵀ⟩ of the moments per species and degree, λ = 1e-2 × its largest eigenvalue.

    Radial functions overlap strongly; in this basis their combinations are learned at similar speed. The floor λ limits
    rare combinations (of a pair that is hardly ever close).
    """
    moments, species = moments_of(net, items)
    n, degrees, size = net.mixing.shape[:3]
    basis = torch.eye(size, dtype=torch.float64).repeat(n, degrees, 1, 1)
    for z in range(n):
        for degree in range(degrees):
            values = moments[species == z][:, net.degrees == degree]
            if len(values) == 0:
                continue
            values = values.flatten(0, 1)
            eigenvalues, vectors = torch.linalg.eigh(values.T @ values / len(values))
            floor = _FLOOR * eigenvalues[-1].clamp_min(1e-12)
            basis[z, degree] = (vectors * (eigenvalues.clamp_min(0.0) + floor).rsqrt()) @ vectors.T
    return basis


def moments_of(net: MomentNet, items: Sequence[Item]) -> tuple[Float[Tensor, "atom lm basis"], Int[Tensor, " atom"]]:
    """Moments of all atoms of the items, and their species."""
    graph = join([item.graph for item in items])
    species = net.species(graph.system.numbers)
    return net.moments(graph, edge_vectors(graph).to(torch.float64), species)[0], species


def normalise_features(net: MomentNet, items: Sequence[Item]) -> None:
    """Mean of every feature per species; one scale per feature for all species, its root mean square.

    A scale per species would amplify features that hardly vary (a rigid unit), and with them the forces of unseen structures.
    """
    moments, species = moments_of(net, items)
    slots = net.layout(species)
    features = net.features(moments, slots)
    filled = slots < len(species)
    net.spread.copy_(features[filled].square().mean(0).sqrt().clamp_min(1e-3).expand_as(net.spread))
    for z in range(len(slots)):
        if bool(filled[z].any()):
            net.mean[z, 0] = features[z][filled[z]].mean(0)
