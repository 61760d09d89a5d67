r"""The message-passing student: PaiNN, scalar and vector features of every atom that are exchanged with its neighbours.

Symbols: i, j atoms; r, û length and direction of the edge i→j; s_i scalar and v_i vector features; ∘ channel by channel.

    W(r) = Σ_n w_n b_n(r),   b_n(r) = √(2/r_c) sin(n π r̃ / r_c) / r̃ · (1 − (r̃/r_c)²)³     filters w: one per use and block
    message  Δs_i = Σ_j φ_s(s_j) ∘ W_s(r)
             Δv_i = Σ_j v_j ∘ φ_v(s_j) ∘ W_v(r) + Σ_j φ_u(s_j) ∘ W_u(r) û
    update   Δv_i = a_vv(x_i) ∘ U v_i,   Δs_i = a_sv(x_i) ∘ ⟨U v_i, V v_i⟩ + a_ss(x_i),   x_i = (s_i, √(|V v_i|² + 1) − 1)
    energy   E_i = E0_Z + s (O(s_i) − O(s of the isolated atom)) + ½ Σ_j core repulsion
    forces   F_i = s Σ_c g_c(s_i) v_i,c + those of the core, less their mean over the struct   (direct head only)
φ, a, O, g are MLPs of one hidden layer; U, V mix channels; s_i starts as a vector of the element, v_i as zero.

Differences from the paper, so that derivatives exist everywhere and nothing is learned where there is no label: the envelope of
b_n has two continuous derivatives at r_c (b_n itself three; the paper's cosine has one), the norm of V v is softened at
zero, filters have no bias, and r̃ is r frozen a little below the closest labelled distance of the pair.

Eager speed: flat edge lists, a contiguous array per use, sums by index_add. At width 64 and 28 edges per atom a message with
forces and their gradient took 120 to 127 µs/atom, 180 to 190 with slices of one array, 195 to 270 with dense tables of
neighbours, summed channel by channel or as matrix products over the radial basis. The first message knows only elements, so
its sums run over the few radial functions and the filters act once per atom.

Reference:
    K. T. Schütt, O. T. Unke, M. Gastegger, Equivariant message passing for the prediction of tensorial properties and
    molecular spectra, ICML 2021, arXiv 2102.03150.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import pi, sqrt

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mdistill.errors import BadInput
from mdistill.nets.layers import FREEZE, Linear, cutoff_envelope, frozen_below
from mdistill.nets.network import Student, double_copy
from mdistill.nets.settings import PainnSettings
from mdistill.types import Graph

_TINY = 1e-18


@dataclass(frozen=True, slots=True, kw_only=True)
class Edges:
    """Edges of the messages: b_n(r), û, sender and receiver."""

    receiver: Int[Tensor, " edge"]
    sender: Int[Tensor, " edge"]
    sender_species: Int[Tensor, " edge"]
    basis: Float[Tensor, "edge radial"]
    unit: Float[Tensor, "edge 3"]


class PainnNet(Student):
    """The network: `net(graph, vectors)` gives the energy of every atom; a pair without labels sends no messages."""

    waves: Tensor
    gate: Mlp | None

    def __init__(self, settings: PainnSettings, *, seed: int = 0) -> None:
        super().__init__(settings)
        random = torch.Generator().manual_seed(seed)
        n, width = len(settings.elements), settings.width
        self.embedding = torch.nn.Parameter(torch.randn((n, width), generator=random, dtype=torch.float64))
        self.messages = torch.nn.ModuleList(Message(width, settings.radial, random) for _ in range(settings.layers))
        self.updates = torch.nn.ModuleList(Update(width, random) for _ in range(settings.layers))
        self.readout = Mlp(width, width // 2, 1, random)
        self.gate = Mlp(width, width // 2, width, random) if settings.direct else None
        waves = pi / settings.cutoff * torch.arange(1, settings.radial + 1, dtype=torch.float64)
        self.register_buffer("waves", waves, persistent=False)

    def folded(self) -> PainnNet:
        return double_copy(self, self.state_dict())

    def forward(self, graph: Graph, vectors: Float[Tensor, "edge 3"]) -> Float[Tensor, " atom"]:
        species = self.species(graph.system.numbers)
        scalar = self._features(graph, vectors, species)[0]
        return self._energies(scalar, species) + self.core_energies(graph, vectors.to(self.embedding.dtype), species)

    def energies_and_forces(
        self, graph: Graph, vectors: Float[Tensor, "edge 3"]
    ) -> tuple[Float[Tensor, " atom"], Float[Tensor, "atom 3"]]:
        """Energy of every atom (eV, float64) and the direct head's forces (eV/Å), which sum to zero over each struct."""
        if self.gate is None:
            raise BadInput("potential", "has no direct head", allowed="a PaiNN student trained with one", fix="--painn.direct")
        species = self.species(graph.system.numbers)
        scalar, vector = self._features(graph, vectors, species)
        atoms, owner = len(species), graph.system.owner
        gate = self.gate(scalar[:atoms])
        forces = (vector[:atoms] * gate.unsqueeze(1)).sum(2) * self.scale.to(gate.dtype)
        count = torch.bincount(owner, minlength=graph.system.n_structs).to(forces.dtype).unsqueeze(1)
        mean = forces.new_zeros((graph.system.n_structs, 3)).index_add(0, owner, forces) / count
        core, core_forces = self.core_forces(graph, vectors.to(self.embedding.dtype), species)
        return self._energies(scalar, species) + core, forces - mean.index_select(0, owner) + core_forces

    def _features(
        self, graph: Graph, vectors: Tensor, species: Tensor
    ) -> tuple[Float[Tensor, "rows width"], Float[Tensor, "rows 3 width"]]:
        """Scalar and vector features of all atoms, and in further rows those of an isolated atom of every element."""
        n = len(self.settings.elements)
        known = torch.cat([species, torch.arange(n, device=species.device)])
        edges = self._edges(graph, vectors.to(self.embedding.dtype), species)
        scalar = self.embedding.index_select(0, known)
        vector = scalar.new_zeros((len(known), 3, self.settings.width))
        for k, (message, update) in enumerate(zip(self.messages, self.updates, strict=True)):
            if k == 0:
                change, turn = message.of_elements(self.embedding, edges, len(known))  # type: ignore[operator]
            else:
                change, turn = message(scalar, vector, edges)
            scalar, vector = scalar + change, vector + turn
            change, turn = update(scalar, vector)
            scalar, vector = scalar + change, vector + turn
        return scalar, vector

    def _edges(self, graph: Graph, vectors: Float[Tensor, "edge 3"], species: Int[Tensor, " atom"]) -> Edges:
        pair = self.pair(graph, species)
        distance = (vectors.square().sum(1, keepdim=True) + _TINY).sqrt()
        closest = self.closest.flatten().index_select(0, pair).unsqueeze(1)
        felt = frozen_below(distance, closest, FREEZE)
        met = (closest < self.cutoff).to(felt.dtype)
        window = sqrt(2.0 / self.cutoff) * met * cutoff_envelope(felt, self.cutoff) / felt
        return Edges(
            receiver=graph.receiver, sender=graph.sender, sender_species=pair.remainder(len(self.settings.elements)),
            basis=torch.sin(felt * self.waves) * window, unit=vectors / distance,
        )  # fmt: skip

    def _energies(self, scalar: Float[Tensor, "rows width"], species: Int[Tensor, " atom"]) -> Float[Tensor, " atom"]:
        out = self.readout(scalar).squeeze(1)
        atoms = len(species)
        learned = (out[:atoms] - out[atoms:].index_select(0, species)).to(torch.float64)
        return learned * self.scale + self.reference.index_select(0, species)


class Message(torch.nn.Module):
    """Messages from the neighbours; see the equations above."""

    def __init__(self, width: int, radial: int, random: torch.Generator) -> None:
        super().__init__()
        self.width = width
        self.speak = Mlp(width, width, 3 * width, random)
        start = torch.randn((3, radial, width), generator=random, dtype=torch.float64)
        self.filters = torch.nn.Parameter(start / sqrt(radial))

    def forward(
        self, scalar: Float[Tensor, "rows width"], vector: Float[Tensor, "rows 3 width"], edges: Edges,
    ) -> tuple[Float[Tensor, "rows width"], Float[Tensor, "rows 3 width"]]:  # fmt: skip
        plain, along, out = (part.contiguous() for part in self.speak(scalar).split(self.width, 1))
        filters, sender = [edges.basis @ weights for weights in self.filters], edges.sender
        on_scalar = plain.index_select(0, sender) * filters[0]
        turned = (vector * along.unsqueeze(1)).flatten(1).index_select(0, sender).view(-1, 3, self.width)
        pushed = out.index_select(0, sender) * filters[2]
        on_vector = torch.addcmul(turned * filters[1].unsqueeze(1), edges.unit.unsqueeze(2), pushed.unsqueeze(1))
        return (
            torch.zeros_like(scalar).index_add(0, edges.receiver, on_scalar),
            torch.zeros_like(vector).index_add(0, edges.receiver, on_vector),
        )

    def of_elements(
        self, embedding: Float[Tensor, "species width"], edges: Edges, rows: int
    ) -> tuple[Float[Tensor, "rows width"], Float[Tensor, "rows 3 width"]]:
        """The same while scalars are those of the elements and vectors zero: moments of the basis first, filters afterwards."""
        n, (_, radial) = len(embedding), edges.basis.shape
        basis = edges.basis.unsqueeze(1)
        moments = torch.cat([basis, edges.unit.unsqueeze(2) * basis], 1).flatten(1)
        place = edges.receiver * n + edges.sender_species
        moments = moments.new_zeros((rows * n, 4 * radial)).index_add(0, place, moments)
        moments = moments.view(rows, n, 4, radial).transpose(1, 2).flatten(2)
        plain, _, out = self.speak(embedding).unsqueeze(1).split(self.width, 2)
        return moments[:, 0] @ (plain * self.filters[0]).flatten(0, 1), moments[:, 1:] @ (out * self.filters[2]).flatten(0, 1)


class Update(torch.nn.Module):
    """Update of an atom's scalars and vectors; see the equations above."""

    def __init__(self, width: int, random: torch.Generator) -> None:
        super().__init__()
        self.width = width
        self.mix = Linear(width, 2 * width, bias=False, generator=random)
        self.answer = Mlp(2 * width, width, 3 * width, random)

    def forward(
        self, scalar: Float[Tensor, "rows width"], vector: Float[Tensor, "rows 3 width"]
    ) -> tuple[Float[Tensor, "rows width"], Float[Tensor, "rows 3 width"]]:
        first, second = self.mix(vector).split(self.width, 2)
        length = (second.square().sum(1) + 1.0).sqrt() - 1.0
        on_vector, inner, plain = self.answer(torch.cat([scalar, length], 1)).split(self.width, 1)
        return inner * (first * second).sum(1) + plain, on_vector.unsqueeze(1) * first


class Mlp(torch.nn.Module):
    """Two linear layers with SiLU between."""

    def __init__(self, n_in: int, hidden: int, n_out: int, random: torch.Generator) -> None:
        super().__init__()
        self.first = Linear(n_in, hidden, bias=True, generator=random)
        self.last = Linear(hidden, n_out, bias=True, generator=random)

    def forward(self, values: Float[Tensor, "row n_in"]) -> Float[Tensor, "row n_out"]:
        out: Tensor = self.last(torch.nn.functional.silu(self.first(values)))
        return out
