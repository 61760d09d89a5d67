"""The loop: which steps, which observers, when it stops."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Generator

from mdistill.errors import BadInput, BlowUp
from mdistill.graph import make_system
from mdistill.interrupt import StopRequest
from mdistill.simulation.rollout import Calling, Collect, rollout
from mdistill.types import State


@dataclass(frozen=True)
class Clock:
    stride_fs: float = 2.0
    refuse_at: float = 1e9

    def step(self, state: State, generator: Generator) -> State:
        if state.time >= self.refuse_at:
            raise BadInput("cell", "0 Å", allowed="more", fix="none")
        return replace(state, time=state.time + self.stride_fs)


def still() -> State:
    system = make_system(np.zeros((2, 3)), np.array([3, 17]), np.eye(3), [True] * 3)
    return State(system=system, momenta=torch.zeros((2, 3)), masses=torch.ones(2))


def test_observers_see_their_steps_after_the_guard() -> None:
    seen: list[tuple[str, int]] = []
    observers = [Calling(lambda n, s: seen.append(("a", n)), every=2), Calling(lambda n, s: seen.append(("b", n)), every=3)]
    last = rollout(
        still(),
        Clock(),
        steps=6,
        generator=Generator(),
        observers=observers,
        first_step=10,
        guard=lambda n, s: seen.append(("g", n)),
    )
    assert last.time == 12.0
    assert [n for kind, n in seen if kind == "a"] == [12, 14, 16]
    assert [n for kind, n in seen if kind == "b"] == [12, 15]
    assert [kind for kind, n in seen if n == 12] == ["g", "a", "b"]


def test_no_observer_sees_a_refused_state() -> None:
    kept = Collect()

    def guard(step: int, state: State) -> None:
        if step == 4:
            raise BlowUp(step, "planned")

    with pytest.raises(BlowUp, match="step 4"):
        rollout(still(), Clock(), steps=9, generator=Generator(), observers=[kept], guard=guard)
    assert [state.time for state in kept.states] == [2.0, 4.0, 6.0]
    assert kept.trajectory().positions.shape == (3, 2, 3)


def test_a_stop_request_ends_the_loop_after_the_step() -> None:
    stop = StopRequest()

    def ask(step: int, state: State) -> None:
        stop.signal_number = 15 if step == 3 else 0

    assert rollout(still(), Clock(), steps=9, generator=Generator(), observers=[Calling(ask)], stop=stop).time == 6.0


def test_bad_input_later_on_is_a_blow_up() -> None:
    with pytest.raises(BadInput):
        rollout(still(), Clock(refuse_at=0.0), steps=3, generator=Generator())
    with pytest.raises(BlowUp, match=r"step 3.*no longer be evaluated: cell"):
        rollout(still(), Clock(refuse_at=4.0), steps=3, generator=Generator())
    with pytest.raises(BadInput, match="steps"):
        rollout(still(), Clock(), steps=-1, generator=Generator())
