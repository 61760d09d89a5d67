"""T5: the neighbour list against counting every image. T6: the skin list against a fresh list along hot dynamics."""

from __future__ import annotations

import itertools
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mdistill.graph as graph_module
from mdistill.graph import SkinList, build_graph, concatenate, edge_vectors, make_system
from mdistill.types import Graph, System
from mdistill.units import ACCELERATION, BOLTZMANN, KINETIC

CASES = 5000 if os.environ.get("MDISTILL_NIGHTLY") == "1" else 200
Edge = tuple[int, int, int, int, int]


def counted(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float) -> tuple[set[Edge], set[Edge]]:
    """Pairs closer than the cutoff, and pairs so close to it that rounding decides. O(N²), in extended precision.

    Images needed along a periodic vector: its reciprocal length times (cutoff + extent of the atoms).
    """
    exact = np.longdouble
    r, rows = positions.astype(exact), np.where(pbc[:, None], cell, 0.0).astype(exact)
    extent = float(np.linalg.norm(np.ptp(positions, axis=0)))
    counts = np.zeros(3, dtype=int)
    if pbc.any():
        dual = np.linalg.pinv(cell[pbc])
        counts[pbc] = np.ceil((cutoff + extent) * np.linalg.norm(dual, axis=0)).astype(int) + 1
    images = np.array(list(itertools.product(*(range(-c, c + 1) for c in counts))), dtype=int)
    vectors = r[None, :, None] - r[:, None, None] + (images.astype(exact) @ rows)[None, None]
    distance = np.sqrt((vectors**2).sum(-1))
    inside, border = set(), set()
    for i, j, s in zip(*np.nonzero(distance < cutoff + 1e-11), strict=True):
        if i != j or images[s].any():
            near = border if distance[i, j, s] > cutoff - 1e-11 else inside
            near.add((int(i), int(j), *(int(x) for x in images[s])))
    return inside, border


def edges_of(graph: Graph) -> list[Edge]:
    shifts = graph.shift.round().to(torch.int64).tolist()
    return [(i, j, *s) for i, j, s in zip(graph.receiver.tolist(), graph.sender.tolist(), shifts, strict=True)]


def check_against_count(system: System, cutoff: float) -> int:
    """The claim of T5: no pair missing, none too many, none twice, both directions, sorted; gives the number of edges."""
    found = edges_of(build_graph(system, cutoff))
    inside, border = counted(system.positions.numpy(), system.cell[0].numpy(), system.pbc[0].numpy(), cutoff)
    assert len(found) == len(set(found)), "an edge appears twice"
    assert inside <= set(found), f"missing: {sorted(inside - set(found))[:5]}"
    assert set(found) <= inside | border, f"too many: {sorted(set(found) - inside - border)[:5]}"
    assert {(j, i, -a, -b, -c) for i, j, a, b, c in found} == set(found), "a pair is listed in one direction only"
    assert found == sorted(found), "edges are not in order"
    return len(found)


def triclinic(lengths: np.ndarray, angles: np.ndarray) -> np.ndarray | None:
    """Rows a, b, c from lengths (Å) and angles (°); None where the three angles close no cell."""
    alpha, beta, gamma = np.radians(angles)
    x = np.cos(beta)
    y = (np.cos(alpha) - np.cos(beta) * np.cos(gamma)) / np.sin(gamma)
    height = 1.0 - x * x - y * y
    if height < 1e-3:
        return None
    return lengths[:, None] * np.array([[1, 0, 0], [np.cos(gamma), np.sin(gamma), 0], [x, y, np.sqrt(height)]])


@st.composite
def structures(draw: st.DrawFn) -> tuple[System, float]:
    """Cells of angles 30–150°, heights down to 0.3 cutoffs, either hand, any orientation and periodicity; atoms anywhere."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    cutoff = draw(st.sampled_from([1.0, 2.5, 5.0]))
    pbc = rng.random(3) < 0.7
    cell = None
    while cell is None:
        cell = triclinic(cutoff * rng.uniform(0.4, 2.5, 3), rng.uniform(30.0, 150.0, 3))
    heights = 1.0 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    cell = cell * max(1.0, 0.3 * cutoff / heights.min())
    if draw(st.booleans()):
        cell = cell[[1, 0, 2]]
    cell = cell @ np.linalg.qr(rng.normal(size=(3, 3)))[0]
    count = int(rng.integers(1, 9))
    place = draw(st.sampled_from(["inside", "outside", "faces", "tiny"]))
    fractions = rng.uniform(0.0, 1.0, (count, 3))
    if place == "outside":
        fractions = fractions * 5.0 - 2.0
    elif place == "faces":
        fractions = rng.integers(-2, 3, (count, 3)) / 2.0
    positions = fractions @ cell
    if place == "tiny":
        positions[rng.random(positions.shape) < 0.5] = rng.choice([-1e-52, 1e-52, -4e-52])
    if draw(st.booleans()):
        cell = np.where(pbc[:, None], cell, 0.0)
    return make_system(positions, np.ones(count, dtype=int), cell, pbc.tolist()), cutoff


@pytest.mark.timeout(300 if CASES == 200 else 3600)
def test_list_equals_count(trust) -> None:
    found = []

    @settings(max_examples=CASES, deadline=None, derandomize=CASES == 200, database=None)
    @given(case=structures())
    def every(case: tuple[System, float]) -> None:
        found.append(check_against_count(*case))

    every()
    assert len(found) >= CASES and sum(found) > 20 * CASES
    what = f"edges of {len(found)} random cells (30–150°, heights ≥ 0.3 r_c, both hands, every periodicity)"
    trust("T5", what, f"{sum(found)} edges, identical sets", "identical sets; 200 / 5,000 cases")


def named_cases() -> dict[str, tuple[System, float]]:
    cube, none = 5.0 * np.eye(3), np.zeros((3, 3))
    thin = np.array([[1.0, 0, 0], [10.0, 0.9, 0], [0, 0, 1.0]])
    slab, dependent = np.diag([3.0, 3.0, 10.0]), np.array([[3.0, 0, 0], [0, 3, 0], [3, 3, 0]])

    def case(positions: object, cell: np.ndarray, pbc: list[bool], cutoff: float) -> tuple[System, float]:
        r = np.atleast_2d(np.asarray(positions, dtype=float))
        return make_system(r, np.ones(len(r), dtype=int), cell, pbc), cutoff

    yes, no = [True] * 3, [False] * 3
    return {
        "one atom, cell of 0.4 cutoffs": case([[0.3, 0.1, 0.2]], 2.0 * np.eye(3), yes, 5.0),
        "one atom, open": case([[0, 0, 0]], none, no, 5.0),
        "isolated atoms": case([[0, 0, 0], [2.0, 2.0, 2.0]], 20.0 * np.eye(3), yes, 3.0),
        "sheared thin cell": case([[0, 0, 0]], thin, yes, 3.0),
        "left-handed": case([[0, 0, 0], [1, 2, 3]], cube[[1, 0, 2]], yes, 3.0),
        "on faces, edges and corners": case([[0, 0, 0], [5, 0, 0], [5, 5, 5], [2.5, 5, 0], [0, 2.5, 5]], cube, yes, 2.6),
        "±1e-52": case([[-4e-52, 0, 0], [1, 1, 1], [0, -1e-52, 4.999999999999999], [1e-52, 5, 5]], cube, yes, 2.0),
        "open direction with a dependent vector": case([[0, 0, 0], [1, 1, 1]], dependent, [True, True, False], 4.0),
        "slab, second layer far above": case([[0, 0, 0], [1, 1, 40.0]], slab, [True, True, False], 4.0),
        "wire": case([[0, 0, 0], [0.1, 9, 0], [0.2, 1, 1]], np.diag([1.5, 0, 0]), [True, False, False], 3.0),
        "some cells away": case([[0, 0, 0], [41.0, -29.0, 1.0]], cube, yes, 2.0),
    }  # fmt: skip


@pytest.mark.parametrize("name", list(named_cases()))
def test_named_case(name: str) -> None:
    check_against_count(*named_cases()[name])


@pytest.mark.parametrize("pbc", list(itertools.product([False, True], repeat=3)))
def test_every_periodicity_with_and_without_open_vectors(pbc: tuple[bool, ...]) -> None:
    rng = np.random.default_rng(4)
    cell = triclinic(np.array([2.0, 3.0, 4.0]), np.array([70.0, 95.0, 120.0]))
    positions = rng.uniform(-1.0, 2.0, (7, 3)) @ cell
    full = make_system(positions, np.ones(7, dtype=int), cell, pbc)
    bare = make_system(positions, np.ones(7, dtype=int), np.where(np.array(pbc)[:, None], cell, 0.0), pbc)
    assert check_against_count(full, 3.5) == check_against_count(bare, 3.5)
    assert edges_of(build_graph(full, 3.5)) == edges_of(build_graph(bare, 3.5)), "the vector of an open direction plays a part"


def test_distance_equal_to_cutoff_is_left_out(trust) -> None:
    system = make_system([[0, 0, 0], [2.0, 0, 0], [0, 1.9999999999999998, 0]], [1, 1, 1], np.zeros((3, 3)), [False] * 3)
    assert edges_of(build_graph(system, 2.0)) == [(0, 2, 0, 0, 0), (2, 0, 0, 0, 0)]
    lattice = make_system([[0.7, 0.1, 0.2]], [1], 2.0 * np.eye(3), [True] * 3)
    assert len(edges_of(build_graph(lattice, 4.0))) == 26
    assert SkinList(cutoff=4.0).graph(lattice).receiver.shape == (26,)
    trust("T5", "pairs at exactly the cutoff", "left out by both lists", "strictly less than the cutoff")


@pytest.mark.parametrize("distance", [3.0e5, 1.0e8, 1.0e12])
def test_atoms_very_far_apart(distance: float) -> None:
    """The search library ends the process here when it sees the gap (T5): the gap must never reach it."""
    positions = np.array([[0, 0, 0], [1.0, 0, 0], [distance, 0, 0], [distance + 1.0, 0, 0]])
    open_system = make_system(positions, np.ones(4, dtype=int), np.zeros((3, 3)), [False] * 3)
    assert edges_of(build_graph(open_system, 2.0)) == [(0, 1, 0, 0, 0), (1, 0, 0, 0, 0), (2, 3, 0, 0, 0), (3, 2, 0, 0, 0)]
    away = 5.0 * np.round(distance / 5.0)
    wrapped = make_system([[0, 0, 0], [away + 1.0, 0, 0]], [1, 1], 5.0 * np.eye(3), [True] * 3)
    turns = round(away / 5.0)
    assert edges_of(build_graph(wrapped, 2.0)) == [(0, 1, -turns, 0, 0), (1, 0, turns, 0, 0)]


def test_batch_equals_structs_one_by_one() -> None:
    cases = [system for system, _ in named_cases().values()]
    together = build_graph(concatenate(cases), 3.0)
    expected, offset = [], 0
    for system in cases:
        expected += [(i + offset, j + offset, *s) for i, j, *s in edges_of(build_graph(system, 3.0))]
        offset += system.n_atoms
    assert edges_of(together) == expected


def hot_crystal(seed: int = 0) -> tuple[System, torch.Tensor, torch.Tensor]:
    """27 atoms of two masses in a skewed cell shorter than twice the cutoff, far above melting: system, momenta, masses."""
    rng = np.random.default_rng(seed)
    cell = triclinic(np.array([7.8, 8.1, 8.4]), np.array([80.0, 95.0, 105.0]))
    grid = np.array(list(itertools.product(range(3), repeat=3))) / 3.0
    system = make_system(grid @ cell + rng.normal(0, 0.05, (27, 3)), np.full(27, 18), cell, [True] * 3)
    masses = torch.tensor(np.where(np.arange(27) % 3, 7.0, 32.0))
    momenta = torch.tensor(rng.normal(size=(27, 3))) * (masses * BOLTZMANN * 2000.0 / KINETIC).sqrt()[:, None]
    return system, momenta - momenta.mean(0), masses


def pair_forces(graph: Graph) -> torch.Tensor:
    """Forces (eV/Å) of the pair energy u(r) = (2.4 Å/r)⁶ (1 − r/r_c)² eV, summed over the edges."""
    vectors = edge_vectors(graph)
    r = vectors.norm(dim=1)
    x = r / graph.cutoff
    slope = -(6.0 * (2.4 / r) ** 6 / r * (1.0 - x) ** 2 + 2.0 * (2.4 / r) ** 6 * (1.0 - x) / graph.cutoff)
    return torch.zeros_like(graph.system.positions).index_add(0, graph.receiver, (slope / r)[:, None] * vectors)


def check_skin_along_steps(lists: SkinList, *, steps: int, breathing: float = 0.0, wrapped: bool = False) -> float:
    """The claim of T6: max|ΔF| ≤ 1e-12 against a fresh list at every step of hot dynamics; gives the largest |ΔF|."""
    system, momenta, masses = hot_crystal()
    cell0, largest, step_fs = system.cell, 0.0, 2.0
    forces = pair_forces(build_graph(system, lists.cutoff))
    for step in range(1, steps + 1):
        momenta = momenta + 0.5 * step_fs * ACCELERATION * forces
        system = replace(system, positions=system.positions + step_fs * momenta / masses[:, None])
        if breathing:
            strain = torch.eye(3, dtype=torch.float64)
            strain[0, 0] += breathing * np.sin(0.05 * step)
            strain[0, 1] += breathing * np.cos(0.031 * step)
            cell = cell0 @ strain
            positions = system.positions @ torch.linalg.solve(system.cell[0], cell[0])
            system = replace(system, cell=cell, positions=positions)
        given_system = system
        if wrapped:
            turns = torch.floor(system.positions @ torch.linalg.inv(system.cell[0]))
            given_system = replace(system, positions=system.positions - turns @ system.cell[0])
        listed, fresh = lists.graph(given_system), build_graph(given_system, lists.cutoff)
        same = torch.equal(listed.receiver, fresh.receiver) and torch.equal(listed.sender, fresh.sender)
        forces = pair_forces(fresh)
        largest = max(largest, float((pair_forces(listed) - forces).abs().max()))
        assert largest <= 1e-12, f"step {step}: forces differ by {largest}"
        assert same and torch.equal(listed.shift, fresh.shift), f"step {step}: other edges or another order"
        momenta = momenta + 0.5 * step_fs * ACCELERATION * forces
        temperature = float((momenta.square().sum(1) / masses).sum()) * KINETIC / (3 * 27 * BOLTZMANN)
        momenta = momenta * min(1.0, 2000.0 / temperature) ** 0.5
    assert lists.rebuilds < steps, "the list was rebuilt at every step: nothing was tested"
    return largest


@pytest.mark.slow
def test_skin_list_along_ten_thousand_hot_steps(trust) -> None:
    lists = SkinList(cutoff=4.0, skin=1.0)
    largest = check_skin_along_steps(lists, steps=10_000)
    trust("T6", "max |ΔF| (eV/Å) of the skin list along 10⁴ steps at 2000 K", largest, "≤ 1e-12")


def test_skin_list_with_a_cell_that_changes_each_step(trust) -> None:
    lists = SkinList(cutoff=4.0, skin=1.0)
    largest = check_skin_along_steps(lists, steps=1500, breathing=0.02)
    trust("T6", "max |ΔF| (eV/Å), cell strained by ±2 % at each of 1500 steps", largest, "≤ 1e-12")


def test_skin_list_with_wrapped_input(trust) -> None:
    largest = check_skin_along_steps(SkinList(cutoff=4.0, skin=1.0), steps=1000, wrapped=True)
    trust("T6", "max |ΔF| (eV/Å), positions wrapped at each of 1000 steps", largest, "≤ 1e-12")


@pytest.mark.planted
def test_planted_dropped_image_is_caught(monkeypatch: pytest.MonkeyPatch, trust) -> None:
    right = graph_module._pairs

    def forgetful(system: System, reach: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        receiver, sender, shift = right(system, reach)
        keep = (shift >= 0.0).any(axis=1) & (np.abs(shift) <= 1).all(axis=1)
        return receiver[keep], sender[keep], shift[keep]

    monkeypatch.setattr(graph_module, "_pairs", forgetful)
    with pytest.raises(AssertionError, match="missing"):
        check_against_count(*named_cases()["one atom, cell of 0.4 cutoffs"])
    trust("T5", "images beyond the nearest dropped", "caught", "caught", planted=True)


@pytest.mark.planted
def test_planted_skin_of_zero_is_caught(monkeypatch: pytest.MonkeyPatch, trust) -> None:
    """The list is kept although atoms moved: the candidates hold no reserve."""
    monkeypatch.setattr(SkinList, "_covers", lambda *_: True)
    with pytest.raises(AssertionError, match=r"forces differ|other edges"):
        check_skin_along_steps(SkinList(cutoff=4.0, skin=0.0), steps=500)
    trust("T6", "skin 0 with a list that is never renewed", "caught", "caught", planted=True)


@pytest.mark.planted
def test_planted_blindness_to_the_cell_is_caught(monkeypatch: pytest.MonkeyPatch, trust) -> None:
    right = SkinList._covers

    def blind(self: SkinList, old: System, new: System) -> bool:
        return right(self, old, replace(new, cell=old.cell, positions=old.positions))

    monkeypatch.setattr(SkinList, "_covers", blind)
    with pytest.raises(AssertionError, match=r"forces differ|other edges"):
        check_skin_along_steps(SkinList(cutoff=4.0, skin=0.1), steps=500, breathing=0.1)
    trust("T6", "changes of the cell overlooked", "caught", "caught", planted=True)
