"""Worker processes: how they are started, and that they end with their parent."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
from typing import Any


def worker_context() -> Any:
    """The way to start a worker: a fork on Linux without a GPU, else a new interpreter."""
    import torch

    forks = sys.platform == "linux" and not torch.cuda.is_available()
    return multiprocessing.get_context("fork" if forks else "spawn")


def begin_worker() -> None:
    """Prepare this process as a worker: one thread, a process group of its own, no share in the terminal's signals."""
    import torch

    os.setsid()
    _die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in ("SIGTERM", "SIGUSR1"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


def usable_cores() -> int:
    """Number of cores that this process may use: its affinity, at most the number of threads that it was given."""
    import torch

    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(affinity, torch.get_num_threads()))


def _die_with_parent() -> None:
    """Have the system kill this process when its parent dies (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
