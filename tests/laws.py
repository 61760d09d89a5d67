"""The laws every energy network must obey, as checks that raise AssertionError and return what they measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mdistill.derivatives import Conservative, EnergyNet, curvature_by_differences, predict
from mdistill.graph import build_graph, cast, concatenate, edge_vectors, split, volumes
from mdistill.types import Potential, Prediction, System

DOUBLE = torch.float64


def energies(net: EnergyNet, system: System) -> Tensor:
    """[struct] eV, without gradients."""
    graph = build_graph(system, net.cutoff)
    with torch.no_grad():
        atomic = net(graph, edge_vectors(graph))
    return atomic.new_zeros(system.n_structs).index_add(0, system.owner, atomic)


def evaluate(net: EnergyNet, system: System) -> Prediction:
    return Conservative(net)(build_graph(system, net.cutoff))


def assert_close(found: Tensor, expected: Tensor, *, absolute: float, relative: float = 0.0) -> float:
    """max |found − expected| ≤ absolute + relative · max |expected|; gives the largest difference."""
    if found.numel() == 0:
        return 0.0
    worst = float((found - expected).abs().max())
    allowed = absolute + relative * float(expected.abs().max())
    assert worst <= allowed, f"differs by {worst:.3e}, allowed {allowed:.3e}"
    return worst


def assert_forces_match_energy(net: EnergyNet, system: System, *, step: float = 1e-4) -> float:
    """F = −∂E/∂r by central differences of every coordinate; 1e-6 eV/Å + 1e-6 relative."""
    n = system.n_atoms
    moves = step * torch.eye(3 * n, dtype=DOUBLE).reshape(-1, n, 3)
    shifted = [replace(system, positions=system.positions + sign * move) for sign in (1.0, -1.0) for move in moves]
    up, down = energies(net, concatenate(shifted)).chunk(2)
    forces = -((up - down) / (2.0 * step)).reshape(n, 3)
    return assert_close(evaluate(net, system).forces, forces, absolute=1e-6, relative=1e-6)


def strained(system: System, strain: Tensor) -> System:
    """r → r (1 + ε), cell likewise."""
    deform = torch.eye(3, dtype=DOUBLE) + strain
    return replace(system, positions=system.positions @ deform, cell=system.cell @ deform)


def assert_stress_matches_energy(net: EnergyNet, system: System, *, step: float = 2e-5) -> float:
    """σ_ab = (1/V) ∂E/∂ε_ab for the six symmetric strains; 1e-7 eV/Å³. Tension positive."""
    stress = evaluate(net, system).stress
    assert stress is not None
    expected = torch.zeros(3, 3, dtype=DOUBLE)
    for a, b in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)):
        strain = torch.zeros(3, 3, dtype=DOUBLE)
        strain[a, b] += 0.5
        strain[b, a] += 0.5
        up, down = (energies(net, strained(system, sign * step * strain)) for sign in (1.0, -1.0))
        expected[a, b] = expected[b, a] = float(up - down) / (2.0 * step) / float(volumes(system))
    return assert_close(stress[0], expected, absolute=1e-7)


def orthogonal(seed: int, *, reflect: bool) -> Tensor:
    """A random rotation, or one times a reflection."""
    matrix = torch.linalg.qr(torch.randn(3, 3, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed)))[0]
    matrix = matrix * torch.sign(torch.linalg.det(matrix))
    return -matrix if reflect else matrix


def assert_invariant(
    net: EnergyNet, system: System, *, dtype: torch.dtype = DOUBLE, absolute: float = 1e-9, relative: float = 0.0
) -> float:
    """Energy invariant, forces and stress covariant under rotation, reflection, permutation, translation, wrapping by
    up to ±5 cells."""
    system = cast(system, dtype=dtype)
    base = evaluate(net, system)
    worst = 0.0
    generator = torch.Generator().manual_seed(7)
    order = torch.randperm(system.n_atoms, generator=generator)
    cells = torch.randint(-5, 6, (system.n_atoms, 3), generator=generator).to(dtype) * system.pbc[0]
    turns = [orthogonal(seed, reflect=reflect).to(dtype) for seed in range(2) for reflect in (False, True)]
    eye = torch.eye(3, dtype=dtype)
    copies = [(replace(system, positions=system.positions @ q, cell=system.cell @ q), q, None) for q in turns]
    copies += [
        (replace(system, positions=system.positions[order], numbers=system.numbers[order]), eye, order),
        (replace(system, positions=system.positions + torch.tensor([0.3, -7.7, 1.9], dtype=dtype)), eye, None),
        (replace(system, positions=system.positions + cells @ system.cell[0]), eye, None),
    ]
    for copy, q, permutation in copies:
        found = evaluate(net, copy)
        forces = base.forces if permutation is None else base.forces[permutation]
        worst = max(worst, assert_close(found.energy, base.energy, absolute=absolute, relative=relative))
        worst = max(worst, assert_close(found.forces, forces @ q, absolute=absolute, relative=relative))
        if base.stress is not None:
            assert found.stress is not None
            worst = max(worst, assert_close(found.stress, q.T @ base.stress @ q, absolute=absolute, relative=relative))
    return worst


def assert_batching_transparent(potential: Potential, systems: Sequence[System], *, absolute: float = 1e-12) -> float:
    """Structures in one batch, in any order, give what each gives alone (energies relative to |E| where above 1 eV)."""
    alone = [potential(build_graph(system, potential.cutoff)) for system in systems]
    worst = 0.0
    for order in (range(len(systems)), list(reversed(range(len(systems))))):
        batch = concatenate([systems[k] for k in order])
        together = potential(build_graph(batch, potential.cutoff))
        for place, (k, part) in enumerate(zip(order, split(replace(batch, positions=together.forces)), strict=True)):
            worst = max(worst, assert_close(part.positions, alone[k].forces, absolute=absolute, relative=absolute))
            worst = max(
                worst, assert_close(together.energy[place : place + 1], alone[k].energy, absolute=absolute, relative=absolute)
            )
            if together.stress is not None and alone[k].stress is not None:
                worst = max(
                    worst, assert_close(together.stress[place : place + 1], alone[k].stress, absolute=absolute, relative=absolute)
                )  # type: ignore[arg-type]
    return worst


def assert_isolated_atom_is_reference(net: EnergyNet, atom: System, reference: float) -> float:
    """An atom without neighbours has exactly its reference energy and no force (1e-12)."""
    found = evaluate(net, atom)
    worst = assert_close(found.energy, torch.tensor([reference], dtype=DOUBLE), absolute=1e-12)
    return max(worst, assert_close(found.forces, torch.zeros(1, 3, dtype=DOUBLE), absolute=0.0))


def assert_smooth_at_cutoff(net: EnergyNet, system: System, *, gap: float = 1e-7) -> float:
    """A further atom crossing the cutoff of the first one: no jump of E, F or dF/dr above 1e-6 (eV, eV/Å, eV/Å²)."""
    out = torch.tensor([0.0, 0.0, 1.0], dtype=DOUBLE)
    top = int(system.positions[:, 2].argmax())
    probe = torch.zeros((1, system.n_atoms + 1, 3), dtype=DOUBLE)
    probe[0, -1] = out
    sides = []
    for distance in (net.cutoff - gap, net.cutoff + gap):
        position = system.positions[top] + distance * out
        grown = replace(
            system,
            positions=torch.cat([system.positions, position.unsqueeze(0)]),
            numbers=torch.cat([system.numbers, system.numbers[:1]]),
            owner=torch.cat([system.owner, system.owner[:1]]),
        )
        prediction, products = predict(net, build_graph(grown, net.cutoff), probes=probe)
        sides.append(torch.cat([prediction.energy.detach(), prediction.forces.detach().flatten(), products.detach().flatten()]))
    return assert_close(sides[0], sides[1], absolute=1e-6)


def assert_extensive_and_local(net: EnergyNet, system: System) -> float:
    """Two copies 100 Å apart: E doubles to 1e-9 eV, forces are the same bits as with the other copy 40 Å away or absent.

    `system` is a molecule."""
    base = evaluate(net, system)
    worst = 0.0
    for separation in (100.0, 40.0):
        far = replace(system, positions=system.positions + torch.tensor([separation, 0.0, 0.0], dtype=DOUBLE))
        pair = replace(
            concatenate([system, far]), cell=system.cell, pbc=system.pbc, owner=torch.zeros(2 * system.n_atoms, dtype=torch.int64)
        )
        found = evaluate(net, pair)
        worst = max(worst, assert_close(found.energy, 2.0 * base.energy, absolute=1e-9))
        worst = max(worst, assert_close(found.forces[: system.n_atoms], base.forces, absolute=1e-12))
    return worst


def assert_curvature_consistent(net: EnergyNet, system: System) -> tuple[float, float]:
    """H symmetric (1e-9 relative) and equal to central differences of the forces (1e-5 relative); both measured."""
    potential = Conservative(net)
    probes = torch.randn((3, system.n_atoms, 3), dtype=DOUBLE, generator=torch.Generator().manual_seed(3))
    products = potential.curvature(build_graph(system, net.cutoff), probes)
    matrix = torch.einsum("pax,qax->pq", probes, products)
    asymmetry = assert_close(matrix, matrix.T, absolute=1e-12, relative=1e-9)
    differences = curvature_by_differences(potential, system, probes, step=1e-4)
    return asymmetry, assert_close(products, differences, absolute=1e-8, relative=1e-5)


def force_flips(net: EnergyNet, first: int, second: int, distances: Tensor) -> tuple[int, Tensor]:
    """Sign changes of the radial force of a dimer along ascending distances, and that force (eV/Å, repulsion positive)."""
    from systems import dimer

    batch = concatenate([dimer(first, second, float(distance)) for distance in distances])
    radial = evaluate(net, batch).forces[1::2, 2]
    signs = torch.sign(radial[radial.abs() > 1e-9])
    return int((signs[1:] != signs[:-1]).sum()), radial
