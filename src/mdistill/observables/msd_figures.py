"""Figures of mean square displacements: every run, every element, every axis."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase.data import chemical_symbols

from mdistill.analysis.msd import displacements, frame_spacing, geometric_lags, msd_of
from mdistill.analysis.statistics import Curve
from mdistill.observables.points import Point, Runs
from mdistill.runs.results import Figure, Series
from mdistill.units import DIFFUSIVITY_CM2_S, PS

_MOST_RUNS = 12
"""Runs of a temperature that are drawn one by one."""


def msd_figures(symbol: str, points: Sequence[Point], runs: Sequence[Runs]) -> list[Figure]:
    """MSD of the mobile ion with its runs, linear and logarithmic; along each axis and of each element at the hottest state.

    Args:
        symbol: Mobile ion.
        points: What was measured at each temperature.
        runs: The runs of each point, in the same order.
    """
    means = [_series(p.tracer.msd, p.label) for p in points]
    replicas = [one for p, state in zip(points, runs, strict=True) for one in _replicas(symbol, p, state)]
    thin = " Thin: single runs." if replicas else ""
    hottest, state = points[-1], runs[-1]
    x_label, y_label = "τ (ps)", f"MSD of {symbol} (Å²)"
    figures = [
        Figure(
            name="msd", title=f"Mean square displacement of {symbol}", series=[*means, *_lines(points), *replicas],
            section="transport", x_label=x_label, y_label=y_label,
            caption=f"Bands: one standard error. Dashed: the fitted line, over the lags of the fit.{thin}",
        ),
        Figure(
            name="msd-loglog", title=f"Mean square displacement of {symbol}, logarithmic", series=[*means, *replicas],
            kind="loglog", section="transport", x_label=x_label, y_label=y_label,
            caption=f"Slope 1: diffusion; plateau: caged ions.{thin}",
        ),
    ]  # fmt: skip
    axes, elements = _along_axes(symbol, state), _elements(symbol, state)
    where = f", {hottest.label}" if hottest.temperature else ""
    if axes:
        figures.append(
            Figure(
                name="msd-axes", title=f"Mean square displacement of {symbol} along each axis{where}", series=axes,
                section="transport", x_label=x_label, y_label=y_label, caption="Parallel to the lattice vectors a, b and c.",
            )
        )  # fmt: skip
    if len(elements) > 1:
        figures.append(
            Figure(
                name="msd-elements", title=f"Mean square displacement of each element{where}", series=elements, kind="loglog",
                section="transport", x_label=x_label, y_label="MSD (Å²)", caption="Relative to the host. A solid host: plateaus.",
            )
        )  # fmt: skip
    return figures


def _series(curve: Curve, label: str) -> Series:
    return Series(label=label, x=(curve.x / PS).tolist(), y=curve.y.tolist(), error=curve.error.tolist())


def _replicas(symbol: str, point: Point, state: Runs) -> list[Series]:
    """Each of two or more runs of a temperature as a thin line."""
    if len(state.trajectories) < 2:
        return []
    thin = []
    for number, run in enumerate(state.trajectories[:_MOST_RUNS], 1):
        curve = msd_of(displacements(run, species=symbol), frame_spacing(run))
        x, y = (curve.x / PS).tolist(), curve.y.tolist()
        thin.append(Series(label=f"{point.label} run {number}", subject=point.label, x=x, y=y, style="thin"))
    return thin


def _lines(points: Sequence[Point]) -> list[Series]:
    """Fitted lines over the lags of their fits."""
    fits = []
    for p in points:
        msd, value, offset = p.tracer.msd, p.tracer.tracer.value, p.tracer.intercept.value
        if value is not None and offset is not None:
            lags = msd.x[msd.x >= p.tracer.fit_from]
            line = (offset + 6.0 * value / DIFFUSIVITY_CM2_S * lags).tolist()
            fits.append(Series(label=f"{p.label} fit", subject=p.label, x=(lags / PS).tolist(), y=line, style="dashed"))
    return fits


def _along_axes(symbol: str, state: Runs) -> list[Series]:
    """MSD parallel to each lattice vector; none in an open cell."""
    first = state.trajectories[0]
    cell = first.cell.double().cpu().numpy().mean(axis=0)
    if abs(np.linalg.det(cell)) < 1e-3:
        return []
    moved, spacing = [displacements(run, species=symbol) for run in state.trajectories], frame_spacing(first)
    units = cell / np.linalg.norm(cell, axis=1, keepdims=True)
    return [
        _series(msd_of([(run @ unit)[..., None] for run in moved], spacing), f"along {axis}")
        for axis, unit in zip("abc", units, strict=True)
    ]


def _elements(symbol: str, state: Runs) -> list[Series]:
    """MSD of every element, the mobile one first."""
    first = state.trajectories[0]
    names = sorted({chemical_symbols[z] for z in first.numbers.tolist()}, key=lambda name: (name != symbol, name))
    lags = geometric_lags(max(len(run.times) for run in state.trajectories))
    return [
        _series(
            msd_of(
                [displacements(run, species=name, mobile=symbol) for run in state.trajectories], frame_spacing(first), lags=lags
            ),
            name,
        )
        for name in names
    ]
