r"""Does the answer come out the same tomorrow? The main job several times with other seeds: scatter of σ over its quoted error.

    python -m benchmarks.repeat examples/li6ps5cl.cif [--seeds 0 1 …] [--temperatures 500 700 900] [--runs FOLDER] [--threads 2]

Every run is `mdistill distill CRYSTAL --quick --seed K`; finished ones are not repeated, so the benchmark resumes, and rows of
earlier sessions stay in the record. For each temperature:

    χ² per degree of freedom = Σ (ln σ_k − m)²/s_k² / (n − 1)      m: mean of ln σ weighted by 1/s²    s_k: error of ln σ_k
    held = share of the 95 % intervals that hold exp(m); an upper limit holds it where it lies above
    scatter by source (relative): dynamics and training from the runs' own statistical and model errors, volume from the spread
    of the volumes times the slope of ln σ on ln V, the rest (labels, ordering) from what remains of the variance
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import RESULTS, ROOT, recorded, write_record
from mdistill.runs.ledger import Ledger
from mdistill.runs.results import Results, read_results

NAME = "repeat"


def row_of(results: Results, crystal: str, seed: int, folder: Path) -> dict[str, Any]:
    """What one run says at each temperature, and the minutes of its stages."""
    production = next(table for table in results.tables if table.name == "production")
    states = {}
    for line in production.rows:
        kelvin = str(line[0])
        sigma = results.values.get(f"conductivity_{kelvin}K")
        if sigma is None:
            continue
        parts = {p: results.values.get(f"conductivity_{p}_{kelvin}K") for p in ("statistical", "model")}
        volume, pressure = line[3], line[2]
        states[kelvin] = {
            "sigma": sigma.value, "error": sigma.error, "interval": sigma.interval, "limit": sigma.upper_limit,
            "statistical": getattr(parts["statistical"], "value", None), "model": getattr(parts["model"], "value", None),
            "volume": getattr(volume, "value", None), "pressure": getattr(pressure, "value", None),
        }  # fmt: skip
    energy = results.values.get("activation_energy")
    stages = {name: Ledger(folder / name).entries().get(name, {}).get("seconds") for name in _STAGES}
    return {
        "crystal": crystal, "seed": seed, "states": states, "failed gates": [g.name for g in results.gates if not g.passed],
        "activation energy": None if energy is None else [energy.value, energy.error],
        "minutes": {name: round(seconds / 60.0, 2) for name, seconds in stages.items() if seconds is not None},
    }  # fmt: skip


_STAGES = ("prepare", "label", "train", "refine", "gates", "production", "check")


def summary(rows: list[dict[str, Any]], crystal: str) -> list[dict[str, Any]]:
    """χ², coverage and scatter by source at each temperature."""
    mine, made = [row for row in rows if row["crystal"] == crystal], []
    for kelvin in sorted({k for row in mine for k in row["states"]}, key=float):
        states = [row["states"][kelvin] for row in mine if kelvin in row["states"]]
        known = [s for s in states if s["sigma"]]
        line: dict[str, Any] = {"crystal": crystal, "T (K)": kelvin, "runs": len(states), "with a value": len(known)}
        made.append(line)
        if len(known) < 2:
            continue
        logs = np.log([s["sigma"] for s in known])
        errors = np.array([s["error"] / s["sigma"] for s in known])
        mean = float(np.average(logs, weights=errors**-2))
        line |= {
            "mean σ (mS/cm)": math.exp(mean),
            "scatter": float(logs.std(ddof=1)),
            "quoted": float(np.sqrt((errors**2).mean())),
        }
        line["χ² per degree"] = float((((logs - mean) / errors) ** 2).sum() / (len(known) - 1))
        held = [s["interval"][0] <= math.exp(mean) <= s["interval"][1] for s in known if s["interval"]]
        held += [s["limit"] >= math.exp(mean) for s in states if not s["sigma"] and s["limit"]]
        line["held"] = f"{sum(held)} of {len(held)}"
        line |= _sources(known, logs)
    return made


def _sources(known: list[dict[str, Any]], logs: np.ndarray) -> dict[str, float]:
    """Standard deviations of ln σ by source."""
    dynamics = float(np.mean([((s["statistical"] or 0.0) / s["sigma"]) ** 2 for s in known]))
    training = float(np.mean([((s["model"] or 0.0) / s["sigma"]) ** 2 for s in known]))
    volumes, total = np.log([s["volume"] for s in known]), float(logs.var(ddof=1))
    slope = float(np.polyfit(volumes, logs, 1)[0]) if len(known) > 3 and np.ptp(volumes) > 1e-6 else 0.0
    volume = slope**2 * float(volumes.var(ddof=1))
    rest = max(0.0, total - dynamics - training - volume)
    parts = {"dynamics": dynamics, "training": training, "volume": volume, "labels and ordering": rest}
    return {name: math.sqrt(part) for name, part in parts.items()}


def draw(rows: list[dict[str, Any]]) -> None:
    """σ of every run with its interval, one panel for each crystal and temperature."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    panels = sorted({(row["crystal"], k) for row in rows for k in row["states"]}, key=lambda p: (p[0], float(p[1])))
    figure, axes = pyplot.subplots(1, len(panels), figsize=(2.6 * len(panels), 3.0), squeeze=False)
    for axis, (crystal, kelvin) in zip(axes[0], panels, strict=True):
        for row in rows:
            state = row["states"].get(kelvin) if row["crystal"] == crystal else None
            if state and state["sigma"] and state["interval"]:
                low, high = state["interval"]
                axis.errorbar(row["seed"], state["sigma"], [[state["sigma"] - low], [high - state["sigma"]]], fmt="o", color="C0")
            elif state and state["limit"]:
                axis.plot(row["seed"], state["limit"], "v", color="C1")
        axis.set(title=f"{crystal}, {kelvin} K", xlabel="seed", yscale="log")
    axes[0][0].set_ylabel("σ (mS/cm), 95 %")
    figure.tight_layout()
    figure.savefig(RESULTS / f"{NAME}.svg", metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("crystal", type=Path, nargs="?")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--teacher", default="sevennet-0")
    parser.add_argument("--temperatures", nargs="+", default=["500", "700", "900"])
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "repeat")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    rows = [row for row in recorded(NAME) if "states" in row]
    for seed in given.seeds if given.crystal else []:
        crystal = given.crystal.stem
        if any((row["crystal"], row["seed"]) == (crystal, seed) for row in rows):
            continue
        folder = given.runs / f"{crystal}-{seed}"
        command = [str(Path(sys.executable).with_name("mdistill")), "distill", str(given.crystal), "--quick", "--seed", str(seed)]
        command += ["--teacher", given.teacher, "--threads", str(given.threads), "--out", str(folder)]
        command += ["--temperatures", *given.temperatures]
        if subprocess.run(command, check=False).returncode in (0, 4):
            rows = [row for row in recorded(NAME) if "states" in row] + [row_of(read_results(folder), crystal, seed, folder)]
            write_record(NAME, {"preset": "quick", "teacher": given.teacher}, [*rows, *_summaries(rows)])
    rows = [row for row in recorded(NAME) if "states" in row]
    if rows:
        draw(rows)
        write_record(NAME, {"preset": "quick", "teacher": given.teacher}, [*rows, *_summaries(rows)])
    else:
        print(json.dumps({"runs": 0}))


def _summaries(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for crystal in dict.fromkeys(row["crystal"] for row in rows) for line in summary(rows, crystal)]


if __name__ == "__main__":
    main()
