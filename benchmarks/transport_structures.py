"""Structures of the trajectory set: ordered CIFs of OBELiX, the conductors of the tests, Na analogues of small Li compounds, and
simple salts, in whose perfect crystals nothing diffuses.

    MDISTILL_DATA=data python -m benchmarks.transport_structures FOLDER
    mdistill train transport --structures FOLDER --trajectories benchmarks/results/trajectories.npz --out runs/set

An analogue has every Li replaced by Na and SODIUM_A3 more volume for each; the teacher relaxes it.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from ase.build import bulk

from mdistill.crystals.crystal import Crystal
from mdistill.errors import MdistillError
from mdistill.io.structures import read_structure, to_atoms
from mdistill.transport.obelix import cif_texts
from tests.conductors import CONDUCTORS, cif

SODIUM_A3 = 9.0
"""Volume by which a site of Na exceeds one of Li in oxides and halides, Å³ (about the difference of the ionic volumes)."""
SALTS = {
    "LiF": ("rocksalt", 4.03), "LiCl": ("rocksalt", 5.14), "LiBr": ("rocksalt", 5.50), "LiI": ("rocksalt", 6.00),
    "NaF": ("rocksalt", 4.63), "NaCl": ("rocksalt", 5.64), "NaBr": ("rocksalt", 5.97), "NaI": ("rocksalt", 6.47),
    "KCl": ("rocksalt", 6.29), "KBr": ("rocksalt", 6.60), "AgCl": ("rocksalt", 5.55), "AgBr": ("rocksalt", 5.77),
    "Li2O": ("fluorite", 4.61), "Li2S": ("fluorite", 5.71), "Li2Se": ("fluorite", 6.00), "Na2O": ("fluorite", 5.55),
    "Na2S": ("fluorite", 6.53), "Na2Se": ("fluorite", 6.82), "CuCl": ("zincblende", 5.42), "CuBr": ("zincblende", 5.69),
}  # fmt: skip
"""Structure and measured lattice constant at room temperature, Å; the teacher relaxes it. (Wyckoff, Crystal Structures, 1963.)"""
MOST_SITES = 24
"""Largest cell of a Li compound that gets an analogue."""
LARGER = ("rr5", "ur9")
"""LiTi2(PO4)3 and LiZr2(PO4)3: their cells are larger, and the Na analogues are the NASICONs NaTi2(PO4)3 and NaZr2(PO4)3."""


def main() -> None:
    """Write the folder; print how many of each kind."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    ordered = dict[str, Crystal]()
    with tempfile.TemporaryDirectory() as place:
        for name, text in sorted(cif_texts().items()):
            path = Path(place) / f"{name}.cif"
            path.write_text(text, encoding="utf-8")
            try:
                crystal = read_structure(path)
            except MdistillError:
                continue
            if crystal.ordered and 3 in crystal.composition:
                ordered[name] = crystal
                (folder / f"obelix-{name}.cif").write_text(text, encoding="utf-8")
    for one in CONDUCTORS:
        name = "".join(c if c.isalnum() or c in ".-" else "_" for c in one.name)
        (folder / f"conductor-{name}.cif").write_text(cif(one), encoding="utf-8")
    small = {
        name: one for name, one in ordered.items()
        if (len(one.sites) <= MOST_SITES or name in LARGER) and 11 not in one.composition
    }  # fmt: skip
    for name, crystal in small.items():
        atoms = to_atoms(crystal)
        numbers = atoms.get_atomic_numbers()
        grown = 1.0 + SODIUM_A3 * int((numbers == 3).sum()) / crystal.volume
        atoms.set_atomic_numbers(np.where(numbers == 3, 11, numbers))
        atoms.set_cell(atoms.cell * grown ** (1.0 / 3.0), scale_atoms=True)
        atoms.write(folder / f"sodium-{name}.extxyz")
    for name, (structure, constant) in SALTS.items():
        salt = name if structure != "fluorite" else f"{name.split('2')[1]}{name.split('2')[0]}2"  # the builder wants CaF2
        bulk(salt, structure, a=constant, cubic=True).write(folder / f"salt-{name}.extxyz")
    print(f"{len(ordered)} ordered CIFs, {len(CONDUCTORS)} conductors, {len(small)} Na analogues, {len(SALTS)} salts in {folder}")


if __name__ == "__main__":
    main()
