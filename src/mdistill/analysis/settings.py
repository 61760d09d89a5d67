"""Settings of the analysis: limits of the gates and the diffusion fit. No torch in here, so that `--help` is quick."""

from __future__ import annotations

import tyro

from mdistill.settings import SEEDS, setting, settings


@settings
class GateLimits:
    """Limits of the gates. The defaults separate students that reproduce a teacher's transport from those that do not.

    Attributes:
        force_eV_A: Largest mean absolute force error at any temperature, eV/Å. Small nets that learn a solid electrolyte
            well reach 0.03 at 600 K and 0.045 at 1000 K.
        force_relative: Limit as a share of the mean absolute component of the teacher's forces, where that is larger. The student
            of Li6PS5Cl in `benchmarks/results/student_accuracy.json` has 6.7 % at 600 K, 8.1 % at 1000 K and 9.2 % for Cl.
            One with 137 meV/Å, at least 21 %, broke in MD.
        element_factor: Factor on the force limits for a single element (the stiffest has the largest forces).
        energy_eV_atom: Largest mean absolute energy error, eV/atom. 3 meV/atom is a twelfth of k_B T at 400 K.
        stress_GPa: Largest mean absolute stress error, GPa. With a bulk modulus of 30 GPa, 0.3 GPa is 1 % of volume.
        stress_relative: Limit as a share of the teacher's stress spread, where that is larger (strained cells).
        rdf_divergence: Largest Jensen–Shannon divergence of any pair's RDF (base 2: 0 equal, 1 disjoint).
        rdf_shift_A: Wasserstein-1 distance up to which an RDF counts as unshifted; reported, no gate.
        drift_eV_atom_ps: Largest |drift| of the NVE total energy: 1e-5 eV/atom/ps is 1 K in 13 ps of free flight.
        force_flips: Largest number of sign changes of the pair force from 0.3 Å outwards (1: one wall, one minimum).
        speed_up: Smallest ratio of teacher's to student's time per force call.
        spread_kT: Largest spread of student minus teacher energy over production frames, k_B T times the root of the number of
            atoms. Energies of a harmonic solid spread by 1.2 in these units, and the recorded students' errors by 0.1.
        force_slope: Smallest slope of the student's against the teacher's forces in production; below it the student is too soft.
        diffusive_slope: Smallest d ln MSD / d ln τ of diffusion; below it a conductivity is only a bound.
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
    spread_kT: float = setting(0.3, above=0.0)
    force_slope: float = setting(0.95, above=0.0, most=1.0)
    diffusive_slope: float = setting(0.9, above=0.0, most=1.0)


@settings
class DiffusionSettings:
    """Fit of the diffusivity.

    Attributes:
        lags: Number of lags, geometric from one frame on; more than 50 makes the covariance singular.
        longest: Longest lag as a fraction of the run.
        fit_from_ps: Shortest lag of the fit (ps), a plain line; None: from 1 ps on, averaged over a relaxation.
        hop_distance: Distance beyond which an ion, averaged over 1 ps, has hopped, Å.
        hop_length: Length of one hop assumed in the upper limit where none is seen, Å.
        seed: Seed of the draws of the collective diffusivity.
    """

    lags: int = setting(40, least=5, most=50)
    longest: float = setting(0.5, least=0.1, most=0.9)
    fit_from_ps: float | None = setting(None, above=0.0, unit="ps")
    hop_distance: float = setting(1.5, above=0.0, unit="Å")
    hop_length: float = setting(3.0, above=0.0, unit="Å")
    seed: tyro.conf.Suppress[int] = setting(0, least=0, most=SEEDS)
