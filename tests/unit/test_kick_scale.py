"""The scale of a map's kicks: found again where it was spoilt, left alone where nothing is known or nothing is wrong."""

from __future__ import annotations

import pytest

from mdistill.data.relax import relax
from mdistill.derivatives import Conservative
from mdistill.estimates import Estimate
from mdistill.judge import kick_scale
from mdistill.judge.dynamics import Judged
from mdistill.judge.kick_scale import kick_factor, set_kick_scale
from mdistill.judge.settings import JudgeSettings, StrideRungSettings
from mdistill.kernels import build
from mdistill.nets.compiled import compiled
from mdistill.nets.moment import MomentNet
from mdistill.nets.one_step import OneStepNet
from mdistill.nets.settings import OneStepSettings
from mdistill.nets.splitting_map import SplittingMap
from mdistill.training.settings import StrideSettings
from mdistill.training.splitting_map import splitting_map_of
from mdistill.types import System
from systems import random_box, tiny_net

KELVIN, STRIDE_FS = 10.0, 2.0


@pytest.fixture(scope="module")
def student() -> MomentNet:
    """A random student, stiff enough to be a solid in which no two atoms come as near as its core reaches."""
    net = tiny_net(1, hidden=0)
    net.scale.fill_(40.0)
    return net


@pytest.fixture(scope="module")
def rest(student) -> System:
    return relax(random_box(1, atoms=8, periodic=False), Conservative(student), max_steps=300, largest_force=0.01)[0]


def settings(time_ps: float = 20.0) -> StrideRungSettings:
    judge = JudgeSettings(temperature_K=KELVIN, time_ps=time_ps, longest_ps=time_ps, equilibration_ps=2.0, time_step_fs=0.5)
    return StrideRungSettings(train=StrideSettings(stride_fs=STRIDE_FS, kicks=2), judge=judge)


def spoilt(student: MomentNet, factor: float) -> SplittingMap:
    """Velocity Verlet of 1 fs with forces that are so many times the student's."""
    net = splitting_map_of(student, settings().train)
    net.scale_kicks(factor)
    return net


@pytest.mark.skipif(build.compiler() is None, reason="no C++ compiler here, and 100,000 steps in plain Python")
@pytest.mark.parametrize("factor", [pytest.param(0.85, marks=pytest.mark.slow), 1.0, pytest.param(1.1, marks=pytest.mark.slow)])
def test_it_finds_the_scale_that_small_steps_have(student, rest, factor):
    net = spoilt(student, factor)
    found = set_kick_scale(net, compiled(Conservative(student), double=True), rest, settings())
    assert found["factor"] * factor == pytest.approx(1.0, abs=0.03)
    for stage in net.stages:
        assert float(stage.scale / student.scale) == pytest.approx(found["factor"] * factor, rel=1e-9)
    off, error = found["off_K"], found["off_error_K"]
    assert (off < -5 * error) if factor < 1.0 else (off > 5 * error) if factor > 1.0 else abs(off) < 4 * error + 0.1


def test_what_was_found_is_not_looked_for_again(student, rest, tmp_path, monkeypatch):
    how, kept, asked = settings(1.0), tmp_path, []
    potential = compiled(Conservative(student), double=True)

    def runs(*_args, **_how):
        asked.append(1)
        hotter = 0.1 * (len(asked) == 2)
        return Judged(temperatures={"all": Estimate(value=KELVIN + hotter, error=0.01, unit="K")})

    monkeypatch.setattr(kick_scale, "judged", runs)
    first, again, longer = (spoilt(student, 1.0) for _ in range(3))
    found = set_kick_scale(first, potential, rest, how, kept)
    assert found["factor"] == pytest.approx(0.98, abs=1e-3) and len(asked) == 3
    assert set_kick_scale(again, potential, rest, how, kept) == found and len(asked) == 3
    assert again.stages[0].scale.equal(first.stages[0].scale) and again.largest_force.equal(first.largest_force)
    assert set_kick_scale(longer, potential, rest, settings(2.0), kept)["factor"] == 1.0 and len(asked) > 3


def test_a_map_without_kicks_is_left_alone(student, rest):
    net = OneStepNet(OneStepSettings(strides_fs=(STRIDE_FS,), potential=student.settings))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert set_kick_scale(net, Conservative(student), rest, settings()) == {}
    assert all(value.equal(before[name]) for name, value in net.state_dict().items())


def test_a_map_that_breaks_is_left_alone(student, rest):
    net = spoilt(student, 1.0)
    net.scale_kicks(1e4)
    assert set_kick_scale(net, compiled(Conservative(student), double=True), rest, settings(1.0)) == {}
    assert float(net.stages[0].scale / student.scale) == pytest.approx(1e4)


def test_noise_moves_nothing_and_a_sure_shift_everything():
    def factor(off: float, error: float | None) -> float:
        return kick_factor(Estimate(value=off, error=error, unit="K"), 600.0)

    assert factor(-1.5, 2.0) == factor(1.5, 1.6) == factor(-3.0, None) == 1.0
    assert factor(-1.5, 1e-6) == pytest.approx(1.005)
    assert factor(1.5, 0.75) == pytest.approx(1.0 - 0.005 * 0.75)
    assert factor(-1e3, 1.0) == 1.1
    assert kick_factor(Estimate(value=-1.0, error=0.1, unit="K"), 0.0) == 1.0
