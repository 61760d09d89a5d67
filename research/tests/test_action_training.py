"""Training a generating function on a tiny crystal: it learns, resumes nothing it should not, and refuses what it cannot do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Generator

from laws import assert_close
from mdistill.data.segments import Segment
from mdistill.derivatives import Conservative
from mdistill.errors import BadInput
from mdistill.graph import concatenate, edge_vectors, make_system, split
from mdistill.nets.model_files import load_map, save_model
from mdistill.nets.moment import MomentNet
from mdistill.simulation.evaluator import Evaluator
from mdistill.simulation.initial_state import initial_state
from mdistill.simulation.verlet import VelocityVerlet
from mdistill.training.settings import FitSettings, StrideSettings
from mdistill.training.stride import one_stride_errors
from mdistill.training.windows import join_windows, reversed_in_time, windows_of
from mdistill.types import System
from research.action_objective import ActionObjective, middle_of
from research.train_action import action_of, calibrate_motion, train_action
from systems import tiny_net, tiny_painn

SPACING, PER_FRAME, KELVIN = 10.0, 16, 400.0


def repulsive() -> MomentNet:
    """A potential that is its core alone, reaching the nearest neighbours of `crystal`."""
    net = tiny_net()
    torch.nn.init.zeros_(net.last.weight)
    net.core.outer.fill_(4.6)
    return net


def crystal() -> System:
    """Face-centred cubic, four atoms of three elements, which repel each other."""
    corners = 3.7 * np.array([[0.0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    return make_system(corners, np.array([15, 16, 17, 16]), 3.7 * np.eye(3), [True] * 3)


@pytest.fixture(scope="module")
def potential(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("potential") / "student.mdistill"
    save_model(path, repulsive())
    return path


@pytest.fixture(scope="module")
def segments() -> list[Segment]:
    """Sixteen copies of a crystal, with other momenta each, run side by side for 8 frames after 3 of equilibration."""
    boxes = concatenate([crystal()] * 16)
    verlet = VelocityVerlet(evaluate=Evaluator(Conservative(repulsive())), time_step=SPACING / PER_FRAME)
    state, frames = initial_state(boxes, temperature_K=2.0 * KELVIN, generator=Generator().manual_seed(0)), []
    for k in range(160):
        state = verlet.step(state, Generator())
        if k >= 47 and (k - 47) % PER_FRAME == 0:
            frames.append(state)
    positions, momenta = (torch.stack(column) for column in zip(*[(s.system.positions, s.momenta) for s in frames], strict=True))
    found = []
    for block, system in enumerate(split(boxes)):
        own = boxes.owner == block
        found.append(
            Segment(system=replace(system, positions=positions[0, own]), masses=state.masses[own], positions=positions[:, own],
                    momenta=momenta[:, own], every_fs=SPACING, temperature_K=KELVIN, block=block)
        )  # fmt: skip
    return found


def test_training_brings_the_map_nearer_to_the_exact_flow(potential: Path, segments: list[Segment], tmp_path: Path) -> None:
    settings = StrideSettings(
        stride_fs=SPACING, held_out=0.25, float64=True, fit=FitSettings(steps=100, batch_size=8, learning_rate=4e-3, warmup=10)
    )
    result = train_action(segments, potential, settings, tmp_path)
    net = load_map(result.path)
    held_out = windows_of(segments[-4:], SPACING)
    midpoint = one_stride_errors(action_of(repulsive(), SPACING), held_out)
    assert result.errors["momentum"] < 0.75 * midpoint["momentum"]
    assert result.errors["position"] < 0.75 * midpoint["position"]
    assert one_stride_errors(net, held_out) == result.errors
    assert float(net.motion.last.weight.abs().max()) > 0.0


def test_before_training_the_motion_is_silent_and_calibrated(potential: Path, segments: list[Segment]) -> None:
    windows = windows_of(segments, SPACING)
    net = action_of(repulsive(), SPACING)
    calibrate_motion(net, windows)
    batch = join_windows(windows)
    graph, momenta = middle_of(batch, net.cutoff)
    moves = SPACING * momenta / batch.masses.unsqueeze(1)
    moving = moves[graph.sender] - moves[graph.receiver]
    invariants = net.motion.invariants(graph, edge_vectors(graph), moving)
    assert float(net.motion(graph, edge_vectors(graph), moving).detach().abs().max()) == 0.0
    own = net.potential.species(batch.system.numbers) == int(net.potential.species(batch.system.numbers)[0])
    place = int(net.potential.species(batch.system.numbers)[0])
    x = ((invariants[own] - net.motion.mean[place, 0]) / net.motion.spread[place, 0]).detach()
    assert 0.5 < float(x.square().mean()) < 2.0
    assert_close(net.motion.mean[place, 0, net.motion.at_rest :], torch.zeros(15 * 8, dtype=torch.float64), absolute=0.0)


def test_a_window_run_backwards_has_the_same_error(potential: Path, segments: list[Segment]) -> None:
    windows = windows_of(segments[:2], SPACING)
    net = action_of(repulsive(), SPACING)
    there = ActionObjective()(net, windows, -1)[0]
    back = ActionObjective()(net, [reversed_in_time(w) for w in windows], -1)[0]
    assert_close(back, there, absolute=1e-12)
    assert float(there) > 1e-4


def test_what_it_cannot_do_is_refused(potential: Path, segments: list[Segment], tmp_path: Path) -> None:
    for changes in ({"strides": 2}, {"energy_weight": 1.0}):
        with pytest.raises(BadInput, match="midpoints"):
            train_action(segments, potential, StrideSettings(stride_fs=SPACING, **changes), tmp_path)
    other = tmp_path / "other.mdistill"
    save_model(other, tiny_painn())
    with pytest.raises(BadInput, match="moment"):
        train_action(segments, other, StrideSettings(stride_fs=SPACING), tmp_path)
