"""The compiled kernel against its torch oracle (T7), its neighbour search against counting (T5, T6)."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from laws import assert_close
from mdistill.derivatives import Conservative
from mdistill.errors import BadInput
from mdistill.graph import build_graph, checked_box, edge_vectors, make_system
from mdistill.kernels.build import compiler
from mdistill.kernels.moment import MomentKernel, neighbours
from mdistill.nets.compiled import CompiledMoment, compiled, kernel_weights
from mdistill.types import Prediction, System
from systems import SYSTEMS, dimer, random_box, tiny_net

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler here")
SIZES = {
    "as trained by default": {"channels": 12, "radial": 10, "hidden": 64, "degree": 3},
    "small": {"channels": 4, "radial": 5, "hidden": 8, "degree": 3},
    "degree 2, wide": {"channels": 31, "radial": 7, "hidden": 40, "degree": 2},
    "linear": {"channels": 4, "radial": 5, "hidden": 0, "degree": 3},
    "degree 1": {"channels": 3, "radial": 6, "hidden": 20, "degree": 1},
}
SLOW = ("degree 2, wide", "linear", "degree 1")
"""Each is compiled twice, for nothing but its two tests."""
EACH = pytest.mark.parametrize("size", [pytest.param(size, marks=[pytest.mark.slow] if size in SLOW else []) for size in SIZES])


def net_of(size: str, seed: int = 0):
    """A random student whose features have a mean and a spread, and one pair of species that never met."""
    net = tiny_net(seed, **SIZES[size])
    with torch.no_grad():
        net.spread.copy_(0.5 + torch.rand(net.spread.shape, generator=torch.Generator().manual_seed(seed)))
        closest = net.closest.clone()
        closest[0, 1] = closest[1, 0] = net.cutoff
        net.set_closest(closest)
    return net


def pair_of(size: str, *, double: bool = True, seed: int = 0) -> tuple[Conservative, CompiledMoment]:
    plain = Conservative(net_of(size, seed))
    fast = compiled(plain, double=double)
    assert isinstance(fast, CompiledMoment)
    return plain, fast


def with_search(fast: CompiledMoment, system: System, *, threads: int = 1) -> Prediction:
    """The answer with the engine's own neighbour search."""
    engine = fast.engine(system, threads=threads, skin=0.3)
    box = checked_box(system, fast.cutoff)
    return fast.answer(system, *engine.evaluate(system.positions.numpy(), box, system.pbc[0].numpy()))


def structures() -> list[System]:
    overlapping = replace(random_box(6), positions=0.35 * random_box(6).positions)
    crowded = make_system(np.random.default_rng(0).uniform(0, 5, (9, 3)), np.full(9, 16), 5 * np.eye(3), [True] * 3)
    return [make() for make in SYSTEMS.values()] + [random_box(8, atoms=37, length=9.0), overlapping, crowded, dimer(3, 15, 0.4)]


@EACH
def test_the_kernel_is_the_network(size, trust):
    plain, fast = pair_of(size)
    worst = [0.0, 0.0]
    for system in structures():
        expected = plain(build_graph(system, plain.cutoff))
        answers = [fast(build_graph(system, plain.cutoff)), *(with_search(fast, system, threads=n) for n in (1, 2, 8))]
        for found in answers:
            scale = 1.0 + float(expected.energy.abs()) + float(expected.forces.abs().max())
            worst[0] = max(worst[0], assert_close(found.energy, expected.energy, absolute=1e-10 * scale))
            worst[1] = max(worst[1], assert_close(found.forces, expected.forces, absolute=1e-9 * scale))
            assert (found.stress is None) == (expected.stress is None)
            if expected.stress is not None and found.stress is not None:
                assert_close(found.stress, expected.stress, absolute=1e-10 * scale, relative=1e-10)
    trust("T7", f"{size}: kernel against torch, float64, threads 1/2/8, own search and given edges (eV)", worst[0], "1e-10")
    trust("T7", f"{size}: forces (eV/Å)", worst[1], "1e-9")


@EACH
def test_single_precision_is_close(size, trust):
    plain, fast = pair_of(size, double=False)
    worst = [0.0, 0.0]
    for system in structures()[:-3]:
        expected, found = plain(build_graph(system, plain.cutoff)), with_search(fast, system)
        worst[0] = max(worst[0], assert_close(found.energy, expected.energy, absolute=1e-5 * system.n_atoms))
        worst[1] = max(worst[1], assert_close(found.forces, expected.forces, absolute=1e-4, relative=1e-5))
    trust("T7", f"{size}: forces in float32 (eV/Å)", worst[1], "1e-4")


@pytest.mark.planted
def test_a_kernel_with_one_weight_off_is_noticed(trust):
    plain = Conservative(net_of("small"))
    weights = kernel_weights(plain.net, double=True)
    weights.mixing[0, 2, 1, 0] *= 1.0 + 1e-5
    fast = CompiledMoment(plain, MomentKernel(weights))
    system = random_box(8, atoms=37, length=9.0)
    with pytest.raises(AssertionError):
        assert_close(with_search(fast, system).forces, plain(build_graph(system, plain.cutoff)).forces, absolute=1e-9)
    trust("T7", "one weight of the kernel 1e-5 off", "caught", "caught", planted=True)


def test_a_batch_and_curvature_go_through_torch():
    plain, fast = pair_of("small")
    from mdistill.graph import concatenate

    batch = build_graph(concatenate([random_box(1), random_box(2)]), plain.cutoff)
    assert torch.equal(fast(batch).forces, plain(batch).forces)
    graph = build_graph(random_box(1), plain.cutoff)
    probes = torch.randn((1, 10, 3), dtype=torch.float64)
    assert torch.equal(fast.curvature(graph, probes), plain.curvature(graph, probes))
    assert fast.net is plain.net
    assert (fast.elements, fast.cutoff, fast.name) == (plain.elements, plain.cutoff, plain.name)


def test_an_unknown_element_is_named():
    _, fast = pair_of("small")
    with pytest.raises(BadInput, match="Fe"):
        fast.engine(make_system(np.zeros((1, 3)), np.array([26]), np.zeros((3, 3)), [False] * 3), threads=1, skin=0.5)


# ---- neighbour search --------------------------------------------------------------------------------------------------


def vectors_by_receiver(first, vectors) -> list[np.ndarray]:
    """Edge vectors of every receiver in a canonical order."""
    lists = [vectors[a:b] for a, b in itertools.pairwise(first)]
    return [part[np.lexsort(np.round(part, 7).T)] for part in lists]


def assert_same_neighbours(kernel: MomentKernel, system: System, cutoff: float) -> None:
    graph = build_graph(system, cutoff)
    expected = np.searchsorted(graph.receiver.numpy(), np.arange(system.n_atoms + 1))
    r = system.positions.numpy()
    box, pbc = checked_box(system, cutoff), system.pbc[0].numpy()
    first, sender, offset = neighbours(kernel, r, box, pbc, cutoff)
    for one, three in zip((first, sender, offset), neighbours(kernel, r, box, pbc, cutoff, threads=3), strict=True):
        assert np.array_equal(one, three), "any number of threads must give the same list in the same order"
    found = r[sender] + offset - np.repeat(r, np.diff(first), axis=0)
    assert np.array_equal(first, expected)
    pairs = zip(vectors_by_receiver(first, found), vectors_by_receiver(expected, edge_vectors(graph).numpy()), strict=True)
    for mine, theirs in pairs:
        assert np.allclose(mine, theirs, atol=1e-6)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 14), st.floats(1.2, 12.0), st.floats(0.0, 0.9), st.integers(0, 7), st.booleans())
def test_the_search_finds_what_vesin_finds(seed, atoms, length, skew, periodic, outside):  # noqa: PLR0917
    rng = np.random.default_rng(seed)
    cell = length * (np.eye(3) + skew * rng.uniform(-1, 1, (3, 3)))
    if abs(np.linalg.det(cell)) < 0.05 * length**3:
        return
    cell *= rng.choice([-1.0, 1.0])
    positions = rng.uniform(-3.0 if outside else 0.0, 4.0 if outside else 1.0, (atoms, 3)) @ cell
    pbc = [bool(periodic & 1 << a) for a in range(3)]
    system = make_system(positions, np.full(atoms, 16), cell, pbc)
    _, fast = pair_of("small")
    assert_same_neighbours(fast.kernel, system, float(rng.uniform(0.8, 5.5)))


def test_a_skin_never_changes_the_answer(trust):
    """10,000 hot steps; half-skin moves, jumps beyond the skin and changed cells are all noticed."""
    _, fast = pair_of("small")
    system = random_box(11, atoms=6, length=5.5)
    rng, worst = np.random.default_rng(0), 0.0
    engines = [fast.engine(system, threads=1, skin=skin) for skin in (0.4, 0.0)]
    r, cell = system.positions.numpy().copy(), system.cell[0].numpy().copy()
    for step in range(10_000):
        r += rng.normal(0.0, 2.0 if step % 1000 == 999 else 0.01, r.shape)
        if step % 500 == 0:
            cell = cell * (1.0 + 0.001 * rng.normal())
        kept, fresh = (engine.evaluate(r, cell, np.ones(3)) for engine in engines)
        assert np.isfinite(fresh[1]).all()
        worst = max(worst, float(np.abs(kept[1] - fresh[1]).max()) / max(1.0, float(np.abs(fresh[1]).max())))
    assert worst == 0.0
    assert engines[0].counts()["searches"] < 0.2 * engines[1].counts()["searches"]
    trust("T6", "compiled list with a skin against a fresh one, 10,000 hot steps, largest |ΔF|", worst, "1e-12")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_position_that_is_not_finite_has_no_energy(value):
    _, fast = pair_of("small", double=False)
    system = random_box(1)
    positions = system.positions.numpy().copy()
    positions[3, 1] = value
    assert np.isnan(fast.engine(system, threads=1, skin=0.5).evaluate(positions, system.cell[0].numpy(), np.ones(3))[0])


def test_the_order_of_calls_does_not_matter():
    _, fast = pair_of("small", double=False)
    one, other = random_box(1), random_box(1)
    other = replace(other, positions=other.positions + 0.1)
    engine = fast.engine(one, threads=1, skin=0.5)

    def ask(system: System) -> np.ndarray:
        return engine.evaluate(system.positions.numpy(), system.cell[0].numpy(), np.ones(3))[1]

    first = ask(one)
    ask(other)
    assert np.array_equal(ask(one), first)
