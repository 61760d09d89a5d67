"""What `mdistill test` and `train` say of labels that mislead: trained structures, far ones, other units, absurd forces."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.io import write

from mdistill.analysis.accuracy import accuracy
from mdistill.analysis.taught import described
from mdistill.errors import BadInput, MdistillNotice
from mdistill.export.start import as_start
from mdistill.judge.label_errors import label_errors
from mdistill.judge.label_notes import label_notes
from mdistill.labelling.import_labels import import_labels
from mdistill.nets.model_files import save_model
from mdistill.teachers.models import load
from mdistill.types import Prediction
from systems import morse_frames, tiny_net


@pytest.fixture(scope="module")
def frames():
    return morse_frames(6, atoms=4)


@pytest.fixture(scope="module")
def student(frames, tmp_path_factory):
    path = tmp_path_factory.mktemp("student") / "student.mdistill"
    errors = accuracy(frames, [frame.target for frame in frames])
    save_model(path, tiny_net(), described(frames[:4], 4.0, errors))
    return load(path)


def test_the_number_of_trained_structures_is_told(frames, student):
    rounded = [replace(f, system=replace(f.system, positions=f.system.positions.float().double())) for f in frames]
    assert "was trained on 4 of 6 structures" in " ".join(label_errors(student, rounded).notes)
    assert "was trained on all 4 structures" in " ".join(label_errors(student, rounded[:4]).notes)
    assert not any("trained on" in note for note in label_errors(student, rounded[4:]).notes)


def test_a_file_that_does_not_tell_is_named(frames, tmp_path):
    save_model(tmp_path / "old.mdistill", tiny_net(), {"teacher": "morse"})
    notes = label_errors(load(tmp_path / "old.mdistill"), frames).notes
    assert any("does not tell whether it was trained on any of these" in note for note in notes)


def test_structures_far_from_the_taught_ones_are_told(frames, student):
    open_ones = [replace(f, system=replace(f.system, pbc=torch.zeros(1, 3, dtype=torch.bool))) for f in frames[4:]]
    notes = label_errors(student, open_ones).notes
    assert any("2 of 2 structures are far from what" in note and "not periodic in three directions" in note for note in notes)


@pytest.mark.parametrize(("energy", "force", "flag"), [(27.2114, 1.0, "--energy-unit"), (1.0, -1.0, "--forces-unit"), (1, 1, "")])
def test_labels_in_another_unit_than_the_answers_are_told(energy, force, flag, frames, student):
    labels = [replace(f, target=Prediction(energy=energy * f.target.energy, forces=force * f.target.forces)) for f in frames]
    units = [note for note in label_notes(student, labels, [f.target for f in frames]) if "check the unit" in note]
    assert len(units) == bool(flag) and all(flag in note for note in units)


def copper(count: int, *, seed: int = 0) -> list[Atoms]:
    draw, made = np.random.default_rng(seed), []
    for k in range(count):
        atoms = bulk("Cu", cubic=True)
        atoms.positions += 0.1 * draw.normal(size=(4, 3))
        atoms.calc = SinglePointCalculator(atoms, energy=0.3 * k, forces=draw.normal(size=(4, 3)))
        made.append(atoms)
    return made


def test_an_absurd_force_is_left_out_with_its_frame_and_atom(tmp_path):
    images = copper(8)
    images[2].calc.results["forces"][3, 1] = 1e6
    write(tmp_path / "data.extxyz", images)
    with pytest.warns(MdistillNotice, match=r"frame 3: the force on atom 3 \(Cu\) is 1e\+06 eV/Å.*left out"):
        assert len(import_labels(tmp_path / "data.extxyz").frames) == 7


def test_a_test_file_that_holds_all_training_structures_is_refused(tmp_path):
    images = copper(4)
    for atoms in images:
        del atoms.calc.results["energy"]
    write(tmp_path / "data.extxyz", images)
    with pytest.raises(BadInput, match="the test file holds only training structures"), pytest.warns(MdistillNotice):
        import_labels(tmp_path / "data.extxyz", test=[tmp_path / "data.extxyz"])


def test_constraints_and_masses_of_ase_atoms_are_those_of_the_start():
    atoms = bulk("Cu", cubic=True)
    atoms.set_constraint(FixAtoms([1]))
    atoms.set_masses([63.546, 63.546, 500.0, 63.546])
    start = as_start(atoms, repeat=(1, 1, 2))
    assert start.masses is not None and torch.isinf(start.masses).nonzero().flatten().tolist() == [1, 5]
    assert start.masses[[2, 6]].tolist() == [500.0, 500.0]


def test_counts_of_one_are_singular(frames, student, tmp_path):
    assert any("trained on all 1 structure:" in note for note in label_errors(student, frames[:1]).notes)
    write(tmp_path / "data.extxyz", copper(1))
    with pytest.raises(BadInput, match="1 structure, one of each group"):
        import_labels(tmp_path / "data.extxyz")
