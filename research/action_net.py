r"""A long-stride map from a generating function of midpoints: symplectic and reversible whatever has been learned.

    q' − q = ∂S/∂p̄,   p' − p = −∂S/∂q̄,   q̄ = (q + q')/2,   p̄ = (p + p')/2
    S(q̄, p̄) = t [ Σ_i p̄_i²/(2 m_i) + V(q̄) + W(q̄, t p̄/m) ]

q, p, m: positions, momenta, masses   t: the stride   V: a moment potential (`nets/moment.py`), which begins as the one whose
flow is learned   W: an energy of the motion (`research/motion.py`), even in p̄, zero for p̄ = 0, which begins as zero

Any smooth S gives a symplectic map (Poincaré). S even in p̄ makes it reversible: (q', −p') goes to (q, −p). S here depends on
differences of positions and of velocities alone and is invariant under rotation, so momentum and (in open systems) angular
momentum are conserved and the centre of mass flies freely. With W = 0 it is the implicit midpoint rule of V. One harmonic
mode of frequency ω is met exactly by S = (2/ω) tan(ωt/2) H(q̄, p̄): V stiffer and a mass lighter, for ωt < π; beyond, the
midpoints no longer tell where the ends are. In general the kinetic part of that factor is a matrix that depends on the structure,
to lowest order (t²/24) p̄/m · ∂²V · p̄/m, which is why W looks at structure and motion together.

A step means solving for q', p'; training does not, since both ends are in the data (`research/action_objective.py`).

References:
    K. Feng, M. Qin, Symplectic Geometric Algorithms for Hamiltonian Systems (2010), doi 10.1007/978-3-642-01777-3, chapter 5.
    Learned from trajectories: F. Bigi et al., Learning the action for long-time-step simulations of molecular dynamics,
    arXiv 2508.01068 (2025).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mdistill.errors import BadInput
from mdistill.graph import build_graph, edge_vectors
from mdistill.nets.catalogue import MAPS, MapKind
from mdistill.nets.layers import rows
from mdistill.nets.moment import MomentNet
from mdistill.nets.network import StrideMap
from mdistill.types import Graph, System
from mdistill.units import ACCELERATION
from research.action_settings import ActionSettings
from research.anderson import DEPTH, fixed_point
from research.motion import MotionNet

TOLERANCE = 1e-8
"""Å; positions are solved for to this, momenta to what moves an atom by this in a stride."""
MOST_EVALUATIONS = 60
Increments = Callable[[System, Tensor], tuple[Tensor, Tensor]]
"""increments(middle, momenta) -> q' − q and p' − p, given midpoints of positions and momenta."""
Ends = tuple[Float[Tensor, "atom 3"], Float[Tensor, "atom 3"]]


class ActionNet(StrideMap):
    """`net.increments(graph, momenta, masses)` gives the increments at midpoints, differentiable in the weights;
    `net(system, momenta, masses, stride)` solves for positions and momenta after the stride, without gradients.
    """

    def __init__(self, settings: ActionSettings, *, seed: int = 0) -> None:
        super().__init__(settings)
        self.potential = MomentNet(settings.potential, seed=seed)
        self.motion = MotionNet(settings, seed=seed + 1)

    def begin_as(self, net: MomentNet) -> None:
        """Let it begin as the implicit midpoint rule of this potential.

        Raises:
            BadInput: It has another size or other elements.
        """
        if net.settings != self.settings.potential:
            raise BadInput(
                "potential", f"{net.settings}", allowed=f"{self.settings.potential}", fix="use a potential of that size"
            )
        self.potential.load_state_dict(net.state_dict())
        self.motion.closest.copy_(net.closest)

    def folded(self) -> ActionNet:
        """A float64 copy without whitening of its potential; the same map."""
        net = ActionNet(self.settings)
        net.potential = self.potential.folded()
        net.motion.load_state_dict({name: value.detach().to(torch.float64) for name, value in self.motion.state_dict().items()})
        return net

    def in_type(self, dtype: torch.dtype) -> ActionNet:
        """Compute energies in this float type; positions and momenta stay float64."""
        self.potential.in_type(dtype)
        self.motion.in_type(dtype)
        return self

    def increments(
        self,
        graph: Graph,
        momenta: Float[Tensor, "atom 3"],
        masses: Float[Tensor, " atom"],
        *,
        forces: Callable[[System], Float[Tensor, "atom 3"]] | None = None,
    ) -> Ends:
        """q' − q (Å) and p' − p (u·Å/fs).

        Args:
            graph: Of the midpoints of positions.
            momenta: Their midpoints, u·Å/fs.
            masses: u.
            forces: −∂V/∂q̄ (eV/Å) from elsewhere, a compiled kernel perhaps; without it they are differentiable in the weights.
        """
        keep, stride = torch.is_grad_enabled(), self.settings.stride_fs
        with torch.enable_grad():
            positions = graph.system.positions.detach().requires_grad_(True)
            moves = (stride * momenta / masses.unsqueeze(1)).detach().requires_grad_(True)
            graph = replace(graph, system=replace(graph.system, positions=positions))
            vectors = edge_vectors(graph)
            moving = moves.index_select(0, graph.sender) - moves.index_select(0, graph.receiver)
            energy = self.motion(graph, vectors, moving).sum()
            if forces is None:
                energy = energy + self.potential(graph, vectors).sum()
            by_place, by_move = torch.autograd.grad(
                energy, (positions, moves), create_graph=keep, allow_unused=True, materialize_grads=True
            )
        pull = -by_place if forces is None else forces(graph.system) - by_place
        moved = moves.detach() + (ACCELERATION * stride**2) * by_move / masses.unsqueeze(1)
        return moved, (ACCELERATION * stride) * pull

    def forward(self, system: System, momenta: Float[Tensor, "atom 3"], masses: Float[Tensor, " atom"], stride_fs: float) -> Ends:
        self.check(stride_fs)

        def at(middle: System, mean: Tensor) -> Ends:
            return self.increments(build_graph(middle, self.cutoff), mean, masses)

        with torch.no_grad():
            solved = solve(at, system, momenta, masses, self.settings.stride_fs)
        return solved.positions, solved.momenta


@dataclass(frozen=True, slots=True)
class Solved:
    """Positions and momenta after a stride, whether each struct converged, and how often the increments were computed."""

    positions: Float[Tensor, "atom 3"]
    momenta: Float[Tensor, "atom 3"]
    converged: Bool[Tensor, " struct"]
    evaluations: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SolverSettings:
    """How exactly a stride is solved for.

    Attributes:
        tolerance: Of positions (Å); of momenta what moves an atom by this in a stride.
        most_evaluations: Of the increments in a stride.
        depth: Of Anderson mixing; 0 for the plain iteration.
    """

    tolerance: float = TOLERANCE
    most_evaluations: int = MOST_EVALUATIONS
    depth: int = DEPTH


def solve(
    increments: Increments,
    system: System,
    momenta: Float[Tensor, "atom 3"],
    masses: Float[Tensor, " atom"],
    stride_fs: float,
    *,
    start: Ends | None = None,
    settings: SolverSettings | None = None,
) -> Solved:
    r"""The ends of a stride by fixed-point iteration with Anderson mixing.

    p̄ ← p + Δp(q̄, p̄)/2,   q̄ ← q + [Δq(q̄, p̄) + t (p̄_new − p̄)/m]/2      unknowns √m q̄ and t p̄/√m

    The second term lets the free flight see the new momenta: for a mode of frequency ω the iteration then has the factor
    −(ωt/2)² instead of ±iωt/2, and converges by itself for ωt < 2.

    Args:
        increments: Δq, Δp at midpoints.
        system, momenta, masses: Where the stride begins.
        stride_fs: t.
        start: A guess of the ends; by default free flight.
        settings: Tolerance and limits.
    """
    settings = settings or SolverSettings()
    inverse = stride_fs / masses.unsqueeze(1)
    slots = rows(system.owner, system.n_structs)
    scale = masses.sqrt().unsqueeze(1)
    last: list[Ends] = []

    def packed(positions: Tensor, mean: Tensor) -> Tensor:
        both = torch.cat([scale * (positions - system.positions), scale * inverse * mean], 1)
        filled = torch.cat([both, both.new_zeros((1, 6))])
        return filled.index_select(0, slots.flatten()).view(len(slots), -1)

    def unpacked(values: Tensor) -> Ends:
        table = values.reshape(-1, 6)
        flat = table.new_zeros((system.n_atoms + 1, 6)).index_copy(0, slots.flatten(), table)[:-1]
        return system.positions + flat[:, :3] / scale, flat[:, 3:] / (scale * inverse)

    def update(values: Tensor) -> Tensor:
        positions, mean = unpacked(values)
        moved, kicked = increments(replace(system, positions=positions), mean)
        last[:] = [(moved, kicked)]
        new = momenta + 0.5 * kicked
        return packed(system.positions + 0.5 * (moved + inverse * (new - mean)), new)

    guess = (system.positions + inverse * momenta, momenta) if start is None else start
    begin = packed(0.5 * (system.positions + guess[0]), 0.5 * (momenta + guess[1]))
    allowed = packed(system.positions + settings.tolerance, settings.tolerance / inverse.expand(-1, 3))
    found = fixed_point(update, begin, allowed, most_evaluations=settings.most_evaluations, depth=settings.depth)
    moved, kicked = last[0]
    return Solved(system.positions + moved, momenta + kicked, found.converged, found.evaluations)


MAPS["action"] = MapKind(
    settings="research.action_settings:ActionSettings", net="research.action_net:ActionNet", rates=(1e-3, 0.0)
)
