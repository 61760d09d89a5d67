"""Long strides in compiled code: kicks by engines of any library, drifts, thermostats, small steps where a kick is too strong."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from mdistill.kernels.build import c_struct
from mdistill.kernels.moment import Engine
from mdistill.kernels.motion import Motion, Point, run


class Strides:
    """A map of one structure (`simulation/splitting_map.py`): K evaluations a stride, for its last kick is the next one's first.

    It remembers the force at the place where it stopped: results do not depend on the calls before.

    Args:
        stages: An engine for each kick's potential; kick k of K uses number min(k, K − k).
        potential: For energies, and forces of the small steps.
        kicks: K.
        largest_force: [stage, atom] eV/Å; beyond it a stride is taken in small steps of velocity Verlet.
        looked_at: eV; a stride that changes the energy, with the first stage's potential, by more is evaluated with `potential`:
        largest_change: eV; where it changes the energy by more than this it is taken in small steps too.
        small_steps: How many in a stride.
    """

    def __init__(
        self, stages: Sequence[Engine], potential: Engine, *, kicks: int, largest_force: Float[np.ndarray, "stage atom"],
        looked_at: float, largest_change: float, small_steps: int,
    ) -> None:  # fmt: skip
        self._engines, self._library, self._fallbacks_seen = (*stages, potential), potential.library, 0
        fields = np.array([engine.addresses() for engine in (potential, *stages)], dtype=np.uint64)
        atoms, species, threads = potential.atoms, potential.species, potential.threads
        numbers = {"atoms": atoms, "species": species, "threads": threads, "kicks": kicks, "small_steps": small_steps}
        forces = np.ascontiguousarray(largest_force, dtype=np.float64)
        limits = {"looked_at": float(looked_at), "largest_change": float(largest_change)}
        described = c_struct(**numbers, fields=fields, largest_force=forces, **limits)
        self._pointer = self._library.mdistill_strides(ctypes.byref(described))
        weakref.finalize(self, self._library.mdistill_strides_free, self._pointer)

    def new_fallbacks(self) -> int:
        """Strides taken in small steps since the last question."""
        before, self._fallbacks_seen = self._fallbacks_seen, int(self._library.mdistill_fallbacks(self._pointer))
        return self._fallbacks_seen - before

    def run(self, motion: Motion, point: Point) -> tuple[int, bool]:
        """Take strides as `motion.run` does; energy, forces and virial are those of the potential where the last one ends."""
        return run(self._library.mdistill_strides_run, self._pointer, motion, point)
