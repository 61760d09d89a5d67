"""NVE segments as batches of training strides."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from mdistill.data.segments import Segment, frames_apart
from mdistill.graph import concatenate
from mdistill.types import System


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A phase-space point and its NVE trajectory, stride by stride.

    Attributes:
        system: One struct at the start.
        momenta: [atom, 3] u·Å/fs.
        masses: [atom] u.
        positions_after, momenta_after: [stride, atom, 3] after one stride, two, …
        stride_fs: Stride, fs.
        temperature_K: Temperature of its run, K.
    """

    system: System
    momenta: Float[Tensor, "atom 3"]
    masses: Float[Tensor, " atom"]
    positions_after: Float[Tensor, "stride atom 3"]
    momenta_after: Float[Tensor, "stride atom 3"]
    stride_fs: float
    temperature_K: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Windows of one stride joined over atoms; thermal: [atom] k_B T of each atom's run, K."""

    system: System
    momenta: Float[Tensor, "atom 3"]
    masses: Float[Tensor, " atom"]
    positions_after: Float[Tensor, "stride atom 3"]
    momenta_after: Float[Tensor, "stride atom 3"]
    stride_fs: float
    temperature_K: Float[Tensor, " atom"]


def windows_of(segments: Sequence[Segment], stride_fs: float, *, strides: int = 1, every_fs: float = 0.0) -> list[Window]:
    """All windows of `strides` strides that the segments hold, starts `every_fs` apart (0: a stride apart).

    Raises:
        BadInput: The stride is no multiple of the spacing, or a segment is too short.
    """
    windows = []
    for segment in segments:
        length = frames_apart(segment, stride_fs)
        frames_apart(segment, strides * stride_fs)
        step = frames_apart(segment, every_fs) if every_fs else length
        for first in range(0, segment.frames - strides * length, step):
            after = slice(first + length, first + strides * length + 1, length)
            windows.append(
                Window(
                    system=replace(segment.system, positions=segment.positions[first]), momenta=segment.momenta[first],
                    masses=segment.masses, positions_after=segment.positions[after], momenta_after=segment.momenta[after],
                    stride_fs=stride_fs, temperature_K=segment.temperature_K,
                )
            )  # fmt: skip
    return windows


def reversed_in_time(window: Window) -> Window:
    """The time-reversed window, (q', −p') → (q, −p), also a trajectory."""
    positions = torch.cat([window.system.positions.unsqueeze(0), window.positions_after]).flip(0)
    momenta = -torch.cat([window.momenta.unsqueeze(0), window.momenta_after]).flip(0)
    return replace(
        window, system=replace(window.system, positions=positions[0]), momenta=momenta[0], positions_after=positions[1:],
        momenta_after=momenta[1:],
    )  # fmt: skip


def join_windows(windows: Sequence[Window]) -> Batch:
    """Windows of one stride and one number of strides as a batch."""
    return Batch(
        system=concatenate([w.system for w in windows]), momenta=torch.cat([w.momenta for w in windows]),
        masses=torch.cat([w.masses for w in windows]), positions_after=torch.cat([w.positions_after for w in windows], 1),
        momenta_after=torch.cat([w.momenta_after for w in windows], 1), stride_fs=windows[0].stride_fs,
        temperature_K=torch.cat([torch.full_like(w.masses, w.temperature_K) for w in windows]),
    )  # fmt: skip


def windows_hash(windows: Sequence[Window]) -> str:
    """sha256 of the content of windows."""
    digest = hashlib.sha256()
    for w in windows:
        for tensor in (w.system.positions, w.momenta, w.positions_after, w.momenta_after, w.masses, w.system.numbers):
            digest.update(tensor.contiguous().numpy().tobytes())
        digest.update(f"{w.stride_fs} {w.temperature_K}".encode())
    return digest.hexdigest()
