r"""A one-step map: free flight, the force at the start, and learned impulses between pairs of atoms.

    q' = q + t p/m + (t/m) [ g_q A t F/2 + Σ_j K_ij ]        p' = p + g_p A t F + Σ_j J_ij        J_ij = −J_ji,  K_ij = −K_ji
    J_ij = A t s_ij Σ_x c_x(ij) X_ij       X_ij ∈ { θ² r̂, u_ij, r̂ (r̂·u_ij), a_ij, r̂ (r̂·a_ij), θ (V_j − V_i) }     K likewise

q, p, m: positions, momenta, masses   t: stride   θ = t/longest stride   A: units.ACCELERATION   F: forces
of its student   u_ij: free flight v t of j less that of i   a_ij: A F t²/m likewise   r̂: from i to j   V_i: learned vectors
c: an MLP of the distance, of invariants of u_ij, a_ij and r̂, and of s_i + s_j, learned scalars of both atoms; 0 at the cutoff
s_ij: eV/Å, √(s_i s_j), what impulses of these elements are like   g = 1 + θ² × (a function of θ)

s_i and V_i come from rounds of messages that carry r̂, u, a and V (PaiNN with flights and accelerations, what layers see being
bounded). So the map is
equivariant under rotations, reflections and permutations, knows no frame at rest, conserves momentum, and moves the centre
of mass as in free flight, for any weights; an isolated atom flies freely; and since F, u and a vanish with t as they
do, p' → p + A t F as t → 0. It is neither symplectic nor reversible, and does not conserve energy: `simulation/one_step_map.py`.

References:
    Long strides learned from trajectories, uncertainty of the last layer: F. Bigi, S. Chong, A. Kristiadi, M. Ceriotti, FlashMD,
    arXiv 2505.19350 (2025). Messages: K. T. Schütt, O. T. Unke, M. Gastegger, arXiv 2102.03150 (2021).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import pi, sqrt

import torch
from ase.data import atomic_masses
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import silu

from mdistill.derivatives import forces_through
from mdistill.errors import BadInput
from mdistill.graph import edge_vectors
from mdistill.nets.layers import Linear, cutoff_envelope
from mdistill.nets.moment import MomentNet
from mdistill.nets.network import Arrival, OneStepMap, double_copy
from mdistill.nets.painn import Mlp, Update
from mdistill.nets.settings import INVARIANTS, OneStepSettings
from mdistill.nets.splitting_map import build_graph_at
from mdistill.nets.uncertainty import LastLayerUncertainty
from mdistill.types import Graph, System
from mdistill.units import ACCELERATION

FLIGHT = 0.2
"""Å; what free flights and accelerations are measured in inside the networks."""
_TINY = 1e-18
_ARROWS = 5
_QUIET = 0.15
"""Share of the usual size that messages begin with: they are sums over neighbours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Meetings:
    """Directed edges as a layer sees them.

    Attributes:
        receiver, sender: Atoms.
        envelope: 1 at distance 0, 0 at the cutoff.
        seen: Radial basis, and asinh of r̂·u, r̂·a, u·u, u·a, a·a.
        arrows: r̂, u, r̂ (r̂·u), a, r̂ (r̂·a); u and a in units of FLIGHT.
    """

    receiver: Int[Tensor, " edge"]
    sender: Int[Tensor, " edge"]
    envelope: Float[Tensor, "edge 1"]
    seen: Float[Tensor, "edge seen"]
    arrows: Float[Tensor, "edge 3 arrow"]

    def halved(self) -> Meetings:
        """Every pair of different atoms once."""
        once = (self.receiver < self.sender).nonzero().squeeze(1)
        parts = {name: getattr(self, name).index_select(0, once) for name in self.__slots__}
        return Meetings(**parts)


class OneStepNet(OneStepMap):
    """The map. Buffers set by training: `scale` [2, species] eV/Å of position and momentum impulses; those of `doubt`."""

    scale: Tensor
    waves: Tensor

    def __init__(self, settings: OneStepSettings, *, seed: int = 0) -> None:
        super().__init__(settings)
        random = torch.Generator().manual_seed(seed)
        n, width, seen = len(settings.elements), settings.width, settings.waves + INVARIANTS
        self.potential = MomentNet(settings.potential, seed=seed)
        self.embedding = torch.nn.Parameter(torch.randn((n, width), generator=random, dtype=torch.float64))
        self.isotope = torch.nn.Parameter(0.1 * torch.randn((n, width), generator=random, dtype=torch.float64))
        self.pace = Mlp(2, width, width, random)
        self.pull = Mlp(2, width, 2, random)
        self.rounds = torch.nn.ModuleList(Round(width, seen, random) for _ in range(settings.layers))
        self.exchange = Exchange(width, seen, settings.learned, random)
        self.doubt = LastLayerUncertainty(width, n)
        with torch.no_grad():
            self.pull.last.weight.zero_()
        self.register_buffer("scale", torch.ones((2, n), dtype=torch.float64))
        waves = pi / settings.cutoff * torch.arange(1, settings.waves + 1, dtype=torch.float64)
        self.register_buffer("waves", waves, persistent=False)

    def start_from(self, net: MomentNet) -> None:
        """Set the potential of its student, which is not trained.

        Raises:
            BadInput: It has another size or other elements.
        """
        if net.settings != self.settings.potential:
            raise BadInput(
                "potential", f"{net.settings}", allowed=f"{self.settings.potential}", fix="use a potential of that size"
            )
        self.potential.load_state_dict(net.folded().state_dict())
        self.potential.requires_grad_(False)

    def folded(self) -> OneStepNet:
        return double_copy(self, self.state_dict())

    def in_type(self, dtype: torch.dtype) -> OneStepNet:
        """Compute impulses and forces in this float type; positions, momenta and uncertainty stay float64."""
        for part in (self.pace, self.pull, self.rounds, self.exchange):
            part.to(dtype)
        self.embedding.data, self.isotope.data = self.embedding.data.to(dtype), self.isotope.data.to(dtype)
        self.potential.in_type(dtype)
        return self

    def leap(
        self, system: System, momenta: Float[Tensor, "atom 3"], masses: Float[Tensor, " atom"], stride_fs: float, *,
        forces: Float[Tensor, "atom 3"] | None = None, graph: Graph | None = None,
    ) -> Arrival:  # fmt: skip
        graph = build_graph_at(system, self.cutoff) if graph is None else graph
        forces = self.forces(system) if forces is None else forces
        species, weight = self.species(system.numbers), masses.unsqueeze(1)
        theta = stride_fs / self.settings.stride_fs
        speed = torch.tensor([[theta, theta**2]], dtype=self.embedding.dtype)
        edges = self._meetings(graph, stride_fs / weight * momenta, (ACCELERATION * stride_fs**2) / weight * forces)
        scalar, vector = self._features(species, masses, speed, edges)
        impulse = ACCELERATION * stride_fs * self.exchange(scalar, vector, edges.halved(), theta, self.scale[:, species])
        pull = (ACCELERATION * stride_fs) * (1.0 + theta**2 * self.pull(speed)[0].to(torch.float64)).reshape(2, 1, 1) * forces
        return Arrival(
            positions=system.positions + stride_fs / weight * (momenta + 0.5 * pull[0] + impulse[0]),
            momenta=momenta + pull[1] + impulse[1],
            features=scalar,
        )

    def forces(self, system: System) -> Float[Tensor, "atom 3"]:
        """Of the potential, eV/Å; differentiable where the positions are."""
        keep = torch.is_grad_enabled() and system.positions.requires_grad
        return forces_through(self.potential, build_graph_at(system, self.potential.cutoff), create_graph=keep)

    def _features(
        self, species: Tensor, masses: Tensor, speed: Tensor, edges: Meetings
    ) -> tuple[Float[Tensor, "atom width"], Float[Tensor, "atom 3 width"]]:
        usual = torch.from_numpy(atomic_masses)[list(self.settings.elements)].to(masses)
        lighter = (masses / usual.index_select(0, species)).log().unsqueeze(1).to(self.embedding.dtype)
        scalar = self.embedding.index_select(0, species) + lighter * self.isotope.index_select(0, species) + self.pace(speed)
        vector = scalar.new_zeros((len(scalar), 3, scalar.shape[1]))
        for part in self.rounds:
            scalar, vector = part(scalar, vector, edges)
        return scalar, vector

    def _meetings(self, graph: Graph, flight: Float[Tensor, "atom 3"], gain: Float[Tensor, "atom 3"]) -> Meetings:
        vectors, kind = edge_vectors(graph), self.embedding.dtype
        distance = (vectors.square().sum(1, keepdim=True) + _TINY).sqrt()
        envelope = cutoff_envelope(distance, self.cutoff)
        basis = sqrt(2.0 / self.cutoff) * torch.sin(distance * self.waves.to(distance)) / distance
        unit = vectors / distance
        u, a = ((each[graph.sender] - each[graph.receiver]) / FLIGHT for each in (flight, gain))
        along_u, along_a = (unit * u).sum(1, keepdim=True), (unit * a).sum(1, keepdim=True)
        squares = [(x * y).sum(1, keepdim=True) for x, y in ((u, u), (u, a), (a, a))]
        invariants = torch.cat([along_u, along_a, *squares], 1).asinh()
        return Meetings(
            receiver=graph.receiver,
            sender=graph.sender,
            envelope=envelope.to(kind),
            seen=torch.cat([basis, invariants], 1).to(kind),
            arrows=torch.stack([unit, u, along_u * unit, a, along_a * unit], 2).to(kind),
        )


class Round(torch.nn.Module):
    """A message along every edge and what an atom makes of it."""

    def __init__(self, width: int, seen: int, random: torch.Generator) -> None:
        super().__init__()
        self.width = width
        self.receive = Linear(width, width, bias=True, generator=random)
        self.send = Linear(width, width, bias=False, generator=random)
        self.see = Linear(seen, width, bias=False, generator=random)
        self.say = Linear(width, (2 + _ARROWS) * width, bias=False, generator=random)
        self.update = Update(width, random)
        with torch.no_grad():
            self.say.weight.mul_(_QUIET)
            self.update.answer.last.weight.mul_(_QUIET)

    def forward(
        self, scalar: Float[Tensor, "atom width"], vector: Float[Tensor, "atom 3 width"], edges: Meetings
    ) -> tuple[Float[Tensor, "atom width"], Float[Tensor, "atom 3 width"]]:
        receiver, sender, width = edges.receiver, edges.sender, self.width
        calm, vector = bounded(scalar, vector)
        hidden = self.receive(calm).index_select(0, receiver) + self.send(calm).index_select(0, sender) + self.see(edges.seen)
        said = self.say(silu(hidden) * edges.envelope)
        plain, along, rest = said.split([width, width, _ARROWS * width], 1)
        carried = vector.flatten(1).index_select(0, sender).view(-1, 3, width) * along.unsqueeze(1)
        pushed = torch.baddbmm(carried, edges.arrows, rest.view(-1, _ARROWS, width))
        scalar = scalar + torch.zeros_like(scalar).index_add(0, receiver, plain)
        vector = vector + torch.zeros_like(vector).index_add(0, receiver, pushed)
        change, turn = self.update(*bounded(scalar, vector))
        return scalar + change, vector + turn


class Exchange(torch.nn.Module):
    """Impulses between pairs of atoms, equal and opposite; see the equations above."""

    def __init__(self, width: int, seen: int, learned: int, random: torch.Generator) -> None:
        super().__init__()
        self.meet = Linear(width, width, bias=True, generator=random)
        self.see = Linear(seen, width, bias=False, generator=random)
        self.second = Linear(width, width, bias=True, generator=random)
        self.last = Linear(width, 2 * (_ARROWS + learned), bias=False, generator=random)
        self.mix = Linear(width, learned, bias=False, generator=random)
        with torch.no_grad():
            self.last.weight.zero_()

    def forward(
        self, scalar: Float[Tensor, "atom width"], vector: Float[Tensor, "atom 3 width"], pairs: Meetings, theta: float,
        scale: Float[Tensor, "2 atom"],
    ) -> Float[Tensor, "2 atom 3"]:  # fmt: skip
        first, second = pairs.receiver, pairs.sender
        calm, vector = bounded(scalar, vector)
        met, turned = self.meet(calm), self.mix(vector)
        hidden = silu(met.index_select(0, first) + met.index_select(0, second) + self.see(pairs.seen))
        gains = self.last(silu(self.second(hidden)) * pairs.envelope).view(len(first), 2, _ARROWS + turned.shape[2])
        differences = theta * (turned.index_select(0, second) - turned.index_select(0, first))
        paces = pairs.arrows.new_tensor([theta**2, 1.0, 1.0, 1.0, 1.0])
        pushes = (gains @ torch.cat([paces * pairs.arrows, differences], 2).transpose(1, 2)).transpose(0, 1).to(torch.float64)
        pushes = (scale[:, first] * scale[:, second]).sqrt().unsqueeze(2) * pushes
        return pushes.new_zeros((2, len(scalar), 3)).index_add(1, first, pushes).index_add(1, second, -pushes)


def bounded(
    scalar: Float[Tensor, "atom width"], vector: Float[Tensor, "atom 3 width"]
) -> tuple[Float[Tensor, "atom width"], Float[Tensor, "atom 3 width"]]:
    """Scalars and vectors of every atom over √(1 + their mean square): small ones as they are, none of them large."""
    length = (1.0 + vector.square().sum(1).mean(1)).rsqrt()
    return scalar * (1.0 + scalar.square().mean(1, keepdim=True)).rsqrt(), vector * length.reshape(-1, 1, 1)
