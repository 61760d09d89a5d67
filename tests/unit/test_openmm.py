"""export/openmm.py: energies and forces in OpenMM's units, boxes in its form."""

from __future__ import annotations

import numpy as np
import pytest

from mdistill.derivatives import Conservative
from mdistill.errors import BadInput
from mdistill.export.ase import calculator
from mdistill.io.structures import to_atoms
from mdistill.nets.compiled import compiled
from mdistill.units import KJ_MOL
from systems import SYSTEMS, random_box, tiny_net

openmm = pytest.importorskip("openmm")
pytestmark = pytest.mark.slow


def context(structure, step_ps: float = 1e-4):
    from mdistill.export.openmm import openmm_system

    system, positions = openmm_system(compiled(Conservative(tiny_net()), double=True), structure)
    made = openmm.Context(system, openmm.VerletIntegrator(step_ps), openmm.Platform.getPlatformByName("Reference"))
    made.setPositions(positions)
    return made


@pytest.mark.parametrize("name", ["box", "very skewed", "cell shorter than the cutoff", "fcc primitive", "molecule"])
def test_energy_and_forces_are_those_of_the_student(name, trust):
    atoms = to_atoms(SYSTEMS[name]())
    atoms.calc = calculator(Conservative(tiny_net()))
    state = context(atoms.copy()).getState(getEnergy=True, getForces=True)
    energy = state.getPotentialEnergy()._value * KJ_MOL
    sizes = np.linalg.norm(np.array(state.getForces(asNumpy=True)._value) * KJ_MOL / 10.0, axis=1)
    wanted = np.linalg.norm(atoms.get_forces(), axis=1)  # the crystal is turned
    deviation = max(abs(energy / atoms.get_potential_energy() - 1.0), np.abs(sizes - wanted).max() / max(wanted.max(), 1e-3))
    assert deviation < 1e-10
    trust("T7", f"OpenMM, {name}: energy and size of forces, relative", deviation, "≤ 1e-10")


def test_the_charge_of_the_structure_reaches_the_potential():
    from mdistill.export.openmm import openmm_system

    seen, plain = [], Conservative(tiny_net())

    class Seeing:
        cutoff, elements, name = plain.cutoff, plain.elements, "seeing"

        def __call__(self, graph):
            seen.append(graph.system)
            return plain(graph)

    atoms = to_atoms(SYSTEMS["molecule"]())
    atoms.info |= {"charge": -1, "unpaired": 2}
    system, positions = openmm_system(Seeing(), atoms)
    made = openmm.Context(system, openmm.VerletIntegrator(1e-4), openmm.Platform.getPlatformByName("Reference"))
    made.setPositions(positions)
    made.getState(getEnergy=True)
    assert (int(seen[-1].charge), int(seen[-1].unpaired)) == (-1, 2)


def test_forces_are_derivatives_in_openmms_units():
    made = context(to_atoms(random_box(1)))
    positions = np.array(made.getState(getPositions=True).getPositions(asNumpy=True)._value)
    forces = np.array(made.getState(getForces=True).getForces(asNumpy=True)._value)
    for atom, axis in ((0, 0), (3, 1), (7, 2)):
        energies = []
        for sign in (1, -1):
            moved = positions.copy()
            moved[atom, axis] += sign * 1e-6
            made.setPositions(moved)
            energies.append(made.getState(getEnergy=True).getPotentialEnergy()._value)
        assert abs(-(energies[0] - energies[1]) / 2e-6 - forces[atom, axis]) < 1e-5 * np.abs(forces).max()


def test_energy_is_conserved():
    spread = []
    for step_ps in (4e-4, 2e-4):
        made = context(to_atoms(random_box(8, atoms=30, length=9.0)), step_ps)
        openmm.LocalEnergyMinimizer.minimize(made, 1.0, 60)
        made.setVelocitiesToTemperature(300.0, 1)
        totals = []
        for _ in range(round(0.04 / step_ps / 5)):
            made.getIntegrator().step(5)
            state = made.getState(getEnergy=True)
            totals.append(state.getPotentialEnergy()._value + state.getKineticEnergy()._value)
        spread.append(np.std(totals))
    assert 3.0 < spread[0] / spread[1] < 5.5, spread


def test_a_barostat_moves_the_box():
    from mdistill.export.openmm import openmm_system

    system, positions = openmm_system(compiled(Conservative(tiny_net()), double=True), to_atoms(random_box(1)))
    system.addForce(openmm.MonteCarloBarostat(1.0, 300.0, 1))
    made = openmm.Context(system, openmm.LangevinIntegrator(300.0, 1.0, 1e-4), openmm.Platform.getPlatformByName("Reference"))
    made.setPositions(positions)
    before = made.getState().getPeriodicBoxVolume()._value
    made.getIntegrator().step(40)
    assert made.getState().getPeriodicBoxVolume()._value != before


def test_bad_input_is_named():
    from mdistill.export.openmm import openmm_system

    with pytest.raises(BadInput, match="three directions or in none"):
        openmm_system(Conservative(tiny_net()), to_atoms(SYSTEMS["slab"]()))
    atoms = to_atoms(random_box(1))
    atoms.numbers[0] = 29
    with pytest.raises(BadInput, match="holds Cu, which"):
        openmm_system(Conservative(tiny_net()), atoms)
