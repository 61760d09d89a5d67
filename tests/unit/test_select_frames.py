"""Choosing structures that cover much."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from ase.build import bulk

from mdistill.data.explore import rattled, strained
from mdistill.data.select_frames import closest_ratio, described, histogram, select, shortest_pairs
from mdistill.graph import make_system
from mdistill.types import System


def salt(a: float = 5.6) -> System:
    atoms = bulk("NaCl", "rocksalt", a=a, cubic=True)
    return make_system(atoms.positions, atoms.numbers, atoms.cell.array, atoms.pbc)


def rattles(amplitude: float, count: int, seed: int) -> list[System]:
    return rattled(salt(), amplitudes=[amplitude] * count, generator=torch.Generator().manual_seed(seed))


def test_descriptor_is_invariant() -> None:
    system = rattles(0.1, 1, 0)[0]
    turn = torch.from_numpy(np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0])
    order = torch.tensor([2, 1, 4, 5, 6, 3, 0, 7])
    assert torch.equal(system.numbers[order], system.numbers)
    for other in (
        replace(system, positions=system.positions + 3.7),
        replace(system, positions=system.positions @ turn, cell=system.cell @ turn),
        replace(system, positions=system.positions[order]),
        replace(system, cell=torch.tensor([[1.0, 1, 0], [0, 1, 0], [0, 0, 1]]).double() @ system.cell),
    ):
        torch.testing.assert_close(histogram(other), histogram(system))
    assert float((histogram(rattles(0.1, 1, 1)[0]) - histogram(system)).abs().max()) > 1e-3


def test_descriptor_sees_one_unusual_atom() -> None:
    system = salt()
    moved = replace(system, positions=system.positions + 0.0)
    moved.positions[0] += 0.4
    assert float((histogram(moved) - histogram(system)).norm()) > 0.05


def test_farthest_points_cover_the_line() -> None:
    candidates = rattles(0.0001, 11, 0)
    value = {id(s): float(k) for k, s in enumerate(candidates)} | {id(candidates[10]): 10.5}
    chosen = select(candidates, [], 3, describe=lambda s: torch.tensor([value[id(s)]]))
    assert chosen == [10, 0, 5]
    assert select(candidates, [], 3, describe=lambda s: torch.tensor([value[id(s)]])) == chosen


def test_novel_structures_come_first() -> None:
    reference = rattles(0.05, 12, 1)
    unusual = strained(salt(), isotropic=(0.08,), shears=0, generator=torch.Generator())
    candidates = [*rattles(0.05, 8, 2), *unusual, *rattles(0.05, 8, 3)]
    assert select(candidates, reference, 4)[0] == 8


def test_crushed_and_broken_structures_are_dropped() -> None:
    reference = rattles(0.05, 5, 1)
    crushed = replace(salt(), positions=salt().positions.clone())
    crushed.positions[0] += torch.tensor([1.2, 0.0, 0.0])
    broken = replace(salt(), positions=salt().positions * torch.nan)
    candidates = [crushed, broken, *rattles(0.1, 3, 4)]
    assert sorted(select(candidates, reference, 9)) == [2, 3, 4]
    assert select([crushed], reference, 9) == []
    assert select(candidates[2:], [], 0) == []


def test_distances() -> None:
    floors = shortest_pairs([salt()])
    assert {pair: round(d, 6) for pair, d in floors.items()} == {
        (11, 17): 2.8, (11, 11): round(5.6 / np.sqrt(2), 6), (17, 17): round(5.6 / np.sqrt(2), 6),
    }  # fmt: skip
    assert abs(closest_ratio(salt(5.32), floors) - 0.95) < 1e-9
    assert closest_ratio(salt(8.0), {(11, 17): 2.8}) == float("inf")


def test_weights_change_which_novel_structure_comes_first() -> None:
    candidates = rattles(0.0001, 11, 0)
    value = {id(s): float(k) for k, s in enumerate(candidates)}
    heavy = {id(candidates[7]): 20.0}

    def at(system: System) -> torch.Tensor:
        return torch.tensor([value[id(system)]])

    assert select(candidates, candidates[:1], 2, describe=at) == [10, 5]
    assert select(candidates, candidates[:1], 2, describe=at, weigh=lambda s: heavy.get(id(s), 1.0)) in ([7, 10], [7, 4])
    assert len(set(select(candidates, candidates[:1], 9, describe=at, weigh=lambda s: heavy.get(id(s), 1.0)))) == 9


def test_a_constant_feature_hides_nothing() -> None:
    """A feature that all structures share, as invariants of an element that does not move have it, leaves the choice as it is."""
    frames = [*rattles(0.02, 6, 0), *rattles(0.2, 2, 1)]
    plain = select(frames, [], 5)
    shared = select(frames, [], 5, describe=lambda system: torch.cat([histogram(system), torch.full((3,), 7.3)]))
    assert len(plain) == 5 and shared == plain
    points, known = described(frames[:6], frames[6:], histogram)
    assert torch.cat([points, known]).mean(0).abs().max() < 1e-9 and (len(points), len(known)) == (6, 2)
