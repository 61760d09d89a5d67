"""Every energy network obeys every law (T1–T4, T9, T11), and each check catches a planted bug."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.stress import full_3x3_to_voigt_6_stress

from laws import (
    assert_batching_transparent,
    assert_curvature_consistent,
    assert_extensive_and_local,
    assert_forces_match_energy,
    assert_invariant,
    assert_isolated_atom_is_reference,
    assert_smooth_at_cutoff,
    assert_stress_matches_energy,
    evaluate,
    force_flips,
)
from mdistill import derivatives
from mdistill.derivatives import Conservative
from mdistill.graph import build_graph, concatenate, edge_vectors
from mdistill.nets import moment, moment_basis, painn, repulsion
from mdistill.nets.layers import FREEZE
from mdistill.types import Graph
from systems import CLOSEST, LIPSCL, NETS, SYSTEMS, fcc, isolated_atom, random_box

every_net = pytest.mark.parametrize("make", NETS.values(), ids=NETS.keys())
PERIODIC = ("box", "cell shorter than the cutoff", "very skewed", "fcc primitive")


def molecule():
    return SYSTEMS["molecule"]()


@every_net
def test_forces_are_minus_the_gradient_of_the_energy(make, trust):
    systems = [random_box(seed, atoms=8, skew=0.5, periodic=seed % 4 != 0) for seed in range(16)]
    systems += [SYSTEMS[name]() for name in ("cell shorter than the cutoff", "slab", "dimer", "fcc primitive")]
    worst = max(assert_forces_match_energy(make(seed), system) for seed, system in enumerate(systems))
    trust("T1", "forces against central differences, 20 structures, largest |ΔF| (eV/Å)", worst, "1e-6 + 1e-6 rel.")


@every_net
@pytest.mark.planted
def test_force_law_catches_a_term_that_is_forgotten(make, trust, monkeypatch):
    def receivers_only(graph, gradient):
        return gradient.new_zeros((graph.system.n_atoms, 3)).index_add(0, graph.receiver, gradient)

    monkeypatch.setattr(derivatives, "_to_atoms", receivers_only)
    with pytest.raises(AssertionError):
        assert_forces_match_energy(make(0), SYSTEMS["box"]())
    trust("T1", "force of the sender side forgotten", "caught", "caught", planted=True)


@every_net
def test_stress_is_the_strain_derivative(make, trust):
    worst = max(assert_stress_matches_energy(make(seed), SYSTEMS[name]()) for seed, name in enumerate(PERIODIC))
    trust("T2", "stress against six strains, largest |Δσ| (eV/Å³)", worst, "1e-7")


@every_net
def test_stress_sign_and_voigt_order_are_those_of_ase(make, trust):
    potential = Conservative(make(0))
    squeezed = fcc(3, 2.2)
    stress = evaluate(potential.net, squeezed).stress
    pressure = -float(stress[0].trace()) / 3.0
    assert pressure > 0.0
    box = SYSTEMS["box"]()
    sheared = evaluate(potential.net, box).stress[0].numpy()
    voigt = full_3x3_to_voigt_6_stress(sheared)
    expected = [sheared[a, b] for a, b in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))]
    assert np.allclose(voigt, expected, atol=1e-15)
    atoms = Atoms(numbers=[3], cell=squeezed.cell[0].numpy(), pbc=True, positions=[[0, 0, 0]])
    from ase.calculators.singlepoint import SinglePointCalculator

    atoms.calc = SinglePointCalculator(atoms, stress=full_3x3_to_voigt_6_stress(stress[0].numpy()))
    assert atoms.get_stress()[:3].sum() < 0.0
    trust("T2", "pressure of a compressed crystal (eV/Å³), ASE trace < 0", pressure, "> 0")


@every_net
@pytest.mark.planted
def test_stress_law_catches_the_wrong_sign(make, trust, monkeypatch):
    right = derivatives._stress
    monkeypatch.setattr(derivatives, "_stress", lambda *arguments: -right(*arguments))
    with pytest.raises(AssertionError):
        assert_stress_matches_energy(make(0), SYSTEMS["box"]())
    trust("T2", "stress with the wrong sign", "caught", "caught", planted=True)


@every_net
def test_invariance(make, trust):
    worst = max(assert_invariant(make(seed), SYSTEMS[name]()) for seed, name in enumerate(SYSTEMS))
    trust("T3", "rotation, reflection, permutation, translation, wrap ±5 cells, float64 (eV, eV/Å)", worst, "1e-9")


@every_net
def test_invariance_in_single_precision(make, trust):
    worst = 0.0
    for seed, name in enumerate(SYSTEMS):
        net = make(seed).in_type(torch.float32)
        worst = max(worst, assert_invariant(net, SYSTEMS[name](), dtype=torch.float32, absolute=1e-5, relative=1e-4))
    trust("T3", "the same in float32, largest difference (eV, eV/Å)", worst, "1e-4 rel. (+ 1e-5)")


@pytest.mark.planted
def test_invariance_catches_a_wrong_harmonic(trust):
    net = NETS["moment"](0)
    net.table[:, 6] *= 1.01
    with pytest.raises(AssertionError):
        assert_invariant(net, SYSTEMS["box"]())
    trust("T3", "one spherical harmonic 1 % too large", "caught", "caught", planted=True)


@pytest.mark.planted
def test_invariance_catches_a_vector_that_does_not_turn(monkeypatch, trust):
    right = painn.Update.forward

    def stretched(self, scalar, vector):
        return right(self, scalar, vector * torch.tensor([1.01, 1.0, 1.0], dtype=vector.dtype).view(3, 1))

    monkeypatch.setattr(painn.Update, "forward", stretched)
    with pytest.raises(AssertionError):
        assert_invariant(NETS["painn"](0), SYSTEMS["box"]())
    trust("T3", "vector features 1 % longer along x", "caught", "caught", planted=True)


@every_net
@pytest.mark.planted
def test_invariance_catches_a_dropped_image(make, trust, monkeypatch):
    def without_one(system, cutoff):
        graph = build_graph(system, cutoff)
        keep = torch.arange(len(graph.sender)) != len(graph.sender) // 2
        return Graph(
            system=system, receiver=graph.receiver[keep], sender=graph.sender[keep], shift=graph.shift[keep], cutoff=cutoff
        )

    import laws

    monkeypatch.setattr(laws, "build_graph", without_one)
    with pytest.raises(AssertionError):
        assert_invariant(make(0), SYSTEMS["box"]())
    trust("T3", "one neighbour image dropped", "caught", "caught", planted=True)


@every_net
def test_batching_is_transparent(make, trust):
    periodic = [SYSTEMS[name]() for name in PERIODIC]
    mixed = [make_system() for make_system in SYSTEMS.values()]
    worst = max(assert_batching_transparent(Conservative(make(seed)), systems) for seed, systems in enumerate((periodic, mixed)))
    trust("T4", "batch of 1 against batch of n, largest difference (rel. above 1)", worst, "1e-12")


@every_net
@pytest.mark.planted
def test_batching_catches_structures_that_see_each_other(make, trust):
    class Leaky:
        """Shifts every energy by the mean over the batch."""

        def __init__(self):
            self.net = make(0)
            self.cutoff, self.elements, self.name = self.net.cutoff, self.net.elements, "leaky"

        def __call__(self, graph, vectors):
            atomic = self.net(graph, vectors)
            return atomic + 1e-6 * atomic.mean()

    with pytest.raises(AssertionError):
        assert_batching_transparent(Conservative(Leaky()), [SYSTEMS["box"](), SYSTEMS["molecule"]()])
    trust("T4", "batch mean leaking into each structure", "caught", "caught", planted=True)


@every_net
def test_single_atoms_have_their_reference_energy(make, trust):
    net, worst = make(0), 0.0
    for z, reference in zip(LIPSCL, net.reference.tolist(), strict=True):
        worst = max(worst, assert_isolated_atom_is_reference(net, isolated_atom(z), reference))
    worst = max(worst, assert_isolated_atom_is_reference(net, fcc(16, 9.0), float(net.reference[2])))
    trust("T4", "isolated atom and single-atom cell beyond the cutoff against E0 (eV)", worst, "1e-12")


@every_net
@pytest.mark.planted
def test_isolated_atom_law_catches_a_bias(make, trust):
    net = make(0)
    with pytest.raises(AssertionError):
        assert_isolated_atom_is_reference(net, isolated_atom(16), float(net.reference[2]) + 1e-9)
    trust("T4", "E0 off by 1e-9 eV", "caught", "caught", planted=True)


@every_net
def test_smooth_at_the_cutoff(make, trust):
    worst = max(assert_smooth_at_cutoff(make(seed), molecule()) for seed in range(4))
    trust("T9", "jump of E, F, dF/dr at the cutoff (eV, eV/Å, eV/Å²)", worst, "1e-6")


@every_net
@pytest.mark.planted
def test_smoothness_catches_an_envelope_of_lower_order(make, trust, monkeypatch):
    monkeypatch.setattr(moment, "moments", moment_basis.plain_moments)
    for module, power in ((moment_basis, 2), (painn, 1)):

        def lower(r, cutoff, power=power):
            return (1.0 - (r / cutoff).square()).clamp_min(0.0).pow(power)

        monkeypatch.setattr(module, "cutoff_envelope", lower)
    with pytest.raises(AssertionError):
        assert_smooth_at_cutoff(make(0), molecule())
    trust("T9", "envelope with a kink in dF/dr", "caught", "caught", planted=True)


@every_net
def test_extensive_and_local(make, trust):
    worst = max(assert_extensive_and_local(make(seed), molecule()) for seed in range(4))
    trust("T9", "copies 100 and 40 Å apart: |E(2) − 2E(1)| (eV), |ΔF| (eV/Å)", worst, "1e-9; 1e-12")


@every_net
@pytest.mark.planted
def test_extensivity_catches_a_size_dependent_energy(make, trust):
    class Averaged:
        def __init__(self):
            self.net = make(0)
            self.cutoff, self.elements, self.name = self.net.cutoff, self.net.elements, "averaged"

        def __call__(self, graph, vectors):
            return self.net(graph, vectors) + 1e-8 * graph.system.n_atoms

    with pytest.raises(AssertionError):
        assert_extensive_and_local(Averaged(), molecule())
    trust("T9", "energy that grows with the square of the size", "caught", "caught", planted=True)


@every_net
def test_curvature_is_symmetric_and_matches_differences(make, trust):
    measured = [
        assert_curvature_consistent(make(seed), SYSTEMS[name]()) for seed, name in enumerate(("box", "molecule", "very skewed"))
    ]
    trust("T1", "curvature products against central differences, largest (eV/Å²)", max(m[1] for m in measured), "1e-5 rel.")
    trust("T1", "curvature asymmetry |v·Hw − w·Hv| (eV/Å²)", max(m[0] for m in measured), "1e-9 rel.")


@every_net
@pytest.mark.planted
def test_curvature_law_catches_a_wrong_probe(make, trust, monkeypatch):
    monkeypatch.setattr(derivatives, "_edge_probe", lambda graph, probe: probe.index_select(0, graph.sender))
    with pytest.raises(AssertionError):
        assert_curvature_consistent(make(0), SYSTEMS["box"]())
    trust("T1", "receiver side of the probe forgotten", "caught", "caught", planted=True)


@every_net
def test_every_pair_repels_below_the_closest_labelled_distance(make, trust):
    """Below closest − FREEZE the learned radial force is zero whatever the weights, so only the core acts."""
    distances = torch.linspace(0.3, CLOSEST - FREEZE, 60, dtype=torch.float64)
    lowest = np.inf
    for seed in range(2):
        for first, second in itertools.combinations_with_replacement(LIPSCL, 2):
            flips, radial = force_flips(make(seed), first, second, distances)
            assert flips == 0
            assert bool((radial > 0.0).all())
            lowest = min(lowest, float(radial.min()))
    trust(
        "T11", "lowest repulsive force of any pair, 0.3 Å to the end of the core, random weights (eV/Å)", lowest, "> 0, no flip"
    )


@every_net
@pytest.mark.planted
def test_repulsion_scan_catches_a_missing_core(make, trust, monkeypatch):
    def nothing(self, distance, pair):
        near = torch.zeros(0, dtype=torch.int64)
        return near.to(distance.dtype), near

    monkeypatch.setattr(repulsion.CoreRepulsion, "forward", nothing)
    distances = torch.linspace(0.3, CLOSEST - FREEZE, 20, dtype=torch.float64)
    assert not bool((force_flips(make(0), 3, 16, distances)[1] > 0.0).all())
    monkeypatch.undo()
    monkeypatch.setattr(moment, "moments", moment_basis.plain_moments)
    for module in (moment_basis, painn):
        monkeypatch.setattr(module, "frozen_below", lambda distance, closest, width: distance)
    strong = make(0)
    strong.scale.fill_(50_000.0)
    pairs = itertools.combinations_with_replacement(LIPSCL, 2)
    assert not all(bool((force_flips(strong, *pair, distances)[1] > 0.0).all()) for pair in pairs)
    trust("T11", "no core; learned part not frozen", "caught", "caught", planted=True)


@every_net
def test_overlapping_starts_fall_apart(make, trust):
    """50 boxes with overlapping atoms: finite energies and forces, and steepest descent of bounded steps separates all pairs."""
    net = make(0)
    system = concatenate([random_box(100 + seed, atoms=6, length=6.0, closest=0.02) for seed in range(50)])
    found = evaluate(net, system)
    assert bool(torch.isfinite(found.forces).all()) and bool(torch.isfinite(found.energy).all())
    for _ in range(60):
        step = 0.05 * found.forces / (found.forces.norm(dim=1, keepdim=True) + 1.0)
        system = replace(system, positions=system.positions + step)
        found = evaluate(net, system)
        assert bool(torch.isfinite(found.forces).all())
    lowest = float(edge_vectors(build_graph(system, 5.0)).norm(dim=1).min())
    assert lowest > 0.75
    trust("T11", "closest pair after 60 steps downhill from 50 overlapping starts (Å)", lowest, "> 0.75 Å, no NaN")


@every_net
def test_atoms_in_the_same_place_give_finite_numbers(make):
    found = evaluate(make(0), SYSTEMS["dimer"]().__class__(
        positions=torch.zeros(2, 3, dtype=torch.float64), numbers=torch.tensor([3, 16]), cell=torch.zeros(1, 3, 3, dtype=torch.float64),
        pbc=torch.zeros(1, 3, dtype=torch.bool), owner=torch.zeros(2, dtype=torch.int64)))  # fmt: skip
    assert bool(torch.isfinite(found.energy).all() & torch.isfinite(found.forces).all())
