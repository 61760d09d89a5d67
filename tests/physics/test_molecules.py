"""MD of open structures: total and angular momentum in NVE, rotation and temperature under Langevin, places far from the origin."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from ase.build import molecule
from torch import Generator, Tensor

from mdistill.derivatives import Conservative
from mdistill.graph import build_graph
from mdistill.io.structures import from_atoms, to_system
from mdistill.matter.masses import repartitioned
from mdistill.nets.compiled import compiled
from mdistill.simulation.evaluator import make_evaluator
from mdistill.simulation.guard import total_energy
from mdistill.simulation.initial_state import initial_state
from mdistill.simulation.kinetics import kinetic_energy, temperature
from mdistill.simulation.langevin import Baoab
from mdistill.simulation.rollout import Calling, rollout
from mdistill.simulation.verlet import VelocityVerlet, evaluated
from mdistill.types import Graph, State
from systems import SYSTEMS, tiny_net


class Springs:
    """Harmonic bonds between all pairs within 1.9 Å of the start: a molecule that can only vibrate, turn and fly."""

    cutoff, name, elements = 3.0, "springs", frozenset({1, 6, 8})

    def __init__(self, start: Tensor) -> None:
        self.rest = torch.cdist(start, start)

    def __call__(self, graph: Graph, vectors: Tensor) -> Tensor:
        rest = self.rest[graph.receiver, graph.sender]
        stretch = torch.where(rest < 1.9, vectors.norm(dim=1) - rest, 0.0)
        return vectors.new_zeros(graph.system.n_atoms).index_add(0, graph.receiver, 5.0 * stretch.square())


def angular_momentum(state: State) -> Tensor:
    centre = (state.masses[:, None] * state.system.positions).sum(0) / state.masses.sum()
    return torch.linalg.cross(state.system.positions - centre, state.momenta).sum(0)


def begin(heavy_h: float = 0.0, kelvin: float = 300.0, seed: int = 1) -> tuple[State, VelocityVerlet]:
    system = to_system(from_atoms(molecule("CH3OH")))
    evaluate = make_evaluator(Conservative(Springs(system.positions)), system)
    generator = Generator().manual_seed(seed)
    state = initial_state(system, temperature_K=kelvin, generator=generator, masses=repartitioned(system, heavy_h))
    return evaluated(state, evaluate), VelocityVerlet(evaluate=evaluate, time_step=1.0 if heavy_h else 0.5)


@pytest.mark.parametrize("heavy_h", [0.0, 3.0])
def test_nve_of_a_molecule_keeps_energy_momentum_and_angular_momentum(heavy_h, trust):
    state, step = begin(heavy_h)
    before = angular_momentum(state), total_energy(state)
    after = rollout(state, step, steps=1000, generator=Generator().manual_seed(0))
    assert float(after.momenta.sum(0).norm()) < 1e-12
    turned = float((angular_momentum(after) - before[0]).norm() / before[0].norm())
    assert turned < 1e-10 and float((total_energy(after) - before[1]).abs()) / 6 < 1e-3
    trust("T14", f"molecule in NVE, hydrogen of {heavy_h or 1.008:g} u: change of L", turned, "< 1e-10")


@pytest.mark.planted
def test_forces_that_turn_a_molecule_would_be_seen(trust):
    """A force that is not the gradient of an invariant energy: a uniform field on one atom."""
    state, step = begin()

    def wrong(system):
        prediction = step.evaluate(system)
        push = torch.zeros_like(prediction.forces)
        push[0, 0], push[1, 0] = 1e-3, -1e-3
        return replace(prediction, forces=prediction.forces + push)

    after = rollout(state, VelocityVerlet(evaluate=wrong, time_step=0.5), steps=400, generator=Generator().manual_seed(0))
    turned = float((angular_momentum(after) - angular_momentum(state)).norm() / angular_momentum(state).norm())
    assert turned > 1e-6
    trust("T14", "planted: forces with a torque", turned, "> 1e-10", planted=True)


@pytest.mark.slow
def test_langevin_of_a_molecule_has_the_temperature_in_rotation_and_vibration(trust):
    """3 N − 3 degrees of freedom: the mean is T, and the three of rotation have their share."""
    state, step = begin()
    plain = Baoab(evaluate=step.evaluate, time_step=0.5, temperature_K=300.0, friction_per_ps=20.0)
    kelvins, turning = [], []

    def watch(_: int, now: State) -> None:
        kelvins.append(float(temperature(now)[0]))
        centre = (now.masses[:, None] * now.system.positions).sum(0) / now.masses.sum()
        places = now.system.positions - centre
        inertia = (now.masses[:, None, None] * (places.square().sum(1)[:, None, None] * torch.eye(3).double()
                   - places[:, :, None] * places[:, None, :])).sum(0)  # fmt: skip
        spin = angular_momentum(now)
        turning.append(float(0.5 * spin @ torch.linalg.solve(inertia, spin)))

    rollout(state, plain, steps=12000, generator=Generator().manual_seed(3), observers=[Calling(watch)])
    rotation = torch.tensor(turning[1000:]).mean() * 103.6427 / (1.5 * 8.617333e-5)
    mean = torch.tensor(kelvins[1000:]).mean()
    assert float(mean) == pytest.approx(300.0, abs=25.0) and float(rotation) == pytest.approx(300.0, abs=70.0)
    trust("T14", "molecule under Langevin: mean temperature (K)", float(mean), "300 ± 25")


@pytest.mark.parametrize("name", ["molecule", "slab"])
def test_the_compiled_student_sees_no_image_across_open_directions_and_none_of_the_origin(name, trust):
    net = Conservative(tiny_net())
    fast, system = compiled(net, double=False), SYSTEMS[name]()
    shift = 5000.0 * (~system.pbc[0]).double()
    moved = replace(system, positions=system.positions + shift)
    slow = net(build_graph(system, net.cutoff)).forces
    for one in (system, moved):
        ours = make_evaluator(fast, one)(one)
        assert float((ours.forces - slow).abs().max()) < 2e-4
        assert ours.stress is None
    state = initial_state(system, temperature_K=300.0, generator=Generator().manual_seed(0))
    assert float(kinetic_energy(state)) > 0.0
    trust("T7", f"{name}: compiled forces 5000 Å from the origin", "as at the origin", "2e-4 eV/Å")
