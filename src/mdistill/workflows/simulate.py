"""What one simulation measured, as results: averages, and the course of energy and temperature."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mdistill.errors import BadInput
from mdistill.graph import make_system
from mdistill.io.results import Figure, Results, Series
from mdistill.io.structures import read_system, to_atoms
from mdistill.simulation.record import read_log
from mdistill.simulation.settings import SimulateSettings
from mdistill.simulation.simulate import SimulationResult
from mdistill.types import Potential, System

_POINTS = 600
_METHODS = {"langevin": "baoab", "bussi": "bussi"}


def starting_structure(path: Path, repeat: tuple[int, int, int]) -> System:
    """One ordered structure, repeated along its lattice vectors.

    Raises:
        BadInput: A disordered structure, or a repeat below 1.
    """
    if min(repeat) < 1:
        raise BadInput("repeat", f"{repeat}", allowed="three numbers of at least 1", fix="--repeat 2 2 2")
    system = read_system(path)
    if tuple(repeat) == (1, 1, 1):
        return system
    atoms = to_atoms(system).repeat(repeat)
    return make_system(atoms.positions, atoms.numbers, atoms.cell.array, atoms.pbc)


def dynamics_results(done: SimulationResult, potential: Potential, settings: SimulateSettings) -> Results:
    """Averages after equilibration, and figures of temperature and energy against time."""
    log = read_log(done.log)
    time_ps = log["time_fs"] / 1000.0
    atoms = done.state.system.n_atoms
    keep = np.unique(np.linspace(0, len(time_ps) - 1, min(_POINTS, len(time_ps))).astype(int))

    def course(label: str, values: np.ndarray) -> Series:
        return Series(label=label, x=time_ps[keep].tolist(), y=values[keep].tolist())

    total = log["total_eV"] / atoms
    figures = [
        Figure(
            name="temperature",
            title="Temperature",
            section="dynamics",
            x_label="time (ps)",
            y_label="T (K)",
            series=[course("T", log["temperature_K"])],
        ),
        Figure(
            name="energy",
            title="Total energy, change from the start",
            section="dynamics",
            x_label="time (ps)",
            y_label="ΔE (meV/atom)",
            series=[course("E", 1e3 * (total - total[0]))],
        ),
    ]
    used = [_METHODS[settings.thermostat]] if settings.ensemble != "nve" else []
    return Results(
        command="simulate",
        values=done.values,
        figures=figures,
        provenance={"potential": potential.name},
        citations=["mdistill", "ase", "vesin", *used, *(["cell-rescaling"] if settings.ensemble == "npt" else [])],
        notes=["An interrupted run was continued."] if done.resumed else [],
    )
