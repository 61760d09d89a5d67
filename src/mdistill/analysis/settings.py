"""Settings of the analysis: what a student must keep to. No torch in here, so that `--help` is quick."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from mdistill.errors import BadInput


@dataclass(frozen=True, slots=True, kw_only=True)
class GateLimits:
    """What a student must keep to. The defaults separate students that reproduce a teacher's transport from those that do not.

    Attributes:
        force_eV_A: Largest mean absolute force error at any temperature, eV/Å. Small nets that learn a solid electrolyte
            well reach 0.03 at 600 K and 0.045 at 1000 K.
        force_relative: Where forces are large, this share of the teacher's mean |F| is allowed instead (an error of
            12 % of |F| moves barriers by about as much as two foundation models differ).
        element_factor: A single element may miss the force limits by this factor (the stiffest has the largest forces).
        energy_eV_atom: Largest mean absolute energy error, eV/atom. 3 meV/atom is a twelfth of k_B T at 400 K.
        stress_GPa: Largest mean absolute stress error, GPa. With a bulk modulus of 30 GPa, 0.3 GPa is 1 % of volume.
        stress_relative: Share of the teacher's stress spread allowed instead where stresses are large (strained cells).
        rdf_divergence: Largest Jensen–Shannon divergence of any pair's RDF (base 2: 0 equal, 1 disjoint).
        rdf_shift_A: Wasserstein-1 distance up to which an RDF counts as unmoved; reported beside, not judged.
        drift_eV_atom_ps: Largest |drift| of the NVE total energy: 1e-5 eV/atom/ps is 1 K in 13 ps of free flight.
        force_flips: Largest number of sign changes of the pair force from 0.3 Å outwards (1: one wall, one minimum).
        speed_up: Smallest ratio of teacher's to student's time per force call.
    Raises:
        BadInput: A limit is not a positive finite number.
    """

    force_eV_A: float = 0.050
    force_relative: float = 0.12
    element_factor: float = 1.5
    energy_eV_atom: float = 0.003
    stress_GPa: float = 0.3
    stress_relative: float = 0.15
    rdf_divergence: float = 0.02
    rdf_shift_A: float = 0.02
    drift_eV_atom_ps: float = 1.0e-5
    force_flips: int = 1
    speed_up: float = 2.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (math.isfinite(value) and value > 0):
                raise BadInput(
                    field.name, f"{value}", allowed="a positive number", fix=f"leave it out for the default, {field.default}"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffusionSettings:
    """How D is read from a trajectory.

    Attributes:
        lags: Number of lags, geometric from one frame on; more than 50 makes the covariance singular.
        longest: Longest lag as a fraction of the run.
        fit_from_ps: Shortest lag of the fit (ps); None: chosen by `choose_start`.
        hop_distance: An ion has hopped once its position, averaged over 1 ps, stays farther than this (Å) from where it was.
        hop_length: Distance of one hop (Å) assumed in the upper limit when none was seen.
        seed: Seed of the Bayesian sampling.
    """

    lags: int = 40
    longest: float = 0.5
    fit_from_ps: float | None = None
    hop_distance: float = 1.5
    hop_length: float = 3.0
    seed: int = 0

    def __post_init__(self) -> None:
        checks = [
            ("lags", self.lags, 5 <= self.lags <= 50, "5 to 50"),
            ("longest", self.longest, 0.1 <= self.longest <= 0.9, "0.1 to 0.9 of the run"),
            ("fit_from_ps", self.fit_from_ps, self.fit_from_ps is None or self.fit_from_ps > 0, "a time > 0 ps"),
            ("hop_distance", self.hop_distance, self.hop_distance > 0, "a distance > 0 Å"),
            ("hop_length", self.hop_length, self.hop_length > 0, "a distance > 0 Å"),
            ("seed", self.seed, 0 <= self.seed < 2**32, "0 to 2³² − 1"),
        ]
        for name, value, good, allowed in checks:
            if not good:
                raise BadInput(name, f"{value!r}", allowed=allowed, fix="choose a value in that range")
