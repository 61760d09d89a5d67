"""The attention map: what it must obey (order, translation, batches, the reach), what it need not, its tables."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from laws import assert_close, orthogonal
from maps import moving, tiny_attention
from mdistill.errors import BadInput
from mdistill.graph import build_graph, concatenate, make_system, split, turned
from mdistill.nets.one_step_attention import neighbourhood, reverse_of
from mdistill.nets.settings import OneStepAttentionSettings
from systems import LIPSCL, SYSTEMS, random_box

STRIDE = 16.0


def arrive(net, state, stride=STRIDE):
    with torch.no_grad():
        return net(*state, stride)


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_edge_finds_its_reverse(name):
    graph = build_graph(SYSTEMS[name](), 5.0)
    reverse = reverse_of(graph)
    assert torch.equal(graph.sender[reverse], graph.receiver) and torch.equal(graph.receiver[reverse], graph.sender)
    assert torch.equal(graph.shift[reverse], -graph.shift)


def test_the_table_holds_every_edge_once():
    graph = build_graph(SYSTEMS["box"](), 5.0)
    near = neighbourhood(graph, torch.ones(len(graph.sender), dtype=torch.float64))
    assert torch.equal(near.slots.flatten()[near.place], torch.arange(len(graph.sender)))
    assert torch.equal(near.place // near.slots.shape[1], graph.receiver)


def test_order_translation_and_boosts():
    net, (system, momenta, masses) = tiny_attention(), moving(random_box(1))
    positions, after = arrive(net, (system, momenta, masses))
    order = torch.randperm(system.n_atoms, generator=torch.Generator().manual_seed(1))
    mixed = replace(system, positions=system.positions[order], numbers=system.numbers[order])
    found, found_after = arrive(net, (mixed, momenta[order], masses[order]))
    assert_close(found, positions[order], absolute=1e-9)
    assert_close(found_after, after[order], absolute=1e-9)
    velocity = torch.tensor([0.01, 0.02, -0.03], dtype=torch.float64)
    shifted = replace(system, positions=system.positions + 3.3)
    found, found_after = arrive(net, (shifted, momenta + masses.unsqueeze(1) * velocity, masses))
    assert_close(found, positions + 3.3 + STRIDE * velocity, absolute=1e-9)
    assert_close(found_after, after + masses.unsqueeze(1) * velocity, absolute=1e-9)


def test_rotations_are_not_built_in():
    """The reason for `StrideObjective.turning`; were this to fail, the comparison with the equivariant map would be void."""
    net, (system, momenta, masses) = tiny_attention(), moving(random_box(1))
    turn = orthogonal(3, reflect=False)
    after = arrive(net, (system, momenta, masses))[1]
    found = arrive(net, (turned(system, turn), momenta @ turn, masses))[1]
    assert float((found - after @ turn).abs().max()) > 1e-2


def test_batches_are_transparent():
    net, states = tiny_attention(), [moving(make(), seed=k) for k, make in enumerate(SYSTEMS.values())]
    batch = concatenate([s[0] for s in states])
    positions, momenta = arrive(net, (batch, torch.cat([s[1] for s in states]), torch.cat([s[2] for s in states])))
    parts, moved = split(replace(batch, positions=positions)), split(replace(batch, positions=momenta))
    for state, part, change in zip(states, parts, moved, strict=True):
        alone, alone_momenta = arrive(net, state)
        assert_close(part.positions, alone, absolute=1e-10)
        assert_close(change.positions, alone_momenta, absolute=1e-10)


def test_nothing_jumps_at_the_reach():
    net, gap = tiny_attention(), 1e-6
    answers = []
    for distance in (net.cutoff - gap, net.cutoff + gap):
        far = make_system([[0.0, 0, 0], [0, 0, 2.4], [0, 0, -distance]], [3, 16, 16], torch.zeros(3, 3), [False] * 3)
        answers.append(torch.stack(arrive(net, moving(far)))[:, :2])
    assert_close(answers[0], answers[1], absolute=1e-6)


def test_with_silent_heads_it_is_free_flight():
    net, (system, momenta, masses) = tiny_attention(), moving(random_box(1))
    with torch.no_grad():
        net.own.weight.zero_()
        net.others.weight.zero_()
    positions, after = arrive(net, (system, momenta, masses))
    assert_close(positions, system.positions + STRIDE * momenta / masses.unsqueeze(1), absolute=1e-12)
    assert_close(after, momenta, absolute=1e-12)


@pytest.mark.parametrize(("residual", "mass_scaled"), [(False, True), (True, False)])
def test_ablations_give_something_else(residual, mass_scaled):
    state = moving(random_box(1))
    usual = arrive(tiny_attention(), state)[1]
    other = arrive(tiny_attention(residual=residual, mass_scaled=mass_scaled), state)[1]
    assert bool(torch.isfinite(other).all()) and float((usual - other).abs().max()) > 1e-2


def test_heads_must_divide_the_width():
    with pytest.raises(BadInput, match="divisor"):
        OneStepAttentionSettings(elements=LIPSCL, width=10, heads=4)
