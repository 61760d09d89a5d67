r"""Long strides: NVE dynamics by a generating function of midpoints (`research/action_net.py`), each step solved for.

    q' = q + ∂S/∂p̄,   p' = p − ∂S/∂q̄    at q̄ = (q + q')/2, p̄ = (p + p')/2

Fixed-point iteration with Anderson mixing (`research/anderson.py`) from a guess of the ends: by the forces at the start of the
stride, or by another map. The guess changes what a stride costs, not where it ends (to the tolerance). A stride that does not
converge, ends in numbers that are not finite, or changes the energy by more than a limit is taken anew in small steps of
velocity Verlet with the potential that the map was taught, and counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Generator, Tensor

from mdistill.derivatives import Conservative
from mdistill.errors import BadInput
from mdistill.graph import SkinList
from mdistill.nets.compiled import compiled
from mdistill.settings import within
from mdistill.simulation.evaluator import make_evaluator
from mdistill.simulation.guard import total_energy
from mdistill.simulation.kinetics import prediction_of
from mdistill.simulation.verlet import Evaluate, VelocityVerlet, evaluated
from mdistill.types import Propagator, State, System
from mdistill.units import ACCELERATION
from research.action_net import ActionNet, Ends, SolverSettings, solve


@dataclass(slots=True)
class Counts:
    """What happened on the way: strides taken, how many fell back to small steps, evaluations of the increments."""

    strides: int = 0
    fallbacks: int = 0
    evaluations: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Implicit:
    """NVE, one long stride per step. Symplectic, reversible, conserves momentum, but where it falls back; all to the tolerance
    of the solver, total momentum to rounding.

    Attributes:
        increments: ∂S/∂p̄ (Å) and −∂S/∂q̄ (u·Å/fs) of midpoints of positions and momenta; given masses last.
        evaluate: The potential that the map was taught: energies, and forces of the small steps.
        time: t, fs.
        small_step: Of velocity Verlet in a stride that falls back, fs at most.
        solver: Tolerance and limits.
        largest_change: Of the total energy in a stride, eV; beyond it a stride falls back. A collision that begins and ends
            within a stride leaves no trace in its midpoints, and is noticed by this alone.
        guess: A map whose step is where the iteration begins; None for what the forces at the start give.
    """

    increments: Callable[[System, Tensor, Tensor], Ends]
    evaluate: Evaluate
    time: float
    small_step: float
    solver: SolverSettings = field(default_factory=SolverSettings)
    largest_change: float = math.inf
    guess: Propagator | None = None
    counts: Counts = field(default_factory=Counts, compare=False)

    def __post_init__(self) -> None:
        within("small_step", self.small_step, 0.0, self.time, unit="fs")
        within("tolerance", self.solver.tolerance, 0.0, 1e-3, unit="Å")
        within("most_evaluations", self.solver.most_evaluations, 1, 10_000, open_low=False)
        within("depth", self.solver.depth, 0, 50, open_low=False)
        if not self.largest_change > 0.0:
            raise BadInput("largest_change", f"{self.largest_change} eV", allowed="above 0", fix="leave it out")
        if self.guess is not None and abs(self.guess.stride_fs - self.time) > 1e-9 * self.time:
            stride = f"{self.guess.stride_fs:g} fs"
            raise BadInput("guess", f"a map over {stride}", allowed=f"{self.time:g} fs", fix="use a map of the same stride")

    @property
    def stride_fs(self) -> float:
        return self.time

    def step(self, state: State, generator: Generator) -> State:
        state = evaluated(replace(state, middle_momenta=None), self.evaluate)
        self.counts.strides += 1
        start = self._first_guess(state, generator)

        def increments(middle: System, momenta: Tensor) -> Ends:
            return self.increments(middle, momenta, state.masses)

        found = solve(increments, state.system, state.momenta, state.masses, self.time, start=start, settings=self.solver)
        self.counts.evaluations += found.evaluations
        if bool(found.converged.all()):
            system = replace(state.system, positions=found.positions)
            moved = replace(state, system=system, momenta=found.momenta, time=state.time + self.time, prediction=None)
            moved = evaluated(moved, self.evaluate)
            if float((total_energy(moved) - total_energy(state)).abs().max()) <= self.largest_change:
                return moved
        self.counts.fallbacks += 1
        return evaluated(self._in_small_steps(state, generator), self.evaluate)

    def _first_guess(self, state: State, generator: Generator) -> Ends:
        """Ends whose midpoints are q + (t/2) p/m + (t²/4) F/m and p + (t/2) F, or those of the other map."""
        if self.guess is not None:
            there = self.guess.step(state, generator)
            return there.system.positions, there.momenta
        kicked = state.momenta + (self.time * ACCELERATION) * prediction_of(state).forces
        positions = state.system.positions + 0.5 * self.time * (state.momenta + kicked) / state.masses.unsqueeze(1)
        return positions, kicked

    def _in_small_steps(self, state: State, generator: Generator) -> State:
        steps = math.ceil(self.time / self.small_step - 1e-9)
        verlet, now = VelocityVerlet(evaluate=self.evaluate, time_step=self.time / steps), state.time
        for _ in range(steps):
            state = verlet.step(state, generator)
        return replace(state, time=now + self.time)


def implicit(
    net: ActionNet,
    system: System,
    evaluate: Evaluate,
    *,
    skin: float,
    small_step: float,
    solver: SolverSettings | None = None,
    largest_change: float = math.inf,
    guess: Propagator | None = None,
) -> Implicit:
    """A generating function as a propagator of one structure, its potential on compiled kernels where there are any.

    Args:
        net: The generating function, float64.
        system: The structure.
        evaluate: The potential it was taught.
        skin: Of its neighbour lists, Å.
        small_step: Longest step of velocity Verlet where it falls back, fs.
        solver: Tolerance and limits.
        largest_change: Of the total energy in a stride, eV; beyond it a stride falls back.
        guess: A map whose step is where the iteration begins.
    Raises:
        BadInput: The network computes in single precision, in which the tolerance cannot be met.
    """
    if net.potential.mixing.dtype != torch.float64:
        raise BadInput("action", "computes in float32", allowed="float64", fix="leave it in the type it was read in")
    pull = make_evaluator(compiled(Conservative(net.potential), double=True), system, skin=skin)
    pairs = SkinList(cutoff=net.cutoff, skin=skin)

    def forces(middle: System) -> Tensor:
        return pull(replace(middle, positions=middle.positions.detach())).forces

    def increments(middle: System, momenta: Tensor, masses: Tensor) -> Ends:
        if not bool(torch.isfinite(middle.positions).all()):
            nothing = torch.full_like(momenta, torch.nan)
            return nothing, nothing
        with torch.no_grad():
            return net.increments(pairs.graph(middle), momenta, masses, forces=forces)

    return Implicit(
        increments=increments,
        evaluate=evaluate,
        time=net.settings.stride_fs,
        small_step=min(small_step, net.settings.stride_fs),
        solver=solver or SolverSettings(),
        largest_change=largest_change,
        guess=guess,
    )
