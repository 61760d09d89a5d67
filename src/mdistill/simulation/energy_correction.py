r"""Corrections of the total energy at some steps: for long strides, whose small errors would otherwise add up to heat.

One step of every n  p ← P + α (p − P),  α² = (K + H₀ + Q − H)/K,  α limited to 1 ± clip

p − P: momenta relative to the centre of mass   K: their kinetic energy   H: total energy   H₀: its initial value
Q: heat from a thermostat since then (`State.heat`; H − Q is the conserved energy of thermostatted dynamics)

Energy missing between two corrections, and the part beyond the clip, are carried in `State.energy_debt`. Other energy changes,
such as strains, occur between two steps and are not corrected. Steps with a correction are chosen pseudo-randomly by their
number: at equal intervals, vibrations in resonance with them would be cooled or heated.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from mdistill.settings import within
from mdistill.simulation.guard import total_energy
from mdistill.simulation.kinetics import internal_momenta, kinetic_energy
from mdistill.simulation.noise import scattered
from mdistill.simulation.propagators import CompiledSteps, Evaluate
from mdistill.simulation.verlet import evaluated
from mdistill.types import LeapingPropagator, Propagator, State


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrectEnergy:
    """NVE, or NVT around a thermostat.

    Attributes:
        inner: The step, which nearly conserves the energy apart from a thermostat's heat.
        evaluate: The potential of the energy.
        every: n, the mean number of steps from one correction to the next.
        clip: Largest |α − 1|.
    """

    inner: Propagator
    evaluate: Evaluate
    every: int = 20
    clip: float = 0.05

    def __post_init__(self) -> None:
        within("every", self.every, 1, 1_000_000, unit="steps", open_low=False)
        within("clip", self.clip, 0.0, 0.5)

    @property
    def stride_fs(self) -> float:
        return self.inner.stride_fs

    def step(self, state: State, generator: Generator) -> State:
        target = self.target(state)
        return self.corrected(evaluated(self.inner.step(unheated(state), generator), self.evaluate), target)

    def around(self, inner: Propagator) -> CorrectEnergy:
        return replace(self, inner=inner)

    def leaping(self, inner: LeapingPropagator) -> Propagator:
        """The correction for compiled strides, which rescale inside."""
        if isinstance(inner, CompiledSteps) and inner.mover.counts is not None:
            return LeapingCorrectEnergy(self, inner)
        return self

    def target(self, state: State) -> Float[Tensor, " struct"]:
        """H₀ of each struct, eV."""
        energy = total_energy(evaluated(state, self.evaluate))
        return energy if state.energy_debt is None else energy + state.energy_debt

    def due(self, number: int) -> bool:
        """Whether the step of this number (of the first: 1) ends with a correction."""
        block, place = divmod(number, self.every)
        return place == scattered(block) % self.every

    def owing(self, state: State, target: Float[Tensor, " struct"]) -> State:
        """The state with its missing energy as debt; heat is not missing."""
        missing = target - total_energy(state)
        return replace(state, heat=None, energy_debt=missing if state.heat is None else missing + state.heat)

    def corrected(self, state: State, target: Float[Tensor, " struct"]) -> State:
        """The state after a step, corrected where due."""
        state = self.owing(state, target)
        missing = state.energy_debt
        if missing is None or not self.due(round(state.time / self.stride_fs)):
            return state
        internal = internal_momenta(state, state.momenta)
        kinetic = kinetic_energy(replace(state, momenta=internal, middle_momenta=None))
        exact = (1.0 + missing / kinetic.clamp_min(1e-300)).clamp_min(0.0).sqrt()
        factor = torch.where(kinetic > 0.0, exact.clamp(1.0 - self.clip, 1.0 + self.clip), torch.ones_like(exact))
        momenta = state.momenta + (factor.index_select(0, state.system.owner).unsqueeze(1) - 1.0) * internal
        return replace(state, momenta=momenta, energy_debt=missing - (factor.square() - 1.0) * kinetic)


@dataclass(frozen=True, slots=True)
class LeapingCorrectEnergy:
    """Strides with corrections inside; their target energy is computed once a leap."""

    plain: CorrectEnergy
    inner: CompiledSteps

    @property
    def stride_fs(self) -> float:
        return self.inner.stride_fs

    def step(self, state: State, generator: Generator) -> State:
        return self.leap(state, generator, round(state.time / self.stride_fs), 1)[0]

    def leap(self, state: State, generator: Generator, step: int, steps: int) -> tuple[State, int, bool]:
        state, plain, taken, suspect = unheated(evaluated(state, self.plain.evaluate)), self.plain, 0, False
        target = plain.target(state)
        correction = {"correct_every": plain.every, "total_energy": float(target[0]), "largest_correction": plain.clip}
        while taken < steps and not suspect:
            correction["correct_from"] = round(state.time / self.stride_fs)
            state, more, suspect = self.inner.leap(state, generator, step + taken, steps - taken, **correction)
            taken += more
        return plain.owing(state, target), taken, suspect


def unheated(state: State) -> State:
    """The state with heat counted from zero."""
    return replace(state, heat=state.momenta.new_zeros(state.system.n_structs))
