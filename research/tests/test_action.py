"""The generating function: what its map conserves whatever its weights are, and what it is without a motion's energy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from actions import EXACT, increments_of, phase_point, symplectic_defect, tiny_action
from torch import Tensor

from laws import assert_close
from mdistill.derivatives import Conservative
from mdistill.errors import BadInput
from mdistill.graph import build_graph, concatenate, make_system
from mdistill.nets.model_files import load_map, load_net, save_model
from mdistill.types import System
from mdistill.units import ACCELERATION
from research.action_net import Increments, solve
from research.action_settings import ActionSettings
from systems import SYSTEMS, random_box

STRIDE = 4.0


def cluster() -> System:
    return random_box(4, atoms=5, length=4.5, periodic=False)


def triangle() -> System:
    positions = np.array([[0.0, 0, 0], [2.4, 0.1, 0], [1.0, 2.2, 0.3]])
    return make_system(positions, np.array([3, 16, 15]), np.zeros((3, 3)), [False] * 3)


def step(net, system: System, momenta: Tensor, masses: Tensor) -> tuple[Tensor, Tensor]:
    found = solve(increments_of(net, masses), system, momenta, masses, net.settings.stride_fs, settings=EXACT)
    assert bool(found.converged.all())
    return found.positions, found.momenta


def turned(increments: Increments, factor: float) -> Increments:
    """Planted: kicks that no longer belong to the same generating function as the moves."""

    def at(middle: System, momenta: Tensor) -> tuple[Tensor, Tensor]:
        moved, kicked = increments(middle, momenta)
        return moved, kicked + factor * momenta * momenta.norm()

    return at


def defect(net, change: Callable[[Increments], Increments] = lambda same: same) -> float:
    system = triangle()
    momenta, masses = phase_point(system)
    return symplectic_defect(change(increments_of(net, masses)), system, momenta, masses, net.settings.stride_fs)


def check_symplectic(found: float) -> None:
    assert found <= 1e-8


def test_the_solved_map_is_symplectic() -> None:
    check_symplectic(defect(tiny_action(stride_fs=STRIDE)))


@pytest.mark.planted
def test_symplectic_check_sees_kicks_of_another_function() -> None:
    with pytest.raises(AssertionError):
        check_symplectic(defect(tiny_action(stride_fs=STRIDE), lambda increments: turned(increments, 1e-4)))


def way_back(net) -> float:
    system = random_box(1)
    momenta, masses = phase_point(system)
    positions, after = step(net, system, momenta, masses)
    assert float((positions - system.positions).abs().max()) > 0.05
    back, reverse = step(net, replace(system, positions=positions), -after, masses)
    there = float((back - system.positions).abs().max())
    return max(there, float(((reverse + momenta) / masses.unsqueeze(1)).abs().max()) * STRIDE)


def test_the_solved_map_is_reversible() -> None:
    assert way_back(tiny_action(stride_fs=STRIDE)) <= 1e-11


@pytest.mark.planted
def test_reversibility_check_sees_a_term_odd_in_the_momenta(monkeypatch: pytest.MonkeyPatch) -> None:
    net = tiny_action(stride_fs=STRIDE)
    honest = net.motion.forward

    def odd(graph, vectors, moves):
        return honest(graph, vectors, moves) + 1e-3 * (vectors * moves).sum() / graph.system.n_atoms

    monkeypatch.setattr(net.motion, "forward", odd)
    assert way_back(net) > 1e-8


def test_momentum_and_angular_momentum_are_conserved_and_the_centre_of_mass_flies_freely() -> None:
    system, net = cluster(), tiny_action(stride_fs=STRIDE)
    momenta, masses = phase_point(system)
    positions, after = step(net, system, momenta, masses)
    assert float((after - momenta).abs().max()) > 2e-3
    assert_close(after.sum(0), momenta.sum(0), absolute=1e-13)
    spin = torch.linalg.cross(system.positions, momenta).sum(0)
    assert_close(torch.linalg.cross(positions, after).sum(0), spin, absolute=1e-11)
    moved = (masses.unsqueeze(1) * (positions - system.positions)).sum(0)
    assert_close(moved, STRIDE * momenta.sum(0), absolute=1e-11)


def test_the_map_turns_and_permutes_with_the_structure() -> None:
    system, net = cluster(), tiny_action(stride_fs=STRIDE)
    momenta, masses = phase_point(system)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    order = torch.tensor([2, 0, 4, 3, 1])
    start = replace(system, positions=(system.positions @ turn)[order] + 7.0, numbers=system.numbers[order])
    expected = step(net, system, momenta, masses)
    found = step(net, start, (momenta @ turn)[order], masses[order])
    assert_close(found[0], (expected[0] @ turn)[order] + 7.0, absolute=1e-10)
    assert_close(found[1], (expected[1] @ turn)[order], absolute=1e-10)


def test_structures_side_by_side_do_not_see_each_other() -> None:
    """Unequal sizes, an isolated atom among them, which flies freely."""
    parts, net = [cluster(), SYSTEMS["isolated atom"](), random_box(1)], tiny_action(stride_fs=STRIDE)
    points = [phase_point(part, seed=k) for k, part in enumerate(parts)]
    together = concatenate(parts)
    momenta, masses = (torch.cat(column) for column in zip(*points, strict=True))
    positions, after = step(net, together, momenta, masses)
    alone = [step(net, part, *point) for part, point in zip(parts, points, strict=True)]
    assert_close(positions, torch.cat([a[0] for a in alone]), absolute=1e-11)
    assert_close(after, torch.cat([a[1] for a in alone]), absolute=1e-11)
    assert_close(alone[1][0], parts[1].positions + STRIDE * points[1][0] / points[1][1].unsqueeze(1), absolute=1e-15)
    assert_close(alone[1][1], points[1][0], absolute=0.0)


def test_without_a_motions_energy_it_is_the_implicit_midpoint_rule() -> None:
    """Against q̄ ← q + (t/2)(p + (t/2) F(q̄))/m iterated plainly."""
    net, system, t = tiny_action(stride_fs=1.5), random_box(1), 1.5
    torch.nn.init.zeros_(net.motion.last.weight)
    torch.nn.init.zeros_(net.motion.last.bias)
    momenta, masses = phase_point(system)
    potential, middle, column = Conservative(net.potential), system.positions, masses.unsqueeze(1)
    for _ in range(60):
        kick = t * ACCELERATION * potential(build_graph(replace(system, positions=middle), net.cutoff)).forces
        middle = system.positions + 0.5 * t * (momenta + 0.5 * kick) / column
    positions, after = net(system, momenta, masses, t)
    assert_close(positions, 2.0 * middle - system.positions, absolute=1e-7)
    assert_close(after, momenta + kick, absolute=1e-6)


def test_increments_are_derivatives_of_one_action() -> None:
    """∂S/∂p̄ and −∂S/∂q̄ by central differences of t (K + V + W)."""
    system, net = triangle(), tiny_action(stride_fs=STRIDE)
    momenta, masses = phase_point(system)

    def action(positions: Tensor, mean: Tensor) -> float:
        graph = build_graph(replace(system, positions=positions), net.cutoff)
        edges = positions[graph.sender] - positions[graph.receiver]
        moves = STRIDE * mean / masses.unsqueeze(1)
        energy = net.potential(graph, edges).sum() + net.motion(graph, edges, moves[graph.sender] - moves[graph.receiver]).sum()
        return float(STRIDE * (ACCELERATION * energy + (0.5 * mean.square().sum(1) / masses).sum()))

    moved, kicked = net.increments(build_graph(system, net.cutoff), momenta, masses)
    for atom, axis in ((0, 0), (1, 2), (2, 1)):
        for which, found, size in ((0, -kicked, 1e-5), (1, moved, 1e-4)):
            by = [torch.zeros(3, 3, dtype=torch.float64) for _ in range(2)]
            by[which][atom, axis] = size
            up = action(system.positions + by[0], momenta + by[1])
            down = action(system.positions - by[0], momenta - by[1])
            assert abs((up - down) / (2.0 * size) - float(found[atom, axis])) < 1e-7


def test_a_motions_energy_is_even_and_zero_at_rest_and_smooth_at_the_cutoff() -> None:
    net = tiny_action()
    for name, make in SYSTEMS.items():
        system = make()
        graph = build_graph(system, net.cutoff)
        vectors = system.positions[graph.sender] + graph.shift @ system.cell[0] - system.positions[graph.receiver]
        moves = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        energy = net.motion(graph, vectors, moves)
        assert len(vectors) == 0 or float(energy.abs().max()) > 1e-3, name
        assert_close(net.motion(graph, vectors, -moves), energy, absolute=0.0)
        assert_close(net.motion(graph, vectors, 0.0 * moves), 0.0 * energy, absolute=0.0)
        far = net.motion(graph, vectors * (net.cutoff - 1e-3) / vectors.norm(dim=1, keepdim=True), moves)
        assert float(far.abs().sum()) < 1e-6, name


def test_a_model_file_gives_back_the_same_map(tmp_path: Path) -> None:
    system, net = random_box(1), tiny_action(stride_fs=STRIDE)
    momenta, masses = phase_point(system)
    path = tmp_path / "stride.mdistill"
    save_model(path, net.folded(), {})
    again = load_map(path)
    assert again.settings == net.settings
    assert again.settings.strides_fs == (STRIDE,)
    for found, expected in zip(again(system, momenta, masses, STRIDE), net(system, momenta, masses, STRIDE), strict=True):
        assert torch.equal(found, expected)
    with pytest.raises(BadInput, match="action"):
        load_net(path)
    with pytest.raises(BadInput, match="4 fs"):
        again(system, momenta, masses, 8.0)


def test_settings_are_checked() -> None:
    for wrong in ({"stride_fs": 0.0}, {"motion_channels": 0}, {"motion_hidden": 5000}, {"cutoff": 0.5}):
        with pytest.raises(BadInput):
            ActionSettings(elements=(3,), **wrong)
