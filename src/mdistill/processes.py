"""Worker processes and how they end with their parent; a time limit for calls of foreign code; the processor."""

from __future__ import annotations

import ctypes
import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

_CLOCK_S = 1.1
"""Uncertainty of a process's start time (s): the system counts from a boot time in whole seconds."""
_JOIN_S = 0.2
"""Time (s) for a process that has ended to tell its exit status."""
_GRACE_S = 30.0
"""Time after a limit (s) for the block to end."""


def worker_context() -> Any:
    """The way to start a worker: a fork on Linux without a GPU, else a new interpreter."""
    import torch

    forks = sys.platform == "linux" and not torch.cuda.is_available()
    return multiprocessing.get_context("fork" if forks else "spawn")


def begin_worker() -> None:
    """Prepare this process as a worker: one thread, a process group of its own, no share in the terminal's signals."""
    import torch

    os.setsid()
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in ("SIGTERM", "SIGUSR1"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


def end_worker(process: Any, pipe: Connection) -> int | None:
    """Kill a worker and its children, and close the pipe to it; returns the exit status, also of one that had ended."""
    process.join(0.0 if process.is_alive() else _JOIN_S)
    status: int | None = process.exitcode
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()
    pipe.close()
    return process.exitcode if status is None else status


def usable_cores() -> int:
    """Number of cores that this process may use: its affinity, at most the number of threads that it was given."""
    import torch

    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(affinity, torch.get_num_threads()))


def processor_lines() -> list[str]:
    """The lines of /proc/cpuinfo; empty where there is none."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def end_with_parent(parent: int) -> None:
    """Have the system ask this process to save and end when its parent, of this number, dies (Linux)."""
    die_with_parent(signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(128 + signal.SIGTERM)


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """Have the system send this signal to this process when its parent dies (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, number)


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise `TimeoutError` in the block after this time (s) and kill the child processes that began in it.

    The alarm interrupts waiting and Python code in the main thread. Native code cannot be interrupted: where the block still
    runs `_GRACE_S` later, the process says on standard error where it hangs, and ends with status 1 (other threads: it only says
    so). Within a limit that ends sooner, that one holds.
    """
    main = threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer")
    outer, began, clock = signal.getitimer(signal.ITIMER_REAL)[0] if main else 0.0, time.time(), time.monotonic()
    if 0.0 < outer <= seconds:
        yield
        return

    def ring(*_: object) -> None:
        import psutil

        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                if child.create_time() >= began - _CLOCK_S:
                    child.kill()
        raise TimeoutError(f"no answer within {seconds:g} s")

    with suppress(AttributeError, OSError, OverflowError, RuntimeError, ValueError):  # no standard error, or far too long a time
        faulthandler.dump_traceback_later(seconds + _GRACE_S, exit=main, file=sys.__stderr__)  # type: ignore[arg-type]
    before = signal.signal(signal.SIGALRM, ring) if main else None
    try:
        if main:
            signal.setitimer(signal.ITIMER_REAL, seconds)
        yield
    finally:
        if main:
            signal.setitimer(signal.ITIMER_REAL, max(outer - (time.monotonic() - clock), 1e-3) if outer else 0.0)
            signal.signal(signal.SIGALRM, before)
        faulthandler.cancel_dump_traceback_later()
