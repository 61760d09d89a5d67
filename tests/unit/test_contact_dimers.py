"""The prior on pairs nearer than any label."""

from __future__ import annotations

import pytest
import torch

from mdistill.derivatives import predict
from mdistill.nets.moment import FREEZE, MomentNet
from mdistill.training.contact_dimers import attraction, contact_dimers
from systems import LIPSCL, tiny_net


def test_dimers_stand_where_labels_end():
    net = tiny_net()
    closest = net.closest.clone()
    closest[0, 1] = closest[1, 0] = net.cutoff
    net.set_closest(closest)
    dimers = contact_dimers(net, torch.float64)
    system = dimers.graph.system
    assert 2 * dimers.number == system.n_atoms
    numbers = system.numbers.view(-1, 2)
    kinds = {tuple(row) for row in numbers.tolist()}
    assert len(kinds) == len(LIPSCL) * (len(LIPSCL) + 1) // 2 - 1 and (3, 15) not in kinds
    length = (system.positions[1::2] - system.positions[::2]).norm(dim=1)
    assert float(length.max()) == pytest.approx(float(net.closest[0, 0]) + MomentNet.begins_below, abs=1e-12), "the closest label"
    assert float(length.min()) == pytest.approx(float(net.closest[0, 0]) - FREEZE, abs=1e-12)


def test_training_on_it_removes_the_attraction(trust):
    net = tiny_net(3)
    net.set_closest(torch.full((4, 4), 3.4, dtype=torch.float64))
    net.scale.fill_(20.0)
    dimers = contact_dimers(net, torch.float64)
    pulled = predict(net, dimers.graph)[0].forces[1::2, 2]
    assert float(pulled.min()) < -0.05, "the random network attracts somewhere"
    before = float(attraction(net, dimers).detach())
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(60):
        optimiser.zero_grad()
        attraction(net, dimers).backward()
        optimiser.step()
    after = float(attraction(net, dimers).detach())
    assert after < 0.2 * before
    trust("T11", "prior on contacts: mean missing repulsion after training over before", after / before, "< 0.2")
