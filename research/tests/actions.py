"""A small generating function with every weight random, and how its map is judged."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from mdistill.graph import build_graph, concatenate
from mdistill.types import System
from research.action_net import ActionNet, Increments, SolverSettings, solve
from research.action_settings import ActionSettings
from systems import LIPSCL, tiny_net

EXACT = SolverSettings(tolerance=1e-13, most_evaluations=200)


def tiny_action(seed: int = 0, *, stride_fs: float = 4.0) -> ActionNet:
    """Strong enough that the motion's energy turns a stride about as much as the potential does."""
    settings = ActionSettings(
        elements=LIPSCL, stride_fs=stride_fs, channels=4, radial=5, hidden=8, motion_channels=3, motion_radial=3, motion_hidden=6
    )
    net = ActionNet(settings, seed=seed)
    net.begin_as(tiny_net(seed))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in (net.motion.last.weight, net.motion.last.bias, net.motion.first.bias):
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        net.motion.mean[..., : net.motion.at_rest] = 0.1
        net.motion.scale.fill_(0.5)
    return net.requires_grad_(False)


def increments_of(net: ActionNet, masses: Tensor) -> Increments:
    def at(middle: System, momenta: Tensor) -> tuple[Tensor, Tensor]:
        copies = len(momenta) // len(masses)
        with torch.no_grad():
            return net.increments(build_graph(middle, net.cutoff), momenta, masses.repeat(copies))

    return at


def phase_point(system: System, *, seed: int = 0, speed: float = 0.02) -> tuple[Tensor, Tensor]:
    """Momenta of random velocities of this size (Å/fs), and masses."""
    generator = torch.Generator().manual_seed(seed)
    masses = 1.0 + 30.0 * torch.rand(system.n_atoms, generator=generator, dtype=torch.float64)
    return masses.unsqueeze(1) * speed * torch.randn(system.n_atoms, 3, generator=generator, dtype=torch.float64), masses


def symplectic_defect(increments: Increments, system: System, momenta: Tensor, masses: Tensor, stride_fs: float) -> float:
    """max |JᵀΩJ − Ω| of the solved map in positions and mass-scaled momenta t p/m̄, J by central differences of sixth order."""
    scale = float(masses.mean()) / stride_fs
    width, step = 6 * system.n_atoms, 2e-3
    moves = torch.eye(width, dtype=torch.float64).reshape(width, 2, system.n_atoms, 3)
    weights = {1: 0.75, 2: -0.15, 3: 1.0 / 60.0}
    jacobian = torch.zeros(width, width, dtype=torch.float64)
    for count, weight in weights.items():
        for sign in (1.0, -1.0):
            by = sign * count * step * moves
            starts = concatenate([replace(system, positions=system.positions + move[0]) for move in by])
            begun = torch.cat([momenta + scale * move[1] for move in by])
            ends = solve(increments, starts, begun, masses.repeat(width), stride_fs, settings=EXACT)
            assert bool(ends.converged.all())
            both = torch.stack([ends.positions.reshape(width, -1, 3), ends.momenta.reshape(width, -1, 3) / scale], 1)
            jacobian += sign * weight / step * both.reshape(width, width).T
    half = width // 2
    one = torch.eye(half, dtype=torch.float64)
    form = torch.zeros(width, width, dtype=torch.float64)
    form[:half, half:], form[half:, :half] = one, -one
    return float((jacobian.T @ form @ jacobian - form).abs().max())
