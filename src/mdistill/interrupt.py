"""Signals and time limits: long loops check for a stop request, save, and print the command that resumes them."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mdistill.errors import Interrupted

_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]


@dataclass(slots=True)
class StopRequest:
    """A stop request. Loops call `pending()` between steps and `raise_if_pending()` after saving."""

    deadline: float | None = None
    signal_number: int = 0
    resume: str = "run the same command again: it resumes"

    def pending(self) -> bool:
        return bool(self.signal_number) or (self.deadline is not None and time.monotonic() >= self.deadline)

    def raise_if_pending(self) -> None:
        """Raise `Interrupted` (exit status 130 for Ctrl-C and time limits, 143 for SIGTERM). Call only after saving."""
        if not self.pending():
            return
        number = signal.SIGTERM if self.signal_number == signal.SIGTERM else signal.SIGINT
        cause = signal.Signals(self.signal_number).name if self.signal_number else "time limit reached"
        raise Interrupted(f"stopped ({cause}); everything so far is saved.\n  resume: {self.resume}", signal_number=int(number))


NEVER = StopRequest()
"""A request that is never pending, for calls from Python."""


@contextmanager
def stop_on_signals(
    *, max_hours: float | None = None, resume: str = "run the same command again: it resumes", told: bool = True
) -> Iterator[StopRequest]:
    """Within the block SIGINT, SIGTERM and SIGUSR1 set the request instead of ending the process.

    The first is answered on the terminal if `told`. A second SIGINT raises KeyboardInterrupt at once, a second SIGTERM ends the
    process. Outside the main thread signals are not caught.
    """
    request = StopRequest(deadline=None if max_hours is None else time.monotonic() + 3600.0 * max_hours, resume=resume)

    def note(number: int, _frame: object) -> None:
        if request.signal_number and number == signal.SIGINT:
            raise KeyboardInterrupt
        if request.signal_number and number == signal.SIGTERM:
            raise SystemExit(128 + number)
        request.signal_number = number
        if told:
            os.write(2, b"\nmdistill: stops and saves after this step; the same signal again ends it at once\n")

    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    previous = {number: signal.signal(number, note) for number in _SIGNALS}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
