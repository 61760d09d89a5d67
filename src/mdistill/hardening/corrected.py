"""The corrected teacher of a run: its teacher with the fitted difference to hard labels, or trained further on them. Hardened
students are taught and judged by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from mdistill.closed_form.delta import load_delta
from mdistill.hardening.tune import TUNED, load_tuning
from mdistill.nets.model_files import read_metadata
from mdistill.runs.results import Results
from mdistill.teachers.tuned import is_tuned
from mdistill.types import LabelledFrame, Potential, Prediction, System

DELTA = "delta.mdistill"
TABLES = ("errors", "check", "overlap", "softening", "teacher-dynamics")
GATES = ("force error", "energy error", "stress error", "overlap with the teacher", "softening", "RDF overlap,")
"""Beginnings of the names of gates whose labels are the teacher's."""


class Correction(Protocol):
    """What makes a teacher agree with hard labels: `closed_form.delta.Delta` or `hardening.tune.Tuned`.

    Attributes:
        labels: Number of hard labels behind it.
        softening: The student's learned energy is scaled by 1 + softening before it is trained on hard labels.
        name, told: "corrected", "corrected by 34 labels".
        how: "with the fitted difference to", before the level of theory.
    """

    @property
    def labels(self) -> int: ...
    @property
    def softening(self) -> float: ...
    @property
    def name(self) -> str: ...
    @property
    def told(self) -> str: ...
    @property
    def how(self) -> str: ...
    def of(self, base: Prediction, system: System) -> Prediction:
        """The corrected prediction, of one struct and the teacher's."""
        ...

    def corrected(self, frame: LabelledFrame) -> LabelledFrame:
        """A frame with its labels of the teacher corrected."""
        ...

    def applied(self, teacher: Potential) -> Potential:
        """The corrected teacher."""
        ...


def correction_file(folder: Path) -> Path | None:
    """The file of the correction in a folder of hardened students; None where there is none."""
    return next((folder / name for name in (TUNED, DELTA) if (folder / name).is_file()), None)


def load_correction(path: Path) -> Correction:
    """Read what corrects a teacher: `delta.mdistill` or `tuned.mdistill`. Raises as `load_delta`."""
    return load_tuning(path) if is_tuned(path) else load_delta(path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What the students of a run are judged by.

    Attributes:
        teacher: The teacher of the run.
        correction: Its correction; None without hard labels.
        name: Its name with the level of theory and number of hard labels; "" without.
    """

    teacher: Potential
    correction: Correction | None = None
    name: str = ""

    @property
    def potential(self) -> Potential:
        """The corrected teacher, or the teacher."""
        return self.teacher if self.correction is None else self.correction.applied(self.teacher)

    def labels(self, frames: Sequence[LabelledFrame]) -> list[LabelledFrame]:
        """Labels of the teacher, corrected."""
        return list(frames) if self.correction is None else [self.correction.corrected(frame) for frame in frames]

    def told(self, results: Results) -> Results:
        """The results of a judgement; gates and tables name the corrected teacher."""
        if self.correction is None:
            return results
        gates = [replace(g, detail=f"{g.detail}; against {self.name}") if g.name.startswith(GATES) else g for g in results.gates]
        tables = [replace(t, caption=f"{t.caption} Teacher: {self.name}.") if t.name in TABLES else t for t in results.tables]
        return replace(results, gates=gates, tables=tables)


def reference_of(teacher: Potential, name: str, path: Path | None) -> Reference:
    """The reference of a run.

    Args:
        teacher, name: The teacher and its name.
        path: The file of its correction; None without hard labels.
    """
    if path is None:
        return Reference(teacher=teacher)
    correction, engine = load_correction(path), read_metadata(path)["provenance"].get("engine", "")
    return Reference(teacher=teacher, correction=correction, name=f"{name} {correction.told} of {engine}")
