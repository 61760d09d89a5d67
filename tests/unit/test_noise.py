"""Noise: uniform and normal by distribution, reproducible by seed, per-struct by construction."""

from __future__ import annotations

import numpy as np
import torch
from scipy import stats
from torch import Generator

from mdistill.graph import concatenate, make_system
from mdistill.simulation.noise import atom_normals, normals, struct_normals, struct_uniforms, uniforms


def seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def test_distributions() -> None:
    flat = uniforms(seeded(1), np.arange(100)[:, None], np.arange(1000)).ravel()
    assert flat.min() > 0.0 and flat.max() < 1.0
    assert stats.kstest(flat, "uniform").pvalue > 0.01
    assert stats.kstest(normals(seeded(2), np.arange(100)[:, None], np.arange(1000)).ravel(), "norm").pvalue > 0.01


def test_each_call_draws_anew_and_the_seed_decides() -> None:
    generator = seeded(3)
    first, second = (normals(generator, np.zeros(1), np.arange(5)) for _ in range(2))
    assert not np.array_equal(first, second)
    assert np.array_equal(first, normals(seeded(3), np.zeros(1), np.arange(5)))
    assert not np.array_equal(first, normals(seeded(4), np.zeros(1), np.arange(5)))


def test_struct_numbers_do_not_depend_on_the_other_structs() -> None:
    one = make_system(np.zeros((4, 3)), np.ones(4), np.eye(3), [True] * 3)
    batch = concatenate([one, one, one])
    assert torch.equal(atom_normals(seeded(4), one), atom_normals(seeded(4), batch)[:4])
    assert torch.equal(struct_normals(seeded(4), one, 6)[0], struct_normals(seeded(4), batch, 6)[0])
    assert torch.equal(struct_uniforms(seeded(4), one)[0], struct_uniforms(seeded(4), batch)[0])
    assert len(set(struct_uniforms(seeded(4), batch).tolist())) == 3
