"""export/metatomic.py: a student as a metatomic model, asked by metatomic's own ASE calculator."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

from mdistill import cli
from mdistill.derivatives import Conservative
from mdistill.export.ase import calculator
from mdistill.io.structures import to_atoms
from mdistill.nets.model_files import save_model
from systems import SYSTEMS, tiny_net, tiny_painn

ABSENT = find_spec("metatomic") is None or find_spec("metatomic_ase") is None
pytestmark = [pytest.mark.slow, pytest.mark.skipif(ABSENT, reason="needs metatomic-torch and metatomic-ase")]


@pytest.mark.parametrize("name", ["box", "very skewed", "cell shorter than the cutoff", "molecule"])
def test_answers_are_those_of_the_student(name, tmp_path, trust):
    save_model(tmp_path / "made.mdistill", tiny_net())
    assert cli.run(["export", "metatomic", str(tmp_path / "made.mdistill"), "--out", str(tmp_path / "out")]) == 0
    atoms = to_atoms(SYSTEMS[name]())
    other = atoms.copy()
    import metatomic_ase as ase_side

    other.calc = ase_side.MetatomicCalculator(str(tmp_path / "out" / "student.pt"), check_consistency=True)
    atoms.calc = calculator(Conservative(tiny_net()))
    pairs = [
        (other.get_potential_energy(), atoms.get_potential_energy()),
        (other.get_forces(), atoms.get_forces()),
        (other.get_potential_energies(), atoms.get_potential_energies()),
    ]
    if atoms.pbc.all():
        pairs.append((other.get_stress(), atoms.get_stress()))
    worst = max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)
    assert worst < 1e-10
    trust("T7", f"metatomic, {name}: energy, forces, energies of atoms, stress, relative", worst, "≤ 1e-10")


def test_bad_input_is_named(tmp_path, capsys):
    save_model(tmp_path / "made.mdistill", tiny_net())
    words = ["export", "metatomic", str(tmp_path / "made.mdistill"), "--out", str(tmp_path / "out"), "--precision", "float32"]
    assert cli.run(words) == 2 and "--precision: is float32" in capsys.readouterr().err
    save_model(tmp_path / "painn.mdistill", tiny_painn())
    assert cli.run(["export", "metatomic", str(tmp_path / "painn.mdistill"), "--out", str(tmp_path / "out")]) == 2
    assert "no compiled kernel" in capsys.readouterr().err
