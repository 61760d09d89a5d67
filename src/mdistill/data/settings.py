"""Settings of ordering and preparation. No torch in here, so that `--help` is quick."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from mdistill.errors import BadInput


@dataclass(frozen=True, slots=True, kw_only=True)
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

    orderings: int = 1
    enumerate_up_to: int = 20_000
    anneals: int = 4
    sweeps: int = 300
    like_factor: float = 0.8
    least_like_factor: float = 0.7
    unlike_factor: float = 0.65
    anion_factor: float = 1.4
    most_sites: int = 5000

    def __post_init__(self) -> None:
        for name in ("orderings", "anneals", "sweeps", "most_sites"):
            if getattr(self, name) < 1:
                raise BadInput(name, f"{getattr(self, name)}", allowed="at least 1", fix=f"choose a positive {name}")
        if self.enumerate_up_to < 0:
            raise BadInput("enumerate_up_to", f"{self.enumerate_up_to}", allowed="at least 0", fix="0 for Monte Carlo always")
        for name in ("like_factor", "least_like_factor", "unlike_factor", "anion_factor"):
            if not 0.0 <= getattr(self, name) <= 2.0:
                raise BadInput(name, f"{getattr(self, name)}", allowed="0 to 2", fix="leave it at its default")


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareSettings:
    """How a structure is made ready.

    Attributes:
        cutoff: Å; every length and perpendicular height of the supercell exceeds twice this.
        min_length: Å; further lower bound for the heights.
        orderings: Orderings of a disordered crystal to keep.
        relax_steps: Most relaxation steps per ordering; 0 for none.
        fmax: eV/Å; relaxation ends when no force exceeds it and no stress component exceeds stress_gpa.
        stress_gpa: GPa.
        max_atoms: Largest number of atoms in the supercell.
        disorder: How orderings are searched (its own `orderings` gives way to the one here).
    """

    cutoff: float = 4.9
    min_length: float = 0.0
    orderings: int = 1
    relax_steps: int = 200
    fmax: float = 0.05
    stress_gpa: float = 0.1
    max_atoms: int = 2000
    disorder: DisorderSettings = field(default_factory=DisorderSettings)

    def __post_init__(self) -> None:
        for name, low, high in (
            ("cutoff", 0.5, 20.0),
            ("min_length", 0.0, 200.0),
            ("fmax", 1e-6, 10.0),
            ("stress_gpa", 1e-6, 100.0),
        ):
            value = getattr(self, name)
            if not (math.isfinite(value) and low <= value <= high):
                raise BadInput(name, f"{value}", allowed=f"{low:g} to {high:g}", fix=f"choose {name} in that range")
        for name, low in (("orderings", 1), ("relax_steps", 0), ("max_atoms", 1)):
            if getattr(self, name) < low:
                raise BadInput(name, f"{getattr(self, name)}", allowed=f"at least {low}", fix=f"choose a larger {name}")
