"""Pair distributions where directions are open: a box of empty space changes their scale alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mdistill.analysis.gates import rdf_overlaps
from mdistill.analysis.rdf import rdf
from mdistill.judge.dynamics import likeness
from mdistill.observables.open_cells import MARGIN_A, boxed
from mdistill.types import Trajectory


def slab(seed: int, *, width: float = 0.2, open_rows=(2,)) -> Trajectory:
    """Two elements on a rattled lattice of 3 × 3 × 3 sites, 4 Å apart, in a sheared cell."""
    random = np.random.default_rng(seed)
    cell = 12.0 * np.array([[1.0, 0.0, 0.0], [0.2, 1.0, 0.0], [0.0, 0.0, 1.0]])
    sites = np.stack(np.meshgrid(*[np.arange(3)] * 3, indexing="ij"), -1).reshape(-1, 3) / 3.0
    places = (sites @ cell)[None] + random.normal(0.0, width, (160, 27, 3))
    cell[list(open_rows)] = 0.0
    return Trajectory(
        numbers=torch.tensor([3, 9, 9] * 9), positions=torch.from_numpy(places), times=torch.arange(160.0),
        cell=torch.from_numpy(np.tile(cell, (160, 1, 1))),
    )  # fmt: skip


@pytest.mark.parametrize("rows", [(2,), (1, 2), (0, 1, 2)], ids=["slab", "wire", "molecule"])
def test_pairs_are_counted_as_without_a_box(rows):
    run = slab(1, open_rows=rows)
    other = replace(run, positions=3.0 + run.positions + torch.tensor([0.0, 0.0, 1.0]) * torch.arange(27)[:, None] / 9)
    one, two = boxed(run, other)
    assert torch.equal(one.cell, two.cell) and torch.equal(one.positions, run.positions)
    for k in rows:
        extent = float((other.positions @ (one.cell[0, k] / one.cell[0, k].norm())).diff(dim=1).abs().max())
        assert float(one.cell[0, k].norm()) > MARGIN_A and float(one.cell[0, k].norm()) > extent
    curve = rdf(one, pair=("Li", "F"), r_max=5.5, bins=55)
    shells = 4.0 / 3.0 * np.pi * np.diff(np.linspace(0.0, 5.5, 56) ** 3)
    volume = abs(float(torch.linalg.det(one.cell[0])))
    found = curve.y.numpy() * shells * 9 * 18 / volume
    wanted = np.zeros(55)
    images = [np.array(n) @ run.cell[0].numpy() for n in np.ndindex(3, 3, 3) if not any(n[k] for k in rows)]
    centre = sum(run.cell[0].numpy())
    for frame in run.positions.numpy():
        gaps = frame[run.numbers == 9][None] - frame[run.numbers == 3][:, None]
        for image in images:
            wanted += np.histogram(np.linalg.norm(gaps + image - centre, axis=2), bins=np.linspace(0.0, 5.5, 56))[0] / 160
    assert np.abs(found - wanted).max() < 1e-9 and wanted.sum() > 10


def test_a_crystal_keeps_its_cell():
    run = slab(1, open_rows=())
    assert torch.equal(boxed(run)[0].cell, run.cell)


def test_likeness_of_slabs_tells_alike_from_different():
    alike, other = likeness(slab(1), slab(2)), likeness(slab(1), slab(3, width=0.5))
    assert set(alike) == {"F–F", "F–Li", "Li–Li"}
    assert all(alike[pair].divergence < 0.02 < other[pair].divergence for pair in alike)
    assert rdf_overlaps(*boxed(slab(1), slab(2))).keys() == alike.keys()
