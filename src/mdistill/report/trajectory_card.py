"""The card of an HDF5 trajectory: atoms, frames, time step, cell, temperature."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase.formula import Formula

from mdistill.io.trajectories import read_hdf5_arrays
from mdistill.runs.results import Cell, Results, Table
from mdistill.units import BOLTZMANN, KINETIC


def trajectory_card(path: Path) -> Results:
    """Content of a trajectory.

    Raises:
        BadInput: As `io.trajectories.read_hdf5`.
    """
    from ase.data import chemical_symbols

    held = read_hdf5_arrays(path)
    times, cells = held["times"], held["cells"]
    formula = Formula.from_list([chemical_symbols[z] for z in held["numbers"].tolist()]).format("hill")
    gaps = np.diff(times)
    spacing = "one frame" if not len(gaps) else f"{np.median(gaps):.6g} fs"
    uneven = len(gaps) > 0 and np.ptp(gaps) > 1e-3 * abs(np.median(gaps))
    fixed = np.allclose(cells, cells[0], rtol=0.0, atol=1e-9)
    lengths = np.linalg.norm(cells.mean(0), axis=1)
    kelvin = _temperature(held["momenta"], held["masses"])
    rows: list[list[Cell]] = [
        ["composition", formula],
        ["atoms", str(len(held["numbers"]))],
        ["frames", str(len(times))],
        ["time between frames", f"{spacing}{' (median; uneven)' if uneven else ''}"],
        ["time", f"{1e-3 * (times[-1] - times[0]) if len(times) else 0.0:.6g} ps"],
        ["cell", f"{', '.join(f'{one:.4f}' for one in lengths)} Å{'' if fixed else ' (mean; it changes)'}"],
        ["periodic", ", ".join("yes" if p else "no" for p in held["pbc"])],
        ["velocities", "no" if held["momenta"] is None else "yes"],
        ["temperature", "not known: no velocities" if kelvin is None else f"{kelvin:.1f} K (mean, from the velocities)"],
    ]
    table = Table("trajectory", f"Trajectory {path.name}", "structure", ["what", "value"], rows)
    return Results(command="info", tables=[table])


def _temperature(momenta: np.ndarray | None, masses: np.ndarray) -> float | None:
    """Mean temperature of the motion relative to the centre of mass; atoms that never move are held."""
    if momenta is None or not len(momenta):
        return None
    moving = momenta.any(axis=(0, 2))
    count = int(moving.sum())
    if not count:
        return 0.0
    free, mass = momenta[:, moving], masses[moving]
    whole = count == len(masses) and count > 1
    if whole:
        free = free - mass[:, None] * (free.sum(1, keepdims=True) / mass.sum())
    energy = 0.5 * KINETIC * float((free**2 / mass[:, None]).sum(axis=(1, 2)).mean())
    return 2.0 * energy / (BOLTZMANN * (3 * count - 3 * whole))
