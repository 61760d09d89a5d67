"""analysis/phonons.py: bands of a crystal of springs against the formula, of aluminium against ASE's phonons."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.cell import Cell
from ase.phonons import Phonons

from mdistill.analysis import phonons
from mdistill.analysis.phonons import phonon_bands, primitive_cell, supercell_repeats
from mdistill.derivatives import Conservative
from mdistill.errors import BadInput, Interrupted, MissingPackage
from mdistill.graph import make_system, volumes
from mdistill.interrupt import StopRequest
from mdistill.teachers.ase import from_calculator
from mdistill.units import ACCELERATION, THZ
from physics.potentials import fcc
from springs import NearestSprings, fcc_eigenvalues
from systems import SYSTEMS

LATTICE = 2.0 * math.sqrt(2.0)
PLANCK_EV_PS = 4.135667696e-3


def check_springs() -> float:
    """Largest error (THz) of the bands of an fcc crystal of springs against Born and von Kármán's formula."""
    net, cell = NearestSprings(), primitive_cell(fcc(1, LATTICE))
    bands = phonon_bands(Conservative(net), cell, supercell_A=6.0, points=60)
    path = Cell(cell.cell[0].numpy()).bandpath(npoints=60, eps=1e-3)
    waves = 2.0 * math.pi * path.kpts @ np.linalg.inv(cell.cell[0].numpy()).T
    exact = fcc_eigenvalues(waves, LATTICE, net.stiffness, 39.948)
    exact = np.sqrt(np.clip(exact, 0.0, None) * ACCELERATION) / (2.0 * math.pi * THZ)
    worst = float(np.abs(np.sort(bands.frequencies, axis=1) - exact).max())
    assert exact.max() > 4.0
    assert worst < 5e-3, worst
    return worst


def test_bands_of_a_crystal_of_springs_are_born_and_von_karmans(trust):
    trust("T1", "phonon bands of an fcc crystal of springs against the formula (THz)", check_springs(), "< 5e-3")


@pytest.mark.planted
def test_a_wrong_supercell_is_noticed(monkeypatch, trust):
    monkeypatch.setattr(phonons, "supercell_repeats", lambda system, shortest: (1, 1, 1))
    with pytest.raises(AssertionError):
        check_springs()
    trust("T1", "phonon bands from a supercell too small", "caught", "caught", planted=True)


def test_bands_of_aluminium_are_ases(tmp_path, trust):
    atoms = bulk("Al", "fcc", a=4.0)
    system = make_system(atoms.positions, atoms.numbers, atoms.cell.array, [True] * 3)
    bands = phonon_bands(from_calculator(EMT()), system, supercell_A=12.0, points=40)
    theirs = Phonons(atoms, EMT(), supercell=supercell_repeats(system, 12.0), delta=0.01, name=str(tmp_path / "al"))
    theirs.run()
    theirs.read(acoustic=True)
    path = Cell(system.cell[0].numpy()).bandpath(npoints=40, eps=1e-3)
    expected = theirs.get_band_structure(path, verbose=False).energies[0] / PLANCK_EV_PS
    worst = float(np.abs(bands.frequencies - expected).max())
    assert worst < 0.02 and expected.max() > 7.0
    trust("T1", "phonon bands of aluminium (EMT) against ASE's (THz)", worst, "< 0.02")


def test_special_points_and_the_jump_of_the_path_are_named():
    bands = phonon_bands(Conservative(NearestSprings()), primitive_cell(fcc(1, LATTICE)), supercell_A=4.0, points=60)
    names = [name for name, _ in bands.ticks]
    assert names[:3] == ["Γ", "X", "W"] and "K|U" in names
    places = [place for _, place in bands.ticks]
    assert places == sorted(set(places)) and places[-1] == pytest.approx(float(bands.distance[-1]))
    at_gamma = bands.frequencies[0]
    assert np.abs(at_gamma).max() < 1e-3


def test_forces_at_rest_are_taken_off():
    """A crystal under pressure in which a constant force acts on everything has the same bands."""

    class Wind:
        cutoff, elements, name = 2.5, frozenset(), "wind"

        def __call__(self, graph):
            found = Conservative(NearestSprings())(graph)
            push = torch.sin(torch.arange(graph.system.n_atoms, dtype=torch.float64)).unsqueeze(1)
            return type(found)(energy=found.energy, forces=found.forces + push)

    cell = primitive_cell(fcc(1, LATTICE))
    calm, windy = (phonon_bands(p, cell, supercell_A=4.0, points=20) for p in (Conservative(NearestSprings()), Wind()))
    np.testing.assert_allclose(windy.frequencies, calm.frequencies, atol=1e-6)


def test_primitive_cell_and_supercell():
    cubic = fcc(2, LATTICE)
    cell = primitive_cell(cubic)
    assert cell.n_atoms == 1
    assert float(volumes(cell)[0]) == pytest.approx(float(volumes(cubic)[0]) / 32)
    assert primitive_cell(SYSTEMS["box"]()).n_atoms == SYSTEMS["box"]().n_atoms
    repeats = supercell_repeats(cell, 10.0)
    planes = float(volumes(cell)[0]) / np.linalg.norm(np.cross(cell.cell[0][1], cell.cell[0][2]))
    assert repeats == (math.ceil(10.0 / planes),) * 3


def test_what_is_no_crystal_is_refused_and_a_missing_package_named(monkeypatch):
    for refuse in (primitive_cell, lambda s: phonon_bands(Conservative(NearestSprings()), s)):
        with pytest.raises(BadInput, match="crystal"):
            refuse(SYSTEMS["molecule"]())
    stop = StopRequest(signal_number=2)
    with pytest.raises(Interrupted):
        phonon_bands(Conservative(NearestSprings()), primitive_cell(fcc(1, LATTICE)), supercell_A=4.0, stop=stop)
    monkeypatch.setitem(sys.modules, "phonopy", None)
    with pytest.raises(MissingPackage, match=r"mdistill\[phonons\]"):
        primitive_cell(fcc(1, LATTICE))
