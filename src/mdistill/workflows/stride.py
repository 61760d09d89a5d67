"""The stride rung: segments of a student's exact flow → a long-stride map → judged beside small steps of that student."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from mdistill.data.segments import Segment
from mdistill.interrupt import NEVER, StopRequest
from mdistill.judge.kick_scale import set_kick_scale
from mdistill.judge.settings import StrideRungSettings
from mdistill.judge.stride import judge_map
from mdistill.judge.stride_tables import LADDER, PREFIX, SECTION, ladder_row
from mdistill.labelling.segments import make_segments
from mdistill.runs.results import Results, merge, read_results, write_results
from mdistill.teachers.models import load
from mdistill.training.stride import train_stride
from mdistill.types import System

SEGMENTS = "segments"


def stride_rung(
    student: Path,
    systems: list[System],
    settings: StrideRungSettings,
    folder: Path,
    *,
    recorded: Sequence[Segment] = (),
    stop: StopRequest = NEVER,
) -> Results:
    """Train a map on the student's own flow and judge it.

    Args:
        student: Model file of a moment student.
        systems: Structures whose dynamics is learned; the first is where the map is judged.
        settings: Segments, training, judging.
        folder: Gets segments/, stride.mdistill, its training and a ledger; what is there is not done again.
        recorded: Segments to learn from in place of new ones.
    Returns:
        Tables, gates and values of the section "strides", and the row of the ladder.
    Raises:
        BadInput: As `make_segments`, `train_stride`.
        BlowUp: The student's own dynamics broke.
        Interrupted: A stop was requested; the same call resumes.
    """
    segments = recorded or make_segments(systems, load(student), settings.segments, folder / SEGMENTS, stop=stop)
    potential = load(student, precision="float32")
    settle = partial(set_kick_scale, potential=potential, system=systems[0], settings=settings, folder=folder, stop=stop)
    result = train_stride(segments, student, settings.train, folder, settle=settle, stop=stop)
    return judge_map(result, potential, systems[0], settings, stop=stop)


def add_to_run(run: Path, found: Results) -> Results:
    """The run's results with this rung in place of an older one; written to its results.json."""
    merged = with_rung(read_results(run), found)
    write_results(run, merged)
    return merged


def with_rung(old: Results, found: Results) -> Results:
    """Results of a run with this rung in its ladder, and its section in place of an older one."""
    table = next((t for t in old.tables if t.name == LADDER), None)
    kept = replace(
        old,
        tables=[t for t in old.tables if t.section != SECTION],
        gates=[g for g in old.gates if not g.name.startswith(PREFIX)],
        values={name: value for name, value in old.values.items() if not name.startswith(PREFIX)},
    )
    if table is not None:
        kept = replace(kept, tables=[ladder_row(table, found) if t is table else t for t in kept.tables])
    return merge(kept, replace(found, notes=[]))
