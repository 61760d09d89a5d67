"""What networks make of every atom: the features that a control ties together."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from mdistill.nets.moment import MomentNet
from mdistill.nets.painn import PainnNet
from mdistill.types import Graph


def node_width(net: Any) -> int:
    """Number of node features."""
    if isinstance(net, MomentNet):
        return (net.settings.degree + 3) * net.settings.channels
    return int(net.settings.width) if isinstance(net, PainnNet) else int(net.node_width)


def node_features(net: Any, graph: Graph, vectors: Float[Tensor, "edge 3"]) -> Float[Tensor, "atom feature"]:
    """Of a moment network its normalised invariants, of PaiNN its scalars after the last block, of a teacher what it shows."""
    if isinstance(net, PainnNet):
        species = net.species(graph.system.numbers)
        return net._features(graph, vectors, species)[0][: len(species)]
    if not isinstance(net, MomentNet):
        return net.node_features(graph, vectors)
    species = net.species(graph.system.numbers)
    slots = net.layout(species)
    dense = (net.features(net.moments(graph, vectors, species)[0], slots) - net.mean) / net.spread
    return dense.new_zeros((len(species) + 1, dense.shape[2])).index_copy(0, slots.flatten(), dense.flatten(0, 1))[:-1]


def element_features(net: Any, graph: Graph) -> Float[Tensor, "atom feature"]:
    """What every atom's element is embedded as, by PaiNN or by a teacher that shows it."""
    return (
        net.embedding.index_select(0, net.species(graph.system.numbers))
        if isinstance(net, PainnNet)
        else net.element_features(graph)
    )
