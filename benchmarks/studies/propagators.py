"""Propagators against known answers: order, drift, ensembles, per-element temperature, NpT fluctuations, seeds.

Runs the physics tests (harmonic and Lennard-Jones crystals, ideal gas) and writes what they measured.

    python -m benchmarks.studies.propagators
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.record import ROOT, write_record

TESTS = [f"tests/physics/test_{name}.py" for name in ("propagators", "thermostats", "barostats")]


def main() -> None:
    """Run, collect, write."""
    with tempfile.TemporaryDirectory() as folder:
        measured = Path(folder) / "measured.jsonl"
        environment = os.environ | {"MDISTILL_MEASURED": str(measured)}
        subprocess.run([sys.executable, "-m", "pytest", *TESTS], cwd=ROOT, check=True, env=environment)
        found = [json.loads(line) for line in measured.read_text(encoding="utf-8").splitlines()]
    rows = [{name: row[name] for name in ("test", "quantity", "measured", "required")} for row in found if not row["planted"]]
    caught = sum(row["planted"] for row in found)
    write_record("propagators", {"tests": TESTS, "planted_bugs_caught": caught}, rows)


if __name__ == "__main__":
    main()
