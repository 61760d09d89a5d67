"""Short NVE trajectories on disk: the training data of long-stride maps.

A segment holds evenly spaced phase-space points of one structure, from states of a thermostatted run; any two of its
frames a stride apart are a pair (q, p) → (q', p'), at every stride that is a multiple of the spacing.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mdistill.errors import BadInput
from mdistill.graph import make_system
from mdistill.io.arrays import DAMAGED, read_arrays
from mdistill.io.files import write_bytes
from mdistill.types import System, Trajectory

FORMAT = 1
_AGAIN = "make the segments again, or restore the file"


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A stretch of NVE dynamics.

    Attributes:
        system: Its structure at the first frame (one struct).
        masses: [atom] u.
        positions: [frame, atom, 3] Å, unwrapped.
        momenta: [frame, atom, 3] u·Å/fs.
        every_fs: Time between two frames, fs.
        temperature_K: Of the thermostatted run it was started from.
        block: Contiguous part of that run; held-out sets are whole blocks.
    """

    system: System
    masses: Float[Tensor, " atom"]
    positions: Float[Tensor, "frame atom 3"]
    momenta: Float[Tensor, "frame atom 3"]
    every_fs: float
    temperature_K: float
    block: int = 0

    @property
    def frames(self) -> int:
        return int(self.positions.shape[0])


def frames_apart(segment: Segment, stride_fs: float) -> int:
    """Number of frames in a stride.

    Raises:
        BadInput: The stride is no multiple of the spacing, or longer than the segment.
    """
    every = round(stride_fs / segment.every_fs)
    longest = (segment.frames - 1) * segment.every_fs
    if every < 1 or abs(every * segment.every_fs - stride_fs) > 1e-6 * stride_fs or stride_fs > longest * (1.0 + 1e-9):
        allowed = f"multiples of {segment.every_fs:g} fs up to {longest:g} fs"
        raise BadInput("stride", f"{stride_fs:g} fs", allowed=allowed, fix="choose one of these, or make other segments")
    return every


def cut(
    trajectory: Trajectory, system: System, masses: Float[Tensor, " atom"], *, frames: int, temperature_K: float
) -> list[Segment]:
    """A trajectory with momenta from elsewhere, cut into segments of `frames` frames; each is a block.

    Args:
        trajectory: NVE dynamics; unwrapped, evenly spaced, in one cell.
        system: A struct of the same atoms; sets the periodic directions.
        masses: [atom] u.
        frames: Of a segment, at least 2.
        temperature_K: Of the run.
    Raises:
        BadInput: No momenta, frames unevenly spaced, or a cell that changes.
    """
    times, momenta = trajectory.times, trajectory.momenta
    gaps = times[1:] - times[:-1]
    problem = (
        "no momenta" if momenta is None
        else f"{len(times)} frames, segments of {frames} frames requested" if len(times) < frames or frames < 2
        else "frames unevenly spaced" if float((gaps - gaps[0]).abs().max()) > 1e-6 * float(gaps[0])
        else "a cell that changes" if not torch.equal(trajectory.cell, trajectory.cell[:1].expand_as(trajectory.cell))
        else ""
    )  # fmt: skip
    if problem or momenta is None:
        raise BadInput("trajectory", problem, allowed="evenly spaced NVE frames with momenta", fix="save momenta, run in NVE")
    segments = []
    for block, first in enumerate(range(0, len(times) - frames + 1, frames)):
        part = slice(first, first + frames)
        start = replace(system, positions=trajectory.positions[first], cell=trajectory.cell[first : first + 1])
        segments.append(
            Segment(system=start, masses=masses, positions=trajectory.positions[part], momenta=momenta[part],
                    every_fs=float(gaps[0]), temperature_K=temperature_K, block=block)
        )  # fmt: skip
    return segments


def write_segments(path: Path, segments: Sequence[Segment]) -> None:
    """Write segments of one kind of structure and equal length (npz with its sha256, no pickle), all or nothing."""
    first = segments[0]
    arrays = {
        "numbers": first.system.numbers.numpy(), "masses": first.masses.numpy(), "pbc": first.system.pbc[0].numpy(),
        "spacing_fs": np.array(first.every_fs), "cell": np.stack([s.system.cell[0].numpy() for s in segments]),
        "positions": np.stack([s.positions.numpy() for s in segments]),
        "momenta": np.stack([s.momenta.numpy() for s in segments]),
        "temperature_K": np.array([s.temperature_K for s in segments]), "block": np.array([s.block for s in segments]),
        "format": np.array(FORMAT),
    }  # fmt: skip
    buffer = io.BytesIO()
    np.savez(buffer, sha256=np.array(_digest(arrays)), **arrays)  # type: ignore[arg-type]
    write_bytes(path, buffer.getvalue())


def read_segments(path: Path) -> list[Segment]:
    """Read what `write_segments` wrote.

    Raises:
        BadInput: Absent, damaged, or of another format.
    """
    try:
        held = read_arrays(path)
        if str(held.pop("sha256")) != _digest(held):
            raise ValueError("its sha256 differs from the one stored")
        if int(held["format"]) != FORMAT:
            raise ValueError(f"its format is {int(held['format'])}")
        positions, momenta = torch.from_numpy(held["positions"]), torch.from_numpy(held["momenta"])
        masses = torch.from_numpy(held["masses"])
        return [
            Segment(
                system=make_system(held["positions"][k, 0], held["numbers"], held["cell"][k], held["pbc"].tolist()),
                masses=masses,
                positions=positions[k], momenta=momenta[k], every_fs=float(held["spacing_fs"]),
                temperature_K=float(held["temperature_K"][k]), block=int(held["block"][k]),
            )
            for k in range(len(positions))
        ]  # fmt: skip
    except DAMAGED as error:
        raise BadInput(path, f"no usable segments ({error})", allowed="a file of NVE segments", fix=_AGAIN) from error


def _digest(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype.str} {arrays[name].shape}\n".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()
