"""Trajectories on disk: HDF5 with H5MD names, or extended XYZ; positions unwrapped, each frame with its step number.

Frames are collected in memory and written in blocks. A block is added to a copy of the file which then takes the file's
place, so that at any moment, crash, SIGKILL or full disk, the file holds whole frames and can be read.

HDF5 layout (H5MD 1.1): particles/all/{position, velocity}/{value, step, time}, particles/all/box/edges (rows are lattice
vectors), particles/all/{species, mass}, observables/{potential_energy, kinetic_energy, stress, dt}; units Å, fs, eV, u as
attributes, dt (time between frames, where MDAnalysis looks for it) in ps; every chunk has HDF5's own checksum (Fletcher 32).
Reference:
de Buyl, Colberg, Höfling, Comput. Phys. Commun. 185, 1546 (2014), doi 10.1016/j.cpc.2014.01.018.
"""

from __future__ import annotations

import io
import math
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mdistill.crystals.checks import whole_numbers
from mdistill.errors import BadInput
from mdistill.io.files import replacing
from mdistill.io.hdf5 import damaged, dataset, opened, written
from mdistill.types import State, Trajectory
from mdistill.units import KINETIC, PS

HDF5_SUFFIXES = (".h5", ".hdf5", ".h5md")
_PARTICLES = "particles/all"
_HEAVIEST = 1e12
_SERIES = {
    "position": (f"{_PARTICLES}/position", "Angstrom"), "velocity": (f"{_PARTICLES}/velocity", "Angstrom fs-1"),
    "cell": (f"{_PARTICLES}/box/edges", "Angstrom"), "potential_energy": ("observables/potential_energy", "eV"),
    "kinetic_energy": ("observables/kinetic_energy", "eV"), "stress": ("observables/stress", "eV Angstrom-3"),
    "dt": ("observables/dt", "ps"),
}  # fmt: skip
ASE_MOMENTUM = math.sqrt(KINETIC)
_UNITS = {
    "Angstrom": 1.0, "angstrom": 1.0, "A": 1.0, "nm": 10.0, "pm": 0.01, "fs": 1.0, "ps": 1e3, "ns": 1e6, "u": 1.0, "amu": 1.0,
    "eV": 1.0,
}  # fmt: skip
_STEP = re.compile(r"(?:^|\s)step=(-?\d+)")


@dataclass(slots=True)
class TrajectoryWriter:
    """Collects frames of one structure and appends them to a file, block by block.

    Attributes:
        path: `.h5`, `.hdf5` or `.h5md` for HDF5; any other ending for extended XYZ.
        provenance: Written into the file, such as model and model_sha256.
        size: Bytes of the file after the last write, which the next one must find; None before.
    """

    path: Path
    provenance: Mapping[str, str] = field(default_factory=dict)
    size: int | None = None
    _frames: list[tuple[int, State]] = field(default_factory=list)

    def add(self, step: int, state: State) -> None:
        """Collect a frame for the next `flush`. The state has one struct and its prediction."""
        if state.system.n_structs != 1 or state.prediction is None:
            raise ValueError("a trajectory holds states of one struct with their prediction")
        self._frames.append((step, state))

    def flush(self) -> None:
        """Append the collected frames, all or none.

        Raises:
            MdistillError: The file cannot be written; it keeps its old frames and the collected ones stay collected.
        """
        if not self._frames:
            return
        write = _append_hdf5 if self.path.suffix in HDF5_SUFFIXES else _append_extxyz
        with appending(self.path, size=self.size) as partial:
            write(partial, self._frames, self.provenance)
        self.size = self.path.stat().st_size
        self._frames.clear()


@contextmanager
def appending(path: Path, *, size: int | None = None) -> Iterator[Path]:
    """Yield a copy of the file to append to (an empty path if there is none). On success it replaces the file.

    Args:
        path: The file.
        size: Bytes that it must have; None: any.
    Raises:
        BadInput: It has another size: it was removed or changed from outside.
    """
    now = path.stat().st_size if path.exists() else None
    if size is not None and now != size:
        problem = "was removed while it was written" if now is None else f"has {now} bytes: it was changed while it was written"
        fix = "restore it and run the same command again, or start again with another --out"
        raise BadInput(path, problem, allowed=f"the {size} bytes written so far", fix=fix)
    with replacing(path) as partial:
        if path.exists():
            shutil.copyfile(path, partial)
        yield partial


def truncate_after(path: Path, step: int) -> int:
    """Remove frames with a step number above `step`. Returns the number of frames left (0 for no file)."""
    if not path.exists():
        return 0
    if path.suffix in HDF5_SUFFIXES:
        steps = read_series(path, "step")
        keep = int((steps <= step).sum())
        if keep < len(steps):
            with appending(path) as partial, written(partial) as file:
                for name, _ in _SERIES.values():
                    if name in file:
                        file[f"{name}/value"].resize(keep, axis=0)
                for name in ("step", "time"):
                    file[f"{_PARTICLES}/position/{name}"].resize(keep, axis=0)
        return keep
    return _truncate_extxyz(path, step)


def read_hdf5(path: Path) -> Trajectory:
    """Read a trajectory that `TrajectoryWriter` or another H5MD writer wrote.

    Returns:
        Unwrapped positions (Å), cells (Å), times (fs), momenta (u·Å/fs) where velocities and masses are stored.
    Raises:
        BadInput: Not such a file, damaged, non-finite, of inconsistent lengths, or in units that are not known.
    """
    held = read_hdf5_arrays(path)
    return Trajectory(
        numbers=torch.from_numpy(held["numbers"]), positions=_tensor(held["positions"]), cell=_tensor(held["cells"]),
        times=_tensor(held["times"]), momenta=None if held["momenta"] is None else _tensor(held["momenta"]),
    )  # fmt: skip


def read_hdf5_arrays(path: Path) -> dict[str, Any]:
    """The arrays of `export.frames.Frames` in an HDF5 trajectory; units and errors as `read_hdf5`."""
    with opened(path) as file:
        held: dict[str, Any] = {name: _scaled(file, place, path) for name, place in _READ.items() if place in file}
        for name in ("species", "positions", "times", "cells"):
            if name not in held:
                raise damaged(path, f"it has no {_READ[name]}")
        pbc = _periodic(file, path)
    frames, atoms = (*held["positions"].shape, 0, 0)[:2]
    shapes: dict[str, tuple[int, ...]] = {
        "positions": (frames, atoms, 3), "times": (frames,), "steps": (frames,), "species": (atoms,), "cells": (frames, 3, 3),
        "velocities": (frames, atoms, 3), "masses": (atoms,), "energies": (frames,), "stresses": (frames, 3, 3),
    }  # fmt: skip
    for name, array in held.items():
        if array.shape != shapes[name] or array.dtype.kind not in "iuf" or not np.isfinite(array).all():
            raise damaged(path, f"{name} is {array.dtype}{list(array.shape)} or not finite (expected {list(shapes[name])})")
    numbers, masses, velocities = whole_numbers(held.pop("species"), path), held.pop("masses", None), held.pop("velocities", None)
    if masses is not None:
        check_masses(masses, path)
    momenta = None if velocities is None or masses is None else velocities * masses[:, None]
    if masses is None:
        from ase.data import atomic_masses

        masses = np.asarray(atomic_masses)[numbers]
    return held | {"numbers": numbers, "masses": masses, "momenta": momenta, "pbc": pbc}


def _periodic(file: Any, path: Path) -> tuple[bool, bool, bool]:
    """Which lattice vectors are periodic: all, where the file does not say."""
    boundary = np.ravel(file[f"{_PARTICLES}/box"].attrs.get("boundary", ["periodic"] * 3))
    words = [str(one.decode(errors="replace") if isinstance(one, bytes) else one) for one in boundary]
    if len(words) != 3 or not set(words) <= {"periodic", "none"}:
        raise damaged(path, f"the boundary of its box is {words} (expected three words, periodic or none)")
    first, second, third = (word == "periodic" for word in words)
    return first, second, third


_READ = {
    "species": f"{_PARTICLES}/species", "positions": f"{_PARTICLES}/position/value", "times": f"{_PARTICLES}/position/time",
    "steps": f"{_PARTICLES}/position/step", "cells": f"{_PARTICLES}/box/edges/value", "masses": f"{_PARTICLES}/mass",
    "velocities": f"{_PARTICLES}/velocity/value", "energies": "observables/potential_energy/value",
    "stresses": "observables/stress/value",
}  # fmt: skip
"""Places of the arrays in a file."""


def _scaled(file: Any, place: str, path: Path) -> np.ndarray:
    """A dataset in Å, fs, eV and u, by its unit; without one it is taken as such."""
    values, unit = dataset(file, place, path), file[place].attrs.get("unit", "")
    factor = 1.0
    for word in (unit.decode() if isinstance(unit, bytes) else str(unit)).split():
        parts = re.fullmatch(r"([A-Za-z]+)([-+]?\d*)", word)
        name, power = parts.groups() if parts else ("", "")
        if name not in _UNITS:
            raise damaged(path, f"{place} has the unit {unit!r}, which is not known")
        factor *= _UNITS[name] ** int(power or 1)
    return values if factor == 1.0 else values * factor


def _finite_masses(state: State) -> np.ndarray:
    """Masses (u) as files hold them: held atoms, whose mass is infinite and velocity zero, get the standard one."""
    from ase.data import atomic_masses

    masses = state.masses.cpu().numpy()
    return np.where(np.isinf(masses), np.asarray(atomic_masses)[state.system.numbers.cpu().numpy()], masses)


def check_masses(masses: np.ndarray, path: Path) -> None:
    """Reject masses that are not positive: their momenta would vanish.

    Raises:
        BadInput: A mass of zero, below zero, or not finite.
    """
    bad = np.flatnonzero(~((masses > 0) & (masses <= _HEAVIEST)))
    if len(bad):
        problem = f"atom {bad[0] + 1} has a mass of {masses[bad[0]]:g} u ({len(bad)} such atoms)"
        allowed = f"masses above 0 u, at most {_HEAVIEST:g} u"
        raise BadInput(path, problem, allowed=allowed, fix="write the masses again, or leave them out of the file")


def read_series(path: Path, name: str) -> Tensor:
    """One number (or matrix) per frame of an HDF5 trajectory.

    Args:
        path: The file.
        name: "step", "time" (fs), "potential_energy", "kinetic_energy" (eV), "stress" (eV/Å³, tension positive).
    Raises:
        BadInput: Not such a file, or nothing of this name in it.
    """
    where = f"{_PARTICLES}/position/{name}" if name in ("step", "time") else f"{_SERIES.get(name, (name,))[0]}/value"
    with opened(path) as file:
        values = dataset(file, where, path)
    return torch.from_numpy(values) if values.dtype.kind in "iu" else _tensor(values)


def _append_hdf5(partial: Path, frames: list[tuple[int, State]], provenance: Mapping[str, str]) -> None:
    first = frames[0][1]
    header = {
        "species": first.system.numbers.cpu().numpy(),
        "mass": _finite_masses(first),
        "pbc": first.system.pbc[0].tolist(),
    }
    times = np.array([state.time for _, state in frames])
    append_blocks(partial, header, _blocks(frames), np.array([step for step, _ in frames]), times, provenance=provenance)


def append_blocks(
    partial: Path, header: Mapping[str, Any], blocks: Mapping[str, np.ndarray], steps: np.ndarray, times: np.ndarray, *,
    provenance: Mapping[str, str],
) -> None:  # fmt: skip
    """Append frames to an HDF5 file, which is made if absent.

    Args:
        partial: The file.
        header: species, mass (u) and pbc of a new file.
        blocks: [frame, …] of "position", "velocity", "cell", "potential_energy", "kinetic_energy", "stress" (the same names in
            every call), in Å, Å/fs, eV, eV/Å³.
        steps, times: Step numbers; fs.
        provenance: Written into a new file.
    """
    with written(partial) as file:
        if "h5md" not in file:
            _create(file, header, {**blocks, "dt": np.zeros(0)}, provenance)
        for name, block in blocks.items():
            _extend(file[f"{_SERIES[name][0]}/value"], block)
        _extend(file[f"{_PARTICLES}/position/step"], steps)
        held = file[f"{_PARTICLES}/position/time"]
        _extend(held, times)
        if _SERIES["dt"][0] in file:
            between = file[f"{_SERIES['dt'][0]}/value"]
            known, spacing = len(between), float(held[1] - held[0]) / PS if len(held) > 1 else 0.0
            between.resize(len(held), axis=0)
            between[0 if known < 2 else known :] = spacing


def _blocks(frames: list[tuple[int, State]]) -> dict[str, np.ndarray]:
    """[frame, ...] of every series."""
    states = [state for _, state in frames]
    rows: dict[str, list[Tensor | None]] = {
        "position": [s.system.positions for s in states],
        "velocity": [s.momenta / s.masses.unsqueeze(1) for s in states],
        "cell": [s.system.cell[0] for s in states],
        "potential_energy": [s.prediction.energy[0] if s.prediction else None for s in states],
        "kinetic_energy": [_kinetic_energy(s) for s in states],
        "stress": [s.prediction.stress[0] if s.prediction and s.prediction.stress is not None else None for s in states],
    }
    known = {name: [value for value in values if value is not None] for name, values in rows.items()}
    return {name: torch.stack(values).cpu().numpy() for name, values in known.items() if values}


def _kinetic_energy(state: State) -> Tensor:
    momenta = state.momenta if state.middle_momenta is None else state.middle_momenta
    return 0.5 * KINETIC * (momenta.square().sum(1) / state.masses).sum()


def _create(file: Any, header: Mapping[str, Any], blocks: Mapping[str, np.ndarray], provenance: Mapping[str, str]) -> None:
    """An empty trajectory with the series of these blocks."""
    root = file.create_group("h5md")
    root.attrs["version"] = np.array([1, 1])
    root.create_group("creator").attrs.update({"name": "mdistill", "version": _version()})
    root.create_group("author").attrs["name"] = "mdistill"
    root.create_group("modules/units").attrs["version"] = np.array([1, 0])
    file.create_group("provenance").attrs.update(dict(provenance))
    box = file.create_group(f"{_PARTICLES}/box")
    box.attrs["dimension"] = 3
    box.attrs["boundary"] = ["periodic" if p else "none" for p in header["pbc"]]
    for name in ("species", "mass"):
        file.create_dataset(f"{_PARTICLES}/{name}", data=header[name], chunks=header[name].shape, fletcher32=True)
    file[f"{_PARTICLES}/mass"].attrs["unit"] = "u"
    position = file.create_group(f"{_PARTICLES}/position")
    position.create_dataset("step", (0,), "i8", maxshape=(None,), chunks=(1024,), fletcher32=True)
    position.create_dataset("time", (0,), "f8", maxshape=(None,), chunks=(1024,), fletcher32=True).attrs["unit"] = "fs"
    for name, block in blocks.items():
        place, unit = _SERIES[name]
        group = file.require_group(place)
        shape = block.shape[1:]
        chunk = (max(1, min(1024, 262144 // (8 * math.prod(shape) + 1))), *shape)
        made = group.create_dataset("value", (0, *shape), "f8", maxshape=(None, *shape), chunks=chunk, fletcher32=True)
        made.attrs["unit"] = unit
        if name != "position":
            group["step"], group["time"] = position["step"], position["time"]


def _extend(dataset: Any, block: np.ndarray) -> None:
    dataset.resize(len(dataset) + len(block), axis=0)
    dataset[-len(block) :] = block


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float64))


def _version() -> str:
    import mdistill

    return mdistill.__version__


def _append_extxyz(partial: Path, frames: list[tuple[int, State]], provenance: Mapping[str, str]) -> None:
    with open(partial, "a", encoding="utf-8", newline="\n") as handle:
        for step, state in frames:
            handle.write(extxyz_frame(step, state, provenance))


def extxyz_frame(step: int, state: State, provenance: Mapping[str, str]) -> str:
    """One frame as extended XYZ text: energy, forces, stress, momenta (ASE units) and in the header step, time_fs, provenance."""
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.io import write

    system, prediction = state.system, state.prediction
    atoms = Atoms(
        numbers=system.numbers.cpu().numpy(), positions=system.positions.cpu().numpy(), cell=system.cell[0].cpu().numpy(),
        pbc=system.pbc[0].cpu().numpy(), momenta=ASE_MOMENTUM * state.momenta.cpu().numpy(),
    )  # fmt: skip
    if prediction is not None:
        results: dict[str, Any] = {"energy": float(prediction.energy[0]), "forces": prediction.forces.cpu().numpy()}
        if prediction.stress is not None:
            voigt = prediction.stress[0].cpu().numpy()
            results["stress"] = voigt[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
        atoms.calc = SinglePointCalculator(atoms, **results)
    atoms.info.update({"step": step, "time_fs": state.time} | {key: text for key, text in provenance.items() if text})
    text = io.StringIO()
    write(text, atoms, format="extxyz")
    return text.getvalue()


def _truncate_extxyz(path: Path, step: int) -> int:
    frames = 0
    too_far = False
    with (
        replacing(path) as partial,
        open(path, encoding="utf-8") as source,
        open(partial, "w", encoding="utf-8", newline="\n") as target,
    ):
        while (count := source.readline()).strip():
            header = source.readline()
            match = _STEP.search(header)
            if not count.strip().isdigit() or match is None:
                problem = f"frame {frames} has no step number"
                raise BadInput(path, problem, allowed="a trajectory written by mdistill", fix="choose another --out")
            rows = [source.readline() for _ in range(int(count))]
            too_far = int(match.group(1)) > step
            if too_far:
                break
            target.writelines([count, header, *rows])
            frames += 1
    return frames
