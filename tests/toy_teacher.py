"""A cheap stand-in for a foundation potential: a Born model of an ionic crystal, smooth at its cutoff.

E = Σ_pairs f(r) [k q_i q_j e^(−r/λ)/r + ε (R_ij/r)⁹],  f(r) = (1 − (r/r_c)²)³
q: scaled formal charges   λ = 3 Å   R_ij: sum of ionic radii   k = e²/(4πε₀)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mdistill.derivatives import Conservative
from mdistill.export.ase import calculator
from mdistill.types import Graph
from mdistill.units import COULOMB

CHARGE = {3: 0.6, 15: 1.5, 16: -0.9, 17: -0.6}
RADIUS = {3: 0.9, 15: 0.45, 16: 1.6, 17: 1.65}


@dataclass(frozen=True)
class Born:
    """An `EnergyNet` without weights."""

    cutoff: float = 4.8
    screening: float = 3.0
    strength: float = 0.35
    name: str = "toy-born"
    elements: frozenset[int] = frozenset(CHARGE)

    def __call__(self, graph: Graph, vectors: Tensor) -> Tensor:
        table = torch.zeros((2, 120), dtype=vectors.dtype)
        for z, charge in CHARGE.items():
            table[0, z], table[1, z] = charge, RADIUS[z]
        charges, radii = table[:, graph.system.numbers]
        r = vectors.square().sum(1).sqrt()
        fade = (1.0 - (r / self.cutoff) ** 2).clamp_min(0.0) ** 3
        coulomb = COULOMB * charges[graph.receiver] * charges[graph.sender] * torch.exp(-r / self.screening) / r
        core = self.strength * ((radii[graph.receiver] + radii[graph.sender]) / r) ** 9
        return vectors.new_zeros(graph.system.n_atoms).index_add(0, graph.receiver, 0.5 * fade * (coulomb + core))


def stiff() -> object:
    """The same with stronger cores, for `--hard toy_teacher:stiff`."""
    return calculator(Conservative(Born(strength=0.42, name="toy-stiff")))


def salt() -> object:
    """The ASE calculator, for `--teacher toy_teacher:salt`."""
    return calculator(Conservative(Born()))
