"""A prior below the closest labels: two isolated atoms closer than any label do not attract each other.

Labels show pairs in a crystal, with neighbours. An isolated pair is outside the training data and may get a spurious well
between the closest label and the point where learned radial functions become constant (`nets.layers.FREEZE`). A few dimers at
those distances, evaluated at some training steps, prevent it; they have no label, only the sign.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mdistill.derivatives import predict
from mdistill.graph import build_graph, cast, concatenate, make_system
from mdistill.nets.layers import FREEZE
from mdistill.nets.network import Student
from mdistill.training.ranks import here
from mdistill.types import Graph

EVERY = 4
"""Steps between evaluations of the dimers."""
_SPACING = 0.03
"""Distance between dimers, Å."""
_MARGIN = 0.02
"""Required repulsion, eV/Å."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimers:
    """The dimers of this rank, and the number of those of all ranks."""

    graph: Graph
    number: int


def contact_dimers(net: Student, dtype: torch.dtype) -> Dimers | None:
    """Dimers of all labelled pairs, from the constant zone of learned functions up to the closest label; None without pairs."""
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
    own = here().share(made)
    if not own:
        return None
    graph = build_graph(concatenate(own), net.cutoff)
    system = cast(graph.system, dtype=dtype)
    graph = Graph(system=system, receiver=graph.receiver, sender=graph.sender, shift=graph.shift.to(dtype), cutoff=graph.cutoff)
    return Dimers(graph=graph, number=len(made))


def attraction(net: Student, dimers: Dimers) -> Tensor:
    """Mean missing repulsion of the dimers (eV/Å), of several ranks the part of this one; differentiable in the weights."""
    forces = predict(net, dimers.graph, create_graph=True)[0].forces
    return (_MARGIN - forces[1::2, 2]).clamp_min(0.0).sum() / dimers.number
