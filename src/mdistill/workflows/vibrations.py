"""Vibrations of a run: its student beside its teacher, at the structure that the teacher relaxed."""

from __future__ import annotations

from pathlib import Path

from mdistill.interrupt import NEVER, StopRequest
from mdistill.judge.settings import VibrationSettings
from mdistill.judge.vibrations import vibrations
from mdistill.runs.results import Results
from mdistill.teachers.models import find_student, load
from mdistill.types import Potential
from mdistill.workflows.run_parts import relaxed_systems


def vibrations_of_run(
    run: Path, teacher: Potential, settings: VibrationSettings, folder: Path, *, stop: StopRequest = NEVER
) -> Results:
    """Compare the curvature of a run's student with a teacher's; resumes from what `folder` holds.

    Raises:
        BadInput: The run holds no student or no structure; or as `judge.vibrations.vibrations`.
        Interrupted: A stop was requested; the same call resumes.
    """
    return vibrations(load(find_student(run)), teacher, relaxed_systems(run)[0], settings, folder, stop=stop)
