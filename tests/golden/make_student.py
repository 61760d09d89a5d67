"""Make the golden model file of the current format: python tests/golden/make_student.py (never overwrites one)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from laws import evaluate
from mdistill.training.checkpoint import FORMAT, save_model
from systems import SYSTEMS, tiny_net


def main() -> None:
    path = Path(__file__).parent / f"student_format_{FORMAT}.mdistill"
    if path.exists():
        raise SystemExit(f"{path} exists: a golden file is made once per format")
    net = tiny_net(0, channels=3, radial=4, hidden=6)
    save_model(path, net, {"command": "python tests/golden/make_student.py"})
    predictions = {}
    for name, make in SYSTEMS.items():
        found = evaluate(net, make())
        predictions[name] = {"energy": float(found.energy[0]), "forces": found.forces.tolist()}
    stored = {"command": "python tests/golden/make_student.py", "predictions": predictions}
    path.with_suffix(".json").write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
