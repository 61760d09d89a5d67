"""Table of labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mdistill.estimates import exactly
from mdistill.labelling.plan import Task, task_frames
from mdistill.labelling.settings import LabelSettings
from mdistill.runs.results import Cell, Results, Table
from mdistill.settings import to_json
from mdistill.types import LabelledFrame


def label_results(
    frames: Sequence[LabelledFrame], tasks: Sequence[Task], settings: LabelSettings, *, teacher: str,
    seconds: float, notes: list[str],
) -> Results:  # fmt: skip
    """Frames by source and temperature, computed and planned."""
    rows: list[list[Cell]] = []
    for key in sorted({(f.source, f.temperature_K) for f in frames}):
        mine = [f for f in frames if (f.source, f.temperature_K) == key]
        energies = torch.stack([f.target.energy[0] / f.system.n_atoms for f in mine])
        force = torch.cat([f.target.forces for f in mine]).square().sum(1).sqrt()
        spread = float(energies.std(correction=0)) * 1000.0
        rows.append([key[0], key[1] or None, len(mine), len({f.block for f in mine}), sum(f.probes is not None for f in mine),
                     1e3 * float(force.mean()), 1e3 * float(force.max()), spread])  # fmt: skip
    columns = ["source", "T (K)", "frames", "blocks", "with curvature", "mean |F| (meV/Å)", "max |F| (meV/Å)", "σ(E) (meV/atom)"]
    table = Table("labels", "Teacher labels", "training", columns, rows)
    return Results(
        command="label",
        settings=to_json(settings),
        provenance={"teacher": teacher},
        values={
            "frames": exactly(len(frames)),
            "planned_frames": exactly(sum(task_frames(task, settings) for task in tasks)),
            "label_seconds": exactly(seconds, "s"),
        },
        tables=[table],
        notes=notes,
    )
