"""Forces, stress and curvature products of a potential with known answers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from ase import Atoms
from ase.calculators.morse import MorsePotential

from laws import assert_close
from mdistill import derivatives
from mdistill.derivatives import Conservative, curvature_by_differences, hessian, predict
from mdistill.errors import BadInput
from mdistill.graph import build_graph, concatenate
from mdistill.types import CurvedPotential, Graph, Prediction
from physics.potentials import fcc
from springs import NearestSprings
from systems import SYSTEMS, MorseNet, dimer, isolated_atom, random_box, tiny_net

DOUBLE = torch.float64


class Springs:
    """E = ½ Σ_pairs k (r − b)², all pairs within the cutoff; H of a dimer is known."""

    cutoff, elements, name, stiffness, length = 5.0, frozenset(), "springs", 3.0, 2.0

    def __call__(self, graph, vectors):
        stretch = vectors.norm(dim=1) - self.length
        atomic = vectors.new_zeros(graph.system.n_atoms)
        return atomic.index_add(0, graph.receiver, 0.25 * self.stiffness * stretch.square())


def test_dimer_of_springs_has_its_textbook_curvature(trust):
    """H along the bond k, across it k (1 − b/r)."""
    distance = 2.4
    along, across = torch.zeros((2, 2, 3), dtype=DOUBLE)
    along[1, 2] = across[1, 0] = 1.0
    products = Conservative(Springs()).curvature(build_graph(dimer(3, 3, distance), 5.0), torch.stack([along, across]))
    expected = torch.zeros((2, 2, 3), dtype=DOUBLE)
    expected[0, 1, 2], expected[1, 1, 0] = 3.0, 3.0 * (1 - 2.0 / distance)
    expected[:, 0] = -expected[:, 1]
    worst = assert_close(products, expected, absolute=1e-12)
    trust("T1", "curvature of a spring dimer against the formula (eV/Å²)", worst, "1e-12")


@pytest.mark.planted
def test_a_wrong_sign_of_the_curvature_is_noticed(monkeypatch, trust):
    right = derivatives._edge_probe
    monkeypatch.setattr(derivatives, "_edge_probe", lambda graph, probe: -right(graph, probe))
    with pytest.raises(AssertionError):
        test_dimer_of_springs_has_its_textbook_curvature(lambda *_: None)
    trust("T1", "sign of the curvature products", "caught", "caught", planted=True)


class PlainMorse(MorseNet):
    """D ((1 − e^{−a(r − r₀)})² − 1) without envelope, as ASE's."""

    def __call__(self, graph, vectors):
        well = (1.0 - torch.exp(-1.5 * (vectors.norm(dim=1) - 2.3))).square() - 1.0
        return vectors.new_zeros(graph.system.n_atoms).index_add(0, graph.receiver, 0.5 * 0.3 * well)


def test_energy_forces_and_stress_are_ases(trust):
    system = random_box(2, atoms=6, length=5.0)
    atoms = Atoms(numbers=system.numbers.numpy(), positions=system.positions.numpy(), cell=system.cell[0].numpy(), pbc=True)
    atoms.calc = MorsePotential(epsilon=0.3, r0=2.3, rho0=1.5 * 2.3, rcut1=4.999999 / 2.3, rcut2=5.0 / 2.3)
    found = Conservative(PlainMorse())(build_graph(system, 5.0))
    worst = assert_close(found.energy, torch.tensor([atoms.get_potential_energy()], dtype=DOUBLE), absolute=1e-9)
    worst = max(worst, assert_close(found.forces, torch.from_numpy(atoms.get_forces()), absolute=1e-9))
    worst = max(worst, assert_close(found.stress[0], torch.from_numpy(atoms.get_stress(voigt=False)), absolute=1e-11))
    trust("T2", "energy, forces, stress against ASE's Morse potential", worst, "1e-9")


def test_central_differences_agree_with_autodiff():
    potential, system = Conservative(MorseNet()), SYSTEMS["box"]()
    probes = torch.randn((2, system.n_atoms, 3), dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    exact = potential.curvature(build_graph(system, 5.0), probes)
    assert_close(curvature_by_differences(potential, system, probes, step=1e-4), exact, absolute=1e-6, relative=1e-6)
    coarse = curvature_by_differences(potential, system, 1e-6 * probes)
    assert_close(1e6 * coarse, exact, absolute=0.0, relative=0.05)


def test_no_probes_no_neighbours_no_stress():
    potential = Conservative(MorseNet())
    alone = build_graph(isolated_atom(), 5.0)
    prediction, products = predict(potential.net, alone)
    assert prediction.stress is None
    assert products.shape == (0, 1, 3)
    assert float(prediction.forces.abs().max()) == 0.0
    assert potential.curvature(alone, torch.ones((1, 1, 3), dtype=DOUBLE)).abs().max() == 0.0
    assert curvature_by_differences(potential, isolated_atom(), torch.zeros((0, 1, 3), dtype=DOUBLE)).shape == (0, 1, 3)


def test_a_batch_with_an_open_structure_has_no_stress():
    batch = concatenate([SYSTEMS["box"](), replace(SYSTEMS["molecule"]())])
    assert Conservative(MorseNet())(build_graph(batch, 5.0)).stress is None


def test_results_carry_no_gradients_and_training_ones_do():
    graph = build_graph(SYSTEMS["box"](), 5.0)
    potential = Conservative(MorseNet())
    assert not potential(graph).forces.requires_grad
    with torch.no_grad():
        assert float(potential(graph).forces.abs().max()) > 0.0
    assert predict(potential.net, graph, create_graph=True)[0].energy.requires_grad


class ForcesOnly:
    """A potential that cannot differentiate itself."""

    def __init__(self, net):
        self.inner = Conservative(net)
        self.cutoff, self.elements, self.name = net.cutoff, net.elements, net.name

    def __call__(self, graph: Graph) -> Prediction:
        return self.inner(graph)


def check_crystal_of_springs() -> float:
    """H between neighbours −k n nᵀ, on the diagonal 4 k 1 (12 springs at rest), else 0."""
    system, net = fcc(2, 2.0 * 2.0**0.5), NearestSprings()
    graph = build_graph(system, net.cutoff)
    along = derivatives.edge_vectors(graph) / net.length
    exact = torch.zeros((32, 32, 3, 3), dtype=DOUBLE)
    exact[graph.receiver, graph.sender] = -net.stiffness * along.unsqueeze(2) * along.unsqueeze(1)
    exact[torch.arange(32), torch.arange(32)] = 4.0 * net.stiffness * torch.eye(3, dtype=DOUBLE)
    return assert_close(hessian(Conservative(net), system, block=7), exact.transpose(1, 2).reshape(96, 32, 3), absolute=1e-12)


def test_hessian_of_a_crystal_of_springs_is_exact(trust):
    trust("T1", "Hessian of an fcc crystal of springs against the formula (eV/Å²)", check_crystal_of_springs(), "1e-12")


@pytest.mark.planted
def test_rows_in_another_order_are_noticed(monkeypatch, trust):
    right = derivatives.unit_directions
    monkeypatch.setattr(derivatives, "unit_directions", lambda system, rows: right(system, list(rows)[::-1]))
    with pytest.raises(AssertionError):
        check_crystal_of_springs()
    trust("T1", "rows of the Hessian in another order", "caught", "caught", planted=True)


@pytest.mark.parametrize("net", [MorseNet(), tiny_net(3)], ids=["morse", "student"])
@pytest.mark.parametrize("name", ["box", "molecule", "cell shorter than the cutoff"])
def test_hessian_is_symmetric_blind_to_the_origin_and_that_of_differences(net, name, trust):
    system = SYSTEMS[name]()
    rows = hessian(Conservative(net), system)
    matrix = rows.reshape(len(rows), -1)
    size = float(matrix.abs().max())
    assert size > 0.05
    assert_close(matrix, matrix.T, absolute=1e-10 * size)
    assert_close(rows.sum(1), torch.zeros((len(rows), 3), dtype=DOUBLE), absolute=1e-10 * size)
    plain = ForcesOnly(net)
    assert not isinstance(plain, CurvedPotential)
    worst = assert_close(hessian(plain, system, step=1e-4), rows, absolute=1e-5 * size) / size
    trust("T1", f"Hessian of {net.name} ({name}), autodiff against differences (relative)", worst, "1e-5")


def test_chosen_rows_are_those_of_the_whole_hessian():
    system, potential = SYSTEMS["box"](), Conservative(MorseNet())
    whole = hessian(potential, system)
    assert torch.equal(hessian(potential, system, rows=[7, 2, 2]), whole[[7, 2, 2]])
    assert hessian(potential, system, rows=[]).shape == (0, system.n_atoms, 3)
    with pytest.raises(BadInput, match="rows"):
        hessian(potential, system, rows=[3 * system.n_atoms])
