"""Segments of NVE dynamics: frames a stride apart, cut from trajectories, kept on disk."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mdistill.data.segments import Segment, cut, frames_apart, read_segments, write_segments
from mdistill.data.split import split_segments
from mdistill.errors import BadInput
from mdistill.simulation.initial_state import standard_masses
from mdistill.training.windows import join_windows, reversed_in_time, windows_of
from mdistill.types import Trajectory
from systems import random_box

BOX = random_box(1)
MASSES = standard_masses(BOX)


def straight(frames: int = 9, *, spacing: float = 4.0, kelvin: float = 300.0, block: int = 0, seed: int = 0) -> Segment:
    """Free flight: the exact flow without forces."""
    momenta = torch.from_numpy(np.random.default_rng(seed).normal(size=(BOX.n_atoms, 3)))
    times = spacing * torch.arange(frames, dtype=torch.float64)
    positions = BOX.positions + times[:, None, None] * momenta / MASSES[:, None]
    return Segment(
        system=BOX, masses=MASSES, positions=positions, momenta=momenta.expand(frames, -1, -1).clone(), every_fs=spacing,
        temperature_K=kelvin, block=block,
    )  # fmt: skip


def test_a_stride_is_a_multiple_of_the_spacing():
    assert frames_apart(straight(), 16.0) == 4
    for stride in (6.0, 2.0, 36.0, 0.0):
        with pytest.raises(BadInput, match="multiples of 4 fs up to 32 fs"):
            frames_apart(straight(), stride)


def test_windows_hold_the_flow_and_their_twins_run_it_backwards():
    windows = windows_of([straight()], 8.0, strides=2, every_fs=4.0)
    assert len(windows) == 5
    for window in windows:
        for k in range(2):
            flown = window.system.positions + 8.0 * (k + 1) * window.momenta / MASSES[:, None]
            torch.testing.assert_close(window.positions_after[k], flown)
        twin = reversed_in_time(window)
        torch.testing.assert_close(twin.system.positions, window.positions_after[-1])
        torch.testing.assert_close(twin.positions_after[-1], window.system.positions)
        flown = twin.system.positions + 8.0 * twin.momenta / MASSES[:, None]
        torch.testing.assert_close(twin.positions_after[0], flown)
        again = reversed_in_time(twin)
        torch.testing.assert_close(again.momenta_after, window.momenta_after)
    batch = join_windows(windows[:2])
    assert batch.system.n_structs == 2 and batch.positions_after.shape == (2, 2 * BOX.n_atoms, 3)
    torch.testing.assert_close(batch.positions_after[:, BOX.n_atoms :], windows[1].positions_after)


def test_what_is_written_is_read_and_damage_is_noticed(tmp_path):
    path = tmp_path / "segments.npz"
    segments = [straight(seed=k, block=k) for k in range(3)]
    write_segments(path, segments)
    for old, new in zip(segments, read_segments(path), strict=True):
        torch.testing.assert_close(new.positions, old.positions, rtol=0, atol=0)
        torch.testing.assert_close(new.momenta, old.momenta, rtol=0, atol=0)
        torch.testing.assert_close(new.system.cell, old.system.cell, rtol=0, atol=0)
        assert (new.block, new.temperature_K, new.every_fs) == (old.block, old.temperature_K, old.every_fs)
    held = dict(np.load(path))
    held["momenta"][1, 2, 3, 0] += 1e-9
    np.savez(path, **held)
    with pytest.raises(BadInput, match="sha256"):
        read_segments(path)
    with pytest.raises(BadInput, match="no usable segments"):
        read_segments(tmp_path / "none.npz")


def test_a_trajectory_from_elsewhere_is_cut_into_blocks():
    whole = straight(frames=20)
    run = Trajectory(
        numbers=BOX.numbers,
        positions=whole.positions,
        cell=BOX.cell.expand(20, 3, 3),
        times=4.0 * torch.arange(20, dtype=torch.float64),
        momenta=whole.momenta,
    )
    parts = cut(run, BOX, MASSES, frames=6, temperature_K=300.0)
    assert [part.block for part in parts] == [0, 1, 2] and parts[0].every_fs == 4.0
    torch.testing.assert_close(parts[2].positions, whole.positions[12:18])
    late = run.times.clone()
    late[7] += 0.5
    stretched = run.cell.clone()
    stretched[3] *= 1.01
    for broken, why in (
        (replace(run, momenta=None), "no momenta"),
        (replace(run, times=late), "unevenly"),
        (replace(run, cell=stretched), "cell that changes"),
    ):
        with pytest.raises(BadInput, match=why):
            cut(broken, BOX, MASSES, frames=6, temperature_K=300.0)


def test_the_last_blocks_of_every_temperature_are_held_out():
    segments = [
        straight(frames=3, kelvin=kelvin, block=block) for kelvin in (300.0, 600.0) for block in range(10) for _ in range(2)
    ]
    train, apart = split_segments(segments, held_out=0.2)
    assert {(s.temperature_K, s.block) for s in apart} == {(k, b) for k in (300.0, 600.0) for b in (8, 9)}
    assert len(train) + len(apart) == len(segments)
    with pytest.raises(BadInput, match="one block"):
        split_segments([straight()], held_out=0.1)
