"""Laws of the long-stride map: symplectic, turned and permuted with the structure, momentum kept, Verlet where all kicks are alike."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from laws import assert_close, orthogonal
from mdistill.derivatives import Conservative
from mdistill.errors import BadInput
from mdistill.nets.splitting_map import SplittingMap
from mdistill.simulation.evaluator import Evaluator
from mdistill.simulation.initial_state import initial_state
from mdistill.simulation.verlet import VelocityVerlet
from mdistill.types import State, System
from systems import random_box, tiny_map, tiny_net

DOUBLE = torch.float64
Pair = tuple[Tensor, Tensor]


def warm(system: System | None = None) -> State:
    system = system or random_box(21, atoms=12, length=7.0, closest=2.3)
    state = initial_state(system, temperature_K=900.0, generator=torch.Generator().manual_seed(2))
    return replace(state, momenta=state.momenta + torch.tensor([0.1, -0.05, 0.02], dtype=DOUBLE))


def stride(net: SplittingMap, state: State) -> Pair:
    with torch.no_grad():
        return net(state.system, state.momenta, state.masses, net.settings.stride_fs)


def symplectic_error(step, state: State) -> float:
    """max |JᵀΩJ − Ω| of one stride, J by central differences in (q, p) of unit scale."""
    n = 3 * state.system.n_atoms
    scale = torch.cat([torch.full((n,), 0.1, dtype=DOUBLE), torch.full((n,), 0.1, dtype=DOUBLE)])

    def mapped(point: Tensor) -> Tensor:
        positions, momenta = (scale * point).view(2, -1, 3)
        moved = replace(state, system=replace(state.system, positions=positions), momenta=momenta)
        return torch.cat([part.flatten() for part in step(moved)]) / scale

    start = torch.cat([state.system.positions.flatten(), state.momenta.flatten()]) / scale
    gap = 1e-5
    columns = [(mapped(start + gap * way) - mapped(start - gap * way)) / (2.0 * gap) for way in torch.eye(2 * n, dtype=DOUBLE)]
    jacobian = torch.stack(columns, dim=1)
    omega = torch.zeros((2 * n, 2 * n), dtype=DOUBLE)
    omega[:n, n:], omega[n:, :n] = torch.eye(n, dtype=DOUBLE), -torch.eye(n, dtype=DOUBLE)
    assert float((jacobian - torch.eye(2 * n, dtype=DOUBLE)).abs().max()) > 0.1
    return assert_close(jacobian.T @ omega @ jacobian, omega, absolute=1e-7)


@pytest.mark.parametrize("kicks", [2, 3])
def test_the_map_is_symplectic(kicks, trust):
    net, state = tiny_map(kicks=kicks, apart=0.3), warm(random_box(9, atoms=3, length=4.5))
    worst = symplectic_error(lambda moved: stride(net, moved), state)
    trust("S", f"long stride of {kicks} kicks: JᵀΩJ − Ω, J by central differences", worst, "1e-7")


@pytest.mark.planted
def test_a_small_loss_of_momentum_is_noticed(trust):
    net, state = tiny_map(apart=0.3), warm(random_box(9, atoms=3, length=4.5))

    def damped(moved: State) -> Pair:
        positions, momenta = stride(net, moved)
        return positions, 0.99999 * momenta

    with pytest.raises(AssertionError):
        symplectic_error(damped, state)
    trust("S", "a long stride that loses 1e-5 of its momenta", "caught", "caught", planted=True)


def test_the_way_back_is_the_way_there():
    net, state = tiny_map(kicks=3), warm()
    positions, momenta = stride(net, state)
    back = stride(net, replace(state, system=replace(state.system, positions=positions), momenta=-momenta))
    assert_close(back[0], state.system.positions, absolute=1e-11)
    assert_close(-back[1], state.momenta, absolute=1e-11)


def test_momentum_and_angular_momentum_are_conserved():
    net, state = tiny_map(kicks=4), warm(random_box(4, periodic=False))
    positions, momenta = stride(net, state)
    assert_close(momenta.sum(0), state.momenta.sum(0), absolute=1e-12)
    before = torch.linalg.cross(state.system.positions, state.momenta).sum(0)
    assert_close(torch.linalg.cross(positions, momenta).sum(0), before, absolute=1e-10)


@pytest.mark.parametrize("reflect", [False, True])
def test_it_turns_with_the_structure(reflect):
    net, state, q = tiny_map(), warm(), orthogonal(3, reflect=reflect)
    system = replace(state.system, positions=state.system.positions @ q, cell=state.system.cell @ q)
    turned = stride(net, replace(state, system=system, momenta=state.momenta @ q))
    for found, expected in zip(turned, stride(net, state), strict=True):
        assert_close(found, expected @ q, absolute=1e-10)


def test_it_does_not_ask_for_the_order_of_atoms_or_where_they_are():
    net, state = tiny_map(), warm()
    positions, momenta = stride(net, state)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    system = replace(state.system, positions=state.system.positions[order], numbers=state.system.numbers[order])
    mixed = stride(net, replace(state, system=system, momenta=state.momenta[order], masses=state.masses[order]))
    assert_close(mixed[0], positions[order], absolute=1e-11)
    assert_close(mixed[1], momenta[order], absolute=1e-11)
    away = torch.tensor([0.3, -7.7, 1.9], dtype=DOUBLE)
    cells = torch.randint(-3, 4, (12, 3), generator=torch.Generator().manual_seed(2)).to(DOUBLE) @ state.system.cell[0]
    shifted = replace(state.system, positions=state.system.positions + away + cells)
    moved = stride(net, replace(state, system=shifted))
    assert_close(moved[0] - away - cells, positions, absolute=1e-10)
    assert_close(moved[1], momenta, absolute=1e-10)


@pytest.mark.parametrize("kicks", [1, 2, 5])
def test_equal_kicks_are_velocity_verlet(kicks):
    net, state = tiny_map(kicks=kicks, stride_fs=2.0 * kicks, apart=0.0), warm()
    positions, momenta = stride(net, state)
    verlet, now = VelocityVerlet(evaluate=Evaluator(Conservative(tiny_net())), time_step=2.0), state
    for _ in range(kicks):
        now = verlet.step(now, torch.Generator())
    assert_close(positions, now.system.positions, absolute=1e-11)
    assert_close(momenta, now.momenta, absolute=1e-11)


def test_two_kicks_meet_a_harmonic_mode_exactly():
    """K = 2: two force constants give cos ωt and sin(ωt)/ω, as the module says."""
    omega, time = 0.1, 16.0
    h, c, s = 0.5 * time, math.cos(omega * time), math.sin(omega * time)
    inner = (2.0 - s / (omega * h)) / h**2
    outer = 2.0 * (1.0 - (c + 1.0) / (2.0 - h**2 * inner)) / h**2
    fly = torch.tensor([[1.0, h], [0.0, 1.0]], dtype=DOUBLE)
    half, whole = (torch.tensor([[1.0, 0.0], [-h * k, 1.0]], dtype=DOUBLE) for k in (0.5 * outer, inner))
    exact = torch.tensor([[c, s / omega], [-omega * s, c]], dtype=DOUBLE)
    assert_close(half @ fly @ whole @ fly @ half, exact, absolute=1e-12)


def test_folding_changes_nothing_and_another_stride_is_refused():
    net, state = tiny_map(), warm()
    net.largest_force.fill_(7.0)
    folded = net.folded()
    for found, expected in zip(stride(folded, state), stride(net, state), strict=True):
        assert_close(found, expected, absolute=1e-12)
    assert torch.equal(folded.largest_force, net.largest_force)
    with pytest.raises(BadInput, match="8 fs"):
        net(state.system, state.momenta, state.masses, 9.0)
    single = tiny_map().in_type(torch.float32)
    assert stride(single, state)[0].dtype == DOUBLE
    with pytest.raises(BadInput, match="potential"):
        net.begin_as(tiny_net(channels=5))
