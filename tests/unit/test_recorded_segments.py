"""NVE trajectories from files as segments to learn strides from: the same flow, and runs that cannot be used are named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.io import write
from ase.units import fs
from torch import Generator

from mdistill.derivatives import Conservative
from mdistill.errors import BadInput
from mdistill.io.structures import to_atoms
from mdistill.labelling.segments import recorded_segments
from mdistill.labelling.settings import SegmentSettings
from mdistill.simulation.evaluator import make_evaluator
from mdistill.simulation.initial_state import initial_state, standard_masses
from mdistill.simulation.langevin import Baoab
from mdistill.simulation.rollout import Collect, rollout
from mdistill.simulation.settings import SimulateSettings
from mdistill.simulation.simulate import simulate
from mdistill.simulation.verlet import VelocityVerlet, evaluated
from mdistill.types import Trajectory
from mdistill.units import BOLTZMANN, KINETIC
from systems import random_box, tiny_net

BOX = random_box(1, atoms=24, length=8.5)
MASSES = standard_masses(BOX)
STUDENT = Conservative(tiny_net())
SETTINGS = SegmentSettings(frames=4)
EVERY, FRAMES = 8, 21


def run(*, friction_per_ps: float = 0.0) -> Trajectory:
    """Frames 4 fs apart, of NVE or of Langevin dynamics."""
    evaluate = make_evaluator(STUDENT, BOX)
    state = evaluated(initial_state(BOX, temperature_K=900.0, generator=Generator().manual_seed(0)), evaluate)
    nve = VelocityVerlet(evaluate=evaluate, time_step=0.5)
    bath = Baoab(evaluate=evaluate, time_step=0.5, temperature_K=900.0, friction_per_ps=friction_per_ps or 1.0)
    frames = Collect(every=EVERY)
    frames(0, state)
    steps = EVERY * (FRAMES - 1)
    rollout(state, bath if friction_per_ps else nve, steps=steps, generator=Generator().manual_seed(1), observers=[frames])
    return frames.trajectory()


def as_extxyz(trajectory: Trajectory, path: Path, *, momenta: bool = True) -> Path:
    """What another program would have written: wrapped coordinates, velocities in ASE's units."""
    assert trajectory.momenta is not None
    frames = []
    for positions, moving, time in zip(trajectory.positions, trajectory.momenta, trajectory.times, strict=True):
        atoms = to_atoms(replace(BOX, positions=positions))
        if momenta:
            atoms.set_velocities((moving / MASSES[:, None]).numpy() / fs)
        atoms.wrap()
        atoms.info["time_fs"] = float(time)
        frames.append(atoms)
    write(path, frames, format="extxyz")
    return path


def test_a_run_of_another_program_is_the_same_flow(tmp_path):
    flow = run()
    parts = recorded_segments([as_extxyz(flow, tmp_path / "nve.extxyz")], BOX, STUDENT, SETTINGS)
    assert [part.block for part in parts] == [0, 1, 2, 3] and {part.frames for part in parts} == {5}
    assert parts[0].every_fs == pytest.approx(4.0)
    assert flow.momenta is not None
    twice = KINETIC * (flow.momenta.square().sum(2) / MASSES).sum(1).mean()
    assert parts[0].temperature_K == pytest.approx(float(twice) / (BOLTZMANN * (3 * BOX.n_atoms - 3)), rel=1e-5)
    for part in parts:
        frames = slice(5 * part.block, 5 * part.block + 5)
        moved = part.positions - part.positions[:1] - (flow.positions[frames] - flow.positions[frames][:1])
        assert float(moved.abs().max()) < 1e-6
        np.testing.assert_allclose(part.momenta, flow.momenta[frames], atol=1e-7 * float(flow.momenta.abs().max()) + 1e-8)


def test_a_run_of_ours_is_taken_too(tmp_path):
    how = SimulateSettings(ensemble="nve", temperature_K=300.0, time_ps=0.08, equilibration_ps=0.0, time_step_fs=1.0,
                           every_fs=4.0)  # fmt: skip
    done = simulate(BOX, STUDENT, how, tmp_path / "nve")
    parts = recorded_segments([done.trajectory], BOX, STUDENT, SETTINGS)
    assert len(parts) == 4 and parts[0].momenta.abs().max() > 0.0


def test_runs_that_are_no_nve_flow_of_these_atoms_are_named(tmp_path):
    thermostatted = as_extxyz(run(friction_per_ps=50.0), tmp_path / "nvt.extxyz")
    with pytest.raises(BadInput, match=r"nvt.extxyz: total energy changes by"):
        recorded_segments([thermostatted], BOX, STUDENT, SETTINGS)
    flow = run()
    with pytest.raises(BadInput, match=r"still.extxyz: no momenta"):
        recorded_segments([as_extxyz(flow, tmp_path / "still.extxyz", momenta=False)], BOX, STUDENT, SETTINGS)
    whole = as_extxyz(flow, tmp_path / "nve.extxyz")
    with pytest.raises(BadInput, match=r"nve.extxyz: 21 frames, segments of 41"):
        recorded_segments([whole], BOX, STUDENT, SegmentSettings(frames=40))
    other = replace(BOX, numbers=torch.flip(BOX.numbers, [0]))
    with pytest.raises(BadInput, match=r"nve.extxyz: other atoms"):
        recorded_segments([whole], other, STUDENT, SETTINGS)
