"""One run, whatever wrote it: read, unwrapped, and everything it says about structure and transport."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from ase.data import chemical_symbols

from mdistill.analysis.diffusion import count_hops
from mdistill.analysis.msd import displacements, frame_spacing, msd_of
from mdistill.analysis.rdf import largest_radius, rdf, species_pairs
from mdistill.errors import BadInput
from mdistill.estimates import Estimate
from mdistill.io.import_trajectory import read_trajectory
from mdistill.runs.results import Cell, Figure, Results, Series, Table, merge
from mdistill.types import Trajectory
from mdistill.units import PS
from mdistill.workflows.diffusion_results import transport_results
from mdistill.workflows.settings import AnalyseSettings

LARGEST_RDF = 8.0


def analyse(trajectories: str | Path | Sequence[str | Path] | Trajectory, settings: AnalyseSettings) -> Results:
    """Everything one run (one file, several joined, or a `Trajectory`) says about structure and transport.

    Raises:
        BadInput: See `read_trajectory` and `diffusivity`; or nothing is left after `discard_ps`.
    """
    notes: list[str] = []
    if isinstance(trajectories, Trajectory):
        trajectory = trajectories
    else:
        imported = read_trajectory(
            trajectories, time_step_fs=settings.frame_time_fs, elements=settings.elements, stride=settings.stride
        )
        trajectory, notes = imported.trajectory, imported.notes
    trajectory = _discarded(trajectory, settings.discard_ps)
    if settings.discard_ps:
        notes.append(f"the first {settings.discard_ps:g} ps were left out as equilibration")
    transport = transport_results(
        [(settings.temperature_K, trajectory)], species=settings.species, charge=settings.charge, settings=settings.diffusion()
    )
    structure = structure_results(trajectory, species=settings.species)
    return replace(merge(transport, structure), command="analyse", notes=notes + transport.notes + structure.notes)


def _discarded(trajectory: Trajectory, discard_ps: float) -> Trajectory:
    keep = trajectory.times - trajectory.times[0] >= discard_ps * PS - 1e-6
    if int(keep.sum()) < 20:
        raise BadInput(
            "discard_ps",
            f"{discard_ps:g} ps leaves {int(keep.sum())} of {len(keep)} frames",
            allowed="at least 20 frames left",
            fix="discard less, or run longer",
        )
    momenta = None if trajectory.momenta is None else trajectory.momenta[keep]
    return replace(
        trajectory,
        positions=trajectory.positions[keep],
        cell=trajectory.cell[keep],
        times=trajectory.times[keep],
        momenta=momenta,
    )


def structure_results(trajectory: Trajectory, *, species: str) -> Results:
    """RDFs of every pair and whether the host stays in place; an open cell has the latter only."""
    table, notes = _host_table(trajectory, species)
    results = Results(command="structure", tables=[table] if table.rows else [], notes=notes)
    if np.abs(np.linalg.det(trajectory.cell.double().cpu().numpy())).min() < 1e-3:
        return results
    reach = min(LARGEST_RDF, largest_radius(trajectory))
    counts = {z: trajectory.numbers.tolist().count(z) for z in trajectory.numbers.tolist()}
    single = {chemical_symbols[z] for z, n in counts.items() if n == 1}
    pairs = [pair for pair in species_pairs(trajectory) if not (pair[0] == pair[1] and pair[0] in single)]
    figures = []
    for name, chosen in (("mobile", [p for p in pairs if species in p]), ("host", [p for p in pairs if species not in p])):
        curves = [rdf(trajectory, pair=pair, r_max=reach) for pair in chosen]
        whose = species if name == "mobile" else "the host"
        if curves:
            figures.append(
                Figure(
                    name=f"rdf-{name}",
                    title=f"Radial distribution functions of {whose}",
                    section="dynamics",
                    x_label="r (Å)",
                    y_label="g(r)",
                    caption="Bands: one standard error from ten time blocks.",
                    series=[Series(label=c.label, x=c.x.tolist(), y=c.y.tolist(), error=c.error.tolist()) for c in curves],
                )
            )
    return replace(results, figures=figures)


def _host_table(trajectory: Trajectory, species: str) -> tuple[Table, list[str]]:
    rows: list[list[Cell]] = []
    notes = []
    spacing = frame_spacing(trajectory)
    others = sorted({chemical_symbols[z] for z in trajectory.numbers.tolist()} - {species})
    for symbol in others:
        moved = displacements(trajectory, species=symbol, mobile=species)
        msd = msd_of(moved, spacing, label=symbol)
        last = Estimate(value=float(msd.y[-1]), error=float(msd.error[-1]), unit="Å²")
        hops = count_hops(moved, spacing, distance=1.5)
        rows.append([symbol, str(moved.shape[1]), last, str(hops)])
        if hops:
            notes.append(f"host: {symbol} atoms left their sites {hops} times; the host may be melting, rotating or diffusing")
    table = Table(
        name="host",
        title="Host lattice",
        section="dynamics",
        columns=["element", "atoms", "MSD at the longest lag (Å²)", "hops"],
        rows=rows,
        caption="A solid host rattles about its sites: no hops, MSD below about 1 Å².",
    )
    return table, notes
