r"""Mass repartitioning: hydrogen made heavier by mass of the atom that it is bonded to, for longer time steps.

m_H = M,   m_X = m_X⁰ − n (M − m_H⁰)      M: mass asked for   n: hydrogens bonded to X

The mass of every molecule stays, so averages over positions (structure, density, energy) do not change; frequencies do, and
diffusion a little. Momenta are drawn with the same masses.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mdistill.errors import BadInput
from mdistill.matter.bonds import bonds_of
from mdistill.matter.kinds import HEAVY_H_FS, HEAVY_H_U, WITH_H_FS, WITHOUT_H_FS
from mdistill.types import System

_LIGHTEST = 4.0


def repartitioned(system: System, heavy_h: float) -> Float[Tensor, " atom"] | None:
    """Masses (u) of one struct with hydrogen of `heavy_h` u; None where that is 0 or there is no hydrogen.

    Raises:
        BadInput: A hydrogen without a bond, or a partner that would be lighter than 4 u.
    """
    from ase.data import atomic_masses

    light = (system.numbers == 1).cpu()
    if heavy_h <= 0.0 or not bool(light.any()):
        return None
    masses = torch.tensor([float(atomic_masses[z]) for z in system.numbers.tolist()], dtype=torch.float64)
    bonds, moved = bonds_of(system), set[int]()
    for a, b in zip(bonds.first.tolist(), bonds.second.tolist(), strict=True):
        for hydrogen, partner in ((a, b), (b, a)):
            if bool(light[hydrogen]) and not bool(light[partner]):
                masses[partner] -= heavy_h - masses[hydrogen]
                masses[hydrogen] = heavy_h
                moved.add(hydrogen)
    partner_mass = min(masses[~light].tolist(), default=_LIGHTEST)
    if len(moved) < int(light.sum()) or partner_mass < _LIGHTEST:
        problem = f"{heavy_h:g} u: {int(light.sum()) - len(moved)} hydrogens have no bond, lightest partner {partner_mass:.3g} u"
        raise BadInput("--heavy-h", problem, allowed="hydrogens bonded to atoms that stay heavier than 4 u", fix="--heavy-h 2")
    return masses


def usual_time_step(system: System, *, heavy_h: float = 0.0) -> float:
    """0.5 fs where hydrogen moves (1 fs where it weighs 2.5 u or more), else 2 fs."""
    if not bool((system.numbers == 1).any()):
        return WITHOUT_H_FS
    return HEAVY_H_FS if heavy_h >= HEAVY_H_U else WITH_H_FS
