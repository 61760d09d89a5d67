r"""Do the gates of production catch a student that is wrong? Students planted in finished runs of the main job, one a seed.

    python -m benchmarks.planted_students RUNS… [--share 0.9] [--steps 50]

Each run folder gives three students: its own ("right"), the same with all learned energies times `share` ("soft": 10 % too soft),
and one trained for `steps` steps on its labels ("short"). Each is taken through a short production in the run's cells (2 runs of
10 ps at each temperature) and through its check by the teacher. Recorded: which gates failed, or that dynamics blew up. Students
that have a row already are left out.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.record import recorded, write_record
from mdistill.data.store import LabelStore
from mdistill.errors import BlowUp
from mdistill.io.structures import STRUCTURES, read_systems
from mdistill.judge.check import check_production
from mdistill.nets.model_files import load_net, save_model
from mdistill.runs.folder import COMMAND, run_settings
from mdistill.settings import from_json
from mdistill.teachers.models import load
from mdistill.training.potential import train_potential
from mdistill.types import Potential
from mdistill.workflows.distill_settings import DistillSettings, mobile_element
from mdistill.workflows.production import produce

NAME, KINDS = "planted_students", ("right", "soft", "short")
_SHORT = {"runs": 2, "time_ps": 10.0, "equilibration_ps": 2.0, "cell_ps": 5.0, "target": 1.0, "size_check": False}


def plant(run: Path, kind: str, settings: DistillSettings, folder: Path, *, share: float, steps: int) -> Path:
    """Model file of a student of a run: its own, or one with learned energies times `share`, or one of `steps` steps."""
    own = run / "refine" / "student.mdistill"
    if kind == "soft":
        net = load_net(own)
        net.scale.mul_(share)  # type: ignore[union-attr, operator]
        save_model(folder / own.name, net)
        return folder / own.name
    if kind == "short":
        fit = replace(settings.train.fit, steps=steps, least_steps=1)
        return train_potential(LabelStore(run / "label").read(), replace(settings.train, fit=fit), folder).path
    return own


def judged(run: Path, kind: str, teacher: Potential, *, share: float, steps: int) -> dict[str, Any]:
    """The gates of one student's production that failed, and what they measured."""
    raw = {name: value for name, value in run_settings(run).items() if name != COMMAND}
    settings = from_json(DistillSettings, raw, source=run, derived=True)
    systems, mobile, kelvins = read_systems(run / "prepare" / STRUCTURES), mobile_element(settings.mobile), settings.temperatures
    row: dict[str, Any] = {"run": run.name, "seed": settings.seed, "student": kind}
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        student = load(plant(run, kind, settings, home, share=share, steps=steps), precision="float32")
        try:
            produce(
                systems, [student], kelvins, replace(settings.production, **_SHORT), home / "production", mobile=mobile,
                seed=settings.seed,
            )  # fmt: skip
        except BlowUp as blown:
            return row | {"failed": ["blow-up"], "reason": blown.reason}
        results = check_production(
            home / "production", [student], teacher, settings.check, home / "check", temperatures_K=kelvins, mobile=mobile,
            limits=settings.validate.limits, label=settings.label, like=systems[0], orderings=len(systems),
        )  # fmt: skip
    values = {gate.name: gate.measured for gate in results.gates}
    return row | {"failed": [gate.name for gate in results.gates if not gate.passed], "measured": values}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--share", type=float, default=0.9)
    parser.add_argument("--steps", type=int, default=50)
    given = parser.parse_args()
    rows = [row for row in recorded(NAME) if "run" in row]
    for run, kind in ((run, kind) for run in given.runs for kind in KINDS):
        if not any((row["run"], row["student"]) == (run.name, kind) for row in rows):
            teacher = load(run_settings(run)["teacher"])
            rows.append(judged(run, kind, teacher, share=given.share, steps=given.steps))
            caught = [{"student": k, "students": len(of), "caught": sum(bool(row["failed"]) for row in of)}
                      for k in KINDS if (of := [row for row in rows if row["student"] == k])]  # fmt: skip
            write_record(NAME, {"share": given.share, "steps": given.steps, **_SHORT}, [*rows, *caught])


if __name__ == "__main__":
    main()
