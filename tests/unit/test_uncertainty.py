"""The last layer's uncertainty: its trace, its growth off the training set, its calibration on held-out windows."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from maps import exact_flow, stiff_net
from mdistill.nets.uncertainty import LastLayerUncertainty, with_one
from mdistill.training.one_step_map import calibrate_uncertainty, typical_impulses, typical_speed
from mdistill.training.settings import StrideSettings
from mdistill.training.stride import map_of
from mdistill.training.stride_objective import squares
from mdistill.training.windows import join_windows, windows_of
from mdistill.units import ACCELERATION, BOLTZMANN, KINETIC


def features(count: int, seed: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    plane = torch.randn((count, 2), generator=random, dtype=torch.float64)
    return plane @ torch.tensor([[1.0, 2.0, 0.0], [0.5, -1.0, 0.0]], dtype=torch.float64)


def test_it_is_the_inverse_of_what_was_seen():
    """Σ_i f_iᵀ (FᵀF/M + ς²)⁻¹ f_i /M over the training set is the number of directions seen: two and the constant."""
    doubt, seen = LastLayerUncertainty(3, 1), features(500, 0)
    doubt.learn(with_one(seen).T @ with_one(seen) / len(seen))
    species = torch.zeros(500, dtype=torch.int64)
    assert float(doubt(seen, species).square().mean()) == pytest.approx(3.0, rel=1e-4)
    again = float(doubt(features(500, 1), species).square().mean())
    assert again == pytest.approx(3.0, rel=0.2)
    unseen = torch.tensor([[0.0, 0.0, 0.1]], dtype=torch.float64)
    assert float(doubt(unseen, species[:1])) > 30.0
    assert float(doubt(10.0 * seen[:1], species[:1])) > 5.0 * float(doubt(seen[:1], species[:1]))


def test_not_a_number_is_not_trusted():
    doubt, species = LastLayerUncertainty(3, 1), torch.zeros(1, dtype=torch.int64)
    for bad in (float("nan"), float("inf")):
        assert not doubt.trusted(doubt(torch.full((1, 3), bad), species), species)
    assert doubt.trusted(doubt(torch.ones((1, 3)), species), species)


@pytest.fixture(scope="module")
def calibrated():
    train, held_out = (windows_of(part, 16.0) for part in (exact_flow()[:-4], exact_flow()[-4:]))
    net = map_of(stiff_net(), StrideSettings(map="one_step", stride_fs=16.0), train)
    with torch.no_grad():
        net.exchange.last.weight.copy_(
            0.05 * torch.randn(net.exchange.last.weight.shape, generator=torch.Generator().manual_seed(0))
        )
    calibrate_uncertainty(net, stiff_net(), train, held_out)
    return net, train, held_out


def test_calibrated_it_is_the_mean_error_of_every_element(calibrated):
    net, _, held_out = calibrated
    batch = join_windows(held_out)
    with torch.no_grad():
        arrival = net.leap(batch.system, batch.momenta, batch.masses, 16.0)
    species = net.species(batch.system.numbers)
    guess = net.doubt(arrival.features, species).square()
    error = sum(squares(batch, arrival.positions, arrival.momenta))
    for kind in species.unique():
        assert float(guess[species == kind].mean()) == pytest.approx(float(error[species == kind].mean()), rel=1e-9)


def test_it_grows_off_the_training_set(calibrated):
    """Faster atoms and closer ones are doubted more; structures of the training set hardly ever."""
    net, train, _ = calibrated

    def doubt(squeeze: float, faster: float):
        batch = join_windows(train[::3])
        system = replace(batch.system, positions=squeeze * batch.system.positions, cell=squeeze * batch.system.cell)
        with torch.no_grad():
            arrival = net.leap(system, faster * batch.momenta, batch.masses, 16.0)
        species = net.species(system.numbers)
        found = net.doubt(arrival.features, species)
        return float(found.square().mean()), net.doubt.trusted(found, species)

    usual, trusted = doubt(1.0, 1.0)
    assert trusted
    for squeeze, faster in ((1.0, 5.0), (0.8, 1.0)):
        found, trusted = doubt(squeeze, faster)
        assert found > 3.0 * usual and not trusted


def test_sizes_taken_from_data():
    windows = windows_of(exact_flow()[:6], 16.0)
    net = map_of(stiff_net(), StrideSettings(map="one_step", stride_fs=16.0), windows)
    assert float(typical_speed(windows)) == pytest.approx((BOLTZMANN * windows[0].temperature_K / KINETIC) ** 0.5)
    batch = join_windows(windows)
    left = (batch.momenta_after[0] - batch.momenta) / (ACCELERATION * 16.0) - net.forces(batch.system)
    species = net.species(batch.system.numbers)
    for kind in species.unique():
        expected = float(left[species == kind].square().sum(1).mean().sqrt())
        assert float(typical_impulses(net, windows)[1, kind]) == pytest.approx(expected, rel=1e-9)
