"""`mdistill test`: errors by element and group, with the energies of other codes, and bad input."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from mdistill import cli
from mdistill.errors import BadInput
from mdistill.judge.label_errors import label_errors
from mdistill.labelling.import_labels import import_labels
from mdistill.runs.results import read_results
from mdistill.teachers.models import load

EMT_NAME = "ase.calculators.emt:EMT"


def labelled(path, *, forces: float = 1.0, shift: dict[str, float] | None = None, elements: tuple[str, ...] = ("Cu", "Au")):
    """Six copper cells and six with an atom of gold; forces times a factor, energies moved by a constant per element."""
    draw, images = np.random.default_rng(3), []
    for k in range(12):
        atoms = bulk("Cu", cubic=True)
        atoms.symbols[0] = elements[k // 6]
        atoms.positions += 0.2 * draw.normal(size=(4, 3))
        atoms.calc = EMT()
        moved = sum((shift or {}).get(symbol, 0.0) for symbol in atoms.symbols)
        labels = {
            "energy": atoms.get_potential_energy() + moved,
            "forces": forces * atoms.get_forces(),
            "stress": atoms.get_stress(),
        }
        atoms.calc = SinglePointCalculator(atoms, **labels)
        images.append(atoms)
    write(path, images)
    return images


def test_errors_of_a_known_size(tmp_path):
    """Labelled forces are 10 % larger and energies moved by −3 and 5 eV an atom: the force error is |F|/11 of the label."""
    images = labelled(tmp_path / "data.extxyz", forces=1.1, shift={"Cu": -3.0, "Au": 5.0})
    results = label_errors(load(EMT_NAME), import_labels(tmp_path / "data.extxyz", hold_out=False).frames)
    mean = np.mean([np.abs(atoms.get_forces()) for atoms in images])
    assert results.values["force_mae"].value == pytest.approx(1e3 * mean / 11, rel=1e-6)
    assert results.values["energy_mae"].value == pytest.approx(1e3 * (3.0 + 1.0) / 2, rel=1e-6)
    assert results.values["energy_mae_fitted_references"].value < 1e-3 and results.values["stress_mae"].value < 1e-4
    assert "other reference energies" in results.notes[0]
    errors, elements = results.tables
    assert [row[:2] for row in errors.rows] == [["all", 12], ["Cu4", 6], ["AuCu3", 6]]
    gold = np.mean([np.abs(atoms.get_forces()[0]) for atoms in images[6:]])
    assert [row[0] for row in elements.rows] == ["Cu", "Au"] and elements.rows[1][3] == pytest.approx(1e3 * gold, rel=1e-6)
    parity = {figure.name: figure for figure in results.figures}["parity-energy"]
    assert parity.kind == "parity" and np.allclose(parity.series[0].x, parity.series[0].y, atol=1e-3)
    assert (parity.x_label, parity.y_label) == ("label (meV/atom)", "model (meV/atom)")


def test_few_frames_tell_no_energy_error_with_fitted_references(tmp_path):
    """Constants explain the energies of two compositions, and leave errors that are equal of three frames."""
    images = labelled(tmp_path / "data.extxyz", shift={"Cu": -3.0})
    for few, known in ((images[:1], False), (images[5:7], False), (images[:2], False), (images[4:7], False), (images[4:8], True)):
        write(tmp_path / "few.extxyz", few)
        results = label_errors(load(EMT_NAME), import_labels(tmp_path / "few.extxyz", hold_out=False).frames)
        told = [note for note in results.notes if "too few labelled energies" in note]
        assert ("energy_mae_fitted_references" in results.values) is known and bool(told) is not known
        assert all((row[6] is not None) is known for row in results.tables[0].rows)
        assert any("other reference energies" in note for note in results.notes) is known


def test_the_command_writes_report_and_plots(tmp_path, capsys):
    labelled(tmp_path / "data.extxyz", elements=("Cu", "Cu"))
    assert cli.run(["test", EMT_NAME, str(tmp_path / "data.extxyz"), "--out", str(tmp_path / "out")]) == 0
    assert "force MAE (meV/Å)" in capsys.readouterr().out
    assert read_results(tmp_path / "out").values["force_mae"].value < 1e-3
    assert "Force components" in (tmp_path / "out" / "report.html").read_text()
    drawn = {path.name.partition("_")[2] for path in (tmp_path / "out" / "figures").glob("*.svg")}
    assert drawn == {"parity-force.svg", "parity-energy.svg", "parity-stress.svg"}
    assert cli.run(["test", EMT_NAME, str(tmp_path / "absent.extxyz")]) == 2


def test_elements_that_the_model_does_not_know_are_named(tmp_path, student_of_copper):
    labelled(tmp_path / "data.extxyz")
    with pytest.raises(BadInput, match="does not know Au"):
        label_errors(student_of_copper, import_labels(tmp_path / "data.extxyz", hold_out=False).frames)


@pytest.fixture
def student_of_copper(tmp_path):
    from mdistill.nets.model_files import load_model, network_of, save_model
    from mdistill.nets.settings import MomentSettings

    save_model(tmp_path / "student.mdistill", network_of(MomentSettings(elements=(29,), cutoff=3.0), seed=0), {})
    return load_model(tmp_path / "student.mdistill")
