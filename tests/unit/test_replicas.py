"""The CUDA kernels, built for the CPU with a thin header in place of CUDA, against torch and the compiled CPU engine (T7)."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from cpu_program import cpu_program
from mdistill.derivatives import Conservative
from mdistill.graph import build_graph, checked_box, make_system, volumes
from mdistill.kernels import cuda, replicas
from mdistill.kernels.build import NoKernel, compiler
from mdistill.kernels.motion import Ensemble, Motion, Point
from mdistill.kernels.replicas import Replicas, WarpKernel
from mdistill.nets.compiled import compiled, kernel_weights
from mdistill.simulation.noise import keys
from mdistill.types import System
from systems import SYSTEMS, dimer, isolated_atom, random_box, tiny_net

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler here")
SIZES = {
    "small": {"channels": 4, "radial": 5, "hidden": 8, "degree": 3},
    "as trained by default": {"channels": 12, "radial": 10, "hidden": 64, "degree": 3},
    "degree 2, odd": {"channels": 5, "radial": 7, "hidden": 40, "degree": 2},
    "linear": {"channels": 17, "radial": 8, "hidden": 0, "degree": 3},
    "degree 1": {"channels": 3, "radial": 6, "hidden": 20, "degree": 1},
}
ALL_SIZES = [size if size == "small" else pytest.param(size, marks=pytest.mark.slow) for size in SIZES]


def net_of(size: str, seed: int = 0):
    """A random student whose features have a mean and a spread, and one pair of species that never met."""
    net = tiny_net(seed, **SIZES[size])
    with torch.no_grad():
        net.spread.copy_(0.5 + torch.rand(net.spread.shape, generator=torch.Generator().manual_seed(seed)))
        closest = net.closest.clone()
        closest[0, 1] = closest[1, 0] = net.cutoff
        net.set_closest(closest)
    return net


def species_of(net, system: System) -> np.ndarray:
    return net.species(system.numbers.to(net.species_of.device)).cpu().numpy()


def batch_of(net, systems: list[System], *, double: bool = True, skin: float = 0.3, backwards: bool = False) -> Replicas:
    weights = kernel_weights(net, double=double)
    kernel = WarpKernel(weights, cpu_program(weights, backwards=backwards))
    return Replicas(kernel, [species_of(net, system) for system in systems], skin)


def answers_of(net, systems: list[System], **how: Any) -> list[tuple[float, np.ndarray, np.ndarray]]:
    positions, boxes = [s.positions.numpy() for s in systems], [checked_box(s, net.cutoff) for s in systems]
    return batch_of(net, systems, **how).evaluate(positions, boxes, [s.pbc[0].numpy() for s in systems])


def structures() -> list[System]:
    overlapping = replace(random_box(6, atoms=6), positions=0.35 * random_box(6, atoms=6).positions)
    return [make() for make in SYSTEMS.values()] + [overlapping, dimer(3, 15, 0.4), isolated_atom()]


@pytest.mark.parametrize("size", ALL_SIZES)
def test_a_padded_batch_is_the_network(size, trust):
    """Unequal structures, some without neighbours, one with an image of itself as a neighbour: float64."""
    net, systems = net_of(size), structures()
    plain, worst = Conservative(net), [0.0, 0.0, 0.0]
    assert len({system.n_atoms for system in systems}) > 2
    for system, (energy, forces, virial) in zip(systems, answers_of(net, systems), strict=True):
        expected = plain(build_graph(system, net.cutoff))
        scale = 1.0 + abs(float(expected.energy)) + float(expected.forces.abs().max())
        worst[0] = max(worst[0], abs(energy - float(expected.energy)) / scale)
        worst[1] = max(worst[1], np.abs(forces - expected.forces.numpy()).max() / scale)
        if expected.stress is not None:
            stress = virial / float(volumes(system)[0])
            worst[2] = max(worst[2], np.abs(stress - expected.stress[0].numpy()).max() / scale)
    assert 0.0 < max(worst) < 1e-12
    trust("T7", f"{size}: CUDA source on a CPU against torch, float64: energy, forces, stress", max(worst), "1e-12")


@pytest.mark.parametrize("size", ALL_SIZES)
def test_single_precision_is_close(size, trust):
    net, systems = net_of(size), [random_box(3), random_box(8, atoms=17, length=7.0), isolated_atom()]
    plain, worst = Conservative(net), [0.0, 0.0, 0.0]
    for system, (energy, forces, virial) in zip(systems, answers_of(net, systems, double=False), strict=True):
        expected = plain(build_graph(system, net.cutoff))
        worst[0] = max(worst[0], abs(energy - float(expected.energy)) / system.n_atoms)
        worst[1] = max(worst[1], np.abs(forces - expected.forces.numpy()).max())
        if expected.stress is not None:
            worst[2] = max(
                worst[2], np.abs(virial - expected.stress[0].numpy() * float(volumes(system)[0])).max() / system.n_atoms
            )
    assert worst[0] < 1e-5
    assert max(worst) < 1e-4
    trust("T7", f"{size}: CUDA source on a CPU, float32: energy per atom, forces, virial per atom (eV, Å)", max(worst), "1e-4")


@pytest.mark.planted
def test_one_weight_off_is_noticed(trust):
    net, system = net_of("small"), random_box(3)
    exact = answers_of(net, [system])[0][1]
    with torch.no_grad():
        net.mixing[0, 2, 1, 0] *= 1.0 + 1e-5
    assert np.abs(answers_of(net, [system])[0][1] - exact).max() > 1e-11
    trust("T7", "one weight of the CUDA kernel 1e-5 off", "caught", "caught", planted=True)


def test_a_structure_does_not_feel_the_batch_nor_the_order_of_threads():
    net, systems = net_of("small"), [random_box(1), isolated_atom(), random_box(2, atoms=5)]
    together = answers_of(net, systems)
    for other in (answers_of(net, systems, backwards=True), [answers_of(net, [system])[0] for system in systems]):
        for mine, theirs in zip(together, other, strict=True):
            assert mine[0] == theirs[0]
            assert np.array_equal(mine[1], theirs[1])
            assert np.array_equal(mine[2], theirs[2])


def test_permuted_atoms_have_permuted_forces():
    net, system = net_of("small"), random_box(5)
    order = torch.randperm(system.n_atoms, generator=torch.Generator().manual_seed(0))
    other = replace(system, positions=system.positions[order], numbers=system.numbers[order])
    (energy, forces, virial), (energy2, forces2, virial2) = answers_of(net, [system, other])
    assert abs(energy - energy2) < 1e-12
    assert np.abs(forces[order] - forces2).max() < 1e-12
    assert np.abs(virial - virial2).max() < 1e-11


def test_atoms_far_outside_their_cell_have_the_same_neighbours():
    net, system = net_of("small"), random_box(5)
    turns = torch.randint(-40, 40, (system.n_atoms, 3), generator=torch.Generator().manual_seed(0)).to(torch.float64)
    far = replace(system, positions=system.positions + turns @ system.cell[0])
    (_, forces, _), (_, forces2, _) = answers_of(net, [system, far])
    assert np.abs(forces - forces2).max() < 1e-9


def test_tables_grow_where_neighbours_are_many(monkeypatch):
    net, systems = net_of("small"), [isolated_atom(), random_box(4), dimer(3, 15, 2.2)]
    expected = answers_of(net, systems)
    monkeypatch.setattr(replicas, "_ROOM", 3)
    for mine, theirs in zip(answers_of(net, systems), expected, strict=True):
        assert mine[0] == theirs[0] and np.array_equal(mine[1], theirs[1])


# ---- dynamics ----------------------------------------------------------------------------------------------------------


def point_of(system: System, net, seed: int) -> Point:
    rng, masses = np.random.default_rng(seed), np.linspace(7.0, 35.0, system.n_atoms)
    return Point(
        positions=system.positions.numpy().copy(), momenta=rng.normal(0, 0.03, (system.n_atoms, 3)) * np.sqrt(masses)[:, None],
        cell=checked_box(system, net.cutoff), pbc=system.pbc[0].numpy(), masses=masses, middle=np.zeros((system.n_atoms, 3)),
        forces=np.zeros((system.n_atoms, 3)), energy=np.nan, virial=np.zeros((3, 3)), known=False, sums=np.zeros(7),
    )  # fmt: skip


def motion_of(ensemble: Ensemble, steps: int, seed: int = 0, **limits: Any) -> Motion:
    rng, noise = np.random.default_rng(seed), keys(torch.Generator().manual_seed(seed), steps)
    kind: dict[str, Any] = {
        Ensemble.NVE: {}, Ensemble.LANGEVIN: {"keep": 0.9, "temperature_K": 600.0, "keys": noise},
        Ensemble.BUSSI: {
            "keep": 0.9, "temperature_K": 600.0, "normal": rng.normal(size=steps), "chi_square": rng.chisquare(20.0, steps)
        },
    }[ensemble]  # fmt: skip
    return Motion(steps=steps, first_step=0, ensemble=ensemble, time_step=2.0, **kind, **limits)


def assert_same_point(mine: Point, theirs: Point, *, exact: bool = False) -> None:
    for name in ("positions", "momenta", "middle", "forces", "sums"):
        found, expected = getattr(mine, name), getattr(theirs, name)
        assert np.array_equal(found, expected) if exact else np.abs(found - expected).max() < 1e-10, name
    assert abs(mine.energy - theirs.energy) < (0.0 if exact else 1e-10) or mine.energy == theirs.energy
    assert np.abs(mine.virial - 0.5 * (theirs.virial + theirs.virial.T)).max() < 1e-10


@pytest.mark.parametrize("ensemble", Ensemble, ids=lambda ensemble: ensemble.name)
def test_replicas_take_the_steps_of_the_cpu_engine(ensemble, monkeypatch, trust):
    """Two structures, different numbers of steps, a skin that atoms pass, recorded launches."""
    monkeypatch.setattr(replicas, "_RECORDED", 4)
    net, systems, steps = net_of("small"), [random_box(3, atoms=5, length=5.0), random_box(4, atoms=7, length=5.5)], (11, 8)
    points, motions = [point_of(s, net, k) for k, s in enumerate(systems)], [motion_of(ensemble, n, n) for n in steps]
    assert batch_of(net, systems, skin=0.1).run(motions, points) == [(11, False), (8, False)]
    fast: Any = compiled(Conservative(net), double=True)
    for k, system in enumerate(systems):
        expected = point_of(system, net, k)
        engine = fast.engine(system, threads=1, skin=0.1)
        engine.run(motions[k], expected)
        assert engine.counts()["searches"] > 1
        assert_same_point(points[k], expected)
    trust("T7", f"{ensemble.name}: CUDA source on a CPU against the CPU engine, float64, 11 steps", "same", "1e-10")


def test_a_run_in_parts_is_the_same_run():
    net, system = net_of("small"), random_box(3, atoms=5, length=5.0)
    whole, parts = point_of(system, net, 0), point_of(system, net, 0)
    motion = motion_of(Ensemble.LANGEVIN, 6)
    batch_of(net, [system]).run([motion], [whole])
    for first in (0, 3):
        part = replace(motion, steps=3, first_step=first, keys=motion.keys[first : first + 3])
        batch_of(net, [system]).run([part], [parts])
    assert_same_point(whole, parts, exact=True)


@pytest.mark.parametrize(
    ("limits", "distance"),
    [
        ({"largest_force": 1e-3}, 0.0),
        ({"highest_temperature": 1.0}, 0.0),
        ({"reference_energy": 0.0, "energy_change": 1e-6}, 0.0),
        ({}, 3.0),
    ],
)
def test_a_limit_stops_its_structure_alone(limits, distance):
    net, systems = net_of("small"), [random_box(3, atoms=5, length=5.0), isolated_atom()]
    batch, points = batch_of(net, systems), [point_of(s, net, k) for k, s in enumerate(systems)]
    batch.set_limits(np.full((4, 4), distance))
    motions = [motion_of(Ensemble.NVE, 4, watch_every=2, **limits), motion_of(Ensemble.NVE, 4)]
    assert batch.run(motions, points) == [(2, True), (4, False)]
    assert points[0].sums[0] != 0.0


def test_a_structure_that_flies_apart_has_no_energy():
    net, systems = net_of("small"), [random_box(3, atoms=5, length=5.0), dimer(3, 15, 2.2)]
    points = [point_of(s, net, k) for k, s in enumerate(systems)]
    points[0].momenta[2, 1] = 1e9
    assert batch_of(net, systems).run([motion_of(Ensemble.NVE, 3)] * 2, points) == [(1, True), (3, False)]
    assert np.isnan(points[0].energy) and np.isnan(points[0].forces).all()
    assert np.isfinite(points[1].energy) and np.isfinite(points[1].forces).all()


# ---- compilation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("real", ["float", "double"])
def test_nvrtc_compiles_the_source(real):
    pytest.importorskip("cuda.bindings.nvrtc")
    try:
        binary = cuda.compiled(
            replicas.SOURCES[0], replicas.SOURCES[1:], SIZES["as trained by default"] | {"real": real}, "sm_90"
        )
    except NoKernel as error:
        if "absent" in str(error):
            pytest.skip("no NVRTC here")
        raise
    assert binary.startswith(b"\x7fELF")


def test_without_its_package_the_reason_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", None)
    with pytest.raises(NoKernel, match=r"cuda\.bindings is not installed\n  fix: pip install"):
        cuda.compiled(replicas.SOURCES[0], (), {}, "sm_90")


def test_lattice_vectors_shorter_than_the_cutoff_and_open_directions_are_searched():
    net = net_of("small")
    chain = make_system(np.array([[0.0, 0, 0], [1.1, 0.3, 0]]), np.array([3, 17]), np.diag([2.3, 9.0, 9.0]), [True, False, False])
    expected = Conservative(net)(build_graph(chain, net.cutoff))
    assert np.abs(answers_of(net, [chain])[0][1] - expected.forces.numpy()).max() < 1e-10
