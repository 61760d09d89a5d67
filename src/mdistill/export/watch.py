"""Watch over the structures that an engine asks a student about: those far from its labels are told, each kind once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from ase.data import chemical_symbols
from torch import Tensor

from mdistill.analysis.taught import cannot_tell, departures, disagreement, taught_of, told
from mdistill.errors import BadInput
from mdistill.graph import build_graph
from mdistill.judge.spread import forces_spread
from mdistill.notices import notify
from mdistill.simulation.evaluator import EngineEvaluator, Evaluator, make_evaluator
from mdistill.teachers.models import load
from mdistill.training.committee import members_beside
from mdistill.types import Potential, Prediction, System

_MOVED, _MOVED_FAR, _ANOTHER = 0.05, 0.3, 2.0
"""Å; a structure whose atoms all stayed within the first of one that was checked is not checked again: its pairs and composition.
The second is for the spread of its committee, which costs an evaluation of every member. An atom that moved by the third makes it
another structure."""
ENGINE_CALLS = 20
"""Calls of an engine between two checks of one structure, for a check takes as long as several time steps."""


def check_known(numbers: Sequence[int], potential: Potential, subject: Path | str = "structure") -> None:
    """Reject elements that a model does not know.

    Raises:
        BadInput: Such elements.
    """
    unknown = set(numbers) - potential.elements if potential.elements else set()
    if unknown:
        names, known = (", ".join(chemical_symbols[z] for z in sorted(some)) for some in (unknown, potential.elements))
        raise BadInput(subject, f"holds {names}, which {potential.name} does not know", allowed=known, fix="choose another model")


class Watch:
    """Checks structures one after the other.

    Args:
        every: Calls from one check of a structure to the next; another structure is checked at once.
    """

    def __init__(self, potential: Potential, *, every: int = 1) -> None:
        self._departures: list[str] = []
        self._disagreement: list[str] = []
        self._last: System | None = None
        self._every, self._calls = every, dict[int, int]()
        self._name, self._taught = potential.name, taught_of(potential)
        self._seen: dict[int, System] = {}
        self._spread_seen: System | None = None
        self._told: set[str] = set()
        if sentence := cannot_tell(potential):
            notify(sentence)

    def see(self, system: System, place: int = 0) -> None:
        """Check pairs, composition and density of a structure (one struct); of several at once each has a place of its own."""
        if self._taught is None:
            return
        self._last = system
        if self._is_due(system, place):
            self._check(system, place)

    @property
    def phrases(self) -> list[str]:
        """The departures of the last structure, which is checked for them if it was not."""
        if self._last is not None and self._last is not self._seen.get(0):
            self._check(self._last, 0)
        return [*self._departures, *self._disagreement]

    def _check(self, system: System, place: int) -> None:
        self._seen[place], self._calls[place] = system, 0
        self._departures = departures(system, self._taught) if self._taught is not None else []
        self._tell(self._departures)

    def _is_due(self, system: System, place: int) -> bool:
        seen = self._seen.get(place)
        self._calls[place] = self._calls.get(place, 0) + 1
        late = self._calls[place] >= self._every
        return not _alike(seen, system, _MOVED if late else _ANOTHER)

    def spread_is_due(self, system: System) -> bool:
        """Whether the spread of the committee on this structure should be checked."""
        return self._taught is not None and not _alike(self._spread_seen, system, _MOVED_FAR)

    def see_spread(self, spread: Tensor, system: System) -> None:
        """Check the spread of a committee's forces ([atom], eV/Å) on the structure seen last."""
        if self._taught is None:
            return
        self._spread_seen = system
        self._disagreement = disagreement(spread, system.numbers, self._taught)
        self._tell(self._disagreement)

    def _tell(self, phrases: list[str]) -> None:
        """Issue a notice of what was not told before; a kind is what a phrase begins with."""
        new = [phrase for phrase in phrases if _kind(phrase) not in self._told]
        if new:
            self._told |= {_kind(phrase) for phrase in new}
            notify(told(self._name, new))


class Watched:
    """Evaluation of one structure as it moves, for an engine: the neighbour list is kept, and a structure far from what a student
    was taught is told in a notice, each kind once."""

    def __init__(self, potential: Potential, skin: float) -> None:
        self._potential, self._skin, self._watch = potential, skin, Watch(potential, every=ENGINE_CALLS)
        self._evaluate: Evaluator | EngineEvaluator | None = None

    def __call__(self, system: System) -> Prediction:
        """Energy, forces and stress. The elements are those of the first call."""
        if self._evaluate is None:
            self._evaluate = make_evaluator(self._potential, system, skin=self._skin)
        self._watch.see(system)
        return self._evaluate(system)


def _kind(phrase: str) -> str:
    return " ".join(phrase.split()[:2])


def _alike(old: System | None, new: System, moved: float) -> bool:
    """Whether no atom and no lattice vector moved further than this, Å."""
    if old is None or not torch.equal(old.numbers, new.numbers) or not torch.equal(old.pbc, new.pbc):
        return False
    parts = ((old.positions, new.positions), (old.cell, new.cell))
    return all(not before.numel() or bool((before - after).abs().max() < moved) for before, after in parts)


def tell_committee_spread(student: Path, potential: Potential, system: System) -> None:
    """Issue a notice where the students beside this one disagree with it on a structure by far more than its error on labels."""
    taught, members = taught_of(potential), members_beside(student)
    if taught is None or not members:
        return
    answers = [model(build_graph(system, model.cutoff)) for model in map(load, [student, *members])]
    if phrases := disagreement(forces_spread(answers).cpu(), system.numbers, taught):
        notify(told(potential.name, phrases))
