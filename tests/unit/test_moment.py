"""The moment network: settings, elements, float types, and invariants with known answers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from laws import evaluate
from mdistill.errors import BadInput
from mdistill.graph import build_graph, edge_vectors
from mdistill.nets.layers import harmonics, sphere_quadrature
from mdistill.nets.moment import MomentNet
from mdistill.nets.settings import MomentSettings
from systems import LIPSCL, dimer, random_box, tiny_net


@pytest.mark.parametrize(
    "wrong",
    [
        {"elements": ()}, {"elements": (16, 3)}, {"elements": (3, 3)}, {"elements": (0,)}, {"elements": (119,)},
        {"cutoff": 0.0}, {"cutoff": float("nan")}, {"cutoff": 99.0}, {"channels": 0}, {"radial": 1}, {"degree": 4}, {"hidden": -1},
    ],
)  # fmt: skip
def test_settings_are_refused(wrong):
    with pytest.raises(BadInput) as error:
        MomentSettings(**({"elements": (3, 16)} | wrong))
    assert "allowed" in str(error.value)


def test_an_unknown_element_is_named():
    system = replace(dimer(3, 16, 2.4), numbers=torch.tensor([3, 26]))
    with pytest.raises(BadInput, match="Fe"):
        evaluate(tiny_net(), system)


def test_energies_are_float64_and_float32_agrees():
    system = random_box(3)
    double, single = tiny_net(1), tiny_net(1).in_type(torch.float32)
    graph = build_graph(system, 5.0)
    atomic = single(graph, edge_vectors(graph))
    assert atomic.dtype == torch.float64
    assert torch.allclose(atomic, double(graph, edge_vectors(graph)), atol=1e-5)
    assert torch.allclose(evaluate(single, system).forces, evaluate(double, system).forces, atol=1e-4)


def test_folding_the_whitening_changes_nothing():
    net, system = tiny_net(2), random_box(4)
    size = net.mixing.shape[2]
    net.whitening = torch.eye(size, dtype=torch.float64) + 0.1 * torch.randn((4, 4, size, size), dtype=torch.float64)
    before, after = evaluate(net, system), evaluate(net.folded(), system)
    assert torch.allclose(before.forces, after.forces, atol=1e-12)
    assert torch.allclose(before.energy, after.energy, atol=1e-12)


def test_a_pair_that_was_never_met_does_not_interact():
    net = tiny_net(0)
    closest = net.closest.clone()
    closest[0, 2] = closest[2, 0] = torch.inf
    net.set_closest(closest)
    found = evaluate(net, dimer(3, 16, 3.6))
    assert float(found.forces.abs().max()) == 0.0
    assert float(evaluate(net, dimer(3, 15, 3.6)).forces.abs().max()) > 0.0


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_features_are_the_stated_integrals(degree):
    """Second order against Σ_m A², third order against ∫ f³ dΩ on another, denser quadrature."""
    net = tiny_net(0, degree=degree)
    graph = build_graph(random_box(5, atoms=4), 5.0)
    species = net.species(graph.system.numbers)
    moments, _ = net.moments(graph, edge_vectors(graph), species)
    slots = net.layout(species)
    features = net.features(moments, slots).detach()
    z, slot = (slots == 0).nonzero()[0].tolist()
    mixed = torch.stack([moments[0, lm] @ net.mixing[z, net.degrees[lm]] for lm in range(len(net.degrees))]).detach()
    channels = net.settings.channels
    blocks = features[z, slot].view(-1, channels)
    assert torch.allclose(blocks[0], mixed[0])
    for l in range(degree + 1):  # noqa: E741
        assert torch.allclose(blocks[1 + l], mixed[net.degrees == l].square().sum(0))
    points, weights = dense_sphere()
    on_sphere = harmonics(points, net.table) @ mixed
    assert torch.allclose(blocks[degree + 2], (weights.unsqueeze(1) * on_sphere**3).sum(0), atol=1e-12)
    assert float(features[:, -1].abs().max()) == 0.0


def dense_sphere() -> tuple[torch.Tensor, torch.Tensor]:
    """Gauss–Legendre × equal angles, exact to degree 15."""
    import numpy as np

    height, weight = np.polynomial.legendre.leggauss(8)
    turn = 2 * np.pi * np.arange(16) / 16
    flat = np.sqrt(1 - height**2)[:, None]
    points = np.stack([flat * np.cos(turn), flat * np.sin(turn), np.repeat(height[:, None], 16, 1)], -1).reshape(-1, 3)
    assert len(sphere_quadrature(9)[0]) == 38
    return torch.from_numpy(points), torch.from_numpy(np.repeat(weight * 2 * np.pi / 16, 16))


def test_same_seed_same_network_other_seed_another():
    settings = MomentSettings(elements=LIPSCL)
    assert torch.equal(MomentNet(settings, seed=3).mixing, MomentNet(settings, seed=3).mixing)
    assert not torch.equal(MomentNet(settings, seed=3).mixing, MomentNet(settings, seed=4).mixing)
    assert MomentNet(settings).name == "moment-Li-P-S-Cl"
