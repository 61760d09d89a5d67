"""What it costs to take an atom off a surface: the energy of a free atom from the labels, and students that know it.

The teacher is EMT, for which taking an atom off Al(110) costs 3.5 eV.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from ase.build import bulk, fcc110
from torch import Generator

from mdistill.data.explore import lifted, rattled
from mdistill.derivatives import Conservative
from mdistill.graph import build_graph, make_system
from mdistill.nets.model_files import load_model
from mdistill.nets.moment import MomentNet
from mdistill.teachers.models import load
from mdistill.training.calibrate import calibrate, free_energies, reference_energies
from mdistill.training.labels import items_of
from mdistill.training.potential import train_potential
from mdistill.training.settings import FitSettings, TrainSettings
from mdistill.types import LabelledFrame, System

CUTOFF = 4.5
SMALL = TrainSettings(
    cutoff=CUTOFF, radial=6, degree=2, channels=6, hidden=16, curvature="none", held_out=0.2,
    fit=FitSettings(steps=400, batch_size=4),
)  # fmt: skip


@pytest.fixture(scope="module")
def emt():
    return load("ase.calculators.emt:EMT")


def slab() -> System:
    atoms = fcc110("Al", (2, 3, 4), a=4.0, vacuum=8.0)
    return make_system(atoms.positions, atoms.numbers, atoms.cell.array, [True, True, False])


def label(system: System, emt, source: str, block: int = 0) -> LabelledFrame:
    target = emt(build_graph(system, emt.cutoff))
    return LabelledFrame(system=system, target=target, source=source, temperature_K=0.0, block=block)


@pytest.fixture(scope="module")
def frames(emt) -> list[LabelledFrame]:
    """The slab, 40 rattled copies in five blocks, 12 with a lifted atom, of which four are free."""
    system, generator = slab(), Generator().manual_seed(0)
    copies = rattled(system, amplitudes=[0.05, 0.1, 0.15, 0.2] * 10, generator=generator)
    made = [label(system, emt, "relaxed")]
    made += [label(one, emt, "md", 1 + k // 8) for k, one in enumerate(copies)]
    return made + [label(one, emt, "lifted", 9) for one in lifted(system, count=12, generator=generator)]


def cost_of(potential) -> float:
    """Energy of an atom 6 Å above its place on the surface, over that of the slab, eV."""
    system = slab()
    positions = system.positions.clone()
    positions[positions[:, 2].argmax(), 2] += 6.0
    ends = (system, replace(system, positions=positions))
    return float(torch.diff(torch.cat([potential(build_graph(one, potential.cutoff or 6.0)).energy for one in ends]).detach())[0])


def net_of() -> MomentNet:
    return MomentNet(SMALL.student((13,))).double()  # type: ignore[arg-type]


def test_the_energy_of_a_free_atom_comes_from_the_labels(frames, emt, trust):
    items = items_of(frames, CUTOFF, torch.float64)
    found = float(free_energies(net_of(), items)[0])
    assert found == pytest.approx(cost_of(emt), abs=0.02)
    trust("physics", "energy of a free Al atom from labels over that of EMT", found / cost_of(emt), "1")
    bound = [item for item in items if item.frame.source != "lifted"]
    assert not free_energies(net_of(), bound).any()
    alone = [item for item in items if item.frame.source == "lifted"][2::3]
    assert not free_energies(net_of(), alone).any(), "nothing to compare with"
    unknown = replace(frames[0], target=replace(frames[0].target, energy=torch.full_like(frames[0].target.energy, torch.nan)))
    unknown = replace(unknown, missing=frozenset({"energy"}))
    more = [*items, *items_of([unknown], CUTOFF, torch.float64)]
    assert float(free_energies(net_of(), more)[0]) == found, "a frame without energy says nothing"


def test_a_network_begins_with_free_atoms_and_the_mean_of_bound_ones(frames, emt):
    items, net = items_of(frames, CUTOFF, torch.float64), net_of()
    calibrate(net, items, fresh=True)
    mean = float(reference_energies(net, items)[0])
    assert float(net.reference[0]) == pytest.approx(mean + cost_of(emt), abs=0.02)
    potential = Conservative(net)
    energies = [float(potential(item.graph).energy[0]) / item.frame.system.n_atoms for item in items[:41]]
    assert sum(energies) / 41 == pytest.approx(mean, abs=0.1)
    assert cost_of(potential) > 0.5 * cost_of(emt)
    alone = make_system(torch.zeros((1, 3)).numpy(), slab().numbers[:1].numpy(), torch.zeros((3, 3)).numpy(), [False] * 3)
    assert float(potential(build_graph(alone, CUTOFF)).energy[0]) == pytest.approx(float(net.reference[0]))


def test_labels_without_free_atoms_leave_the_network_as_it_was(emt):
    crystal = bulk("Al", "fcc", a=4.0, cubic=True).repeat(2)
    system = make_system(crystal.positions, crystal.numbers, crystal.cell.array, [True] * 3)
    items = items_of(
        [label(one, emt, "md") for one in rattled(system, generator=Generator().manual_seed(1))], CUTOFF, torch.float64
    )
    net = net_of()
    before = net.last.weight.detach().clone()
    calibrate(net, items, fresh=True)
    assert torch.equal(net.last.weight, before) and torch.equal(net.reference, reference_energies(net, items))


@pytest.mark.slow
@pytest.mark.planted
def test_a_student_learns_the_cost_of_a_free_atom_only_from_lifted_ones(frames, emt, tmp_path, trust):
    """Without them it gives surface atoms away."""
    truth, costs, errors = cost_of(emt), [], []
    for name, labels in (("with", frames), ("without", [one for one in frames if one.source != "lifted"])):
        result = train_potential(labels, SMALL, tmp_path / name)
        costs.append(cost_of(load_model(result.path)) / truth)
        errors.append(result.accuracy.force["all"].mean_absolute.value)
    assert costs[0] == pytest.approx(1.0, abs=0.25) and costs[1] < 0.4 and errors[0] < 1.3 * errors[1]
    trust("physics", "cost of a free Al atom of a student over that of EMT", costs[0], "1 ± 0.25")
    trust("physics", "the same without labels of lifted atoms", costs[1], "< 0.4", planted=True)
