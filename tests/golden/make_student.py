"""Make the golden model files of the current format: python tests/golden/make_student.py (never overwrites one)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from laws import evaluate
from mdistill.nets.model_files import FORMAT, save_model
from systems import SYSTEMS, tiny_net, tiny_painn

MAKERS = {"student": lambda: tiny_net(0, channels=3, radial=4, hidden=6), "painn": tiny_painn}


def main() -> None:
    for name, make in MAKERS.items():
        path = Path(__file__).parent / f"{name}_format_{FORMAT}.mdistill"
        if path.exists():
            print(f"{path} exists: a golden file is made once per format")
            continue
        net = make()
        save_model(path, net, {"command": "python tests/golden/make_student.py"})
        predictions = {}
        for system, built in SYSTEMS.items():
            found = evaluate(net, built())
            predictions[system] = {"energy": float(found.energy[0]), "forces": found.forces.tolist()}
        stored = {"command": "python tests/golden/make_student.py", "predictions": predictions}
        path.with_suffix(".json").write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
