r"""Stochastic cell rescaling: constant pressure and temperature, isotropic or with a cell free to change its shape.

Every m steps of a thermostatted propagator the structure is strained, cell ← cell·exp(ε), r ← r·exp(ε), with
ε = μ + s Σ_k R_k E_k,   μ = (βΔ/3τ) Proj(Π − P),   s² = 2 β k_B T Δ/(3 V τ)

ε: symmetric strain   E_k: orthonormal basis of the strains allowed ((1/√3)·1 alone: isotropic; all six: anisotropic)
R_k: standard normal   Proj: onto that basis   Π = (N k_B T/V)·1 − σ: internal pressure tensor   σ: stress, tension positive
P: target pressure   T: temperature   V: volume   N: atoms   β: compressibility (sets the rate only)   τ: relaxation time
Δ = m h: time between two strains

As Δ → 0 this is the stochastic cell rescaling of Bernetti and Bussi (isotropic; Itô form for ln V) and of Del Tatto et al.
(anisotropic, symmetric strains so that the cell does not spin), in the form that takes the kinetic part of the pressure as
its average and does not change momenta. Each strain is then accepted or rejected as in Metropolis Monte Carlo,
ln a = ln φ(new) − ln φ(old) + ln q(−ε|new) − ln q(ε|old),   φ = V^{N+1} exp(−(U + P V)/k_B T),   q: normal, mean μ, width s
(−k_B T ln a is the increment of the effective energy whose drift measures the error of the published integrator), so that
the volume is sampled exactly at any Δ, τ and β: an ideal gas has ⟨V⟩ = (N+1) k_B T/P and var V = (N+1)(k_B T/P)². The measure
of shapes is V⁻² d⁹cell (Martyna, Tobias, Klein, J. Chem. Phys. 101, 4177 (1994)), the same as V d(Haar).

References: Bernetti, Bussi, J. Chem. Phys. 153, 114107 (2020), doi 10.1063/5.0020514; Del Tatto, Raiteri, Bernetti, Bussi,
Appl. Sci. 12, 1139 (2022), doi 10.3390/app12031139.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from mdistill.errors import BadInput, BlowUp
from mdistill.graph import volumes
from mdistill.settings import within
from mdistill.simulation.kinetics import atom_counts, prediction_of
from mdistill.simulation.noise import struct_normals, struct_uniforms
from mdistill.simulation.propagators import Evaluate
from mdistill.simulation.verlet import evaluated
from mdistill.types import LeapingPropagator, Prediction, Propagator, State, System
from mdistill.units import BOLTZMANN, GPA, PS


def _basis(*pairs: tuple[int, int]) -> Float[Tensor, "strain 3 3"]:
    basis = torch.zeros((len(pairs), 3, 3), dtype=torch.float64)
    for k, (a, b) in enumerate(pairs):
        basis[k, a, b] = basis[k, b, a] = 1.0 if a == b else math.sqrt(0.5)
    return basis


ISOTROPIC = torch.eye(3, dtype=torch.float64).unsqueeze(0) / math.sqrt(3.0)
"""Only the volume changes."""
ANISOTROPIC = _basis((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
"""Lengths and angles change."""
CRYSTAL = 0.03
"""A usual compressibility of crystals, 1/GPa."""
_INTERVAL_FS, _LEAST_STEPS, _LARGEST_STRAIN = 50.0, 10, 3.0


def strain_interval(stride_fs: float, compressibility_per_GPa: float = CRYSTAL) -> int:
    """Steps between two strains, at least 10: 50 fs; 12 fs in liquids, where stiff bonds reject four of five strains of 50 fs."""
    return max(_LEAST_STEPS, round(_INTERVAL_FS * min(1.0, (CRYSTAL / compressibility_per_GPa) ** 0.5) / stride_fs))


@dataclass(frozen=True, slots=True, kw_only=True)
class StochasticCellRescaling:
    """NpT: a thermostatted propagator with a fluctuating cell. Every struct must be periodic in three directions.

    Positions are scaled with the cell, also unwrapped images; displacements over many frames must account for the cell of each
    frame.

    Attributes:
        inner: The propagator between strains; a thermostat at the same temperature.
        evaluate: Energy and stress of a system.
        temperature_K: T, K.
        pressure_GPa: P, GPa.
        relaxation_ps: τ, ps.
        compressibility_per_GPa: β, 1/GPa; its error scales τ only.
        strains: E_k, `ISOTROPIC` or `ANISOTROPIC`.
        every: m, steps between two strains; each costs one evaluation.
    """

    inner: Propagator
    evaluate: Evaluate
    temperature_K: float
    pressure_GPa: float = 0.0
    relaxation_ps: float = 1.0
    compressibility_per_GPa: float = CRYSTAL
    strains: Float[Tensor, "strain 3 3"] = ISOTROPIC
    every: int = _LEAST_STEPS

    def __post_init__(self) -> None:
        within("temperature_K", self.temperature_K, 0.0, 20000.0, unit="K")
        within("pressure_GPa", self.pressure_GPa, -1000.0, 10000.0, unit="GPa", open_low=False)
        within("relaxation_ps", self.relaxation_ps, 0.0, 1e6, unit="ps")
        within("compressibility_per_GPa", self.compressibility_per_GPa, 0.0, 1e9, unit="1/GPa")
        within("every", self.every, 0, 1_000_000, unit="steps")

    @property
    def stride_fs(self) -> float:
        return self.inner.stride_fs

    def around(self, inner: Propagator) -> StochasticCellRescaling:
        return replace(self, inner=inner)

    def leaping(self, inner: LeapingPropagator) -> Propagator:
        return LeapingBarostat(self, inner)

    def step(self, state: State, generator: Generator) -> State:
        self.check(state)
        state = self.inner.step(state, generator)
        return state if round(state.time / self.stride_fs) % self.every else self.strained(state, generator)

    def check(self, state: State) -> None:
        """Reject a system without volume.

        Raises:
            BadInput: A direction is open.
        """
        if not bool(state.system.pbc.all()):
            problem = f"npt for a structure with periodicity {state.system.pbc.all(0).tolist()}"
            allowed = "periodic in all three directions"
            raise BadInput("ensemble", problem, allowed=allowed, fix="use nvt, or use a structure with a full cell")

    def strained(self, state: State, generator: Generator) -> State:
        """One strain of every struct, accepted or rejected independently; a `BlowUp` where one is huge."""
        old = evaluated(state, self.evaluate)
        system, strains = state.system, self.strains.to(state.system.positions)
        normal = struct_normals(generator, system, len(strains))
        mean, width = self._drift(system, prediction_of(old))
        amounts = mean + width * normal
        if not (largest := float(amounts.abs().max())) < _LARGEST_STRAIN:
            reason = f"the barostat strains the cell by {largest:.3g} at once (limit {_LARGEST_STRAIN:g}): check the pressure"
            raise BlowUp(round(state.time / self.stride_fs), reason)
        factor = torch.matrix_exp(torch.einsum("sk,kab->sab", amounts, strains))
        trial = replace(
            system,
            cell=system.cell @ factor,
            positions=torch.einsum("ia,iab->ib", system.positions, factor.index_select(0, system.owner)),
        )
        answer = self.evaluate(trial)
        mean_back, width_back = self._drift(trial, answer)
        forward = -0.5 * normal.square() - width.log()
        backward = -0.5 * ((-amounts - mean_back) / width_back).square() - width_back.log()
        gain = self._weight(trial, answer) - self._weight(system, prediction_of(old)) + (backward - forward).sum(1)
        return _choose(old, trial, answer, struct_uniforms(generator, system).log() < gain)

    def _drift(self, system: System, prediction: Prediction) -> tuple[Float[Tensor, "struct strain"], Float[Tensor, "struct 1"]]:
        """μ in the basis of strains, and s."""
        volume = volumes(system)
        thermal = BOLTZMANN * self.temperature_K
        excess = atom_counts(system).to(volume) * thermal / volume - self.pressure_GPa * GPA
        push = excess.reshape(-1, 1, 1) * torch.eye(3).to(volume) - _stress(prediction)
        rate = self.compressibility_per_GPa / GPA * self.every * self.stride_fs / (3.0 * self.relaxation_ps * PS)
        mean = rate * torch.einsum("sab,kab->sk", push, self.strains.to(push))
        return mean, (2.0 * rate * thermal / volume).sqrt().unsqueeze(1)

    def _weight(self, system: System, prediction: Prediction) -> Float[Tensor, " struct"]:
        """ln φ."""
        volume = volumes(system)
        enthalpy = prediction.energy + self.pressure_GPa * GPA * volume
        return (atom_counts(system) + 1) * volume.log() - enthalpy / (BOLTZMANN * self.temperature_K)


@dataclass(frozen=True, slots=True)
class LeapingBarostat:
    """Constant pressure with compiled dynamics between strains."""

    plain: StochasticCellRescaling
    inner: LeapingPropagator

    @property
    def stride_fs(self) -> float:
        return self.inner.stride_fs

    def step(self, state: State, generator: Generator) -> State:
        return self.leap(state, generator, round(state.time / self.stride_fs), 1)[0]

    def leap(self, state: State, generator: Generator, step: int, steps: int) -> tuple[State, int, bool]:
        self.plain.check(state)
        every = self.plain.every
        most = min(steps, every - round(state.time / self.stride_fs) % every)
        state, taken, suspect = self.inner.leap(state, generator, step, most)
        strained = round(state.time / self.stride_fs) % every == 0
        return (self.plain.strained(state, generator) if strained else state), taken, suspect or strained


def _stress(prediction: Prediction) -> Float[Tensor, "struct 3 3"]:
    if prediction.stress is None:
        raise BadInput("ensemble", "npt with a potential that gives no stress", allowed="a potential with stress", fix="use nvt")
    return prediction.stress


def _choose(old: State, trial: System, answer: Prediction, accepted: Tensor) -> State:
    """The trial where accepted, the old state elsewhere, struct by struct."""
    before, atoms, structs = prediction_of(old), accepted.index_select(0, trial.owner).unsqueeze(1), accepted.reshape(-1, 1, 1)
    system = replace(
        trial,
        positions=torch.where(atoms, trial.positions, old.system.positions),
        cell=torch.where(structs, trial.cell, old.system.cell),
    )
    prediction = Prediction(
        energy=torch.where(accepted, answer.energy, before.energy),
        forces=torch.where(atoms, answer.forces, before.forces),
        stress=torch.where(structs, _stress(answer), _stress(before)),
    )
    return replace(old, system=system, prediction=prediction)
