"""The energy of long strides, put right now and then: it stays, thermal motion is all that changes, compiled as plain."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Generator

from mdistill.derivatives import Conservative
from mdistill.errors import BadInput
from mdistill.nets.compiled import compiled
from mdistill.simulation.compiled import compile_propagator
from mdistill.simulation.composed import Composed, composed
from mdistill.simulation.engines import make_evaluator
from mdistill.simulation.guard import total_energy
from mdistill.simulation.kept import EnergyKept, LeapingEnergyKept
from mdistill.simulation.rollout import rollout
from mdistill.simulation.start import initial_state
from mdistill.simulation.verlet import evaluated
from mdistill.types import State
from systems import random_box, tiny_map, tiny_net

BOX = random_box(3, atoms=20, length=8.0)


def strides() -> Composed:
    evaluate = make_evaluator(compiled(Conservative(tiny_net(1)), double=True), BOX)
    return composed(tiny_map(), BOX, evaluate, skin=1.0, small_step=1.0)


def begin(inner: Composed) -> State:
    state = initial_state(BOX, temperature_K=300.0, generator=Generator().manual_seed(0))
    drifting = replace(state, momenta=state.momenta + 0.01 * state.masses.unsqueeze(1))
    return evaluated(drifting, inner.evaluate)


def test_the_energy_stays_where_strides_alone_change_it(trust):
    inner = strides()
    start = begin(inner)
    kept = EnergyKept(inner=inner, evaluate=inner.evaluate, every=5)
    free, end = (rollout(start, p, steps=40, generator=Generator()) for p in (inner, kept))
    moved, left = (float((total_energy(s) - total_energy(start)).abs()) for s in (free, end))
    assert moved > 1e-4 and left < 1e-9 * moved + 1e-10
    torch.testing.assert_close(end.momenta.sum(0), start.momenta.sum(0), rtol=0, atol=1e-10)
    trust("T8", "energy of long strides, put right every 5th (eV)", left, "1e-10")


def test_what_is_missing_between_is_carried():
    inner = strides()
    kept, state = EnergyKept(inner=inner, evaluate=inner.evaluate, every=7), begin(inner)
    target = total_energy(state)
    for _ in range(20):
        state = kept.step(state, Generator())
        assert float(total_energy(state) + state.energy_debt - target) == pytest.approx(0.0, abs=1e-10)


def test_a_correction_beyond_the_clip_is_a_debt():
    inner = strides()
    kept = EnergyKept(inner=inner, evaluate=inner.evaluate, every=1, clip=0.01)
    state = replace(begin(inner), energy_debt=torch.tensor([5.0], dtype=torch.float64))
    after = kept.step(state, Generator())
    assert 0.0 < float(after.energy_debt) < 5.0
    still = replace(begin(inner), momenta=torch.zeros_like(BOX.positions))
    settled = kept.settled(evaluated(still, inner.evaluate), total_energy(still) + 1.0)
    assert bool(torch.isfinite(settled.momenta).all()) and float(settled.energy_debt) == pytest.approx(1.0)
    for wrong in ({"every": 0}, {"clip": 0.0}, {"clip": float("nan")}):
        with pytest.raises(BadInput):
            replace(kept, **wrong)


@pytest.mark.parametrize("leap", [1, 4, 30])
def test_compiled_is_as_plain_however_it_is_cut(leap):
    inner = strides()
    plain = EnergyKept(inner=inner, evaluate=inner.evaluate, every=5)
    fast = compile_propagator(plain, inner.evaluate)
    assert isinstance(fast, LeapingEnergyKept)
    slow = rollout(begin(inner), plain, steps=30, generator=Generator())
    quick = rollout(begin(inner), fast, steps=30, generator=Generator(), leap=leap)
    torch.testing.assert_close(quick.system.positions, slow.system.positions, rtol=0, atol=1e-8)
    torch.testing.assert_close(quick.momenta, slow.momenta, rtol=0, atol=1e-8)
