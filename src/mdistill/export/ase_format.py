"""HDF5 trajectories in ASE: `ase.io.read("trajectory.h5", ":")`, declared as an entry point of the group `ase.ioformats`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ase.utils.plugins import ExternalIOFormat

from mdistill.export.frames import read_frames
from mdistill.export.write_frames import to_images

mdistill_format = ExternalIOFormat(
    desc="H5MD trajectory of mdistill", code="+S", module="mdistill.export.ase_format", ext=["h5", "h5md", "hdf5"]
)


def read_mdistill_h5md(filename: str | Path, index: int | slice = -1) -> Iterator[Any]:
    """Atoms of an HDF5 trajectory with momenta, energy and stress; `info` holds step and time_fs."""
    frames = read_frames(Path(filename))
    chosen = index if isinstance(index, slice) else slice(index, index + 1 or None)
    yield from to_images(frames.part(chosen))
