"""Direct forces in dynamics: rigid parts, random frames, multiple time steps, and what the diagnostics measure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ase.build import molecule
from ase.io import write

from mdistill import cli
from mdistill.data.relax import relax
from mdistill.data.store import LabelStore
from mdistill.derivatives import Conservative, Direct
from mdistill.direct.diagnostics import (
    antisymmetry,
    bonds,
    density_error,
    distance_density,
    equivariance_error,
    heating,
    rotations,
    stable_time,
)
from mdistill.direct.multiple_steps import EnergyBetweenSteps, MultipleTimeSteps
from mdistill.direct.safe import SafeForces, for_dynamics, without_rigid_parts
from mdistill.errors import BadInput, BlowUp
from mdistill.graph import build_graph, concatenate, make_system, split
from mdistill.io.position_blocks import position_blocks
from mdistill.io.trajectories import TrajectoryWriter
from mdistill.nets.model_files import save_model
from mdistill.observables import simulation
from mdistill.observables.simulation import bonds_held, dynamics_results
from mdistill.runs.results import read_results
from mdistill.simulation.evaluator import Evaluator
from mdistill.simulation.initial_state import initial_state
from mdistill.simulation.kinetics import kinetic_energy
from mdistill.simulation.restart import load_restart
from mdistill.simulation.settings import SimulateSettings
from mdistill.simulation.simulate import simulate
from mdistill.simulation.verlet import VelocityVerlet
from mdistill.training.stride_objective import random_turn
from mdistill.types import Prediction, Trajectory
from systems import SYSTEMS, MorseNet, random_box, tiny_edge_transformer

DOUBLE = torch.float64


def rigid_motions(system) -> torch.Tensor:
    """[6, 3N] translations and rotations about the middle."""
    arms = system.positions - system.positions.mean(0)
    axes = torch.eye(3, dtype=DOUBLE)
    moves = [axis.expand_as(arms) for axis in axes] + [torch.linalg.cross(axis.expand_as(arms), arms) for axis in axes]
    return torch.stack(moves).flatten(1)


def line(length: float = 1.16):
    """A linear molecule along no axis."""
    along = np.array([1.0, 2.0, -0.5]) / np.sqrt(5.25)
    return make_system(np.outer([-1.0, 0.0, 1.0], length * along), np.array([16, 15, 16]), np.zeros((3, 3)), [False] * 3)


@pytest.mark.parametrize("make", [SYSTEMS["molecule"], SYSTEMS["dimer"], line, SYSTEMS["isolated atom"]])
def test_rigid_parts_are_removed_by_the_smallest_change(make) -> None:
    """The oracle is the orthogonal projection by singular values."""
    system = make()
    forces = torch.randn((system.n_atoms, 3), generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    u, s, _ = torch.linalg.svd(rigid_motions(system).T, full_matrices=False)
    basis = u[:, s > 1e-8 * s[0]]
    expected = forces.flatten() - basis @ (basis.T @ forces.flatten())
    assert float((without_rigid_parts(system, forces).flatten() - expected).abs().max()) < 1e-12


def test_a_batch_and_periodic_structures_keep_apart() -> None:
    systems = [SYSTEMS["molecule"](), SYSTEMS["box"](), SYSTEMS["slab"](), line()]
    batch = concatenate(systems)
    forces = torch.randn((batch.n_atoms, 3), generator=torch.Generator().manual_seed(2), dtype=DOUBLE)
    parts = split(replace(batch, positions=forces))
    together = split(replace(batch, positions=without_rigid_parts(batch, forces)))
    for system, part, found in zip(systems, parts, together, strict=True):
        assert float((found.positions - without_rigid_parts(system, part.positions)).abs().max()) < 1e-12
        if bool(system.pbc.any()):
            assert torch.allclose(found.positions, part.positions - part.positions.mean(0), atol=1e-14)


def test_a_molecule_in_a_wide_periodic_box_turns_no_more_than_an_open_one() -> None:
    """As files of molecules state one: 50 Å, periodic."""
    molecule, net = SYSTEMS["molecule"](), tiny_edge_transformer(1)
    boxed = replace(molecule, cell=50.0 * torch.eye(3, dtype=DOUBLE)[None], pbc=torch.ones(1, 3, dtype=torch.bool))
    narrow = replace(boxed, cell=boxed.cell * 0.12)
    safe = SafeForces(Direct(net))
    forces = {name: safe(build_graph(one, net.cutoff)).forces for name, one in (("open", molecule), ("boxed", boxed))}
    assert torch.allclose(forces["open"], forces["boxed"], atol=1e-10)
    graph = build_graph(narrow, net.cutoff)
    plain = Direct(net)(graph).forces
    assert torch.allclose(safe(graph).forces, plain - plain.mean(0), atol=1e-12)


def test_how_coordinates_are_wrapped_does_not_change_safe_forces() -> None:
    """A molecule, a chain longer than the cutoff, and two molecules out of each other's reach, in a periodic box of 50 Å."""
    net, random = tiny_edge_transformer(1), np.random.default_rng(0)
    safe, molecule = SafeForces(Direct(net)), SYSTEMS["molecule"]()
    apart = concatenate([molecule, replace(molecule, positions=molecule.positions @ random_turn(random) + 25.0)])
    places = np.outer(np.arange(7), [2.0, 1.0, 0.5]) + random.normal(size=(7, 3), scale=0.2)
    chain = make_system(places, np.array([3, 16, 15, 16, 3, 17, 15]), np.zeros((3, 3)), [False] * 3)
    whole, wrapped = [], []
    for system in (molecule, chain, replace(apart, owner=torch.zeros_like(apart.owner))):
        boxed = replace(system, cell=50.0 * torch.eye(3, dtype=DOUBLE)[None], pbc=torch.ones(1, 3, dtype=torch.bool))
        images = torch.from_numpy(random.integers(-2, 3, size=(system.n_atoms, 3)).astype(float))
        corner = replace(boxed, positions=(boxed.positions - boxed.positions[:2].mean(0)) % 50.0)
        expected = safe(build_graph(boxed, net.cutoff)).forces
        for other in (corner, replace(boxed, positions=boxed.positions + 50.0 * images)):
            assert float((other.positions.amax(0) - other.positions.amin(0)).max()) > 40.0
            assert torch.allclose(safe(build_graph(other, net.cutoff)).forces, expected, atol=1e-9)
        if len(whole) < 2:
            arms = boxed.positions - boxed.positions.mean(0)
            assert float(torch.linalg.cross(arms, expected).sum(0).abs().max()) < 1e-12
        whole.append(boxed)
        wrapped.append(corner)
    bulk = [molecule, SYSTEMS["box"]()]
    together = [safe(build_graph(concatenate([*ones, *bulk]), net.cutoff)).forces for ones in (whole, wrapped)]
    assert torch.allclose(*together, atol=1e-9)


def test_a_random_frame_is_the_same_for_the_same_structure() -> None:
    net, system = tiny_edge_transformer(1), SYSTEMS["molecule"]()
    graph, framed = build_graph(system, net.cutoff), SafeForces(Direct(net), random_frame=True)
    assert torch.equal(framed(graph).forces, framed(graph).forces)
    other = replace(graph, system=replace(system, positions=system.positions + 1e-12))
    assert float((framed(other).forces - framed(graph).forces).abs().max()) > 1e-6
    exact = SafeForces(Conservative(MorseNet()), random_frame=True)
    graph = build_graph(system, 5.0)
    assert float((exact(graph).forces - Conservative(MorseNet())(graph).forces).abs().max()) < 1e-12
    assert len({framed.sha256, SafeForces(Direct(net)).sha256}) == 2


@dataclass(frozen=True)
class Swirl:
    """Morse forces and a force that turns: it does work on closed paths."""

    strength: float
    cutoff, elements, name = 5.0, frozenset((3, 15, 16, 17)), "swirl"

    def __call__(self, graph):
        exact = Conservative(MorseNet())(graph)
        arms = graph.system.positions - graph.system.positions.mean(0)
        about = torch.tensor([0.0, 0.0, 1.0], dtype=DOUBLE).expand_as(arms)
        forces = exact.forces + self.strength * torch.linalg.cross(about, arms)
        return replace(exact, forces=forces - forces.mean(0))


@dataclass(frozen=True)
class WrongEnergy(Swirl):
    """The forces of `Swirl`, and an energy that they do not follow; `net` says whether they come from a head of their own."""

    net: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(direct=True))

    def __call__(self, graph):
        answer = super().__call__(graph)
        return replace(answer, energy=answer.energy + graph.system.positions.square().sum().unsqueeze(0))


def nve_of(potential, folder: Path, time_ps: float):
    settings = SimulateSettings(ensemble="nve", temperature_K=200.0, time_ps=time_ps, time_step_fs=1.0, every_fs=10.0)
    system = relax(random_box(0, atoms=8, periodic=False, closest=2.2), Conservative(MorseNet()))[0]
    return dynamics_results(simulate(system, potential, settings, folder), potential, settings)


@pytest.mark.filterwarnings("ignore::mdistill.errors.MdistillNotice")
def test_nve_of_direct_forces_is_judged_by_its_temperature_not_by_an_energy_of_others(tmp_path: Path) -> None:
    results = nve_of(WrongEnergy(0.0), tmp_path / "calm", 0.3)
    heating_K_ns, drift = results.values["heating"], results.values["energy_drift"]
    assert heating_K_ns.unit == "K/ns" and abs(heating_K_ns.value) < 5.0 * heating_K_ns.error
    assert drift.value is not None and any("guard does not check it" in note for note in results.notes)
    with pytest.raises(BlowUp, match="total energy changed"):
        nve_of(WrongEnergy(0.0, net=SimpleNamespace(direct=False)), tmp_path / "gradient", 0.3)
    with pytest.raises(BlowUp, match="temperature is"):
        nve_of(WrongEnergy(2.0), tmp_path / "hot", 1.0)
    assert "heating" not in nve_of(Conservative(MorseNet()), tmp_path / "exact", 0.1).values


def drift_of(step, steps: int) -> float:
    """Change of the energy of `MorseNet` over a run, eV."""
    state = initial_state(
        random_box(0, atoms=8, periodic=False, closest=2.2), temperature_K=200.0, generator=torch.Generator().manual_seed(3)
    )
    exact = Evaluator(Conservative(MorseNet()))

    def energy(at) -> float:
        return float(exact(at.system).energy) + float(kinetic_energy(at))

    before = energy(state)
    for _ in range(steps):
        state = step.step(state, torch.Generator())
    return energy(state) - before


def test_multiple_steps_conserve_the_energy_that_their_inner_forces_do_not() -> None:
    exact, swirl = Evaluator(Conservative(MorseNet())), Evaluator(Swirl(0.05))
    heated = drift_of(VelocityVerlet(evaluate=swirl, time_step=1.0), 400)
    kept = drift_of(MultipleTimeSteps(evaluate=exact, fast=swirl, time_step=4.0, inner_steps=4), 100)
    assert abs(heated) > 0.02 and abs(kept) < 0.05 * abs(heated)


def test_multiple_steps_of_equal_forces_are_velocity_verlet() -> None:
    exact = Evaluator(Conservative(MorseNet()))
    start = initial_state(random_box(0, atoms=8, closest=2.2), temperature_K=300.0, generator=torch.Generator().manual_seed(3))
    many = MultipleTimeSteps(evaluate=exact, fast=exact, time_step=3.0, inner_steps=3).step(start, torch.Generator())
    single, state = VelocityVerlet(evaluate=exact, time_step=1.0), start
    for _ in range(3):
        state = single.step(state, torch.Generator())
    assert torch.allclose(many.system.positions, state.system.positions, atol=1e-13) and many.time == pytest.approx(3.0)
    assert torch.allclose(many.momenta, state.momenta, atol=1e-13)
    back = MultipleTimeSteps(evaluate=exact, fast=Evaluator(Swirl(0.05)), time_step=3.0, inner_steps=3)
    there = back.step(start, torch.Generator())
    again = back.step(replace(there, momenta=-there.momenta), torch.Generator())
    assert torch.allclose(again.system.positions, start.system.positions, atol=1e-12)


def test_the_sixty_rotations_average_polynomials() -> None:
    turns = rotations()
    assert turns.shape == (60, 3, 3)
    assert torch.allclose(turns @ turns.transpose(1, 2), torch.eye(3, dtype=DOUBLE).expand(60, 3, 3), atol=1e-12)
    assert torch.allclose(torch.linalg.det(turns), torch.ones(60, dtype=DOUBLE), atol=1e-12)
    gaps = (turns[:, None] - turns[None]).flatten(2).norm(dim=2) + torch.eye(60, dtype=DOUBLE)
    assert float(gaps.min()) > 0.5
    squares = torch.einsum("kab,kcd->abcd", turns, turns) / 60.0
    eye = torch.eye(3, dtype=DOUBLE)
    assert torch.allclose(turns.mean(0), torch.zeros(3, 3, dtype=DOUBLE), atol=1e-12)
    assert torch.allclose(squares, torch.einsum("ac,bd->abcd", eye, eye) / 3.0, atol=1e-12)


def test_an_exact_potential_has_neither_error_and_a_planted_one_has_its_size() -> None:
    systems = [random_box(seed, atoms=5, periodic=False) for seed in range(2)]
    exact = Conservative(MorseNet())
    assert equivariance_error(exact, systems).value < 1e-12 and antisymmetry(exact, systems).value < 1e-9

    @dataclass(frozen=True)
    class Wind:
        """A constant force along x."""

        cutoff, elements, name = 5.0, frozenset((3, 15, 16, 17)), "wind"

        def __call__(self, graph):
            answer = exact(graph)
            return replace(answer, forces=answer.forces + torch.tensor([0.3, 0.0, 0.0], dtype=DOUBLE))

    assert equivariance_error(Wind(), systems).value == pytest.approx(0.3 / np.sqrt(3.0), rel=1e-9)
    jacobian = np.random.default_rng(0).normal(size=(15, 15))

    @dataclass(frozen=True)
    class Random:
        cutoff, elements, name = 5.0, frozenset((3, 15, 16, 17)), "random"

        def __call__(self, graph):
            flat = torch.from_numpy(jacobian) @ graph.system.positions.flatten()
            return replace(exact(graph), forces=flat.view(-1, 3))

    expected = np.linalg.norm(jacobian - jacobian.T) / (2.0 * np.linalg.norm(jacobian))
    assert antisymmetry(Random(), systems[:1]).value == pytest.approx(expected, rel=1e-4)


def test_heating_of_a_known_slope() -> None:
    times = np.arange(0.0, 50_000.0, 10.0)
    noise = np.random.default_rng(1).normal(0.0, 30.0, len(times))
    found = heating(times, 300.0 + 700.0 * times * 1e-6 + noise)
    assert abs(found.value - 700.0) < 4.0 * found.error and 5.0 < found.error < 200.0 and found.unit == "K/ns"
    with pytest.raises(BadInput, match="5 frames"):
        heating(times[:5], times[:5])


def test_the_error_of_heating_is_the_scatter_of_its_slope() -> None:
    """Over many runs of white noise the mean square of the error is the variance of the slope."""
    times, random = np.arange(0.0, 2_000.0, 20.0), np.random.default_rng(0)
    runs = [heating(times, random.normal(0.0, 30.0, len(times))) for _ in range(4_000)]
    variance = np.var([one.value for one in runs])
    assert np.mean([one.error**2 for one in runs]) == pytest.approx(variance, rel=0.1)


def test_a_bond_that_breaks_ends_the_stable_time() -> None:
    water = make_system(
        np.array([[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]), np.array([8, 1, 1]), np.zeros((3, 3)), [False] * 3
    )
    pairs = bonds(water)
    assert pairs.tolist() == [[0, 1], [0, 2]]
    positions = water.positions.repeat(10, 1, 1)
    positions[6:, 1, 0] += 0.6
    made = Trajectory(numbers=water.numbers, positions=positions, cell=torch.zeros(10, 3, 3), times=torch.arange(10.0))
    lengths = (water.positions[pairs[:, 1]] - water.positions[pairs[:, 0]]).norm(dim=1)
    assert stable_time(made, pairs, lengths) == 6.0
    assert stable_time(replace(made, positions=positions[:6], times=torch.arange(6.0)), pairs, lengths) == 5.0
    positions[2] = torch.nan
    assert stable_time(replace(made, positions=positions), pairs, lengths) == 2.0
    density = distance_density(positions[:2])
    assert density.sum() * 0.05 == pytest.approx(1.0) and density_error(density, density) == 0.0
    assert density_error(density, distance_density(positions[7:])) == pytest.approx(4.0 / 3.0, rel=0.01)


@pytest.mark.parametrize("name", ["run.h5", "run.extxyz"])
def test_how_long_bonds_hold_is_read_in_blocks_and_unknown_of_a_file_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The second bond of water breaks in frame 6, in the third of the blocks."""
    start = initial_state(
        make_system(np.array([[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]), np.array([8, 1, 1]), np.zeros((3, 3)), [False] * 3),
        temperature_K=10.0, generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    answer = Prediction(energy=torch.zeros(1, dtype=DOUBLE), forces=torch.zeros(3, 3, dtype=DOUBLE))
    writer = TrajectoryWriter(tmp_path / name)
    for k in range(10):
        place = start.system.positions.clone()
        place[2, 1] += 0.6 if k >= 6 else 0.0
        writer.add(k, replace(start, system=replace(start.system, positions=place), prediction=answer, time=5.0 * k))
    writer.flush()
    sizes = [len(times) for times, _ in position_blocks(writer.path, frames=4)]
    assert sizes == [4, 4, 2]
    monkeypatch.setattr(simulation, "position_blocks", partial(position_blocks, frames=3))
    done = SimpleNamespace(trajectory=writer.path, state=start)
    held, notes = bonds_held(done)
    assert held.value == pytest.approx(0.03) and held.samples == 7 and "after 0.03 ps" in notes[0]
    writer.path.write_bytes(b"nothing of the kind")
    held, notes = bonds_held(done)
    assert held.value is None and held.unit == "ps" and "not known" in notes[0]


def test_simulate_takes_the_charge_of_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from ase import Atoms
    from ase.io import write

    calm = tiny_edge_transformer(1, states=True)
    calm.scale.fill_(1e-3)
    save_model(tmp_path / "student.mdistill", calm)
    ion = Atoms(numbers=[3, 16], positions=[[0.0, 0, 0], [0, 0, 2.4]])
    command = ["simulate", f"{tmp_path}/ion.xyz", "--potential", f"{tmp_path}/student.mdistill", "--time-ps", "0.01"]
    command += ["--temperature-K", "10", "--time-step-fs", "1"]
    write(tmp_path / "ion.xyz", ion, format="extxyz")
    assert cli.run([*command, "--out", f"{tmp_path}/none"]) == 2
    assert "state charge" in capsys.readouterr().err
    for charge, status in ((1, 0), (0.5, 2)):
        ion.info["charge"] = charge
        write(tmp_path / "ion.xyz", ion, format="extxyz")
        assert cli.run([*command, "--out", f"{tmp_path}/at_{charge}"]) == status
    assert "charge=0.5" in capsys.readouterr().err
    point = load_restart(tmp_path / "at_1" / "restart.npz")
    assert point.state.system.charge.tolist() == [1]


def test_simulate_tells_of_heating_and_takes_the_remedies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from ase import Atoms
    from ase.io import write

    system = SYSTEMS["dimer"]()
    write(tmp_path / "dimer.xyz", Atoms(numbers=system.numbers.numpy(), positions=system.positions.numpy()))
    calm = tiny_edge_transformer(1)
    calm.scale.fill_(1e-3)
    save_model(tmp_path / "student.mdistill", calm)
    command = ["simulate", f"{tmp_path}/dimer.xyz", "--potential", f"{tmp_path}/student.mdistill", "--time-ps", "0.02"]
    command += ["--time-step-fs", "1", "--temperature-K", "10"]
    assert cli.run([*command, "--ensemble", "nve", "--out", f"{tmp_path}/nve", "--random-frame"]) == 0
    assert "heats up" in capsys.readouterr().err
    assert cli.run([*command, "--ensemble", "nve", "--inner-steps", "2", "--out", f"{tmp_path}/steps"]) == 0
    assert "heats up" not in capsys.readouterr().err
    assert cli.run([*command, "--out", f"{tmp_path}/nvt"]) == 0
    assert "heats up" not in capsys.readouterr().err
    assert read_results(tmp_path / "nvt").values["bonds_held"].value == pytest.approx(0.02)
    single = ["--time-ps", "0.01", "--every-fs", "20", "--equilibration-ps", "0.2", "--out", f"{tmp_path}/single"]
    assert cli.run([*command, *single]) == 0
    assert read_results(tmp_path / "single").values["bonds_held"].value is None
    hot = ["--temperature-K", "3000", "--time-ps", "0.2", "--every-fs", "2", "--seed", "4", "--out", f"{tmp_path}/hot"]
    assert cli.run([*command, *hot]) == 0
    flown = read_results(tmp_path / "hot")
    assert 0.0 < flown.values["bonds_held"].value < 0.2 and any("A bond deviates" in note for note in flown.notes)
    with pytest.raises(BadInput, match="--inner-steps"):
        for_dynamics(Conservative(MorseNet()), inner_steps=2)
    net = tiny_edge_transformer(1)
    assert isinstance(for_dynamics(Direct(net), inner_steps=2), EnergyBetweenSteps)
    net.header = {"provenance": {"settings": {"energy_gradient_weight": 0.0}}}
    with pytest.raises(BadInput, match="was not trained"):
        for_dynamics(Direct(net), inner_steps=2)


def test_labels_of_direct_forces_have_neither_net_force_nor_torque(tmp_path) -> None:
    """A conserving student cannot learn either; its teacher's labels are those that dynamics of the teacher would use."""
    net = tiny_edge_transformer(1, elements=(1, 8))
    net.scale.fill_(1e-3)
    save_model(tmp_path / "direct.mdistill", net)
    write(tmp_path / "water.xyz", molecule("H2O"))
    words = f"label {tmp_path}/water.xyz --teacher {tmp_path}/direct.mdistill --frames 4 --blocks 2 --temperatures-K 10 --every-fs 2 --prepare.relax-steps 1"
    assert cli.run([*words.split(), "--equilibration-fs", "2", "--probes", "1", "--out", str(tmp_path / "run")]) == 0
    labels = LabelStore(tmp_path / "run").read()
    assert len(labels) > 4

    def rigid(frame, forces) -> float:
        arms = frame.system.positions - frame.system.positions.mean(0)
        return float(torch.stack([forces.sum(0), torch.linalg.cross(arms, forces).sum(0)]).abs().max())

    raw = [Direct(net)(build_graph(frame.system, net.cutoff)).forces for frame in labels]
    assert max(map(rigid, labels, raw)) > 1e-4
    for frame, forces in zip(labels, raw, strict=True):
        assert rigid(frame, frame.target.forces) < 1e-9
        assert torch.allclose(frame.target.forces, without_rigid_parts(frame.system, forces), atol=1e-9)
