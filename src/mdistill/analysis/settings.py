"""Settings of the analysis: what a student must keep to. No torch in here, so that `--help` is quick."""

from __future__ import annotations

import tyro

from mdistill.settings import SEEDS, setting, settings


@settings
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

    force_eV_A: float = setting(0.050, above=0.0)
    force_relative: float = setting(0.12, above=0.0)
    element_factor: float = setting(1.5, above=0.0)
    energy_eV_atom: float = setting(0.003, above=0.0)
    stress_GPa: float = setting(0.3, above=0.0)
    stress_relative: float = setting(0.15, above=0.0)
    rdf_divergence: float = setting(0.02, above=0.0)
    rdf_shift_A: float = setting(0.02, above=0.0)
    drift_eV_atom_ps: float = setting(1.0e-5, above=0.0)
    force_flips: int = setting(1, above=0.0)
    speed_up: float = setting(2.0, above=0.0)


@settings
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

    lags: int = setting(40, least=5, most=50)
    longest: float = setting(0.5, least=0.1, most=0.9)
    fit_from_ps: float | None = setting(None, above=0.0, unit="ps")
    hop_distance: float = setting(1.5, above=0.0, unit="Å")
    hop_length: float = setting(3.0, above=0.0, unit="Å")
    seed: tyro.conf.Suppress[int] = setting(0, least=0, most=SEEDS)
