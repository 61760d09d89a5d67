r"""Long strides by a one-step map (`nets/one_step.py`, `nets/one_step_attention.py`): NVE with energy and momentum restored.

After the map has taken (q, p) to (q̂, p̂) over a stride t:
    momentum   centre of mass as in free flight, total momentum unchanged
    energy     p ← P + α (p̂ − P), α² = (H + D − V(q̂) − K_P)/K̂, α limited to 1 ± clip;  D ← energy still missing

p̂ − P: momenta relative to the centre of mass, of kinetic energy K̂   P, K_P: share of the centre of mass   V: potential energy
H: total energy at the start of this stride   D: energy debt, carried in `State.energy_debt`

A thermostat around it may change H freely. A stride is replaced by time steps of velocity Verlet, and counted, where the
network's uncertainty (`nets/uncertainty.py`) exceeds that in training, where α for this stride alone differs from 1 by more than
`worst`, and where a number is not finite.

Reference: F. Bigi, S. Chong, A. Kristiadi, M. Ceriotti, FlashMD, arXiv 2505.19350 (2025); clips, debt and fallback are ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Generator, Tensor

from mdistill.graph import SkinList, turned
from mdistill.nets.network import Arrival, OneStepMap
from mdistill.settings import within
from mdistill.simulation.guard import Guard
from mdistill.simulation.kinetics import per_struct, prediction_of
from mdistill.simulation.noise import uniforms
from mdistill.simulation.propagators import Evaluate, StrideCounts
from mdistill.simulation.verlet import evaluated, small_steps
from mdistill.types import State, System
from mdistill.units import KINETIC


@dataclass(frozen=True, slots=True, kw_only=True)
class OneStepStrides:
    """NVE, one long stride per step. Conserves total momentum, and energy up to the clip.

    Attributes:
        net: The map.
        evaluate: Its student: energies, initial forces, and time steps.
        stride_fs: t.
        small_step: Longest time step of velocity Verlet in a replaced stride, fs.
        rescale: Whether the energy is corrected.
        clip: Largest |α − 1|.
        worst: Largest |α − 1| of a stride alone.
        random_frame: Whether every stride uses a randomly rotated frame: for maps that are not equivariant.
        counts: Counts of strides.
    """

    splits: ClassVar[bool] = False
    keeps_energy: ClassVar[bool] = True
    net: OneStepMap
    evaluate: Evaluate
    stride_fs: float
    small_step: float
    rescale: bool = True
    clip: float = 0.1
    worst: float = 0.2
    random_frame: bool = False
    skin: float = 0.5
    counts: StrideCounts = field(default_factory=StrideCounts, compare=False)
    _pairs: SkinList = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        within("small_step", self.small_step, 0.0, self.stride_fs, unit="fs")
        within("clip", self.clip, 0.0, 0.5)
        within("worst", self.worst, self.clip, 1.0, open_low=False)
        object.__setattr__(self, "_pairs", SkinList(cutoff=self.net.cutoff, skin=self.skin))

    def uncorrected(self) -> OneStepStrides:
        return replace(self, rescale=False)

    def step(self, state: State, generator: Generator) -> State:
        self.counts.strides += 1
        state = evaluated(state, self.evaluate)
        turn = _random_turn(generator) if self.random_frame else None
        moved = self._moved(state, turn)
        if moved is None:
            self.counts.fallbacks += 1
            moved = small_steps(state, self.evaluate, generator, time=self.stride_fs, longest=self.small_step)
        return moved

    def _moved(self, state: State, turn: Float[Tensor, "3 3"] | None) -> State | None:
        """The state after a stride of the map, None where it fails a check."""
        arrival = self._arrival(state, turn)
        species, counts = self.net.species(state.system.numbers), self.counts
        if not _finite(arrival.positions, arrival.momenta):
            counts.broken += 1
            return None
        if not self.net.doubt.trusted(self.net.doubt(arrival.features, species), species):
            counts.doubtful += 1
            return None
        moved = evaluated(_centred(state, arrival, self.stride_fs), self.evaluate)
        prediction = prediction_of(moved)
        if not _finite(prediction.energy, prediction.forces):
            counts.broken += 1
            return None
        return self._rescaled(state, moved)

    def _arrival(self, state: State, turn: Float[Tensor, "3 3"] | None) -> Arrival:
        system, forces, graph = state.system, prediction_of(state).forces, self._pairs.graph(state.system)
        with torch.no_grad():
            if turn is None:
                return self.net.leap(system, state.momenta, state.masses, self.stride_fs, forces=forces, graph=graph)
            system = turned(system, turn)
            graph, momenta = replace(graph, system=system), state.momenta @ turn
            arrival = self.net.leap(system, momenta, state.masses, self.stride_fs, forces=forces @ turn, graph=graph)
        return replace(arrival, positions=arrival.positions @ turn.T, momenta=arrival.momenta @ turn.T)

    def _rescaled(self, before: State, moved: State) -> State | None:
        """The state with corrected energy within the clip; None where the stride alone is too far off."""
        if not self.rescale:
            return moved
        start, common, internal = _kinetic(before), *_shares(moved)
        debt = torch.zeros_like(start) if before.energy_debt is None else before.energy_debt
        internal_after = prediction_of(before).energy + start - prediction_of(moved).energy - common
        if not bool((_factor(internal_after, internal) - 1.0).abs().max() <= self.worst):
            self.counts.energetic += 1
            return None
        exact = _factor(internal_after + debt, internal)
        factor = exact.clamp(1.0 - self.clip, 1.0 + self.clip)
        self.counts.clips += int((exact != factor).any())
        owner, weight = moved.system.owner, moved.masses.unsqueeze(1)
        drift = weight * _drift(moved).index_select(0, owner)
        momenta = drift + factor.index_select(0, owner).unsqueeze(1) * (moved.momenta - drift)
        return replace(moved, momenta=momenta, energy_debt=internal_after + debt - factor.square() * internal)


def one_step_strides(
    net: OneStepMap, system: System, evaluate: Evaluate, *, time: float, skin: float, small_step: float,
    guard: Guard | None = None,
) -> OneStepStrides:  # fmt: skip
    """A map as a propagator; arguments as `simulation.stride_maps.long_strides`."""
    frame = not net.equivariant
    return OneStepStrides(net=net, evaluate=evaluate, stride_fs=time, small_step=small_step, random_frame=frame, skin=skin)


def _finite(*tensors: Tensor) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


def _centred(state: State, arrival: Arrival, time: float) -> State:
    """The state at the arrival, shifted such that centre of mass and total momentum are those of free flight."""
    system, weight = state.system, state.masses.unsqueeze(1)
    gained = arrival.momenta - state.momenta
    moved = weight * (arrival.positions - system.positions) - time * state.momenta
    velocity, shift = (per_struct(system, x) / per_struct(system, weight) for x in (gained, moved))
    return replace(
        state, system=replace(system, positions=arrival.positions - shift.index_select(0, system.owner)),
        momenta=arrival.momenta - weight * velocity.index_select(0, system.owner), time=state.time + time, prediction=None,
        middle_momenta=None,
    )  # fmt: skip


def _drift(state: State) -> Float[Tensor, "struct 3"]:
    """Velocity of each struct's centre of mass, Å/fs; 0 for a single atom."""
    system = state.system
    drift = per_struct(system, state.momenta) / per_struct(system, state.masses).unsqueeze(1)
    alone = torch.bincount(system.owner, minlength=system.n_structs) == 1
    return torch.where(alone.unsqueeze(1), torch.zeros_like(drift), drift)


def _shares(state: State) -> tuple[Float[Tensor, " struct"], Float[Tensor, " struct"]]:
    """Kinetic energies (eV) of the centre of mass and relative to it."""
    common = 0.5 * KINETIC * per_struct(state.system, state.masses) * _drift(state).square().sum(1)
    return common, _kinetic(state) - common


def _kinetic(state: State) -> Float[Tensor, " struct"]:
    return 0.5 * KINETIC * per_struct(state.system, state.momenta.square().sum(1) / state.masses)


def _factor(target: Float[Tensor, " struct"], kinetic: Float[Tensor, " struct"]) -> Float[Tensor, " struct"]:
    """√(target/kinetic); 0 where the target is none, 1 where both are none."""
    still = (kinetic <= 0.0) & (target.abs() <= 1e-12)
    return torch.where(still, torch.ones_like(kinetic), (target.clamp_min(0.0) / kinetic.clamp_min(1e-300)).sqrt())


def _random_turn(generator: Generator) -> Float[Tensor, "3 3"]:
    """A rotation, uniformly distributed, from a quaternion of three uniform numbers (K. Shoemake, Graphics Gems III, 1992)."""
    first, second, third = uniforms(generator, np.zeros(1), np.arange(3))
    near, far, one, two = math.sqrt(1.0 - first), math.sqrt(first), 2.0 * math.pi * second, 2.0 * math.pi * third
    x, y, z, w = near * math.sin(one), near * math.cos(one), far * math.sin(two), far * math.cos(two)
    return torch.tensor(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ],
        dtype=torch.float64,
    )
