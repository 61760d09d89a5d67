"""export/lammps_barostat.hpp: strains of the box in the fix `mdistill/stride` against those of `mdistill simulate`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_lammps import RANKS, STYLE, needs_lammps, no_launcher, run, start
from test_lammps_stride import SEED, asked, elsewhere, in_lammps, keys_of, limited_map, motion, moving, own, structure, written
from test_lammps_thermostat import KELVIN, RELAXATION_PS, check_equal, drifting, normal, rescaling_numbers, with_bug
from torch import Generator

from mdistill.export.lammps import PLUGIN
from mdistill.graph import make_system
from mdistill.simulation import barostat, bussi, noise
from mdistill.simulation.barostat import StochasticCellRescaling, strain_interval
from mdistill.simulation.bussi import Bussi
from mdistill.simulation.initial_state import initial_state
from mdistill.types import State
from mdistill.units import BOLTZMANN, GPA

BAR, RATE_PS, PER_BAR, STRIDES = 2e4, 0.15, 3e-5, 60
WORDS = f"correct 3 0.05 bussi {KELVIN} {RELAXATION_PS} {SEED} barostat {BAR} {RATE_PS} {PER_BAR}"


def strain_numbers(every: int) -> Iterator[tuple[float, float]]:
    """The normal number of each strain, and the uniform one that accepts it."""
    for number, key in enumerate(keys_of(SEED), 2):
        if number % (2 * every) == 0:
            own_key = noise._mix(~key)[0]
            yield normal(own_key, 0), np.exp(-0.5 * (normal(own_key, 1) ** 2 + normal(own_key, 2) ** 2))


def own_strained(state: State, monkeypatch: pytest.MonkeyPatch) -> tuple[State, list[bool]]:
    """The strides of the own loop in NpT, and which strains were accepted."""
    rescalings, accepted = rescaling_numbers(3 * state.system.n_atoms - 3), []
    monkeypatch.setattr(bussi, "rescaling_noise", lambda key, stream, freedom: next(rescalings))
    every = strain_interval(4.0)
    drawn = list(zip(range(STRIDES // every), strain_numbers(every), strict=False))
    normals, uniforms = (iter([torch.tensor([[numbers[k]]], dtype=torch.float64) for _, numbers in drawn]) for k in range(2))
    monkeypatch.setattr(barostat, "struct_normals", lambda generator, system, count: next(normals))
    monkeypatch.setattr(barostat, "struct_uniforms", lambda generator, system: next(uniforms)[0])
    choose = barostat._choose
    monkeypatch.setattr(barostat, "_choose", lambda *told: accepted.append(bool(told[3])) or choose(*told))

    # torch.matrix_exp errs by 1e-10
    monkeypatch.setattr(torch, "matrix_exp", lambda strain: torch.exp(strain[0, 0, 0]) * torch.eye(3).to(strain).unsqueeze(0))

    def wrap(inner):
        return Bussi(inner=inner, temperature_K=KELVIN, relaxation_fs=1e3 * RELAXATION_PS)

    def outside(inner, evaluate):
        return StochasticCellRescaling(
            inner=inner, evaluate=evaluate, temperature_K=KELVIN, pressure_GPa=1e-4 * BAR, relaxation_ps=RATE_PS,
            compressibility_per_GPa=1e4 * PER_BAR, every=every,
        )  # fmt: skip

    wanted, _ = own(state, limited_map(), STRIDES, monkeypatch, wrap=wrap, every=3, outside=outside)
    return wanted, accepted


BUGS = {
    "energy of a strain taken for missing": ("target += trial.energy - old.energy;", "(void)trial;"),
    "virial of the wrong sign": ("excess - at.virial", "excess + at.virial"),
}
WITHOUT_ONE = ("double(atom->natoms + 1) * std::log(at.volume)", "double(atom->natoms) * std::log(at.volume)")


def gas_volumes(folder: Path, plugin: str = PLUGIN) -> np.ndarray:
    """Volumes of four atoms at rest, far apart, over (N + 1) k_B T/P, after each of 2,000 strains, in 20 blocks."""
    places = 15.0 * np.array([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]])
    system = make_system(places, [3, 16, 16, 17], 30.0 * np.eye(3), [True] * 3)
    state = initial_state(system, temperature_K=KELVIN, generator=Generator().manual_seed(0))
    (folder / "structure.data").write_text(structure(replace(state, momenta=0.0 * state.momenta)), encoding="utf-8")
    mean = 30.0**3
    bar = 5.0 * BOLTZMANN * KELVIN / mean / (1e-4 * GPA)
    words = f"bussi {KELVIN} 0.1 {SEED} barostat {bar!r} 0.2 {1.0 / bar!r}"
    head = start("structure.data", plugin=f"./{plugin}") + STYLE.replace("mdistill", "mdistill masses any", 1) + motion(words)
    script = "variable v equal vol\nfix 2 all ave/time 12 1 12 v_v file volume.txt\nrun 24000\n"
    run(folder, head + script, env=None if plugin == PLUGIN else elsewhere(folder))
    return np.loadtxt(folder / "volume.txt")[1:, 1].reshape(20, -1) / mean


def check_gas(volumes: np.ndarray) -> tuple[float, float]:
    """Mean and relative variance times N + 1 within three errors of 1; gives both errors in units of their own."""
    width = 5.0 * ((volumes - volumes.mean()) ** 2).mean(1) / volumes.mean() ** 2
    off = [(one.mean() - 1.0) / (one.std(ddof=1) / 20**0.5) for one in (volumes.mean(1), width)]
    assert abs(off[0]) < 3.0, f"mean: {volumes.mean()}, {off[0]} errors"
    assert abs(off[1]) < 3.0, f"width: {width.mean()}, {off[1]} errors"
    return off[0], off[1]


class TestInLammps:
    pytestmark = needs_lammps

    @pytest.mark.parametrize("ranks", RANKS)
    def test_strains_are_those_of_the_own_loop(self, ranks, tmp_path, monkeypatch, trust):
        """Of a skewed box, the last at the last stride, whose energy is asked for."""
        state = drifting()
        wanted, accepted = own_strained(state, monkeypatch)
        found = in_lammps(written(tmp_path, limited_map()), state, STRIDES, WORDS, ranks=ranks)
        assert accepted == [True, True, True, False, True] and wanted.time == 4.0 * STRIDES
        apart = check_equal(found, state, wanted)
        volume = abs(float(torch.linalg.det(wanted.system.cell[0])))
        assert abs(found.volume / volume - 1.0) < 1e-10 and volume < 0.7 * 10.5**3
        trust("T7", f"fix mdistill/stride, NpT, {ranks} ranks: {STRIDES} strides against the own loop", apart, "≤ 1e-10")

    @no_launcher
    def test_a_box_with_right_angles(self, tmp_path):
        state, folder = moving(skew=0.0), written(tmp_path, limited_map())
        skewed = in_lammps(folder, state, STRIDES, WORDS, ranks=2)
        data = re.sub(r".*xy xz yz\n", "", structure(state))
        (folder / "structure.data").write_text(data, encoding="utf-8")
        right = asked(folder, start("structure.data") + STYLE + motion(WORDS), f"run {STRIDES}\n", ranks=2)
        assert np.abs(right.positions - skewed.positions).max() < 1e-10
        assert abs(right.volume / skewed.volume - 1.0) < 1e-10 and right.volume < 0.9 * 10.5**3

    @no_launcher
    @pytest.mark.planted
    @pytest.mark.parametrize("bug", BUGS)
    def test_a_bug_in_strains_is_noticed(self, bug, tmp_path, monkeypatch, trust):
        state, folder = drifting(), written(tmp_path, limited_map())
        wanted, _ = own_strained(state, monkeypatch)
        found = in_lammps(folder, state, STRIDES, WORDS, ranks=2, plugin=with_bug(folder, *BUGS[bug]))
        with pytest.raises(AssertionError, match="positions"):
            check_equal(found, state, wanted)
        trust("T7", f"fix mdistill/stride, {bug}", "caught", "caught", planted=True)

    def test_the_volume_of_an_ideal_gas(self, tmp_path, trust):
        """⟨V⟩ = (N + 1) k_B T/P, var V = (N + 1) (k_B T/P)²."""
        mean, width = check_gas(gas_volumes(written(tmp_path, limited_map())))
        trust("T15", "fix mdistill/stride, ideal gas: mean volume off (σ)", mean, "< 3")
        trust("T15", "fix mdistill/stride, ideal gas: variance of the volume off (σ)", width, "< 3")

    @pytest.mark.planted
    def test_a_wrong_power_of_the_volume_is_noticed(self, tmp_path, trust):
        folder = written(tmp_path, limited_map())
        volumes = gas_volumes(folder, with_bug(folder, *WITHOUT_ONE))
        with pytest.raises(AssertionError, match="mean"):
            check_gas(volumes)
        trust("T15", "fix mdistill/stride, volume to the power N instead of N + 1", "noticed", "noticed", planted=True)
