"""Trajectories between formats: nothing changes that the format can hold, and what it cannot is told."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import h5py
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import formats, read, write
from ase.io.formats import define_external_io_format

from mdistill import cli
from mdistill.errors import BadInput
from mdistill.export import ase_format
from mdistill.export.frames import Frames, read_frames, timed
from mdistill.export.write_frames import standard_orientation, write_frames
from mdistill.io.import_trajectory import read_trajectory
from mdistill.io.trajectories import ASE_MOMENTUM

TRICLINIC = np.array([[5.0, 0.0, 0.0], [1.0, 6.0, 0.0], [0.5, -1.2, 7.0]])


def made(*, cell=TRICLINIC, turned: bool = False, pbc=(True, True, True)) -> Frames:
    """Twelve frames of five atoms whose cell grows; the first atom leaves the cell."""
    draw = np.random.default_rng(0)
    frames, numbers = 12, np.array([3, 16, 3, 15, 16])
    steps = np.cumsum(0.05 * draw.normal(size=(frames, 5, 3)), axis=0)
    positions = draw.uniform(0, 1, size=(5, 3)) @ cell + steps + 0.4 * np.arange(frames)[:, None, None] * [[[1.0, 0, 0]]]
    cells = cell * (1 + 0.001 * np.arange(frames)[:, None, None])
    momenta, stresses = draw.normal(size=(frames, 5, 3)) * 0.01, draw.normal(size=(frames, 3, 3)) * 1e-3
    content = {"positions": positions, "cells": cells * np.array(pbc)[:, None], "momenta": momenta}
    if turned:
        q, _ = np.linalg.qr(draw.normal(size=(3, 3)))
        q *= np.sign(np.linalg.det(q))
        content = {name: array @ q for name, array in content.items()}
    from ase.data import atomic_masses

    return Frames(
        numbers=numbers, pbc=pbc, masses=atomic_masses[numbers], times=4.0 * np.arange(frames), steps=2 * np.arange(frames),
        energies=draw.normal(size=frames), forces=draw.normal(size=(frames, 5, 3)),
        stresses=stresses + stresses.transpose(0, 2, 1), **content,
    )  # fmt: skip


HELD = {
    "run.h5": ("positions", "cells", "times", "steps", "momenta", "energies", "stresses"),
    "run.extxyz": ("positions", "cells", "times", "steps", "momenta", "energies", "forces", "stresses"),
    "run.lammpstrj": ("positions", "cells", "times", "steps", "momenta"),
    "run.nc": ("positions", "cells", "times", "momenta"),
    "XDATCAR": ("cells",),
}


@pytest.mark.parametrize("name", HELD)
def test_what_a_format_holds_comes_back(name, tmp_path):
    frames = made()
    notes = write_frames(tmp_path / name, frames)
    back = read_frames(tmp_path / name)
    assert np.array_equal(back.numbers, frames.numbers) and np.allclose(back.masses, frames.masses, rtol=1e-6)
    for part in ("positions", "cells", "times", "steps", "momenta", "energies", "forces", "stresses"):
        if part in HELD[name]:
            assert np.allclose(getattr(back, part), getattr(frames, part), atol=2e-8), part
        elif part in ("momenta", "energies", "forces", "stresses"):
            assert getattr(back, part) is None and any(part in note for note in notes)
    apart = (back.positions - frames.positions) @ np.linalg.inv(frames.cells)
    assert np.allclose(apart, np.rint(apart), atol=1e-6)


@pytest.mark.parametrize("name", ["run.nc", "run.lammpstrj", "last.data"])
def test_a_turned_cell_keeps_all_distances_and_speeds(name, tmp_path):
    frames = made(turned=True)
    assert any("turned" in note or "last of 12" in note for note in write_frames(tmp_path / name, frames))
    back = read_frames(tmp_path / name)
    first, again = frames.part(slice(-1, None)), back.part(slice(-1, None))
    for one, other in ((first.positions[0], again.positions[0]), (first.momenta[0], again.momenta[0])):
        assert np.allclose((one - one[0]) @ (one - one[0]).T, (other - other[0]) @ (other - other[0]).T, atol=1e-5)
    assert np.allclose(first.cells[0] @ first.cells[0].T, again.cells[0] @ again.cells[0].T, atol=1e-5)
    assert np.allclose(first.cells[0] @ first.positions[0].T, again.cells[0] @ again.positions[0].T, atol=1e-4)


def test_stress_and_forces_turn_with_the_cell():
    """The power of forces and of the stress along a strain is a number that no rotation changes."""
    frames = made(turned=True)
    turned = standard_orientation(frames, None)
    assert np.allclose((frames.forces * frames.momenta).sum(), (turned.forces * turned.momenta).sum())
    for a, b in ((frames, turned), (turned, frames)):
        assert np.allclose(np.einsum("fai,fij,fbj->fab", a.cells, a.stresses, a.cells),
                           np.einsum("fai,fij,fbj->fab", b.cells, b.stresses, b.cells))  # fmt: skip
    assert standard_orientation(turned, None) is turned
    left = made(cell=TRICLINIC[[1, 0, 2]])
    with pytest.raises(BadInput, match="left-handed"):
        standard_orientation(left, "x.nc")


def test_hdf5_follows_h5md(tmp_path):
    """Step, time with unit, and a unit of every value, as the specification asks; dt (ps) where MDAnalysis looks for it."""
    write_frames(tmp_path / "run.h5", made())
    with h5py.File(tmp_path / "run.h5") as file:
        assert file["h5md"].attrs["version"].tolist() == [1, 1] and file["h5md/modules/units"].attrs["version"].tolist() == [1, 0]
        box = file["particles/all/box"]
        assert box.attrs["dimension"] == 3 and list(box.attrs["boundary"]) == ["periodic"] * 3
        for place, unit in {"position": "Angstrom", "velocity": "Angstrom fs-1", "box/edges": "Angstrom"}.items():
            group = file[f"particles/all/{place}"]
            assert group["value"].attrs["unit"] == unit and group["time"].attrs["unit"] == "fs"
            assert group["time"][1] == 4.0 and group["step"][1] == 2
        for name in file["observables"]:
            assert len(file[f"observables/{name}/value"]) == 12 and file[f"observables/{name}/time"].attrs["unit"] == "fs"
        assert file["observables/dt/value"][:].tolist() == [0.004] * 12
        assert file["observables/dt/value"].attrs["unit"] == "ps"


def test_units_of_other_h5md_writers_are_converted_or_refused(tmp_path):
    frames = made()
    write_frames(tmp_path / "run.h5", frames)
    with h5py.File(tmp_path / "run.h5", "r+") as file:
        position, velocity = file["particles/all/position"], file["particles/all/velocity/value"]
        position["value"][...] /= 10.0
        position["value"].attrs["unit"] = "nm"
        position["time"][...] /= 1000.0
        position["time"].attrs["unit"] = "ps"
        velocity[...] *= 100.0
        velocity.attrs["unit"] = "nm ps-1"
    back = read_frames(tmp_path / "run.h5")
    assert np.allclose(back.positions, frames.positions) and np.allclose(back.times, frames.times)
    assert np.allclose(back.momenta, frames.momenta)
    with h5py.File(tmp_path / "run.h5", "r+") as file:
        file["particles/all/position/value"].attrs["unit"] = "furlong"
    with pytest.raises(BadInput, match="furlong"):
        read_frames(tmp_path / "run.h5")


def test_ase_reads_hdf5_once_the_format_is_declared(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "ioformats", dict(formats.ioformats))
    monkeypatch.setattr(formats, "extension2format", dict(formats.extension2format))

    class Declared:
        name = "mdistill-h5md"

        def load(self):
            return ase_format.mdistill_format

    formats.ioformats.pop("mdistill-h5md", None)
    for ending in ("h5", "h5md", "hdf5"):
        formats.extension2format.pop(ending, None)
    define_external_io_format(Declared())
    frames = made()
    write_frames(tmp_path / "trajectory.h5", frames)
    last, every = read(tmp_path / "trajectory.h5"), read(tmp_path / "trajectory.h5", index="2::3")
    assert np.allclose(last.positions, frames.positions[-1]) and [atoms.info["step"] for atoms in every] == [4, 10, 16, 22]
    assert np.allclose(last.get_momenta(), ASE_MOMENTUM * frames.momenta[-1]) and last.info["time_fs"] == 44.0
    assert last.get_potential_energy() == pytest.approx(frames.energies[-1])
    assert np.allclose(last.get_stress(voigt=False), frames.stresses[-1])


def test_the_entry_point_names_the_format():
    declared = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "entry-points"
    ]
    module, _, name = declared["ase.ioformats"]["mdistill-h5md"].partition(":")
    assert getattr(import_module(module), name) is ase_format.mdistill_format


def test_amber_files_of_other_programs_need_a_topology(tmp_path):
    """They have no elements and store velocities in units of 1/20.455 ps."""
    from scipy.io import netcdf_file

    frames = made(pbc=(False, False, False))
    write_frames(tmp_path / "own.nc", frames)
    with netcdf_file(tmp_path / "own.nc", "r", mmap=False) as own, netcdf_file(tmp_path / "amber.nc", "w") as file:
        assert own.Conventions == b"AMBER" and own.variables["time"].units == b"picosecond"
        assert own.variables["time"][1] == 0.004 and "cell_lengths" not in own.variables
        for name, size in (("frame", None), ("spatial", 3), ("atom", 5)):
            file.createDimension(name, size)
        for name, scale in (("coordinates", 1.0), ("velocities", 20.455)):
            variable = file.createVariable(name, "f", ("frame", "atom", "spatial"))
            variable[:] = own.variables[name][:] / scale
            if scale != 1.0:
                variable.scale_factor = scale
    with pytest.raises(BadInput, match="names no elements"):
        read_frames(tmp_path / "amber.nc")
    back = read_frames(tmp_path / "amber.nc", numbers=frames.numbers)
    assert np.allclose(back.momenta, frames.momenta, atol=1e-6) and back.pbc == (False, False, False)
    with pytest.raises(BadInput, match="4 elements are given for 5 atoms"):
        read_frames(tmp_path / "amber.nc", numbers=frames.numbers[:4])


def test_analysis_reads_netcdf_as_it_reads_hdf5(tmp_path):
    frames = replace(made(cell=np.diag([5.1, 5.3, 5.6])), times=40.0 * np.arange(12))
    for name in ("run.nc", "run.h5"):
        write_frames(tmp_path / name, frames, source=Path("x"))
    ours, theirs = (read_trajectory(tmp_path / name).trajectory for name in ("run.h5", "run.nc"))
    for name in ("numbers", "positions", "cell", "times", "momenta"):
        np.testing.assert_allclose(getattr(theirs, name), getattr(ours, name), rtol=1e-6, atol=1e-6)


def test_types_of_lammps_are_not_taken_for_elements(tmp_path):
    write_frames(tmp_path / "run.dump", made())
    text = (tmp_path / "run.dump").read_text().replace("id type element mass", "id type")
    lines = [" ".join(w for k, w in enumerate(line.split()) if k not in (2, 3)) if line[:1].isdigit() and len(line.split()) == 10
             else line for line in text.splitlines()]  # fmt: skip
    (tmp_path / "types.dump").write_text("\n".join(lines) + "\n")
    with pytest.raises(BadInput, match="no elements"):
        read_frames(tmp_path / "types.dump")
    assert read_frames(tmp_path / "types.dump", elements=("Li", "P", "S")).numbers.tolist() == [3, 16, 3, 15, 16]


def test_times_are_given_where_a_file_has_none_and_must_not_contradict_it(tmp_path):
    frames = made()
    write_frames(tmp_path / "XDATCAR", frames)
    bare = read_frames(tmp_path / "XDATCAR")
    with pytest.raises(BadInput, match="XDATCAR: the frames have no times"):
        write_frames(tmp_path / "run.h5", bare, source=tmp_path / "XDATCAR")
    with pytest.raises(BadInput, match=r"^\S*/run\.h5: the frames have no times"):
        write_frames(tmp_path / "run.h5", bare)
    assert not (tmp_path / "run.h5").exists()
    write_frames(tmp_path / "run.h5", timed(bare, 4.0, tmp_path)[0])
    back = read_frames(tmp_path / "run.h5")
    assert np.allclose(back.times, frames.times) and np.abs(np.diff(back.positions, axis=0)).max() < 1.0
    with pytest.raises(BadInput, match="says 4 fs"):
        timed(back, 2.0, tmp_path)


def test_the_command(tmp_path, capsys):
    atoms = bulk("Cu", cubic=True)
    atoms.calc = EMT()
    atoms.get_forces()
    write(tmp_path / "cu.extxyz", [atoms] * 4)
    source, target = str(tmp_path / "cu.extxyz"), str(tmp_path / "cu.h5")
    assert cli.run(["convert", source, target, "--frame-time-fs", "10", "--every", "2"]) == 0
    assert "2 frames of 4 atoms" in capsys.readouterr().out
    assert read_frames(tmp_path / "cu.h5").times.tolist() == [0.0, 20.0]
    for words in (["convert", source, source], ["convert", source, str(tmp_path / "cu.png")], ["convert", source, target],
                  ["convert", str(tmp_path / "no.h5"), target], ["convert", source, target, "--every", "0"]):  # fmt: skip
        assert cli.run(words) == 2, words
    assert len(read_frames(tmp_path / "cu.h5")) == 2
