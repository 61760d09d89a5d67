"""Signals and time limits become a request that loops honour after saving."""

from __future__ import annotations

import os
import signal

import pytest

from mdistill.errors import Interrupted
from mdistill.interrupt import NEVER, stop_on_signals


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 130)])
def test_a_signal_sets_the_request_and_the_exit_status(trust, number, status):
    before = signal.getsignal(number)
    with stop_on_signals(resume="mdistill again") as stop:
        assert not stop.pending()
        os.kill(os.getpid(), number)
        assert stop.pending()
        with pytest.raises(Interrupted, match="mdistill again") as raised:
            stop.raise_if_pending()
    assert raised.value.exit_status == status
    assert signal.getsignal(number) == before
    trust("T35", f"exit status after {signal.Signals(number).name}", raised.value.exit_status, str(status))


def test_time_limit():
    with stop_on_signals(max_hours=0.0) as stop, pytest.raises(Interrupted, match="time limit"):
        stop.raise_if_pending()


def test_second_interrupt_ends_at_once():
    with stop_on_signals():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_second_termination_ends_the_process():
    with stop_on_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(SystemExit, match="143"):
            os.kill(os.getpid(), signal.SIGTERM)


def test_never_is_never_pending():
    NEVER.raise_if_pending()
    assert not NEVER.pending()
