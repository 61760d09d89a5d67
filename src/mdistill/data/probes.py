r"""Directions v of curvature labels H·v, H = ∂²E/∂r∂r.

Random directions have independent entries ±1 (Rademacher), for which E[v·Hv] = tr H has the least variance of all such
directions. Unit vectors of single coordinates give rows of H.

Reference:
    Hutchinson, Commun. Stat. Simul. Comput. 19, 433 (1990), doi 10.1080/03610919008812866.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from mdistill.types import System

ProbeKind = Literal["random", "rows"]


def draw_probes(system: System, count: int, generator: Generator, *, kind: ProbeKind = "random") -> Float[Tensor, "probe atom 3"]:
    """Directions with random entries ±1, or ("rows") unit vectors of distinct coordinates, as many as there are at most."""
    if kind == "rows":
        chosen = torch.randperm(3 * system.n_atoms, generator=generator)[:count]
        rows = torch.zeros((len(chosen), 3 * system.n_atoms)).scatter(1, chosen.unsqueeze(1), 1.0)
        return rows.view(-1, system.n_atoms, 3).to(system.positions)
    signs = torch.randint(0, 2, (count, system.n_atoms, 3), generator=generator)
    return (2 * signs - 1).to(system.positions)


def probe_kind(probe: Float[Tensor, "atom 3"]) -> ProbeKind:
    """Whether a direction is a unit vector of one coordinate ("rows") or not."""
    return "rows" if int((probe != 0).sum()) == 1 else "random"
