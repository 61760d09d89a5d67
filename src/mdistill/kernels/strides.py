"""Long strides in compiled code: kicks by engines of any library, drifts, thermostats, small steps where a kick is too strong."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from mdistill.kernels.library import Field, Map, address
from mdistill.kernels.motion import Motion, Point, run
from mdistill.kernels.spline import Engine


class Strides:
    """A map of one structure (`simulation/splitting_map.py`): K evaluations a stride, for its last kick is the next one's first.

    It remembers the force at the place where it stopped, as it would find it there: results do not depend on calls before.

    Args:
        stages: An engine for each kick's potential; kick k of K uses number min(k, K − k).
        potential: For energies, and forces of the small steps.
        kicks: K.
        largest_force: [stage, atom] eV/Å; beyond it a stride is taken in small steps of velocity Verlet.
        looked_at: eV; a stride that changes the energy, with the first stage's potential, by more is looked at:
        largest_change: eV; where it changes the energy by more than this it is taken in small steps too.
        small_steps: How many in a stride.
    """

    def __init__(
        self,
        stages: Sequence[Engine],
        potential: Engine,
        *,
        kicks: int,
        largest_force: Float[np.ndarray, "stage atom"],
        looked_at: float,
        largest_change: float,
        small_steps: int,
    ) -> None:
        self._engines, self._call = (*stages, potential), potential.kernel.library
        fields = (Field * len(stages))(*(engine.field() for engine in stages))
        limits = np.ascontiguousarray(largest_force, dtype=np.float64)
        described = Map(
            atoms=potential.atoms,
            species=address(potential.species),
            threads=potential.threads,
            kicks=kicks,
            small_steps=small_steps,
            stages=ctypes.addressof(fields),
            potential=potential.field(),
            largest_force=address(limits),
            looked_at=looked_at,
            largest_change=largest_change,
        )
        self._fallbacks_seen = 0
        self._pointer = self._call.mdistill_strides(ctypes.byref(described))
        weakref.finalize(self, self._call.mdistill_strides_free, self._pointer)

    def new_fallbacks(self) -> int:
        """How many strides were taken in small steps since the last time asked."""
        before, self._fallbacks_seen = self._fallbacks_seen, int(self._call.mdistill_fallbacks(self._pointer))
        return self._fallbacks_seen - before

    def run(self, motion: Motion, point: Point) -> tuple[int, bool]:
        """Take strides, changing the point in place; gives how many were taken, and whether the last of them passed a limit or
        ends in what is not finite. Energy, forces and virial are those of the potential where the last one ends."""
        return run(self._call.mdistill_strides_run, self._pointer, motion, point)
