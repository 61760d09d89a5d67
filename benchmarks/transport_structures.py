"""Structures of the trajectory set: ordered CIFs of OBELiX, the conductors of the tests, and Na analogues of small Li compounds.

    MDISTILL_DATA=data python -m benchmarks.transport_structures FOLDER
    mdistill train transport --structures FOLDER --trajectories benchmarks/results/trajectories.npz --out runs/set

An analogue has every Li replaced by Na and SODIUM_A3 more volume for each; the teacher relaxes it.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

from mdistill.crystals.crystal import Crystal
from mdistill.errors import MdistillError
from mdistill.io.structures import read_structure, to_atoms
from mdistill.transport.obelix import cif_texts
from tests.conductors import CONDUCTORS, cif

SODIUM_A3 = 9.0
"""Volume by which a site of Na exceeds one of Li in oxides and halides, Å³ (about the difference of the ionic volumes)."""
MOST_SITES = 24
"""Largest cell of a Li compound that gets an analogue."""


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
    small = {name: one for name, one in ordered.items() if len(one.sites) <= MOST_SITES and 11 not in one.composition}
    for name, crystal in small.items():
        atoms = to_atoms(crystal)
        numbers = atoms.get_atomic_numbers()
        grown = 1.0 + SODIUM_A3 * int((numbers == 3).sum()) / crystal.volume
        atoms.set_atomic_numbers(np.where(numbers == 3, 11, numbers))
        atoms.set_cell(atoms.cell * grown ** (1.0 / 3.0), scale_atoms=True)
        atoms.write(folder / f"sodium-{name}.extxyz")
    print(f"{len(ordered)} ordered CIFs, {len(CONDUCTORS)} conductors, {len(small)} Na analogues in {folder}")


if __name__ == "__main__":
    main()
