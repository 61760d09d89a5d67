"""Results that follow from the kind of matter: density, RDFs, bonds and angles and torsions, motion of layers, headlines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from mdistill.analysis.rdf import largest_radius, rdf, species_pairs
from mdistill.estimates import Estimate, exactly, unknown
from mdistill.io.trajectories import read_hdf5
from mdistill.matter.kinds import Matter
from mdistill.observables.internal import internal_results
from mdistill.observables.layers import layer_results
from mdistill.observables.production import Production
from mdistill.runs.results import Cell, Figure, Headline, Results, Series, Table, merge
from mdistill.types import LabelledFrame, System, Trajectory
from mdistill.units import DENSITY_G_CM3

_FARTHEST_A, _SHELL_A, _FRAMES, _SHOWN = 8.0, 0.05, 60, 3
_MOST_PAIRS = 8


def matter_results(
    produced: Sequence[Production], matter: Matter, *, folder: Path, taught: Sequence[LabelledFrame] = ()
) -> Results:
    """What a kind of matter has beside transport.

    Args:
        produced: Runs by temperature.
        matter: The kind.
        folder: Folder of production, with the NpT runs.
        taught: Labels, with the teacher's dynamics.
    """
    found = Results(command="matter", headlines=[Headline(quantity=q, value=q) for q in ("force_mae", "energy_mae")])
    if matter.density:
        found = merge(found, density_results(produced, folder))
    if matter.density and bool(produced[0].start.pbc.all()):
        found = merge(found, _rdf_results(produced))
    if matter.molecules:
        found = merge(found, internal_results(produced, taught))
    if matter.layers:
        found = merge(found, layer_results(produced))
    return found if matter.name != "crystal" else Results(command="matter")


def density_results(produced: Sequence[Production], folder: Path) -> Results:
    """Mean density of the NpT runs at each temperature, g/cm³; the error is the scatter of the runs.

    A run whose first and second half differ by more than the scatter of the halves allows has not equilibrated its volume.
    """
    values, headlines, rows, notes = {}, [], list[list[Cell]](), list[str]()
    for p in produced:
        name = f"density_{p.temperature_K:g}K"
        runs = [_densities(read_hdf5(path), p.start) for path in sorted(folder.glob(f"{p.temperature_K:g}K/npt-*/trajectory.h5"))]
        if not runs:
            values[name] = exactly(float(_densities(p.trajectories[0], p.start)[0]), "g/cm³")
            rows.append([f"{p.temperature_K:g}", values[name], "the cell was fixed", None])
            continue
        values[name] = mean_of_runs([float(run.mean()) for run in runs], "g/cm³")
        change = mean_of_runs([float(run[len(run) // 2 :].mean() - run[: len(run) // 2].mean()) for run in runs], "g/cm³")
        headlines.append(Headline(quantity="density", value=name, temperature_K=p.temperature_K))
        rows.append([f"{p.temperature_K:g}", values[name], f"{len(runs)} NpT runs", change])
        if abs(change.value or 0.0) > 2.0 * (change.error or 0.0) and abs(change.value or 0.0) > 0.005 * (
            values[name].value or 0.0
        ):
            notes.append(
                f"{p.temperature_K:g} K: the density still changes ({change.value:+.3f} g/cm³ between halves of its NpT runs): "
                "raise --production.equilibration-ps and --production.cell-ps"
            )
    columns = ["T (K)", "density (g/cm³)", "from", "second half − first half (g/cm³)"]
    caption = "Error: scatter of the runs, which includes that of the students. The volume was equilibrated before."
    table = Table("density", "Density", "matter", columns, rows, caption)
    return Results(command="density", values=values, headlines=headlines, tables=[table], notes=notes)


def mean_of_runs(values: Sequence[float], unit: str) -> Estimate:
    """Mean of independent runs with its standard error; no error of a single run."""
    data = np.array(values)
    if not len(data):
        return unknown(unit)
    if len(data) == 1:
        return exactly(float(data[0]), unit)
    return Estimate(value=float(data.mean()), error=float(data.std(ddof=1) / np.sqrt(len(data))), unit=unit, samples=len(data))


def _densities(run: Trajectory, start: System) -> np.ndarray:
    """Density of each frame, g/cm³."""
    from ase.data import atomic_masses

    mass = float(sum(atomic_masses[z] for z in start.numbers.tolist()))
    return DENSITY_G_CM3 * mass / torch.linalg.det(run.cell.double()).abs().numpy()


def _rdf_results(produced: Sequence[Production]) -> Results:
    """RDFs of production at every temperature; heavy elements first."""
    figures, frames = [], {p.temperature_K: _thinned(p.trajectories) for p in produced}
    reach = min([*(largest_radius(run) for run in frames.values()), _FARTHEST_A])
    pairs = sorted(species_pairs(next(iter(frames.values()))), key=lambda pair: ("H" in pair, pair))[:_MOST_PAIRS]
    for k, pair in enumerate(pairs):
        series = []
        for kelvin, run in frames.items():
            curve = rdf(run, pair=pair, r_max=reach, bins=max(10, round(reach / _SHELL_A)))
            series.append(Series(label=f"{kelvin:g} K", x=curve.x.tolist(), y=curve.y.tolist()))
        name = "–".join(pair)
        figures.append(
            Figure(
                name=f"production-rdf-{name}", title=f"RDF {name}", section="dynamics", x_label="r (Å)", y_label="g(r)",
                series=series, folded=k >= _SHOWN, caption="Student in production; peaks within molecules are included.",
            )
        )  # fmt: skip
    return Results(command="rdf", figures=figures)


def _thinned(runs: Sequence[Trajectory]) -> Trajectory:
    """Some frames of the runs of the first ordering, one after the other."""
    runs = [run for run in runs if torch.equal(run.numbers, runs[0].numbers)]
    each = max(1, _FRAMES // len(runs))
    parts = [np.linspace(0, len(run.times) - 1, min(each, len(run.times))).round().astype(int) for run in runs]
    return replace(
        runs[0], momenta=None, positions=torch.cat([run.positions[k] for run, k in zip(runs, parts, strict=True)]),
        cell=torch.cat([run.cell[k] for run, k in zip(runs, parts, strict=True)]),
        times=torch.arange(sum(map(len, parts)), dtype=torch.float64),
    )  # fmt: skip
