"""How long a map's dynamics is judged: until the errors of its mean temperatures are small enough, and no longer."""

from __future__ import annotations

import pytest
import torch
from ase.build import bulk
from torch import Generator

from mdistill.derivatives import Conservative
from mdistill.graph import make_system
from mdistill.simulation.evaluate import Evaluator
from mdistill.simulation.start import initial_state
from mdistill.simulation.verlet import VelocityVerlet, evaluated
from mdistill.workflows.judge_stride import judged
from mdistill.workflows.stride_settings import JudgeSettings
from springs import NearestSprings

KELVIN, STEP_FS = 300.0, 4.0


@pytest.fixture
def springs():
    evaluate = Evaluator(Conservative(NearestSprings(length=3.5, cutoff=4.5)))
    atoms = bulk("Ar", "fcc", a=3.5 * 2**0.5, cubic=True)
    system = make_system(atoms.positions, atoms.numbers, atoms.cell.array, [True] * 3)
    start = initial_state(system, temperature_K=KELVIN, generator=Generator().manual_seed(0))
    return VelocityVerlet(evaluate=evaluate, time_step=STEP_FS), evaluated(start, evaluate)


def run(springs, limit_K: float, *, longer: bool = True):
    step, start = springs
    how = JudgeSettings(
        temperature_K=KELVIN, time_ps=0.8, longest_ps=2.0, every_fs=8.0, temperature_limit_K=limit_K, element_limit_K=limit_K
    )
    return judged(step, "Langevin", start, step.evaluate, how, longer=longer)


def test_it_goes_on_until_the_means_are_known_or_time_is_up(springs):
    short, long = run(springs, 1e5), run(springs, 0.01)
    assert (short.steps, long.steps) == (200, 500)
    assert short.temperatures["all"].samples == 20 and long.temperatures["all"].samples == 50
    between = run(springs, 1.2 * short.temperatures["all"].error)
    assert 200 < between.steps <= 500
    assert run(springs, 0.01, longer=False).steps == 200


def test_frames_are_those_of_the_time_asked_for(springs):
    short, long = run(springs, 1e5), run(springs, 0.01)
    assert short.trajectory is not None and long.trajectory is not None
    torch.testing.assert_close(long.trajectory.positions, short.trajectory.positions, rtol=0, atol=0)
