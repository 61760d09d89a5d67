r"""Langevin dynamics by BAOAB: canonical sampling with a very small time-step error in positions.

B: p ← p + (h/2) F;   A: r ← r + (h/2) p/m;   O: p ← c p + √(1 − c²) √(m k_B T) ξ;   A;   B        c = exp(−γh)

r, p, m, F: positions, momenta, masses, forces   h: time step   γ: friction   T: temperature   ξ: standard normal

Total momentum is not conserved: all 3N momenta are thermalised. In a harmonic well of frequency ω the variance of r is
exact and so is that of p at O; the momentum at the full step is too cold by the factor 1 − (ωh)²/4. Hence
temperature and kinetic energy are measured on `State.middle_momenta` (after O).

Reference: Leimkuhler, Matthews, J. Chem. Phys. 138, 174102 (2013), doi 10.1063/1.4802990.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from mdistill.kernels.motion import Ensemble
from mdistill.settings import LONGEST_STEP, within
from mdistill.simulation.evaluator import EngineEvaluator
from mdistill.simulation.kinetics import heated, held
from mdistill.simulation.noise import atom_normals, keys
from mdistill.simulation.propagators import Evaluate, Mover, nve_mover
from mdistill.simulation.verlet import drift, evaluated, kick
from mdistill.types import Propagator, State
from mdistill.units import BOLTZMANN, KINETIC, PS


@dataclass(frozen=True, slots=True, kw_only=True)
class Baoab:
    """NVT.

    Attributes:
        evaluate: Forces of a system.
        time_step: h, fs.
        temperature_K: T, K.
        friction_per_ps: γ, 1/ps. Small values change diffusion less, large values equilibrate faster.
    """

    evaluate: Evaluate
    time_step: float
    temperature_K: float
    friction_per_ps: float = 1.0

    def __post_init__(self) -> None:
        within("time_step", self.time_step, 0.0, LONGEST_STEP, unit="fs")
        within("temperature_K", self.temperature_K, 0.0, 20000.0, unit="K")
        within("friction_per_ps", self.friction_per_ps, 0.0, 1000.0, unit="1/ps", open_low=False)

    @property
    def stride_fs(self) -> float:
        return self.time_step

    def step(self, state: State, generator: Generator) -> State:
        half = 0.5 * self.time_step
        state = drift(kick(evaluated(state, self.evaluate), half), half)
        keep = math.exp(-self.friction_per_ps * self.time_step / PS)
        middle = thermalised(state, keep, self.temperature_K, generator)
        state = drift(heated(state, replace(state, momenta=middle)), half)
        state = kick(evaluated(state, self.evaluate), half)
        return replace(state, time=state.time + self.time_step, middle_momenta=middle)

    def mover(self, evaluate: EngineEvaluator) -> Mover:
        return Mover(evaluate.engine)

    def motion(self, state: State, generator: Generator, steps: int) -> dict[str, Any]:
        keep = math.exp(-self.friction_per_ps * self.time_step / PS)
        return {"ensemble": Ensemble.LANGEVIN, "temperature_K": self.temperature_K, "keep": keep, "keys": keys(generator, steps)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Obabo:
    r"""NVT: half of O, a whole energy-conserving step of any kind (a long stride), half of O.

    Samples what the inner step conserves, at any friction.

    Reference: Bussi, Parrinello, Phys. Rev. E 75, 056707 (2007), doi 10.1103/PhysRevE.75.056707.

    Attributes:
        inner: NVE.
        temperature_K: T, K.
        friction_per_ps: γ, 1/ps.
    """

    inner: Propagator
    temperature_K: float
    friction_per_ps: float = 1.0

    def __post_init__(self) -> None:
        within("temperature_K", self.temperature_K, 0.0, 20000.0, unit="K")
        within("friction_per_ps", self.friction_per_ps, 0.0, 1000.0, unit="1/ps", open_low=False)

    @property
    def stride_fs(self) -> float:
        return self.inner.stride_fs

    @property
    def share_replaced(self) -> float:
        return 2.0 * (1.0 - math.exp(-self.friction_per_ps * self.stride_fs / PS))

    def mover(self, evaluate: EngineEvaluator) -> Mover | None:
        """Compiled strides only: engines have no OBABO."""
        mover = nve_mover(self.inner, evaluate)
        return None if mover is None or mover.counts is None else mover

    def motion(self, state: State, generator: Generator, steps: int) -> dict[str, Any]:
        keep, noise = math.exp(-0.5 * self.friction_per_ps * self.stride_fs / PS), keys(generator, 2 * steps)
        return {"ensemble": Ensemble.LANGEVIN, "temperature_K": self.temperature_K, "keep": keep, "keys": noise}

    def step(self, state: State, generator: Generator) -> State:
        return self._thermalised(self.inner.step(self._thermalised(state, generator), generator), generator)

    def _thermalised(self, state: State, generator: Generator) -> State:
        keep = math.exp(-0.5 * self.friction_per_ps * self.stride_fs / PS)
        momenta = thermalised(state, keep, self.temperature_K, generator)
        return heated(state, replace(state, momenta=momenta, middle_momenta=None))


def thermalised(state: State, keep: float, temperature_K: float, generator: Generator) -> Float[Tensor, "atom 3"]:
    """O: c p + √(1 − c²) √(m k_B T) ξ with c = keep."""
    width = (state.masses * ((1.0 - keep**2) * BOLTZMANN * temperature_K / KINETIC)).sqrt()
    width = torch.where(held(state.masses), 0.0, width)
    return keep * state.momenta + width.unsqueeze(1) * atom_normals(generator, state.system)
