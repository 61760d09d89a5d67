"""MSD, diffusivity, conductivity and Arrhenius fit at one or several temperatures; RDFs and the host lattice."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
from ase.data import chemical_symbols

from mdistill.analysis.diffusion import FEW_HOPS
from mdistill.analysis.hops import count_hops
from mdistill.analysis.msd import displacements, frame_spacing, msd_of
from mdistill.analysis.rdf import largest_radius, rdf, species_pairs, two_shells
from mdistill.analysis.settings import DiffusionSettings
from mdistill.errors import BadInput
from mdistill.estimates import Estimate
from mdistill.observables.arrhenius_tables import arrhenius_results
from mdistill.observables.measured import with_measurements
from mdistill.observables.motion import hop_figure, motion_notes, motion_tables
from mdistill.observables.msd_figures import msd_figures
from mdistill.observables.points import SUPERSCRIPTS, Point, Runs, measure
from mdistill.observables.scenes import path_scenes
from mdistill.runs.results import Cell, Figure, Headline, Results, Series, Table, merge
from mdistill.types import Trajectory
from mdistill.units import PS

_IONS = {1: "H Li Na K Rb Cs Ag Cu", 2: "Mg Ca Sr Ba Zn", 3: "Al", -1: "F Cl Br I", -2: "O S"}
USUAL_CHARGES = {symbol: charge for charge, symbols in _IONS.items() for symbol in symbols.split()}
"""Charges (e) of ions that conduct in solids."""
LARGEST_RDF = 8.0


def transport_results(
    runs: Sequence[Runs], *, species: str | int, charge: float = 0.0, seed: int = 0, settings: DiffusionSettings | None = None,
    phase: Collection[float] | None = None,
) -> Results:  # fmt: skip
    """MSD, diffusivity and conductivity at each temperature, and the Arrhenius fit of two or more.

    Args:
        runs: Independent runs of one system at each temperature.
        species: Mobile ion, symbol or atomic number.
        charge: Its charge (e); 0: its usual charge.
        seed: Seed of the draws of the collective diffusivity; ignored with `settings`.
        settings: Fit of the diffusivity.
        phase: Temperatures (K) of one phase, through which the Arrhenius line is drawn; by default all.
    """
    symbol = species if isinstance(species, str) else chemical_symbols[species]
    settings = settings or DiffusionSettings(seed=seed)
    ion_charge, notes = _charge(symbol, charge) if any(run.temperature_K for run in runs) else (charge, [])
    runs = sorted(runs, key=lambda run: run.temperature_K or 0.0)
    points = measure(runs, symbol, ion_charge, settings)
    motions = [p.motion for p in points]
    named = [_named(p.temperature, n) for p in points for n in p.tracer.notes]
    values = {f"{name}{p.suffix}": e for p in points for name, e in p.values.items()}
    values |= {f"msd_slope{p.suffix}": p.tracer.slope for p in points if p.tracer.slope.value is not None}
    for point in points:
        if "conductivity" not in point.estimates:
            reason = (
                "the cell is open, so it has no volume" if point.temperature else "no temperature is stated (--temperature-K)"
            )
            notes.append(_named(point.temperature, f"no σ: {reason}"))
    results = Results(
        command="transport",
        values=values,
        headlines=[
            Headline(quantity=kind, value=f"{kind}{point.suffix}", temperature_K=point.temperature, doubts=_doubts(point))
            for point in points
            for kind in point.estimates
        ],
        tables=[_transport_table(symbol, points), *motion_tables(symbol, motions, [p.shown("conductivity") for p in points])],
        figures=[*msd_figures(symbol, points, runs), *hop_figure(symbol, motions)],
        scenes=path_scenes(runs[-1].trajectories, species=symbol, temperature_K=runs[-1].temperature_K),
        notes=named + notes + motion_notes(symbol, motions) + _committee_notes(symbol, points),
        citations=["kinisi", "model-averaging"],
    )
    known = [p for p in points if p.temperature and (phase is None or p.temperature in phase)]
    if len(known) < 2:
        return results
    return with_measurements(
        merge(results, arrhenius_results(symbol, known, ion_charge)), runs[0].trajectories[0].numbers.tolist()
    )


def _doubts(point: Point) -> list[str]:
    """Why the value of a temperature is a bound, rests on few hops, or has no model error."""
    reason = {
        "subdiffusive": "Not diffusive yet: the MSD still flattens.", "caged": "The ions are caged: an upper limit.",
        "no hops": "No hop was seen: an upper limit.",
    }.get(point.tracer.verdict)  # fmt: skip
    few = f"Only {point.tracer.hops} hops were seen." if point.tracer.detected and point.tracer.hops < FEW_HOPS else None
    alone = "The model error is unknown." if point.students and point.committee is None and point.tracer.detected else None
    return [doubt for doubt in (reason, few, alone) if doubt]


def _charge(symbol: str, charge: float) -> tuple[float, list[str]]:
    stated = charge or USUAL_CHARGES.get(symbol, 0)
    if not stated:
        raise BadInput("charge", f"unknown for {symbol}", allowed="a charge in e", fix="add it, for example --charge 1")
    return stated, [f"σ: Nernst–Einstein with charge {stated:+g} e per {symbol}: independent ions (Haven ratio 1)"]


def _committee_notes(symbol: str, points: Sequence[Point]) -> list[str]:
    alone = [p for p in points if p.students and p.committee is None and p.tracer.detected]
    named = ", ".join(p.label for p in alone)
    return [f"{named}: D({symbol}) was measured by fewer than two students: the model error is unknown"] if alone else []


def _named(temperature: float | None, note: str) -> str:
    return f"{temperature:g} K, {note}" if temperature else note


def _transport_table(symbol: str, points: Sequence[Point]) -> Table:
    rows: list[list[Cell]] = []
    for p in points:
        row: list[Cell] = [f"{p.temperature:g}" if p.temperature else "–", p.shown("diffusivity")]
        row += [_interval(p.estimates["diffusivity"]), p.tracer.slope]
        rows.append([*row, f"{p.tracer.duration / PS:.4g}"])
    parts, pressed = any(p.committee for p in points), any(p.pressure for p in points)
    for row, p in zip(rows, points, strict=True):
        row.extend([p.pressure] if pressed else [])
    return Table(
        name="transport",
        title=f"Transport of {symbol}",
        section="transport",
        columns=[
            "T (K)", f"D({symbol}) (cm²/s)", "95 % interval of D", "d ln MSD/d ln τ",
            "runs (ps)", *(["P (GPa)"] if pressed else []),
        ],
        rows=rows,
        caption="D: tracer diffusivity relative to the host. d ln MSD/d ln τ at the longest lags: 1 diffusive, near 0 caged."
        + (" D: value ± statistical ± model error (scatter between students)." if parts else ""),
    )  # fmt: skip


def _interval(estimate: Estimate) -> Cell:
    if estimate.interval is None:
        return "–" if estimate.upper_limit is None else replace(estimate, unit="")
    low, high = estimate.interval
    power = math.floor(math.log10(max(abs(low), abs(high)) or 1.0))
    return f"({low / 10.0**power:.2f} to {high / 10.0**power:.2f}) × 10{str(power).translate(SUPERSCRIPTS)}"


def structure_results(trajectory: Trajectory, *, species: str) -> Results:
    """RDFs of every pair, and motion of the host; an open cell has the latter only."""
    table, notes = _host_table(trajectory, species)
    results = Results(command="structure", tables=[table] if table.rows else [], notes=notes)
    if np.abs(np.linalg.det(trajectory.cell.double().cpu().numpy())).min() < 1e-3:
        return results
    reach = min(LARGEST_RDF, largest_radius(trajectory))
    pairs, figures = species_pairs(trajectory), []
    for name, chosen in (("mobile", [p for p in pairs if species in p]), ("host", [p for p in pairs if species not in p])):
        curves = [rdf(trajectory, pair=pair, r_max=reach) for pair in chosen]
        whose = species if name == "mobile" else "the host"
        if curves:
            title = f"Radial distribution functions of {whose}"
            caption = "Bands: one standard error from ten time blocks."
            shown = curves[0].x <= max(two_shells(c) for c in curves)
            series = [Series(c.label, c.x[shown].tolist(), c.y[shown].tolist(), c.error[shown].tolist()) for c in curves]
            figures.append(Figure(f"rdf-{name}", title, "dynamics", "r (Å)", "g(r)", series, caption=caption))
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
    caption = "A solid host vibrates about its sites: no hops, MSD below about 1 Å²."
    table = Table("host", "Host lattice", "dynamics", ["element", "atoms", "MSD at the longest lag (Å²)", "hops"], rows, caption)
    return table, notes
