"""The picture of long_stride.py: what strides gain; conductivity, structure and displacements by strides and by time steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from mdistill.analysis.msd import mean_square_displacement
from mdistill.analysis.rdf import rdf
from mdistill.io.trajectories import read_hdf5

KINDS = ("steps", "strides")
MARKERS = {"steps": "s", "strides": "o"}
KICKS = {"light": "o", "student": "D"}


def plot(rows: list[dict[str, Any]], home: Path, path: Path) -> None:
    """Write the picture.

    Args:
        rows: Of the record.
        home: A material's folder with runs of time steps in steps/ and of strides in another, both by temperature.
        path: Of the picture.
    """
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(10.0, 7.6))
    gains(axes[0, 0], rows)
    conductivities(axes[0, 1], rows)
    runs: dict[tuple[str, str], list[Any]] = {}
    for kind, pattern in (("steps", "steps/md-*/trajectory.h5"), ("strides", "16fs-2/md-*/trajectory.h5")):
        for place in sorted(home.glob(pattern)):
            kelvin = place.parent.name.split("-")[1].removesuffix("K")
            runs.setdefault((kind, kelvin), []).append(read_hdf5(place))
    structure(axes[1, 0], runs)
    travelled(axes[1, 1], runs)
    for axis in axes.flat:
        if axis.get_legend_handles_labels()[1]:
            axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path)


def stride_and_calls(row: dict[str, Any]) -> str:
    """Of a row, "16, 2": stride in fs, force calls in it."""
    return next(str(fact["value"]) for fact in row["facts"] if fact[""].startswith("stride (fs)"))


def kick_size(row: dict[str, Any]) -> str:
    """Of a row: light, or as large as the student, which all were at first."""
    return str(row.get("kicks", "student"))


def gains(axis: Any, rows: list[dict[str, Any]]) -> None:
    """How many times as many nanoseconds a day, against the error of a stride; each point says fs / force calls; hollow where a
    gate failed. Maps that are off by more than a tenth break at once and are left out."""
    rows = [row for row in rows if row["stride_error"][0] < 10.0]
    colours = {name: f"C{k}" for k, name in enumerate(sorted({row["material"] for row in rows}))}
    said: list[tuple[str, tuple[float, float], str]] = []
    for row in sorted(rows, key=lambda row: float(row["stride_error"][0])):
        gain, passed, size = row["stride_speed_up"], all(gate[2] for gate in row["gates"].values()), kick_size(row)
        where, colour = (row["stride_error"][0], gain[0]), colours[row["material"]]
        face = colour if passed else "none"
        axis.errorbar(*where, yerr=gain[1], marker=KICKS[size], ls="", capsize=3, color=colour, mfc=face)
        said.append((stride_and_calls(row).replace(",", " /"), where, colour))
    for name, colour in colours.items():
        axis.plot([], [], marker="o", ls="", color=colour, label=name)
    for size, marker in KICKS.items():
        label = "light kicks" if size == "light" else "kicks as large as the student"
        axis.plot([], [], marker=marker, ls="", color="grey", label=label)
    axis.plot([], [], marker="o", ls="", color="grey", mfc="none", label="a gate failed")
    axis.set(xlabel="error of momenta after a stride, median (%)", ylabel="ns/day over time steps (×)")
    axis.set_title("stride (fs) / force calls", fontsize=8)
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter(mpl.ticker.NullFormatter())
    axis.set(yscale="log", ylim=(0.5, 40.0))
    axis.yaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter(mpl.ticker.NullFormatter())
    axis.set_xlim(right=1.6 * axis.get_xlim()[1])
    said_apart(axis, said)


def said_apart(axis: Any, said: list[tuple[str, tuple[float, float], str]]) -> None:
    """Text beside points, each where it covers fewest of the other points and texts. Limits and scales of the axis are set."""
    dot, (wide, high) = 72.0 / axis.figure.dpi, (4.2, 8.0)
    places = [dot * axis.transData.transform(where) for _, where, _ in said]
    taken = [(x - 4.0, y - 4.0, x + 4.0, y + 4.0) for x, y in places]
    for (text, where, colour), (x, y) in zip(said, places, strict=True):
        width = wide * len(text)
        right, middle, left = 6.0, -width / 2, -width - 6.0
        offsets = [(right, -3.0), (left, -3.0), (middle, 6.0), (middle, -12.0)]
        offsets += [(a, b) for b in (5.0, -11.0, 15.0, -21.0) for a in (right, left)] + [(middle, 16.0), (middle, -22.0)]
        boxes = [(x + a, y + b, x + a + width, y + b + high) for a, b in offsets]
        covered = [
            sum(box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3] for other in taken)
            for box in boxes
        ]
        best = covered.index(min(covered))
        taken.append(boxes[best])
        axis.annotate(text, where, xytext=offsets[best], textcoords="offset points", fontsize=7, color=colour)


def conductivities(axis: Any, rows: list[dict[str, Any]]) -> None:
    """σ(T) both ways."""
    for shift, row in enumerate(row for row in rows if "transport" in row):
        for kind in KINDS:
            points = [
                (float(name.split(", ")[1].removesuffix(" K")), *value["conductivity"][:2])
                for name, value in row.get("transport", {}).items()
                if name.startswith(kind + ",") and isinstance(value, dict) and value["conductivity"][0] is not None
            ]
            if points:
                kelvin, sigma, error = np.array(points, dtype=float).T
                apart = 1.0 + 0.004 * (2 * shift + (kind == "steps"))
                label = f"{row['material']}, {kind} ({kick_size(row)} kicks)"
                axis.errorbar(apart * 1000.0 / kelvin, sigma, yerr=error, marker=MARKERS[kind], capsize=3, ls="", label=label)
    axis.set(xlabel="1000/T (1/K)", ylabel="σ (mS/cm)", yscale="log")


def structure(axis: Any, runs: dict[tuple[str, str], list[Any]]) -> None:
    """RDFs at 600 K both ways."""
    for colour, pair in enumerate((("P", "S"), ("Li", "S"), ("Li", "Li"))):
        for kind in KINDS:
            if found := runs.get((kind, "600")):
                curve, steps = rdf(found[0], pair=pair, bins=120), kind == "steps"
                width, shade = (3.0, 0.35) if steps else (1.0, 1.0)
                axis.plot(curve.x, curve.y, lw=width, alpha=shade, color=f"C{colour}", label=f"{'–'.join(pair)}, {kind}, 600 K")
    axis.set(xlabel="r (Å)", ylabel="g(r)", ylim=(0.0, 8.0))


def travelled(axis: Any, runs: dict[tuple[str, str], list[Any]]) -> None:
    """Mean square displacements of Li both ways, means over runs where there are several."""
    colours = {kelvin: f"C{k}" for k, kelvin in enumerate(sorted({kelvin for _, kelvin in runs}))}
    for (kind, kelvin), found in sorted(runs.items()):
        curves = [mean_square_displacement(run, species="Li") for run in found]
        values, several = np.array([curve.y for curve in curves]), len(curves) > 1
        error = values.std(axis=0, ddof=1) / len(curves) ** 0.5 if several else curves[0].error
        style = {"marker": MARKERS[kind], "ms": 3, "ls": "", "capsize": 2, "color": colours[kelvin]}
        face = "none" if kind == "steps" else None
        axis.errorbar(curves[0].x / 1000.0, values.mean(axis=0), yerr=error, mfc=face, label=f"{kelvin} K, {kind}", **style)
    axis.set(xlabel="τ (ps)", ylabel="MSD of Li (Å²)", xscale="log", yscale="log")
