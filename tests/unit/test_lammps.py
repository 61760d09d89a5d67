"""export/lammps.py: the pair style `mdistill` in LAMMPS against the plain evaluation of the student, on one rank and two."""

from __future__ import annotations

import math
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mdistill import cli
from mdistill.derivatives import Conservative
from mdistill.errors import BadInput, MdistillNotice, MissingPackage
from mdistill.export import lammps as export
from mdistill.graph import build_graph, make_system
from mdistill.kernels.build import compiler
from mdistill.nets.model_files import save_model
from mdistill.types import Prediction, System
from systems import random_box, tiny_net, tiny_painn

BAR = 1.6021765e6
"""LAMMPS's bar in an eV/Å³."""
ORDER = ("Cl", "Li", "P", "S")
NUMBERS = (17, 3, 15, 16)
NET = tiny_net()


def wheel() -> export.Lammps | None:
    try:
        return export.lammps_of_pip()
    except MissingPackage:
        return None


WHEEL = wheel()
missing = WHEEL is None or compiler() is None
needs_lammps = [pytest.mark.slow, pytest.mark.skipif(missing, reason='needs pip install "lammps[mpi]" and a compiler')]
no_launcher = pytest.mark.skipif(WHEEL is None or not WHEEL.programs, reason="needs the mpiexec of the MPI that lmp is linked to")
RANKS = [1, pytest.param(2, marks=no_launcher)]
GRID = re.compile(r"(\d+) by (\d+) by (\d+) MPI processor grid")


def test_the_text_of_a_student_holds_its_numbers(tmp_path):
    weights, elements, name = export.student_weights(Conservative(NET))
    text = export.model_text(weights, elements, name)
    head, _, body = text.partition("\nweights ")
    count, *numbers = body.split()
    assert np.array_equal(np.array(numbers, dtype=np.float64), weights.flat()) and int(count) == len(numbers)
    assert (
        "elements Li P S Cl" in head
        and "masses 6.94 30.9738 32.06 35.45" in head
        and "kernel 5-3-4-8-double" in head
        and f"cutoff {NET.cutoff}" in head
    )


def test_bad_input_is_named(tmp_path, capsys):
    with pytest.raises(BadInput, match=r"painn.*no compiled kernel"):
        export.student_weights(Conservative(tiny_painn()))
    save_model(tmp_path / "student.mdistill", NET)
    model = str(tmp_path / "student.mdistill")
    assert cli.run(["export", "lammps", model, "--headers", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "version.h" in capsys.readouterr().err
    (tmp_path / "pair.h").write_text("", encoding="utf-8")
    (tmp_path / "version.h").write_text('#define LAMMPS_VERSION "29 Aug 2024"\n', encoding="utf-8")
    assert export.lammps_of_source([tmp_path]).version == 20240829
    with pytest.raises(BadInput, match="mdistillplugin"):
        export.load_plugin(None, tmp_path)


def test_the_entry_point_is_a_function_that_never_fails(monkeypatch):
    toml = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert '[project.entry-points."lammps.plugins"]\nmdistill = "mdistill.export.lammps:plugin_folder"' in toml

    def absent() -> None:
        raise MissingPackage("lammps", "pip", "test")

    monkeypatch.setattr(export, "lammps_of_pip", absent)
    assert not Path(export.plugin_folder()).exists()
    code = "import sys, mdistill.export.lammps as one; one.plugin_folder(); print('torch' in sys.modules, 'ase' in sys.modules)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"], "every import of lammps would take seconds"


def test_programs_that_the_shell_would_not_find_are_named_with_their_path(tmp_path, monkeypatch):
    own, other = tmp_path / "own", tmp_path / "other one"
    for folder in (own, other):
        folder.mkdir()
        for name in ("mpiexec", "lmp"):
            (folder / name).write_text("#!/bin/sh\n", encoding="utf-8")
            (folder / name).chmod(0o755)
    lammps = export.Lammps(version=20250722, name="test", includes=(), programs=(own / "mpiexec", own / "lmp"))
    monkeypatch.setenv("PATH", f"{own}{os.pathsep}{other}")
    assert export.launch(lammps) == "mpiexec -n 2 lmp"
    monkeypatch.setenv("PATH", f"{other}{os.pathsep}{own}")
    assert export.launch(lammps, 4) == f"{own}/mpiexec -n 4 {own}/lmp"
    (other / "lmp").unlink()
    assert export.launch(lammps) == f"{own}/mpiexec -n 2 lmp"
    monkeypatch.setenv("PATH", str(other))
    assert export.launch(replace(lammps, programs=(other / "mpiexec", own / "lmp"))) == f"mpiexec -n 2 {own}/lmp"
    assert export.launch(replace(lammps, programs=())) == "mpiexec -n 2 lmp"


def box(seed: int = 1, *, atoms: int = 40, length: float = 9.5, skew: float = 0.25) -> System:
    """A random box in LAMMPS's orientation."""
    from ase.cell import Cell

    made = random_box(seed, atoms=atoms, length=length, skew=skew)
    cell, turn = Cell(made.cell[0].numpy()).standard_form()
    if np.linalg.det(turn) < 0 or (np.diag(cell) < 0).any():
        return box(seed + 100, atoms=atoms, length=length, skew=skew)
    return make_system(made.positions.numpy() @ turn.T, made.numbers.numpy(), cell.array, [True] * 3)


def plain(system: System, potential: Conservative | None = None) -> Prediction:
    potential = potential or Conservative(NET)
    return potential(build_graph(system, potential.cutoff))


@dataclass(frozen=True)
class Answer:
    """What LAMMPS gave: energy (eV), forces, virial stress (eV/Å³, Voigt), and by atom: energy, two kinds of virial (eV)."""

    energy: float
    forces: np.ndarray
    stress: np.ndarray
    atomic: np.ndarray
    halves: np.ndarray
    centroid: np.ndarray


def data_of(system: System) -> str:
    cell = system.cell[0].numpy()
    head = f"test\n\n{system.n_atoms} atoms\n4 atom types\n" + "".join(
        f"0 {cell[a, a]:.17g} {'xyz'[a]}lo {'xyz'[a]}hi\n" for a in range(3)
    )
    tilt = f"{cell[1, 0]:.17g} {cell[2, 0]:.17g} {cell[2, 1]:.17g} xy xz yz\n"
    masses = "Masses\n\n1 35.45\n2 6.94\n3 30.974\n4 32.06\n"
    rows = zip(system.numbers.tolist(), system.positions.tolist(), strict=True)
    lines = [f"{k} {NUMBERS.index(z) + 1} " + " ".join(f"{x:.17g}" for x in r) for k, (z, r) in enumerate(rows, 1)]
    return head + tilt + f"\n{masses}\nAtoms # atomic\n\n" + "\n".join(lines) + "\n"


STYLE = f"pair_style mdistill\npair_coeff * * student.lammps {' '.join(ORDER)}\n"
ASK = """\
neighbor 0.5 bin
compute e all pe/atom
compute s all stress/atom NULL virial
compute c all centroid/stress/atom NULL virial
compute p all pressure NULL virial
dump d all custom 1 dump.txt id x y z fx fy fz c_e c_s[*] c_c[*]
dump_modify d sort id format float %.17g
thermo_style custom step pe c_p[*]
run 0
print "$(pe:%.17g) $(c_p[1]:%.17g) $(c_p[2]:%.17g) $(c_p[3]:%.17g) $(c_p[4]:%.17g) $(c_p[5]:%.17g) $(c_p[6]:%.17g)" file total.txt
"""


def start(system: str, *, plugin: str = "./mdistillplugin.so", units: str = "metal", newton: str = "on") -> str:
    load = f"plugin load {plugin}\n" if plugin else ""
    return f"{load}units {units}\nnewton {newton}\natom_style atomic\nbox tilt large\nread_data {system}\n"


def run(folder: Path, script: str, *, ranks: int = 1, fails: bool = False, env: dict[str, str] | None = None) -> str:
    """The screen of LAMMPS on a script."""
    (folder / "in.test").write_text(script, encoding="utf-8")
    start = shlex.split(export.launch(WHEEL, ranks)) if ranks > 1 else [str(Path(sys.executable).parent / "lmp")]
    command = [*start, "-in", "in.test", "-log", "none"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=200, env=env)
    assert (done.returncode != 0) == fails, done.stdout[-3000:] + done.stderr[-2000:]
    grids = {math.prod(map(int, grid)) for grid in GRID.findall(done.stdout)}
    assert grids == {ranks} or (fails and not grids), f"one run on {ranks} ranks prints grids of that many, not {grids}"
    return done.stdout + done.stderr


def ask(folder: Path, system: System, *, ranks: int = 1, style: str = STYLE, before: str = "") -> Answer:
    (folder / "structure.data").write_text(data_of(system), encoding="utf-8")
    run(folder, before + start("structure.data") + style + ASK, ranks=ranks)
    total = np.loadtxt(folder / "total.txt")
    rows = np.loadtxt(folder / "dump.txt", skiprows=9, ndmin=2)
    assert len(rows) == system.n_atoms
    stress = -total[1:] / BAR
    return Answer(total[0], rows[:, 4:7], stress, rows[:, 7], rows[:, 8:14] / BAR, rows[:, 14:23] / BAR)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """An export in float64."""
    home = tmp_path_factory.mktemp("lammps")
    save_model(home / "student.mdistill", NET)
    assert cli.run(["export", "lammps", str(home / "student.mdistill"), "--out", str(home)]) == 0
    return home


def deviation(answer: Answer, wanted: Prediction, volume: float) -> dict[str, float]:
    """Largest relative deviations of an answer, from the largest number of its kind, and of the sums of what it gives by atom."""
    stress = wanted.stress[0].numpy().ravel()[[0, 4, 8, 1, 2, 5]]
    forces, virial = wanted.forces.numpy(), stress * volume
    nine = answer.centroid.sum(0)
    pairs = {
        "energy": (answer.energy, float(wanted.energy[0])),
        "forces": (answer.forces, forces),
        "stress": (answer.stress, stress),
        "atomic energies": (answer.atomic, wanted.atomic.numpy()),
        "sum of virials": (answer.halves.sum(0), virial),
        "sum of centroid virials": (np.concatenate([nine[:6], nine[6:]]), np.concatenate([virial, virial[3:]])),
    }
    return {name: float(np.abs(a - b).max() / np.abs(b).max()) for name, (a, b) in pairs.items()}


class TestInLammps:
    pytestmark = needs_lammps

    @pytest.mark.parametrize("ranks", RANKS)
    @pytest.mark.parametrize("shape", [{}, {"skew": 0.6, "seed": 3}, {"skew": 0.0}, {"atoms": 3, "length": 3.7, "seed": 2}])
    def test_answers_are_those_of_the_plain_student(self, folder, shape, ranks, trust):
        system = box(**shape)
        found = deviation(ask(folder, system, ranks=ranks), plain(system), float(system.cell[0].det()))
        for name, value in found.items():
            assert value < 1e-10, f"{name}: {value}"
        trust("T7", f"LAMMPS, {ranks} ranks, {shape or 'box'}: largest deviation", max(found.values()), "≤ 1e-10")

    def test_float32(self, tmp_path, trust):
        save_model(tmp_path / "student.mdistill", NET)
        words = ["export", "lammps", str(tmp_path / "student.mdistill"), "--precision", "float32", "--out", str(tmp_path)]
        assert cli.run(words) == 0
        system = box()
        found = deviation(ask(tmp_path, system), plain(system), float(system.cell[0].det()))
        assert 1e-9 < max(found.values()) < 1e-4
        trust("T7", "LAMMPS, float32: largest deviation", max(found.values()), "≤ 1e-4")

    @no_launcher
    def test_ranks_without_atoms(self, folder):
        close = box(5, atoms=12)
        system = replace(close, cell=torch.diag(torch.tensor([60.0, 30.0, 30.0], dtype=torch.float64)).unsqueeze(0))
        two = ask(folder, system, ranks=2, before="processors 2 1 1\n")
        found = deviation(two, plain(system), float(system.cell[0].det()))
        assert max(found.values()) < 1e-10

    def test_centroid_virial_is_that_of_the_heat_flux(self, folder):
        """Atom j has Σ_i d ⊗ ∂E_i/∂d, d = r_j − r_i, by automatic differentiation; LAMMPS gives minus the virial."""
        from mdistill.graph import edge_vectors

        system = box(7)
        graph = build_graph(system, NET.cutoff)
        vectors = edge_vectors(graph).requires_grad_()
        (gradient,) = torch.autograd.grad(NET(graph, vectors).sum(), vectors)
        parts = (vectors.detach().unsqueeze(2) * gradient.unsqueeze(1)).reshape(-1, 9)
        wanted = torch.zeros(system.n_atoms, 9, dtype=torch.float64).index_add(0, graph.sender, parts).numpy()
        found = ask(folder, system).centroid
        assert np.abs(found - wanted[:, [0, 4, 8, 1, 2, 5, 3, 6, 7]]).max() < 1e-10 * np.abs(wanted).max()

    def test_overlay_adds_and_null_is_not_seen(self, folder):
        system = box(4)
        pairs, coefficients = "pair_coeff * * lj/cut 0.02 2.0\n", STYLE.splitlines()[1].replace("* *", "* * mdistill")
        student = ask(folder, system)
        alone = ask(folder, system, style=f"pair_style hybrid/overlay lj/cut 4.0 zero 4.9\n{pairs}pair_coeff * * zero\n")
        both = ask(folder, system, style=f"pair_style hybrid/overlay mdistill lj/cut 4.0\n{coefficients}\n{pairs}")
        assert np.abs(both.forces - student.forces - alone.forces).max() < 1e-10 and np.abs(alone.forces).max() > 1e-3
        assert abs(both.energy - student.energy - alone.energy) < 1e-9
        seen = torch.tensor([z != 15 for z in system.numbers.tolist()])
        part = make_system(system.positions[seen].numpy(), system.numbers[seen].numpy(), system.cell[0].numpy(), [True] * 3)
        style = (
            "pair_style hybrid/overlay mdistill zero 4.9\npair_coeff * * zero\n" + coefficients.replace(" P ", " NULL ") + "\n"
        )
        without = ask(folder, system, style=style)
        assert np.abs(without.forces[seen.numpy()] - plain(part).forces.numpy()).max() < 1e-10
        assert np.abs(without.forces[~seen.numpy()]).max() == 0.0

    @pytest.mark.parametrize("ranks", RANKS)
    def test_energy_is_conserved_and_ranks_agree(self, folder, ranks, trust):
        (folder / "nve.data").write_text(data_of(box(8)), encoding="utf-8")
        spread = []
        for step in (0.0004, 0.0002):
            motion = f"""\
neighbor 0.3 bin
neigh_modify every 1 delay 0 check yes
min_modify dmax 0.05
minimize 0 0.5 300 600
reset_timestep 0
velocity all create 300 11 mom yes loop geom
timestep {step}
fix 1 all nve
fix 2 all balance 50 1.0 shift xyz 5 1.0
thermo_style custom step etotal
variable e equal etotal
fix 4 all print 1 "${{e}}" file energies.txt screen no title "e"
run {round(0.08 / step)}
"""
            run(folder, start("nve.data") + STYLE + motion, ranks=ranks)
            energies = np.loadtxt(folder / "energies.txt", skiprows=1)
            spread.append(float(energies.std()))
        assert 3.0 < spread[0] / spread[1] < 5.5, spread
        trust(
            "T24",
            f"LAMMPS NVE, {ranks} ranks: spread of the energy at twice the time step",
            spread[0] / spread[1],
            "4 (3 to 5.5)",
        )

    def test_another_version_is_refused(self, folder, tmp_path):
        weights, _, _ = export.student_weights(Conservative(NET))
        other = replace(export.lammps_of_pip(), version=20240829, name="another")
        with pytest.warns(MdistillNotice, match="built for LAMMPS 20240829"):
            export.build(other, weights)
        (tmp_path / "structure.data").write_text(data_of(box()), encoding="utf-8")
        said = run(tmp_path, start("structure.data", plugin=str(other.folder() / export.PLUGIN)), fails=True)
        assert "built for LAMMPS 20240829, and this is 20250722" in said and "mdistill export lammps" in said

    def test_what_lammps_is_told_of_bad_input(self, folder):
        (folder / "structure.data").write_text(data_of(box()), encoding="utf-8")
        text = (folder / "student.lammps").read_text(encoding="utf-8")
        (folder / "damaged.lammps").write_text(text.replace("0.5", "0.6", 1), encoding="utf-8")
        (folder / "other.lammps").write_text("hello\n", encoding="utf-8")
        (folder / "larger.lammps").write_text(
            export.model_text(*export.student_weights(Conservative(tiny_net(channels=7)))), encoding="utf-8"
        )
        for script, words in {
            start("structure.data") + STYLE.replace("student.", "damaged."): "damaged (sha256)",
            start("structure.data") + STYLE.replace("student.", "other."): "is not a student",
            start("structure.data") + STYLE.replace("student.", "absent."): "cannot be read",
            start("structure.data") + STYLE.replace("student.", "larger."): "make it on this machine: mdistill export lammps",
            start("structure.data") + STYLE.replace(" Li ", " Na "): "does not know Na; it knows Li P S Cl",
            start("structure.data", units="real") + STYLE + "run 0\n": "needs units metal",
            start("structure.data", newton="off") + STYLE + "run 0\n": "needs newton on",
        }.items():
            assert words in run(folder, script, fails=True), words

    def test_elements_in_another_order_than_the_types_are_refused(self, folder):
        (folder / "structure.data").write_text(data_of(box()), encoding="utf-8")
        swapped = STYLE.replace("Cl Li P S", "Cl Li S P") + "run 0\n"
        deuterium = STYLE + "mass 2 6.015\nrun 0\n"
        said = run(folder, start("structure.data") + swapped, fails=True)
        assert "type 3 has mass 30.974 and pair_coeff names it S, whose mass is 32.06; that is the mass of P" in said
        assert "pair_style mdistill masses any" in said
        assert "type 2 has mass 6.015" in run(folder, start("structure.data") + deuterium, fails=True)
        for script in (swapped, deuterium):
            run(folder, start("structure.data") + script.replace("style mdistill", "style mdistill masses any"))
        run(folder, start("structure.data") + STYLE + "mass 2 7.016\nmass 1 35\nrun 0\n")
        assert "or: masses any" in run(folder, start("structure.data") + STYLE.replace("mdistill\n", "mdistill 3\n"), fails=True)

    @no_launcher
    def test_masses_by_atom_are_checked_on_two_ranks(self, folder):
        (folder / "structure.data").write_text(data_of(box()), encoding="utf-8")
        by_atom = STYLE + "fix m all property/atom rmass\nset type 2 mass 12.0\nset type 1 mass 35.45\nrun 0\n"
        assert "has mass" in run(folder, start("structure.data") + by_atom, ranks=2, fails=True)

    @no_launcher
    @pytest.mark.planted
    def test_a_launcher_of_another_mpi_is_noticed(self, folder, tmp_path, monkeypatch):
        """It starts two runs of one rank each."""
        other = tmp_path / "mpiexec"
        other.write_text('#!/bin/sh\nshift 2\n"$@" && "$@"\n', encoding="utf-8")
        other.chmod(0o755)
        monkeypatch.setattr(export, "launch", lambda lammps, ranks: f"{other} -n {ranks} {lammps.programs[1]}")
        with pytest.raises(AssertionError, match="one run on 2 ranks"):
            ask(folder, box(), ranks=2)

    def test_students_of_two_folders_in_one_process(self, folder, tmp_path):
        """Other weights, and a kernel of another float type."""
        other = tiny_net(1)
        save_model(tmp_path / "student.mdistill", other)
        words = ["export", "lammps", str(tmp_path / "student.mdistill"), "--precision", "float32", "--out", str(tmp_path)]
        assert cli.run(words) == 0
        system = box()
        (tmp_path / "structure.data").write_text(data_of(system), encoding="utf-8")
        first, second = (float(plain(system, Conservative(net)).energy[0]) for net in (NET, other))
        script = [
            start("structure.data", plugin=str(home / export.PLUGIN)) + STYLE.replace("student.", f"{home}/student.") + "run 0\n"
            + 'print "E $(pe:%.17g)"\nclear\n'
            for home in (folder, tmp_path)
        ]  # fmt: skip
        said = run(tmp_path, "".join(script))
        found = [float(line.split()[1]) for line in said.splitlines() if line.startswith("E ")]
        assert abs(found[0] - first) < 1e-9 and abs(found[1] - second) < 1e-6 * abs(second) and abs(first - second) > 0.1

    def test_lmp_and_python_find_the_plugin(self, folder, tmp_path):
        """By the entry point of an installed package; by the helper."""
        (folder / "structure.data").write_text(data_of(box()), encoding="utf-8")
        info = tmp_path / "mdistill_plugin-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mdistill-plugin\nVersion: 1\n", encoding="utf-8")
        (info / "entry_points.txt").write_text(
            "[lammps.plugins]\nmdistill = mdistill.export.lammps:plugin_folder\n", encoding="utf-8"
        )
        source = str(Path(__file__).parents[2] / "src")
        env = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), source])}
        run(folder, start("structure.data", plugin="") + STYLE + "run 0\n", env=env)
        code = f"""
from mpi4py import MPI
import lammps
from mdistill.export.lammps import load_plugin
lmp = lammps.lammps(cmdargs=["-log", "none", "-screen", "none"])
load_plugin(lmp, {str(folder)!r})
lmp.commands_string({(start("structure.data", plugin="") + STYLE + "run 0")!r})
print(repr(lmp.get_thermo("pe")))
"""
        env = os.environ | {"PYTHONPATH": source}
        done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False, env=env)
        assert done.returncode == 0, done.stderr
        assert abs(float(done.stdout) - float(plain(box()).energy[0])) < 1e-8
