"""The equivariant direct map: symmetries, conserved momentum, free flight, the limit of short strides, gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from laws import assert_close, orthogonal
from maps import moving, tiny_direct
from mdistill.errors import BadInput
from mdistill.graph import build_graph, concatenate, make_system, split, turned
from mdistill.nets.one_step import OneStepNet
from mdistill.nets.settings import MomentSettings, OneStepSettings
from mdistill.types import System
from mdistill.units import ACCELERATION
from systems import LIPSCL, SYSTEMS, dimer, fcc, isolated_atom, random_box

STRIDE = 16.0


def arrive(net, state, stride=STRIDE):
    with torch.no_grad():
        return net(*state, stride)


def gained(net, state, stride=STRIDE):
    """[2, atom, 3] what differs from free flight: mass-weighted displacements over the stride, and momenta."""
    system, momenta, masses = state
    positions, after = arrive(net, state, stride)
    flown = (positions - system.positions) * masses.unsqueeze(1) / stride - momenta
    return torch.stack([flown, after - momenta])


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("reflect", [False, True])
def test_turning_the_state_turns_the_answer(name, reflect):
    net, (system, momenta, masses) = tiny_direct(), moving(SYSTEMS[name]())
    turn = orthogonal(3, reflect=reflect)
    positions, after = arrive(net, (system, momenta, masses))
    found, found_after = arrive(net, (turned(system, turn), momenta @ turn, masses))
    assert_close(found, positions @ turn, absolute=1e-10)
    assert_close(found_after, after @ turn, absolute=1e-10)


@pytest.mark.parametrize("name", SYSTEMS)
def test_momentum_and_centre_of_mass_are_exact(name):
    state = moving(SYSTEMS[name]())
    change = gained(tiny_direct(), state)
    assert_close(change.sum(1), torch.zeros(2, 3, dtype=torch.float64), absolute=1e-10)
    if len(state[2]) > 2:
        assert float(change.abs().max()) > 1e-3, "the map does nothing, so this tells nothing"


def test_order_translation_wrapping_and_boosts():
    net, (system, momenta, masses) = tiny_direct(), moving(random_box(1))
    positions, after = arrive(net, (system, momenta, masses))
    order = torch.randperm(system.n_atoms, generator=torch.Generator().manual_seed(1))
    mixed = replace(system, positions=system.positions[order], numbers=system.numbers[order])
    found, found_after = arrive(net, (mixed, momenta[order], masses[order]))
    assert_close(found, positions[order], absolute=1e-10)
    assert_close(found_after, after[order], absolute=1e-10)
    cells = torch.randint(-3, 4, (system.n_atoms, 3), generator=torch.Generator().manual_seed(2)).to(torch.float64)
    shift = cells @ system.cell[0] + torch.tensor([0.3, -7.7, 1.9], dtype=torch.float64)
    found, found_after = arrive(net, (replace(system, positions=system.positions + shift), momenta, masses))
    assert_close(found, positions + shift, absolute=1e-9)
    assert_close(found_after, after, absolute=1e-9)
    velocity = torch.tensor([0.01, 0.02, -0.03], dtype=torch.float64)
    found, found_after = arrive(net, (system, momenta + masses.unsqueeze(1) * velocity, masses))
    assert_close(found, positions + STRIDE * velocity, absolute=1e-10)
    assert_close(found_after, after + masses.unsqueeze(1) * velocity, absolute=1e-10)


@pytest.mark.parametrize("state", [moving(isolated_atom()), moving(dimer(3, 16, 8.0))], ids=["atom", "far pair"])
def test_what_is_alone_flies_freely(state):
    system, momenta, masses = state
    positions, after = arrive(tiny_direct(), state)
    assert torch.equal(positions, system.positions + STRIDE / masses.unsqueeze(1) * momenta)
    assert torch.equal(after, momenta)


def test_it_goes_over_into_newton_as_strides_get_short():
    """p' − p − A t F and what is left of the positions fall with t², the former's next order being −H v t²/2."""
    net = tiny_direct(strides_fs=(0.001, 16.0))
    state = moving(random_box(1))
    forces = net.forces(state[0])
    sizes = []
    for stride in (0.04, 0.004):
        change = gained(net, state, stride) - ACCELERATION * stride * torch.stack([0.5 * forces, forces])
        sizes.append(change.abs().amax((1, 2)))
    ratio = sizes[0] / sizes[1]
    assert bool((ratio > 80.0).all() & (ratio < 120.0).all()), ratio
    assert float(gained(net, state, 0.001).abs().max()) < 1e-4


def test_a_supercell_does_what_its_cell_does():
    for system in (random_box(2, atoms=3, length=3.7), fcc()):
        state = moving(system)
        positions, momenta = arrive(tiny_direct(), state)
        shift = system.cell[0, 0]
        double = System(
            positions=torch.cat([system.positions, system.positions + shift]),
            numbers=system.numbers.repeat(2),
            cell=system.cell * torch.tensor([[[2.0], [1.0], [1.0]]], dtype=torch.float64),
            pbc=system.pbc,
            owner=torch.zeros(2 * system.n_atoms, dtype=torch.int64),
        )
        found, found_momenta = arrive(tiny_direct(), (double, state[1].repeat(2, 1), state[2].repeat(2)))
        assert_close(found, torch.cat([positions, positions + shift]), absolute=1e-10)
        assert_close(found_momenta, momenta.repeat(2, 1), absolute=1e-10)


def test_batches_are_transparent():
    net, states = tiny_direct(), [moving(make(), seed=k) for k, make in enumerate(SYSTEMS.values())]
    batch = concatenate([s[0] for s in states])
    positions, momenta = arrive(net, (batch, torch.cat([s[1] for s in states]), torch.cat([s[2] for s in states])))
    parts, moved = split(replace(batch, positions=positions)), split(replace(batch, positions=momenta))
    for state, part, change in zip(states, parts, moved, strict=True):
        alone, alone_momenta = arrive(net, state)
        assert_close(part.positions, alone, absolute=1e-11)
        assert_close(change.positions, alone_momenta, absolute=1e-11)


def test_nothing_jumps_at_the_reach():
    net, gap = tiny_direct(), 1e-6
    answers = []
    for distance in (net.cutoff - gap, net.cutoff + gap):
        far = make_system([[0.0, 0, 0], [0, 0, 2.4], [0, 0, -distance]], [3, 16, 16], torch.zeros(3, 3), [False] * 3)
        answers.append(gained(net, moving(far)))
    assert_close(answers[0], answers[1], absolute=1e-6)


def test_isotopes_differ_by_what_vanishes_with_short_strides():
    """Of two isotopes at one velocity the same force acts; what differs between their impulses falls with t²."""
    net, (system, momenta, masses) = tiny_direct(strides_fs=(0.001, 16.0)), moving(random_box(1))
    heavy, doubled = masses.clone(), momenta.clone()
    heavy[0], doubled[0] = 2.0 * masses[0], 2.0 * momenta[0]

    def differ(stride):
        states = ((system, momenta, masses), (system, doubled, heavy))
        return float((gained(net, states[0], stride) - gained(net, states[1], stride)).abs().max())

    assert differ(16.0) > 1e-4
    assert 80.0 < differ(0.04) / differ(0.004) < 120.0


def test_gradients_reach_every_weight_through_two_strides():
    net, (system, momenta, masses) = tiny_direct(), moving(random_box(1, atoms=5), kelvin=100.0)
    names = [name for name, weight in net.named_parameters() if weight.requires_grad]
    weights = [dict(net.named_parameters())[name] for name in names]
    assert not any(name.startswith("potential") for name in names)

    def loss():
        positions, after = net(system, momenta, masses, STRIDE)
        positions, after = net(replace(system, positions=positions), after, masses, STRIDE)
        return (positions - system.positions).square().sum() + after.square().sum()

    gradients = torch.autograd.grad(loss(), weights)
    for name, gradient in zip(names, gradients, strict=True):
        assert float(gradient.abs().max()) > 0.0, name
    chosen = names.index("exchange.second.weight")
    step = 1e-5
    with torch.no_grad():
        weights[chosen][1, 2] += step
        up = loss()
        weights[chosen][1, 2] -= 2.0 * step
        down = loss()
    assert float((up - down) / (2.0 * step)) == pytest.approx(float(gradients[chosen][1, 2]), rel=1e-5)


def test_known_forces_and_neighbours_change_nothing():
    net, (system, momenta, masses) = tiny_direct(), moving(random_box(1))
    with torch.no_grad():
        plain = net.leap(system, momenta, masses, STRIDE)
        told = net.leap(system, momenta, masses, STRIDE, forces=net.forces(system), graph=build_graph(system, net.cutoff))
    assert torch.equal(plain.positions, told.positions) and torch.equal(plain.features, told.features)


def test_single_precision_is_close():
    net, state = tiny_direct(), moving(random_box(1))
    exact = gained(net, state)
    found = gained(net.in_type(torch.float32), state)
    assert_close(found, exact, absolute=2e-5, relative=2e-5)
    assert_close(found.sum(1), torch.zeros(2, 3, dtype=torch.float64), absolute=2e-5)


@pytest.mark.parametrize("stride", [3.0, 17.0])
def test_strides_outside_those_taught_are_refused(stride):
    with pytest.raises(BadInput, match="4 to 16 fs"):
        tiny_direct().check(stride)


@pytest.mark.parametrize("wrong", [{"strides_fs": ()}, {"strides_fs": (0.0,)}, {"cutoff": 0.0}, {"width": 1}, {"learned": 0}])
def test_impossible_sizes_are_refused(wrong):
    with pytest.raises(BadInput):
        OneStepSettings(potential=MomentSettings(elements=LIPSCL), **wrong)


def test_it_is_small():
    net = OneStepNet(OneStepSettings(potential=MomentSettings(elements=LIPSCL)))
    net.potential.requires_grad_(False)
    assert sum(p.numel() for p in net.parameters() if p.requires_grad) < 300_000
