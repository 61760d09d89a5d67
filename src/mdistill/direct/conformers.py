r"""Structures of a molecule: conformers, turned bonds, thermal displacements along normal modes of a force field, starts of MD.

    r = r₀ + M^{-1/2} Σ_i e_i ξ_i √(k_B T / k_i)     M^{-1/2} H M^{-1/2} e_i = k_i e_i   H: Hessian of MMFF94 (UFF without it)

r₀: minimum of the force field near a conformer of ETKDG   ξ: normal numbers, cut at 2.5   T: drawn from `TEMPERATURES`
Modes softer than `_SOFTEST` are moved as if they had this stiffness. A part of the structures is not minimised, so that bonds
and torsions lie far from minima too. Torsions: a single bond outside rings is turned to an angle of a grid of 30°; the structure
is taken as it is, and with all but this angle minimised. Displacements along modes do not reach the barriers between conformers.
MD starts from the first thermal displacement of the conformer, at its temperature (`direct/dynamics.py`).

References: S. Riniker, G. A. Landrum, J. Chem. Inf. Model. 55, 2562 (2015); T. A. Halgren, J. Comput. Chem. 17, 490 (1996).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from mdistill.direct.molecules import Molecule, rdkit
from mdistill.units import BOLTZMANN, KCAL_MOL

TEMPERATURES = (150.0, 300.0, 600.0, 1000.0)
"""K."""
ORIGINS = ("embedded", "displaced", "torsion", "relaxed torsion", "dynamics")
"""How a structure was made."""
DYNAMICS = ORIGINS[4]
PER_CONFORMER = 6
"""Structures of a conformer."""
_SOFTEST, _STEP, _STRAIGHT, _GRID, _HOLD = 0.5, 1e-3, 0.02, 30, 100.0
_ROTATABLE = "[!$(*#*)&!D1]-&!@[!$(*#*)&!D1]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """One structure of a molecule.

    Attributes:
        origin: One of `ORIGINS`.
        positions: Å; of "dynamics" those of the start, the same array for all frames of one run.
        temperature_K: Of a displacement and of MD; 0 of any other.
    """

    origin: str
    positions: Float[np.ndarray, "atom 3"]
    temperature_K: float = 0.0


def conformers(
    molecule: Molecule, count: int, seed: int, *, torsions: int = 0, dynamics: int = 0
) -> tuple[Int[np.ndarray, " atom"], list[Structure]]:
    """Elements, and up to `count` structures; fewer, or none, where RDKit finds no conformer.

    Args:
        molecule, seed: Molecule; seed of everything random.
        count: Number of structures.
        torsions: How many of the `PER_CONFORMER` structures of a conformer have a turned bond, where it has one to turn.
        dynamics: How many of them are frames of MD. With either, fewer structures than a whole conformer has are drawn from them.
    """
    chem, random = rdkit(), np.random.default_rng(seed)
    mol = chem.AddHs(chem.MolFromSmiles(molecule.smiles))
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    masses = np.array([atom.GetMass() for atom in mol.GetAtoms()])
    wanted = -(-count // PER_CONFORMER)
    if len(numbers) == 1:
        return numbers, [Structure(origin=ORIGINS[0], positions=np.zeros((1, 3)))]
    made: list[Structure] = []
    for number in chem.AllChem.EmbedMultipleConfs(mol, wanted, randomSeed=int(random.integers(2**31))):
        field = force_field(mol, number)
        if field is None:
            continue
        group = [Structure(origin=ORIGINS[0], positions=np.array(field.Positions()).reshape(-1, 3))]
        field.Minimize(maxIts=200)
        place = np.array(field.Positions()).reshape(-1, 3)
        modes = normal_modes(field, mol.GetConformer(number), place, masses)
        turned = list(turned_bonds(mol, number, place, torsions, random))
        thermal = PER_CONFORMER - 1 - len(turned) - dynamics
        moved = [displaced(place, modes, random) for _ in range(max(thermal, min(dynamics, 1)))]
        group += moved[:thermal] + turned + dynamics * [replace(one, origin=DYNAMICS) for one in moved[:1]]
        left = count - len(made)
        some = left < PER_CONFORMER and (turned or dynamics)
        drawn = random.permutation(PER_CONFORMER)[:left] if some else range(min(left, PER_CONFORMER))
        made += [group[k] for k in sorted(drawn)]
    return numbers, made


def turned_bonds(
    mol: Any, conformer: int, place: Float[np.ndarray, "atom 3"], count: int, random: np.random.Generator
) -> Iterator[Structure]:
    """`count` structures with a bond turned: in turn as it is, and minimised around it; none where no bond can be turned."""
    chem = rdkit()
    bonds = mol.GetSubstructMatches(chem.MolFromSmarts(_ROTATABLE))
    corners: tuple[int, ...] = ()
    angle = 0.0
    for k in range(count if bonds else 0):
        if k % 2 == 0:
            corners = _corners(mol, bonds[int(random.integers(len(bonds)))])
            angle = float(_GRID * random.integers(360 // _GRID))
        mol.GetConformer(conformer).SetPositions(place.copy())
        chem.rdMolTransforms.SetDihedralDeg(mol.GetConformer(conformer), *corners, angle)
        if k % 2 == 1:
            field = force_field(mol, conformer)
            hold = getattr(field, "MMFFAddTorsionConstraint" if _has_mmff(mol) else "UFFAddTorsionConstraint")
            hold(*corners, False, angle, angle, _HOLD)
            field.Minimize(maxIts=200)
        yield Structure(origin=ORIGINS[2 + k % 2], positions=mol.GetConformer(conformer).GetPositions())


def _corners(mol: Any, bond: tuple[int, int]) -> tuple[int, int, int, int]:
    """Four atoms in a row around a bond."""
    first, second = bond
    before, after = (
        next(other.GetIdx() for other in mol.GetAtomWithIdx(atom).GetNeighbors() if other.GetIdx() != far)
        for atom, far in ((first, second), (second, first))
    )
    return before, first, second, after


def _has_mmff(mol: Any) -> bool:
    return rdkit().AllChem.MMFFGetMoleculeProperties(mol) is not None


def force_field(mol: Any, conformer: int) -> Any:
    """MMFF94 of a conformer, UFF where that lacks parameters, None where both do."""
    all_chem = rdkit().AllChem
    properties = all_chem.MMFFGetMoleculeProperties(mol)
    if properties is not None:
        return all_chem.MMFFGetMoleculeForceField(mol, properties, confId=conformer)
    return all_chem.UFFGetMoleculeForceField(mol, confId=conformer) if all_chem.UFFHasAllMoleculeParams(mol) else None


def normal_modes(
    field: Any, conformer: Any, place: Float[np.ndarray, "atom 3"], masses: Float[np.ndarray, " atom"]
) -> tuple[Float[np.ndarray, " mode"], Float[np.ndarray, "coordinate mode"]]:
    """Stiffness (eV/Å²; masses over their mean) and directions of displacement, without rigid motion."""
    flat, size = place.ravel(), place.size
    hessian = np.empty((size, size))
    for k in range(size):
        ends = []
        for sign in (1.0, -1.0):
            moved = flat.copy()
            moved[k] += sign * _STEP
            conformer.SetPositions(moved.reshape(-1, 3))
            field.Initialize()  # else distances of the last call are used
            ends.append(np.array(field.CalcGrad()))
        hessian[k] = (ends[0] - ends[1]) * (KCAL_MOL / (2.0 * _STEP))
    weights = np.repeat(np.sqrt(masses / masses.mean()), 3)
    stiffness, modes = np.linalg.eigh(0.5 * (hessian + hessian.T) / np.outer(weights, weights))
    keep = np.argsort(np.abs(stiffness))[min(_rigid(place), size - 1) :]
    return stiffness[keep], modes[:, keep] / weights[:, None]


def _rigid(place: Float[np.ndarray, "atom 3"]) -> int:
    """Number of rigid motions: six, of a linear molecule five, of an atom three."""
    arms = place - place.mean(axis=0)
    turns = np.stack([np.cross(axis, arms).ravel() for axis in np.eye(3)])
    return 3 + int(np.linalg.matrix_rank(turns, tol=_STRAIGHT * max(float(np.linalg.norm(arms)), 1e-9)))


def displaced(
    place: Float[np.ndarray, "atom 3"],
    modes: tuple[Float[np.ndarray, " mode"], Float[np.ndarray, "coordinate mode"]],
    random: np.random.Generator,
) -> Structure:
    """A thermal displacement of a minimum, at a temperature of `TEMPERATURES`."""
    temperature_K = float(random.choice(TEMPERATURES))
    stiffness, directions = modes
    size = np.sqrt(BOLTZMANN * temperature_K / np.maximum(stiffness, _SOFTEST))
    step = directions @ (size * np.clip(random.normal(size=len(size)), -2.5, 2.5))
    return Structure(origin=ORIGINS[1], positions=place + step.reshape(-1, 3), temperature_K=temperature_K)
