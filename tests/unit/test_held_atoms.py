"""Atoms held in the file, its masses and velocities: kept by simulate, and told where they are not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.constraints import FixAtoms, FixBondLength, FixCartesian
from ase.io import write
from torch import Generator

from mdistill.errors import BadInput, MdistillNotice
from mdistill.export.start import read_start
from mdistill.io.structures import read_structure
from mdistill.io.trajectories import read_hdf5
from mdistill.simulation.initial_state import initial_state
from mdistill.simulation.kinetics import degrees_of_freedom, temperature
from mdistill.simulation.settings import SimulateSettings
from mdistill.simulation.simulate import simulate
from mdistill.teachers.ase import import_calculator

pytestmark = pytest.mark.filterwarnings("ignore::mdistill.errors.MdistillNotice")
EMT = "ase.calculators.emt:EMT"


def copper(*, constraint: object = None, mass: float | None = None) -> Atoms:
    atoms = bulk("Cu", cubic=True).repeat((2, 1, 1))
    if mass is not None:
        atoms.set_masses([mass] * len(atoms))
    if constraint is not None:
        atoms.set_constraint(constraint)
    return atoms


@pytest.mark.parametrize("name", ["fix.traj", "fix.extxyz", "fix.vasp"])
def test_held_atoms_have_infinite_mass_in_every_format(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, copper(constraint=FixAtoms([0, 3])))
    start = read_start(tmp_path / name, repeat=(1, 2, 1))
    assert start.masses is not None and int(torch.isinf(start.masses).sum()) == 4
    state = initial_state(start.system, temperature_K=300.0, generator=Generator().manual_seed(0), masses=start.masses)
    assert int(degrees_of_freedom(state)[0]) == 36 and not state.momenta[torch.isinf(start.masses)].any()
    assert np.isfinite(float(temperature(state)[0]))
    assert any("2 of 8 atoms are held in the file" in note for note in read_structure(tmp_path / name).unused)


@pytest.mark.parametrize("settings", [{"ensemble": "nve"}, {"thermostat": "langevin"}, {"thermostat": "bussi"}])
def test_held_atoms_stay_and_the_others_move(tmp_path: Path, settings: dict[str, str]) -> None:
    write(tmp_path / "fix.traj", copper(constraint=FixAtoms([0, 3])))
    start = read_start(tmp_path / "fix.traj")
    run = SimulateSettings(temperature_K=600.0, time_ps=0.04, equilibration_ps=0.02, every_fs=10.0, **settings)
    with pytest.warns(MdistillNotice, match="2 atoms are held fixed, as in the structure: 18 degrees of freedom"):
        done = simulate(start.system, import_calculator(EMT), run, tmp_path / "run", masses=start.masses)
    trajectory = read_hdf5(done.trajectory)
    moves = (trajectory.positions - start.system.positions).abs().amax(dim=(0, 2))
    assert not moves[[0, 3]].any() and bool((moves[[1, 2, 4, 5, 6, 7]] > 1e-3).all())
    assert done.values["temperature"].value is not None and np.isfinite(done.values["temperature"].value)
    assert trajectory.momenta is not None and not trajectory.momenta[:, [0, 3]].any()


def test_equipartition_counts_free_atoms_only() -> None:
    system = read_system_of(copper().repeat((3, 3, 3)))
    masses = torch.full((system.n_atoms,), 63.546, dtype=torch.float64)
    masses[: system.n_atoms // 2] = torch.inf
    kelvin = [
        float(temperature(initial_state(system, temperature_K=300.0, generator=Generator().manual_seed(k), masses=masses))[0])
        for k in range(40)
    ]
    assert np.mean(kelvin) == pytest.approx(300.0, abs=4.0 * np.std(kelvin) / np.sqrt(40))


def read_system_of(atoms: Atoms):  # type: ignore[no-untyped-def]
    from mdistill.io.structures import from_atoms, to_system

    return to_system(from_atoms(atoms))


def test_held_atoms_where_they_cannot_be_kept_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "fix.traj", copper(constraint=FixAtoms([0, 3])))
    start = read_start(tmp_path / "fix.traj")
    assert start.masses is not None
    for ensemble, masses in (("npt", start.masses), ("nve", torch.full_like(start.masses, torch.inf))):
        with pytest.raises(BadInput, match="atoms are held fixed"):
            simulate(start.system, import_calculator(EMT), SimulateSettings(ensemble=ensemble), tmp_path / "x", masses=masses)  # type: ignore[arg-type]


def test_masses_of_the_file_are_used(tmp_path: Path) -> None:
    """The same momenta move atoms of 200 u less far; the file's masses are those of the run."""
    write(tmp_path / "mass.extxyz", copper(mass=200.0))
    start = read_start(tmp_path / "mass.extxyz")
    run = SimulateSettings(ensemble="nve", temperature_K=300.0, time_ps=0.02, equilibration_ps=0.0, every_fs=10.0)
    heavy = simulate(start.system, import_calculator(EMT), run, tmp_path / "heavy", masses=start.masses)
    light = simulate(start.system, import_calculator(EMT), replace(run), tmp_path / "light")
    assert bool((heavy.state.masses == 200.0).all())
    spread = [float((done.state.system.positions - start.system.positions).square().mean()) for done in (heavy, light)]
    assert spread[0] < 0.5 * spread[1]
    assert any("masses of the file" in note for note in read_structure(tmp_path / "mass.extxyz").unused)


def test_what_is_not_kept_is_told(tmp_path: Path) -> None:
    atoms = copper(constraint=[FixBondLength(0, 1), FixCartesian([2], mask=(True, False, False))])
    atoms.set_initial_magnetic_moments([1.0] * len(atoms))
    atoms.set_velocities(np.full((len(atoms), 3), 0.01))
    write(tmp_path / "told.traj", atoms)
    told = " ".join(read_structure(tmp_path / "told.traj").unused)
    for words in ("FixBondLength", "one or two directions", "magnetic moments", "velocities"):
        assert words in told


def test_a_calculator_in_a_file_beside_the_structure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mycalc.py").write_text("from ase.calculators.lj import LennardJones\n\n\ndef make():\n    return LennardJones()\n")
    assert import_calculator("./mycalc.py:make").name == "./mycalc.py:make"
    with pytest.raises(BadInput) as refused:
        import_calculator("mycalc:make")
    assert refused.value.fix == "name the file: ./mycalc.py:make"
    with pytest.raises(BadInput, match="cannot be imported"):
        import_calculator("./absent.py:make")
