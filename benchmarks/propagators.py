"""Propagators against known answers: order, drift, ensembles, per-element temperature, NpT fluctuations, seeds.

Runs the physics tests (harmonic and Lennard-Jones crystals, ideal gas) and writes what they measured.

    python benchmarks/propagators.py
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from record import write_record

ROOT = Path(__file__).parent.parent
TESTS = [f"tests/physics/test_{name}.py" for name in ("propagators", "thermostats", "barostats")]


def main() -> None:
    """Run, collect, write."""
    record = ROOT / ".trust" / "measured.jsonl"
    start = record.stat().st_size if record.exists() else 0
    subprocess.run([sys.executable, "-m", "pytest", *TESTS], cwd=ROOT, check=True)
    with open(record, encoding="utf-8") as handle:
        handle.seek(start)
        found = [json.loads(line) for line in handle]
    rows = [{name: row[name] for name in ("test", "quantity", "measured", "required")} for row in found if not row["planted"]]
    caught = sum(row["planted"] for row in found)
    write_record("propagators", {"tests": TESTS, "planted_bugs_caught": caught}, rows)


if __name__ == "__main__":
    main()
