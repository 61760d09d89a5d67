"""mdistill bench: accuracy against speed of students of several sizes."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from mdistill.flags.arguments import finish, parse, stamped, use_threads, write_config
from mdistill.flags.trust import TrustArguments
from mdistill.settings import USUAL_TIMEOUT
from mdistill.workflows.settings import BenchSettings


@dataclass(frozen=True, kw_only=True)
class BenchArguments(TrustArguments):
    """Run and sizes."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder of `mdistill distill`: source of the labels, and target of table and plot."""
    out: Path | None = None
    """Folder for results.json and a page of its own (default: RUN/bench)."""
    teacher: str = ""
    """Teacher to time (default: the run's)."""
    threads: int | None = None
    """Number of threads (default: all cores)."""
    timeout_s: float = USUAL_TIMEOUT
    """Longest call of an ASE calculator, s."""
    max_hours: float | None = None
    """Time limit, h: save and stop; the same command resumes."""
    settings: Annotated[BenchSettings, tyro.conf.arg(name="")] = field(default_factory=BenchSettings)


HELP = """\
Train students of several sizes on a run's labels, measure their errors on the same held-out time blocks, and time them with
the teacher. The table and the plot are added to the run's report.

examples:
  mdistill bench runs/mine
  mdistill bench runs/mine --sizes tiny medium --minutes 2 --threads 1
"""
GROUPS = {
    "what": ("sizes", "minutes", "repeats", "teacher"),
    "run": ("out", "seed", "threads", "timeout_s", "max_hours", "trust"),
}


def main(arguments: list[str]) -> int:
    """Measure the front; prints the table."""
    given = parse(BenchArguments, arguments, program="mdistill bench", description=HELP, groups=GROUPS)
    from mdistill.interrupt import stop_on_signals
    from mdistill.report.page import add_to_report
    from mdistill.runs.lock import locked
    from mdistill.workflows.bench import bench
    from mdistill.workflows.run_parts import relaxed_systems, teacher_of

    use_threads(given.threads)
    relaxed_systems(given.run)
    teacher = teacher_of(given.run, given.teacher, trusted=given.trust, timeout_s=given.timeout_s)
    command, out = "mdistill bench " + shlex.join(arguments), given.out or given.run / "bench"
    with locked(given.run), stop_on_signals(max_hours=given.max_hours, resume=command) as stop:
        write_config(out, "mdistill bench", given)
        found = bench(given.run, teacher, given.settings, stop=stop)
        page = add_to_report(given.run, found)
    finish(stamped(found, given.settings, repeat=command), out, report=True)
    print(f"added to: {page}")
    return 0
