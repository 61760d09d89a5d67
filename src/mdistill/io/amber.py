"""AMBER NetCDF trajectories (convention 1.0): positions Å, velocities Å/ps, times ps, cells as lengths and angles.

The convention has no elements. Files written here hold them as `atom_types`, as ASE does. Reference:
https://ambermd.org/netcdf/nctraj.xhtml
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from mdistill.errors import BadInput
from mdistill.units import PS

NETCDF_SUFFIXES = (".nc", ".ncdf", ".netcdf")
_ALLOWED = "an AMBER NetCDF trajectory (NetCDF 3)"


def read_netcdf(path: Path, *, numbers: Int[np.ndarray, " atom"] | None = None) -> dict[str, Any]:
    """Arrays of a file: numbers, positions (Å), cells (Å), pbc, and times (fs), velocities (Å/fs) where it has them.

    Args:
        path: The file.
        numbers: Atomic numbers of its atoms, where it holds none.
    Raises:
        BadInput: Not such a file, damaged, other units, or elements that are not known.
    """
    from scipy.io import netcdf_file

    try:
        with netcdf_file(path, "r", mmap=False) as file:
            held = {name: np.array(variable[:]) * float(getattr(variable, "scale_factor", 1.0))
                    for name, variable in file.variables.items() if variable[:].dtype.kind in "iuf"}  # fmt: skip
            units = {name: getattr(variable, "units", b"").decode().lower() for name, variable in file.variables.items()}
    except Exception as error:
        problem = f"cannot be read ({type(error).__name__}: {str(error)[:120]})"
        raise BadInput(path, problem, allowed=_ALLOWED, fix="convert NetCDF 4 with `nccopy -k classic`") from error
    for name, unit in (("coordinates", "angstrom"), ("time", "picosecond"), ("velocities", "angstrom/picosecond")):
        if name in held and units[name] not in ("", unit, unit + "s"):
            raise BadInput(path, f"{name} in {units[name]}", allowed=unit, fix="convert the file to AMBER's units")
    positions = held.get("coordinates", np.zeros(0)).astype(np.float64)
    if positions.ndim != 3 or positions.shape[2] != 3 or not len(positions):
        raise BadInput(path, "no coordinates [frame, atom, 3]", allowed=_ALLOWED, fix="check the file")
    stored = next((held[name] for name in ("atom_types", "type", "Z") if name in held), None)
    found = numbers if stored is None else stored.reshape(-1, positions.shape[1])[0]
    if found is None or len(found) != positions.shape[1]:
        problem = "it names no elements" if found is None else f"{len(found)} elements are given for {positions.shape[1]} atoms"
        fix = "mdistill convert FILE OUT --topology STRUCTURE, a file with the same atoms in the same order"
        raise BadInput(path, problem, allowed="elements of all atoms", fix=fix)
    lengths = held.get("cell_lengths", np.zeros((len(positions), 3))).astype(np.float64)
    angles = held.get("cell_angles", np.full((len(positions), 3), 90.0)).astype(np.float64)
    pbc = tuple(bool(length > 1e-6) for length in lengths[0])
    content = {"numbers": found, "positions": positions, "cells": _cells(lengths, angles), "pbc": pbc}
    if "time" in held:
        content["times"] = PS * held["time"].astype(np.float64)
    if "velocities" in held:
        content["velocities"] = held["velocities"].astype(np.float64) / PS
    return content


def _cells(lengths: Float[np.ndarray, "frame 3"], angles: Float[np.ndarray, "frame 3"]) -> Float[np.ndarray, "frame 3 3"]:
    from ase.cell import Cell

    cells = []
    for length, angle in zip(lengths, angles, strict=True):
        open_directions = length < 1e-6
        cell = Cell.fromcellpar([*np.where(open_directions, 1.0, length), *angle]).array
        cells.append(np.where(open_directions[:, None], 0.0, cell))
    return np.stack(cells)


def write_netcdf(
    path: Path, *, numbers: Int[np.ndarray, " atom"], positions: Float[np.ndarray, "frame atom 3"],
    cells: Float[np.ndarray, "frame 3 3"], times: Float[np.ndarray, " frame"] | None = None,
    velocities: Float[np.ndarray, "frame atom 3"] | None = None,
) -> None:  # fmt: skip
    """Write a file; cells must be in standard orientation (first vector along x, second in the xy plane)."""
    from ase.geometry import cell_to_cellpar
    from scipy.io import netcdf_file

    with netcdf_file(path, "w", version=2) as file:
        file.Conventions, file.ConventionVersion = "AMBER", "1.0"
        file.program, file.programVersion, file.title = "mdistill", "1", ""
        for name, size in (("frame", None), ("spatial", 3), ("atom", len(numbers)), ("cell_spatial", 3), ("cell_angular", 3),
                           ("label", 5)):  # fmt: skip
            file.createDimension(name, size)
        file.createVariable("spatial", "c", ("spatial",))[:] = np.array(list("xyz"), dtype="S1")
        file.createVariable("cell_spatial", "c", ("cell_spatial",))[:] = np.array(list("abc"), dtype="S1")
        names = np.array([list(word.ljust(5)) for word in ("alpha", "beta", "gamma")], dtype="S1")
        file.createVariable("cell_angular", "c", ("cell_angular", "label"))[:] = names
        file.createVariable("atom_types", "i", ("atom",))[:] = numbers.astype(np.int32)
        pars = np.array([cell_to_cellpar(cell) for cell in cells])
        complete = np.array([bool(cell.any(axis=1).all()) for cell in cells])
        pars[:, 3:] = np.where(np.isfinite(pars[:, 3:]) & complete[:, None], pars[:, 3:], 90.0)
        series: list[tuple[str, np.ndarray, tuple[str, ...], str]] = [
            ("coordinates", positions, ("frame", "atom", "spatial"), "angstrom")
        ]
        if cells.any():
            series += [("cell_lengths", pars[:, :3], ("frame", "cell_spatial"), "angstrom"),
                       ("cell_angles", pars[:, 3:], ("frame", "cell_angular"), "degree")]  # fmt: skip
        if times is not None:
            series.append(("time", times / PS, ("frame",), "picosecond"))
        if velocities is not None:
            series.append(("velocities", velocities * PS, ("frame", "atom", "spatial"), "angstrom/picosecond"))
        for name, values, dimensions, unit in series:
            variable = file.createVariable(name, "d", dimensions)
            variable[:] = values
            variable.units = unit
