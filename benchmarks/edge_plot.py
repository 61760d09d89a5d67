"""Figure of the edge transformer: what pre-training gains, and vibrations of butane beside GFN2-xTB."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

COLOURS = {"force MAE (meV/Å)": "#1b6ca8", "E_eq (meV/Å)": "#c0392b"}
MODELS = {"GFN2-xTB": "black", "moment": "#117a65", "direct": "#c0392b", "direct, a quarter of the time": "#e08e0b"}


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Errors against the number of structures with their power laws; spectra of NVE runs, one above another."""
    from matplotlib.figure import Figure

    sizes = [row for row in rows if row["part"] == "pre-training"]
    spectra = [
        row
        for row in rows
        if row["part"] == "spectra" and not row.get("random frame") and row.get("ensemble") != "NVT" and "density (cm)" in row
    ]
    if not sizes or not spectra:
        return
    figure = Figure(figsize=(9.0, 4.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    for steps, marker, line in zip(sorted({row["steps"] for row in sizes}), ("o", "s"), (":", "-"), strict=False):
        these = [row for row in sizes if row["steps"] == steps]
        for name, colour in COLOURS.items():
            values = [row[name]["value"] if isinstance(row[name], dict) else row[name] for row in these]
            at, label = [row["fitted structures"] for row in these], f"{name.partition(' (')[0]}, {steps:,} steps"
            left.plot(at, values, marker + line, color=colour, lw=1.0, label=label)
    left.set(xscale="log", yscale="log", xlabel="structures of pre-training", ylabel="on unseen molecules, meV/Å")
    left.minorticks_off()
    left.set_xticks(ticks := [300, 1000, 3000, 10_000, 30_000, 100_000], [f"{n:,}" for n in ticks], fontsize=8)
    low, high = left.get_ylim()
    ticks = [tick for tick in (20, 50, 100, 200, 500) if low < tick < high]
    left.set_yticks(ticks, [f"{tick}" for tick in ticks])
    left.legend(fontsize=8, frameon=False)
    shift, seen = 0.0, set[str]()
    for row in spectra:
        if row["model"] not in MODELS or row["model"] in seen:
            continue
        seen.add(row["model"])
        density = [1e3 * value + shift for value in row["density (cm)"]]
        right.plot(row["wave number (1/cm)"], density, color=MODELS[row["model"]], lw=1.0, label=row["model"])
        shift += 2.0
    right.set(xlim=(0.0, 3600.0), xlabel="wave number, 1/cm", ylabel="density of vibrations, 10⁻³ cm, shifted", yticks=[])
    right.legend(fontsize=8, frameon=False, loc="upper center")
    figure.savefig(path)
