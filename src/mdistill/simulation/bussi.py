r"""Stochastic velocity rescaling: canonical sampling by one random factor for all velocities, which does not change diffusion.

After each step of an energy-conserving propagator (velocity Verlet, a long stride) p ← α p with
α² = c + (1 − c) (K̄/(n K)) (R² + S) + 2 R √(c (1 − c) K̄/(n K)),   sign α = sign(R + √(c n K/((1 − c) K̄)))

c = exp(−h/τ)   h: time step   τ: relaxation time   K: kinetic energy   K̄ = n k_B T/2   n: degrees of freedom
R: standard normal   S: sum of n − 1 squared standard normals (a χ² number)

Momenta are those relative to the centre of mass (n = 3N − 3): total momentum is conserved.

Reference: Bussi, Donadio, Parrinello, J. Chem. Phys. 126, 014101 (2007), doi 10.1063/1.2408420; sign of α: Bussi,
Parrinello, Comput. Phys. Commun. 179, 26 (2008), doi 10.1016/j.cpc.2008.01.006.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Generator, Tensor

from mdistill.kernels.motion import Ensemble
from mdistill.settings import within
from mdistill.simulation.evaluator import EngineEvaluator
from mdistill.simulation.kinetics import degrees_of_freedom, heated, internal_momenta, per_struct
from mdistill.simulation.noise import keys, uniforms_of
from mdistill.simulation.propagators import Mover, nve_mover
from mdistill.types import Propagator, State
from mdistill.units import BOLTZMANN, KINETIC


@dataclass(frozen=True, slots=True, kw_only=True)
class Bussi:
    """NVT.

    Attributes:
        inner: The NVE step before; h is its stride.
        temperature_K: T, K.
        relaxation_fs: τ, fs.
    """

    inner: Propagator
    temperature_K: float
    relaxation_fs: float = 100.0

    def __post_init__(self) -> None:
        within("temperature_K", self.temperature_K, 0.0, 20000.0, unit="K")
        within("relaxation_fs", self.relaxation_fs, 0.0, 1e6, unit="fs")

    @property
    def stride_fs(self) -> float:
        return self.inner.stride_fs

    @property
    def share_replaced(self) -> float:
        return 1.0 - math.exp(-self.stride_fs / self.relaxation_fs)

    def mover(self, evaluate: EngineEvaluator) -> Mover | None:
        return nve_mover(self.inner, evaluate)

    def motion(self, state: State, generator: Generator, steps: int) -> dict[str, Any]:
        normal, chi_square = rescaling_noise(keys(generator, steps), np.zeros(steps), degrees_of_freedom(state).numpy())
        keep = math.exp(-self.stride_fs / self.relaxation_fs)
        noise = {"normal": normal, "chi_square": chi_square}
        return {"ensemble": Ensemble.BUSSI, "temperature_K": self.temperature_K, "keep": keep} | noise

    def step(self, state: State, generator: Generator) -> State:
        state = self.inner.step(state, generator)
        internal = internal_momenta(state, state.momenta)
        factor = self._factor(state, internal, generator).index_select(0, state.system.owner).unsqueeze(1)
        return heated(state, replace(state, momenta=state.momenta + (factor - 1.0) * internal))

    def _factor(self, state: State, internal: Float[Tensor, "atom 3"], generator: Generator) -> Float[Tensor, " struct"]:
        """α of each struct (α = 1 where nothing moves)."""
        freedom = degrees_of_freedom(state).cpu().numpy()
        kinetic = 0.5 * KINETIC * per_struct(state.system, internal.square().sum(1) / state.masses).cpu().numpy()
        ratio = 0.5 * BOLTZMANN * self.temperature_K / np.maximum(kinetic, 1e-300)
        keep = math.exp(-self.stride_fs / self.relaxation_fs)
        normal, others = rescaling_noise(keys(generator, 1), np.arange(len(kinetic)), freedom)
        square = keep + (1.0 - keep) * ratio * (normal**2 + others) + 2.0 * normal * np.sqrt(keep * (1.0 - keep) * ratio)
        sign = np.where(normal + np.sqrt(keep / ((1.0 - keep) * ratio)) >= 0.0, 1.0, -1.0)
        factor = np.where(kinetic > 0.0, sign * np.sqrt(np.maximum(square, 0.0)), 1.0)
        return torch.from_numpy(factor).to(internal)


def rescaling_noise(key: np.ndarray, stream: np.ndarray, freedom: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """R and S of the streams of each key (arrays, broadcast together)."""
    from scipy.special import gammaincinv

    first, second, third = (uniforms_of(key, stream, np.array(k)) for k in range(3))
    normal = np.sqrt(-2.0 * np.log(first)) * np.cos(2.0 * np.pi * second)
    return normal, 2.0 * gammaincinv(0.5 * (freedom - 1.0), third)
