"""Training of direct maps: they learn the exact flow, their files hold all of it, and random turns and reversals are what they say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from maps import exact_flow, stiff_net, tiny_attention, tiny_direct
from mdistill.errors import BadInput
from mdistill.nets.model_files import load_map, save_model
from mdistill.simulation.verlet import VelocityVerlet
from mdistill.training.settings import FitSettings, StrideSettings
from mdistill.training.stride import map_of, one_stride_errors, train_stride
from mdistill.training.stride_objective import StrideObjective, random_turn, turned_window
from mdistill.training.windows import join_windows, reversed_in_time, windows_of


def settings(net: str, steps: int, **changed) -> StrideSettings:
    fit = FitSettings(steps=steps, batch_size=8, learning_rate=1e-2, warmup=5, ema=0.9)
    return StrideSettings(**({"map": "one_step", "one_step_net": net, "stride_fs": 16.0, "fit": fit, "float64": True} | changed))  # type: ignore[arg-type]


@pytest.fixture
def student(tmp_path: Path) -> Path:
    save_model(tmp_path / "student.mdistill", stiff_net())
    return tmp_path / "student.mdistill"


@pytest.mark.slow
def test_a_direct_map_learns_what_free_flight_and_force_miss(student: Path, tmp_path: Path):
    flow = exact_flow()
    result = train_stride(flow, student, settings("equivariant", 150, shorter_fs=(8.0,)), tmp_path / "map")
    net = load_map(result.path)
    assert net.settings.strides_fs == (8.0, 16.0) and result.held_out_windows == 3 * (4 + 2)
    for stride in (8.0, 16.0):
        held_out = windows_of(flow[-3:], stride)
        before = one_stride_errors(map_of(stiff_net(), settings("equivariant", 1), held_out), held_out)
        after = one_stride_errors(net, held_out)
        assert after["momentum"] < 0.7 * before["momentum"] and after["position"] < 0.7 * before["position"]
    assert result.errors["momentum"] == pytest.approx(after["momentum"], rel=1e-9)
    assert bool((net.doubt.largest < 1e3).all()) and bool((net.doubt.calibration > 0.0).all())
    trained, start = dict(net.named_parameters()), dict(stiff_net().named_parameters())
    assert all(torch.equal(trained[f"potential.{name}"], weight) for name, weight in start.items())


def test_an_attention_map_learns(student: Path, tmp_path: Path):
    """Ten windows by heart: that is what so small a training shows of it."""
    flow, few = (
        exact_flow(3),
        settings("attention", 60, turning=False, fit=FitSettings(steps=60, batch_size=4, learning_rate=1e-2, ema=0.9)),
    )
    windows = windows_of(flow[:2], 16.0)
    before = one_stride_errors(map_of(stiff_net(), few, windows), windows)
    result = train_stride(flow, student, few, tmp_path / "map")
    after = one_stride_errors(load_map(result.path), windows)
    assert after["momentum"] < 0.35 * before["momentum"]


@pytest.mark.parametrize("make", [tiny_direct, tiny_attention])
def test_model_files_hold_all_of_a_map(make, tmp_path: Path):
    net = make(3)
    net.doubt.largest.fill_(0.25)
    save_model(tmp_path / "stride.mdistill", net)
    again = load_map(tmp_path / "stride.mdistill")
    assert again.settings == net.settings
    batch = join_windows(windows_of(exact_flow(3)[:2], 16.0))
    for one, other in zip(*(n(batch.system, batch.momenta, batch.masses, 16.0) for n in (net, again)), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(again.doubt.largest, net.doubt.largest)


def test_turns_are_orthogonal_uniform_and_both_handed():
    random = np.random.default_rng(0)
    turns = torch.stack([random_turn(random) for _ in range(400)])
    unit = torch.eye(3, dtype=torch.float64).expand_as(turns)
    assert torch.allclose(turns @ turns.transpose(1, 2), unit, atol=1e-12)
    assert 150 < int((torch.linalg.det(turns) > 0).sum()) < 250
    assert float(turns.mean(0).abs().max()) < 4.0 * (1.0 / 3.0 / 400.0) ** 0.5


def test_turning_does_nothing_to_an_equivariant_map():
    windows = windows_of(exact_flow(3)[:2], 16.0)
    for net, equal in ((tiny_direct(), True), (tiny_attention(), False)):
        losses = [float(StrideObjective(turning=turning, seed=1)(net, windows, 3)[0].detach()) for turning in (False, True)]
        assert (abs(losses[0] / losses[1] - 1.0) < 1e-9) == equal


def test_turned_and_reversed_windows_are_windows_of_the_same_flow():
    """Velocity Verlet's own windows, turned and run backwards, are met exactly by Verlet."""
    window = windows_of(exact_flow(3)[:1], 4.0)[1]
    turn = random_turn(np.random.default_rng(2))
    for other in (reversed_in_time(window), turned_window(window, turn), reversed_in_time(turned_window(window, turn))):
        positions, momenta = verlet(other)
        assert torch.allclose(positions, other.positions_after[0], atol=1e-9)
        assert torch.allclose(momenta, other.momenta_after[0], atol=1e-9)
    wrong = replace(window, momenta=-window.momenta)
    assert not torch.allclose(verlet(wrong)[0], wrong.positions_after[0], atol=1e-3)


def verlet(window):
    from mdistill.derivatives import Conservative
    from mdistill.simulation.evaluator import Evaluator
    from mdistill.types import State

    state = State(system=window.system, momenta=window.momenta, masses=window.masses)
    exact = VelocityVerlet(evaluate=Evaluator(Conservative(stiff_net())), time_step=1.0)
    for _ in range(4):
        state = exact.step(state, torch.Generator())
    return state.system.positions, state.momenta


def test_strides_in_one_batch_count_by_their_windows():
    net, windows = tiny_direct(), [windows_of(exact_flow(3)[:1], stride)[0] for stride in (4.0, 16.0)]
    objective = StrideObjective()
    apart = [objective(net, [w], -1) for w in windows]
    loss, measures = objective(net, [windows[0], windows[1], windows[1]], -1)
    assert float(loss) == pytest.approx((float(apart[0][0]) + 2.0 * float(apart[1][0])) / 3.0, rel=1e-9)
    squares = [part["momentum"] ** 2 for _, part in apart]
    assert measures["momentum"] == pytest.approx(((squares[0] + 2.0 * squares[1]) / 3.0) ** 0.5, rel=1e-9)


@pytest.mark.parametrize(
    "wrong", [{"map": "other"}, {"net": "other"}, {"shorter_fs": (16.0,)}, {"map": "splitting", "shorter_fs": (8.0,)}]
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(BadInput):
        settings(**({"net": "equivariant", "steps": 1} | wrong))
