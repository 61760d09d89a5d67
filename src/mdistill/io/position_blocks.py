"""Positions of a trajectory that `TrajectoryWriter` wrote, block by block, so that a long run is never in memory as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mdistill.errors import BadInput
from mdistill.io.hdf5 import opened
from mdistill.io.trajectories import HDF5_SUFFIXES

_FRAMES = 1024
Block = tuple[Float[Tensor, " frame"], Float[Tensor, "frame atom 3"]]
"""Times, fs, and positions, Å."""


def position_blocks(path: Path, *, frames: int = _FRAMES) -> Iterator[Block]:
    """Times and positions of our own HDF5 or extended XYZ, as stored, in blocks of at most `frames` frames.

    Raises:
        BadInput: No such file, damaged, or without times.
    """
    return _hdf5_blocks(path, frames) if path.suffix.lower() in HDF5_SUFFIXES else _extxyz_blocks(path, frames)


def _hdf5_blocks(path: Path, frames: int) -> Iterator[Block]:
    with opened(path) as file:
        held = file["particles/all/position"]
        for begin in range(0, len(held["time"]), frames):
            part = slice(begin, begin + frames)
            yield torch.from_numpy(held["time"][part]), torch.from_numpy(held["value"][part])


def _extxyz_blocks(path: Path, frames: int) -> Iterator[Block]:
    from ase.io import iread

    try:
        stored = iread(path, index=":", format="extxyz", do_not_split_by_at_sign=True)
        while block := list(islice(stored, frames)):
            times = np.array([atoms.info["time_fs"] for atoms in block], dtype=np.float64)
            yield torch.from_numpy(times), torch.from_numpy(np.stack([atoms.positions for atoms in block]))
    except Exception as error:
        problem = f"cannot be read ({type(error).__name__}: {str(error)[:120]})"
        raise BadInput(path, problem, allowed="extended XYZ with times, as mdistill writes", fix="run again") from error
