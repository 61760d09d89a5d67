r"""Physical constants and conversions; the only module that holds a conversion factor.

Internal units everywhere: length Å, time fs, energy eV, mass u, charge e, temperature K. Derived: momentum u·Å/fs,
force eV/Å, stress eV/Å³ (tension positive, as in ASE), curvature eV/Å².

Source: CODATA 2018 (Tiesinga et al., Rev. Mod. Phys. 93, 025010 (2021), doi 10.1103/RevModPhys.93.025010).
"""

from __future__ import annotations

BOLTZMANN = 8.617333262e-5
"""Boltzmann constant, eV/K."""

ACCELERATION = 9.648533212331e-3
"""(eV/Å)/u expressed in Å/fs²: acceleration = ACCELERATION · force / mass; also momentum rate (u·Å/fs²) per force (eV/Å)."""

KINETIC = 1.0 / ACCELERATION
"""u·(Å/fs)² expressed in eV (≈ 103.6427): kinetic energy = KINETIC · Σ p²/(2m)."""

VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
"""Order of the six components of a symmetric tensor: xx, yy, zz, yz, xz, xy."""
GPA = 6.241509074e-3
"""1 GPa in eV/Å³."""

PS = 1.0e3
"""1 ps in fs."""

THZ = 1.0e-3
"""1 THz in 1/fs."""

ELEMENTARY_CHARGE_C = 1.602176634e-19
"""Elementary charge in coulomb."""

COULOMB = 14.399645478
"""e²/(4πε₀) in eV·Å."""

BOHR = 0.529177210903
"""Bohr radius in Å."""

DIFFUSIVITY_CM2_S = 1.0e-1
"""1 Å²/fs in cm²/s (so 1 Å²/ps = 1e-4 cm²/s)."""

CONDUCTIVITY_MS_CM = ELEMENTARY_CHARGE_C * 1.0e26
"""e²·Å⁻³·(Å²/fs)/eV in mS/cm.

σ = N q² D/(V k_B T). 1 e²·Å²/(Å³·fs·eV) = e[C]·1/(1e-10 m · 1e-15 s · 1 V) = 1.602e-19·1e25 S/m = 1.602e6 S/m
= 1.602e7 mS/cm.
"""

HARTREE = 27.211386245988
"""Hartree energy in eV."""

KCAL_MOL = 4.3364104241e-2
"""1 kcal/mol (thermochemical) in eV."""

KJ_MOL = 1.0364269657e-2
"""1 kJ/mol in eV."""

DENSITY_G_CM3 = 1.66053906660
"""1 u/Å³ in g/cm³."""
