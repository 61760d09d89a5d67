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
_FLOOR = 1e-2


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
            resolve(special)(net, spread_over(items), fresh=fresh)


def calibrate_moments(net: MomentNet, sample: Sequence[Item], *, fresh: bool) -> None:
    """Whitening of the moments; where fresh, the normalisation of the features too."""
    basis = whitening(net, sample)
    if not fresh:
        net.mixing.copy_(torch.linalg.solve(basis, net.mixing))
    net.whitening = basis
    if fresh:
        normalise_features(net, sample)


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
