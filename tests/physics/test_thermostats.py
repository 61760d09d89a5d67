"""Whether thermostats sample the canonical distribution: kinetic energy, equipartition, positions, two temperatures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
import torch
from potentials import CopiesOfLennardJones, IdealGas, Springs, fcc
from scipy import stats
from scipy.optimize import brentq
from torch import Generator

from mdistill.simulation import bussi, langevin
from mdistill.simulation.bussi import Bussi
from mdistill.simulation.evaluator import Evaluator
from mdistill.simulation.initial_state import initial_state
from mdistill.simulation.kinetics import atom_counts, kinetic_energy, per_struct, prediction_of, temperature
from mdistill.simulation.langevin import Baoab
from mdistill.simulation.rollout import Calling, rollout
from mdistill.simulation.verlet import VelocityVerlet
from mdistill.types import Propagator, State
from mdistill.units import ACCELERATION, BOLTZMANN, KINETIC

LITHIUM_ARGON = torch.tensor([3, 18])


@dataclass
class Samples:
    """What is collected along a run, [sample, struct] each."""

    internal: list[np.ndarray]
    kinetic: list[np.ndarray]
    potential: list[np.ndarray]
    elements: list[np.ndarray]
    axes: list[np.ndarray]
    square: list[np.ndarray]

    def add(self, _: int, state: State) -> None:
        count = atom_counts(state.system)
        momenta = state.momenta if state.middle_momenta is None else state.middle_momenta
        self.internal.append((0.5 * BOLTZMANN * temperature(state) * (3 * count - 3)).numpy())
        self.kinetic.append(kinetic_energy(state).numpy())
        self.potential.append(prediction_of(state).energy.numpy())
        self.elements.append(torch.stack([temperature(state, element=int(z)) for z in LITHIUM_ARGON]).numpy())
        self.axes.append(per_struct(state.system, KINETIC * momenta.square() / state.masses.unsqueeze(1)).T.numpy() / BOLTZMANN)
        self.square.append(state.system.positions.square().sum(1).numpy())


def sample(state: State, propagator: Propagator, *, before: int, every: int, count: int, seed: int = 3, leap: int = 1) -> Samples:
    generator = Generator().manual_seed(seed)
    state = rollout(state, propagator, steps=before, generator=generator, leap=leap)
    samples = Samples([], [], [], [], [], [])
    rollout(state, propagator, steps=every * count, generator=generator, observers=[Calling(samples.add, every=every)], leap=leap)
    return samples


def check_kinetic(kinetic: list[np.ndarray], kelvin: float, freedom: int) -> tuple[float, float, float]:
    """Mean and width within 3 standard errors of the canonical distribution, KS p above 0.01; gives the three."""
    draws = np.ravel(kinetic)
    law = stats.gamma(freedom / 2.0, scale=BOLTZMANN * kelvin)
    kurtosis = 3.0 + 12.0 / freedom
    mean = (draws.mean() - law.mean()) / (law.std() / np.sqrt(len(draws)))
    width = (draws.std() / law.std() - 1.0) / np.sqrt((kurtosis - 1.0) / 4.0 / len(draws))
    fit = float(stats.kstest(draws, law.cdf).pvalue)
    assert abs(mean) < 3.0 and abs(width) < 3.0 and fit > 0.01, (mean, width, fit)
    return float(mean), float(width), fit


def check_within_three_errors(values: np.ndarray, expected: float) -> float:
    """`values` are independent samples; gives the deviation in standard errors."""
    error = values.std(ddof=1) / np.sqrt(values.size)
    deviation = float((values.mean() - expected) / error)
    assert abs(deviation) < 3.0, deviation
    return deviation


FREQUENCY, STEP, KELVIN, COPIES, ATOMS = 0.1, 4.0, 500.0, 400, 16


def springs(copies: int = COPIES) -> tuple[State, Springs]:
    """Li and Ar on springs of one frequency (0.1 rad/fs) about the origin; ωh = 0.4."""
    crystal = fcc(1, copies=copies * ATOMS // 4)
    system = replace(
        crystal,
        positions=torch.zeros_like(crystal.positions),
        numbers=LITHIUM_ARGON.repeat(crystal.n_atoms // 2),
        cell=crystal.cell[:copies],
        pbc=crystal.pbc[:copies],
        owner=torch.arange(copies).repeat_interleave(ATOMS),
    )
    state = initial_state(system, temperature_K=KELVIN, generator=Generator().manual_seed(0))
    return state, Springs(torch.zeros_like(system.positions), state.masses * FREQUENCY**2 * KINETIC)


@cache
def springs_under_langevin(*, full_step: bool = False, copies: int = COPIES) -> tuple[Samples, Springs]:
    state, potential = springs(copies)
    propagator: Propagator = Baoab(evaluate=Evaluator(potential), time_step=STEP, temperature_K=KELVIN, friction_per_ps=30.0)
    if full_step:
        inner = propagator

        @dataclass(frozen=True)
        class WithoutMiddle:
            stride_fs: float = STEP

            def step(self, state: State, generator: Generator) -> State:
                return replace(inner.step(state, generator), middle_momenta=None)

        propagator = WithoutMiddle()
    return sample(state, propagator, before=100, every=40, count=30), potential


def test_langevin_kinetic_energy_is_canonical_at_the_middle_step(trust: Callable[..., None]) -> None:
    samples, _ = springs_under_langevin()
    mean, width, fit = check_kinetic(samples.kinetic, KELVIN, 3 * ATOMS)
    trust("T14", "BAOAB, ωh = 0.4, kinetic energy at the middle step: mean off (σ)", mean, "< 3")
    trust("T14", "BAOAB, kinetic energy: width off (σ)", width, "< 3")
    trust("T14", "BAOAB, kinetic energy: KS p", fit, "> 0.01")
    check_kinetic(samples.internal, KELVIN, 3 * ATOMS - 3)
    for column in range(2):
        check_within_three_errors(np.stack(samples.elements)[:, column].ravel(), KELVIN)
    for axis in range(3):
        check_within_three_errors(np.stack(samples.axes)[:, axis].ravel(), ATOMS * KELVIN)


def test_langevin_positions_are_canonical(trust: Callable[..., None]) -> None:
    samples, potential = springs_under_langevin()
    energy = 0.5 * np.stack(samples.square) * potential.constants.numpy()
    off = check_within_three_errors(energy.reshape(-1, ATOMS).sum(1), 1.5 * ATOMS * BOLTZMANN * KELVIN)
    trust("T14", "BAOAB, ωh = 0.4, mean potential energy of springs: off (σ)", off, "< 3")


def test_langevin_full_step_is_too_cold_by_the_known_amount(trust: Callable[..., None]) -> None:
    samples, _ = springs_under_langevin(full_step=True)
    expected = 1.5 * ATOMS * BOLTZMANN * KELVIN * (1.0 - (FREQUENCY * STEP) ** 2 / 4.0)
    off = check_within_three_errors(np.ravel(samples.kinetic), expected)
    trust("T14", "BAOAB, full-step kinetic energy against 1 − (ωh)²/4: off (σ)", off, "< 3")


def check_langevin(samples: Samples) -> None:
    check_kinetic(samples.kinetic, KELVIN, 3 * ATOMS)


@pytest.mark.planted
def test_kinetic_check_sees_the_full_step(trust: Callable[..., None]) -> None:
    samples, _ = springs_under_langevin(full_step=True)
    with pytest.raises(AssertionError):
        check_langevin(samples)
    trust("T14", "planted kinetic energy at the full step", "noticed", "noticed", planted=True)


@pytest.mark.planted
def test_kinetic_check_sees_one_percent(trust: Callable[..., None]) -> None:
    samples, _ = springs_under_langevin()
    with pytest.raises(AssertionError):
        check_langevin(replace(samples, kinetic=[1.01 * kinetic for kinetic in samples.kinetic]))
    trust("T14", "planted kinetic energy × 1.01", "noticed", "noticed", planted=True)


@pytest.mark.planted
def test_kinetic_check_sees_half_the_noise(monkeypatch: pytest.MonkeyPatch, trust: Callable[..., None]) -> None:
    whole = langevin.atom_normals
    monkeypatch.setattr(langevin, "atom_normals", lambda generator, system: 0.5 * whole(generator, system))
    samples, _ = springs_under_langevin(copies=50)
    with pytest.raises(AssertionError):
        check_langevin(samples)
    trust("T14", "planted half noise in Langevin", "noticed", "noticed", planted=True)


def gas_under_bussi() -> Samples:
    """Eight free atoms, 400 times: nothing but the thermostat changes their energy."""
    system = replace(fcc(1, copies=800), cell=fcc(1, copies=400).cell, pbc=fcc(1, copies=400).pbc)
    system = replace(system, owner=torch.arange(400).repeat_interleave(8), numbers=LITHIUM_ARGON.repeat(1600))
    state = initial_state(system, temperature_K=100.0, generator=Generator().manual_seed(0))
    thermostat = Bussi(
        inner=VelocityVerlet(evaluate=Evaluator(IdealGas()), time_step=10.0), temperature_K=KELVIN, relaxation_fs=50.0
    )
    return sample(state, thermostat, before=60, every=30, count=20)


def check_bussi(samples: Samples) -> tuple[float, float, float]:
    return check_kinetic(samples.internal, KELVIN, 21)


def test_bussi_kinetic_energy_is_canonical(trust: Callable[..., None]) -> None:
    mean, width, fit = check_bussi(gas_under_bussi())
    trust("T14", "Bussi, free atoms from a fifth of the temperature: kinetic mean off (σ)", mean, "< 3")
    trust("T14", "Bussi, kinetic width off (σ)", width, "< 3")
    trust("T14", "Bussi, kinetic energy: KS p", fit, "> 0.01")


@pytest.mark.planted
def test_bussi_check_sees_no_noise(monkeypatch: pytest.MonkeyPatch, trust: Callable[..., None]) -> None:
    """Without its random numbers the thermostat is Berendsen's: right mean, no width."""
    middling = (np.exp(-0.5), 0.25, 0.5)
    monkeypatch.setattr(bussi, "uniforms_of", lambda key, stream, index: np.full(len(stream), middling[int(index)]))
    with pytest.raises(AssertionError):
        check_bussi(gas_under_bussi())
    trust("T14", "planted Bussi without noise (Berendsen)", "noticed", "noticed", planted=True)


@pytest.mark.planted
def test_bussi_check_sees_a_wrong_number_of_degrees_of_freedom(
    monkeypatch: pytest.MonkeyPatch, trust: Callable[..., None]
) -> None:
    monkeypatch.setattr(bussi, "degrees_of_freedom", lambda state: 3 * atom_counts(state.system))
    with pytest.raises(AssertionError):
        check_bussi(gas_under_bussi())
    trust("T14", "planted 3N instead of 3N − 3 in Bussi", "noticed", "noticed", planted=True)


def test_bussi_leaves_directions_and_the_centre_of_mass_alone() -> None:
    state = initial_state(fcc(2), temperature_K=300.0, generator=Generator().manual_seed(0))
    moving = replace(state, momenta=state.momenta + 0.01 * state.masses.unsqueeze(1))
    thermostat = Bussi(
        inner=VelocityVerlet(evaluate=Evaluator(IdealGas()), time_step=10.0), temperature_K=900.0, relaxation_fs=20.0
    )
    after = rollout(moving, thermostat, steps=50, generator=Generator().manual_seed(0))
    torch.testing.assert_close(after.momenta.sum(0), moving.momenta.sum(0), rtol=0, atol=1e-11)
    ratio = (after.momenta - 0.01 * state.masses.unsqueeze(1)) / state.momenta
    torch.testing.assert_close(ratio, ratio[0, 0].expand_as(ratio), rtol=1e-9, atol=0)


COLD, WARM, STRUCTS = 40.0, 50.0, 24
SOLID = CopiesOfLennardJones(reach=5.0)


def solid_samples(name: str, kelvin: float) -> Samples:
    """A solid of Li- and Ar-heavy Lennard-Jones atoms under a thermostat."""
    crystal = fcc(2, copies=STRUCTS)
    system = replace(crystal, numbers=LITHIUM_ARGON.repeat(crystal.n_atoms // 2))
    state = initial_state(system, temperature_K=2.0 * kelvin, generator=Generator().manual_seed(1))
    warm = Baoab(evaluate=Evaluator(SOLID), time_step=8.0, temperature_K=kelvin, friction_per_ps=10.0)
    state = replace(rollout(state, warm, steps=200, generator=Generator().manual_seed(2)), middle_momenta=None)
    thermostats = {
        "langevin": replace(warm, friction_per_ps=4.0),
        "bussi": Bussi(inner=VelocityVerlet(evaluate=Evaluator(SOLID), time_step=4.0), temperature_K=kelvin, relaxation_fs=100.0),
    }
    stride = thermostats[name].stride_fs
    return sample(state, thermostats[name], before=0, every=round(400.0 / stride), count=16, seed=round(kelvin))


@pytest.fixture(scope="module")
def solids() -> dict[tuple[str, float], Samples]:
    return {(name, kelvin): solid_samples(name, kelvin) for name in ("langevin", "bussi") for kelvin in (COLD, WARM)}


def slope_of(cold: np.ndarray, warm: np.ndarray) -> tuple[float, float]:
    """Maximum-likelihood slope of ln[p_warm(E)/p_cold(E)] with its standard error (equal numbers of samples).

    Reference: Shirts, J. Chem. Theory Comput. 9, 909 (2013), doi 10.1021/ct300688p.
    """
    energy, label = np.concatenate([cold, warm]), np.repeat([0.0, 1.0], [len(cold), len(warm)])
    energy = energy - energy.mean()

    def offset(slope: float) -> float:
        return brentq(lambda a: (label - 1.0 / (1.0 + np.exp(-a - slope * energy))).sum(), -200.0, 200.0)

    def score(slope: float) -> float:
        return float((energy * (label - 1.0 / (1.0 + np.exp(-offset(slope) - slope * energy)))).sum())

    scale = 1.0 / energy.std()
    slope = brentq(score, -50.0 * scale, 50.0 * scale)
    weight = 1.0 / (1.0 + np.exp(-offset(slope) - slope * energy))
    weight = weight * (1.0 - weight)
    information = (weight * energy**2).sum() - (weight * energy).sum() ** 2 / weight.sum()
    return float(slope), float(1.0 / np.sqrt(information))


def check_two_temperatures(cold: Samples, warm: Samples) -> float:
    """ln of the ratio of total-energy distributions rises with 1/kT_cold − 1/kT_warm; gives the deviation (σ)."""
    energies = [np.ravel(s.potential) + np.ravel(s.internal) for s in (cold, warm)]
    slope, error = slope_of(*energies)
    off = (slope - (1.0 / COLD - 1.0 / WARM) / BOLTZMANN) / error
    assert abs(off) < 3.0, off
    return off


@pytest.mark.slow
@pytest.mark.parametrize("name", ["langevin", "bussi"])
def test_two_temperatures_differ_as_boltzmann_says(name: str, solids: dict, trust: Callable[..., None]) -> None:
    off = check_two_temperatures(solids[name, COLD], solids[name, WARM])
    trust("T14", f"{name}: slope of ln p(E, 50 K)/p(E, 40 K) of a Lennard-Jones solid: off (σ)", off, "< 3")


@pytest.mark.slow
@pytest.mark.planted
def test_two_temperature_check_sees_narrow_energies(solids: dict, trust: Callable[..., None]) -> None:
    narrow = []
    for kelvin in (COLD, WARM):
        samples = solids["bussi", kelvin]
        energy = np.stack(samples.potential) + np.stack(samples.internal)
        squeezed = energy.mean() + 0.7 * (energy - energy.mean())
        narrow.append(replace(samples, potential=list(squeezed), internal=[np.zeros_like(e) for e in squeezed]))
    with pytest.raises(AssertionError):
        check_two_temperatures(*narrow)
    trust("T14", "planted energies with 0.7 of their width", "noticed", "noticed", planted=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["langevin", "bussi"])
def test_a_solid_is_equipartitioned(name: str, solids: dict, trust: Callable[..., None]) -> None:
    samples = solids[name, WARM]
    check_kinetic(samples.internal, WARM, 93)
    elements = np.stack(samples.elements)
    per_struct_mean = elements.mean(0)
    for column, symbol in enumerate(("Li", "Ar")):
        off = check_within_three_errors(per_struct_mean[column], WARM)
        trust("T14", f"{name}, Lennard-Jones solid: temperature of {symbol} off (σ)", off, "< 3")


@pytest.mark.slow
def test_kinetic_energy_by_physical_validation(solids: dict, trust: Callable[..., None]) -> None:
    """The community's own check (Merz, Shirts, PLOS ONE 13, e0202764 (2018)) on the same samples."""
    import physical_validation

    samples = solids["bussi", WARM]
    draws = np.ravel(samples.internal)
    data = physical_validation.data.SimulationData(
        units=physical_validation.data.UnitData(
            kb=BOLTZMANN, energy_str="eV", energy_conversion=96.48533212, length_str="Å", length_conversion=0.1,
            volume_str="Å^3", volume_conversion=1e-3, temperature_str="K", temperature_conversion=1.0,
            pressure_str="GPa", pressure_conversion=1e4, time_str="fs", time_conversion=1e-3,
        ),
        ensemble=physical_validation.data.EnsembleData("NVT", natoms=32, volume=1.0, temperature=WARM),
        system=physical_validation.data.SystemData(
            natoms=32, nconstraints=0, ndof_reduction_tra=3, ndof_reduction_rot=0, mass=np.full(32, 39.9),
            molecule_idx=np.arange(32), nconstraints_per_molecule=np.zeros(32),
        ),
        observables=physical_validation.data.ObservableData(kinetic_energy=draws),
    )  # fmt: skip
    mean, width = physical_validation.kinetic_energy.distribution(data, strict=False, verbosity=0, bootstrap_seed=1)
    assert abs(mean) < 3.0 and abs(width) < 3.0
    trust("T14", "physical_validation, Bussi solid: kinetic mean off (σ)", mean, "< 3")
    trust("T14", "physical_validation, Bussi solid: kinetic width off (σ)", width, "< 3")


def test_initial_momenta_are_maxwell_boltzmann_and_at_rest(trust: Callable[..., None]) -> None:
    state, _ = springs()
    total = per_struct(state.system, state.momenta)
    assert float(total.abs().max()) < 1e-12
    kinetic = [(0.5 * BOLTZMANN * temperature(state) * (3 * ATOMS - 3)).numpy()]
    mean, _, _ = check_kinetic(kinetic, KELVIN, 3 * ATOMS - 3)
    trust("T14", "initial momenta: kinetic mean off (σ)", mean, "< 3")


def test_units_of_acceleration() -> None:
    """A Li on a 1 eV/Å² spring vibrates with ω = √(k/m)."""
    assert np.isclose(np.sqrt(ACCELERATION / 6.94), 0.0372867, rtol=1e-5)
