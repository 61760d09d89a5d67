r"""An energy of how a structure moves: even in the velocities, zero at rest, one hop.

Symbols: i, j atoms; r, n length and direction of the edge i→j; u = t (v_j − v_i) what it moves by in a time t; w = u·n;
c channel; k radial function; Z species; ⊙ the symmetric product of two vectors as six numbers, a⊙b·c⊙d = sym(ab):sym(cd).

    X_i,c = Σ_j R_c^{Z_i Z_j}(r) x(u, n),   R_c(r) = Σ_k W_c,k cos(π k ρ) f(r̃)      (ρ, f, r̃ as in `nets/moment.py`)
    x of the structure M: 1, n, n⊙n;   linear in u: w, w n, w n⊙n, u, u⊙n, u×n;   squares: w² and |u|² times M's, w u
    |X|² and products of two linear ones, sums of squares, squares times M:   invariants y_f, all of second degree in u
    E_i = s Σ_f y_f g_f(M invariants, y),    g = MLP_Z: even in u, since every y is

The second order of any invariant of moments along a motion, d²E/dλ² at r + λu, is a sum of such y with coefficients that
depend on the structure: what the curvature of a potential says of a motion.

Reference:
    Invariants of moments: A. V. Shapeev, Multiscale Model. Simul. 14, 1153 (2016), doi 10.1137/15M1054183.
"""

from __future__ import annotations

from math import pi, sqrt

import torch
from jaxtyping import Float
from torch import Tensor

from mdistill.nets.layers import FREEZE, SpeciesLinear, cutoff_envelope, frozen_below, rows, species_index, species_table
from mdistill.types import Graph
from research.action_settings import ActionSettings

_TINY = 1e-18
_PARTS = (1, 3, 6) * 4 + (3, 6, 3, 3)
_AT_REST, _MOVING = 3, 15


class MotionNet(torch.nn.Module):
    """`net(graph, vectors, moves)` gives the energy of every atom's motion (eV, float64); its first weights make it zero.

    Buffers set by training: `closest` distance of each pair (Å, the cutoff where never met), `mean` and `spread` of the
    invariants (`mean` zero for those of the motion), `scale` s (eV).
    """

    closest: Tensor
    mean: Tensor
    spread: Tensor
    scale: Tensor
    species_of: Tensor
    waves: Tensor

    def __init__(self, settings: ActionSettings, *, seed: int = 0) -> None:
        super().__init__()
        self.settings = settings
        generator = torch.Generator().manual_seed(seed)
        n, channels, width = len(settings.elements), settings.motion_channels, (_AT_REST + _MOVING) * settings.motion_channels
        start = torch.randn((n * n * settings.motion_radial, channels), generator=generator, dtype=torch.float64)
        self.mixing = torch.nn.Parameter(start / sqrt(settings.motion_radial))
        self.first = SpeciesLinear(n, width, settings.motion_hidden, bias=True, generator=generator)
        self.last = SpeciesLinear(n, settings.motion_hidden, _MOVING * channels, bias=True, generator=generator)
        with torch.no_grad():
            self.last.weight.zero_()
        self.register_buffer("closest", torch.zeros((n, n), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros((n, 1, width), dtype=torch.float64))
        self.register_buffer("spread", torch.ones((n, 1, width), dtype=torch.float64))
        self.register_buffer("scale", torch.tensor(0.01, dtype=torch.float64))
        self.register_buffer("species_of", species_table(settings.elements), persistent=False)
        self.register_buffer("waves", pi * torch.arange(settings.motion_radial, dtype=torch.float64), persistent=False)

    @property
    def at_rest(self) -> int:
        """How many of the invariants, the first, are of the structure alone."""
        return _AT_REST * self.settings.motion_channels

    def forward(self, graph: Graph, vectors: Float[Tensor, "edge 3"], moves: Float[Tensor, "edge 3"]) -> Float[Tensor, " atom"]:
        species = species_index(self.species_of, graph.system.numbers)
        invariants = self.invariants(graph, vectors, moves)
        order = torch.argsort(species, stable=True)
        slots = rows(species.index_select(0, order), len(self.settings.elements))
        slots = torch.cat([order, order.new_full((1,), len(order))]).index_select(0, slots.flatten()).view(slots.shape)
        filled = torch.cat([invariants, invariants.new_zeros((1, invariants.shape[1]))])
        x = (filled.index_select(0, slots.flatten()).view(*slots.shape, -1) - self.mean) / self.spread
        moving = x[..., self.at_rest :]
        energy = (moving * self.last(torch.nn.functional.silu(self.first(x)))).sum(2).to(torch.float64) * self.scale
        return energy.new_zeros(len(species) + 1).index_add(0, slots.flatten(), energy.flatten())[:-1]

    def invariants(
        self, graph: Graph, vectors: Float[Tensor, "edge 3"], moves: Float[Tensor, "edge 3"]
    ) -> Float[Tensor, "atom feature"]:
        """Invariants of every atom: of the structure, then of the motion (Å² where the radial functions are pure numbers)."""
        kind = self.mixing.dtype
        distance = (vectors.square().sum(1, keepdim=True) + _TINY).sqrt()
        radial = self._radial(graph, distance).to(kind)
        unit, moves = (vectors / distance).to(kind), moves.to(kind)
        slots = rows(graph.receiver, graph.system.n_atoms)
        filled = [torch.cat([part, part.new_zeros((1, part.shape[1]))]) for part in (_terms(unit, moves), radial)]
        terms, weights = (part.index_select(0, slots.flatten()).view(*slots.shape, -1) for part in filled)
        return _contracted(torch.bmm(terms.transpose(1, 2), weights))

    def in_type(self, dtype: torch.dtype) -> MotionNet:
        """Compute in this float type; distances, scale and the sum of energies stay float64."""
        scale, closest, waves = self.scale, self.closest, self.waves
        self.to(dtype)
        self.scale, self.closest, self.waves = scale, closest, waves
        return self

    def _radial(self, graph: Graph, distance: Float[Tensor, "edge 1"]) -> Float[Tensor, "edge channel"]:
        n, cutoff = len(self.settings.elements), self.settings.cutoff
        species = species_index(self.species_of, graph.system.numbers)
        pair = n * species.index_select(0, graph.receiver) + species.index_select(0, graph.sender)
        closest = self.closest.flatten().index_select(0, pair).unsqueeze(1)
        felt = frozen_below(distance, closest, FREEZE)
        x = (felt - closest) / (cutoff - closest).clamp_min(FREEZE)
        basis = torch.cos(x * self.waves) * cutoff_envelope(felt, cutoff) * (closest < cutoff).to(distance)
        met = torch.eye(n * n, dtype=self.mixing.dtype).index_select(0, pair)
        return (met.unsqueeze(2) * basis.to(self.mixing.dtype).unsqueeze(1)).flatten(1) @ self.mixing


def _terms(unit: Float[Tensor, "edge 3"], moves: Float[Tensor, "edge 3"]) -> Float[Tensor, "edge term"]:
    along = (unit * moves).sum(1, keepdim=True)
    rest = torch.cat([torch.ones_like(along), unit, _symmetric(unit, unit)], 1)
    squares = along.square() * rest, moves.square().sum(1, keepdim=True) * rest
    linear = moves, _symmetric(moves, unit), torch.linalg.cross(moves, unit)
    return torch.cat([rest, along * rest, *squares, *linear, along * moves], 1)


def _symmetric(first: Float[Tensor, "edge 3"], second: Float[Tensor, "edge 3"]) -> Float[Tensor, "edge 6"]:
    """(ab + ba)/2 as six numbers whose products are those of the full tensors."""
    diagonal = first * second
    across = first * second.roll(1, 1) + first.roll(1, 1) * second
    return torch.cat([diagonal, sqrt(0.5) * across], 1)


def _contracted(moments: Float[Tensor, "atom term channel"]) -> Float[Tensor, "atom feature"]:
    m0, m1, m2, p0, p1, p2, a0, a1, a2, t0, t1, t2, q, b, c, v = moments.split(_PARTS, 1)
    products = [
        (m0, None), (m1, m1), (m2, m2),
        (p0, p0), (p1, p1), (p2, p2), (q, q), (b, b), (c, c), (p1, q), (p2, b),
        (a0, None), (t0, None), (m1, a1), (m1, t1), (m2, a2), (m2, t2), (m1, v),
    ]  # fmt: skip
    return torch.cat([one.sum(1) if other is None else (one * other).sum(1) for one, other in products], 1)
