r"""Sums of observables over all steps of a run, so that rows of the log hold means over the time between them.

Potential energy, pressure, and twice the internal kinetic energy of each element are added at each step: inside compiled
dynamics (`kernels/motion.hpp`), by `WithRunningSums` for other propagators. Compiled long strides add potential energy and
pressure only at frame and barostat steps. The mean between two points of a run is the difference of their sums over the
difference of their numbers of steps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from mdistill.simulation.kinetics import freedom, prediction_of, pressure, twice_kinetic_by_element
from mdistill.simulation.propagators import inside
from mdistill.types import LeapingPropagator, Propagator, RunningSums, State, System
from mdistill.units import BOLTZMANN, GPA


def no_steps(system: System) -> RunningSums:
    """The sums of a run of one struct before its first step."""
    kinds = len(system.numbers.unique())
    return RunningSums(steps=0, evaluated=0, potential=0.0, pressure=0.0, kinetic=torch.zeros(kinds, dtype=torch.float64))


def to_vector(sums: RunningSums) -> Float[Tensor, " number"]:
    """Steps, steps evaluated, potential, pressure, kinetic by element."""
    numbers = [float(sums.steps), float(sums.evaluated), sums.potential, sums.pressure]
    return torch.cat([torch.tensor(numbers, dtype=torch.float64), sums.kinetic])


def from_vector(vector: Float[Tensor, " number"]) -> RunningSums:
    """The sums of a `to_vector`."""
    steps, evaluated, potential, squeeze = vector[:4].tolist()
    return RunningSums(steps=int(steps), evaluated=int(evaluated), potential=potential, pressure=squeeze, kinetic=vector[4:])


@dataclass(frozen=True, slots=True)
class WithRunningSums:
    """A propagator of one struct that adds to `State.running_sums` at each step."""

    plain: Propagator

    @property
    def stride_fs(self) -> float:
        return self.plain.stride_fs

    def step(self, state: State, generator: Generator) -> State:
        before = state.running_sums or no_steps(state.system)
        state = self.plain.step(state, generator)
        squeeze = pressure(state)
        after = RunningSums(
            steps=before.steps + 1,
            evaluated=before.evaluated + 1,
            potential=before.potential + float(prediction_of(state).energy[0]),
            pressure=before.pressure + (0.0 if squeeze is None else float(squeeze[0])),
            kinetic=before.kinetic + twice_kinetic_by_element(state),
        )
        return replace(state, running_sums=after)


def with_running_sums(propagator: Propagator) -> Propagator:
    """The propagator with running sums, inside all wrappers that act between steps; a leaping one has them already."""
    return propagator if isinstance(propagator, LeapingPropagator) else inside(propagator, WithRunningSums)


def means(state: State, before: RunningSums, *, degrees: Float[Tensor, " element"] | None = None) -> dict[str, float | None]:
    """Means over the steps since `before`, by column of the log: potential energy (eV), temperatures (K), pressure (GPa).

    Potential energy and pressure are means over the steps with known values (`RunningSums.evaluated`). None without a step; no
    pressure where a direction is open. `degrees`: `element_freedom`, where it is known.
    """
    system, now = state.system, state.running_sums or before
    steps, evaluated = now.steps - before.steps, now.evaluated - before.evaluated
    numbers, periodic = torch.unique(system.numbers), bool(system.pbc.all())
    kinetic = (now.kinetic - before.kinetic) / max(steps, 1)
    degrees = element_freedom(state) if degrees is None else degrees
    row: dict[str, float | None] = {
        "mean_potential_eV": (now.potential - before.potential) / evaluated if evaluated else None,
        "mean_temperature_K": float(kinetic.sum() / BOLTZMANN) / round(float(degrees.sum())),
        "mean_pressure_GPa": (now.pressure - before.pressure) / evaluated / GPA if evaluated and periodic else None,
    }
    from ase.data import chemical_symbols

    for number, energy, count in zip(numbers.tolist(), kinetic, degrees, strict=True):
        row[f"mean_T_{chemical_symbols[number]}_K"] = float(energy / (count * BOLTZMANN))
    return row if steps else dict.fromkeys(row)


def element_freedom(state: State) -> Float[Tensor, " element"]:
    """Degrees of freedom of each element of one struct, as in `kinetics.temperature`."""
    each = freedom(state)
    return torch.stack([each[state.system.numbers == number].sum() for number in torch.unique(state.system.numbers)])
