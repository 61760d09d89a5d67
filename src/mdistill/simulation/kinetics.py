r"""Kinetic energy, temperature and pressure of a phase-space point.

Temperature is that of the motion relative to the centre of mass, which has 3N − 3 degrees of freedom in every ensemble:
where total momentum is zero and conserved (Verlet, Bussi) and where it fluctuates (Langevin). A single atom has 3.
Kinetic quantities are measured on `State.middle_momenta` where the integrator has them (BAOAB: momenta at the full
step are too cold by (ωh)²/4, those in the middle are exact), else on `State.momenta`.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mdistill.graph import volumes
from mdistill.types import Prediction, State, System
from mdistill.units import BOLTZMANN, KINETIC


def per_struct(system: System, values: Tensor) -> Tensor:
    """Sums over the atoms of each struct: [atom, ...] -> [struct, ...]."""
    if system.n_structs == 1:
        return values.sum(0, keepdim=True)
    return values.new_zeros((system.n_structs, *values.shape[1:])).index_add(0, system.owner, values)


def internal_momenta(state: State, momenta: Float[Tensor, "atom 3"]) -> Float[Tensor, "atom 3"]:
    """Momenta relative to each struct's centre of mass; unchanged for a single atom."""
    system = state.system
    drift = per_struct(system, momenta) / per_struct(system, state.masses).unsqueeze(1)
    drift = torch.where((atom_counts(system) > 1).unsqueeze(1), drift, torch.zeros_like(drift))
    masses = torch.where(held(state.masses), 0.0, state.masses)
    return momenta - masses.unsqueeze(1) * drift.index_select(0, system.owner)


def held(masses: Float[Tensor, " atom"]) -> Bool[Tensor, " atom"]:
    """Atoms that do not move: those of infinite mass."""
    return torch.isinf(masses)


def atom_counts(system: System) -> Int[Tensor, " struct"]:
    """Number of atoms of each struct."""
    return torch.bincount(system.owner, minlength=system.n_structs)


def degrees_of_freedom(state: State) -> Int[Tensor, " struct"]:
    """Degrees of freedom of the motion relative to the centre of mass: 3N − 3; 3 for a single atom; 3n of n beside held atoms."""
    count = atom_counts(state.system)
    fixed = per_struct(state.system, held(state.masses).to(count))
    return torch.where((count > 1) & (fixed == 0), 3 * count - 3, 3 * (count - fixed))


def freedom(state: State) -> Float[Tensor, " atom"]:
    """Degrees of freedom of each atom, 3 (1 − m/M); M: total mass of its struct. A single atom has 3, a held one none."""
    system = state.system
    share = state.masses / per_struct(system, state.masses).index_select(0, system.owner)
    single = (atom_counts(system) == 1).index_select(0, system.owner)
    each = 3.0 * (1.0 - torch.where(single, torch.zeros_like(share), share))
    return torch.where(held(state.masses), 0.0, each)


def kinetic_energy(state: State) -> Float[Tensor, " struct"]:
    """K = Σ p²/(2m), eV, centre-of-mass motion included (see the head of this file for which momenta)."""
    return per_struct(state.system, _kinetic(state, measured(state)))


def heated(before: State, after: State) -> State:
    """The state after a thermostat changed its momenta, with its heat where that is recorded."""
    if before.heat is None:
        return after
    change = _kinetic(after, after.momenta) - _kinetic(before, before.momenta)
    return replace(after, heat=before.heat + per_struct(after.system, change))


def temperature(state: State, *, element: int | None = None) -> Float[Tensor, " struct"]:
    r"""Kinetic temperature (K) of all atoms, or of one element, from motion relative to the centre of mass.

    T = 2 K_int/(n k_B),  n = Σ_i 3 (1 − m_i/M) over the atoms counted (3N − 3 for all of them; M: total mass of the struct)

    NaN for a struct without atoms of that element.
    """
    system = state.system
    both = torch.stack([_kinetic(state, internal_momenta(state, measured(state))), freedom(state)], 1)
    if element is not None:
        both = both * (system.numbers == element).to(both).unsqueeze(1)
    energy, degrees = per_struct(system, both).unbind(1)
    return 2.0 * energy / (degrees * BOLTZMANN)


def twice_kinetic_by_element(state: State) -> Float[Tensor, " element"]:
    """2 K_int (eV) of each element of one struct, elements ascending: Σ p²/m of momenta relative to the centre of mass."""
    kinetic = 2.0 * _kinetic(state, internal_momenta(state, measured(state))).to(torch.float64)
    kinds, kind = torch.unique(state.system.numbers, return_inverse=True)
    return kinetic.new_zeros(len(kinds)).index_add(0, kind, kinetic)


def pressure_tensor(state: State) -> Float[Tensor, "struct 3 3"] | None:
    r"""Instantaneous pressure tensor, eV/Å³, positive where the crystal is compressed; None where there is no stress.

    Π = (1/V) (N/(N−1)) Σ_i p_i⊗p_i/m_i − σ     p_i: momenta relative to the centre of mass   σ: stress, tension positive

    The factor N/(N−1) accounts for the centre of mass: an ideal gas has ⟨Π⟩ = N k_B T/V exactly.
    """
    if state.prediction is None or state.prediction.stress is None:
        return None
    momenta = internal_momenta(state, measured(state))
    count = atom_counts(state.system).to(momenta)
    flow = KINETIC * momenta.unsqueeze(2) * momenta.unsqueeze(1) / state.masses.reshape(-1, 1, 1)
    factor = torch.where(per_struct(state.system, held(state.masses).to(count)) > 0, 1.0, count / (count - 1.0).clamp_min(1.0))
    scale = factor / volumes(state.system)
    return per_struct(state.system, flow) * scale.reshape(-1, 1, 1) - state.prediction.stress


def pressure(state: State) -> Float[Tensor, " struct"] | None:
    """One third of the trace of the pressure tensor, eV/Å³ (÷ units.GPA for GPa); None where there is no stress."""
    tensor = pressure_tensor(state)
    return None if tensor is None else tensor.diagonal(dim1=1, dim2=2).mean(1)


def prediction_of(state: State) -> Prediction:
    """The prediction of a state that must have one.

    Raises:
        ValueError: It has none.
    """
    if state.prediction is None:
        raise ValueError("the state has no prediction: evaluate its system first")
    return state.prediction


def measured(state: State) -> Float[Tensor, "atom 3"]:
    """The momenta of kinetic quantities (see the head of this file)."""
    return state.momenta if state.middle_momenta is None else state.middle_momenta


def _kinetic(state: State, momenta: Tensor) -> Float[Tensor, " atom"]:
    return 0.5 * KINETIC * momenta.square().sum(1) / state.masses
