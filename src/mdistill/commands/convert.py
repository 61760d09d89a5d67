"""mdistill convert: trajectories and structures between formats."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from mdistill.errors import BadInput
from mdistill.flags.arguments import parse


@dataclass(frozen=True, kw_only=True)
class ConvertArguments:
    """Files."""

    source: Annotated[Path, tyro.conf.Positional]
    """Trajectory or structure: HDF5 (H5MD), extended XYZ, LAMMPS dump or data, AMBER NetCDF, XDATCAR, or what else ASE reads."""
    target: Annotated[Path, tyro.conf.Positional]
    """File to write; its name tells the format: .h5, .extxyz, .lammpstrj, .data, .nc, XDATCAR."""
    frame_time_fs: float | None = None
    """Time between frames, fs, where the file has none."""
    every: int = 1
    """Interval between frames that are written, in frames."""
    elements: tuple[str, ...] = ()
    """Elements of LAMMPS types 1, 2, …, where the file names none."""
    topology: Path | None = None
    """Structure file with the same atoms, for AMBER NetCDF."""


HELP = """\
Convert a trajectory. Positions, cell, times, momenta, energy and stress are kept where the format holds them; a note tells what
is left out. HDF5 follows H5MD 1.1 with units; LAMMPS files are in metal units.

examples:
  mdistill convert runs/md/trajectory.h5 md.extxyz
  mdistill convert runs/md/trajectory.h5 md.lammpstrj --every 10
  mdistill convert XDATCAR aimd.h5 --frame-time-fs 2
  mdistill convert run.nc run.h5 --topology start.extxyz
"""


def main(arguments: list[str]) -> int:
    """Convert; prints what was written and left out."""
    given = parse(ConvertArguments, arguments, program="mdistill convert", description=HELP,
                  groups={"input": ("frame_time_fs", "elements", "topology"), "output": ("every",)})  # fmt: skip
    from mdistill.export.frames import read_frames, timed
    from mdistill.export.write_frames import format_of, write_frames
    from mdistill.io.structures import read_system

    format_of(given.target)
    if given.every < 1:
        raise BadInput("--every", f"{given.every}", allowed="at least 1", fix="leave it out for all frames")
    if given.target.exists() and given.source.exists() and given.target.samefile(given.source):
        raise BadInput(given.target, "is the file that is read", allowed="another file", fix="choose another name")
    numbers = None if given.topology is None else read_system(given.topology).numbers.numpy()
    frames = read_frames(given.source, elements=given.elements, numbers=numbers)
    frames, notes = timed(frames, given.frame_time_fs, given.source)
    notes += write_frames(given.target, frames.part(slice(None, None, given.every)), source=given.source)
    for note in notes:
        print(f"note: {note}")
    written = -(-len(frames) // given.every) if format_of(given.target) != "lammps-data" else 1
    print(f"{written} frames of {len(frames.numbers)} atoms: {given.target}")
    return 0
