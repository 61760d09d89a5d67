"""Density of the mobile ion and its hops: two sites known beforehand, in a host that drifts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mdistill.errors import BadInput
from mdistill.observables import density
from mdistill.observables.density import grid_shape, ion_map
from mdistill.observables.scenes import path_scenes, structure_scene
from mdistill.types import Trajectory
from systems import fcc

CELL = np.array([[8.0, 0.0, 0.0], [1.0, 7.0, 0.0], [0.0, 0.0, 9.0]])
SITES = np.array([[1.0, 1.0, 1.0], [7.6, 1.0, 1.0]])
"""Two sites, 1.4 Å apart across the face of the cell."""


def two_sites(*, drift: float = 0.02, hops: int = 4, seed: int = 0, frames: int = 600) -> Trajectory:
    """One Li that changes between two sites `hops` times, two Cl that rattle; the whole crystal drifts. 50 fs between frames."""
    rng = np.random.default_rng(seed)
    place = np.arange(frames) * (hops + 1) // frames % 2
    ion = np.where(place[:, None] == 0, SITES[0], SITES[1] - CELL[0])
    host = np.array([[4.0, 4.0, 5.0], [2.0, 5.0, 7.0]])
    positions = np.concatenate([ion[:, None], np.broadcast_to(host, (frames, 2, 3))], axis=1)
    positions = (
        positions + rng.normal(0.0, 0.1, positions.shape) + drift * np.arange(frames)[:, None, None] * np.array([1.0, 0.5, 0.0])
    )
    return Trajectory(
        numbers=torch.tensor([3, 17, 17]), positions=torch.from_numpy(positions), momenta=None,
        cell=torch.from_numpy(np.broadcast_to(CELL, (frames, 3, 3)).copy()), times=50.0 * torch.arange(frames, dtype=torch.float64),
    )  # fmt: skip


def check_map(runs: list[Trajectory], hops: int) -> None:
    found = ion_map(runs, species="Li", hop_distance=0.9)
    volume = abs(np.linalg.det(CELL))
    assert found.density.sum() * volume / found.density.size == pytest.approx(1.0), "one ion"
    grid = np.stack(np.meshgrid(*((np.arange(n) + 0.5) / n for n in found.density.shape), indexing="ij"), axis=-1)
    near = np.zeros(found.density.shape, dtype=bool)
    for site in SITES:
        gaps = grid - site @ np.linalg.inv(CELL)
        near |= np.linalg.norm((gaps - np.rint(gaps)) @ CELL, axis=-1) < 1.3
    assert found.density[near].sum() / found.density.sum() > 0.98
    assert found.counts.tolist() == [hops]
    assert np.linalg.norm(found.ends[0] - found.starts[0]) == pytest.approx(1.4, abs=0.5)
    inside = found.starts[0] @ np.linalg.inv(CELL)
    assert (inside > -1e-9).all() and (inside < 1.0).all()


@pytest.fixture(autouse=True)
def near_sites(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(density, "SITE_RADIUS", 0.7)


def test_density_and_hops_of_two_sites_in_a_drifting_host() -> None:
    check_map([two_sites()], hops=4)


def test_runs_add_up_and_those_of_another_host_are_left_out() -> None:
    check_map([two_sites(), two_sites(hops=3, seed=1, frames=500)], hops=7)
    other = two_sites(seed=2)
    other.positions[:, 1] += 3.0
    found = ion_map([two_sites(), other], species="Li", hop_distance=0.9)
    assert found.runs == 1 and found.counts.tolist() == [4]


@pytest.mark.planted
def test_a_drift_left_in_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(density, "displacements", lambda run, species: run.positions.numpy()[:, :1])
    with pytest.raises(AssertionError):
        check_map([two_sites()], hops=4)


def test_the_grid_is_as_fine_as_it_can_be() -> None:
    assert grid_shape(np.diag([4.6, 9.1, 2.0])) == (10, 20, 4)
    large = grid_shape(np.diag([40.0, 40.0, 20.0]))
    assert np.prod(large) <= density.MOST_VOXELS and large[0] == large[1] > large[2]


def test_scenes_hold_what_was_found() -> None:
    (scene,) = path_scenes([two_sites()], species="Li", temperature_K=500.0)
    assert scene.density is not None and max(scene.density.values) == 255 and scene.mobile == 3
    assert len(scene.density.values) == np.prod(scene.density.shape) and "500 K" in scene.title
    open_cell = two_sites()
    open_cell.cell[:] = 0.0
    assert path_scenes([open_cell], species="Li") == []
    with pytest.raises(BadInput, match="species"):
        path_scenes([two_sites()], species="Na")


def test_the_first_structure_of_a_batch_is_the_scene() -> None:
    system = fcc()
    scene = structure_scene(system, mobile="Li")
    assert len(scene.numbers) == len(scene.positions) == int((system.owner == 0).sum())
