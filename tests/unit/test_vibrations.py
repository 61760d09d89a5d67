"""analysis/vibrations.py: molecules and crystals of springs, ASE's vibrations, equipartition of displaced structures."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.emt import EMT
from ase.optimize import BFGS
from ase.vibrations import Vibrations

from laws import assert_close
from mdistill.analysis import vibrations
from mdistill.analysis.vibrations import Modes, density_of_states, displaced, harmonic, hessian_error, normal_modes
from mdistill.data.probes import draw_probes
from mdistill.derivatives import Conservative, hessian
from mdistill.errors import BadInput
from mdistill.graph import make_system
from mdistill.teachers.ase import from_calculator
from mdistill.types import System
from mdistill.units import ACCELERATION, BOLTZMANN, THZ
from physics.potentials import fcc
from springs import NearestSprings, fcc_eigenvalues, fitting_waves

ARGON, LITHIUM, CARBON, OXYGEN = 39.948, 6.94, 12.011, 15.999
PLANCK_EV_PS = 4.135667696e-3
LATTICE = 2.0 * math.sqrt(2.0)
"""Å; cubic fcc cell whose nearest neighbours are 2 Å apart, where the springs are at rest."""


def in_thz(eigenvalues: np.ndarray | float) -> np.ndarray:
    """Frequency of ω² in eV/(Å² u)."""
    return np.sqrt(np.asarray(eigenvalues) * ACCELERATION) / (2.0 * math.pi * THZ)


def line(*places: float, numbers: tuple[int, ...]) -> System:
    positions = np.array([[0.0, 0.0, x] for x in places])
    return make_system(positions, np.array(numbers), np.zeros((3, 3)), [False] * 3)


def modes_of(net: NearestSprings, system: System) -> Modes:
    return normal_modes(system, hessian(Conservative(net), system))


def crystal(repeats: int = 2) -> System:
    return fcc(repeats, LATTICE)


def check_crystal() -> float:
    """Every frequency of 32 atoms against Born and von Kármán's formula at the waves that fit in; the largest error, THz."""
    net, system = NearestSprings(), crystal()
    waves = fitting_waves(2, LATTICE)
    assert len(waves) == system.n_atoms
    exact = np.sort(in_thz(np.clip(fcc_eigenvalues(waves, LATTICE, net.stiffness, ARGON).ravel(), 0.0, None)))
    found = modes_of(net, system)
    assert exact[2] < 1e-6 < exact[3] and len(found.frequencies) == 3 * system.n_atoms - 3
    return assert_close(found.frequencies, torch.from_numpy(exact[3:]), absolute=1e-7)


def test_a_diatomic_has_its_textbook_frequency(trust):
    found = modes_of(NearestSprings(), line(0.0, 2.0, numbers=(3, 8)))
    exact = in_thz(3.0 * (1.0 / LITHIUM + 1.0 / OXYGEN))
    assert found.frequencies.shape == (1,)
    assert_close(found.frequencies, torch.tensor([float(exact)], dtype=torch.float64), absolute=1e-9)
    trust("T1", "frequency of a diatomic of springs against the formula (THz)", abs(float(found.frequencies[0]) - exact), "1e-9")


def test_a_crystal_of_springs_has_born_and_von_karmans_frequencies(trust):
    trust("T1", "96 frequencies of an fcc crystal of springs against the formula (THz)", check_crystal(), "1e-7")


@pytest.mark.planted
@pytest.mark.parametrize(
    ("bug", "name", "change"),
    [
        ("masses left out", "_masses", lambda right: lambda system: torch.ones_like(right(system))),
        ("force constants in cycles", "ACCELERATION", lambda right: right * 4.0 * math.pi**2),
        ("acoustic modes left in", "_vibrations", lambda right: lambda system: torch.eye(3 * system.n_atoms).double()),
    ],
)
def test_the_crystal_notices(monkeypatch, bug, name, change, trust):
    monkeypatch.setattr(vibrations, name, change(getattr(vibrations, name)))
    with pytest.raises(AssertionError):
        check_crystal()
    trust("T1", f"frequencies: {bug}", "caught", "caught", planted=True)


def test_a_compressed_linear_molecule_bends_with_imaginary_frequencies():
    """Outer O, middle C, springs shorter than their rest: across a bond the stiffness is k (1 − b/r) < 0."""
    net = NearestSprings()
    across = net.stiffness * (1.0 - net.length / 1.6)
    found = modes_of(net, line(0.0, 1.6, 3.2, numbers=(8, 6, 8)))
    bend = across * (1.0 / OXYGEN + 2.0 / CARBON)
    exact = [-in_thz(-bend), -in_thz(-bend), in_thz(3.0 / OXYGEN), in_thz(3.0 * (1.0 / OXYGEN + 2.0 / CARBON))]
    assert found.imaginary == 2
    assert_close(found.frequencies, torch.tensor([float(f) for f in exact], dtype=torch.float64), absolute=1e-9)


def test_ases_vibrations_of_a_metal_cluster_are_ours(tmp_path, trust):
    """Forces by ASE's EMT through our adapter, differences of forces on our side too."""
    atoms = Atoms("Cu3Al", positions=2.4 * np.array([[0, 0, 0], [1, 0, 0], [0.5, 0.87, 0], [0.5, 0.29, 0.9]]))
    atoms.calc = EMT()
    BFGS(atoms, logfile=None).run(fmax=1e-5)
    theirs = Vibrations(atoms, delta=0.005, name=str(tmp_path / "vib"))
    theirs.run()
    system = make_system(atoms.positions, atoms.numbers, np.zeros((3, 3)), [False] * 3)
    found = normal_modes(system, hessian(from_calculator(EMT()), system, step=0.005))
    expected = np.sort(theirs.get_energies().real)[6:] / PLANCK_EV_PS
    assert found.frequencies.shape == (6,) and found.imaginary == 0
    worst = assert_close(found.frequencies, torch.from_numpy(expected), absolute=1e-3)
    trust("T1", "vibrations of a Cu₃Al cluster against ASE's (THz)", worst, "1e-3")


def test_modes_are_orthonormal_and_move_no_centre_of_mass():
    found = modes_of(NearestSprings(), crystal())
    flat = found.vectors.reshape(len(found.frequencies), -1)
    assert_close(flat @ flat.T, torch.eye(len(flat)).double(), absolute=1e-9)
    assert_close(found.vectors.sum(1), torch.zeros((len(flat), 3)).double(), absolute=1e-9)


def test_the_density_of_states_counts_the_vibrations():
    found = modes_of(NearestSprings(), crystal())
    curve = density_of_states(found, width=0.2)
    assert float(torch.trapezoid(curve.y, curve.x)) == pytest.approx(93, rel=1e-4)
    one = density_of_states(Modes(frequencies=torch.tensor([-2.0]).double(), vectors=torch.zeros((1, 2, 3))), width=0.5)
    assert float(one.x[one.y.argmax()]) == pytest.approx(-2.0, abs=0.05)
    assert float(one.y.max()) == pytest.approx(1.0 / (0.5 * math.sqrt(2.0 * math.pi)), rel=1e-2)
    with pytest.raises(BadInput, match="width"):
        density_of_states(found, width=0.0)


def mean_energy(system: System, found: Modes, matrix: torch.Tensor, kelvin: float, count: int) -> tuple[float, float]:
    """Mean harmonic energy of displaced structures in k_B T, and its standard error."""
    structures = displaced(system, found, kelvin, torch.Generator().manual_seed(1), count=count, farthest=10.0)
    shifts = torch.stack([(s.positions - system.positions).reshape(-1) for s in structures])
    energies = 0.5 * torch.einsum("ki,ij,kj->k", shifts, matrix.reshape(len(matrix), -1), shifts) / (BOLTZMANN * kelvin)
    return float(energies.mean()), float(energies.std() / math.sqrt(count))


def test_displaced_structures_share_energy_equally(trust):
    """½ k_B T for each vibration, whatever the masses."""
    system = crystal()
    system = replace(system, numbers=torch.where(torch.arange(32) % 3 == 0, 3, 18))
    matrix = hessian(Conservative(NearestSprings()), system)
    mean, error = mean_energy(system, normal_modes(system, matrix), matrix, 300.0, 400)
    assert abs(mean - 0.5 * 93) < 4.0 * error < 2.0
    trust("T14", "harmonic energy of displaced structures (k_B T; 93 vibrations)", round(mean, 2), f"46.5 ± {4 * error:.1f}")


@pytest.mark.planted
def test_equipartition_notices_a_wrong_amplitude(monkeypatch):
    monkeypatch.setattr(vibrations, "BOLTZMANN", 1.1 * BOLTZMANN)
    with pytest.raises(AssertionError):
        test_displaced_structures_share_energy_equally(lambda *_: None)


def test_modes_that_would_move_an_atom_too_far_are_left_alone():
    """A Li₂ of a soft spring: ⟨u²⟩ of each atom is k_B T/4k."""
    system = line(0.0, 2.0, numbers=(3, 3))
    net = NearestSprings(stiffness=0.01)
    found = modes_of(net, system)
    reach = math.sqrt(BOLTZMANN * 300.0 / (4.0 * net.stiffness))
    for farthest, used in ((1.01 * reach, True), (0.99 * reach, False)):
        assert harmonic(system, found, 300.0, farthest=farthest).tolist() == [used]
        moved = displaced(system, found, 300.0, torch.Generator().manual_seed(0), farthest=farthest)[0]
        assert torch.equal(moved.positions, system.positions) != used


def test_imaginary_and_soft_modes_are_left_alone():
    net, system = NearestSprings(), line(0.0, 1.6, 3.2, numbers=(8, 6, 8))
    found = modes_of(net, system)
    moved = displaced(system, found, 300.0, torch.Generator().manual_seed(0), count=3)
    for one in moved:
        shift = one.positions - system.positions
        assert float(shift[:, :2].abs().max()) < 1e-12 and float(shift[:, 2].abs().max()) > 1e-3
    still = displaced(system, found, 300.0, torch.Generator().manual_seed(0), farthest=1e-3)[0]
    assert torch.equal(still.positions, system.positions)
    cold = displaced(system, found, 0.0, torch.Generator().manual_seed(0))[0]
    assert torch.equal(cold.positions, system.positions)
    again = displaced(system, found, 300.0, torch.Generator().manual_seed(0), count=3)
    assert all(torch.equal(a.positions, b.positions) for a, b in zip(moved, again, strict=True))
    with pytest.raises(BadInput, match="temperature_K"):
        displaced(system, found, -1.0, torch.Generator())
    with pytest.raises(BadInput, match="modes"):
        displaced(crystal(), found, 300.0, torch.Generator())


def test_random_directions_estimate_the_error_of_the_hessian():
    system = crystal()
    target = hessian(Conservative(NearestSprings()), system)
    found = hessian(Conservative(NearestSprings(stiffness=2.6, length=1.97)), system)
    exact = float((found - target).norm() / target.norm())
    whole = hessian_error(found, target, whole=True)
    assert whole.value == pytest.approx(exact, rel=1e-12) and whole.error is None
    probes = draw_probes(system, 40, torch.Generator().manual_seed(2)).reshape(40, -1)
    by_probes = hessian_error(*(torch.einsum("pr,ria->pia", probes, h) for h in (found, target)), whole=False)
    assert by_probes.error is not None and by_probes.value is not None
    assert abs(by_probes.value - exact) < 4.0 * by_probes.error < 0.1 * exact
    with pytest.raises(BadInput, match="curvature"):
        hessian_error(found, torch.zeros_like(found), whole=True)


def test_what_is_no_hessian_is_refused():
    system = crystal()
    rows = hessian(Conservative(NearestSprings()), system, rows=range(4))
    with pytest.raises(BadInput, match="all rows"):
        normal_modes(system, rows)
    with pytest.raises(BadInput, match="finite"):
        normal_modes(system, torch.full((96, 32, 3), torch.nan))
    alone = make_system(np.zeros((1, 3)), np.array([3]), np.eye(3), [True] * 3)
    with pytest.raises(BadInput, match="one atom"):
        normal_modes(alone, torch.zeros((3, 1, 3)))
