"""graph.py: what it accepts and refuses, copies, batches, and the skin list's bookkeeping (its physics: test_neighbours.py)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mdistill.errors import BadInput
from mdistill.graph import SkinList, build_graph, cast, concatenate, edge_vectors, empty_graph, make_system, split, volumes
from mdistill.types import System


def crystal(count: int = 6, seed: int = 0, dtype: torch.dtype = torch.float64) -> System:
    rng = np.random.default_rng(seed)
    cell = np.array([[5.0, 0.1, 0.0], [0.2, 5.5, 0.0], [1.0, 0.3, 6.0]])
    return make_system(rng.uniform(0, 5, (count, 3)), rng.integers(1, 9, count), cell, [True] * 3, dtype=dtype)


def test_make_system_copies_its_input() -> None:
    positions, cell = np.zeros((2, 3)), np.eye(3)
    system = make_system(positions, [1, 1], cell, [True] * 3)
    positions += 1.0
    cell *= 2.0
    assert float(system.positions.abs().max()) == 0.0
    assert float(system.cell[0, 0, 0]) == 1.0


def test_split_undoes_concatenate() -> None:
    parts = [crystal(3, 1), crystal(5, 2), crystal(1, 3)]
    for part, again in zip(parts, split(concatenate(parts)), strict=True):
        assert torch.equal(part.positions, again.positions)
        assert torch.equal(part.cell, again.cell)
        assert torch.equal(part.owner, again.owner)


def test_volume_is_positive_for_a_left_handed_cell() -> None:
    cell = np.diag([2.0, 3.0, 4.0])
    both = [make_system(np.zeros((1, 3)), [1], c, [True] * 3) for c in (cell, cell[[1, 0, 2]])]
    assert volumes(concatenate(both)).tolist() == pytest.approx([24.0, 24.0])


def test_edge_vectors_are_the_shortest_images_in_ase() -> None:
    from ase import Atoms
    from ase.neighborlist import neighbor_list

    system = crystal()
    atoms = Atoms(numbers=system.numbers.numpy(), positions=system.positions.numpy(), cell=system.cell[0].numpy(), pbc=True)
    i, j, vectors = neighbor_list("ijD", atoms, 4.0)
    graph = build_graph(system, 4.0)
    ours = np.column_stack([graph.receiver, graph.sender, edge_vectors(graph).numpy().round(9)])
    theirs = np.column_stack([i, j, vectors.round(9)])
    assert np.allclose(ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)], atol=1e-8)


def test_single_precision_gives_the_edges_of_its_own_distances() -> None:
    graph = build_graph(crystal(dtype=torch.float32), 4.0)
    assert graph.shift.dtype == torch.float32
    assert float(edge_vectors(graph).norm(dim=1).max()) < 4.0 + 1e-6
    double = build_graph(cast(graph.system, dtype=torch.float64), 4.0)
    assert torch.equal(graph.sender, double.sender)


@pytest.mark.parametrize("cutoff", [0.0, -1.0])
def test_no_cutoff_no_edges(cutoff: float) -> None:
    assert build_graph(crystal(), cutoff).receiver.numel() == 0
    assert SkinList(cutoff=0.0).graph(crystal()).receiver.numel() == 0
    assert edge_vectors(empty_graph(crystal())).shape == (0, 3)


def test_no_atoms() -> None:
    nothing = make_system(np.zeros((0, 3)), np.zeros(0), np.eye(3), [True] * 3)
    assert build_graph(nothing, 3.0).receiver.numel() == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": np.nan}, "not finite"),
        ({"positions": np.inf}, "not finite"),
        ({"cell": np.diag([5.0, 5.0, np.nan])}, "not finite"),
        ({"cell": np.diag([5.0, 5.0, 0.0])}, "missing"),
        ({"cell": np.array([[5.0, 0, 0], [0, 5, 0], [5, 5, 0]])}, "span no volume"),
        ({"cell": np.diag([1e-3, 1e-3, 1e-3])}, "neighbour pairs"),
        ({"cell": np.diag([1e9, 5.0, 5.0])}, "across"),
    ],
)
def test_refused(change: dict, message: str) -> None:
    positions = np.zeros((2, 3))
    positions[1] = change.get("positions", 1.0)
    system = make_system(positions, [1, 1], change.get("cell", 5.0 * np.eye(3)), [True] * 3)
    with pytest.raises(BadInput, match=message) as caught:
        build_graph(system, 3.0)
    assert caught.value.allowed and caught.value.fix


def test_skin_list_searches_again_only_when_it_must() -> None:
    system, lists = crystal(), SkinList(cutoff=3.0, skin=0.5)
    for moved, rebuilds in ((0.0, 1), (0.24, 1), (0.26, 2), (0.26, 2)):
        positions = system.positions.clone()
        positions[0, 1] += moved
        lists.graph(replace(system, positions=positions))
        assert lists.rebuilds == rebuilds
    lists.graph(replace(system, pbc=torch.tensor([[True, True, False]])))
    assert lists.rebuilds == 3
    lists.graph(crystal(7))
    assert lists.rebuilds == 4


def test_skin_list_keeps_its_candidates_while_a_barostat_breathes() -> None:
    system, lists = crystal(), SkinList(cutoff=3.0, skin=1.0)
    for scale in (1.0, 1.01, 0.99, 1.02):
        scaled = replace(system, positions=system.positions * scale, cell=system.cell * scale)
        ours, fresh = lists.graph(scaled), build_graph(scaled, 3.0)
        assert torch.equal(ours.sender, fresh.sender) and torch.equal(ours.shift, fresh.shift)
    assert lists.rebuilds == 1


def test_skin_list_is_not_fooled_by_positions_changed_in_place() -> None:
    system, lists = crystal(), SkinList(cutoff=3.0, skin=0.5)
    lists.graph(system)
    system.positions[0] += 2.0
    assert torch.equal(lists.graph(system).sender, build_graph(system, 3.0).sender)


def test_skin_list_refuses_positions_that_are_not_finite() -> None:
    system, lists = crystal(), SkinList(cutoff=3.0)
    lists.graph(system)
    with pytest.raises(BadInput, match="not finite"):
        lists.graph(replace(system, positions=system.positions * np.nan))


def test_skin_list_on_a_batch_with_changing_cells() -> None:
    batch, lists = concatenate([crystal(4, 1), crystal(6, 2)]), SkinList(cutoff=3.0, skin=1.0)
    for k in range(5):
        cell = batch.cell.clone()
        cell[1] *= 1.0 + 0.01 * k
        changed = replace(batch, cell=cell)
        ours, fresh = lists.graph(changed), build_graph(changed, 3.0)
        assert torch.equal(ours.receiver, fresh.receiver) and torch.equal(ours.sender, fresh.sender)
    assert lists.rebuilds == 1
