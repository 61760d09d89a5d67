"""export/lammps_external.py: a student in LAMMPS by fix external, against the plain evaluation."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_lammps import BAR, NET, RANKS, WHEEL, box, data_of, needs_lammps, plain

from mdistill import cli
from mdistill.export.lammps import launch
from mdistill.export.lammps_external import SCRIPT
from mdistill.nets.model_files import save_model
from systems import tiny_net

SOURCE = Path(__file__).parents[2] / "src"
ASK = """\
dump d all custom 1 dump.txt id fx fy fz
dump_modify d sort id format float %.17g
compute p all pressure NULL virial
thermo_style custom step pe c_p[*]
run 0
print "$(pe:%.17g) $(c_p[1]:%.17g) $(c_p[2]:%.17g) $(c_p[3]:%.17g) $(c_p[4]:%.17g) $(c_p[5]:%.17g) $(c_p[6]:%.17g)" file total.txt
"""


def exported(folder: Path) -> str:
    """The script of an export, cut after the student's forces are known."""
    save_model(folder / "made.mdistill", NET)
    words = ["export", "lammps", str(folder / "made.mdistill"), "--no-compile", "--out", str(folder)]
    assert cli.run(words) == 0
    script = (folder / SCRIPT).read_text(encoding="utf-8").replace("newton on\n", "newton on\nbox tilt large\n")
    lines = [line for line in script.splitlines() if not line.startswith("mass ")]  # those of the data file
    return "\n".join(lines).partition('lmp.commands_string("""\nneighbor')[0]


def ran(folder: Path, script: str, *, ranks: int = 1, fails: bool = False) -> str:
    (folder / "test.py").write_text(script, encoding="utf-8")
    start = shlex.split(launch(WHEEL, ranks))[:-1] if ranks > 1 else []
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(SOURCE), os.environ.get("PYTHONPATH", "")])}
    command = [*start, sys.executable, "test.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300, env=env)
    assert (done.returncode != 0) == fails, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout + done.stderr


class TestInLammps:
    pytestmark = needs_lammps

    @pytest.mark.parametrize("ranks", RANKS)
    @pytest.mark.parametrize("shape", [{}, {"atoms": 3, "length": 3.7, "seed": 2}])
    def test_answers_are_those_of_the_plain_student(self, shape, ranks, tmp_path, trust):
        system = box(**shape)
        (tmp_path / "structure.data").write_text(data_of(system), encoding="utf-8")
        ran(tmp_path, exported(tmp_path) + f'lmp.commands_string("""{ASK}""")\n', ranks=ranks)
        total, wanted = np.loadtxt(tmp_path / "total.txt"), plain(system)
        forces = np.loadtxt(tmp_path / "dump.txt", skiprows=9, ndmin=2)[:, 1:]
        stress = wanted.stress[0].numpy().ravel()[[0, 4, 8, 1, 2, 5]]
        pairs = {
            "energy": (total[0], wanted.energy.numpy()),
            "stress": (-total[1:] / BAR, stress),
            "forces": (forces, wanted.forces.numpy()),
        }
        worst = {name: float(np.abs(a - b).max() / np.abs(b).max()) for name, (a, b) in pairs.items()}
        assert max(worst.values()) < 1e-10, worst
        trust(
            "T7", f"LAMMPS without a compiler, {ranks} ranks, {shape or 'box'}: largest deviation", max(worst.values()), "≤ 1e-10"
        )

    @pytest.mark.parametrize("ranks", RANKS[1:])
    def test_energy_is_conserved(self, ranks, tmp_path):
        """Also where atoms come to other ranks and lists are made anew."""
        (tmp_path / "structure.data").write_text(data_of(box(8)), encoding="utf-8")
        script, spread = exported(tmp_path), []
        for step in (0.0004, 0.0002):
            motion = f"""\
neighbor 0.3 bin
min_modify dmax 0.05
minimize 0 0.5 100 200
reset_timestep 0
velocity all create 300 11 mom yes loop geom
timestep {step}
fix 1 all nve
thermo_style custom step etotal
variable e equal etotal
fix 4 all print 1 "${{e}}" file energies.txt screen no title "e"
run {round(0.02 / step)}
"""
            ran(
                tmp_path,
                script.replace('precision="float64")', 'precision="float64", skin=0.3)')
                + f'lmp.commands_string("""{motion}""")\n',
                ranks=ranks,
            )
            spread.append(float(np.loadtxt(tmp_path / "energies.txt", skiprows=1).std()))
        assert 3.0 < spread[0] / spread[1] < 5.5, spread

    @pytest.mark.parametrize("ranks", RANKS)
    def test_a_step_that_fails_ends_the_run(self, ranks, tmp_path):
        (tmp_path / "structure.data").write_text(data_of(box()), encoding="utf-8")
        broken = "import mdistill.export.lammps_external as e\ndef broken(*_):\n    raise RuntimeError('no answer')\n"
        broken += "e.RankPotential.evaluate = broken\n" + 'lmp.command("run 5")\nprint("went on")\n'
        said = ran(tmp_path, exported(tmp_path) + broken, ranks=ranks, fails=True)
        assert "no answer" in said and "step 0 failed; the run ends" in said and "went on" not in said

    def test_bad_input_is_named(self, tmp_path):
        (tmp_path / "structure.data").write_text(data_of(box()), encoding="utf-8")
        script = exported(tmp_path)
        for old, new, words in (
            ("'Cl'", "'Na'", "Na, unknown to"), ("['Cl', ", "[", "3 for 4 types"), ("units metal", "units real", "allowed: metal"),
            ("attach(", 'lmp.commands_list(["group g id 1", "delete_atoms group g compress no"])\nattach(', "allowed: 1 to N"),
        ):  # fmt: skip
            assert old in script and words in ran(tmp_path, script.replace(old, new, 1), fails=True), words

    def test_flags_that_need_a_plugin_are_refused(self, tmp_path, capsys):
        save_model(tmp_path / "made.mdistill", tiny_net())
        for words in (["metatomic"], ["lammps", "--headers", str(tmp_path)]):
            line = [
                "export",
                words[0],
                str(tmp_path / "made.mdistill"),
                "--no-compile",
                *words[1:],
                "--out",
                str(tmp_path / "out"),
            ]
            assert cli.run(line) == 2 and "leave --no-compile out" in capsys.readouterr().err
