r"""CP2K's input from a structure, and energy, forces and stress from its output.

Input: Quickstep. At the Γ point orbital transformation, FULL_SINGLE_INVERSE preconditioner and DIIS; the safer one has FULL_ALL,
conjugate gradients and more steps. With k-points diagonalisation and Broyden mixing; the safer one mixes less, in more steps.
Seven grids, each with half the cutoff of the one before, in place of CP2K's four with a third: diffuse pairs of basis functions
are collocated no finer than the relative cutoff asks. Two SCF steps with start-up take 7.8 in place of 18.3 CPU s (16 atoms,
300 Ry), for an energy that differs by 0.005 meV.
Output: hartree, hartree/bohr and GPa, tension negative as CP2K prints it (checked against finite differences of the energy); here
eV, eV/Å and eV/Å³, tension positive.

Reference: T. D. Kühne et al., J. Chem. Phys. 152, 194103 (2020), doi 10.1063/5.0007045.
"""

from __future__ import annotations

import re

import torch
from ase.data import chemical_symbols

from mdistill.labelling.engine import Failure
from mdistill.labelling.hard_settings import Cp2kSettings
from mdistill.types import Prediction, System
from mdistill.units import BOHR, GPA, HARTREE

_CUBE = ("X", "Y", "Z")
_FUNCTIONALS = {
    "PBE": ("&XC_FUNCTIONAL PBE\n      &END XC_FUNCTIONAL", "PBE"),
    "revPBE": (
        "&XC_FUNCTIONAL\n        &PBE\n          PARAMETRIZATION REVPBE\n        &END PBE\n      &END XC_FUNCTIONAL", "revPBE",
    ),
    "BLYP": ("&XC_FUNCTIONAL BLYP\n      &END XC_FUNCTIONAL", "BLYP"),
}  # fmt: skip
_VALENCE = {"BLYP": "GTH-BLYP"}
_NUMBER = r"[-+]?\d+\.\d+(?:[EeDd][-+]?\d+)?"

_VDW = """
      &VDW_POTENTIAL
        POTENTIAL_TYPE PAIR_POTENTIAL
        &PAIR_POTENTIAL
          TYPE DFTD3(BJ)
          PARAMETER_FILE_NAME dftd3.dat
          REFERENCE_FUNCTIONAL {reference}
          R_CUTOFF 15.0
        &END PAIR_POTENTIAL
      &END VDW_POTENTIAL"""
_TRANSFORMATION = """
      MAX_SCF {steps}
      &OT
        PRECONDITIONER {preconditioner}
        MINIMIZER {minimizer}
      &END OT
      &OUTER_SCF
        EPS_SCF {scf:.1E}
        MAX_SCF {outer}
      &END OUTER_SCF"""
_DIAGONALISATION = """
      MAX_SCF {steps}
      &DIAGONALIZATION
      &END DIAGONALIZATION
      &MIXING
        METHOD BROYDEN_MIXING
        ALPHA {share:g}
      &END MIXING"""
_SMEARING = """
      ADDED_MOS -1
      &SMEAR
        METHOD FERMI_DIRAC
        ELECTRONIC_TEMPERATURE {:g}
      &END SMEAR"""
_KPOINTS = """
    &KPOINTS
      SCHEME MONKHORST-PACK {}
    &END KPOINTS"""
_TEMPLATE = """&GLOBAL
  PROJECT run
  RUN_TYPE ENERGY_FORCE
  PRINT_LEVEL MEDIUM
&END GLOBAL
&FORCE_EVAL
  METHOD QUICKSTEP{stress}
  &PRINT
    &FORCES ON
      NDIGITS 12
    &END FORCES{shown}
  &END PRINT
  &DFT
    BASIS_SET_FILE_NAME BASIS_MOLOPT
    POTENTIAL_FILE_NAME GTH_POTENTIALS{restart}
    CHARGE {charge}
    &MGRID
      CUTOFF {cutoff:g}
      REL_CUTOFF {relative:g}
      NGRIDS 7
      PROGRESSION_FACTOR 2
    &END MGRID
    &QS
      EPS_DEFAULT 1.0E-10
    &END QS{poisson}
    &SCF
      SCF_GUESS {guess}
      EPS_SCF {scf:.1E}{solver}
    &END SCF{kpoints}
    &XC
      {functional}{vdw}
    &END XC
  &END DFT
  &SUBSYS
    &CELL
{vectors}
      PERIODIC {periodic}
    &END CELL
    &COORD
{atoms}
    &END COORD{centred}
{kinds}
  &END SUBSYS
&END FORCE_EVAL
"""


def input_text(system: System, settings: Cp2kSettings, *, wavefunction: str = "", safer: bool = False) -> str:
    """The input file of one struct.

    Args:
        system: One struct; open directions are given a wide cell and a Poisson solver of that periodicity.
        settings: Level of theory.
        wavefunction: File of the orbitals to start from; "" starts from atoms.
        safer: The second attempt.
    """
    name, _, dispersion = settings.functional.partition("-")
    functional, reference = _FUNCTIONALS[name]
    cell, periodic = _cell(system), "".join(x for x, on in zip(_CUBE, system.pbc[0].tolist(), strict=True) if on) or "NONE"
    vectors = "\n".join(f"      {x} {' '.join(f'{v:.10f}' for v in row)}" for x, row in zip("ABC", cell.tolist(), strict=True))
    atoms = "\n".join(
        f"      {chemical_symbols[z]} {' '.join(f'{x:.10f}' for x in row)}"
        for z, row in zip(system.numbers.tolist(), system.positions.tolist(), strict=True)
    )
    potential = _VALENCE.get(name, "GTH-PBE")
    kinds = "\n".join(
        f"    &KIND {chemical_symbols[z]}\n      BASIS_SET {settings.basis}\n      POTENTIAL {potential}\n    &END KIND"
        for z in sorted(set(system.numbers.tolist()))
    )
    vdw = _VDW.format(reference=reference) if dispersion else ""
    poisson = "" if periodic == "XYZ" else f"\n    &POISSON\n      PERIODIC {periodic}\n      PSOLVER MT\n    &END POISSON"
    poisson = poisson if periodic in ("XYZ", "NONE") else poisson.replace("MT", "ANALYTIC")
    guess, restart = ("RESTART", f"\n    WFN_RESTART_FILE_NAME {wavefunction}") if wavefunction else ("ATOMIC", "")
    centred = "" if periodic == "XYZ" else "\n    &TOPOLOGY\n      &CENTER_COORDINATES\n      &END\n    &END TOPOLOGY"
    grid = tuple(n if on else 1 for n, on in zip(settings.kpoints, system.pbc[0].tolist(), strict=True))
    if grid == (1, 1, 1) and not settings.smearing_K:
        ot = ("FULL_ALL", "CG", 60, 10) if safer else ("FULL_SINGLE_INVERSE", "DIIS", 25, 8)
        solver = _TRANSFORMATION.format(preconditioner=ot[0], minimizer=ot[1], steps=ot[2], outer=ot[3], scf=settings.scf)
    else:
        smearing = _SMEARING.format(settings.smearing_K) if settings.smearing_K else ""
        solver = smearing + _DIAGONALISATION.format(steps=200 if safer else 60, share=0.1 if safer else 0.4)
    stress = "\n  STRESS_TENSOR ANALYTICAL" if periodic == "XYZ" else ""
    shown = "\n    &STRESS_TENSOR ON\n    &END STRESS_TENSOR" if stress else ""
    return _TEMPLATE.format(
        stress=stress, shown=shown, restart=restart, charge=settings.charge, cutoff=settings.cutoff_Ry,
        relative=settings.relative_cutoff_Ry, poisson=poisson, guess=guess, scf=settings.scf, solver=solver,
        kpoints="" if grid == (1, 1, 1) else _KPOINTS.format(" ".join(map(str, grid))), functional=functional, vdw=vdw,
        vectors=vectors, periodic=periodic, atoms=atoms, centred=centred, kinds=kinds,
    )  # fmt: skip


def _cell(system: System) -> torch.Tensor:
    """The cell; along open directions 12 Å (CP2K's MT solver: at least twice) around the atoms, at right angles to the others."""
    cell, pbc = system.cell[0].double().clone(), system.pbc[0]
    if bool(pbc.all()):
        return cell
    span = system.positions.double().amax(0) - system.positions.double().amin(0)
    for k in range(3):
        if not pbc[k]:
            cell[k] = 0.0
            cell[k, k] = max(2.0 * float(span[k]), float(span[k]) + 12.0)
    return cell


def read_output(text: str, system: System, settings: Cp2kSettings) -> Prediction | Failure:
    """Energy, forces and stress of a finished, converged calculation, or the reason for none."""
    for phrase, reason in (
        ("SCF run NOT converged", "the SCF did not converge"),
        ("exceeded requested execution time", "CP2K ran out of time"),
    ):
        if phrase in text:
            return Failure(reason=reason, retry=True)
    if "PROGRAM ENDED AT" not in text:
        return Failure(reason=f"CP2K ended early: {_complaint(text)}", retry=True)
    energy = re.findall(r"ENERGY\| Total FORCE_EVAL.*?:\s+(\S+)", text)
    forces = _forces(text, system.n_atoms)
    if not energy or forces is None:
        return Failure(reason="CP2K printed no energy or no forces", retry=True)
    try:
        prediction = Prediction(
            energy=torch.tensor([float(energy[-1]) * HARTREE], dtype=torch.float64), forces=forces * (HARTREE / BOHR),
            stress=_stress(text) if bool(system.pbc.all()) else None,
        )  # fmt: skip
    except ValueError:
        return Failure(reason=f"CP2K's energy is {energy[-1]!r}", retry=True)
    parts = [prediction.energy, prediction.forces, *([] if prediction.stress is None else [prediction.stress])]
    if not all(bool(torch.isfinite(part).all()) for part in parts):
        return Failure(reason="energy, forces or stress are not finite", retry=True)
    if bool(system.pbc.all()) and prediction.stress is None:
        return Failure(reason="CP2K printed no stress", retry=True)
    drift = float(prediction.forces.mean(0).norm())
    if drift > settings.drift_eV_A:
        reason = f"the forces sum to {drift:.3g} eV/Å per atom (limit {settings.drift_eV_A:g}): raise cutoff_Ry"
        return Failure(reason=reason)
    return prediction


def scf_steps(text: str) -> int:
    """Number of SCF steps in an output."""
    return sum(map(int, re.findall(r"SCF run converged in\s+(\d+) steps", text)))


def _forces(text: str, atoms: int) -> torch.Tensor | None:
    """The last table of forces, hartree/bohr."""
    tables = re.split(r"ATOMIC FORCES in \[a\.u\.\]", text)[1:]
    if not tables:
        return None
    rows = re.findall(r"^\s+\d+\s+\d+\s+[A-Z][a-z]?\s+(\S+)\s+(\S+)\s+(\S+)\s*$", tables[-1], re.MULTILINE)[:atoms]
    try:
        return torch.tensor([[float(x) for x in row] for row in rows], dtype=torch.float64) if len(rows) == atoms else None
    except ValueError:
        return None


def _stress(text: str) -> torch.Tensor | None:
    """The last stress tensor in eV/Å³, tension positive."""
    tables = re.split(r"STRESS\| Analytical stress tensor \[GPa\]", text)[1:]
    if not tables:
        return None
    rows = re.findall(r"STRESS\|[ \t]+[xyz][ \t]+(\S*\d\S*)[ \t]+(\S+)[ \t]+(\S+)", tables[-1])[:3]
    if len(rows) != 3:
        return None
    full = torch.tensor([[float(x) for x in row] for row in rows], dtype=torch.float64)
    return (-0.5 * GPA * (full + full.T)).unsqueeze(0)


def _complaint(text: str) -> str:
    """What CP2K says where it stops, in one line."""
    words = re.findall(r"^\s*\*\s(?:\[ABORT\]|\\___/|  \|  |O/\||/\| \||/ \\)?\s*(.*?)\s*\*\s*$", text, re.MULTILINE)
    said = " ".join(word for word in words if re.search("[a-z]{3}", word))
    return said[-200:] if said else (text.strip().splitlines() or ["no output"])[-1].strip()[:200]
