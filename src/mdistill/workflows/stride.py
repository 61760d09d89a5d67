"""The stride rung: NVE segments of a student → a long-stride map → comparison with time steps of that student."""

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
from mdistill.labelling.segments import make_segments
from mdistill.runs.results import Results
from mdistill.settings import child_seed
from mdistill.teachers.models import load
from mdistill.training.stride import train_stride
from mdistill.types import System

SEGMENTS = "segments"


def rung_seeds(seed: int) -> dict[str, int]:
    """Seeds of the parts of the rung, by the names of their settings."""
    return {"segments": child_seed(seed, "segments"), "train.fit": child_seed(seed, "train"), "judge": child_seed(seed, "judge")}


def stride_rung(
    student: Path, systems: list[System], settings: StrideRungSettings, folder: Path, *, recorded: Sequence[Segment] = (),
    seed: int = 0, stop: StopRequest = NEVER,
) -> Results:  # fmt: skip
    """Train a map on NVE dynamics of the student, and compare it with time steps.

    Args:
        student: Model file of a moment student.
        systems: Structures of the segments; the map is judged on the first.
        settings: Segments, training, judging.
        folder: Folder for segments/, stride.mdistill, its training and a ledger; finished parts are not repeated.
        recorded: Segments to use in place of new ones.
        seed: Seed of everything random.
    Returns:
        Tables, gates and values of the section "strides", and the rung.
    Raises:
        BadInput: As `make_segments`, `train_stride`.
        BlowUp: The student's own dynamics broke.
        Interrupted: A stop was requested; the same call resumes.
    """
    seeds = rung_seeds(seed)
    segments = recorded or make_segments(
        systems, load(student), settings.segments, folder / SEGMENTS, seed=seeds["segments"], stop=stop
    )
    potential = load(student, precision="float32")
    adjust = partial(
        set_kick_scale, potential=potential, system=systems[0], settings=settings, folder=folder, seed=seeds["judge"], stop=stop,
    )  # fmt: skip
    result = train_stride(
        segments,
        student,
        replace(settings.train, fit=replace(settings.train.fit, seed=seeds["train.fit"])),
        folder,
        adjust=adjust,
        stop=stop,
    )
    return judge_map(result, potential, systems[0], settings, seed=seeds["judge"], stop=stop)
