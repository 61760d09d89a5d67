"""The corrected teacher of a run: its teacher plus the fitted difference to hard labels. Hardened students are judged by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mdistill.closed_form.delta import Corrected, Delta, load_delta
from mdistill.nets.model_files import read_metadata
from mdistill.runs.results import Results
from mdistill.types import LabelledFrame, Potential

TABLES = ("errors", "check", "overlap", "softening", "teacher-dynamics")
GATES = ("force error", "energy error", "stress error", "overlap with the teacher", "softening", "RDF overlap,")
"""Beginnings of the names of gates whose labels are the teacher's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What the students of a run are judged by.

    Attributes:
        teacher: The teacher of the run.
        delta: The difference; None without hard labels.
        name: Its name with the level of theory and number of hard labels; "" without.
    """

    teacher: Potential
    delta: Delta | None = None
    name: str = ""

    @property
    def potential(self) -> Potential:
        """The corrected teacher, or the teacher."""
        return self.teacher if self.delta is None else Corrected(self.teacher, self.delta)

    def labels(self, frames: Sequence[LabelledFrame]) -> list[LabelledFrame]:
        """Labels of the teacher, corrected."""
        return list(frames) if self.delta is None else [self.delta.corrected(frame) for frame in frames]

    def told(self, results: Results) -> Results:
        """The results of a judgement; gates and tables name the corrected teacher."""
        if self.delta is None:
            return results
        gates = [replace(g, detail=f"{g.detail}; against {self.name}") if g.name.startswith(GATES) else g for g in results.gates]
        tables = [replace(t, caption=f"{t.caption} Teacher: {self.name}.") if t.name in TABLES else t for t in results.tables]
        return replace(results, gates=gates, tables=tables)


def reference_of(teacher: Potential, name: str, path: Path | None) -> Reference:
    """The reference of a run.

    Args:
        teacher, name: The teacher and its name.
        path: The file of the difference; None without hard labels.
    """
    if path is None:
        return Reference(teacher=teacher)
    delta, engine = load_delta(path), read_metadata(path)["provenance"].get("engine", "")
    return Reference(teacher=teacher, delta=delta, name=f"{name} corrected by {delta.labels} labels of {engine}")
