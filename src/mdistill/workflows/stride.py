"""The stride rung: NVE segments of a student → a long-stride map → comparison with time steps of that student."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from mdistill.data.segments import Segment
from mdistill.interrupt import NEVER, StopRequest
from mdistill.judge.kick_scale import set_kick_scale
from mdistill.judge.settings import StrideRungSettings
from mdistill.judge.stride import judge_map
from mdistill.labelling.segments import make_segments
from mdistill.runs.results import Results
from mdistill.teachers.models import load
from mdistill.training.stride import train_stride
from mdistill.types import System

SEGMENTS = "segments"


def stride_rung(
    student: Path, systems: list[System], settings: StrideRungSettings, folder: Path, *, recorded: Sequence[Segment] = (),
    stop: StopRequest = NEVER,
) -> Results:  # fmt: skip
    """Train a map on NVE dynamics of the student, and compare it with time steps.

    Args:
        student: Model file of a moment student.
        systems: Structures of the segments; the map is judged on the first.
        settings: Segments, training, judging.
        folder: Folder for segments/, stride.mdistill, its training and a ledger; finished parts are not repeated.
        recorded: Segments to use in place of new ones.
    Returns:
        Tables, gates and values of the section "strides", and the rung.
    Raises:
        BadInput: As `make_segments`, `train_stride`.
        BlowUp: The student's own dynamics broke.
        Interrupted: A stop was requested; the same call resumes.
    """
    segments = recorded or make_segments(systems, load(student), settings.segments, folder / SEGMENTS, stop=stop)
    potential = load(student, precision="float32")
    adjust = partial(set_kick_scale, potential=potential, system=systems[0], settings=settings, folder=folder, stop=stop)
    result = train_stride(segments, student, settings.train, folder, adjust=adjust, stop=stop)
    return judge_map(result, potential, systems[0], settings, stop=stop)
