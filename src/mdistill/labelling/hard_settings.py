"""Settings of engines of hard labels. No torch in here, so that `--help` is quick."""

from __future__ import annotations

from typing import Literal

from mdistill.settings import refuse, setting, settings

Functional = Literal["PBE", "PBE-D3", "revPBE-D3", "BLYP-D3"]


@settings
class Cp2kSettings:
    """Periodic DFT by CP2K: Gaussian basis and plane waves, GTH pseudopotentials, no open shells.

    Attributes:
        command: Program and its arguments; the input file is added.
        functional: Exchange and correlation; D3 is Grimme's dispersion with Becke–Johnson damping.
        basis: Basis set, in CP2K's BASIS_MOLOPT.
        cutoff_Ry: Cutoff of the finest grid, Ry. Too low a cutoff shows in the sum of the forces, which is checked.
        relative_cutoff_Ry: Cutoff of the grid that a Gaussian of exponent 1 is mapped to, Ry.
        kpoints: Number of k-points along each lattice vector; 1 1 1 is the Γ point alone. Below 18 Å of k-points × height
            of the cell you are told what was measured.
        scf: Largest change of the orbitals' gradient (with k-points: of the density) at convergence.
        smearing_K: Temperature of the electrons (Fermi–Dirac), K, for metals; energies are then free energies. 0: none.
        charge: Total charge, e.
        drift_eV_A: Largest mean force of all atoms, eV/Å; beyond it the grid is too coarse and the label is refused.
        timeout_s: Longest time of one attempt, s; a calculation has two.
    """

    command: str = "cp2k"
    functional: Functional = "PBE-D3"
    basis: str = "DZVP-MOLOPT-SR-GTH"
    cutoff_Ry: float = setting(400.0, least=50.0, most=5000.0, unit="Ry")
    relative_cutoff_Ry: float = setting(50.0, least=10.0, most=1000.0, unit="Ry")
    kpoints: tuple[int, int, int] = setting((1, 1, 1), least=1, most=50)
    scf: float = setting(1e-6, least=1e-10, most=1e-4)
    smearing_K: float = setting(0.0, least=0.0, most=1e5, unit="K")
    charge: int = setting(0, least=-20, most=20)
    drift_eV_A: float = setting(0.02, above=0.0, most=1.0, unit="eV/Å")
    timeout_s: float = setting(3600.0, above=0.0, most=1e7, unit="s")

    def __post_init__(self) -> None:
        if len(self.kpoints) != 3 or any(int(n) != n for n in self.kpoints):
            refuse(self, "kpoints", allowed="three whole numbers", fix="--cp2k.kpoints 2 2 2")


@settings
class MoleculeDftSettings:
    """DFT of molecules by PySCF.

    Attributes:
        functional: Exchange and correlation, as PySCF names it.
        dispersion: Dispersion correction (d3bj, d4); empty for none, or one that is part of the functional.
        basis: Basis set.
        grid: Level of the integration grid.
        scf: Largest change of the energy at convergence, Ha.
        charge: Total charge, e.
        spin: Number of unpaired electrons.
        timeout_s: Longest time of one attempt, s; a calculation has two.
    """

    functional: str = "pbe0"
    dispersion: Literal["d3bj", "d4", ""] = "d3bj"
    basis: str = "def2-svp"
    grid: int = setting(3, least=0, most=9)
    scf: float = setting(1e-9, least=1e-12, most=1e-5)
    charge: int = setting(0, least=-20, most=20)
    spin: int = setting(0, least=0, most=20)
    timeout_s: float = setting(3600.0, above=0.0, most=1e7, unit="s")
