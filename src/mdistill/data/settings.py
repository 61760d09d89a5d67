"""Settings of ordering and preparation. No torch in here, so that `--help` is quick."""

from __future__ import annotations

from dataclasses import field

from mdistill.settings import setting, settings


@settings
class DisorderSettings:
    """How orderings of a disordered crystal are chosen.

    Attributes:
        orderings: Number of distinct orderings, lowest electrostatic energy first.
        enumerate_up_to: All arrangements are tried up to this number; above it swap Monte Carlo searches.
        anneals: Monte Carlo annealing runs from different random starts.
        sweeps: Swap attempts per disordered site in each run.
        like_factor: Two cations (or two metals) may not be closer than this times the sum of their covalent radii.
        least_like_factor: Where that leaves no arrangement, the factor is lowered in steps of 0.05 down to this.
        unlike_factor: The same for a cation and an anion.
        anion_factor: The same for two anions.
        most_sites: Largest number of sites (occupied or not) in the supercell.
    """

    orderings: int = setting(1, least=1)
    enumerate_up_to: int = setting(20_000, least=0)
    anneals: int = setting(4, least=1)
    sweeps: int = setting(300, least=1)
    like_factor: float = setting(0.8, least=0.0, most=2.0)
    least_like_factor: float = setting(0.7, least=0.0, most=2.0)
    unlike_factor: float = setting(0.65, least=0.0, most=2.0)
    anion_factor: float = setting(1.4, least=0.0, most=2.0)
    most_sites: int = setting(5000, least=1)


@settings
class PrepareSettings:
    """How a structure is made ready.

    Attributes:
        cutoff: Å; every length and perpendicular height of the supercell exceeds twice this.
        min_length: Å; further lower bound for the heights.
        orderings: Orderings of a disordered crystal to keep.
        relax_steps: Most relaxation steps per ordering; 0 for none.
        largest_force: eV/Å; relaxation ends when no force exceeds it and no stress component exceeds stress_gpa.
        stress_gpa: GPa.
        max_atoms: Largest number of atoms in the supercell.
        disorder: How orderings are searched.
    """

    cutoff: float = setting(4.9, least=0.5, most=20.0, unit="Å")
    min_length: float = setting(0.0, least=0.0, most=200.0, unit="Å")
    orderings: int = setting(1, least=1)
    relax_steps: int = setting(200, least=0)
    largest_force: float = setting(0.05, least=1e-6, most=10.0, unit="eV/Å")
    stress_gpa: float = setting(0.1, least=1e-6, most=100.0, unit="GPa")
    max_atoms: int = setting(2000, least=1)
    disorder: DisorderSettings = field(default_factory=DisorderSettings)
