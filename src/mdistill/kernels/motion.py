"""Stretches of compiled dynamics as Python sees them: what to do, a phase-space point, and the call."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from mdistill.kernels.library import Plan, address

Array = np.ndarray
_ENSEMBLES = {"nve": 0, "baoab": 1, "obabo": 1, "bussi": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Motion:
    """A stretch of dynamics, and the limits at which it stops early.

    Attributes:
        ensemble: "nve", "baoab" (steps of an `Engine`), "obabo" (strides) or "bussi".
        steps, first_step: How many steps; number of the step before.
        time_step: Time of a step, fs.
        keep: exp(−γh) of BAOAB, exp(−γh/2) of OBABO or exp(−h/τ) of Bussi.
        temperature_K: Of the thermostat.
        keys: One key of random numbers per step (BAOAB), or two (OBABO).
        normal, others: [step] standard normal and χ² number per step (Bussi).
        whole: Whether strides add up energy and pressure at the last of the steps (time steps do at each).
        kept_every, kept_from, kept_energy, kept_clip: One stride of so many (0: none), by its number, counted from the second,
            ends with the total energy put right: to that energy (eV) and the heat since, within the clip.
        watch_every: Limits are checked at steps that are multiples of it; 0: never.
        largest_force, highest_temperature, reference_energy, energy_change: eV/Å, K, eV, eV/atom; inf or nan: no limit.
    """

    ensemble: str
    steps: int
    first_step: int
    time_step: float
    keep: float = 1.0
    temperature_K: float = 0.0
    keys: Int[Array, " key"] | None = None
    normal: Float[Array, " step"] | None = None
    others: Float[Array, " step"] | None = None
    whole: bool = True
    kept_every: int = 0
    kept_from: int = 0
    kept_energy: float = 0.0
    kept_clip: float = 0.0
    watch_every: int = 0
    largest_force: float = np.inf
    highest_temperature: float = np.inf
    reference_energy: float = np.nan
    energy_change: float = np.inf


@dataclass(slots=True)
class Point:
    """A phase-space point in float64 arrays, changed in place by `run`.

    Attributes:
        positions, momenta: [atom, 3] Å, u·Å/fs.
        cell, pbc: [3, 3] Å, [3].
        masses: [atom] u.
        middle: [atom, 3] momenta in the middle of the last BAOAB step.
        forces, energy, virial: Of the positions where `known`: [atom, 3] eV/Å, eV, [3, 3] Σ d ⊗ ∂E/∂d (eV).
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


def run(function: Any, pointer: int, motion: Motion, point: Point) -> tuple[int, bool]:
    """Call a library's `run`: steps taken, and whether the last of them passed a limit or is not finite."""
    held = {name: getattr(motion, name) for name in ("keys", "normal", "others")}
    plan = Plan(
        steps=motion.steps,
        first_step=motion.first_step,
        watch_every=motion.watch_every,
        ensemble=_ENSEMBLES[motion.ensemble],
        whole=motion.whole,
        kept_every=motion.kept_every,
        kept_from=motion.kept_from,
        kept_energy=motion.kept_energy,
        kept_clip=motion.kept_clip,
        time_step=motion.time_step,
        keep=motion.keep,
        temperature=motion.temperature_K,
        largest_force=motion.largest_force,
        highest_temperature=motion.highest_temperature,
        reference_energy=motion.reference_energy,
        energy_change=motion.energy_change,
        **{name: address(array) for name, array in held.items()},
    )
    energy, pbc = ctypes.c_double(point.energy), np.ascontiguousarray(point.pbc, dtype=np.int32)
    before = [address(a) for a in (point.cell, pbc, point.masses)]
    changed = [address(a) for a in (point.positions, point.momenta, point.middle, point.forces)]
    after = [address(a) for a in (point.virial, point.sums)]
    taken = function(pointer, ctypes.byref(plan), *before, int(point.known), *changed, ctypes.byref(energy), *after)
    point.energy, point.known = energy.value, True
    return abs(int(taken)), taken < 0
