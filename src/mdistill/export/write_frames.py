"""Frames written as HDF5 (H5MD), extended XYZ, LAMMPS dump or data, AMBER NetCDF, or XDATCAR."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from io import StringIO
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from mdistill.errors import BadInput
from mdistill.export.frames import Frames
from mdistill.io.amber import NETCDF_SUFFIXES, write_netcdf
from mdistill.io.files import replacing, write_text
from mdistill.io.trajectories import ASE_MOMENTUM, HDF5_SUFFIXES, append_blocks
from mdistill.io.unwrap import unwrap
from mdistill.units import PS

WRITABLE = ".h5, .extxyz, .lammpstrj or .dump, .data or .lmp, .nc, XDATCAR"
_LOST = {
    "hdf5": ("forces",),
    "extxyz": (),
    "lammps-dump": ("energies", "forces", "stresses"),
    "netcdf": ("energies", "forces", "stresses"),
    "lammps-data": ("times", "energies", "forces", "stresses"),
    "xdatcar": ("times", "momenta", "energies", "forces", "stresses"),
}  # fmt: skip


def write_input(path: Path, text: str) -> list[str]:
    """Write an input file; one of this name with other text, perhaps edited, is renamed. Returns a note if so."""
    notes = []
    if path.exists() and path.read_text(encoding="utf-8", errors="replace") != text:
        kept = next(one for k in count(1) if not (one := path.with_name(f"{path.name}.{k}")).exists())
        path.rename(kept)
        notes = [f"{path} was another one, which is now {kept.name}"]
    write_text(path, text)
    return notes


def format_of(path: Path) -> str:
    """The format that a name stands for.

    Raises:
        BadInput: None that can be written.
    """
    suffix = path.suffix.lower()
    for name, suffixes in (
        ("hdf5", HDF5_SUFFIXES), ("netcdf", NETCDF_SUFFIXES), ("extxyz", (".extxyz", ".xyz")),
        ("lammps-dump", (".lammpstrj", ".dump")), ("lammps-data", (".data", ".lmp")), ("xdatcar", (".xdatcar",)),
    ):  # fmt: skip
        if suffix in suffixes:
            return name
    if path.name.upper().startswith("XDATCAR"):
        return "xdatcar"
    raise BadInput(path, "no format is written under this name", allowed=WRITABLE, fix="choose another name")


def write_frames(
    path: str | Path, frames: Frames, *, provenance: Mapping[str, str] | None = None, source: Path | None = None
) -> list[str]:
    """Write all frames, or the last one to a LAMMPS data file; returns notes on what was left out or changed.

    `source` is the file that a message on missing times names.

    Raises:
        BadInput: A name of no known format, HDF5 without times, XDATCAR or LAMMPS without three periodic directions where the
            format needs them, or a left-handed cell where it must be turned.
    """
    path = Path(path)
    kind = format_of(path)
    if kind == "hdf5" and frames.times is None:
        fix = "add the time between frames, for example --frame-time-fs 100"
        raise BadInput(source or path, "the frames have no times", allowed="a time for every frame", fix=fix)
    notes = [f"{kind} holds no {name}: left out" for name in _LOST[kind] if getattr(frames, name) is not None]
    if kind == "lammps-data" and len(frames) > 1:
        notes.append(f"LAMMPS data holds one frame: the last of {len(frames)}")
        frames = frames.part(slice(-1, None))
    if kind in ("lammps-dump", "netcdf"):
        turned = standard_orientation(frames, path)
        if turned is not frames:
            notes.append(
                "cell, positions and momenta are turned: the first lattice vector lies along x, the second in the xy plane"
            )
        frames = turned
    if kind == "hdf5":
        frames, more = _unwrapped(path, frames)
        notes += more
    write: dict[str, Callable[[Path, Frames, Mapping[str, str]], object]] = {
        "hdf5": _hdf5, "extxyz": _extxyz, "lammps-dump": _dump, "lammps-data": _data, "netcdf": _netcdf, "xdatcar": _xdatcar,
    }  # fmt: skip
    with replacing(path) as partial:
        write[kind](partial, frames, provenance or {})
    return notes


def standard_orientation(frames: Frames, path: Path) -> Frames:
    """Frames with lower triangular cells: r → r Qᵀ, p → p Qᵀ for each frame. Cells that are so already are not touched.

    Raises:
        BadInput: A left-handed cell.
    """
    from ase.cell import Cell

    above = np.abs(frames.cells[:, [0, 0, 1], [1, 2, 2]])
    if above.max(initial=0.0) < 1e-8 and (frames.cells[:, range(3), range(3)] >= 0).all():
        return frames
    turns, cells = [], []
    for cell in frames.cells:
        full = Cell(cell).complete()
        if np.linalg.det(full) < 0:
            raise BadInput(path, "a left-handed cell", allowed="right-handed lattice vectors", fix="exchange two lattice vectors")
        standard, turn = full.standard_form()
        cells.append(standard.array * cell.any(axis=1)[:, None])
        turns.append(turn.T)
    turn = np.stack(turns)
    vectors = {name: getattr(frames, name) for name in ("positions", "momenta", "forces")}
    changed = {name: array @ turn for name, array in vectors.items() if array is not None}
    if frames.stresses is not None:
        changed["stresses"] = turn.transpose(0, 2, 1) @ frames.stresses @ turn
    return replace(frames, cells=np.stack(cells), **changed)


def _unwrapped(path: Path, frames: Frames) -> tuple[Frames, list[str]]:
    """HDF5 trajectories hold unwrapped positions; frames too far apart stay as they are, with a note."""
    if len(frames) < 2:
        return frames, []
    try:
        positions, notes = unwrap(frames.positions, frames.cells, frames.numbers, path=path)
    except BadInput as error:
        return frames, [f"positions are not unwrapped: {error.problem}"]
    return replace(frames, positions=positions), notes


def _steps(frames: Frames) -> np.ndarray:
    return np.arange(len(frames)) if frames.steps is None else frames.steps


def _hdf5(path: Path, frames: Frames, provenance: Mapping[str, str]) -> None:
    assert frames.times is not None  # noqa: S101
    blocks = {"position": frames.positions, "cell": frames.cells}
    if frames.momenta is not None:
        blocks["velocity"] = frames.momenta / frames.masses[:, None]
    for name, array in (("potential_energy", frames.energies), ("stress", frames.stresses)):
        if array is not None:
            blocks[name] = array
    header = {"species": frames.numbers, "mass": frames.masses, "pbc": frames.pbc}
    append_blocks(path, header, blocks, _steps(frames), frames.times, provenance=provenance)


def to_images(frames: Frames) -> list[Any]:
    """ASE atoms of all frames, with momenta and a calculator that holds the results."""
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.data import atomic_masses

    images = []
    for k in range(len(frames)):
        atoms = Atoms(frames.numbers, positions=frames.positions[k], cell=frames.cells[k], pbc=frames.pbc)
        if not np.allclose(frames.masses, atomic_masses[frames.numbers], rtol=1e-4):
            atoms.set_masses(frames.masses)
        if frames.momenta is not None:
            atoms.set_momenta(ASE_MOMENTUM * frames.momenta[k])
        if frames.times is not None:
            atoms.info["time_fs"] = float(frames.times[k])
        if frames.steps is not None:
            atoms.info["step"] = int(frames.steps[k])
        results = {"energy": frames.energies, "forces": frames.forces, "stress": frames.stresses}
        held = {name: array[k] for name, array in results.items() if array is not None}
        if "stress" in held:
            held["stress"] = held["stress"].ravel()[[0, 4, 8, 5, 2, 1]]
        if held:
            atoms.calc = SinglePointCalculator(atoms, **held)
        images.append(atoms)
    return images


def _extxyz(path: Path, frames: Frames, provenance: Mapping[str, str]) -> None:
    from ase.io import write

    images = to_images(frames)
    for atoms in images:
        atoms.info |= {key: text for key, text in provenance.items() if text}
    write(path, images, format="extxyz")


def _data(path: Path, frames: Frames, _provenance: Mapping[str, str]) -> None:
    """The last frame; the first line names the units, as LAMMPS's write_data does."""
    from ase.io import write

    text = StringIO()
    write(text, to_images(frames)[-1], format="lammps-data", masses=True, velocities=frames.momenta is not None, units="metal")
    body = text.getvalue().partition("\n")[2]
    Path(path).write_text(f"LAMMPS data file written by mdistill, units = metal\n{body}", encoding="utf-8")


def _xdatcar(path: Path, frames: Frames, _provenance: Mapping[str, str]) -> None:
    from ase.io import write

    if not all(frames.pbc):
        raise BadInput(path, "an open direction", allowed="XDATCAR with three periodic directions", fix="choose .extxyz")
    write(path, to_images(frames), format="vasp-xdatcar")


def _netcdf(path: Path, frames: Frames, _provenance: Mapping[str, str]) -> None:
    velocities = None if frames.momenta is None else frames.momenta / frames.masses[:, None]
    write_netcdf(path, numbers=frames.numbers, positions=frames.positions, cells=frames.cells, times=frames.times,
                 velocities=velocities)  # fmt: skip


def _dump(path: Path, frames: Frames, _provenance: Mapping[str, str]) -> None:
    """LAMMPS text dump in metal units (Å, Å/ps, ps), with elements, masses and positions that are not wrapped."""
    from ase.data import chemical_symbols

    present = sorted(set(frames.numbers.tolist()))
    types = [
        f"{present.index(z) + 1} {chemical_symbols[z]} {mass:.6f}" for z, mass in zip(frames.numbers, frames.masses, strict=True)
    ]
    columns = "id type element mass xu yu zu" + (" vx vy vz" if frames.momenta is not None else "")
    bounds = " ".join("pp" if along else "ff" for along in frames.pbc)
    with open(path, "w", encoding="utf-8", newline="\n") as out:
        out.write("ITEM: UNITS\nmetal\n")
        for k, step in enumerate(_steps(frames)):
            if frames.times is not None:
                out.write(f"ITEM: TIME\n{frames.times[k] / PS:.10g}\n")
            out.write(f"ITEM: TIMESTEP\n{step}\nITEM: NUMBER OF ATOMS\n{len(frames.numbers)}\n")
            out.write(f"ITEM: BOX BOUNDS xy xz yz {bounds}\n{_bounds(frames, k)}ITEM: ATOMS {columns}\n")
            rows = frames.positions[k]
            if frames.momenta is not None:
                rows = np.hstack([rows, PS * frames.momenta[k] / frames.masses[:, None]])
            for number, (kind, row) in enumerate(zip(types, rows, strict=True), 1):
                out.write(f"{number} {kind} " + " ".join(f"{value:.10g}" for value in row) + "\n")


def _bounds(frames: Frames, k: int) -> str:
    """The box of a frame as LAMMPS writes it; open directions reach over the atoms."""
    low, cell = np.zeros(3), frames.cells[k].copy()
    for axis in range(3):
        if not frames.pbc[axis]:
            low[axis], high = frames.positions[k][:, axis].min() - 1.0, frames.positions[k][:, axis].max() + 1.0
            cell[axis, axis] = high - low[axis]
    xy, xz, yz = cell[1, 0], cell[2, 0], cell[2, 1]
    shift_low = [min(0.0, xy, xz, xy + xz), min(0.0, yz), 0.0]
    shift_high = [max(0.0, xy, xz, xy + xz), max(0.0, yz), 0.0]
    tilts = (xy, xz, yz)
    return "".join(f"{low[a] + shift_low[a]:.10g} {low[a] + cell[a, a] + shift_high[a]:.10g} {tilts[a]:.10g}\n" for a in range(3))
