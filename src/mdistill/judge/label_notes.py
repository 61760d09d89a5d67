"""What makes errors against labels misleading: structures that were trained on, structures far from those, other units."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from mdistill.analysis.taught import cannot_tell, departures, header_of, taught_of, told
from mdistill.nets.trained_structures import trained_on
from mdistill.types import LabelledFrame, Potential, Prediction

_CLEAR, _FACTOR = 0.9, 3.0
"""Correlation from which labels and answers are compared in size, and the factor between them from which it is told."""
_FEWEST = 3


def label_notes(potential: Potential, frames: Sequence[LabelledFrame], predictions: Sequence[Prediction]) -> list[str]:
    """Notes on a comparison of a model with labels."""
    return [*_trained(potential, frames), *_far(potential, frames), *_units(frames, predictions)]


def _trained(potential: Potential, frames: Sequence[LabelledFrame]) -> list[str]:
    header = header_of(potential)
    if not header:
        return ["whether the model was trained on any of these structures is not known"]
    count = trained_on(header.get("provenance", {}), frames)
    if count is None:
        return [f"the file of {potential.name} does not tell whether it was trained on any of these structures"]
    if count == 0:
        return []
    what = f"all {count}" if count == len(frames) else f"{count} of {len(frames)}"
    what += f" structure{'s' * (len(frames) != 1)}"
    return [f"{potential.name} was trained on {what}: these errors are not those of new structures"]


def _far(potential: Potential, frames: Sequence[LabelledFrame]) -> list[str]:
    taught = taught_of(potential)
    if taught is None:
        return [sentence] if (sentence := cannot_tell(potential)) else []
    found = [(k, phrases) for k, frame in enumerate(frames) if (phrases := departures(frame.system, taught))]
    if not found:
        return []
    first, phrases = found[0]
    count = f"{len(found)} of {len(frames)} structures are far from what {potential.name} was taught; frame {first + 1}: "
    return [told(potential.name, phrases)] if len(frames) == 1 else [f"{count}{'; '.join(phrases)}"]


def _units(frames: Sequence[LabelledFrame], predictions: Sequence[Prediction]) -> list[str]:
    both = [(frame, one) for frame, one in zip(frames, predictions, strict=True)]
    forces = [(f.target.forces, one.forces) for f, one in both if "forces" not in f.missing]
    notes = []
    if forces:
        labels, answers = (np.concatenate([pair[side].detach().cpu().numpy().ravel() for pair in forces]) for side in (0, 1))
        notes += _other_size("forces", "--forces-unit", labels, answers)
    known = [(f, one) for f, one in both if "energy" not in f.missing]
    alike = Counter(tuple(sorted(f.system.numbers.tolist())) for f, _ in known).most_common(1)
    if alike and alike[0][1] >= _FEWEST:
        same = [(f, one) for f, one in known if tuple(sorted(f.system.numbers.tolist())) == alike[0][0]]
        labels = np.array([float(f.target.energy[0]) for f, _ in same])
        answers = np.array([float(one.energy[0]) for _, one in same])
        notes += _other_size("energy differences", "--energy-unit", labels - labels.mean(), answers - answers.mean())
    return notes


def _other_size(what: str, flag: str, labels: np.ndarray, answers: np.ndarray) -> list[str]:
    """A note where labels follow the answers but are several times as large, as in another unit or with the other sign."""
    squares = float(labels @ labels), float(answers @ answers)
    if min(squares) == 0.0 or len(labels) < _FEWEST:
        return []
    correlation, ratio = float(labels @ answers) / math.sqrt(squares[0] * squares[1]), math.sqrt(squares[0] / squares[1])
    if abs(correlation) < _CLEAR or (correlation > 0.0 and 1.0 / _FACTOR < ratio < _FACTOR):
        return []
    sign = "−" if correlation < 0.0 else ""
    return [f"the labelled {what} are {sign}{ratio:.3g} times the model's: check the unit and sign of the file ({flag})"]
