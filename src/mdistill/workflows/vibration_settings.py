"""Settings of the comparison of curvature. No torch in here, so that `--help` is quick."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from mdistill.errors import BadInput


@dataclass(frozen=True, slots=True, kw_only=True)
class VibrationSettings:
    """How thoroughly to compare the curvature of student and teacher.

    Attributes:
        whole_up_to: Atoms up to which the teacher's whole Hessian is computed: 3 curvature products an atom, about the price of
            6 force calls. Larger structures get `probes` instead, and no density of states.
        probes: Random directions, where not the whole Hessian.
        displaced: Structures displaced along normal modes, one teacher call each.
        temperature_K: Temperature of their amplitudes, K.
        farthest_A: Modes that would move an atom by more than this (root mean square, Å) are not displaced: they are too
            soft for harmonic amplitudes to be true. On Li6PS5Cl at 300 K 0.25 Å let single atoms collide, 0.15 Å did not.
        width_THz: Broadening of the density of states, THz.
        bands_up_to: Atoms in the primitive cell up to which phonon bands are drawn (0: never).
        supercell_A: Size of the supercell for the bands, Å; twice the teacher's reach leaves nothing out.
        relax_steps: Most steps of the student's relaxation.
        fmax: Largest force at which the student counts as relaxed, eV/Å.
        teacher_steps: Most steps of the teacher's relaxation from the student's minimum, one call each: shows how far that is
            from a minimum of the teacher's, also where the run's structure was none (0: not asked).
        seed: Of directions and displacements.
    Raises:
        BadInput: A value that cannot be used.
    """

    whole_up_to: int = 64
    probes: int = 24
    displaced: int = 8
    temperature_K: float = 300.0
    farthest_A: float = 0.15
    width_THz: float = 0.3
    bands_up_to: int = 12
    supercell_A: float = 12.0
    relax_steps: int = 500
    fmax: float = 0.005
    teacher_steps: int = 60
    seed: int = 0

    def __post_init__(self) -> None:
        allowed = {
            "whole_up_to": (0, 2000), "probes": (2, 10_000), "displaced": (2, 10_000), "temperature_K": (1e-3, 1e4),
            "farthest_A": (1e-3, 10.0), "width_THz": (1e-3, 100.0), "bands_up_to": (0, 200), "supercell_A": (1.0, 100.0),
            "relax_steps": (0, 1_000_000), "fmax": (1e-6, 1.0), "teacher_steps": (0, 1_000_000),
            "seed": (0, 2**63 - 1),
        }  # fmt: skip
        for name in (field.name for field in fields(self)):
            low, high = allowed[name]
            value = getattr(self, name)
            if not (math.isfinite(value) and low <= value <= high):
                raise BadInput(name, f"{value}", allowed=f"{low:g} to {high:g}", fix="leave it out for the default")
