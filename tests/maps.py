"""Small direct long-stride maps with random weights, states for them, and the exact flow of a stiff student."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import torch
from torch import Generator, Tensor

from mdistill.data.segments import Segment
from mdistill.derivatives import Conservative
from mdistill.nets.moment import MomentNet
from mdistill.nets.one_step import OneStepNet
from mdistill.nets.one_step_attention import OneStepAttentionNet
from mdistill.nets.settings import OneStepAttentionSettings, OneStepSettings
from mdistill.simulation.evaluator import Evaluator
from mdistill.simulation.initial_state import initial_state, standard_masses
from mdistill.simulation.langevin import Baoab
from mdistill.simulation.rollout import Collect, rollout
from mdistill.simulation.verlet import VelocityVerlet, evaluated
from mdistill.types import State, System
from systems import LIPSCL, random_box, tiny_net

KELVIN = 150.0


def tiny_direct(seed: int = 0, **size: object) -> OneStepNet:
    """Every weight random, strong enough that bugs show; taught by `tiny_net`."""
    potential = tiny_net(seed)
    chosen = {"strides_fs": (4.0, 16.0), "width": 8, "waves": 5, "learned": 3} | size
    net = OneStepNet(OneStepSettings(**chosen, potential=potential.settings), seed=seed)  # type: ignore[arg-type]
    net.start_from(potential)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if name.endswith("bias") or name in ("exchange.last.weight", "pull.last.weight"):
                weight.copy_((0.3 if name.endswith("bias") else 0.05) * torch.randn(weight.shape, generator=generator))
        net.scale.copy_(0.5 + torch.rand(net.scale.shape, generator=generator))
    return net


def tiny_attention(seed: int = 0, **size: object) -> OneStepAttentionNet:
    chosen = {"elements": LIPSCL, "strides_fs": (4.0, 16.0), "width": 8, "heads": 2} | size
    net = OneStepAttentionNet(OneStepAttentionSettings(**chosen), seed=seed)  # type: ignore[arg-type]
    with torch.no_grad():
        net.own.weight.mul_(10.0)
        net.others.weight.mul_(50.0)
    return net


def moving(system: System, *, seed: int = 0, kelvin: float = 600.0) -> tuple[System, Tensor, Tensor]:
    """Momenta with some drift, and masses none of which is standard."""
    generator = Generator().manual_seed(seed)
    masses = standard_masses(system) * (0.8 + 0.4 * torch.rand(system.n_atoms, generator=generator, dtype=torch.float64))
    state = initial_state(system, temperature_K=kelvin, generator=generator, masses=masses)
    return system, state.momenta + 0.01 * masses.unsqueeze(1), masses


def at_rest(system: System, *, seed: int = 0, kelvin: float = 300.0) -> State:
    return initial_state(system, temperature_K=kelvin, generator=Generator().manual_seed(seed))


def stiff_net() -> MomentNet:
    """A random student stiff enough that steps of 8 fs are too long for it."""
    net = tiny_net(3, hidden=0)
    net.scale.fill_(4.0)
    return net


@cache
def exact_flow(blocks: int = 24) -> tuple[Segment, ...]:
    """Segments of the exact flow of `stiff_net`, one of each block."""
    evaluate = Evaluator(Conservative(stiff_net()))
    generator = Generator().manual_seed(0)
    state = evaluated(initial_state(random_box(3, atoms=8), temperature_K=KELVIN, generator=generator), evaluate)
    warm = Baoab(evaluate=evaluate, time_step=1.0, temperature_K=KELVIN, friction_per_ps=50.0)
    exact = VelocityVerlet(evaluate=evaluate, time_step=1.0)
    segments = []
    state = rollout(state, warm, steps=200, generator=generator)
    for block in range(blocks):
        state = rollout(state, warm, steps=20, generator=generator)
        frames = Collect(every=4)
        frames(0, state)
        rollout(state, exact, steps=32, generator=generator, observers=[frames])
        run = frames.trajectory()
        assert run.momenta is not None
        segments.append(
            Segment(system=replace(state.system), masses=state.masses, positions=run.positions, momenta=run.momenta,
                    every_fs=4.0, temperature_K=KELVIN, block=block)
        )  # fmt: skip
    return tuple(segments)
