"""Distributions of bonds, angles and torsions in production, beside the teacher's frames at the same temperature."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from mdistill.matter.bonds import Internal, bonds_of, internal_coordinates, internal_values
from mdistill.observables.production import Production
from mdistill.runs.results import Cell, Figure, Results, Series, Table
from mdistill.types import LabelledFrame, System

_MOST_VALUES, _LEAST_FRAMES = 400_000, 5
_BINS = {"bond": 60, "angle": 60, "torsion": 48}
_SHOWN, _MOST = 4, 16


def internal_results(produced: Sequence[Production], taught: Sequence[LabelledFrame] = ()) -> Results:
    """A table of means and widths, and histograms at the lowest temperature.

    Args:
        produced: Runs by temperature.
        taught: Labels; frames of the teacher's dynamics at the same temperatures are compared.
    """
    rows, figures, frames = list[list[Cell]](), [], 0
    kinds = internal_coordinates(bonds_of(produced[0].start))
    kinds = sorted(kinds, key=lambda one: ("H" in one.name, ("torsion", "angle", "bond").index(one.kind), one.name))
    for p in produced:
        own = _teacher_frames(taught, p.temperature_K)
        theirs = {} if own is None else {one.name: one for one in internal_coordinates(bonds_of(own[0]))}
        frames = max(frames, 0 if own is None else len(own[1]))
        for k, kind in enumerate(kinds):
            values, other = _production_values(kind, p), np.zeros(0)
            if own is not None and kind.name in theirs:
                other = internal_values(theirs[kind.name], *own[1:]).ravel()
            name = [kind.name, f"{p.temperature_K:g}"]
            rows.append([*name, *_moments(kind, values), *_moments(kind, other), _distance(kind, values, other)])
            if p is produced[0] and k < _MOST:
                figures.append(_figure(kind, p.temperature_K, values, other, folded=k >= _SHOWN))
    columns = ["coordinate", "T (K)", "mean", "width", "teacher mean", "teacher width", "Wasserstein-1"]
    caption = (
        "Bonds in Å, angles and torsions in degrees (of torsions the size, 0 to 180). Width: standard deviation. Teacher: up to "
        f"{frames} frames of its short dynamics at that temperature, in which slow torsions are not sampled."
    )
    table = Table("internal", "Bonds, angles, torsions", "molecules", columns, rows, caption)
    return Results(command="internal", tables=[table] if rows else [], figures=figures)


def _production_values(kind: Internal, p: Production) -> np.ndarray:
    most = max(1, _MOST_VALUES // (len(kind.atoms) * len(p.trajectories)))
    found = []
    for run in p.trajectories:
        every = -(-len(run.times) // most)
        found.append(internal_values(kind, run.positions[::every].double().numpy(), run.cell[::every].double().numpy()).ravel())
    return np.concatenate(found)


def _teacher_frames(taught: Sequence[LabelledFrame], kelvin: float) -> tuple[System, np.ndarray, np.ndarray] | None:
    """First structure, positions and cells of the teacher's dynamics at a temperature; None for too few frames."""
    frames = [frame for frame in taught if frame.source == "md" and frame.temperature_K == kelvin]
    frames = [frame for frame in frames if torch.equal(frame.system.numbers, frames[0].system.numbers)]
    if len(frames) < _LEAST_FRAMES:
        return None
    relaxed = next(
        (f.system for f in taught if f.source == "relaxed" and torch.equal(f.system.numbers, frames[0].system.numbers)), None
    )
    positions = np.stack([frame.system.positions.double().numpy() for frame in frames])
    return relaxed or frames[0].system, positions, np.stack([frame.system.cell[0].double().numpy() for frame in frames])


def _scaled(kind: Internal, values: np.ndarray) -> np.ndarray:
    """Å, or degrees; torsions without sign."""
    return values if kind.kind == "bond" else np.abs(np.degrees(values))


def _moments(kind: Internal, values: np.ndarray) -> list[Cell]:
    shown = _scaled(kind, values)
    return [round(float(shown.mean()), 4), round(float(shown.std()), 4)] if len(shown) else [None, None]


def _distance(kind: Internal, values: np.ndarray, other: np.ndarray) -> Cell:
    from scipy.stats import wasserstein_distance

    return round(float(wasserstein_distance(_scaled(kind, values), _scaled(kind, other))), 4) if len(other) else None


def _figure(kind: Internal, kelvin: float, values: np.ndarray, other: np.ndarray, *, folded: bool) -> Figure:
    values, other = _scaled(kind, values), _scaled(kind, other)
    everything = np.concatenate([values, other])
    low, high = (0.0, 180.0) if kind.kind == "torsion" else np.quantile(everything, [0.001, 0.999]).tolist()
    edges = np.linspace(low, max(high, low + 1e-3), _BINS[kind.kind] + 1)
    centres = (0.5 * (edges[1:] + edges[:-1])).tolist()
    series = [Series(label="student", x=centres, y=np.histogram(values, edges, density=True)[0].tolist())]
    if len(other):
        wide = edges[:: 3 if len(other) < 2000 else 1]
        few = np.histogram(other, wide, density=True)[0].tolist()
        series.insert(0, Series(label="teacher", x=(0.5 * (wide[1:] + wide[:-1])).tolist(), y=few, style="dashed"))
    unit = "Å" if kind.kind == "bond" else "°"
    return Figure(
        name=f"internal-{kind.name.replace(' ', '-')}", title=f"{kind.name.capitalize()} at {kelvin:g} K", section="molecules",
        x_label=f"{kind.kind} ({unit})", y_label=f"density (1/{unit})", series=series, folded=folded,
        caption=f"{len(values)} values of production" + (f", {len(other)} of the teacher." if len(other) else "."),
    )  # fmt: skip
