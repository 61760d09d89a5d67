"""Cells of slabs, wires and molecules closed by empty space, so that pair distributions of two runs can be compared."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from mdistill.types import Trajectory

MARGIN_A = 16.0
"""Twice the distance to which RDFs are compared."""


def boxed(*runs: Trajectory) -> list[Trajectory]:
    """Runs of the same atoms with every open direction closed by the same vector, perpendicular to the others.

    Its length is the largest extent of the atoms along it and `MARGIN_A`, so that no pair within half of that is an image. An
    RDF is then relative to the density in this box. A direction is open where its cell vector is zero.
    """
    from ase.geometry import complete_cell

    first = runs[0].cell[0].double().cpu().numpy()
    frame, boxes = complete_cell(first), [run.cell.clone() for run in runs]
    for k in np.flatnonzero(~first.any(1)):
        along = torch.from_numpy(frame[k])
        places = [run.positions.double().cpu() @ along for run in runs]
        extent = max(float((place.amax(1) - place.amin(1)).max()) for place in places)
        for box in boxes:
            box[:, k] = ((extent + MARGIN_A) * along).to(box)
    return [replace(run, cell=box) for run, box in zip(runs, boxes, strict=True)]
