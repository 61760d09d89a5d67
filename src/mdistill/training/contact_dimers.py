"""A prior for where labels end: two atoms alone, nearer than any label has them, do not attract each other.

Labels show pairs in a crystal, with neighbours around them. A pair alone lies outside what was learned, and between the
closest label and where learned radial functions have come to rest (`nets.layers.FREEZE`) it may be given a spurious well. A
few dimers at those distances, asked now and then during training, prevent it; they carry no label, only the sign.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mdistill.derivatives import predict
from mdistill.graph import build_graph, cast, concatenate, make_system
from mdistill.nets.layers import FREEZE
from mdistill.nets.network import Student
from mdistill.types import Graph

EVERY = 4
"""Steps between two looks at the dimers."""
_SPACING = 0.03
"""Between dimers, Å."""
_MARGIN = 0.02
"""Repulsion asked for, eV/Å."""


def contact_dimers(net: Student, dtype: torch.dtype) -> Graph | None:
    """Dimers of all pairs met, from where learned functions have come to rest up to the closest label; None where none was."""
    made, elements = [], net.settings.elements
    for a, first in enumerate(elements):
        for b, second in enumerate(elements[a:], a):
            closest = float(net.closest[a, b])
            if closest >= net.cutoff:
                continue
            nearest, span = closest - FREEZE, FREEZE + net.begins_below
            for distance in nearest + np.linspace(0.0, span, round(span / _SPACING) + 1):
                positions = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, distance]])
                made.append(make_system(positions, np.array([first, second]), np.zeros((3, 3)), [False] * 3))
    if not made:
        return None
    graph = build_graph(concatenate(made), net.cutoff)
    system = cast(graph.system, dtype=dtype)
    return Graph(system=system, receiver=graph.receiver, sender=graph.sender, shift=graph.shift.to(dtype), cutoff=graph.cutoff)


def attraction(net: Student, dimers: Graph) -> Tensor:
    """Mean force (eV/Å) by which the dimers fall short of repelling each other; differentiable in the weights."""
    forces = predict(net, dimers, create_graph=True)[0].forces
    return (_MARGIN - forces[1::2, 2]).clamp_min(0.0).mean()
