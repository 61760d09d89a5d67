"""One energy for each element, fitted to labels: other codes and functionals have another zero of energy.

Answers and labels are compared less what such constants explain. Of as many labels as constants nothing is left, and of one more
the errors are equal: neither tells how good a model is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int

from mdistill.types import LabelledFrame, Prediction

LEAST_FREEDOM = 2
"""Labelled energies above the number of fitted constants from which their errors are told."""


def with_fitted_references(frames: Sequence[LabelledFrame], predictions: Sequence[Prediction]) -> list[Prediction]:
    """The predictions plus one energy per element (least squares to the labelled energies)."""
    counts, known = _counts(frames)
    if not len(known):
        return list(predictions)
    lacking = np.array([float(frames[k].target.energy[0]) - float(predictions[k].energy[0]) for k in known])
    per_atom = 1.0 / counts[known].sum(1)
    fitted = np.linalg.lstsq(counts[known] * per_atom[:, None], lacking * per_atom, rcond=1e-8)[0]
    shifts = counts @ fitted
    return [replace(one, energy=one.energy + float(shift)) for one, shift in zip(predictions, shifts, strict=True)]


def references_judge(frames: Sequence[LabelledFrame]) -> bool:
    """Whether energies with fitted references tell anything: n labelled energies − rank of their compositions ≥ 2."""
    counts, known = _counts(frames)
    return len(known) > 0 and len(known) - int(np.linalg.matrix_rank(counts[known])) >= LEAST_FREEDOM


def _counts(frames: Sequence[LabelledFrame]) -> tuple[Float[np.ndarray, "frame element"], Int[np.ndarray, " known"]]:
    """Number of atoms of each element, and the frames with an energy."""
    elements = sorted({int(z) for frame in frames for z in frame.system.numbers.tolist()})
    counts = np.array([[int((frame.system.numbers == z).sum()) for z in elements] for frame in frames], dtype=float)
    return counts, np.array([k for k, frame in enumerate(frames) if "energy" not in frame.missing], dtype=np.int64)
