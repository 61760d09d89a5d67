"""Whether the barostat samples the isothermal–isobaric distribution: ideal gas, two pressures, pressure average, shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
import torch
from potentials import CopiesOfLennardJones, IdealGas, fcc
from scipy import stats
from test_thermostats import slope_of
from torch import Generator, Tensor

from mdistill.errors import BadInput
from mdistill.graph import volumes
from mdistill.simulation import barostat
from mdistill.simulation.barostat import ANISOTROPIC, ISOTROPIC, StochasticCellRescaling
from mdistill.simulation.evaluator import Evaluator
from mdistill.simulation.initial_state import initial_state
from mdistill.simulation.kinetics import pressure_tensor
from mdistill.simulation.langevin import Baoab
from mdistill.simulation.rollout import Calling, rollout
from mdistill.simulation.verlet import VelocityVerlet
from mdistill.types import State
from mdistill.units import BOLTZMANN, GPA

pytestmark = pytest.mark.filterwarnings("ignore:Using heuristic P_mass:UserWarning")  # ASE's own choice of a piston's mass
ATOMS, KELVIN, PRESSURE = 8, 300.0, 0.1
STRAINS = {"isotropic": ISOTROPIC, "anisotropic": ANISOTROPIC}


def gas_volumes(strains: Tensor, *, copies: int = 300, relaxation_ps: float = 0.05, samples: int = 40) -> np.ndarray:
    """Volumes of an ideal gas of eight atoms in units of kT/P, with large strains (a quarter of the relaxation time)."""
    crystal = fcc(1, copies=2 * copies)
    size = (9.0 * BOLTZMANN * KELVIN / (PRESSURE * GPA)) ** (1.0 / 3.0)
    system = replace(
        crystal,
        cell=size * torch.eye(3, dtype=torch.float64).repeat(copies, 1, 1),
        pbc=torch.ones((copies, 3), dtype=torch.bool),
        owner=torch.arange(copies).repeat_interleave(ATOMS),
    )
    state = initial_state(system, temperature_K=KELVIN, generator=Generator().manual_seed(0))
    evaluate = Evaluator(IdealGas())
    propagator = StochasticCellRescaling(
        inner=VelocityVerlet(evaluate=evaluate, time_step=5.0),
        evaluate=evaluate,
        temperature_K=KELVIN,
        pressure_GPa=PRESSURE,
        relaxation_ps=relaxation_ps,
        compressibility_per_GPa=1.0 / PRESSURE,
        strains=strains,
        every=2,
    )
    found: list[np.ndarray] = []
    observer = Calling(lambda _, s: found.append(volumes(s.system).numpy()), every=40)
    rollout(state, propagator, steps=40 * (samples + 2), generator=Generator().manual_seed(1), observers=[observer])
    return np.concatenate(found[2:]) * PRESSURE * GPA / (BOLTZMANN * KELVIN)


def check_gas(volume: np.ndarray) -> tuple[float, float, float]:
    """p(V) ∝ V^N exp(−PV/kT), a gamma distribution of shape N + 1: mean and variance within 3 σ, KS p > 0.01."""
    law = stats.gamma(ATOMS + 1)
    mean = float((volume.mean() - law.mean()) / (law.std() / np.sqrt(len(volume))))
    spread = np.sqrt((stats.moment(volume, 4) - volume.var() ** 2) / len(volume))
    variance = float((volume.var() - law.var()) / spread)
    fit = float(stats.kstest(volume, law.cdf).pvalue)
    assert abs(mean) < 3.0 and abs(variance) < 3.0 and fit > 0.01, (mean, variance, fit)
    return mean, variance, fit


@pytest.mark.parametrize("name", list(STRAINS))
def test_ideal_gas_volume(name: str, trust: Callable[..., None]) -> None:
    mean, variance, fit = check_gas(gas_volumes(STRAINS[name]))
    trust("T15", f"{name}: ideal gas ⟨V⟩ against (N+1)kT/P: off (σ)", mean, "< 3")
    trust("T15", f"{name}: ideal gas var V against (N+1)(kT/P)²: off (σ)", variance, "< 3")
    trust("T15", f"{name}: ideal gas p(V): KS p", fit, "> 0.01")


@pytest.mark.planted
@pytest.mark.parametrize("name", list(STRAINS))
def test_gas_check_sees_one_particle_too_few(name: str, monkeypatch: pytest.MonkeyPatch, trust: Callable[..., None]) -> None:
    whole = barostat.atom_counts
    monkeypatch.setattr(barostat, "atom_counts", lambda system: whole(system) - 1)
    with pytest.raises(AssertionError):
        check_gas(gas_volumes(STRAINS[name]))
    trust("T15", f"{name}: planted N kT/P instead of (N+1) kT/P", "noticed", "noticed", planted=True)


@pytest.mark.planted
def test_gas_check_sees_half_the_noise(monkeypatch: pytest.MonkeyPatch, trust: Callable[..., None]) -> None:
    """Half the noise, and no refusals that would make up for it."""
    whole = barostat.struct_normals
    monkeypatch.setattr(barostat, "struct_normals", lambda *arguments: 0.5 * whole(*arguments))
    monkeypatch.setattr(barostat, "struct_uniforms", lambda generator, system: torch.zeros(system.n_structs, dtype=torch.float64))
    with pytest.raises(AssertionError):
        check_gas(gas_volumes(ISOTROPIC, relaxation_ps=0.2))
    trust("T15", "planted half noise in the barostat", "noticed", "noticed", planted=True)


LOW, HIGH, COOL, STRUCTS = 0.2, 0.25, 30.0, 24


@dataclass
class SolidRun:
    """[sample, struct] volumes (Å³), V (Π − P)/kT, cells; and the share of strains that were accepted."""

    volume: np.ndarray
    excess: np.ndarray
    cell: np.ndarray
    accepted: float


@cache
def solid(name: str, pressure_GPa: float, *, stress_sign: float = 1.0, samples: int = 18) -> SolidRun:
    """A Lennard-Jones solid at 30 K."""
    evaluate = Evaluator(CopiesOfLennardJones(reach=5.0, stress_sign=stress_sign))
    inner = Baoab(evaluate=evaluate, time_step=8.0, temperature_K=COOL, friction_per_ps=5.0)
    propagator = StochasticCellRescaling(
        inner=inner, evaluate=evaluate, temperature_K=COOL, pressure_GPa=pressure_GPa, relaxation_ps=0.3,
        compressibility_per_GPa=0.5, strains=STRAINS[name], every=4,
    )  # fmt: skip
    volume, excess, cells, moved = [], [], [], []

    def look(step: int, state: State) -> None:
        moved.append((state.system.cell != before[0]).any(2).any(1).numpy())
        before[0] = state.system.cell
        if step % 80 == 0 and step > 160:
            tensor = pressure_tensor(state)
            assert tensor is not None
            size = volumes(state.system)
            volume.append(size.numpy())
            scaled = size.reshape(-1, 1, 1) * (tensor - pressure_GPa * GPA * torch.eye(3)) / (BOLTZMANN * COOL)
            excess.append(scaled.numpy())
            cells.append(state.system.cell.numpy())

    state = initial_state(fcc(2, 5.4, copies=STRUCTS), temperature_K=2.0 * COOL, generator=Generator().manual_seed(0))
    generator = Generator().manual_seed(round(1000 * pressure_GPa))
    state = rollout(state, inner, steps=100, generator=generator)
    before = [state.system.cell]
    state = replace(state, time=0.0)
    rollout(state, propagator, steps=80 * (samples + 2), generator=generator, observers=[Calling(look, every=4)])
    return SolidRun(np.stack(volume), np.stack(excess), np.stack(cells), float(np.mean(moved)))


def check_two_pressures(low: SolidRun, high: SolidRun) -> float:
    """ln p(V; high)/p(V; low) falls with (P_high − P_low)/kT; gives the deviation (σ)."""
    slope, error = slope_of(low.volume.ravel(), high.volume.ravel())
    off = (slope + (HIGH - LOW) * GPA / (BOLTZMANN * COOL)) / error
    assert abs(off) < 3.0, off
    return off


@pytest.mark.slow
@pytest.mark.parametrize("name", list(STRAINS))
def test_two_pressures_differ_as_they_must(name: str, trust: Callable[..., None]) -> None:
    off = check_two_pressures(solid(name, LOW), solid(name, HIGH))
    trust("T15", f"{name}: Lennard-Jones solid, slope of ln p(V, 250 MPa)/p(V, 200 MPa): off (σ)", off, "< 3")


@pytest.mark.slow
@pytest.mark.planted
def test_two_pressure_check_sees_narrow_volumes(trust: Callable[..., None]) -> None:
    runs = [replace(run, volume=run.volume.mean() + 0.7 * (run.volume - run.volume.mean()))
            for run in (solid("isotropic", LOW), solid("isotropic", HIGH))]  # fmt: skip
    with pytest.raises(AssertionError):
        check_two_pressures(*runs)
    trust("T15", "planted volumes with 0.7 of their width", "noticed", "noticed", planted=True)


def check_pressure(run: SolidRun) -> float:
    """⟨V (P_internal − P)⟩ = −kT, exact for p(V); struct means are independent. Gives the deviation (σ)."""
    draws = run.excess.diagonal(axis1=2, axis2=3).mean((0, 2))
    off = float((draws.mean() + 1.0) / (draws.std(ddof=1) / np.sqrt(len(draws))))
    assert abs(off) < 3.0, off
    return off


@pytest.mark.parametrize("name", ["isotropic", *(pytest.param(n, marks=pytest.mark.slow) for n in STRAINS if n != "isotropic")])
@pytest.mark.parametrize("pressure_GPa", [LOW, pytest.param(HIGH, marks=pytest.mark.slow)])
def test_average_pressure_is_the_target(name: str, pressure_GPa: float, trust: Callable[..., None]) -> None:
    run = solid(name, pressure_GPa)
    off = check_pressure(run)
    trust("T15", f"{name}: Lennard-Jones solid at {pressure_GPa} GPa: mean pressure off (σ)", off, "< 3")
    assert run.accepted > 0.9
    trust("T15", f"{name}: share of strains accepted at {pressure_GPa} GPa", run.accepted, "> 0.9")


@pytest.mark.slow
def test_anisotropic_shear_stress_averages_to_zero() -> None:
    excess = solid("anisotropic", HIGH).excess.mean(0)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        draws = excess[:, a, b]
        assert abs(draws.mean()) < 3.5 * draws.std(ddof=1) / np.sqrt(len(draws))


@pytest.mark.planted
def test_pressure_check_sees_the_wrong_sign_of_stress(trust: Callable[..., None]) -> None:
    """Refusals keep the volumes right, so the pressure helper and the acceptance are what shows it."""
    run = solid("isotropic", HIGH, stress_sign=-1.0, samples=6)
    with pytest.raises(AssertionError):
        check_pressure(run)
    with pytest.raises(AssertionError):
        assert run.accepted > 0.9
    trust("T15", "planted wrong sign of stress: share of strains accepted", run.accepted, "≤ 0.9", planted=True)


def check_cubic(cell: np.ndarray) -> float:
    error = float(np.abs(cell / cell[..., :1, :1] - np.eye(3)).max())
    assert error <= 1e-12, error
    return error


@pytest.mark.slow
def test_cubic_stays_cubic_when_isotropic_and_not_otherwise(trust: Callable[..., None]) -> None:
    error = check_cubic(solid("isotropic", HIGH).cell)
    assert solid("isotropic", HIGH).volume.std() > 1.0
    trust("T15", "isotropic: largest deviation of a cubic cell from cubic", error, "≤ 1e-12")
    with pytest.raises(AssertionError):
        check_cubic(solid("anisotropic", HIGH).cell)


@pytest.mark.parametrize("pbc", [(True, True, False), (False, False, False)])
def test_an_open_cell_is_refused(pbc: tuple[bool, ...]) -> None:
    system = replace(fcc(1), pbc=torch.tensor([pbc]))
    evaluate = Evaluator(IdealGas())
    inner = VelocityVerlet(evaluate=evaluate, time_step=1.0)
    propagator = StochasticCellRescaling(inner=inner, evaluate=evaluate, temperature_K=300.0)
    state = initial_state(system, temperature_K=300.0, generator=Generator())
    with pytest.raises(BadInput, match="periodic in all three directions"):
        propagator.step(state, Generator())


@cache
def density_by_ase(pressure_GPa: float, *, steps: int = 9000) -> tuple[float, float]:
    """Mean volume (Å³) of the same solid under ASE's LangevinBAOAB, and its standard error from ten blocks."""
    from ase import units
    from ase.md.langevinbaoab import LangevinBAOAB
    from ase.md.velocitydistribution import thermalize_momenta

    from mdistill.export.ase import calculator
    from mdistill.io.structures import to_atoms

    atoms = to_atoms(fcc(2, 5.4))
    atoms.calc = calculator(CopiesOfLennardJones(reach=5.0))
    thermalize_momenta(atoms, 2.0 * COOL, rng=np.random.default_rng(0))
    dynamics = LangevinBAOAB(
        atoms, 8.0 * units.fs, temperature_K=COOL, externalstress=-pressure_GPa * units.GPa, hydrostatic=True,
        T_tau=200.0 * units.fs, P_tau=800.0 * units.fs, rng=np.random.default_rng(1),
    )  # fmt: skip
    found: list[float] = []
    dynamics.attach(lambda: found.append(float(atoms.get_volume())), interval=5)
    dynamics.run(steps)
    kept = np.array(found[len(found) // 10 :])
    blocks = np.array([part.mean() for part in np.array_split(kept, 10)])
    return float(kept.mean()), float(blocks.std(ddof=1) / np.sqrt(len(blocks)))


def check_density(run: SolidRun, pressure_GPa: float) -> float:
    """Our mean volume against ASE's, in combined standard errors."""
    theirs, error = density_by_ase(pressure_GPa)
    structs = run.volume.mean(0)
    off = (structs.mean() - theirs) / np.hypot(error, structs.std(ddof=1) / np.sqrt(len(structs)))
    assert abs(off) < 3.0, off
    return float(off)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(STRAINS))
def test_the_density_is_that_of_ase(name: str, trust: Callable[..., None]) -> None:
    off = check_density(solid(name, LOW), LOW)
    trust("T15", f"{name}: Lennard-Jones solid, density against ASE's LangevinBAOAB: off (σ)", off, "< 3")


@pytest.mark.slow
@pytest.mark.planted
def test_the_density_check_sees_another_pressure(trust: Callable[..., None]) -> None:
    with pytest.raises(AssertionError):
        check_density(solid("isotropic", HIGH), LOW)
    trust("T15", "planted pressure 50 MPa too high against ASE's density", "noticed", "noticed", planted=True)
