"""Initial states: masses and Maxwell–Boltzmann momenta."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Generator, Tensor

from mdistill.settings import within
from mdistill.simulation.kinetics import held, internal_momenta
from mdistill.simulation.noise import atom_normals
from mdistill.types import State, System
from mdistill.units import BOLTZMANN, KINETIC


def standard_masses(system: System) -> Float[Tensor, " atom"]:
    """Standard atomic masses (u), CIAAW values as in `ase.data`."""
    from ase.data import atomic_masses

    return torch.from_numpy(np.asarray(atomic_masses)[system.numbers.cpu().numpy()]).to(system.positions)


def initial_state(
    system: System, *, temperature_K: float, generator: Generator, masses: Float[Tensor, " atom"] | None = None
) -> State:
    r"""A state at time 0 with Maxwell–Boltzmann momenta and zero total momentum per struct (no prediction yet).

    p_i = √(m_i k_B T) ξ_i − m_i V,  V = Σ p/Σ m     ξ: standard normal

    The temperature is sampled, not set: over many starts 2K/((3N−3) k_B) has mean T and the canonical width T √(2/(3N−3)).
    A single atom keeps its momentum.

    Args:
        system: The structures, Å.
        temperature_K: Temperature, K.
        generator: Source of randomness.
        masses: [atom] u; standard atomic masses if None. An atom of infinite mass is held.
    Raises:
        BadInput: The temperature is not in (0, 20000] K.
    """
    within("temperature_K", temperature_K, 0.0, 20000.0, unit="K")
    masses = standard_masses(system) if masses is None else masses
    width = torch.where(held(masses), 0.0, (masses * BOLTZMANN * temperature_K / KINETIC).sqrt())
    state = State(system=system, momenta=width.unsqueeze(1) * atom_normals(generator, system), masses=masses)
    return without_drift(state)


def without_drift(state: State) -> State:
    """The same state with zero total momentum in every struct of more than one atom."""
    return replace(state, momenta=internal_momenta(state, state.momenta), middle_momenta=None)
