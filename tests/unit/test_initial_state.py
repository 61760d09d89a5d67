"""What is measured on a state, against ASE and by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Generator

from mdistill.errors import BadInput
from mdistill.graph import concatenate, make_system
from mdistill.simulation.initial_state import initial_state, standard_masses, without_drift
from mdistill.simulation.kinetics import degrees_of_freedom, kinetic_energy, prediction_of, pressure, temperature
from mdistill.types import Prediction, State, System
from mdistill.units import BOLTZMANN, GPA


def salt(atoms: int = 20) -> System:
    rng = np.random.default_rng(0)
    return make_system(rng.uniform(0, 8, (atoms, 3)), np.tile([3, 17], atoms)[:atoms], 8 * np.eye(3), [True] * 3)


def start(system: System, kelvin: float = 700.0) -> State:
    return initial_state(system, temperature_K=kelvin, generator=Generator().manual_seed(1))


def test_energy_and_masses_agree_with_ase() -> None:
    from ase import Atoms, units

    state = start(salt())
    atoms = Atoms(numbers=state.system.numbers.numpy(), momenta=state.momenta.numpy() / units.fs)
    np.testing.assert_allclose(standard_masses(state.system).numpy(), atoms.get_masses())
    assert float(kinetic_energy(state)[0]) == pytest.approx(atoms.get_kinetic_energy(), rel=1e-6)
    ase_temperature = atoms.get_temperature() * 20 / 19
    assert float(temperature(state)[0]) == pytest.approx(ase_temperature, rel=1e-5)


def test_element_temperatures_add_up_to_the_whole() -> None:
    state = start(salt())
    shares = [3.0 * float((1.0 - state.masses / state.masses.sum())[state.system.numbers == z].sum()) for z in (3, 17)]
    assert sum(shares) == pytest.approx(57.0)
    parts = [float(temperature(state, element=z)[0]) for z in (3, 17)]
    assert np.dot(shares, parts) / 57.0 == pytest.approx(float(temperature(state)[0]))
    assert math.isnan(float(temperature(state, element=8)[0]))


def test_centre_of_mass_motion_is_no_heat() -> None:
    state = start(salt())
    moving = replace(state, momenta=state.momenta + 0.3 * state.masses.unsqueeze(1))
    assert float(temperature(moving)[0]) == pytest.approx(float(temperature(state)[0]), rel=1e-9)
    assert float(without_drift(moving).momenta.sum(0).abs().max()) < 1e-12


def test_batches_with_single_atoms() -> None:
    state = start(concatenate([salt(), salt(1), salt(2)]))
    assert degrees_of_freedom(state).tolist() == [57, 3, 3]
    assert bool(torch.isfinite(temperature(state)).all())
    assert float(state.momenta[20].abs().min()) > 0.0
    assert torch.allclose(temperature(state)[0], temperature(start(salt()))[0])


def test_middle_momenta_are_what_is_measured() -> None:
    state = start(salt())
    half = replace(state, middle_momenta=0.5 * state.momenta)
    assert float(temperature(half)[0]) == pytest.approx(0.25 * float(temperature(state)[0]))


def test_pressure_of_an_ideal_gas_and_of_a_stressed_crystal() -> None:
    state = start(salt())
    assert pressure(state) is None
    stress = -0.01 * torch.eye(3, dtype=torch.float64).unsqueeze(0)
    known = replace(state, prediction=Prediction(energy=torch.zeros(1), forces=state.momenta, stress=stress))
    expected = 20 * BOLTZMANN * float(temperature(state)[0]) / 512.0 + 0.01
    assert float(pressure(known)[0]) == pytest.approx(expected, rel=1e-12)
    assert 1.0 < 0.01 / GPA < 2.0


@pytest.mark.parametrize("kelvin", [0.0, -5.0, math.nan, math.inf, 1e9, "hot"])
def test_bad_temperatures(kelvin: float) -> None:
    with pytest.raises(BadInput, match="temperature_K"):
        start(salt(), kelvin)


def test_a_state_without_prediction_says_so() -> None:
    with pytest.raises(ValueError, match="no prediction"):
        prediction_of(start(salt()))
