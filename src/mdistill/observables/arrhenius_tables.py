"""Arrhenius fit of the diffusivities: table, values and figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mdistill.analysis.arrhenius import Arrhenius, arrhenius
from mdistill.analysis.committee import Scatter, committee_arrhenius
from mdistill.analysis.conductivity import conductivity
from mdistill.estimates import Estimate, exactly
from mdistill.observables.points import Point, parts_text
from mdistill.runs.results import Cell, Figure, Headline, Results, Series, Table

ROOM_K = 300.0


def arrhenius_results(symbol: str, points: Sequence[Point], charge: float) -> Results:
    """Fit, extrapolation to 300 K and figures of the diffusivities of two or more temperatures."""
    measured = [(float(p.temperature or 0), p.estimates["diffusivity"]) for p in points]
    if len({t for t, e in measured if e.value}) < 2:
        note = "Arrhenius fit: fewer than two temperatures with a measured diffusivity"
        figure = _arrhenius_figure(f"D({symbol})", "diffusivity", measured, [])
        return Results(command="transport", figures=[figure], notes=[note])
    fit, parts, notes = _fit(points, measured)
    room = fit.at(ROOM_K)
    line = [(t, fit.at(t)) for t in _fit_temperatures(fit)]
    values = {"activation_energy": fit.energy, "prefactor": fit.prefactor, f"extrapolated_diffusivity_{ROOM_K:g}K": room}
    energy: Cell = fit.energy
    if parts is not None:
        values |= {f"activation_energy_{n}": exactly(getattr(parts, n), "eV") for n in ("statistical", "model")}
        energy = parts_text(float(fit.energy.value or 0.0), parts.statistical, parts.model)
    row: list[Cell] = [energy, fit.prefactor, ", ".join(f"{t:g}" for t in fit.temperatures), fit.chi_squared, fit.p_value, room]
    columns = ["Eₐ (eV)", "D₀ (cm²/s)", "temperatures (K)", "χ² per degree of freedom", "p", f"D({ROOM_K:g} K) (cm²/s)"]
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
    bends = _curvature_notes(fit)
    notes = [*notes, *bends]
    told = [
        Headline(
            quantity="activation_energy", value="activation_energy", doubts=["The Arrhenius plot is curved."] if bends else []
        )
    ]
    if outside and (name := f"extrapolated_conductivity_{ROOM_K:g}K") in values:
        doubts = [f"Extrapolated from {span}.", *(one.doubts[0] for one in told if one.doubts)]
        told.append(Headline(quantity="conductivity", value=name, temperature_K=ROOM_K, doubts=doubts))
    caption = "ln D = ln D₀ − Eₐ/(k_B T), weighted by the errors of D; p: probability of a larger χ² of a straight line" + (
        f". {note}." if outside else "."
    )
    table = Table("arrhenius", f"Arrhenius fit, {span}", "transport", columns, [row], caption)
    return Results(
        command="transport", values=values, headlines=told, tables=[table], figures=figures,
        notes=[note, *notes] if outside else notes,
    )  # fmt: skip


def _curvature_notes(fit: Arrhenius) -> list[str]:
    """Where a parabola differs from the line by 1.96 errors."""
    bend = fit.curvature
    if bend is None or bend.value is None or bend.error is None or abs(bend.value) <= 1.96 * bend.error:
        return []
    way = "smaller" if bend.value > 0 else "larger"
    seen = f"Arrhenius plot: curved ({abs(bend.value) / bend.error:.1f} standard errors), Eₐ is {way} at low temperature"
    return [f"{seen}; values outside {fit.temperatures[0]:g}–{fit.temperatures[-1]:g} K follow the straight line"]


def _fit(points: Sequence[Point], measured: Sequence[tuple[float, Estimate]]) -> tuple[Arrhenius, Scatter | None, list[str]]:
    """The fit to all runs; a committee's model error is that of the fits of its students, where two or more have one."""
    if not any(p.committee for p in points):
        return arrhenius(measured), None, []
    fits = []
    for number in sorted({number for p in points for number in p.students}):
        found = [(float(p.temperature or 0), p.students[number].tracer) for p in points if number in p.students]
        if len({t for t, e in found if e.value}) > 1:
            fits.append(arrhenius(found))
    if len(fits) < 2:
        note = "Arrhenius fit: fewer than two students have two temperatures: model errors count as independent"
        return arrhenius(measured), None, [note]
    fit, parts = committee_arrhenius(arrhenius([(float(p.temperature or 0), _statistical(p)) for p in points]), fits)
    return fit, parts, []


def _statistical(point: Point) -> Estimate:
    """The diffusivity with its statistical error only."""
    if point.committee is None:
        return point.tracer.tracer
    return replace(point.committee.total, error=point.committee.statistical.value, interval=None)


def _conductivity_at(point: Point, temperature_K: float, diffusion: Estimate, charge: float) -> Estimate:
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
