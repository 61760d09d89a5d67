"""Long strides as dynamics, plain and compiled: reversible, momentum kept, Verlet where the map is Verlet, small steps where it must."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from laws import assert_close
from mdistill.derivatives import Conservative
from mdistill.errors import BadInput
from mdistill.kernels import build
from mdistill.nets.compiled import compiled
from mdistill.simulation.compiled import CompiledDynamics, compile_propagator
from mdistill.simulation.evaluator import EngineEvaluator, Evaluator, make_evaluator
from mdistill.simulation.guard import total_energy
from mdistill.simulation.initial_state import initial_state
from mdistill.simulation.kinetics import kinetic_energy, prediction_of
from mdistill.simulation.propagators import StrideCounts
from mdistill.simulation.rollout import rollout
from mdistill.simulation.splitting_map import SplittingStrides, splitting_strides
from mdistill.simulation.stride_maps import fallback_share
from mdistill.simulation.verlet import VelocityVerlet, evaluated
from mdistill.types import Propagator, State, System
from mdistill.units import ACCELERATION
from systems import random_box, tiny_map, tiny_net

pytestmark = pytest.mark.skipif(build.compiler() is None, reason="no C++ compiler here")
KINDS = ["plain", "compiled"]


def box() -> System:
    return random_box(21, atoms=12, length=7.0, closest=2.3)


def begin(system: System, kelvin: float = 600.0) -> State:
    return initial_state(system, temperature_K=kelvin, generator=torch.Generator().manual_seed(3))


def student(system: System, **size: int):
    return make_evaluator(compiled(Conservative(tiny_net(**size)), double=True), system)


def plain_map(system: System, net=None, *, small_step: float = 1.0, skin: float = 1.2, **size: int) -> SplittingStrides:
    net = net or tiny_map()
    time = net.settings.stride_fs
    return splitting_strides(net, system, student(system, **size), time=time, skin=skin, small_step=small_step)


def of_kind(kind: str, plain: SplittingStrides) -> Propagator:
    if kind == "plain":
        return plain
    fast = compile_propagator(plain, plain.evaluate)
    assert isinstance(fast, CompiledDynamics)
    return fast


def after(propagator: Propagator, state: State, strides: int, *, leap: int = 100) -> State:
    return rollout(state, propagator, steps=strides, generator=torch.Generator().manual_seed(5), leap=leap)


@pytest.mark.parametrize("kicks", [1, 2, 3, 4])
def test_compiled_strides_are_the_plain_ones(kicks, trust):
    net, ends = tiny_map(kicks=kicks, stride_fs=3.0 * kicks), []
    for kind in KINDS:
        ends.append(after(of_kind(kind, plain_map(box(), net)), begin(box()), 50))
    apart = assert_close(ends[1].system.positions, ends[0].system.positions, absolute=1e-9)
    assert_close(ends[1].momenta, ends[0].momenta, absolute=1e-9)
    for name in ("energy", "forces", "stress"):
        expected, found = (getattr(prediction_of(end), name) for end in ends)
        assert_close(found, expected, absolute=1e-8)
    assert ends[0].time == ends[1].time
    trust("T7", f"compiled long strides against plain, {kicks} kicks, 50 strides, largest distance (Å)", apart, "1e-9")


def test_potentials_of_another_size_and_reach(trust):
    """Stages and potential in different libraries, with lists of their own."""
    net, ends = tiny_map(hidden=0), []
    plain = plain_map(box(), replace_cutoff(net, 4.1))
    for kind in KINDS:
        ends.append(after(of_kind(kind, plain), begin(box()), 30))
    assert_close(ends[1].system.positions, ends[0].system.positions, absolute=1e-9)
    assert len({id(stage.engine.kernel.library) for stage in (*plain.stages, plain.evaluate)}) == 2
    assert not plain.stages[0].engine.share_list(plain.evaluate.engine)


def replace_cutoff(net, cutoff: float):
    """The map with potentials of another reach."""
    made = type(net)(replace(net.settings, potential=replace(net.settings.potential, cutoff=cutoff)))
    state = {name: value for name, value in net.state_dict().items() if "core.outer" not in name and "closest" not in name}
    made.load_state_dict(state, strict=False)
    for stage in made.stages:
        stage.set_closest(torch.full((4, 4), 1.9, dtype=torch.float64))
    return made


def test_one_list_serves_all_and_changes_no_bit():
    shared = plain_map(box())
    engines = [stage.engine for stage in (*shared.stages, shared.evaluate)]
    one = after(of_kind("compiled", shared), begin(box()), 60)
    assert len({engine.counts()["searches"] for engine in engines}) == 1 and engines[0].counts()["searches"] > 3
    alone = plain_map(box())
    fresh = [make_evaluator(stage.potential, box(), skin=0.7) for stage in alone.stages]
    other = after(of_kind("compiled", replace(alone, stages=fresh)), begin(box()), 60)
    assert torch.equal(one.system.positions, other.system.positions) and torch.equal(one.momenta, other.momenta)


@pytest.mark.parametrize("kind", KINDS)
def test_a_map_of_the_student_is_velocity_verlet(kind, trust):
    net = tiny_map(kicks=4, stride_fs=8.0, apart=0.0)
    found = after(of_kind(kind, plain_map(box(), net)), begin(box()), 25)
    expected = after(VelocityVerlet(evaluate=student(box()), time_step=2.0), begin(box()), 100)
    apart = assert_close(found.system.positions, expected.system.positions, absolute=1e-9)
    assert_close(found.momenta, expected.momenta, absolute=1e-9)
    assert_close(prediction_of(found).energy, prediction_of(expected).energy, absolute=1e-8)
    trust("T7", f"{kind} map of 4 equal kicks against velocity Verlet, 100 steps (Å)", apart, "1e-9")


@pytest.mark.parametrize("kind", KINDS)
def test_strides_are_reversible(kind, trust):
    plain = plain_map(box())
    there = after(of_kind(kind, plain), begin(box()), 50)
    back = after(of_kind(kind, plain), replace(there, momenta=-there.momenta), 50)
    assert float((there.system.positions - box().positions).abs().max()) > 0.5
    apart = assert_close(back.system.positions, box().positions, absolute=1e-9)
    assert plain.counts.fallbacks == 0 and plain.counts.strides == 100
    trust("S", f"{kind} long strides: 50 there and 50 back, largest distance (Å)", apart, "1e-9")


@pytest.mark.planted
def test_reversal_notices_a_sequence_that_is_no_palindrome(trust):
    plain = plain_map(box(), tiny_map(kicks=3))
    turned = replace(plain, stages=[plain.stages[1], plain.stages[0]])
    there = after(of_kind("compiled", plain), begin(box()), 50)
    back = after(of_kind("compiled", turned), replace(there, momenta=-there.momenta), 50)
    with pytest.raises(AssertionError):
        assert_close(back.system.positions, box().positions, absolute=1e-9)
    trust("S", "long strides whose way back has its kicks exchanged", "caught", "caught", planted=True)


@pytest.mark.parametrize("kind", KINDS)
def test_momentum_is_conserved(kind, trust):
    state = begin(box())
    state = replace(state, momenta=state.momenta + torch.tensor([0.02, -0.01, 0.03], dtype=torch.float64))
    end = after(of_kind(kind, plain_map(box())), state, 100)
    drift = assert_close(end.momenta.sum(0), state.momenta.sum(0), absolute=1e-10)
    trust("S", f"{kind} long strides: total momentum after 100 (u Å/fs)", drift, "1e-10")


@pytest.mark.parametrize("kind", KINDS)
def test_it_falls_back_to_small_steps_and_counts_them(kind):
    """Limits between the forces met: some strides fall back, and those are velocity Verlet with the student."""
    free = plain_map(box())
    mixed = replace(free, largest_force=torch.full_like(free.largest_force, 3.0))
    state, end = begin(box()), None
    end = after(of_kind(kind, mixed), state, 40)
    assert 0 < mixed.counts.fallbacks < 40 and mixed.counts.strides == 40
    assert fallback_share(mixed).value == mixed.counts.fallbacks / 40
    by_hand, verlet, fell = state, VelocityVerlet(evaluate=free.evaluate, time_step=1.0), 0
    for _ in range(40):
        tried = mixed._moved(by_hand)
        fell += tried is None
        by_hand = after(verlet, by_hand, 8) if tried is None else evaluated(tried, free.evaluate)
    assert fell == mixed.counts.fallbacks
    assert_close(end.system.positions, by_hand.system.positions, absolute=1e-9)
    assert_close(end.momenta, by_hand.momenta, absolute=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_every_stride_in_small_steps_is_velocity_verlet(kind):
    free = plain_map(box(), small_step=3.0)
    never = replace(free, largest_force=torch.zeros_like(free.largest_force))
    end = after(of_kind(kind, never), begin(box()), 20)
    expected = after(VelocityVerlet(evaluate=free.evaluate, time_step=8.0 / 3.0), begin(box()), 60)
    assert never.counts.fallbacks == 20
    assert_close(end.system.positions, expected.system.positions, absolute=1e-9)
    assert_close(total_energy(end), total_energy(expected), absolute=1e-8)


@pytest.mark.parametrize("stage", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_the_limit_is_that_of_the_atom_and_the_stage(kind, stage):
    """A limit just above, and one just below, the largest force of one atom at one stage."""
    free, state = plain_map(box()), begin(box())
    ends = free._moved(state)
    first = state.momenta + 0.25 * free.stride_fs * ACCELERATION * free.stages[0](state.system).forces
    middle = replace(state.system, positions=state.system.positions + 0.5 * free.stride_fs * first / state.masses.unsqueeze(1))
    met = [state.system, ends.system] if stage == 0 else [middle]
    size = torch.stack([free.stages[stage](system).forces.norm(dim=1) for system in met]).amax(0)
    for share, expected in ((1.0 + 1e-9, 0), (1.0 - 1e-9, 1)):
        limits = free.largest_force.clone()
        limits[stage, 7] = share * size[7]
        one = replace(free, largest_force=limits, counts=StrideCounts())
        of_kind(kind, one).step(state, torch.Generator())
        assert one.counts.fallbacks == expected


@pytest.mark.parametrize("kind", KINDS)
def test_a_stride_that_changes_the_energy_is_looked_at_and_taken_anew(kind):
    """Limits just above, and just below, what one stride changes: of K + V₀, which says whether to look, and of the energy."""
    free, state = plain_map(box()), begin(box())
    end = free._moved(state)
    seen = [float((free.stages[0](s.system).energy + kinetic_energy(s)).sum()) for s in (state, end)]
    true = [float((free.evaluate(s.system).energy + kinetic_energy(s)).sum()) for s in (state, end)]
    look, change = abs(seen[1] - seen[0]), abs(true[1] - true[0])
    assert look > 1e-6 and change > 1e-6
    for looked_at, largest, expected in ((1.01, 0.5, 0), (0.99, 1.01, 0), (0.99, 0.99, 1)):
        one = replace(free, looked_at=looked_at * look, largest_change=largest * change, counts=StrideCounts())
        moved = of_kind(kind, one).step(state, torch.Generator())
        assert one.counts.fallbacks == expected
        small = after(VelocityVerlet(evaluate=free.evaluate, time_step=1.0), begin(box()), 8)
        assert_close(moved.momenta, small.momenta if expected else end.momenta, absolute=1e-9)


@pytest.mark.parametrize("double", [True, False], ids=["float64", "float32"])
def test_how_a_run_is_cut_into_leaps_changes_no_bit(double):
    ends = []
    for leap in (1, 7, 100):
        net = tiny_map() if double else tiny_map().in_type(torch.float32)
        plain = plain_map(box(), net)
        plain = replace(plain, largest_force=torch.full_like(plain.largest_force, 3.0))
        ends.append(after(of_kind("compiled", plain), begin(box()), 40, leap=leap))
        assert plain.counts.fallbacks > 0
    for other in ends[1:]:
        assert torch.equal(ends[0].system.positions, other.system.positions)
        assert torch.equal(ends[0].momenta, other.momenta)
        assert torch.equal(prediction_of(ends[0]).forces, prediction_of(other).forces)
    assert (ends[0].running_sums.evaluated, ends[1].running_sums.evaluated, ends[2].running_sums.evaluated) == (40, 6, 1)


def test_a_force_is_remembered_only_for_where_it_was():
    """Another place, cell or structure between two leaps: the first kick is found anew."""
    plain = plain_map(box())
    fast = of_kind("compiled", plain)
    state = after(fast, begin(box()), 3)
    moved = replace(state.system, positions=state.system.positions + 0.01 * torch.randn(12, 3, dtype=torch.float64))
    wider = replace(state.system, cell=1.01 * state.system.cell)
    for system in (moved, wider, state.system):
        changed = replace(state, system=system, prediction=None, running_sums=None)
        found = after(fast, changed, 3)
        fresh = after(of_kind("compiled", plain_map(box())), changed, 3)
        assert torch.equal(found.system.positions, fresh.system.positions) and torch.equal(found.momenta, fresh.momenta)


def test_every_stride_costs_k_evaluations():
    """Without a skin each evaluation of a kick costs a search of the list that they share."""
    plain = plain_map(box(), skin=0.0)
    fast = of_kind("compiled", plain)
    state = after(fast, begin(box()), 1)
    engine = plain.stages[0].engine
    before = engine.counts()["searches"]
    after(fast, state, 50)
    assert engine.counts()["searches"] - before == 2 * 50


def test_what_cannot_be_compiled_stays_plain():
    plain = plain_map(box())
    slow = replace(plain, stages=[plain.stages[0], Evaluator(Conservative(tiny_net()))])
    assert compile_propagator(slow, plain.evaluate) is slow
    assert isinstance(plain.evaluate, EngineEvaluator) and compile_propagator(plain, plain.stages[0]) is plain
    with pytest.raises(BadInput, match="2 for 3 kicks"):
        replace(plain, kicks=3, stages=plain.stages[:1])
