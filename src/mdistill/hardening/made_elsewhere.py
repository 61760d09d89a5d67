"""Hard labels made elsewhere, as an engine: it answers for the structures of its files and computes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from mdistill.labelling.engine import Answer, Engine, Failure
from mdistill.labelling.remembered import DECIMALS
from mdistill.runs.identity import structure_sha256
from mdistill.training.labels import frames_hash
from mdistill.types import LabelledFrame, Prediction, System


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeElsewhere:
    """Labels of a file or of a label folder as an `Engine`.

    Attributes:
        theory: The name of the file, for tables.
        name: That name, and the sha256 of what the file holds: other labels are another engine.
        systems: The structures.
        answers: Their labels, by the structure's sha256.
        elements: Atomic numbers of the structures.
    """

    theory: str
    name: str
    systems: tuple[System, ...]
    answers: Mapping[str, Prediction]
    elements: frozenset[int]

    def label(
        self, system: System, folder: Path, *, probes: Float[Tensor, "probe atom 3"] | None = None,
        known: Prediction | None = None,
    ) -> Answer | Failure:  # fmt: skip
        """See `Engine.label`. Curvature products are not known."""
        found = self.answers.get(structure_sha256(system, decimals=DECIMALS))
        return Failure(reason=f"{self.theory} holds no such structure") if found is None else Answer(prediction=found)


def engine_of(frames: Sequence[LabelledFrame], name: str) -> MadeElsewhere:
    """Labelled frames as an engine. `name`: of their file."""
    return MadeElsewhere(
        theory=f"labels of {name}", name=f"labels of {name}, sha256 {frames_hash(frames)[:16]}",
        systems=tuple(frame.system for frame in frames), elements=frozenset(z for f in frames for z in f.system.numbers.tolist()),
        answers={structure_sha256(frame.system, decimals=DECIMALS): frame.target for frame in frames},
    )  # fmt: skip


def given_by(engine: Engine) -> tuple[System, ...]:
    """Structures that an engine has labels of; none for one that computes."""
    return engine.systems if isinstance(engine, MadeElsewhere) else ()
