"""The teacher followed for longer at one temperature, beside its student from the same start: RDFs and mean square displacement.

Both make the same NVT run from the same structure in the same cell; the student makes it several times, so that its scatter
tells what two runs of one potential differ by.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from ase.data import chemical_symbols

from mdistill.analysis.gates import rdf_gate, rdf_overlaps
from mdistill.analysis.msd import displacements, frame_spacing, geometric_lags, msd_of
from mdistill.analysis.settings import GateLimits
from mdistill.estimates import Estimate, exactly, unknown
from mdistill.interrupt import NEVER, StopRequest
from mdistill.io.trajectories import read_hdf5
from mdistill.parallel import side_by_side
from mdistill.runs.results import Cell, Figure, Results, Series, Table
from mdistill.settings import child_seed
from mdistill.simulation.settings import SimulateSettings
from mdistill.simulation.simulate import SimulationResult, simulate
from mdistill.types import Potential, System, Trajectory
from mdistill.units import PS

REPEATS = 8
_EQUILIBRATION_PS, _EVERY_FS = 2.0, 20.0


def follow_teacher(
    teacher: Potential, student: Potential, start: System, folder: Path, *, temperature_K: float, time_ps: float,
    mobile: int | None, limits: GateLimits, seed: int = 0, stop: StopRequest = NEVER,
) -> Results:  # fmt: skip
    """Follow the teacher and `REPEATS` runs of its student, and compare them.

    Args:
        teacher, student: The potentials.
        start: Structure in the cell of production.
        folder: Finished runs in it are not repeated; interrupted ones continue.
        temperature_K: Temperature, K.
        time_ps: Length after equilibration, ps.
        mobile: Atomic number of the ion whose MSD is compared; None for none.
        limits: Limit of the RDFs.
        seed: Seed of everything random.
        stop: Checked between steps.
    Returns:
        A gate on the RDFs, a table, and the MSD of both.
    """
    plain = SimulateSettings(
        ensemble="nvt", temperature_K=temperature_K, time_ps=time_ps, equilibration_ps=_EQUILIBRATION_PS, every_fs=_EVERY_FS
    )

    def run(name: str, model: Potential) -> SimulationResult:
        return simulate(start, model, replace(plain, seed=child_seed(seed, name)), folder / name, stop=stop)

    theirs = run("teacher", teacher)
    ours = side_by_side([lambda _, k=k: run(f"student-{k}", student) for k in range(1, REPEATS + 1)], stop=stop)  # type: ignore[misc]
    first, runs = read_hdf5(theirs.trajectory), [read_hdf5(one.trajectory) for one in ours]
    gate = rdf_gate(
        {pair: difference for pair, (_, _, difference) in rdf_overlaps(first, _joined(runs), segments=REPEATS).items()}, limits
    )
    rows: list[list[Cell]] = [
        _row("energy (eV/atom)", theirs, ours, "potential_energy"),
        _row("P (GPa)", theirs, ours, "pressure"),
    ]
    figures = []
    if mobile is not None:
        symbol = chemical_symbols[mobile]
        row, figure = _msd(first, runs, symbol, temperature_K)
        rows.append(row)
        figures.append(figure)
    columns = ["quantity", "teacher", f"student, {REPEATS} runs", "one run of it ±", "difference / ±"]
    caption = "The same start, cell, thermostat and times. The last column is near 1 or below where both behave alike."
    title = f"Teacher followed for {time_ps:g} ps at {temperature_K:g} K"
    table = Table("teacher-dynamics", title, "dynamics", columns, rows, caption)
    named = replace(gate, name=f"RDF overlap, {time_ps:g} ps of the teacher at {temperature_K:g} K")
    return Results(command="follow", gates=[named], tables=[table], figures=figures)


def _row(title: str, theirs: SimulationResult, ours: Sequence[SimulationResult], name: str) -> list[Cell]:
    one = theirs.values.get(name, unknown())
    values = np.array([run.values[name].value for run in ours if name in run.values], dtype=float)
    return _compared(title, one.value, values, one.unit)


def _compared(title: str, value: float | None, values: np.ndarray, unit: str) -> list[Cell]:
    if value is None or len(values) < 2:
        return [title, exactly(value, unit), unknown(unit), unknown(unit), unknown()]
    scatter = float(values.std(ddof=1))
    mean = Estimate(value=float(values.mean()), error=scatter / math.sqrt(len(values)), unit=unit, samples=len(values))
    apart = (value - float(values.mean())) / (scatter * math.sqrt(1.0 + 1.0 / len(values))) if scatter else None
    return [title, exactly(value, unit), mean, exactly(scatter, unit), exactly(apart)]


def _msd(first: Trajectory, runs: Sequence[Trajectory], symbol: str, kelvin: float) -> tuple[list[Cell], Figure]:
    """MSD at a quarter of the run as a row; both curves as a figure, the student's with the scatter of one run."""
    lags = geometric_lags(len(first.times), count=30, longest=0.25)
    curves = [msd_of(displacements(run, species=symbol), frame_spacing(run), lags=lags).y.numpy() for run in (first, *runs)]
    ours, x = np.array(curves[1:]), (lags * frame_spacing(first) / PS).tolist()
    row = _compared(f"MSD of {symbol} after {x[-1]:.3g} ps (Å²)", float(curves[0][-1]), ours[:, -1], "Å²")
    series = [
        Series(label="teacher", x=x, y=curves[0].tolist()),
        Series(label="student", x=x, y=ours.mean(0).tolist(), error=ours.std(0, ddof=1).tolist()),
    ]
    figure = Figure(
        name="teacher-msd", title=f"Mean square displacement of {symbol}, teacher and student at {kelvin:g} K", series=series,
        section="dynamics", x_label="τ (ps)", y_label=f"MSD of {symbol} (Å²)", caption="Band: scatter of one run of the student.",
    )  # fmt: skip
    return row, figure


def _joined(runs: Sequence[Trajectory]) -> Trajectory:
    """Runs of equal length, one after the other."""
    last = runs[0]
    return replace(
        last, positions=torch.cat([run.positions for run in runs]), cell=torch.cat([run.cell for run in runs]), momenta=None,
        times=torch.arange(sum(len(run.times) for run in runs), dtype=torch.float64),
    )  # fmt: skip
