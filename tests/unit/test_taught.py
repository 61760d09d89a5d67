"""What a student was taught: in its file, and told of structures far from it by the calculator and by simulations."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

import mdistill
from mdistill.analysis.taught import (
    Taught,
    closest_pairs,
    departures,
    disagreement,
    header_of,
    read_taught,
    taught_by,
    taught_of,
    tell_departures,
)
from mdistill.closed_form.linear_fit import fit_closed_form
from mdistill.errors import MdistillNotice
from mdistill.export.watch import Watch, Watched, tell_committee_spread
from mdistill.graph import make_system
from mdistill.io.structures import to_atoms
from mdistill.nets.model_files import read_metadata, save_model
from mdistill.settings import to_json
from mdistill.simulation.settings import SimulateSettings
from mdistill.simulation.simulate import simulate
from mdistill.teachers.models import load
from mdistill.training.committee import train_committee
from mdistill.training.settings import ClosedFormSettings, FitSettings, TrainSettings
from systems import dimer, morse_frames, random_box, tiny_net

SMALL = TrainSettings(cutoff=4.0, channels=2, radial=4, hidden=4, held_out=0.2, fit=FitSettings(steps=12, warmup=5, seed=7))


@pytest.fixture(scope="module")
def frames():
    return morse_frames(16, atoms=4)


@pytest.fixture(scope="module")
def results(frames, tmp_path_factory):
    return train_committee(frames, SMALL, tmp_path_factory.mktemp("committee"), count=2)


@pytest.fixture
def student(results):
    return load(results[0].path)


def quiet(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(one.message) for one in caught if issubclass(one.category, MdistillNotice)]


def test_closest_pairs_are_those_of_all_images():
    system = random_box(3, atoms=6)
    atoms = to_atoms(system).repeat(3)
    distances, symbols, middle = atoms.get_all_distances(), atoms.get_chemical_symbols(), range(13 * 6, 14 * 6)
    expected: dict[str, float] = {}
    for i in middle:
        for j in range(len(atoms)):
            if j != i and distances[i, j] < 4.0:
                low, high = sorted((i, j), key=lambda k: atoms.numbers[k])
                name = f"{symbols[low]}-{symbols[high]}"
                expected[name] = min(expected.get(name, math.inf), distances[i, j])
    found = closest_pairs(system, 4.0)
    assert found.keys() == expected.keys() and len(found) > 3
    assert np.allclose([found[k] for k in expected], list(expected.values()), atol=1e-9)


def test_the_file_tells_pairs_composition_density_and_errors_of_what_was_taught(frames, results, student):
    taught, held = taught_of(student), results[0]
    assert taught is not None and taught.cutoff == 4.0 and not taught.open
    assert sum(taught.sources.values()) == held.train_frames < len(frames)
    assert list(taught.temperatures_K) == [600.0, 1000.0]
    counts = frames[0].system.numbers.bincount()
    assert taught.shares["Li"] == [pytest.approx(int(counts[3]) / 4, abs=1e-6)] * 2
    every = [closest_pairs(frame.system, 4.0) for frame in frames]
    assert all(min(pairs.get(name, 9.9) for pairs in every) <= d + 1e-4 for name, d in taught.closest.items())
    errors = header_of(student)["provenance"]["errors"]
    assert errors["force"]["Li"]["root_mean_square"] == pytest.approx(held.accuracy.force["Li"].root_mean_square, rel=1e-4)
    assert errors["energy"]["600 K"]["mean_absolute"] == pytest.approx(
        held.accuracy.energy["600 K"].mean_absolute.value, rel=1e-4
    )
    assert taught.force_error == pytest.approx(math.sqrt(3) * held.accuracy.force["all"].root_mean_square, rel=1e-4)


def test_closed_form_students_tell_it_too(frames, tmp_path):
    path = fit_closed_form(frames, SMALL, tmp_path, closed_form=ClosedFormSettings(second=4, third=2, iterations=1))[0].path
    assert taught_of(load(path)) is not None and "force" in read_metadata(path)["provenance"]["errors"]


def test_a_taught_structure_is_near(frames, student):
    taught = taught_by(frames, 4.0)
    assert [departures(frame.system, taught, temperature_K=1000.0) for frame in frames] == [[]] * len(frames)


@pytest.mark.parametrize(
    ("change", "phrase"),
    [
        (
            lambda s: make_system(s.positions[1:].numpy(), s.numbers[1:].numpy(), s.cell[0].numpy(), [True] * 3),
            "share of atoms: ",
        ),
        (lambda s: dimer(3, 3, 0.8), "Li–Li at 0.80 Å"),
        (lambda s: dimer(3, 3, 0.8), "not periodic in three directions"),
        (lambda s: dimer(3, 3, 0.8), "Li 100 % (labels 50 %)"),
        (lambda s: replace(s, positions=1.1 * s.positions, cell=1.1 * s.cell), "Å³ per atom (labels "),
    ],
)
def test_departures_are_named(change, phrase, frames):
    taught = replace(taught_by(frames, 4.0), closest={"Li-Li": 2.4}, shares={"Li": (0.5, 0.5), "S": (0.25, 0.25)})
    if phrase.startswith("share"):
        taught = taught_by(frames, 4.0)
    found = "; ".join(departures(change(frames[0].system), taught))
    assert phrase in found


def test_pairs_without_labels_and_heat_are_named():
    taught = Taught(cutoff=4.0, closest={"Li-S": 2.3}, shares={"Li": (1.0, 1.0)}, open=True, temperatures_K=[300.0, 600.0])
    assert departures(dimer(3, 3, 2.5), taught) == ["Li–Li at 2.50 Å (no label has this pair within 4 Å)"]
    taught = replace(taught, closest={"Li-Li": 2.5})
    assert departures(dimer(3, 3, 2.4), taught, temperature_K=600.0) == []
    assert departures(dimer(3, 3, 2.3), taught) == ["Li–Li at 2.30 Å (closest label 2.50 Å)"]
    assert departures(dimer(3, 3, 2.5), taught, temperature_K=900.0) == ["900 K (labels up to 600 K)"]


def test_a_committee_that_disagrees_is_told():
    taught = Taught(cutoff=4.0, force_error=0.05)
    numbers = torch.tensor([3, 16])
    assert disagreement(torch.tensor([0.05, 0.2]), numbers, taught) == []
    found = disagreement(torch.tensor([0.05, 0.6]), numbers, taught)
    assert len(found) == 1 and "0.6 eV/Å on atom 1 (S)" in found[0] and "0.05 eV/Å" in found[0]


def test_the_calculator_tells_each_departure_once_and_names_all_of_the_last(frames, results, student):
    atoms = to_atoms(frames[0].system)
    atoms.calc = mdistill.calculator(student)
    assert quiet(atoms.get_potential_energy) == [] and atoms.calc.departures == []
    lone = to_atoms(dimer(3, 3, 0.8))
    lone.calc = atoms.calc
    said = quiet(lone.get_potential_energy)
    assert len(said) == 1 and "Li–Li at 0.80 Å" in said[0] and "share of atoms" in said[0] and "extrapolation" in said[0]
    lone.positions[0] += 0.1
    assert quiet(lone.get_potential_energy) == [] and any("Li–Li at" in phrase for phrase in atoms.calc.departures)
    fewer = atoms[1:]
    fewer.calc = mdistill.calculator(results[0].path)
    assert any("share of atoms" in text for text in quiet(fewer.get_forces))


def test_the_calculator_tells_a_committee_that_disagrees(frames, results, student):
    taught = replace(taught_of(student), force_error=1e-9)
    student.net.header["provenance"]["taught"] = to_json(taught)
    atoms = to_atoms(frames[0].system)
    atoms.calc = mdistill.calculator(student, committee=[results[1].path])
    assert "forces of the committee differ" in quiet(atoms.get_potential_energy)[0]
    assert "forces of the committee differ" in quiet(lambda: tell_committee_spread(results[0].path, student, frames[0].system))[0]


def test_engines_are_told_too_where_an_atom_moved_far(frames, student):
    evaluate, near = Watched(student, 0.5), frames[0].system
    close = replace(near, positions=near.positions.clone())
    close.positions[1] = close.positions[0] + torch.tensor([0.7, 0.0, 0.0], dtype=torch.float64)
    assert quiet(lambda: evaluate(near)) == []
    (said,) = quiet(lambda: evaluate(close))
    assert "far from what" in said and quiet(lambda: (evaluate(near), evaluate(close))) == []
    gaps = torch.cdist(near.positions, near.positions) + 99.0 * torch.eye(near.n_atoms, dtype=torch.float64)
    i, j = divmod(int(gaps.argmin()), near.n_atoms)
    nearer = replace(near, positions=near.positions.clone())
    nearer.positions[i] += 1.9 * (near.positions[j] - near.positions[i]) / gaps[i, j]
    watch = Watch(student, every=20)
    assert quiet(lambda: (watch.see(near, 0), watch.see(near, 1))) == []
    assert quiet(lambda: [watch.see(nearer, 1) for _ in range(19)]) == []
    assert len(quiet(lambda: (watch.see(nearer, 1), watch.see(close, 0)))) == 1


def test_a_simulation_tells_at_its_start(frames, student, tmp_path):
    settings = SimulateSettings(ensemble="nve", temperature_K=1900.0, time_ps=0.002, time_step_fs=1.0)
    with pytest.warns(MdistillNotice, match=r"far from what .* 1900 K \(labels up to 1000 K\)"):
        simulate(frames[0].system, student, settings, tmp_path)


def test_files_of_older_versions_load_and_say_that_they_cannot_tell(frames, tmp_path):
    save_model(tmp_path / "student.mdistill", tiny_net(), {"teacher": "morse"})
    old = load(tmp_path / "student.mdistill")
    assert taught_of(old) is None
    assert "does not say what it was taught" in quiet(lambda: tell_departures(frames[0].system, old))[0]
    assert "does not say what it was taught" in quiet(lambda: mdistill.calculator(tmp_path / "student.mdistill"))[0]
    assert quiet(lambda: mdistill.calculator(load("ase.calculators.emt:EMT"))) == []


@pytest.mark.parametrize(
    "raw",
    [None, 3, {}, {"cutoff": "x"}, {"cutoff": -1.0}, {"cutoff": 4.0, "volumes": [1.0]}, {"cutoff": 4.0, "closest": {"Li-Li": math.nan}},
     {"cutoff": 4.0, "shares": {"Li": 3}}, {"cutoff": 4.0, "closest": [1]}],
)  # fmt: skip
def test_a_description_that_cannot_be_read_counts_as_none(raw):
    assert read_taught(raw) is None


def test_a_student_has_one_sha256(frames, results, student, tmp_path):
    """The header's, of the fit, and in trajectories, whatever float type it computes in."""
    sha256 = read_metadata(results[0].path)["sha256"]
    settings = SimulateSettings(ensemble="nve", temperature_K=300.0, time_ps=0.002, time_step_fs=1.0, format="extxyz")
    single = load(results[0].path, precision="float32")
    done = simulate(frames[0].system, single, settings, tmp_path)
    assert sha256 == results[0].sha256 and f"model_sha256={sha256}" in done.trajectory.read_text()
