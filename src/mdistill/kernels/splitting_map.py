"""Long strides in compiled code: kicks by engines of any library, drifts, thermostats, time steps where a kick is too large."""

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
    """A map of one structure (`simulation/splitting_map.py`): K evaluations a stride.

    It stores the force at its last positions; results do not depend on earlier calls.

    Args:
        stages: An engine for each kick's potential; kick k of K uses number min(k, K − k).
        potential: The student: energies, and forces of time steps.
        kicks: K.
        largest_force: [stage, atom] eV/Å; beyond it a stride is replaced by time steps of velocity Verlet.
        looked_at: Energy change with the first stage's potential (eV) beyond which a stride is evaluated with `potential`.
        largest_change: Energy change (eV) beyond which such a stride is replaced by time steps.
        small_steps: Number of time steps in a stride.
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
        """Strides replaced by time steps since the last call."""
        before, self._fallbacks_seen = self._fallbacks_seen, int(self._library.mdistill_fallbacks(self._pointer))
        return self._fallbacks_seen - before

    def run(self, motion: Motion, point: Point) -> tuple[int, bool]:
        """Take strides as `motion.run` does; energy, forces and virial are those of the potential where the last one ends."""
        return run(self._library.mdistill_strides_run, self._pointer, motion, point)
