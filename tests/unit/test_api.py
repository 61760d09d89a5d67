"""The jobs in Python: every kind of structure, keywords named as the flags, results that print and become data frames."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from ase.build import bulk
from ase.calculators.emt import EMT
from pymatgen.core import Lattice, Molecule, Structure

import mdistill
from mdistill.api import settings_from
from mdistill.commands.distill import DistillArguments
from mdistill.commands.simulate import SimulateArguments
from mdistill.errors import BadInput, MdistillNotice
from mdistill.estimates import exactly, gate
from mdistill.flags.arguments import flags_of, from_file
from mdistill.io.convert_structures import as_crystal, as_system, write_structure
from mdistill.io.structures import read_structure, read_system, to_atoms
from mdistill.notices import notify
from mdistill.runs.results import Results, read_results, write_results
from mdistill.workflows.distill_settings import DistillSettings, quick_settings

EXAMPLE = Path(__file__).parents[2] / "examples" / "li6ps5cl.cif"
SHORT = {"ensemble": "nve", "temperature_K": 300.0, "time_ps": 0.02, "time_step_fs": 2.0, "every_fs": 4.0,
         "report": False}  # fmt: skip


def argyrodite():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Structure.from_file(EXAMPLE)


@pytest.fixture
def copper(tmp_path):
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    atoms.write(tmp_path / "copper.extxyz")
    return atoms


def forms(atoms, path):
    structure = Structure(Lattice(atoms.cell.array), atoms.get_chemical_symbols(), atoms.positions, coords_are_cartesian=True)
    return {"atoms": atoms, "structure": structure, "path": path, "text": str(path), "system": read_system(path),
            "crystal": read_structure(path)}  # fmt: skip


@pytest.mark.parametrize("form", ["atoms", "structure", "path", "text", "system", "crystal"])
def test_every_form_of_a_structure_is_the_same_system(form, copper, tmp_path):
    expected = read_system(tmp_path / "copper.extxyz")
    found = as_system(forms(copper, tmp_path / "copper.extxyz")[form])
    assert torch.equal(found.numbers, expected.numbers) and bool(found.pbc.all())
    assert torch.allclose(found.cell, expected.cell, atol=1e-9)
    moved = (found.positions - expected.positions) @ torch.linalg.inv(expected.cell[0])
    assert float((moved - moved.round()).abs().max()) < 1e-7
    twice = as_system(forms(copper, tmp_path / "copper.extxyz")[form], repeat=(2, 1, 1))
    assert twice.n_atoms == 2 * expected.n_atoms and float(twice.cell[0, 0, 0]) == pytest.approx(
        2 * float(expected.cell[0, 0, 0])
    )


def test_a_pymatgen_structure_keeps_occupancies_charges_and_equivalent_sites(tmp_path):
    expected, found = read_structure(EXAMPLE), as_crystal(argyrodite())
    assert found.composition == expected.composition and found.oxidation == expected.oxidation and not found.ordered
    assert sorted(site.label for site in found.sites) == sorted(site.label for site in expected.sites)
    again = read_structure(write_structure(tmp_path, found))
    assert again.composition == expected.composition and again.oxidation == expected.oxidation
    assert sorted(site.label for site in again.sites) == sorted(site.label for site in expected.sites)


def test_a_pymatgen_molecule_is_open():
    water = as_system(Molecule(["O", "H", "H"], [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]))
    assert not bool(water.pbc.any()) and water.numbers.tolist() == [8, 1, 1]


@pytest.mark.parametrize("wrong", [3, None, [1, 2], {"cell": 1}, np.zeros((3, 3))])
def test_other_objects_are_refused_with_what_is_accepted(wrong):
    with pytest.raises(BadInput, match="ASE Atoms, a pymatgen Structure"):
        as_system(wrong)


def test_disordered_structures_do_not_start_a_simulation():
    with pytest.raises(BadInput, match="disordered"):
        as_system(argyrodite())
    atoms = bulk("Cu", cubic=True)
    atoms.positions[0, 0] = np.nan
    with pytest.raises(BadInput, match="not finite|NaN|nan"):
        as_system(atoms)


def test_simulate_takes_atoms_a_calculator_and_flags(copper, tmp_path):
    found = mdistill.simulate(copper, EMT(), out=tmp_path / "md", **SHORT | {"report": True})
    named = mdistill.simulate(tmp_path / "copper.extxyz", "ase.calculators.emt:EMT", out=tmp_path / "named", **SHORT)
    assert found.values["temperature"] == named.values["temperature"]
    assert found.trajectory == tmp_path / "md" / "trajectory.h5" and (tmp_path / "md" / "report.html").exists()
    assert read_results(tmp_path / "md").values.keys() == found.values.keys()
    settings = mdistill.SimulateSettings(**{name: value for name, value in SHORT.items() if name != "report"})
    old = mdistill.simulate(
        read_system(tmp_path / "copper.extxyz"), mdistill.load("ase.calculators.emt:EMT"), settings, tmp_path / "old"
    )
    assert old.values["temperature"] == found.values["temperature"]
    frame = pandas.DataFrame(found.rows())
    row = frame.set_index("quantity").loc["temperature"]
    assert row["value"] == found.values["temperature"].value and row["unit"] == "K"
    assert "temperature" in str(found) and str(tmp_path / "md") in repr(found) and "<table>" in found._repr_html_()


def test_every_flag_of_settings_is_a_keyword():
    made = settings_from(
        mdistill.SimulateSettings, None, {"temperature_K": np.float64(700), "guard.on": False}, where="simulate()"
    )
    assert made.temperature_K == 700.0 and made.guard.on is False
    nested = {"production": {"time_ps": 9}, "label.frames": 7, "temperatures": 500, "train": {"fit": {"max_minutes": 1}}}
    made = settings_from(DistillSettings, DistillSettings(structure=EXAMPLE), nested, where="distill()")
    assert (made.production.time_ps, made.label.frames, made.temperatures, made.train.fit.max_minutes) == (9.0, 7, (500.0,), 1.0)
    names = {flag.removeprefix("--").replace("-", "_") for flag in flags_of(SimulateArguments)}
    arguments = {"potential", "out", "stride_map", "repeat", "device", "precision", "threads", "max_hours", "velocities", "trust"}
    arguments |= {"timeout_s", "random_frame", "inner_steps"}
    for name in names - arguments:
        with pytest.raises(BadInput) as refusal:
            settings_from(mdistill.SimulateSettings, None, {name: object()}, where="simulate()")
        assert "is unknown" not in str(refusal.value), name


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"temprature_K": 3}, "did you mean temperature_K?"),
        ({"temperature_K": -3}, "above 0"),
        ({"temperature_K": "hot"}, "a value of type float"),
        ({"guard": {"evry": 3}}, "did you mean guard.every?"),
    ],
)
def test_keywords_that_cannot_be_used_are_refused_as_flags_are(flags, said, copper, tmp_path):
    with pytest.raises(BadInput, match=re.escape(said)):
        mdistill.simulate(copper, EMT(), out=tmp_path / "md", **flags)
    assert not (tmp_path / "md").exists()


def test_simulate_needs_a_folder_and_a_potential(copper, tmp_path):
    with pytest.raises(BadInput, match='out="runs/mine"'):
        mdistill.simulate(copper, EMT())
    with pytest.raises(BadInput, match="no ASE calculator"):
        mdistill.simulate(copper, 3, out=tmp_path)


def test_notices_of_a_job_are_warnings_and_notes(copper, tmp_path, monkeypatch):
    import mdistill.simulation.simulate as module

    monkeypatch.setattr(module, "tell_departures", lambda *_a, **_k: notify("far from what was taught"))
    for name in ("one", "two"):
        with pytest.warns(MdistillNotice, match="far from what was taught"):
            found = mdistill.simulate(copper, EMT(), out=tmp_path / name, **SHORT)
        assert "far from what was taught" in found.notes and "note: far from" in str(found)
        assert "far from what was taught" in read_results(tmp_path / name).notes


def test_analyse_takes_what_simulate_gave_a_trajectory_paths_and_atoms(copper, tmp_path):
    run = mdistill.simulate(copper, EMT(), out=tmp_path / "md", **SHORT | {"time_ps": 0.12})
    flags = {"species": "Cu", "temperature_K": 300.0}
    found = mdistill.analyse(run, out=tmp_path / "analysis", report=False, **flags)
    read = mdistill.read_trajectory(run.trajectory).trajectory
    atoms = [replace_positions(copper, positions) for positions in read.positions]
    for other in (read, run.trajectory, tmp_path / "md", [str(run.trajectory)]):
        assert mdistill.analyse(other, **flags).values == found.values
    from_atoms = mdistill.analyse(atoms, frame_time_fs=4.0, **flags)
    assert from_atoms.values.keys() == found.values.keys() and (tmp_path / "analysis" / "results.json").exists()
    assert len(pandas.DataFrame(found.rows("transport"))) == 1
    with pytest.raises(BadInput, match="choose one of these names"):
        found.rows("absent")
    with pytest.raises(BadInput, match="a list of int"):
        mdistill.analyse([1, 2], **flags)


def replace_positions(atoms, positions):
    moved = atoms.copy()
    moved.positions = positions.numpy()
    return moved


def test_distill_plans_for_atoms_and_for_a_pymatgen_structure():
    flags = {"teacher": "toy_teacher:salt", "mobile": "Li", "dry_run": True, "quick": True, "prepare": {"max_atoms": 60}}
    found = mdistill.distill(argyrodite(), **flags)
    expected = mdistill.distill(EXAMPLE, **flags)
    for table in ("supercell", "sites"):
        assert found.rows(table) == expected.rows(table)
    assert found.folder is None and "Teacher toy_teacher:salt" in str(found)
    metal = mdistill.distill(to_atoms(read_system_of_copper()), teacher="ase.calculators.emt:EMT", dry_run=True)
    assert ["mobile ion", "none"] in [list(row) for row in metal.results.tables[1].rows]
    with pytest.raises(BadInput, match="mobile"):
        mdistill.distill(to_atoms(read_system_of_copper()), teacher="ase.calculators.emt:EMT", mobile="Li", dry_run=True)


@pytest.mark.parametrize("broken", [False, True])
def test_distill_writes_what_the_command_writes(broken, copper, tmp_path, monkeypatch):
    """The job itself is a stand-in; settings, input, results and report lie in the folder, a blow-up is raised after them."""
    import mdistill.workflows.distill as module

    asked: list[DistillSettings] = []

    def stand_in(settings, folder, *, on_begin, **_):
        asked.append(settings)
        folder.mkdir(parents=True)
        on_begin()
        results = Results(command="distill", gates=[gate("force error", exactly(40.0, "meV/Å"), 30.0, "")])
        write_results(folder, results)
        if broken:
            raise mdistill.BlowUp(3, "force")
        notify("a notice of the job")
        return results

    monkeypatch.setattr(module, "distill", stand_in)
    run, flags = tmp_path / "run", {"teacher": "ase.calculators.emt:EMT", "mobile": "none", "temperatures": (300, 400)}
    if broken:
        with pytest.raises(mdistill.BlowUp):
            mdistill.distill(copper, run, **flags)
    else:
        with pytest.warns(MdistillNotice):
            found = mdistill.distill(copper, run, quick=True, **flags)
        assert not found.passed and found.rows("gates")[0]["gate"] == "force error" and found.folder == run
        assert asked[0].label.frames == quick_settings(copper).label.frames and found.notes == ["a notice of the job"]
        kept = from_file(DistillArguments, run / "run.toml").settings
        assert kept.structure.resolve() == run / "input" / "structure.extxyz" and kept.temperatures == (300.0, 400.0)
        assert torch.equal(read_system(kept.structure).numbers, as_system(copper).numbers)
    assert (run / "report.html").exists() and read_results(run).gates[0].name == "force error"


def read_system_of_copper():
    return as_system(bulk("Au", cubic=True))


def test_a_structure_without_a_file_needs_a_folder(copper, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match="out"):
        mdistill.distill(copper, teacher="ase.calculators.emt:EMT", mobile="none")
    with pytest.raises(BadInput, match="no such file"):
        mdistill.distill("absent.cif", out="runs/new")
    assert [path.name for path in tmp_path.iterdir()] == ["copper.extxyz"]


def test_dir_lists_the_public_names():
    assert {"simulate", "distill", "analyse", "load", "calculator", "Outcome", "System"} <= set(dir(mdistill))
    assert all(getattr(mdistill, name) is not None for name in dir(mdistill))


def test_settings_of_older_scripts_still_begin_a_run(tmp_path):
    settings = replace(DistillSettings(structure=EXAMPLE, teacher="toy_teacher:salt"), mobile="Li")
    assert mdistill.distill(settings, dry_run=True).rows("supercell") == mdistill.distill(
        EXAMPLE, settings=settings, dry_run=True
    ).rows("supercell")
