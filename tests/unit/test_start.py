"""Simulations start from the last frame of any trajectory, with its momenta and masses."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.io import read, write

import mdistill
from mdistill import cli
from mdistill.errors import BadInput, MdistillNotice
from mdistill.export.frames import read_frames
from mdistill.export.start import as_start, read_start, suited
from mdistill.export.write_frames import write_frames
from mdistill.io.structures import read_system, repeated
from mdistill.io.trajectories import ASE_MOMENTUM, read_hdf5, read_series
from mdistill.library.cards import SHIPPED
from mdistill.simulation.settings import SimulateSettings
from mdistill.simulation.simulate import simulate
from mdistill.teachers.models import load

EMT_NAME = "ase.calculators.emt:EMT"
NVE = SimulateSettings(ensemble="nve", temperature_K=300.0, time_ps=0.02, time_step_fs=2.0, every_fs=4.0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short NVE run of copper in HDF5, and the same in every other format."""
    folder = tmp_path_factory.mktemp("run")
    write(folder / "cu.extxyz", bulk("Cu", cubic=True))
    simulate(read_system(folder / "cu.extxyz"), load(EMT_NAME), NVE, folder / "md")
    for name in ("run.extxyz", "run.nc", "run.lammpstrj", "last.data", "XDATCAR"):
        write_frames(folder / name, read_frames(folder / "md" / "trajectory.h5"))
    return folder


@pytest.mark.parametrize("name", ["md/trajectory.h5", "run.extxyz", "run.nc", "run.lammpstrj", "last.data", "XDATCAR"])
def test_the_last_frame_of_every_format_with_its_momenta(name, run):
    """XDATCAR has none."""
    known, start = read_hdf5(run / "md" / "trajectory.h5"), read_start(run / name)
    apart = ((start.system.positions - known.positions[-1]) @ torch.linalg.inv(known.cell[-1])).numpy()
    assert np.allclose(apart, np.rint(apart), atol=1e-6) and start.masses is None
    if name == "XDATCAR":
        assert start.momenta is None
    else:
        assert torch.allclose(start.momenta, known.momenta[-1], atol=1e-7)


def test_the_energy_of_a_run_goes_on_in_the_next_one(run, tmp_path):
    """The potential energy of the first frame is that of the last; so is the kinetic energy."""
    start = read_start(run / "md" / "trajectory.h5")
    with pytest.warns(MdistillNotice, match="starts with the momenta of the structure: .* temperature_K is not used"):
        done = simulate(start.system, load(EMT_NAME), NVE, tmp_path / "next", momenta=start.momenta)
    for name in ("potential_energy", "kinetic_energy"):
        last, first = (read_series(path, name)[k] for path, k in ((run / "md" / "trajectory.h5", -1), (done.trajectory, 0)))
        assert float(first) == pytest.approx(float(last), rel=1e-9)
    with pytest.raises(BadInput, match="momenta"):
        simulate(start.system, load(EMT_NAME), NVE, tmp_path / "next", momenta=2.0 * start.momenta)


def test_the_command_and_python_take_the_velocities_unless_told_otherwise(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mdistill.commands.simulate.finish", lambda *_, **__: None)
    common = ["--potential", EMT_NAME, "--ensemble", "nve", "--time-ps", "0.004", "--every-fs", "2"]
    source, known = str(run / "run.extxyz"), read_hdf5(run / "md" / "trajectory.h5").momenta[-1]
    assert cli.run(["simulate", source, *common, "--out", str(tmp_path / "a")]) == 0
    assert "momenta of the structure" in capsys.readouterr().err
    assert torch.allclose(read_hdf5(tmp_path / "a" / "trajectory.h5").momenta[0], known, atol=1e-7)
    short = {"report": False, "ensemble": "nve", "time_ps": 0.004, "every_fs": 2.0}
    drawn = mdistill.simulate(source, EMT_NAME, out=tmp_path / "b", velocities="random", **short)
    assert not torch.allclose(read_hdf5(drawn.trajectory).momenta[0], known, atol=1e-3)
    with pytest.warns(MdistillNotice, match="momenta of the structure"):
        kept = mdistill.simulate(read(source), EMT_NAME, out=tmp_path / "c", **short)
    assert torch.allclose(read_hdf5(kept.trajectory).momenta[0], known, atol=1e-7)


def test_deuterium_and_zero_momenta(tmp_path):
    """D is hydrogen with another name; momenta that are all zero are none."""
    text = '2\nLattice="9 0 0 0 9 0 0 0 9" Properties=species:S:1:pos:R:3:momenta:R:3\nD 0 0 0 0 0 0\nD 0 0 0.75 0 0 0\n'
    (tmp_path / "d2.extxyz").write_text(text)
    with pytest.warns(MdistillNotice, match="D is read as hydrogen"):
        start = read_start(tmp_path / "d2.extxyz")
    assert start.system.numbers.tolist() == [1, 1] and start.momenta is None and start.masses.tolist() == [2.014] * 2


def test_masses_of_the_file_are_used_and_repeats_have_the_same_momenta(tmp_path):
    atoms = bulk("Cu", cubic=True)
    atoms.set_masses([200.0] * 4)
    atoms.set_momenta(np.random.default_rng(0).normal(size=(4, 3)))
    write(tmp_path / "heavy.traj", atoms)
    start = read_start(tmp_path / "heavy.traj", repeat=(1, 2, 1))
    assert start.masses.tolist() == [200.0] * 8
    assert np.allclose(start.momenta.numpy(), np.tile(atoms.get_momenta() / ASE_MOMENTUM, (2, 1)))
    assert np.allclose(start.system.positions[4:] - start.system.positions[:4], [0.0, atoms.cell[1, 1], 0.0])
    assert as_start(atoms).masses.tolist() == [200.0] * 4 and as_start(start.system).momenta is None
    with pytest.warns(MdistillNotice, match="masses of the structure"):
        done = simulate(start.system, load(EMT_NAME), NVE, tmp_path / "md", masses=start.masses)
    assert done.state.masses.tolist() == [200.0] * 8
    write_frames(tmp_path / "again.nc", read_frames(done.trajectory))
    assert read_start(done.trajectory).masses.tolist() == [200.0] * 8


def test_the_barostat_of_a_liquid_takes_its_compressibility_unless_one_is_stated():
    water, npt = read_system(SHIPPED / "water-revpbe0-d3.extxyz"), SimulateSettings(ensemble="npt")
    told = "takes the compressibility of a liquid or polymer, 0.5/GPa; --compressibility-per-GPa states another"
    with pytest.warns(MdistillNotice, match=told):
        assert suited(npt, water) == replace(npt, compressibility_per_GPa=0.5)
    with pytest.warns(MdistillNotice, match=told):
        assert suited(npt, repeated(water, (2, 1, 1)), repeat=(2, 1, 1)) == replace(npt, compressibility_per_GPa=0.5)
    stated = replace(npt, compressibility_per_GPa=0.03)
    assert suited(stated, water) is stated and suited(NVE, water) is NVE
    assert suited(npt, read_system(SHIPPED / "agi-sevennet-0.extxyz")) == replace(npt, compressibility_per_GPa=0.03)


def test_a_run_without_a_stated_compressibility_continues_one_with_that_of_a_crystal(tmp_path):
    """Its ledger holds the number, as those of earlier versions do."""
    npt = replace(NVE, ensemble="npt")
    write(tmp_path / "cu.extxyz", bulk("Cu", cubic=True) * (2, 2, 2))
    copper = read_system(tmp_path / "cu.extxyz")
    simulate(copper, load(EMT_NAME), replace(npt, compressibility_per_GPa=0.03), tmp_path / "md")
    assert simulate(copper, load(EMT_NAME), replace(npt, time_ps=0.04), tmp_path / "md").resumed


def test_simulate_records_the_compressibility_it_used_and_whom_to_cite(tmp_path):
    words = f"simulate {SHIPPED / 'water-revpbe0-d3.extxyz'} --potential water-revpbe0-d3 --ensemble npt --time-ps 0.002"
    assert cli.run([*words.split(), "--every-fs", "1", "--threads", "1", "--out", str(tmp_path / "md")]) == 0
    results = json.loads((tmp_path / "md" / "results.json").read_text())
    assert any("a liquid or polymer, 0.5/GPa" in note for note in results["notes"])
    assert "sevennet" in results["citations"]
    assert '"compressibility_per_GPa": 0.5' in (tmp_path / "md" / "ledger.json").read_text()
