"""A list of small organic molecules, enumerated: chains and rings with the common functional groups, their ions and radicals.

The list is this package's own: it follows from the rules below, each molecule once, in its canonical SMILES. Nothing is taken
from a database, so no licence and no test molecule of one comes along.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Any

from mdistill.errors import MissingPackage

GROUPS = ("C", "O", "N", "F", "Cl", "S", "OC", "NC", "SC", "C=O", "C(=O)O", "C(=O)N", "C(=O)OC", "C(C)=O", "C#N", "C=C", "C#C",
          "CC", "CO", "CN", "C(F)(F)F", "N(C)C", "C(C)C")  # fmt: skip
"""Substituents."""
CORES = ("{0}{1}", "{0}C{1}", "{0}CC{1}", "{0}CCC{1}", "{0}CCCC{1}", "{0}C(C){1}", "{0}C(C)(C){1}", "{0}C=C{1}", "{0}C#C{1}",
         "{0}c1ccc({1})cc1", "{0}c1cccc({1})c1", "{0}c1ccccc1{1}", "{0}c1ccc({1})nc1", "{0}c1ccc({1})o1", "{0}c1ccc({1})s1",
         "{0}c1cc({1})c[nH]1", "{0}C1CCC({1})C1", "{0}C1CC1{1}", "{0}C1CCC({1})CC1", "{0}C1CCN({1})CC1")  # fmt: skip
"""Skeletons with places for two substituents."""
SMALL = ("C", "N", "O", "F", "S", "Cl", "CC", "CO", "CN", "C=O", "C=C", "C#C", "C#N", "OO", "NN", "N=O", "O=C=O", "CS", "CF",
         "CCl", "C1CO1", "c1ccccc1", "c1ccncc1", "c1ccoc1", "c1cc[nH]c1", "c1ccsc1", "c1cnc[nH]1", "c1ccc2ccccc2c1",
         "NC(N)=O")  # fmt: skip
CHARGED = ("[NH4+]", "[OH3+]", "[OH-]", "{0}[NH3+]", "{0}C(=O)[O-]", "{0}[O-]", "{0}[S-]", "{0}[NH+](C)C")
RADICALS = ("[CH3]", "[OH]", "{0}[CH2]", "{0}[O]", "{0}[CH]C", "{0}[NH]")
"""Ions and radicals, some with a substituent."""
TAILS = ("C", "CC", "CCC", "C(C)C", "CCO", "CCN", "c1ccccc1", "CC(=O)O", "CCF", "CC=C")
_MOST_HEAVY = 14


@dataclass(frozen=True, slots=True, kw_only=True)
class Molecule:
    """SMILES, total charge, and number of unpaired electrons."""

    smiles: str
    charge: int = 0
    unpaired: int = 0


def rdkit() -> Any:
    """The package RDKit, silent.

    Raises:
        MissingPackage: It is not installed.
    """
    try:
        from rdkit import Chem, RDLogger
        from rdkit.Chem import AllChem, rdMolTransforms  # noqa: F401  (attributes of Chem from here on)

        silence: Any = RDLogger
    except ImportError as error:
        raise MissingPackage("rdkit", "pip install 'mdistill[molecules]'", "making molecules") from error
    silence.DisableLog("rdApp.*")
    return Chem


def molecules() -> list[Molecule]:
    """The whole list, neutral closed shells first."""
    pairs = list(combinations_with_replacement(GROUPS, 2))
    texts = [*SMALL, *(core.format(*pair) for core in CORES for pair in pairs)]
    texts += [form.format(tail) for form in (*CHARGED, *RADICALS) for tail in TAILS]
    known = (one for text in texts if (one := parsed(text)) is not None)
    return list({molecule.smiles: molecule for molecule in known}.values())


def parsed(text: str) -> Molecule | None:
    """The molecule of a SMILES; None where it is none, or has more than 14 heavy atoms."""
    chem = rdkit()
    molecule = chem.MolFromSmiles(text)
    if molecule is None or molecule.GetNumHeavyAtoms() > _MOST_HEAVY:
        return None
    radicals = sum(atom.GetNumRadicalElectrons() for atom in molecule.GetAtoms())
    return Molecule(smiles=chem.MolToSmiles(molecule), charge=chem.GetFormalCharge(molecule), unpaired=radicals)
