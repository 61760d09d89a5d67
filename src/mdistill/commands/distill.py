"""mdistill distill: the main job."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from mdistill.commands.arguments import finish, output_folder, parse, stamped, use_threads
from mdistill.workflows.distill_settings import DistillSettings, quick_settings


@dataclass(frozen=True, kw_only=True)
class DistillArguments:
    """The main job and how it is run."""

    settings: Annotated[DistillSettings, tyro.conf.arg(name="")]
    out: Path | None = None
    """Run folder (default: runs/<name of the structure file>)."""
    quick: bool = False
    """A first look in about a quarter of an hour on two cores; flags beside it still count."""
    dry_run: bool = False
    """Print sites, disorder rule, supercell, teacher calls and minutes, and stop. Nothing is written."""
    update: bool = False
    """Allow other settings than the run folder's: redo the stages they touch, keep the rest."""
    threads: int | None = None
    """Threads (default: all cores)."""
    workers: int = 0
    """Processes of one thread each that ask the teacher; 0: this process does."""
    max_hours: float | None = None
    """Save and stop after so many hours (exit status 130); the same command resumes."""


HELP = """\
From a crystal structure and a foundation potential to a validated fast student, production MD, diffusivity and ionic
conductivity with error bars, and one report page. Interrupted runs resume with the same command.

examples:
  mdistill distill crystal.cif --quick --dry-run
  mdistill distill crystal.cif --teacher sevennet-0 --temperatures 500 700 900
  mdistill distill crystal.cif --teacher chgnet --mobile Na --production.time-ps 500 --out runs/na
  mdistill distill crystal.cif --teacher ase.calculators.emt:EMT --mobile none --temperatures 300
"""


def main(arguments: list[str]) -> int:
    """Run the main job; exit status 4 where a gate failed."""
    default = DistillArguments(settings=quick_settings(tyro.MISSING)) if "--quick" in arguments else None
    given = parse(DistillArguments, arguments, program="mdistill distill", description=HELP, default=default)
    if given.dry_run:
        from mdistill.workflows.dry_run import dry_run

        use_threads(given.threads)
        finish(dry_run(given.settings), None)
        return 0
    use_threads(given.threads)
    folder = output_folder(given.out or Path("runs") / given.settings.structure.stem)
    from mdistill.interrupt import stop_on_signals
    from mdistill.workflows.distill import distill

    command = "mdistill distill " + shlex.join(arguments)
    with stop_on_signals(max_hours=given.max_hours, resume=command) as stop:
        results = distill(given.settings, folder, update=given.update, workers=given.workers, stop=stop)
    finish(stamped(results, given.settings, repeat=command), folder, report=True, sections=("ladder", "transport"))
    print(f"repeat:  {command}\ncite:    mdistill cite {shlex.quote(str(folder))}")
    return 0 if all(gate.passed for gate in results.gates) else 4
