"""Long strides of LGPS and of an Al(110) slab: what their runs measured, from results.json of each folder.

    mdistill models lgps-sevennet-0 --out start
    mdistill train stride --from lgps-sevennet-0 --structure start/lgps-sevennet-0.extxyz --threads 1 \
        --segments.temperatures-K 600 800 1000 --judge.temperature-K 800 --out lgps
    mdistill distill examples/al110.extxyz --teacher sevennet-0 --temperatures 300 500 --quick --committee 1 \
        --label.frames 25 --stride-fs 32 --threads 1 --out slab          (again with --strides.train.kick-size student)
    python -m benchmarks.stride_rungs lgps slab slab-heavy

One core: about 45 CPU minutes for LGPS, 25 and 15 for the slabs.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.record import write_record
from mdistill.library.plain import plain_command
from mdistill.runs.results import Results, read_results


def rung_row(name: str, results: Results) -> dict[str, Any]:
    """Temperatures (K, from their targets), structure, speed and verdicts of the map of a run."""
    gates = {gate.name.removeprefix("stride: "): gate for gate in results.gates if gate.name.startswith("stride: ")}
    deviations = {f"ΔT {ensemble} (K)": value for ensemble, value in gates["temperature"].parts.items()}
    facts = {str(row[0]): row[1] for table in results.tables if table.name == "stride-facts" for row in table.rows}
    return {
        "run": name,
        "command": plain_command(str(results.provenance.get("command_line", ""))),
        **deviations,
        "speed-up": results.values["stride_speed_up"],
        "divergence of RDFs": gates["structure"].measured,
        **{text: facts[text] for text in ("stride (fs), force calls in it", "strides replaced by time steps")},
        "gates failed": [name for name, gate in gates.items() if not gate.passed],
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", nargs="+", type=Path)
    runs = parser.parse_args().runs
    write_record("stride_rungs", {}, [rung_row(run.name, read_results(run)) for run in runs])


if __name__ == "__main__":
    main()
