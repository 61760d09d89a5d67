"""labelling/expansion.py: the next rung starts at the volume where its pressure is zero."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mdistill.data.explore import deformed, in_cell
from mdistill.graph import make_system
from mdistill.labelling.expansion import LARGEST, bulk_modulus, expanded
from mdistill.types import LabelledFrame, Prediction, System
from mdistill.units import BOLTZMANN

MODULUS, GAMMA = 0.15, 1.2e-5
"""eV/Å³; dP/dT at constant volume, eV/Å³/K."""


def crystal() -> System:
    sites = np.array([[x, y, z] for x in range(2) for y in range(2) for z in range(2)], dtype=float)
    return make_system(3.0 * sites, np.full(8, 18), 6.0 * np.eye(3), [True] * 3)


def frame(strain: float, kelvin: float, source: str) -> LabelledFrame:
    """P = γT − 3Bε, of which N k_B T/V is kinetic."""
    system = deformed(crystal(), strain * torch.eye(3, dtype=torch.float64))
    volume = float(torch.linalg.det(system.cell[0]))
    pressure = GAMMA * kelvin - 3.0 * MODULUS * strain - system.n_atoms * BOLTZMANN * kelvin / volume
    stress = -pressure * torch.eye(3, dtype=torch.float64)[None]
    target = Prediction(energy=torch.zeros(1), forces=torch.zeros((8, 3)), stress=stress)
    return LabelledFrame(system=system, target=target, source=source, temperature_K=kelvin)


STRAINS = [frame(strain, 0.0, "strain") for strain in (-0.02, 0.02)]


def strain_of(system: System) -> float:
    return (float(torch.linalg.det(system.cell[0])) / 216.0) ** (1 / 3) - 1.0


def test_modulus_comes_from_the_strained_cells():
    assert bulk_modulus(STRAINS, crystal()) == pytest.approx(MODULUS)


@pytest.mark.parametrize(("before", "now"), [(0.0, 500.0), (0.012, 500.0), (0.015, 700.0)])
def test_the_next_cell_has_no_pressure(before, now):
    hot = frame(before, now, "md")
    grown = expanded(hot.system, crystal(), [*STRAINS, hot], next_K=900.0)
    assert 3.0 * MODULUS * strain_of(grown) == pytest.approx(GAMMA * 900.0)


def test_only_frames_of_the_temperature_before_count():
    frames = [*STRAINS, frame(0.02, 300.0, "md"), hot := frame(0.0, 500.0, "md")]
    assert strain_of(expanded(hot.system, crystal(), frames, next_K=500.0)) == pytest.approx(GAMMA * 500.0 / (3.0 * MODULUS))


def test_a_large_expansion_is_cut_and_missing_labels_change_nothing():
    hot = frame(0.0, 100.0, "md")
    assert strain_of(expanded(hot.system, crystal(), [*STRAINS, hot], next_K=3000.0)) == pytest.approx(LARGEST)
    assert expanded(hot.system, crystal(), [STRAINS[0], hot], next_K=900.0) is hot.system


def test_in_cell_keeps_scaled_coordinates():
    sheared = torch.tensor([[6.0, 0.0, 0.0], [1.0, 7.0, 0.0], [0.0, 0.5, 5.0]], dtype=torch.float64)
    laid = in_cell(crystal(), sheared)
    assert torch.equal(laid.cell[0], sheared)
    assert torch.allclose(laid.positions @ torch.linalg.inv(sheared), crystal().positions / 6.0)
