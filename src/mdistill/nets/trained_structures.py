"""Which structures a student was trained on: two projections of the positions of each are in the provenance of its file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mdistill.types import LabelledFrame, System

TRAINED = "trained_structures"
"""Key of the projections in the provenance of a model file."""
MOST = 20_000
"""Structures up to which they are kept."""
_SAME = 2e-5
"""Difference of positions, Å, up to which structures are the same; files round to about 1e-8."""


def projections_of(frames: Sequence[LabelledFrame]) -> list[list[float]]:
    """Number of atoms and two projections (Å) of each structure, for a model file; empty where there are too many."""
    return [_projections(frame.system) for frame in frames] if len(frames) <= MOST else []


def trained_on(provenance: Mapping[str, Any], frames: Sequence[LabelledFrame]) -> int | None:
    """How many of these structures a student was trained on; None where its file does not tell."""
    try:
        known = np.asarray(provenance.get(TRAINED, []), dtype=np.float64)
    except (TypeError, ValueError):
        return None
    if known.ndim != 2 or known.shape[1] != 3 or not np.isfinite(known).all():
        return None
    found = 0
    for frame in frames:
        mine = np.array(_projections(frame.system))
        near = (np.abs(known[:, 1:] - mine[1:]) < _SAME * math.sqrt(max(mine[0], 1.0))).all(1)
        found += bool((near & (known[:, 0] == mine[0])).any())
    return found


def _projections(system: System) -> list[float]:
    places = system.positions.detach().cpu().double().numpy().ravel()
    turns = np.arange(1, len(places) + 1) * math.sqrt(2.0)
    weights = (np.sin(turns * turns), np.cos(turns * math.sqrt(3.0)))
    return [float(system.n_atoms), *(round(float(places @ one), 6) for one in weights)]
