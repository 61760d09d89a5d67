"""A campaign of crystals from published CIFs, unattended: gates that failed and why, minutes, errors.

Reads the folder of `mdistill campaign`. The record of the repository: CIFs of OBELiX, each of another structure type, with
`preset = "quick"` and `temperatures = [600, 800, 1000]`; one worker, then two. On the way a worker and then the command were
killed by SIGKILL, and the same command continued.

    python -m benchmarks.many_crystals FOLDER
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

from benchmarks.record import write_record
from mdistill.runs.results import read_results

TOLD = {"force_mae": "force MAE (meV/Å)", "energy_mae": "energy MAE (meV/atom)", "speed_up": "speed-up"}


def row(entry: dict[str, str], folder: Path) -> dict[str, Any]:
    """One run of the campaign."""
    made: dict[str, Any] = {"crystal": entry["crystal"], "state": entry["state"], "attempts": int(entry["attempts"] or 0)}
    made |= {name: float(entry[name]) if entry[name] else None for name in ("minutes", "cpu_minutes")}
    place = folder / "runs" / entry["run"]
    if not (place / "results.json").is_file():
        return made | {"reason": entry["reason"]}
    results = read_results(place)
    judged = [gate for gate in results.gates if gate.judged]
    made |= {"formula": results.provenance.get("formula"), "gates": len(judged), "passed": sum(gate.passed for gate in judged)}
    made["failed"] = "; ".join(f"{gate.name}: {gate.detail}" for gate in judged if not gate.passed)
    for key, name in TOLD.items():
        found = results.values.get(key)
        made |= {name: found.value, f"± ({name})": found.error} if found is not None else {}
    return made


def main() -> None:
    folder = Path(sys.argv[1])
    with open(folder / "campaign.csv", encoding="utf-8", newline="") as handle:
        rows = [row(entry, folder) for entry in csv.DictReader(handle)]
    passed = sum(one.get("gates", 0) > 0 and one["gates"] == one["passed"] for one in rows)
    write_record("many_crystals", {"crystals": len(rows), "all gates passed": passed}, rows)


if __name__ == "__main__":
    main()
