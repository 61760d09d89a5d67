r"""The edge transformer: one token per ordered pair of atoms, attention over triangles, forces without an energy gradient.

A token x_ij stands for every pair within the cutoff, i = j included. In each block (pre-norm)

    attention    x_ij += Σ_l α_ilj v_il ∘ w_lj,   α_ilj = softmax over l of (q_il · k_lj / √d + log f_il + log f_lj)
    feed-forward x_ij += W₂ GELU(W₁ x_ij)

with l over the common neighbours of i and j, both of them included, and at the end for every atom

    h_i = Σ_j f_ij ψ₁(x_ij) + f_ji ψ₂(x_ji)     (F_i, E_i) = s ψ₃(h_i) − those of the isolated atom

q, k, v, w: linear in the normalised token, per head of width d   ∘: product number by number   s: scale
f = (1 − (r̃/r_c)²)³: envelope, 1 where i = j; 0 of pairs never labelled   r̃: distance, frozen below the closest label

Where all pairs of a molecule lie within the cutoff this is the published network but for its embedding: Gaussians of
e^{−r/2}, whose derivatives are smooth at the cutoff, and real spherical harmonics of the unit vector up to l = 3. These are
polynomials, whose rounding errors in float32 do not grow as those of arc cosines with high frequencies do. Equal atoms are
exactly interchangeable. Rotations are not built in: they are learned (`direct/objective.py`).
Cost: triples × width per block; N³ triples of a molecule, atoms × neighbours² with a cutoff (`kernels/edge_attention.hpp`).

References:
    M. Eissler et al., How simple can you go? An off-the-shelf transformer approach to molecular dynamics, arXiv 2503.01431.
    L. Bergen, T. O'Donnell, D. Bahdanau, Systematic generalization with edge transformers, NeurIPS 2021, arXiv 2112.00578.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import sqrt
from typing import Any

import numpy as np
import psutil
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import gelu

from mdistill.errors import BadInput
from mdistill.graph import electronic_states
from mdistill.kernels.build import NoKernel
from mdistill.kernels.edge_attention import Triples, common_neighbours
from mdistill.kernels.edge_attention_gpu import attention_kernel
from mdistill.nets.layers import FREEZE, Linear, cutoff_envelope, frozen_below, harmonics, harmonics_table
from mdistill.nets.network import Student, double_copy
from mdistill.nets.settings import EdgeTransformerSettings
from mdistill.notices import notify
from mdistill.types import Graph

_TINY, _DEGREE, _USUAL_SUM = 1e-18, 3, 4.0
_TOLD_GB, _TOLD_TRAINING_GB, _BYTES, _BYTES_TRAINING, _BYTES_LISTED = 0.5, 2.0, 60, 95, 8
"""Memory told from here on; bytes for each token × width (in training × layers too) and for each triple of a list."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Pair tokens of a graph and of one isolated atom of every element behind it.

    Attributes:
        receiver, sender: i and j of each token.
        edge: Its edge; the number of edges where i = j.
        triples: Triangles of attention.
    """

    receiver: Int[Tensor, " token"]
    sender: Int[Tensor, " token"]
    edge: Int[Tensor, " token"]
    triples: Triples


class EdgeTransformerNet(Student):
    """The network: `net(graph, vectors)` gives the energy of every atom, `energies_and_forces` also the forces."""

    table: Tensor
    knots: Tensor

    def __init__(self, settings: EdgeTransformerSettings, *, seed: int = 0) -> None:
        super().__init__(settings)
        linear = partial(Linear, generator=torch.Generator().manual_seed(seed), bias=True)
        n, width = len(settings.elements), settings.width
        inputs = settings.radial + (_DEGREE + 1) ** 2 - 1
        self.first = linear(inputs, width)
        self.elements_of_pair = linear(2 * n + 1, width).weight
        self.state = linear(3, width) if settings.states else None
        self.embed = linear(width, width)
        self.blocks = torch.nn.ModuleList(Block(settings, linear) for _ in range(settings.layers))
        self.norm = torch.nn.LayerNorm(width, dtype=torch.float64)
        self.pool = linear(width, 2 * width)
        self.hidden, self.last = linear(width, width), linear(width, 4)
        self.register_buffer("table", harmonics_table(_DEGREE), persistent=False)
        knots = torch.linspace(np.exp(-0.5 * settings.cutoff), 1.0, settings.radial, dtype=torch.float64)
        self.register_buffer("knots", knots, persistent=False)

    def folded(self) -> EdgeTransformerNet:
        return double_copy(self, self.state_dict())

    def forward(self, graph: Graph, vectors: Float[Tensor, "edge 3"]) -> Float[Tensor, " atom"]:
        species = self.species(graph.system.numbers)
        core = self.core_energies(graph, vectors.to(self.knots.dtype), species)
        return self._energies(self._outputs(graph, vectors, species), species) + core

    def energies_and_forces(
        self, graph: Graph, vectors: Float[Tensor, "edge 3"]
    ) -> tuple[Float[Tensor, " atom"], Float[Tensor, "atom 3"]]:
        """Energy of every atom (eV, float64) and the forces of the head (eV/Å), which sum to zero over each struct."""
        species, owner = self.species(graph.system.numbers), graph.system.owner
        out = self._outputs(graph, vectors, species)
        forces = out[:, :3] * self.scale.to(out.dtype)
        count = torch.bincount(owner, minlength=graph.system.n_structs).to(forces.dtype).unsqueeze(1)
        mean = forces.new_zeros((graph.system.n_structs, 3)).index_add(0, owner, forces) / count
        core, core_forces = self.core_forces(graph, vectors.to(self.knots.dtype), species)
        return self._energies(out, species) + core, forces - mean.index_select(0, owner) + core_forces

    def _energies(self, out: Float[Tensor, "atom 4"], species: Int[Tensor, " atom"]) -> Float[Tensor, " atom"]:
        return out[:, 3].to(torch.float64) * self.scale + self.reference.index_select(0, species)

    def _outputs(self, graph: Graph, vectors: Tensor, species: Tensor) -> Float[Tensor, "atom 4"]:
        """Forces and energy of every atom less those of the isolated atom, over the scale."""
        atoms, n = len(species), len(self.settings.elements)
        tokens = tokens_of(graph, n, self.settings.width, self.settings.layers if torch.is_grad_enabled() else 1)
        known = torch.cat([species, torch.arange(n, device=species.device)])
        x, envelope = self._embedding(graph, tokens, vectors.to(self.knots.dtype), known)
        bias = envelope.clamp_min(_TINY).log()
        for block in self.blocks:
            x = block(x, bias, tokens.triples)
        psi = gelu(self.pool(self.norm(x))) * envelope.unsqueeze(1) * (1.0 / _USUAL_SUM)
        from_row, from_column = psi.chunk(2, 1)
        pooled = x.new_zeros((len(known), x.shape[1])).index_add(0, tokens.receiver, from_row)
        out: Tensor = self.last(gelu(self.hidden(pooled.index_add(0, tokens.sender, from_column))))
        return out[:atoms] - out[atoms:].index_select(0, species)

    def _embedding(
        self, graph: Graph, tokens: Tokens, vectors: Float[Tensor, "edge 3"], known: Int[Tensor, " row"]
    ) -> tuple[Float[Tensor, "token width"], Float[Tensor, " token"]]:
        """x before the first block, and the envelope f."""
        n, species = len(self.settings.elements), known[: graph.system.n_atoms]
        distance = (vectors.square().sum(1, keepdim=True) + _TINY).sqrt()
        closest = self.closest.flatten().index_select(0, self.pair(graph, species)).unsqueeze(1)
        felt = frozen_below(distance, closest, FREEZE)
        envelope = cutoff_envelope(felt, self.cutoff) * (closest < self.cutoff).to(felt.dtype)
        width = (self.settings.radial - 1) / (self.knots[-1] - self.knots[0])
        radial = torch.exp(-((torch.exp(-0.5 * felt) - self.knots) * width).square())
        features = torch.cat([radial, harmonics(vectors / distance, self.table)[:, 1:]], 1) * envelope
        alone = features.new_zeros((1, features.shape[1]))
        features = torch.cat([features, alone]).index_select(0, tokens.edge)
        first, second = known.index_select(0, tokens.receiver), known.index_select(0, tokens.sender)
        itself = tokens.edge == len(vectors)
        of_pair = self.elements_of_pair
        x = self.first(features) + of_pair.index_select(0, first) + of_pair.index_select(0, second + n)
        x = x + itself.to(x.dtype).unsqueeze(1) * of_pair[2 * n]
        if self.state is not None:
            states = torch.cat([electronic_states(graph.system).to(x)[graph.system.owner], x.new_zeros((n, 3))])
            x = x + self.state(states).index_select(0, tokens.receiver)
        reach = torch.cat([envelope.squeeze(1), envelope.new_ones(1)]).index_select(0, tokens.edge)
        return x + self.embed(gelu(x)), reach


class Block(torch.nn.Module):
    """Triangular attention and feed-forward; see the equations above."""

    def __init__(self, settings: EdgeTransformerSettings, linear: Any) -> None:
        super().__init__()
        width = settings.width
        self.heads = settings.heads
        self.before, self.between = (torch.nn.LayerNorm(width, dtype=torch.float64) for _ in range(2))
        self.sides, self.join = linear(width, 4 * width), linear(width, width)
        self.widen, self.narrow = linear(width, 2 * width), linear(2 * width, width)

    def forward(self, x: Float[Tensor, "token width"], bias: Float[Tensor, " token"], triples: Triples) -> Tensor:
        sides = self.sides(self.before(x)).view(len(x), 4, self.heads, -1)
        x = x + self.join(attend(sides, bias, triples).flatten(1))
        out: Tensor = x + self.narrow(gelu(self.widen(self.between(x))))
        return out


def attend(
    sides: Float[Tensor, "token 4 head d"], bias: Float[Tensor, " token"], triples: Triples
) -> Float[Tensor, "token head d"]:
    """Attention of q, k, v, w over triangles: compiled, where it can be, else `attend_plain`."""
    if sides.device.type in ("cpu", "cuda") and sides.dtype in (torch.float32, torch.float64):
        try:
            result: Tensor = _Attend.apply(sides, bias, triples)
            return result
        except NoKernel as error:
            notify(f"the edge transformer runs without its kernel, slowly and with memory for every triangle: {error}")
    return attend_plain(sides, bias, triples)


def attend_plain(
    sides: Float[Tensor, "token 4 head d"], bias: Float[Tensor, " token"], triples: Triples
) -> Float[Tensor, "token head d"]:
    """The same in torch, differentiable any number of times: an array of all triangles × width."""
    token, pairs = (torch.from_numpy(part.astype(np.int64)).to(sides.device) for part in triples.listed())
    a, b = pairs.unbind(1)
    q, k, v, w = sides.unbind(1)
    score = (q[a] * k[b]).sum(2) / sqrt(sides.shape[3]) + (bias[a] + bias[b]).unsqueeze(1)
    rows = token.unsqueeze(1).expand_as(score)
    top = torch.full_like(q[:, :, 0], -torch.inf).scatter_reduce(0, rows, score.detach(), "amax")
    share = torch.exp(score - top[token])
    total = torch.zeros_like(top).index_add(0, token, share)
    return torch.zeros_like(q).index_add(0, token, share.unsqueeze(2) * v[a] * w[b]) / total.unsqueeze(2)


class _Attend(torch.autograd.Function):
    """The kernel and its gradient; a gradient that is itself differentiated goes through `attend_plain`."""

    @staticmethod
    def forward(ctx: Any, sides: Tensor, bias: Tensor, triples: Triples) -> Tensor:
        ctx.kernel, ctx.triples = attention_kernel(sides), triples
        result, logs = ctx.kernel.attend(triples, sides.detach().contiguous(), bias.detach().contiguous())
        ctx.save_for_backward(sides, bias, result, logs)
        return result  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        sides, bias, result, logs = ctx.saved_tensors
        if torch.is_grad_enabled():
            both = sides.view_as(sides), bias.view_as(bias)  # sides may depend on the bias by themselves
            out = attend_plain(*both, ctx.triples)
            wanted = [part for part in both if part.requires_grad]
            found = iter(torch.autograd.grad(out, wanted, gradient, create_graph=True))
            return (*(next(found) if part.requires_grad else None for part in both), None)
        given, from_above = (sides.detach().contiguous(), bias.detach().contiguous()), gradient.detach().contiguous()
        return (*ctx.kernel.attend_back(ctx.triples, given, (result, logs), from_above), None)


def tokens_of(graph: Graph, more: int, width: int, layers: int) -> Tokens:
    """Tokens of a graph and of `more` isolated atoms.

    Raises:
        BadInput: The memory of one evaluation, told from 0.5 GB on (of a batch in training 2 GB), is more than is left here.
    """
    system, device = graph.system, graph.receiver.device
    atoms, edges, counts = system.n_atoms, len(graph.receiver), torch.bincount(system.owner, minlength=system.n_structs)
    listed = bool(system.pbc.any()) or edges != int((counts * (counts - 1)).sum())
    tell_memory(graph, torch.bincount(graph.receiver, minlength=atoms) + 1 if listed else None, width, layers)
    alone = torch.arange(atoms + more, device=device)
    receiver, sender = torch.cat([graph.receiver, alone]), torch.cat([graph.sender, alone])
    edge = torch.cat([torch.arange(edges, device=device), torch.full_like(alone, edges)])
    if listed:
        shift = torch.cat([graph.shift, graph.shift.new_zeros((atoms + more, 3))])
        triples = common_neighbours(*(part.cpu().numpy() for part in (receiver, sender, shift)))
        return Tokens(receiver=receiver, sender=sender, edge=edge, triples=triples)
    sizes = torch.cat([counts, torch.ones(more, dtype=torch.int64, device=device)])
    owner = torch.repeat_interleave(sizes)
    first, start = (sizes.cumsum(0) - sizes)[owner], (sizes.square().cumsum(0) - sizes.square())[owner]
    place = start[receiver] + (receiver - first[receiver]) * sizes[owner][receiver] + sender - first[sender]
    order = place.argsort()
    triples = Triples(tokens=len(order), sizes=sizes.cpu().numpy().astype(np.int64))
    return Tokens(receiver=receiver[order], sender=sender[order], edge=edge[order], triples=triples)


def tell_memory(graph: Graph, near: Int[Tensor, " atom"] | None, width: int, layers: int) -> None:
    """Tell or refuse the memory of an evaluation. near: tokens of each atom, where triples are listed; layers: that are kept."""
    atoms, edges, structures = graph.system.n_atoms, len(graph.receiver), graph.system.n_structs
    need = 1e-9 * (_BYTES if layers == 1 else _BYTES_TRAINING * layers) * width * (edges + atoms)
    need += 0.0 if near is None else 1e-9 * _BYTES_LISTED * float(near.square().sum())
    if need < (_TOLD_GB if layers == 1 else _TOLD_TRAINING_GB):
        return
    left = 1e-9 * psutil.virtual_memory().available
    text = f"{atoms} atoms" + (f" of {structures} structures" if structures > 1 else "") + f" need about {need:.1g} GB of memory"
    if need > left:
        fix = "train with a shorter cutoff, such as 6 Å" + (", or lower --fit.batch-size" if structures > 1 else "")
        raise BadInput("structure", f"{text}: {edges} pairs within the cutoff", allowed=f"{left:.1f} GB", fix=fix)
    text = text if structures == 1 else "batches need more than 2 GB of memory"
    notify(f"edge transformer: {text}; less with a shorter cutoff")
