r"""Molecules, liquids and polymers from SMILES: RDKit conformers, packed into a periodic cube by packmol.

L³ = M/ρ     M: mass of all copies   ρ: density

References: S. Riniker, G. A. Landrum, J. Chem. Inf. Model. 55, 2562 (2015), doi 10.1021/acs.jcim.5b00654 (conformers);
L. Martínez et al., J. Comput. Chem. 30, 2157 (2009), doi 10.1002/jcc.21224 (packing).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdistill.errors import BadInput, MissingPackage
from mdistill.units import DENSITY_G_CM3

if TYPE_CHECKING:
    from ase import Atoms

PIP = 'pip install "mdistill[molecules]"'
_FLAG = "--smiles"
_CONFORMERS, _TOLERANCES = 8, (2.0, 1.8)
"""Shapes of one molecule in a liquid; least distances between molecules that are tried in turn, Å."""
_TIMEOUT_S = 300.0
_MOST_ATOMS = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """Structure from SMILES.

    Attributes:
        atoms: One molecule without a cell, or a periodic box.
        name: "C2H6O", or "40 C4H10O3".
        charge: Total charge, e.
        unpaired: Number of unpaired electrons.
    """

    atoms: Atoms
    name: str
    charge: int
    unpaired: int


def from_smiles(smiles: str, *, copies: int = 1, density: float | None = None, seed: int = 0) -> Built:
    """One molecule, or a box of copies.

    Args:
        smiles: One molecule; with copies also several, separated by dots: copies of each.
        copies: 1: a molecule alone.
        density: Density of the box, g/cm³; with copies alone.
        seed: Seed of shapes and places.
    Raises:
        BadInput: Text that is no SMILES, fewer than one copy, a density that cannot be packed or is missing, charged copies.
        MissingPackage: RDKit or packmol is not installed.
    """
    if copies < 1 or (copies == 1 and density is not None) or (copies > 1 and density is None):
        given = f"{copies} copies, " + ("no density" if density is None else f"density {density:g} g/cm³")
        allowed = "one copy without a density, or two or more with one"
        raise BadInput("--copies, --density", given, allowed=allowed, fix="--copies 40 --density 1.0 (NpT corrects the density)")
    if density is not None and not 0.0 < density <= 25.0:
        raise BadInput(
            "--density", f"{density:g} g/cm³", allowed="above 0, at most 25 g/cm³", fix="that of the liquid, such as 1.0"
        )
    parts = [_molecule(part, smiles) for part in smiles.strip().split(".")]
    if copies == 1 and len(parts) > 1:
        raise BadInput(_FLAG, f"{smiles!r}: {len(parts)} molecules", allowed="one molecule, or copies of several",
                       fix="--copies 20 --density 1.0 for a liquid of them")  # fmt: skip
    charge, unpaired = sum(_charge(part) for part in parts), sum(_unpaired(part) for part in parts)
    if copies > 1 and (charge or unpaired):
        problem = f"{smiles!r}: charge {charge:+d}, {unpaired} unpaired electrons in each of {copies} copies"
        raise BadInput(
            _FLAG, problem, allowed="copies without charge or unpaired electrons", fix="add the counter-ion after a dot"
        )
    if (total := copies * sum(part.GetNumAtoms() for part in parts)) > _MOST_ATOMS:
        raise BadInput("--copies", f"{total} atoms", allowed=f"at most {_MOST_ATOMS}", fix="fewer copies")
    shapes = [_shapes(part, 1 if copies == 1 else min(copies, _CONFORMERS), seed, smiles) for part in parts]
    one = [made[0] for made in shapes]
    if copies == 1:
        return Built(atoms=one[0], name=one[0].get_chemical_formula(), charge=charge, unpaired=unpaired)
    mass = copies * sum(float(part.get_masses().sum()) for part in one)
    length = (mass / (float(density or 0.0) / DENSITY_G_CM3)) ** (1.0 / 3.0)
    name = " + ".join(f"{copies} {part.get_chemical_formula()}" for part in one)
    return Built(atoms=_packed(shapes, copies, length, density or 0.0, seed), name=name, charge=0, unpaired=0)


def _rdkit() -> tuple[Any, Any]:
    try:
        from rdkit import Chem, rdBase
        from rdkit.Chem import AllChem
    except ModuleNotFoundError as error:
        raise MissingPackage("rdkit", PIP, _FLAG) from error
    rdBase.DisableLog("rdApp.*")
    return Chem, AllChem


def _molecule(part: str, smiles: str) -> Any:
    """The molecule with its hydrogens."""
    chem, _ = _rdkit()
    made = chem.MolFromSmiles(part) if part.strip() else None
    if made is None or made.GetNumAtoms() == 0:
        raise BadInput(
            _FLAG, f"{smiles!r} is no SMILES", allowed="SMILES, such as CCO or OCCOCCO", fix="check brackets and ring numbers"
        )
    if any(atom.GetAtomicNum() == 0 for atom in made.GetAtoms()):
        raise BadInput(
            _FLAG, f"{smiles!r} holds the placeholder *", allowed="elements", fix="write both ends of the polymer, as H or CH3"
        )
    return chem.AddHs(made)


def _charge(molecule: Any) -> int:
    return int(_rdkit()[0].GetFormalCharge(molecule))


def _unpaired(molecule: Any) -> int:
    return int(sum(atom.GetNumRadicalElectrons() for atom in molecule.GetAtoms()))


def _shapes(molecule: Any, count: int, seed: int, smiles: str) -> list[Atoms]:
    """Conformers, relaxed with MMFF94 where it knows the atoms."""
    from ase import Atoms

    _, embed = _rdkit()
    keys = list(embed.EmbedMultipleConfs(molecule, numConfs=count, randomSeed=seed + 1))
    keys = keys or list(embed.EmbedMultipleConfs(molecule, numConfs=count, randomSeed=seed + 1, useRandomCoords=True))
    if not keys:
        problem, allowed = f"{smiles!r}: no shape of the molecule was found", "a molecule that can exist"
        raise BadInput(_FLAG, problem, allowed=allowed, fix="check it, or give a structure file")
    if embed.MMFFHasAllMoleculeParams(molecule):
        embed.MMFFOptimizeMoleculeConfs(molecule, maxIters=500)
    numbers = [atom.GetAtomicNum() for atom in molecule.GetAtoms()]
    return [Atoms(numbers, positions=molecule.GetConformer(key).GetPositions()) for key in keys]


def _packed(shapes: list[list[Atoms]], copies: int, length: float, density: float, seed: int) -> Atoms:
    """All copies in a periodic cube of this length (Å)."""
    for tolerance in _TOLERANCES:
        packed = _by_packmol(shapes, copies, length, tolerance, seed)
        if packed is not None:
            return packed
    problem = f"{density:g} g/cm³: {copies} copies do not fit into a cube of {length:.2f} Å"
    raise BadInput("--density", problem, allowed=f"a density at which atoms of two molecules stay {_TOLERANCES[-1]} Å apart",
                   fix=f"--density {0.8 * density:.2g}: NpT corrects the density")  # fmt: skip


def _by_packmol(shapes: list[list[Atoms]], copies: int, length: float, tolerance: float, seed: int) -> Atoms | None:
    """The copies in a periodic cube, atoms of two molecules at least `tolerance` Å apart; None where packmol fails."""
    from ase.io import read, write

    program = shutil.which("packmol") or str(Path(sys.executable).parent / "packmol")
    if not Path(program).is_file():
        raise MissingPackage("packmol", PIP, "--copies")
    lines = [f"tolerance {tolerance}", f"seed {seed % 1_000_000 + 1}", "filetype xyz", "output packed.xyz"]
    lines += [f"pbc {length:.6f} {length:.6f} {length:.6f}", "nloop 40"]
    with tempfile.TemporaryDirectory(prefix="mdistill-pack-") as folder:
        for k, made in enumerate(shapes):
            for n, atoms in enumerate(made):
                write(Path(folder) / f"{k}-{n}.xyz", atoms, format="xyz")
                share = _share(copies, len(made), n)
                lines += [f"structure {k}-{n}.xyz", f"  number {share}", "end structure"] if share else []
        order = Path(folder) / "order.inp"
        order.write_text("\n".join(lines) + "\n", encoding="utf-8")
        try:
            with open(order, encoding="utf-8") as told:  # packmol reads its input twice, so no pipe
                run = subprocess.run(  # noqa: S603
                    [program], stdin=told, cwd=folder, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
                )
        except subprocess.TimeoutExpired:
            return None
        if "Success!" not in run.stdout:
            return None
        packed = read(Path(folder) / "packed.xyz", format="xyz")
    packed.set_cell([length] * 3)
    packed.pbc = True
    return packed


def _share(copies: int, shapes: int, number: int) -> int:
    """How many copies have this shape."""
    return copies // shapes + (number < copies % shapes)
