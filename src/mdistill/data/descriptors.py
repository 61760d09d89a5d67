"""What a student sees of a structure, as a vector: the invariants of its atoms, averaged by element."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mdistill.data.select_frames import Describe, histogram
from mdistill.graph import build_graph, cast, edge_vectors
from mdistill.nets.moment import MomentNet
from mdistill.nets.network import Student
from mdistill.types import System


def invariants_of(net: Student) -> Describe:
    """Mean and spread over the atoms of each element of a moment student's normalised features; for other networks
    `select_frames.histogram`, which needs no student.

    Like the student's energy they do not change with translation, rotation and the order of like atoms.
    """
    if not isinstance(net, MomentNet):
        return histogram

    def describe(system: System) -> Float[Tensor, " feature"]:
        system = cast(system, dtype=net.mixing.dtype)
        graph = build_graph(system, net.cutoff)
        with torch.no_grad():
            species = net.species(system.numbers)
            moments, slots = net.moments(graph, edge_vectors(graph), species)[0], net.layout(species)
            features = (net.features(moments, slots) - net.mean) / net.spread
        parts = []
        for z in range(len(slots)):
            mine = features[z][slots[z] < system.n_atoms].double()
            mean = mine.mean(0) if len(mine) else mine.new_zeros(features.shape[-1])
            parts += [mean, (mine - mean).square().mean(0).sqrt() if len(mine) else mean]
        return torch.cat(parts)

    return describe
