"""Settings of ordering and preparation. No torch in here, so that `--help` is quick."""

from __future__ import annotations

from dataclasses import field
from typing import Literal

import tyro

from mdistill.settings import setting, settings


@settings
class DisorderSettings:
    """Search for orderings of a disordered crystal.

    Attributes:
        enumerate_up_to: Largest number of arrangements that are all tried; beyond it swap Monte Carlo searches.
        anneals: Number of annealing runs from different random starts.
        sweeps: Number of swap attempts per disordered site in each run.
        like_factor: Smallest distance of two cations (or two metals) over the sum of their covalent radii.
        least_like_factor: Lowest value of that factor; it is lowered in steps of 0.05 while no arrangement is found.
        unlike_factor: Smallest distance of a cation and an anion, likewise.
        least_unlike_factor: Lowest value of that factor, likewise.
        anion_factor: Smallest distance of two anions, likewise.
        most_sites: Largest number of sites (occupied or not) in the supercell.
    """

    enumerate_up_to: int = setting(20_000, least=0)
    anneals: int = setting(4, least=1)
    sweeps: int = setting(300, least=1)
    like_factor: float = setting(0.8, least=0.0, most=2.0)
    least_like_factor: float = setting(0.5, least=0.0, most=2.0)
    unlike_factor: float = setting(0.65, least=0.0, most=2.0)
    least_unlike_factor: float = setting(0.5, least=0.0, most=2.0)
    anion_factor: float = setting(1.4, least=0.0, most=2.0)
    most_sites: int = setting(5000, least=1)


@settings
class PrepareSettings:
    """Preparation of a structure.

    Attributes:
        matter: Kind of matter; auto: from periodicity, vacuum and bonds.
        cutoff: Student cutoff, Å. The shortest lattice vector of the supercell exceeds twice this.
        min_length: Smallest height of the supercell, Å.
        orderings: Number of orderings of a disordered crystal.
        relax_steps: Largest number of relaxation steps per ordering; 0: none.
        largest_force: Largest force of a relaxed structure, eV/Å.
        stress_gpa: Largest stress component of a relaxed structure, GPa.
        max_atoms: Largest number of atoms in the supercell.
        disorder: Search for orderings.
    """

    matter: tyro.conf.Suppress[Literal["auto", "crystal", "molecular-crystal", "liquid", "slab", "wire", "molecule"]] = "auto"
    cutoff: float = setting(4.9, least=0.5, most=20.0, unit="Å")
    min_length: float = setting(0.0, least=0.0, most=200.0, unit="Å")
    orderings: int = setting(1, least=1)
    relax_steps: int = setting(200, least=0)
    largest_force: float = setting(0.05, least=1e-6, most=10.0, unit="eV/Å")
    stress_gpa: float = setting(0.1, least=1e-6, most=100.0, unit="GPa")
    max_atoms: int = setting(2000, least=1)
    disorder: DisorderSettings = field(default_factory=DisorderSettings)
