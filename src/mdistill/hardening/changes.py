"""What hard labels changed in the dynamics: the soft students beside the hardened ones, at one temperature.

Both make the same runs (`workflows.production`), those of the soft students shorter. Compared are density, pressure, diffusivity,
conductivity, and the RDF of every pair of elements.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from ase.data import atomic_masses

from mdistill.analysis.gates import rdf_overlaps
from mdistill.analysis.statistics import Curve
from mdistill.estimates import Estimate, unknown
from mdistill.hardening.hard_tables import SECTION
from mdistill.io.trajectories import read_hdf5
from mdistill.runs.results import Cell, Figure, Results, Series, Table
from mdistill.types import Trajectory
from mdistill.units import DENSITY_G_CM3, PS

VALUES = {"diffusivity": "D", "conductivity": "σ"}
MOST_FRAMES = 200
"""Frames of a run that its RDF is made of."""


def changes(before: Results, after: Results, homes: tuple[Path, Path], *, kelvin: float) -> Results:
    """The table of what changed, and the RDF that changed most.

    Args:
        before, after: Results of the runs of the soft and of the hardened students.
        homes: Folders of the runs at this temperature, before and after.
        kelvin: Temperature, K.
    """
    runs = tuple([read_hdf5(path) for path in sorted(home.glob("run-*/trajectory.h5"))] for home in homes)
    rows: list[list[Cell]] = [["density", *map(_density, runs)]]
    rows.append(["pressure", *(_pressure(results, kelvin) for results in (before, after))])
    for name, title in VALUES.items():
        both = [results.values.get(f"{name}_{kelvin:g}K") for results in (before, after)]
        if any(one is not None for one in both):
            rows.append([title, *both])
    alike = _of_one_ordering(*runs) if _bulk(runs) else None
    rdf_rows, figure = ([], None) if alike is None else _rdfs(_joined(alike[0]), _joined(alike[1]), kelvin)
    lengths = " and ".join(f"{len(part)} × {float(part[0].times[-1] - part[0].times[0]) / PS:.3g} ps" for part in runs)
    caption = f"{kelvin:g} K; runs of {lengths}, otherwise as in production. Errors of D and σ as there."
    table = Table(
        "changes", "The dynamics before and after hard labels", SECTION, ["quantity", "soft students", "hardened students"],
        [*rows, *rdf_rows], caption,
    )  # fmt: skip
    return Results(command="changes", tables=[table], figures=[] if figure is None else [figure])


def _density(runs: Sequence[Trajectory]) -> Estimate:
    """Density, g/cm³, with the scatter of the runs' cells; without, where they share one."""
    if not _bulk((runs,)):
        return unknown("g/cm³")
    masses = [float(torch.from_numpy(atomic_masses)[run.numbers].sum()) for run in runs]
    volumes = [float(torch.linalg.det(run.cell.double()).abs().mean()) for run in runs]
    values = torch.tensor([DENSITY_G_CM3 * mass / volume for mass, volume in zip(masses, volumes, strict=True)])
    scatter = float(values.std()) if len(values) > 1 else 0.0
    error = scatter / math.sqrt(len(values)) if scatter > 0.0 else None
    return Estimate(value=float(values.mean()), error=error, unit="g/cm³", samples=len(values))


def _pressure(results: Results, kelvin: float) -> Cell:
    """Mean pressure in the table of production."""
    for table in results.tables:
        if table.name == "production":
            return next((row[table.columns.index("P (GPa)")] for row in table.rows if row[0] == f"{kelvin:g}"), None)
    return None


def _rdfs(before: Trajectory, after: Trajectory, kelvin: float) -> tuple[list[list[Cell]], Figure | None]:
    """Highest peak of each pair's RDF, and the figure of the pair that changed most beyond sampling."""
    compared = rdf_overlaps(before, after)
    if not compared:
        return [], None
    rows: list[list[Cell]] = [[f"g(r) of {pair}: highest peak", *map(_peak, both[:2])] for pair, both in compared.items()]
    worst = max(compared, key=lambda pair: compared[pair][2].divergence - compared[pair][2].noise)
    first, second, difference = compared[worst]
    x = first.x.tolist()
    figure = Figure(
        name="changes-rdf", title=f"RDF {worst} before and after hard labels, {kelvin:g} K", section=SECTION, x_label="r (Å)",
        y_label="g(r)", series=[
            Series(label="soft students", x=x, y=first.y.tolist(), style="dashed"),
            Series(label="hardened students", x=x, y=second.y.tolist()),
        ],
        caption=f"The pair that changed most: Jensen–Shannon divergence {100.0 * difference.divergence:.2g} % "
        f"(sampling {100.0 * difference.noise:.2g} %).",
    )  # fmt: skip
    return rows, figure


def _peak(curve: Curve) -> str:
    """Place and height of the highest peak of an RDF."""
    k = int(curve.y.argmax())
    return f"{float(curve.x[k]):.2f} Å, {float(curve.y[k]):.2f}"


def _bulk(parts: Sequence[Sequence[Trajectory]]) -> bool:
    """Whether all cells are periodic in three directions."""
    return all(float(torch.linalg.det(run.cell.double()).abs().min()) > 1e-3 for runs in parts for run in runs)


def _of_one_ordering(
    before: Sequence[Trajectory], after: Sequence[Trajectory]
) -> tuple[list[Trajectory], list[Trajectory]] | None:
    """The runs of the first ordering of the atoms that both sides have; None where they share none."""
    for first in before:
        found = [[run for run in runs if torch.equal(run.numbers, first.numbers)] for runs in (before, after)]
        if found[1]:
            return found[0], found[1]
    return None


def _joined(runs: Sequence[Trajectory]) -> Trajectory:
    """Frames of runs of one ordering, thinned."""
    thin = [slice(None, None, max(len(run.times) // MOST_FRAMES, 1)) for run in runs]
    return replace(
        runs[0], positions=torch.cat([run.positions[k] for run, k in zip(runs, thin, strict=True)]),
        cell=torch.cat([run.cell[k] for run, k in zip(runs, thin, strict=True)]), momenta=None,
        times=torch.arange(sum(len(run.times[k]) for run, k in zip(runs, thin, strict=True)), dtype=torch.float64),
    )  # fmt: skip
