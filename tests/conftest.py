"""Shared fixtures: no network, one thread, and the record from which docs/trust.md is written."""

from __future__ import annotations

import json
import os
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MDISTILL_QUIET", "1")
os.environ.setdefault("MPIR_CVAR_CH4_PROGRESS_THROTTLE", "1")  # MPI ranks that wait for others leave the processor to them
os.environ.setdefault("MPIR_CVAR_CH4_PROGRESS_THROTTLE_NO_PROGRESS_COUNT", "16")
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", str(Path(tempfile.gettempdir()) / f"mdistill-hypothesis-{os.getuid()}"))


@pytest.fixture(autouse=True)
def _no_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """T46: any attempt to reach the network in a test is an error. One marked `loopback` may reach this machine."""
    connect, loopback = socket.socket.connect, request.node.get_closest_marker("loopback") is not None

    def refuse(self: socket.socket, address: object) -> None:
        local = loopback and isinstance(address, tuple) and address[0] in ("127.0.0.1", "::1", "localhost")
        if not local and self.family != socket.AF_UNIX:
            raise AssertionError(f"a test tried to reach the network: {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def no_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures of reports stay empty: for tests of something else, as drawing takes most of a tiny run."""
    from drawing import draw_nothing

    draw_nothing(monkeypatch)


@pytest.fixture
def no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Students run in plain PyTorch: for short dynamics, where kernels of a size would be compiled for one test alone."""
    from mdistill.kernels.build import compiler

    compiler()  # is found once a process
    monkeypatch.setenv("MDISTILL_COMPILED", "0")


@pytest.fixture
def trust(request: pytest.FixtureRequest) -> Callable[..., None]:
    """trust("T13", "ratio of energy fluctuation at h and h/2", measured, "4 ± 10 %"): a row of docs/trust.md.

    Call it after the assertions, with what was measured. planted=True marks the row of a planted bug that was caught.
    Rows go to the file that MDISTILL_MEASURED names; without it they are dropped. Several processes may write at once.
    """
    path = os.environ.get("MDISTILL_MEASURED")

    def record(test: str, quantity: str, measured: float | int | str, required: str, *, planted: bool = False) -> None:
        row = {
            "test": test,
            "quantity": quantity,
            "measured": measured if isinstance(measured, (int, str)) else float(measured),
            "required": required,
            "planted": planted,
            "node": request.node.nodeid,
        }
        if path:
            with open(path, "ab", buffering=0) as handle:
                handle.write((json.dumps(row) + "\n").encode())

    return record
