r"""A one-step map by attention, as published, without built-in symmetry; `nets/one_step.py` is the equivariant one.

Of every atom there is a token, and one for every neighbour within the cutoff. In each layer

    edge token   e_ij ← MLP( r_ij, |r_ij|, element of j, message on the edge j→i of the layer before, e_ij )
    attention    among the atom's token and its edges' tokens, pre-norm, logits + log f(r_ij); then SwiGLU
    message      the edge's token is what its reverse hears in the next layer

with momenta joined to the atom's token, and at the end two heads on every token (edges' weighted by f), o_i and o'_i:

    q' = q + t v + t σ θ o / √m        p' = p + √m σ θ o'          σ: typical thermal speed of √m v   θ = t/longest stride

r_ij, v, p, m: edge vector, velocity, momentum, mass   t: stride   f: envelope, 0 at the cutoff, so that an edge that leaves does
so without a jump. Without `residual` q' = q + t σ o/√m, p' = √m σ o'; without `mass_scaled` m is the mean mass there.

Velocities are relative to the centre of mass; nothing else is built in: rotations are learned from turned structures
(`StrideObjective.turning`), and momentum is restored where the map is used (`simulation/one_step_map.py`).

Reference: F. Bigi, S. Chong, A. Kristiadi, M. Ceriotti, FlashMD, arXiv 2505.19350 (2025); the Point-Edge Transformer:
S. N. Pozdnyakov, M. Ceriotti, NeurIPS 2023, arXiv 2305.19302.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import rms_norm, silu

from mdistill.graph import edge_vectors
from mdistill.nets.layers import Linear, cutoff_envelope, rows
from mdistill.nets.network import Arrival, OneStepMap, double_copy
from mdistill.nets.settings import OneStepAttentionSettings
from mdistill.nets.splitting_map import build_graph_at
from mdistill.nets.uncertainty import LastLayerUncertainty
from mdistill.types import Graph, System

_TINY = 1e-18
_LEAST = 1e-15


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbourhood:
    """Edges in a dense table of atoms × slots.

    Attributes:
        slots: Edge in each slot, the number of edges where there is none.
        place: Slot (atom × slots + slot) of each edge.
        reverse: The edge from j to i of the edge from i to j.
        bias: [atom, token] log of the envelope; 0 for the atom's own token, very low where there is no edge.
    """

    slots: Int[Tensor, "atom slot"]
    place: Int[Tensor, " edge"]
    reverse: Int[Tensor, " edge"]
    bias: Float[Tensor, "atom token"]


class OneStepAttentionNet(OneStepMap):
    """The map. Buffers set by training: `speed` σ, √u·Å/fs; those of `doubt`."""

    equivariant = False
    speed: Tensor

    def __init__(self, settings: OneStepAttentionSettings, *, seed: int = 0) -> None:
        super().__init__(settings)
        random = torch.Generator().manual_seed(seed)
        n, width = len(settings.elements), settings.width
        self.embedding = torch.nn.Parameter(torch.randn((n, width), generator=random, dtype=torch.float64))
        self.neighbour = torch.nn.Parameter(torch.randn((n, width), generator=random, dtype=torch.float64))
        self.motion = Linear(6, width, bias=True, generator=random)
        self.moving = Linear(width, width, bias=False, generator=random)
        self.rounds = torch.nn.ModuleList(Conversation(settings, random) for _ in range(settings.layers))
        self.own = Linear(width, 6, bias=False, generator=random)
        self.others = Linear(width, 6, bias=False, generator=random)
        with torch.no_grad():
            self.own.weight.mul_(0.1)
            self.others.weight.mul_(0.02)
        self.doubt = LastLayerUncertainty(width, n)
        self.register_buffer("speed", torch.tensor(0.02, dtype=torch.float64))

    def folded(self) -> OneStepAttentionNet:
        return double_copy(self, self.state_dict())

    def in_type(self, dtype: torch.dtype) -> OneStepAttentionNet:
        """Compute in this float type; positions, momenta and uncertainty stay float64."""
        for part in (self.motion, self.moving, self.rounds, self.own, self.others):
            part.to(dtype)
        self.embedding.data, self.neighbour.data = self.embedding.data.to(dtype), self.neighbour.data.to(dtype)
        return self

    def leap(
        self, system: System, momenta: Float[Tensor, "atom 3"], masses: Float[Tensor, " atom"], stride_fs: float, *,
        forces: Float[Tensor, "atom 3"] | None = None, graph: Graph | None = None,
    ) -> Arrival:  # fmt: skip
        """The state after a stride; forces are not used."""
        graph = build_graph_at(system, self.cutoff) if graph is None else graph
        weight, theta, owner = masses.unsqueeze(1), stride_fs / self.settings.stride_fs, system.owner
        drift, total = (x.new_zeros((system.n_structs, x.shape[1])).index_add(0, owner, x) for x in (momenta, weight))
        common = (drift / total).index_select(0, owner)
        scaled = (momenta - weight * common) / weight.sqrt() / self.speed
        token, edges, envelope = self._tokens(graph, scaled, masses, theta)
        out = self.own(token) + token.new_zeros((len(token), 6)).index_add(0, graph.receiver, self.others(edges) * envelope)
        push = self.speed * out.to(torch.float64).view(-1, 2, 3)
        root = weight.sqrt() if self.settings.mass_scaled else weight.mean().sqrt()
        start = momenta if self.settings.residual else weight * common
        push = theta * push if self.settings.residual else push
        return Arrival(
            positions=system.positions + stride_fs * (start / weight + push[:, 0] / root),
            momenta=start + root * push[:, 1],
            features=token,
        )

    def _tokens(
        self, graph: Graph, scaled: Float[Tensor, "atom 3"], masses: Float[Tensor, " atom"], theta: float
    ) -> tuple[Float[Tensor, "atom width"], Float[Tensor, "edge width"], Float[Tensor, "edge 1"]]:
        """Input of the heads: tokens of atoms and of edges after the last round, and the envelope of edges."""
        vectors, kind = edge_vectors(graph), self.embedding.dtype
        distance = (vectors.square().sum(1, keepdim=True) + _TINY).sqrt()
        envelope = cutoff_envelope(distance, self.cutoff)
        species = self.species(graph.system.numbers)
        near = neighbourhood(graph, envelope.squeeze(1).to(kind))
        clock = torch.full((len(species), 2), theta, dtype=torch.float64)
        motion = torch.cat([scaled, clock, masses.log().unsqueeze(1) / 3.0], 1).to(kind)
        token = self.embedding.index_select(0, species) + self.moving(silu(self.motion(motion)))
        edges = self.neighbour.index_select(0, species.index_select(0, graph.sender))
        shape = torch.cat([vectors, distance], 1).to(kind)
        heard = torch.zeros_like(edges)
        for part in self.rounds:
            token, edges = part(token, edges, heard, shape, near)
            heard = edges.index_select(0, near.reverse)
        return token, edges, envelope.to(kind)


class Conversation(torch.nn.Module):
    """One layer: edges hear their reverses, then attention layers among the tokens of every atom."""

    def __init__(self, settings: OneStepAttentionSettings, random: torch.Generator) -> None:
        super().__init__()
        width = settings.width
        self.shape = Linear(4, width, bias=True, generator=random)
        self.join = Linear(3 * width, width, bias=True, generator=random)
        self.after = Linear(width, width, bias=False, generator=random)
        self.layers = torch.nn.ModuleList(Attention(width, settings.heads, random) for _ in range(settings.attention_layers))

    def forward(self, token: Tensor, edges: Tensor, heard: Tensor, shape: Tensor, near: Neighbourhood) -> tuple[Tensor, Tensor]:
        joined = torch.cat([silu(self.shape(shape)), heard, edges], 1)
        edges = edges + self.after(silu(self.join(joined)))
        atoms, slots = near.slots.shape
        filled = torch.cat([edges, edges.new_zeros((1, edges.shape[1]))]).index_select(0, near.slots.flatten())
        tokens = torch.cat([token.unsqueeze(1), filled.view(atoms, slots, -1)], 1)
        for layer in self.layers:
            tokens = layer(tokens, near.bias)
        return tokens[:, 0], tokens[:, 1:].flatten(0, 1).index_select(0, near.place)


class Attention(torch.nn.Module):
    """softmax(q·k/√d + bias) v over the tokens of an atom, then SwiGLU; both on normalised tokens, added to what was there."""

    def __init__(self, width: int, heads: int, random: torch.Generator) -> None:
        super().__init__()
        self.heads = heads
        self.ask = Linear(width, 3 * width, bias=False, generator=random)
        self.answer = Linear(width, width, bias=False, generator=random)
        self.gate = Linear(width, 4 * width, bias=True, generator=random)
        self.back = Linear(2 * width, width, bias=False, generator=random)

    def forward(self, tokens: Float[Tensor, "atom token width"], bias: Float[Tensor, "atom token"]) -> Tensor:
        atoms, count, width = tokens.shape
        asked = self.ask(rms_norm(tokens, (width,))).view(atoms, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = asked.unbind(0)
        logits = query @ key.transpose(2, 3) / sqrt(key.shape[3]) + bias[:, None, None, :]
        spoken = (logits.softmax(3) @ value).transpose(1, 2).reshape(atoms, count, width)
        tokens = tokens + self.answer(spoken)
        gate, plain = self.gate(rms_norm(tokens, (width,))).chunk(2, 2)
        return tokens + self.back(silu(gate) * plain)


def neighbourhood(graph: Graph, envelope: Float[Tensor, " edge"]) -> Neighbourhood:
    """Dense table of a graph's edges and the reverse of each."""
    slots = rows(graph.receiver, graph.system.n_atoms)
    place = torch.empty(len(envelope) + 1, dtype=torch.int64)
    place = place.index_copy(0, slots.flatten(), torch.arange(slots.numel()))[:-1]
    weights = torch.cat([envelope, envelope.new_zeros(1)]).index_select(0, slots.flatten()).view(slots.shape)
    bias = torch.cat([torch.zeros_like(weights[:, :1]), weights.clamp_min(_LEAST).log()], 1)
    return Neighbourhood(slots=slots, place=place, reverse=reverse_of(graph), bias=bias)


def reverse_of(graph: Graph) -> Int[Tensor, " edge"]:
    """For each edge i→j with shift n the number of the edge j→i with shift −n."""
    import numpy as np

    shift = -graph.shift.numpy()
    order = np.lexsort((shift[:, 2], shift[:, 1], shift[:, 0], graph.receiver.numpy(), graph.sender.numpy()))
    return torch.from_numpy(order)
