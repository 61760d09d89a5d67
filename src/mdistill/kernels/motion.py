"""Calls of compiled dynamics: plan, phase-space point, and the call."""

from __future__ import annotations

from ctypes import byref
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, Int

from mdistill.kernels.build import c_struct

Array = np.ndarray


class Ensemble(IntEnum):
    """LANGEVIN is BAOAB in time steps, half-steps before and after a stride (OBABO)."""

    NVE = 0
    LANGEVIN = 1
    BUSSI = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Motion:
    """Plan of one call, with limits at which it stops early; the same as `Plan` in motion.hpp.

    Attributes:
        steps, first_step: Number of steps; number of the step before.
        ensemble: Energy-conserving, or the thermostat.
        time_step: Time of a step, fs.
        keep: exp(−γh) of BAOAB, exp(−γh/2) of OBABO, exp(−h/τ) of Bussi.
        temperature_K: Temperature of the thermostat, K.
        keys: One key of random numbers per step (BAOAB), or two (OBABO).
        normal, chi_square: [step] random numbers of Bussi's thermostat.
        whole: Whether strides record energy and pressure at the last step (time steps record each).
        correct_every, correct_from: Mean interval of energy corrections, in strides (0: none), and the first stride counted.
        total_energy, largest_correction: Total energy (eV) without the thermostat's heat; largest relative change of momenta.
        watch_every: Limits are checked at steps that are multiples of it; 0: never.
        largest_force, highest_temperature, reference_energy, energy_change: eV/Å, K, eV, eV/atom; inf or nan: no limit.
    """

    steps: int
    first_step: int
    ensemble: Ensemble
    time_step: float
    keep: float = 1.0
    temperature_K: float = 0.0
    keys: Int[Array, " key"] | None = None
    normal: Float[Array, " step"] | None = None
    chi_square: Float[Array, " step"] | None = None
    whole: bool = True
    correct_every: int = 0
    correct_from: int = 0
    total_energy: float = 0.0
    largest_correction: float = 0.0
    watch_every: int = 0
    largest_force: float = np.inf
    highest_temperature: float = np.inf
    reference_energy: float = np.nan
    energy_change: float = np.inf


@dataclass(slots=True)
class Point:
    """A phase-space point in float64 arrays, changed in place by `run`; the same as `Point` in motion.hpp.

    Attributes:
        positions, momenta: [atom, 3] Å, u·Å/fs.
        cell, pbc: [3, 3] Å, [3].
        masses: [atom] u.
        middle: [atom, 3] momenta in the middle of the last BAOAB step.
        forces, energy, virial: Values at the positions where `known`: [atom, 3] eV/Å, eV, [3, 3] Σ d ⊗ ∂E/∂d (eV).
        sums: [3 + species] added up over all steps: energy (eV), pressure (eV/Å³), heat of the thermostat (eV), twice the
            internal kinetic energies (eV).
    """

    positions: Array
    momenta: Array
    cell: Array
    pbc: Array
    masses: Array
    middle: Array
    forces: Array
    energy: float
    virial: Array
    known: bool
    sums: Array


class StructureEngine(Protocol):
    """Compiled evaluation and dynamics of one structure, on a CPU or a GPU; results do not depend on earlier calls."""

    def set_limits(self, distances: Float[Array, "species species"]) -> None:
        """Closest distance (Å) of each pair at which `run` stops; 0 for none."""
        ...

    def evaluate(self, positions: Array, cell: Array, pbc: Array) -> tuple[float, Array, Array]:
        """Energy (eV), forces (eV/Å), virial (eV)."""
        ...

    def run(self, motion: Motion, point: Point) -> tuple[int, bool]:
        """Take steps and change the point in place. Their number, and whether the last passes a limit or is not finite."""
        ...

    def counts(self) -> dict[str, float]:
        """Numbers of the last evaluation; `edges`: those within the cutoff."""
        ...


_PLAN = [(f.name, f.type == "float") for f in fields(Motion)]


def run(function: Any, pointer: int, motion: Motion, point: Point) -> tuple[int, bool]:
    """Take steps and change the point in place. Returns their number, and whether the last exceeds a limit or is not finite."""
    plan = {name: float(getattr(motion, name)) if real else getattr(motion, name) for name, real in _PLAN}
    point.pbc = np.ascontiguousarray(point.pbc, dtype=np.int32)
    place = c_struct(**{name: getattr(point, name) for name in Point.__slots__})
    taken = function(pointer, byref(c_struct(**plan)), byref(place))
    point.energy, point.known = place.energy, True
    return abs(int(taken)), taken < 0
