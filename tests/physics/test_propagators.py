"""Order, reversibility, drift and randomness of the propagators; exact continuation; the neighbour list in dynamics."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from potentials import CopiesOfLennardJones, IdealGas, LennardJones, fcc
from torch import Generator

from mdistill.analysis.gates import energy_drift
from mdistill.graph import build_graph, concatenate, make_system
from mdistill.simulation.barostat import ANISOTROPIC, StochasticCellRescaling
from mdistill.simulation.bussi import Bussi
from mdistill.simulation.evaluator import Evaluator
from mdistill.simulation.guard import total_energy
from mdistill.simulation.initial_state import initial_state
from mdistill.simulation.langevin import Baoab
from mdistill.simulation.noise import atom_normals
from mdistill.simulation.restart import RestartPoint, load_restart, save_restart
from mdistill.simulation.rollout import Calling, rollout
from mdistill.simulation.verlet import VelocityVerlet, evaluated, kick
from mdistill.simulation.verlet import drift as fly
from mdistill.types import Propagator, State, System

COPIES = CopiesOfLennardJones(reach=5.0)


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def warm_solid(copies: int = 4) -> State:
    """Argon at about 40 K, equilibrated."""
    state = initial_state(fcc(2, copies=copies), temperature_K=60.0, generator=seeded())
    propagator = Baoab(evaluate=Evaluator(COPIES), time_step=8.0, temperature_K=40.0, friction_per_ps=5.0)
    return rollout(state, propagator, steps=150, generator=seeded(1))


@dataclass(frozen=True)
class FirstOrder:
    """Planted: momenta see only the forces at the start of the step."""

    evaluate: Evaluator
    time_step: float

    @property
    def stride_fs(self) -> float:
        return self.time_step

    def step(self, state: State, generator: Generator) -> State:
        state = fly(kick(evaluated(state, self.evaluate), self.time_step), self.time_step)
        return replace(evaluated(state, self.evaluate), time=state.time + self.time_step)


def energies(state: State, propagator: Propagator, span: float) -> np.ndarray:
    """[step, struct] total energy over `span` fs."""
    found: list[np.ndarray] = []
    rollout(
        replace(state, middle_momenta=None),
        propagator,
        steps=round(span / propagator.stride_fs),
        generator=seeded(),
        observers=[Calling(lambda _, s: found.append(total_energy(s).numpy()))],
    )
    return np.array(found)


def fluctuation_ratio(make: Callable[[float], Propagator]) -> float:
    state = warm_solid()
    long, short = (energies(state, make(step), 4000.0).std(0) for step in (8.0, 4.0))
    return float((long / short).mean())


def check_second_order(ratio: float) -> None:
    assert 3.6 <= ratio <= 4.4


def test_verlet_is_second_order(trust: Callable[..., None]) -> None:
    ratio = fluctuation_ratio(lambda h: VelocityVerlet(evaluate=Evaluator(COPIES), time_step=h))
    check_second_order(ratio)
    trust("T13", "velocity Verlet: energy fluctuation at h over that at h/2", ratio, "4 ± 10 %")


@pytest.mark.planted
def test_order_check_sees_a_first_order_integrator(trust: Callable[..., None]) -> None:
    ratio = fluctuation_ratio(lambda h: FirstOrder(Evaluator(COPIES), h))
    with pytest.raises(AssertionError):
        check_second_order(ratio)
    trust("T13", "planted first-order integrator: the same ratio", ratio, "not 4 ± 10 %", planted=True)


def way_back(propagator: Propagator) -> float:
    """Largest distance (Å) from the start after 1,000 steps, momenta reversed, and 1,000 more."""
    state = warm_solid(1)
    there = rollout(state, propagator, steps=1000, generator=seeded())
    back = rollout(replace(there, momenta=-there.momenta), propagator, steps=1000, generator=seeded())
    return float((back.system.positions - state.system.positions).norm(dim=1).max())


def check_reversible(distance: float) -> None:
    assert distance <= 1e-9


def test_verlet_is_reversible(trust: Callable[..., None]) -> None:
    distance = way_back(VelocityVerlet(evaluate=Evaluator(COPIES), time_step=4.0))
    check_reversible(distance)
    trust("T13", "velocity Verlet: distance from the start after 1,000 steps forth and back (Å)", distance, "1e-9")


@pytest.mark.planted
def test_reversibility_check_sees_a_first_order_integrator(trust: Callable[..., None]) -> None:
    distance = way_back(FirstOrder(Evaluator(COPIES), 4.0))
    with pytest.raises(AssertionError):
        check_reversible(distance)
    trust("T13", "planted first-order integrator: the same distance (Å)", distance, "above 1e-9", planted=True)


def check_no_drift(slope: float, error: float) -> None:
    assert abs(slope) <= 1e-6 and error <= 1e-6


def measured_drift(propagator: Propagator) -> tuple[float, float]:
    found = energies(warm_solid(), propagator, 20000.0)
    slope = energy_drift(propagator.stride_fs * np.arange(len(found)), found.mean(1), 32).slope
    assert slope.value is not None and slope.error is not None
    return slope.value, slope.error


def test_nve_does_not_drift(trust: Callable[..., None]) -> None:
    slope, error = measured_drift(VelocityVerlet(evaluate=Evaluator(COPIES), time_step=8.0))
    check_no_drift(slope, error)
    trust("T16", "Lennard-Jones solid, 40 K, 20 ps NVE: |drift| (eV/atom/ps)", abs(slope), "≤ 1e-6")


@pytest.mark.planted
def test_drift_check_sees_a_trace_of_heating(trust: Callable[..., None]) -> None:
    @dataclass(frozen=True)
    class Heated:
        """Momenta grow by one part in 10⁵ per step."""

        inner: VelocityVerlet
        stride_fs: float = 8.0

        def step(self, state: State, generator: Generator) -> State:
            state = self.inner.step(state, generator)
            return replace(state, momenta=(1.0 + 1e-5) * state.momenta)

    slope, error = measured_drift(Heated(VelocityVerlet(evaluate=Evaluator(COPIES), time_step=8.0)))
    with pytest.raises(AssertionError):
        check_no_drift(slope, error)
    trust("T16", "planted heating by 1e-5 per step: |drift| (eV/atom/ps)", abs(slope), "above 1e-6", planted=True)


def random_liquid(cell: float = 9.5) -> System:
    """Twelve argon-like atoms, two elements, in a skewed cell shorter than twice the cutoff."""
    grid = np.array(list(itertools.product(range(3), range(2), range(2)))) / np.array([3, 2, 2])
    lattice = cell * np.array([[1.3, 0, 0], [0.2, 1, 0], [0.1, -0.2, 1.1]])
    return make_system(grid @ lattice, np.array([18, 36] * 6), lattice, [True] * 3)


def worst_force_error(evaluate: Evaluator, steps: int) -> float:
    """Largest |ΔF| (eV/Å) between the evaluator's forces and those of a fresh list along hot dynamics."""
    potential, worst = evaluate.potential, [0.0]

    def compare(_: int, state: State) -> None:
        fresh = potential(build_graph(state.system, potential.cutoff)).forces
        assert state.prediction is not None
        worst[0] = max(worst[0], float((fresh - state.prediction.forces).abs().max()))

    state = initial_state(random_liquid(), temperature_K=400.0, generator=seeded())
    propagator = Baoab(evaluate=evaluate, time_step=5.0, temperature_K=400.0, friction_per_ps=5.0)
    rollout(state, propagator, steps=steps, generator=seeded(), observers=[Calling(compare, every=4)])
    return worst[0]


def check_list(error: float) -> None:
    assert error <= 1e-12


@pytest.mark.slow
def test_skin_list_never_loses_a_pair(trust: Callable[..., None]) -> None:
    evaluate = Evaluator(LennardJones(cutoff=5.0), skin=0.8)
    error = worst_force_error(evaluate, 10_000)
    check_list(error)
    assert 50 < evaluate._pairs.rebuilds < 5000
    trust("T6", "skin list against fresh list along 10⁴ steps of hot dynamics: max |ΔF| (eV/Å)", error, "≤ 1e-12")


@pytest.mark.planted
def test_list_check_sees_a_list_that_is_never_rebuilt(monkeypatch: pytest.MonkeyPatch, trust: Callable[..., None]) -> None:
    monkeypatch.setattr("mdistill.graph.SkinList._covers", lambda self, old, new: True)
    error = worst_force_error(Evaluator(LennardJones(cutoff=5.0), skin=0.0), 300)
    with pytest.raises(AssertionError):
        check_list(error)
    trust("T6", "planted list without skin or rebuilds: max |ΔF| (eV/Å)", error, "above 1e-12", planted=True)


def propagators(potential: object = None) -> dict[str, Propagator]:
    """Every propagator of every ensemble, at 80 K."""
    evaluate = Evaluator(potential or LennardJones(cutoff=5.0))
    langevin = Baoab(evaluate=evaluate, time_step=4.0, temperature_K=80.0, friction_per_ps=2.0)
    bussi = Bussi(inner=VelocityVerlet(evaluate=evaluate, time_step=4.0), temperature_K=80.0)

    def rescaled(inner: Propagator, **more: object) -> StochasticCellRescaling:
        return StochasticCellRescaling(
            inner=inner, evaluate=evaluate, temperature_K=80.0, compressibility_per_GPa=0.3, every=3, **more
        )

    return {
        "verlet": VelocityVerlet(evaluate=evaluate, time_step=4.0),
        "langevin": langevin,
        "bussi": bussi,
        "isotropic with bussi": rescaled(bussi),
        "isotropic with langevin": rescaled(langevin),
        "anisotropic with bussi": rescaled(bussi, strains=ANISOTROPIC),
        "anisotropic with langevin": rescaled(langevin, strains=ANISOTROPIC),
    }


def end(state: State) -> list[torch.Tensor]:
    assert state.prediction is not None and state.prediction.stress is not None
    parts = [state.system.positions, state.system.cell, state.momenta, state.prediction.energy, state.prediction.forces]
    return [*parts, state.prediction.stress, torch.tensor([state.time])]


def check_equal_bits(one: State, other: State) -> None:
    assert all(torch.equal(a, b) for a, b in zip(end(one), end(other), strict=True))


@pytest.mark.parametrize("name", list(propagators()))
def test_same_seed_same_bits_and_other_seed_other_bits(name: str) -> None:
    start = initial_state(random_liquid(), temperature_K=80.0, generator=seeded())
    first, again, other = (rollout(start, propagators()[name], steps=40, generator=seeded(seed)) for seed in (5, 5, 6))
    check_equal_bits(first, again)
    if name != "verlet":
        assert not torch.equal(first.momenta, other.momenta)
    if "tropic" in name:
        assert not torch.equal(first.system.cell, start.system.cell)


def continued(name: str, folder: Path, load: Callable[[RestartPoint], Generator]) -> tuple[State, State]:
    """80 steps at once; and 37, through a file, 43 more with a new propagator."""
    start = initial_state(random_liquid(), temperature_K=80.0, generator=seeded())
    whole = rollout(start, propagators()[name], steps=80, generator=seeded(3))
    generator = seeded(3)
    half = rollout(start, propagators()[name], steps=37, generator=generator)
    save_restart(folder / "r.npz", RestartPoint(step=37, state=half, generator_state=generator.get_state()))
    point = load_restart(folder / "r.npz")
    assert point.step == 37
    return whole, rollout(point.state, propagators()[name], steps=43, generator=load(point), first_step=37)


@pytest.mark.parametrize("name", list(propagators()))
def test_restart_at_half_is_the_uninterrupted_run(name: str, tmp_path: Path, trust: Callable[..., None]) -> None:
    check_equal_bits(*continued(name, tmp_path, RestartPoint.generator))
    trust("T17", f"{name}: restart at half against uninterrupted (bits that differ)", 0, "0")


@pytest.mark.planted
@pytest.mark.parametrize("name", ["langevin", "bussi", "isotropic with bussi"])
def test_restart_check_sees_a_forgotten_generator(name: str, tmp_path: Path, trust: Callable[..., None]) -> None:
    runs = continued(name, tmp_path, lambda point: seeded(3))
    with pytest.raises(AssertionError):
        check_equal_bits(*runs)
    trust("T17", f"{name}: planted forgotten generator state", "noticed", "noticed", planted=True)


def worst_correlation(draws: np.ndarray) -> float:
    """Largest |correlation| between rows, in units of 1/√n."""
    matrix = np.corrcoef(draws) - np.eye(len(draws))
    return float(np.abs(matrix).max() * np.sqrt(draws.shape[1]))


def check_uncorrelated(worst: float) -> None:
    assert worst < 4.0


def noise(seeds: list[int], count: int = 20_000) -> np.ndarray:
    system = concatenate([make_system(np.zeros((count // 30, 3)), np.ones(count // 30), np.zeros((3, 3)), [False] * 3)] * 10)
    return np.array([atom_normals(seeded(seed), system).reshape(-1).numpy() for seed in seeds])


def test_seeds_structs_and_steps_have_uncorrelated_noise(trust: Callable[..., None]) -> None:
    seeds = noise(list(range(20)))
    worst = worst_correlation(seeds)
    check_uncorrelated(worst)
    check_uncorrelated(worst_correlation(seeds[0].reshape(10, -1)))
    generator = seeded(0)
    system = make_system(np.zeros((2000, 3)), np.ones(2000), np.zeros((3, 3)), [False] * 3)
    check_uncorrelated(worst_correlation(np.array([atom_normals(generator, system).reshape(-1).numpy() for _ in range(20)])))
    assert abs(seeds.mean()) < 4 / np.sqrt(seeds.size) and abs(seeds.var() - 1.0) < 4 * np.sqrt(2 / seeds.size)
    trust("T12", "noise of 20 seeds: largest correlation in units of 1/√n", worst, "< 4")


@pytest.mark.planted
def test_correlation_check_sees_seeds_that_share_a_stream(trust: Callable[..., None]) -> None:
    worst = worst_correlation(noise([*range(19), 7]))
    with pytest.raises(AssertionError):
        check_uncorrelated(worst)
    trust("T12", "planted shared stream: largest correlation in units of 1/√n", worst, "≥ 4", planted=True)


@pytest.mark.parametrize("name", list(propagators()))
def test_a_struct_keeps_its_stream_when_others_join_the_batch(name: str) -> None:
    one, more = random_liquid(), fcc(1)
    states = []
    for system in (concatenate([one, one]), concatenate([one, one, more])):
        count = system.n_atoms
        momenta = torch.linspace(-1.0, 1.0, 24 * 3, dtype=torch.float64).reshape(24, 3)
        momenta = torch.cat([momenta - momenta.mean(0), torch.zeros((count - 24, 3), dtype=torch.float64)])
        state = State(system=system, momenta=momenta, masses=torch.full((count,), 40.0, dtype=torch.float64))
        states.append(rollout(state, propagators(IdealGas())[name], steps=12, generator=seeded(2)))
    assert torch.equal(states[0].system.positions, states[1].system.positions[:24])
    assert torch.equal(states[0].system.cell, states[1].system.cell[:2])
    if name != "verlet":
        assert not torch.equal(states[0].momenta[:12], states[0].momenta[12:])
