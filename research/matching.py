r"""Controls of curvature training that tie the student's inside to its teacher's: a PaiNN or moment network of ours, or SevenNet.

nodes ("n2n"):      loss + w ⟨|P h_i − h_i^T|²⟩ / ⟨|h^T|²⟩      h_i: last node features, P: a learned linear map
embedding ("a2a"):  the student's element embedding is P e_Z^T   e_Z^T: the teacher's frozen one

Reference:
    Controls of I. Amin, S. Raja, A. S. Krishnapriyan, ICLR 2025, arXiv 2501.09009.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils import parametrize

from mdistill.errors import BadInput
from mdistill.graph import build_graph, cast, edge_vectors, make_system
from mdistill.nets.layers import Linear
from mdistill.nets.network import Student
from mdistill.nets.painn import PainnNet
from mdistill.training.fit import Objective
from mdistill.training.labels import Item, join
from mdistill.training.potential import TrainingResult, prepare_fit, run_fit
from mdistill.training.settings import TrainSettings
from mdistill.types import Graph, LabelledFrame
from research.features import element_features, node_features, node_width

_NAME = "matched"


class Matching(Protocol):
    """A tie between student and teacher: `attach` before training, `detach` from what training gave."""

    def attach(self, net: Student, *, seed: int) -> None: ...
    def detach(self, net: Student) -> None: ...
    def loss(self, net: torch.nn.Module, graph: Graph, frames: Sequence[LabelledFrame]) -> Tensor: ...


@dataclass(slots=True)
class NodeMatching:
    """Node features of the teacher are a linear function of the student's.

    Attributes:
        teacher: Its network, asked in float64.
        weight: w; forces weigh 1. (Published: 1000 beside 100. Spline students of molecules want 1 or less.)
    """

    teacher: Any
    weight: float = 10.0
    _known: dict[int, tuple[LabelledFrame, Tensor]] = field(default_factory=dict, init=False)
    _square: float = field(default=0.0, init=False)

    def attach(self, net: Student, *, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        n_in, n_out = node_width(net), node_width(self.teacher)
        net.add_module(_NAME, Linear(n_in, n_out, bias=True, generator=generator).to(next(net.parameters()).dtype))

    def detach(self, net: Student) -> None:
        delattr(net, _NAME)

    def loss(self, net: torch.nn.Module, graph: Graph, frames: Sequence[LabelledFrame]) -> Tensor:
        wanted = torch.cat([self._features(frame) for frame in frames])
        found = getattr(net, _NAME)(node_features(net, graph, edge_vectors(graph)))
        return self.weight * (found - wanted.to(found)).square().mean() / self._square

    def _features(self, frame: LabelledFrame) -> Float[Tensor, "atom feature"]:
        """The teacher's, computed once per frame."""
        if id(frame) not in self._known:
            graph = build_graph(cast(frame.system, dtype=torch.float64), self.teacher.cutoff)
            with torch.no_grad():
                features = node_features(self.teacher, graph, edge_vectors(graph))
            self._square = self._square or max(float(features.square().mean()), 1e-12)
            self._known[id(frame)] = (frame, features)
        return self._known[id(frame)][1]


@dataclass(slots=True)
class EmbeddingMatching:
    """The element embedding of a PaiNN student is a learned linear map of its teacher's (PaiNN or SevenNet).

    Raises:
        BadInput: Another kind of network, or elements that the teacher does not know.
    """

    teacher: Any

    def attach(self, net: Student, *, seed: int) -> None:
        teacher = self.teacher
        embedded = isinstance(teacher, PainnNet) or hasattr(teacher, "element_features")
        if not isinstance(net, PainnNet) or not embedded or not net.elements <= teacher.elements:
            allowed = "a PaiNN student and a PaiNN or SevenNet teacher that knows its elements"
            raise BadInput("embedding", "of another kind of network", allowed=allowed, fix="match nodes")
        generator = torch.Generator().manual_seed(seed)
        frozen = element_features(teacher, _apart(net.settings.elements, teacher.cutoff)).detach().to(net.embedding.dtype)
        start = torch.randn((frozen.shape[1], net.settings.width), generator=generator, dtype=frozen.dtype)
        with torch.no_grad():
            net.embedding.copy_(frozen @ start / frozen.shape[1] ** 0.5)
        parametrize.register_parametrization(net, "embedding", _Projected(frozen))

    def detach(self, net: Student) -> None:
        parametrize.remove_parametrizations(net, "embedding")

    def loss(self, net: torch.nn.Module, graph: Graph, frames: Sequence[LabelledFrame]) -> Tensor:
        return torch.zeros((), dtype=graph.system.positions.dtype)


def _apart(elements: Sequence[int], cutoff: float) -> Graph:
    """One atom of each element, all in a row."""
    positions = [[0.9 * cutoff * k, 0.0, 0.0] for k in range(len(elements))]
    return build_graph(make_system(np.array(positions), np.array(elements), np.zeros((3, 3)), [False] * 3), cutoff)


class _Projected(torch.nn.Module):
    """P ↦ frozen @ P; what is trained is P, by least squares the one that gives the start."""

    frozen: Tensor

    def __init__(self, frozen: Tensor) -> None:
        super().__init__()
        self.register_buffer("frozen", frozen)

    def forward(self, projection: Tensor) -> Tensor:
        return self.frozen @ projection

    def right_inverse(self, embedding: Tensor) -> Tensor:
        return torch.linalg.pinv(self.frozen) @ embedding


@dataclass(slots=True)
class Tied:
    """An objective with the loss of a tie added."""

    inner: Objective[Item]
    matching: Matching

    def __call__(self, module: torch.nn.Module, batch: Sequence[Item], step: int) -> tuple[Tensor, dict[str, float]]:
        loss, errors = self.inner(module, batch, step)
        graph, frames = join([item.graph for item in batch]), [item.frame for item in batch]
        return loss + self.matching.loss(module, graph, frames), errors

    def observe(self, history: Sequence[dict[str, Any]]) -> None:
        self.inner.observe(history)

    def describe(self, measures: dict[str, float]) -> str:
        return self.inner.describe(measures)


def train_tied(
    frames: Sequence[LabelledFrame], settings: TrainSettings, folder: Path, matching: Matching, **options: Any
) -> TrainingResult:
    """`training.potential.train_potential` with a tie to the teacher that is gone from the model file."""
    ready = prepare_fit(frames, settings, **options)
    matching.attach(ready.net, seed=settings.fit.seed)
    return run_fit(replace(ready, objective=Tied(ready.objective, matching)), folder, finish=matching.detach)
