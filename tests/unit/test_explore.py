"""Structures made for labelling."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.build import bulk
from torch import Generator

from mdistill.data.explore import deformed, rattled, short_contacts, strained
from mdistill.errors import BadInput
from mdistill.graph import build_graph, edge_vectors, make_system, volumes
from mdistill.types import System


def salt() -> System:
    atoms = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    return make_system(atoms.positions, atoms.numbers, atoms.cell.array, atoms.pbc)


def seed(number: int) -> Generator:
    return Generator().manual_seed(number)


def lengths(system: System, reach: float = 4.5) -> torch.Tensor:
    return edge_vectors(build_graph(system, reach)).norm(dim=1)


def test_isotropic_strain_scales_every_length() -> None:
    system = salt()
    for value, made in zip(
        (-0.02, 0.03), strained(system, isotropic=(-0.02, 0.03), shears=0, shear=0.0, generator=seed(0)), strict=True
    ):
        torch.testing.assert_close(volumes(made), volumes(system) * (1 + value) ** 3)
        torch.testing.assert_close(lengths(made, 4.5 * (1 + value)), lengths(system) * (1 + value))


def test_shears_keep_fractional_positions_and_are_symmetric() -> None:
    system = salt()
    for made in strained(system, isotropic=(), shears=5, shear=0.05, generator=seed(1)):
        strain = torch.linalg.solve(system.cell[0], made.cell[0]) - torch.eye(3, dtype=torch.float64)
        torch.testing.assert_close(strain, strain.T)
        assert 0.0 < float(strain.abs().max()) <= 0.05
        fractional = [np.linalg.solve(s.cell[0].numpy().T, s.positions.numpy().T) for s in (system, made)]
        np.testing.assert_allclose(*fractional, atol=1e-12)


def test_rattles_have_the_amplitude_asked_for() -> None:
    system = salt()
    made = rattled(system, amplitudes=[0.1] * 300, generator=seed(2))
    moved = torch.stack([s.positions - system.positions for s in made])
    assert abs(float(moved.std()) - 0.1) < 0.1 * 4 / np.sqrt(2 * moved.numel())
    assert all(torch.equal(s.cell, system.cell) for s in made)


def test_short_contacts_press_one_pair_of_every_kind() -> None:
    system = salt()
    kinds = set()
    for made in short_contacts(system, count=60, generator=seed(3)):
        moved = (made.positions - system.positions).norm(dim=1).nonzero()[:, 0]
        assert len(moved) == 2
        torch.testing.assert_close(made.positions.sum(0), system.positions.sum(0))
        kind = tuple(sorted(system.numbers[moved].tolist()))
        kinds.add(kind)
        usual = 2.8 if kind == (11, 17) else 5.6 / np.sqrt(2)
        ratio = float(lengths(made, 4.2).min()) / usual
        assert 0.6 - 1e-9 <= ratio <= 0.9 + 1e-9 or kind != (11, 17)
    assert kinds == {(11, 11), (11, 17), (17, 17)}


def test_same_seed_same_structures() -> None:
    for make in (
        lambda g: strained(salt(), rattle=0.02, generator=g),
        lambda g: rattled(salt(), generator=g),
        lambda g: short_contacts(salt(), generator=g),
    ):
        first, second, other = make(seed(4)), make(seed(4)), make(seed(5))
        assert all(
            torch.equal(a.positions, b.positions) and torch.equal(a.cell, b.cell) for a, b in zip(first, second, strict=True)
        )
        assert any(not torch.equal(a.positions, b.positions) for a, b in zip(first, other, strict=True))


def test_structures_without_pairs_or_periodicity() -> None:
    atom = make_system(np.zeros((1, 3)), np.array([3]), np.zeros((3, 3)), [False] * 3)
    assert short_contacts(atom, generator=seed(0)) == []
    with pytest.raises(BadInput, match="not periodic"):
        strained(atom, generator=seed(0))


def test_bad_settings_are_named() -> None:
    with pytest.raises(BadInput, match=r"strain: 0\.4"):
        strained(salt(), isotropic=(0.4,), generator=seed(0))
    with pytest.raises(BadInput, match="rattle"):
        rattled(salt(), amplitudes=(2.0,), generator=seed(0))
    with pytest.raises(BadInput, match="contact"):
        short_contacts(salt(), closest=0.9, farthest=0.6, generator=seed(0))


def test_deformed_is_linear() -> None:
    strain = torch.tensor([[0.1, 0.02, 0.0], [0.02, 0.0, 0.0], [0.0, 0.0, -0.05]], dtype=torch.float64)
    made = deformed(salt(), strain)
    torch.testing.assert_close(made.cell[0], salt().cell[0] @ (torch.eye(3, dtype=torch.float64) + strain))
