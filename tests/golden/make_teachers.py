"""Write src/mdistill/teachers/golden.json: two small structures as each teacher's own ASE calculator sees them.

python tests/golden/make_teachers.py          all teachers
python tests/golden/make_teachers.py xtb      GFN-xTB alone; the others stay
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk, molecule

TARGET = Path(__file__).parents[2] / "src" / "mdistill" / "teachers" / "golden.json"
SEVENNET = {
    "sevennet-0": ("7net-0", None),
    "sevennet-l3i5": ("7net-l3i5", None),
    "sevennet-mf-0": ("7net-mf-0", "R2SCAN"),
    "sevennet-mf-0-pbe": ("7net-mf-0", "PBE"),
}


def structures() -> list[Atoms]:
    """A primitive cell shorter than every cutoff, and a skewed cell of the four elements of Li6PS5Cl."""
    random = np.random.default_rng(11)
    oxide = bulk("MgO", "rocksalt", a=4.26)
    oxide.positions = (oxide.positions + random.normal(scale=0.05, size=(2, 3))).round(4)
    mixed = bulk("LiS", "rocksalt", a=5.0, cubic=True)
    mixed.numbers = [3, 16, 3, 16, 3, 16, 15, 17]
    mixed.set_cell(mixed.cell.array @ np.array([[1.0, 0.03, 0.0], [0.0, 1.02, -0.04], [0.02, 0.0, 0.97]]), scale_atoms=True)
    mixed.positions = (mixed.positions + random.normal(scale=0.05, size=(8, 3))).round(4)
    return [oxide, mixed]


def frame(atoms: Atoms) -> dict:
    return {
        "numbers": atoms.numbers.tolist(), "positions": atoms.positions.tolist(), "cell": atoms.cell.array.round(6).tolist(),
        "pbc": atoms.pbc.tolist(), "energy": float(atoms.get_potential_energy()),
        "forces": np.asarray(atoms.get_forces(), float).tolist(),
        "stress": np.asarray(atoms.get_stress(voigt=False), float).tolist() if atoms.pbc.all() else None,
    }  # fmt: skip


def ethanol() -> Atoms:
    """A molecule without a cell."""
    atoms = molecule("CH3CH2OH")
    atoms.positions = (atoms.positions + np.random.default_rng(11).normal(scale=0.05, size=(9, 3))).round(4)
    return atoms


def xtb_answers() -> dict[str, dict]:
    """GFN-xTB: the molecule and the oxide, each from a calculator of its own."""
    from tblite.ase import TBLite

    stored = {}
    for name, method in (("gfn2-xtb", "GFN2-xTB"), ("gfn1-xtb", "GFN1-xTB")):
        frames = []
        for atoms in (ethanol(), structures()[0]):
            atoms.set_cell(atoms.cell.array.round(6))
            atoms.calc = TBLite(method=method, multiplicity=1, charge=0, verbosity=0)
            frames.append(frame(atoms))
        stored[name] = {
            "command": "python tests/golden/make_teachers.py xtb",
            "versions": " ".join(f"{package} {version(package)}" for package in ("tblite", "ase")), "frames": frames,
        }  # fmt: skip
    return stored


def main() -> None:
    if sys.argv[1:] == ["xtb"]:
        stored = json.loads(TARGET.read_text(encoding="utf-8")) | xtb_answers()
        TARGET.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
        return
    from chgnet.model.dynamics import CHGNetCalculator
    from sevenn.calculator import SevenNetCalculator

    calculators = {
        name: SevenNetCalculator(model, device="cpu", **({"modal": modal} if modal else {}))
        for name, (model, modal) in SEVENNET.items()
    }
    calculators["chgnet"] = CHGNetCalculator(use_device="cpu")
    stored = {}
    for name, calculator in calculators.items():
        frames = []
        for atoms in structures():
            atoms.set_cell(atoms.cell.array.round(6))
            atoms.calc = calculator
            frames.append(frame(atoms))
        packages = ["chgnet" if name == "chgnet" else "sevenn", "torch", "ase"]
        stored[name] = {
            "command": "python tests/golden/make_teachers.py",
            "versions": " ".join(f"{package} {version(package)}" for package in packages), "frames": frames,
        }  # fmt: skip
    TARGET.write_text(json.dumps(stored | xtb_answers(), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
