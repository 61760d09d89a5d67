"""mdistill vibrations: Hessian, vibrations, displaced structures and minimum of a run's student beside its teacher's."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from mdistill.flags.arguments import finish, parse, stamped, use_threads, write_config
from mdistill.flags.trust import TrustArguments
from mdistill.judge.settings import VibrationSettings
from mdistill.settings import USUAL_TIMEOUT


@dataclass(frozen=True, kw_only=True)
class VibrationArguments(TrustArguments):
    """Run and comparison."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder of `mdistill distill`; its report gets the section."""
    quick: bool = False
    """Preset with random directions in place of the teacher's whole Hessian: no frequencies of the teacher."""
    out: Path | None = None
    """Folder for results.json and a page of its own (default: RUN/vibrations)."""
    teacher: str = ""
    """Teacher to compare with (default: the run's)."""
    device: str = "cpu"
    """Device of the teacher: cpu, cuda or auto."""
    threads: int | None = None
    """Number of threads (default: all cores)."""
    timeout_s: float = USUAL_TIMEOUT
    """Longest call of an ASE calculator, s."""
    max_hours: float | None = None
    """Time limit, h: save and stop; the same command resumes."""
    settings: Annotated[VibrationSettings, tyro.conf.arg(name="")] = field(default_factory=VibrationSettings)


HELP = """\
Compare the curvature of student and teacher: Hessian, frequencies, density of states (phonon bands of small primitive
cells with phonopy), forces on structures displaced along normal modes, and distance between the minima.
The section is added to the run's report.

The whole Hessian of a teacher costs about 6 force calls an atom: a minute for 52 atoms with SevenNet-0 on one core.

examples:
  mdistill vibrations runs/mine
  mdistill vibrations runs/mine --quick
  mdistill vibrations runs/mine --temperature-K 600 --displaced 16 --threads 1
"""
GROUPS = {
    "what": ("quick", "whole_up_to", "probes", "displaced", "temperature_K", "bands_up_to", "teacher"),
    "relaxation": ("relax_steps", "largest_force", "teacher_steps"),
    "run": ("out", "seed", "device", "threads", "timeout_s", "max_hours", "trust"),
}


def main(arguments: list[str]) -> int:
    """Measure and add to the report; prints the tables."""
    given = parse(VibrationArguments, arguments, program="mdistill vibrations", description=HELP, groups=GROUPS)
    from mdistill.interrupt import stop_on_signals
    from mdistill.judge.vibrations import vibrations
    from mdistill.report.page import add_to_report
    from mdistill.runs.lock import locked
    from mdistill.teachers.models import find_student, load
    from mdistill.workflows.run_parts import relaxed_systems, teacher_of

    use_threads(given.threads)
    relaxed = relaxed_systems(given.run)[0]
    teacher = teacher_of(given.run, given.teacher, device=given.device, trusted=given.trust, timeout_s=given.timeout_s)
    settings = replace(given.settings, whole_up_to=0) if given.quick else given.settings
    command = "mdistill vibrations " + shlex.join(arguments)
    out = given.out or given.run / "vibrations"
    with locked(given.run), stop_on_signals(max_hours=given.max_hours, resume=command) as stop:
        student = load(find_student(given.run))
        write_config(out, "mdistill vibrations", given)
        found = vibrations(student, teacher, relaxed, settings, out, stop=stop)
        page = add_to_report(given.run, found)
    finish(stamped(found, settings, repeat=command), out, report=True)
    print(f"added to: {page}")
    return 0
