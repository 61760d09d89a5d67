r"""What SevenNet knows of an atom after its first interaction block, and of the edges into it: fixed features of a structure.

The layers are those of the unpatched package. A node has channels of angular momentum l = 0, 1, 2 (`Features.blocks`), an edge
8 radial functions times the cutoff function, and 9 spherical harmonics. Components of l > 0 turn with the crystal.

Reference: Park, Kim, Hwang, Han, J. Chem. Theory Comput. 20, 4857 (2024), doi 10.1021/acs.jctc.4c00190.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mdistill.errors import BadInput
from mdistill.graph import edge_vectors
from mdistill.types import Graph, Potential

_BLOCK = "EquivariantGate"
"""Type of the layer that ends an interaction block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """Features of a batch after the first interaction block.

    Attributes:
        nodes: Channels of each atom, block after block, the components of a channel side by side.
        radial: Radial functions of each edge.
        harmonics: Spherical harmonics of each edge.
        blocks: (channels, components) of each block of a node.
    """

    nodes: Float[Tensor, "atom node"]
    radial: Float[Tensor, "edge radial"]
    harmonics: Float[Tensor, "edge harmonic"]
    blocks: tuple[tuple[int, int], ...]


def early_features(potential: Potential, graph: Graph) -> Features:
    """Features of atoms and edges after the first interaction block of a SevenNet model, without gradient.

    Args:
        potential: As `load_sevennet` gives it.
        graph: One or more structures with edges up to the model's cutoff.
    Raises:
        BadInput: Another potential, or an element that it does not know.
    """
    net: Any = getattr(potential, "net", None)
    end = first_block(potential)
    blocks = tuple((part.mul, part.ir.dim) for part in net.layers[end - 1].gate.irreps_out)
    with torch.no_grad():
        data = net.after(end, graph, edge_vectors(graph))
    return Features(
        nodes=data[net.keys.NODE_FEATURE], radial=data[net.keys.EDGE_EMBEDDING], harmonics=data[net.keys.EDGE_ATTR], blocks=blocks
    )


def first_block(potential: Potential, *, flag: str = "--teacher") -> int:
    """The number of layers up to the end of the first interaction block.

    Raises:
        BadInput: A potential that has none; the message names the flag.
    """
    layers = getattr(getattr(potential, "net", None), "layers", ())
    for number, layer in enumerate(layers, 1):
        if type(layer).__name__ == _BLOCK:
            return number
    problem = f"{potential.name} has no interaction blocks that can be read"
    raise BadInput(flag, problem, allowed="sevennet-0 and its relatives", fix=f"{flag} sevennet-0")
