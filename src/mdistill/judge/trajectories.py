"""MSD, diffusivity, conductivity and Arrhenius fit at one or several temperatures; RDFs and the host lattice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from ase.data import chemical_symbols

from mdistill.analysis.arrhenius import Arrhenius, arrhenius
from mdistill.analysis.conductivity import conductivity, mean_volume
from mdistill.analysis.diffusion import Diffusion, count_hops, diffusivity
from mdistill.analysis.msd import displacements, frame_spacing, msd_of
from mdistill.analysis.rdf import largest_radius, rdf, species_pairs
from mdistill.analysis.settings import DiffusionSettings
from mdistill.errors import BadInput
from mdistill.estimates import Estimate
from mdistill.runs.results import Cell, Figure, Headline, Quantity, Results, Series, Table, merge
from mdistill.types import Trajectory
from mdistill.units import DIFFUSIVITY_CM2_S, PS

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

_IONS = {1: "H Li Na K Rb Cs Ag Cu", 2: "Mg Ca Sr Ba Zn", 3: "Al", -1: "F Cl Br I", -2: "O S"}
USUAL_CHARGES = {symbol: charge for charge, symbols in _IONS.items() for symbol in symbols.split()}
"""Charges (e) of ions that conduct in solids."""
ROOM_K = 300.0
LARGEST_RDF = 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """Independent runs of one state.

    Attributes:
        temperature_K: Temperature (K); None where unknown: no conductivity.
        trajectories: Unwrapped trajectories of the same atoms, one a run.
        students: Number of the student that made each run; empty: one model.
    Raises:
        BadInput: No trajectory, or another number of students than of trajectories.
    """

    temperature_K: float | None
    trajectories: Sequence[Trajectory]
    students: Sequence[int] = ()

    def __post_init__(self) -> None:
        runs, students = len(self.trajectories), len(self.students)
        if not runs or students not in (0, runs):
            allowed = "at least one run, and a student for each or none"
            raise BadInput(
                "runs", f"{runs} trajectories, {students} students", allowed=allowed, fix="name the student of each run"
            )


def transport_results(
    runs: Sequence[Runs], *, species: str | int, charge: float = 0.0, seed: int = 0, settings: DiffusionSettings | None = None
) -> Results:
    """MSD, diffusivity and conductivity at each temperature, and the Arrhenius fit of two or more.

    Args:
        runs: Independent runs of one system at each temperature.
        species: Mobile ion, symbol or atomic number.
        charge: Its charge (e); 0: its usual charge.
        seed: Seed of the Bayesian sampling; ignored with `settings`.
        settings: Fit of the diffusivity.
    """
    symbol = species if isinstance(species, str) else chemical_symbols[species]
    settings = settings or DiffusionSettings(seed=seed)
    ion_charge, notes = _charge(symbol, charge) if any(run.temperature_K for run in runs) else (charge, [])
    points: list[_Point] = []
    for one in sorted(runs, key=lambda run: run.temperature_K or 0.0):
        points.append(_measure(one, symbol, ion_charge, settings))
    named = [_named(p.temperature, n) for p in points for n in p.tracer.notes]
    values = {f"{kind}{p.suffix}": e for p in points for kind, e in p.estimates.items()}
    values |= {f"msd_slope{p.suffix}": p.tracer.slope for p in points if p.tracer.slope.value is not None}
    results = Results(
        command="transport",
        values=values,
        headlines=[
            Headline(quantity=kind, value=f"{kind}{point.suffix}", temperature_K=point.temperature)
            for point in points
            for kind in point.estimates
        ],
        tables=[_transport_table(symbol, points)],
        figures=_msd_figures(symbol, points),
        notes=named + notes,
        citations=["kinisi", "kinisi-software"],
    )
    known = [p for p in points if p.temperature]
    return merge(results, _arrhenius_results(symbol, known, ion_charge)) if len(known) > 1 else results


@dataclass(frozen=True, slots=True, kw_only=True)
class _Point:
    """One temperature: the tracer estimate, the volume (None: open cell) and the named estimates for results.json."""

    temperature: float | None
    tracer: Diffusion
    volume: float | None
    estimates: dict[Quantity, Estimate]

    @property
    def suffix(self) -> str:
        return f"_{self.temperature:g}K" if self.temperature else ""

    @property
    def label(self) -> str:
        return f"{self.temperature:g} K" if self.temperature else self.tracer.species


def _measure(runs: Runs, symbol: str, charge: float, settings: DiffusionSettings) -> _Point:
    tracer = diffusivity(runs.trajectories, species=symbol, settings=settings)
    estimates: dict[Quantity, Estimate] = {"diffusivity": tracer.tracer}
    temperature, volume = runs.temperature_K, _volume(runs.trajectories)
    if temperature and volume:
        estimates["conductivity"] = conductivity(tracer, charge=charge, temperature_K=temperature, volume=volume)
    return _Point(temperature=temperature, tracer=tracer, volume=volume, estimates=estimates)


def _volume(trajectories: Sequence[Trajectory]) -> float | None:
    """Mean volume (Å³) over all runs; None: an open cell."""
    volumes = [np.abs(np.linalg.det(t.cell.double().cpu().numpy())).min() for t in trajectories]
    return float(np.mean([mean_volume(t) for t in trajectories])) if min(volumes) > 1e-3 else None


def _charge(symbol: str, charge: float) -> tuple[float, list[str]]:
    stated = charge or USUAL_CHARGES.get(symbol, 0)
    if not stated:
        raise BadInput("charge", f"unknown for {symbol}", allowed="a charge in e", fix="add it, for example --charge 1")
    return stated, [f"σ: Nernst–Einstein with charge {stated:+g} e per {symbol}: independent ions (Haven ratio 1)"]


def _named(temperature: float | None, note: str) -> str:
    return f"{temperature:g} K, {note}" if temperature else note


def _transport_table(symbol: str, points: Sequence[_Point]) -> Table:
    rows: list[list[Cell]] = []
    for p in points:
        row: list[Cell] = [f"{p.temperature:g}" if p.temperature else "–", p.tracer.tracer]
        row += [_interval(p.tracer.tracer), p.estimates.get("conductivity"), p.tracer.slope, str(p.tracer.hops)]
        rows.append([*row, f"{p.tracer.fit_from / PS:.3g}", f"{p.tracer.duration / PS:.4g}"])
    return Table(
        name="transport",
        title=f"Transport of {symbol}",
        section="transport",
        columns=[
            "T (K)", f"D({symbol}) (cm²/s)", "95 % interval of D", "σ Nernst–Einstein (mS/cm)", "d ln MSD / d ln τ", "hops",
            "fit from (ps)", "run (ps)",
        ],
        rows=rows,
        caption="D: tracer diffusivity relative to the host. d ln MSD / d ln τ at the longest lags: 1 diffusive, near 0 caged.",
    )  # fmt: skip


def _interval(estimate: Estimate) -> Cell:
    if estimate.interval is None:
        return "–" if estimate.upper_limit is None else replace(estimate, unit="")
    low, high = estimate.interval
    power = math.floor(math.log10(max(abs(low), abs(high)) or 1.0))
    return f"({low / 10.0**power:.2f} to {high / 10.0**power:.2f}) × 10{str(power).translate(_SUPERSCRIPTS)}"


def _msd_figures(symbol: str, points: Sequence[_Point]) -> list[Figure]:
    curves, fits = [], []
    for p in points:
        msd = p.tracer.msd
        x = (msd.x / PS).tolist()
        curves.append(Series(label=p.label, x=x, y=msd.y.tolist(), error=msd.error.tolist()))
        value, offset = p.tracer.tracer.value, p.tracer.intercept.value
        if value is not None and offset is not None:
            lags = msd.x[msd.x >= p.tracer.fit_from]
            line = offset + 6.0 * value / DIFFUSIVITY_CM2_S * lags
            x = (lags / PS).tolist()
            fits.append(Series(label=f"{p.label} fit", subject=p.label, x=x, y=line.tolist(), style="dashed"))
    return [
        Figure(
            name="msd", title=f"Mean square displacement of {symbol}", series=curves + fits, section="transport",
            x_label="τ (ps)", y_label=f"MSD of {symbol} (Å²)",
            caption="Bands: one standard error. Dashed: the fitted line, over the lags of the fit.",
        ),
        Figure(
            name="msd-loglog", title=f"Mean square displacement of {symbol}, logarithmic", series=curves, kind="loglog",
            section="transport", x_label="τ (ps)", y_label=f"MSD of {symbol} (Å²)",
            caption="Slope 1: diffusion; plateau: caged ions.",
        ),
    ]  # fmt: skip


def _arrhenius_results(symbol: str, points: Sequence[_Point], charge: float) -> Results:
    measured = [(float(p.temperature or 0), p.tracer.tracer) for p in points]
    if len({t for t, e in measured if e.value}) < 2:
        note = "Arrhenius fit: fewer than two temperatures with a measured diffusivity"
        figure = _arrhenius_figure(f"D({symbol})", "diffusivity", measured, [])
        return Results(command="transport", figures=[figure], notes=[note])
    fit = arrhenius(measured)
    room = fit.at(ROOM_K)
    line = [(t, fit.at(t)) for t in _fit_temperatures(fit)]
    values = {"activation_energy": fit.energy, "prefactor": fit.prefactor, f"extrapolated_diffusivity_{ROOM_K:g}K": room}
    row: list[Cell] = [fit.energy, fit.prefactor, ", ".join(f"{t:g}" for t in fit.temperatures), fit.chi_squared, room]
    columns = ["Eₐ (eV)", "D₀ (cm²/s)", "temperatures (K)", "χ² per degree of freedom", f"D({ROOM_K:g} K) (cm²/s)"]
    figures = [_arrhenius_figure(f"D({symbol})", "diffusivity", measured, line)]
    if all(p.volume for p in points):
        ohmic = [(t, _conductivity_at(points[0], t, e, charge)) for t, e in [(ROOM_K, room), *line]]
        values[f"extrapolated_conductivity_{ROOM_K:g}K"] = ohmic[0][1]
        row, columns = [*row, ohmic[0][1]], [*columns, f"σ({ROOM_K:g} K) (mS/cm)"]
        conductivities = [(float(p.temperature or 0), p.estimates["conductivity"]) for p in points]
        figures.append(_arrhenius_figure("σ", "conductivity", conductivities, ohmic[1:]))
    span = f"{fit.temperatures[0]:g}–{fit.temperatures[-1]:g} K"
    note = f"D and σ at {ROOM_K:g} K are extrapolated from {span}"
    outside = fit.is_extrapolation(ROOM_K)
    caption = "ln D = ln D₀ − Eₐ/(k_B T), weighted by the errors of D" + (f". {note}." if outside else ".")
    table = Table("arrhenius", f"Arrhenius fit, {span}", "transport", columns, [row], caption)
    return Results(
        command="transport", values=values, headlines=[Headline(quantity="activation_energy", value="activation_energy")],
        tables=[table], figures=figures, notes=[note] if outside else [],
    )  # fmt: skip


def _conductivity_at(point: _Point, temperature_K: float, diffusion: Estimate, charge: float) -> Estimate:
    return conductivity(
        replace(point.tracer, tracer=diffusion), charge=charge, temperature_K=temperature_K, volume=point.volume or 0.0
    )


def _fit_temperatures(fit: Arrhenius) -> list[float]:
    """From the hottest run to room temperature, evenly in 1/T."""
    ends = 1.0 / max(fit.temperatures[-1], ROOM_K), 1.0 / min(fit.temperatures[0], ROOM_K)
    return [float(t) for t in 1.0 / np.linspace(*ends, 40)]


def _arrhenius_figure(
    quantity: str, name: str, points: Sequence[tuple[float, Estimate]], line: Sequence[tuple[float, Estimate]]
) -> Figure:
    unit = points[0][1].unit
    seen = [(t, e) for t, e in points if e.value is not None]
    below = [(t, e.upper_limit) for t, e in points if e.value is None and e.upper_limit is not None]
    series = []
    if line:
        x, y, spread = [1000.0 / t for t, _ in line], [float(e.value or 0.0) for _, e in line], [e.error or 0.0 for _, e in line]
        series.append(Series(label=f"{quantity} fit", subject=quantity, x=x, y=y, error=spread, style="dashed"))
    if seen:
        errors = [float(e.error or 0.0) for _, e in seen]
        x, y = [1000.0 / t for t, _ in seen], [float(e.value or 0.0) for _, e in seen]
        series.append(Series(label=quantity, x=x, y=y, error=errors, style="points"))
    if below:
        x, y = [1000.0 / t for t, _ in below], [float(v) for _, v in below]
        series.append(Series(label=f"{quantity} upper limit", subject=quantity, x=x, y=y, style="points", limit=True))
    return Figure(
        name=f"arrhenius-{name}", title=f"Arrhenius plot of {quantity}", section="transport", x_label="1000/T (1/K)",
        y_label=f"{quantity} ({unit})", series=series, kind="arrhenius",
        caption="Dashed: weighted fit; band: one standard error." if line else "",
    )  # fmt: skip


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
            series = [Series(label=c.label, x=c.x.tolist(), y=c.y.tolist(), error=c.error.tolist()) for c in curves]
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
