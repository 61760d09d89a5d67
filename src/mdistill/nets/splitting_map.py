r"""A long-stride map of kicks and drifts, each kick with a learned potential: symplectic by construction.

A stride t is K drifts of h = t/K between K + 1 kicks, as in velocity Verlet, but the potential of a kick is learned:

    p ← p + (h/2) F_0(q)
    k = 1 … K:   q ← q + h p/m,   p ← p + w_k h F_{min(k, K−k)}(q)        w_k = 1, w_K = 1/2,   F_s = −∂V_s/∂q

q, p, m: positions, momenta, masses   V_s: a moment potential (`nets/moment.py`), s = 0 … K/2   h: length of a drift

For any V_s the map is symplectic (each factor is), time-reversible (the sequence is a palindrome), conserves total
momentum and angular momentum (V_s is translation and rotation invariant), and costs K force evaluations a stride, since
the last kick of one stride and the first of the next act at the same place. With V_s = V it is velocity Verlet of step h;
trained on pairs (q, p) → (q', p') of exact dynamics the V_s absorb its error. One harmonic mode of frequency ω is
exact with K = 2: two force constants fix cos ωt and sin(ωt)/ω, which determine its matrix, for ωt < π. With K = 1 there is one
force constant: the frequency can be right, but not also how a mode shares its energy between momenta and positions.

References:
    Kicks and drifts learned as a symplectic map: P. Jin et al., SympNets, Neural Networks 132, 166 (2020), doi
    10.1016/j.neunet.2020.08.017. Modified potentials that cancel the error of a splitting: M. Takahashi, M. Imada, J. Phys.
    Soc. Jpn. 53, 3765 (1984), doi 10.1143/JPSJ.53.3765. Long strides learned from trajectories: F. Bigi et al., FlashMD,
    arXiv 2505.19350 (2025).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from mdistill.derivatives import forces_through
from mdistill.errors import BadInput
from mdistill.graph import build_graph
from mdistill.nets.moment import MomentNet
from mdistill.nets.network import StrideMap, double_copy
from mdistill.nets.settings import SplittingMapSettings
from mdistill.types import Graph, System
from mdistill.units import ACCELERATION

UNLIMITED = 1e6
"""No limit yet, eV/Å or eV."""
Forces = Callable[[System], Float[Tensor, "atom 3"]]


class SplittingMap(StrideMap):
    """`net(system, momenta, masses, stride)` gives the positions and momenta after the stride, differentiable in the weights.

    Buffers set by training: `largest_force` [stage, species] eV/Å of a kick; `looked_at` and `largest_change` eV/√atom, the
    change of K + V₀ (V₀: the first kick's potential) beyond which a stride's energy is checked, and the largest change of that
    energy. Beyond `largest_force` and `largest_change` a stride is replaced by time steps.
    """

    has_kicks = True
    largest_force: Tensor
    looked_at: Tensor
    largest_change: Tensor

    def __init__(self, settings: SplittingMapSettings, *, seed: int = 0) -> None:
        super().__init__(settings)
        self.stages = torch.nn.ModuleList(MomentNet(settings.potential, seed=seed + k) for k in range(settings.stages))
        limits = torch.full((settings.stages, len(settings.elements)), UNLIMITED, dtype=torch.float64)
        self.register_buffer("largest_force", limits)
        for name in ("looked_at", "largest_change"):
            self.register_buffer(name, torch.tensor(UNLIMITED, dtype=torch.float64))

    def begin_as(self, net: MomentNet) -> None:
        """Set every kick to this potential.

        Raises:
            BadInput: It has another size or other elements.
        """
        if net.settings != self.settings.potential:
            raise BadInput(
                "potential", f"{net.settings}", allowed=f"{self.settings.potential}", fix="use a potential of that size"
            )
        for stage in self.stages:
            stage.load_state_dict(net.state_dict())

    def folded(self) -> SplittingMap:
        """A float64 copy without whitening of its stages; the same map."""
        folded = [stage.folded().state_dict().items() for stage in self.potentials()]
        state = {f"stages.{k}.{name}": value for k, stage in enumerate(folded) for name, value in stage}
        return double_copy(self, self.state_dict() | state)

    def scale_kicks(self, factor: float) -> None:
        for stage in self.potentials():
            stage.scale.mul_(factor)
        self.largest_force.mul_(factor)

    def in_type(self, dtype: torch.dtype) -> SplittingMap:
        """Compute forces in this float type; positions and momenta stay float64."""
        for stage in self.potentials():
            stage.in_type(dtype)
        return self

    def potentials(self) -> list[MomentNet]:
        """Forces of each stage."""
        return list(self.stages)  # type: ignore[arg-type]

    def forward(
        self, system: System, momenta: Float[Tensor, "atom 3"], masses: Float[Tensor, " atom"], stride_fs: float
    ) -> tuple[Float[Tensor, "atom 3"], Float[Tensor, "atom 3"]]:
        self.check(stride_fs)
        keep = torch.is_grad_enabled()

        def forces_of(stage: MomentNet) -> Forces:
            return lambda now: forces_through(stage, build_graph_at(now, stage.cutoff), create_graph=keep)

        return compose([forces_of(s) for s in self.potentials()], self.settings, system, momenta, masses)


def compose(
    stages: list[Forces], settings: SplittingMapSettings, system: System, momenta: Float[Tensor, "atom 3"],
    masses: Float[Tensor, " atom"],
) -> tuple[Float[Tensor, "atom 3"], Float[Tensor, "atom 3"]]:  # fmt: skip
    """One stride of kicks and drifts, given the forces of each stage."""
    drift = settings.stride_fs / settings.kicks
    positions, inverse = system.positions, 1.0 / masses.unsqueeze(1)
    for k in range(settings.kicks + 1):
        if k:
            positions = positions + drift * inverse * momenta
        ends = k in (0, settings.kicks)
        forces = stages[min(k, settings.kicks - k)](replace(system, positions=positions))
        momenta = momenta + ((0.5 if ends else 1.0) * drift * ACCELERATION) * forces
    return positions, momenta


def build_graph_at(system: System, cutoff: float) -> Graph:
    """`build_graph` at positions that carry a gradient; the graph's system keeps them."""
    graph = build_graph(replace(system, positions=system.positions.detach()), cutoff)
    return replace(graph, system=system)
