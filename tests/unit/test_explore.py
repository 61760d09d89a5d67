"""Structures made for labelling."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.build import bulk, fcc110, molecule, nanotube
from torch import Generator

from mdistill.data.explore import can_have_defects, defects, deformed, lifted, rattled, short_contacts, strained
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


def argyrodite() -> System:
    """Twelve atoms of three kinds: Li, S, Cl."""
    atoms = bulk("NaCl", "rocksalt", a=5.2, cubic=True)
    numbers = np.where(atoms.numbers == 11, 3, 17)
    numbers[np.flatnonzero(numbers == 17)[:2]] = 16
    return make_system(atoms.positions, numbers, atoms.cell.array, atoms.pbc)


def counts(system: System) -> dict[int, int]:
    return {z: int((system.numbers == z).sum()) for z in set(system.numbers.tolist())}


def test_vacancies_and_swaps_take_turns_and_keep_what_they_should() -> None:
    system = argyrodite()
    made = defects(system, count=8, rattle=0.0, generator=seed(0))
    assert [kind for kind, _ in made] == ["vacancy", "swap"] * 4
    removed = []
    for kind, one in made:
        if kind == "swap":
            assert counts(one) == counts(system) and torch.equal(one.positions, system.positions)
            changed = (one.numbers != system.numbers).nonzero()[:, 0]
            assert sorted(system.numbers[changed].tolist()) == [16, 17]
        else:
            assert one.n_atoms == system.n_atoms - 1 == len(one.owner)
            removed += [z for z in counts(system) if counts(one)[z] < counts(system)[z]]
            kept = {tuple(row) for row in system.positions.tolist()}
            assert all(tuple(row) in kept for row in one.positions.tolist())
    assert sorted(removed) == [3, 3, 16, 17], "elements take turns"
    assert len({tuple(one.numbers.tolist()) for _, one in made}) > 4


def test_unlike_charges_are_not_swapped_and_the_last_atom_of_an_element_stays() -> None:
    assert {kind for kind, _ in defects(salt(), count=5, generator=seed(1))} == {"vacancy"}
    system = salt()
    numbers = system.numbers.clone()
    numbers[0] = 16
    single = System(positions=system.positions, numbers=numbers, cell=system.cell, pbc=system.pbc, owner=system.owner)
    assert all(16 in one.numbers.tolist() for _, one in defects(single, count=12, generator=seed(2)))
    pair = make_system(np.array([[0.0, 0, 0], [2.5, 0, 0]]), np.array([3, 9]), 5.0 * np.eye(3), [True] * 3)
    assert not can_have_defects(pair) and defects(pair, count=3, generator=seed(3)) == []


def test_defects_are_those_of_the_seed_and_rattled() -> None:
    first, again, other = (defects(argyrodite(), count=4, rattle=0.05, generator=seed(k)) for k in (0, 0, 1))
    assert all(torch.equal(a.positions, b.positions) for (_, a), (_, b) in zip(first, again, strict=True))
    assert any(a.positions.shape != b.positions.shape or not torch.equal(a.positions, b.positions)
               for (_, a), (_, b) in zip(first, other, strict=True))  # fmt: skip
    moved = next(one for kind, one in defects(argyrodite(), count=2, rattle=0.05, generator=seed(0)) if kind == "swap")
    assert 0.02 < float((moved.positions - argyrodite().positions).std()) < 0.09


def slab() -> System:
    """Al(110), six layers; on this open face two layers see the vacuum."""
    atoms = fcc110("Al", (4, 3, 6), a=4.05, vacuum=8.0)
    return make_system(atoms.positions, atoms.numbers, atoms.cell.array, [True, True, False])


def test_atoms_are_lifted_off_both_faces_and_nothing_else_moves() -> None:
    system = slab()
    made = lifted(system, count=60, rattle=0.0, generator=seed(0))
    moved = [(one.positions - system.positions).norm(dim=1).nonzero()[:, 0] for one in made]
    assert all(len(atoms) == 1 for atoms in moved)
    atoms = torch.cat(moved)
    height = system.positions[:, 2] - system.positions[:, 2].mean()
    depth = (height.abs().max() - height[atoms].abs()) / 1.4319
    assert set(depth.round().int().tolist()) == {0, 1} and {-1, 1} == set(height[atoms].sign().tolist())
    shift = torch.stack([one.positions[k] - system.positions[k] for one, k in zip(made, atoms, strict=True)])
    out = shift[:, 2] * height[atoms].sign()
    away = torch.arange(60) % 3 == 2
    assert bool((out[away] > 8.999).all()) and float(out[~away].min()) > 0.4 and 4.0 < float(out[~away].max()) <= 5.0
    assert bool((shift[:, :2].norm(dim=1) <= 1.001 * out).all())
    assert float((shift[:, :2].norm(dim=1) / out).max()) > 0.3, "some move aside"
    assert all(float(lengths(one).min()) >= 0.75 * float(lengths(system).min()) for one in made)
    rough = lifted(system, count=3, generator=seed(0))
    still = [int((one.positions == system.positions).all(1).sum()) for one in rough]
    assert still == [0, 0, system.n_atoms - 1], "all atoms are displaced, except where one is free"


def test_a_surface_is_found_along_any_axis_and_on_a_wire() -> None:
    system, turn = slab(), torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
    turned = System(positions=system.positions @ turn, numbers=system.numbers, cell=system.cell[:, [2, 0, 1]] @ turn,
                    pbc=system.pbc[:, [2, 0, 1]], owner=system.owner)  # fmt: skip
    for one, other in zip(lifted(system, count=5, generator=seed(1)), lifted(turned, count=5, generator=seed(1)), strict=True):
        assert int((one.positions - system.positions).norm(dim=1).argmax()) == int(
            (other.positions - turned.positions).norm(dim=1).argmax()
        )
    tube = nanotube(6, 0, length=2)
    wire = make_system(tube.positions, tube.numbers, tube.cell.array, [False, False, True])
    moved = lifted(wire, count=1, rattle=0.0, generator=seed(2))[0].positions.numpy()
    radius = np.linalg.norm((moved - tube.positions.mean(0))[:, :2], axis=1)
    assert radius.max() > np.median(radius) + 0.4


def test_what_has_no_surface_has_no_atom_to_lift() -> None:
    ethanol = molecule("CH3CH2OH")
    alone = make_system(ethanol.positions, ethanol.numbers, 20.0 * np.eye(3), [False] * 3)
    assert not can_have_defects(alone) and lifted(alone, count=3, generator=seed(0)) == []
    assert can_have_defects(slab()) and {kind for kind, _ in defects(slab(), count=3, generator=seed(0))} == {"lifted"}
    first, again, other = (lifted(slab(), count=3, generator=seed(k)) for k in (0, 0, 1))
    assert all(torch.equal(a.positions, b.positions) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a.positions, b.positions) for a, b in zip(first, other, strict=True))
