"""mdistill campaign: the main job on many crystals, here, by Dask or by SLURM."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from mdistill.commands.distill import DistillArguments, preset_of
from mdistill.errors import BadInput
from mdistill.flags.arguments import checked_folder, finish, from_entries, parse, read_toml, stamped
from mdistill.flags.trust import POTENTIALS, TrustArguments
from mdistill.runs.trust import FLAG, refuse_import

if TYPE_CHECKING:
    from mdistill.campaign.plan import Campaign

ACTIONS = ("start", "status", "run")
DASK, EXECUTORLIB = "dask://", "executorlib:"


@dataclass(frozen=True, kw_only=True)
class CampaignArguments(TrustArguments):
    """What to do."""

    campaign: Annotated[tuple[str, ...], tyro.conf.Positional]
    """campaign.toml; or `status FOLDER`; or `run FOLDER NAME`, one run, as a job of SLURM does it."""
    out: Path | None = None
    """Folder of the campaign (default: runs/NAME OF THE FILE)."""
    workers: str = ""
    """Number of runs side by side (default: all cores), dask://HOST:PORT, or executorlib:SlurmJobExecutor (or another)."""
    slurm: bool = False
    """Write a script for SLURM in place of running."""
    update: bool = False
    """Permission to repeat the stages that changed settings affect."""
    max_hours: float | None = None
    """Time limit, h: runs save and stop; the same command resumes."""


HELP = """\
Run `mdistill distill` on many crystals, one run of one thread for each crystal, set of temperatures and seed, and rank them by
conductivity. Runs that are done are not repeated; whatever is killed loses at most the stage at work, and the same command
resumes. campaign.toml is a run.toml with `structures` and `seeds`, lists, in place of `structure` and `seed`. Exit status: 0
every run ended and its gates pass, 4 a gate failed, 1 a run did not end.

examples:
  mdistill campaign campaign.toml --out runs/screened --workers 4
  mdistill campaign campaign.toml --out runs/screened --workers dask://node1:8786
  mdistill campaign campaign.toml --out runs/screened --slurm
  mdistill campaign status runs/screened
"""
GROUPS = {"run": ("out", "workers", "slurm", "update", "max_hours", "trust")}


def main(arguments: list[str]) -> int:
    """Run or show a campaign."""
    if arguments and arguments[0].endswith(".toml"):
        arguments = ["start", *arguments]
    given = parse(CampaignArguments, arguments, program="mdistill campaign", description=HELP, groups=GROUPS)
    action, *rest = given.campaign or ("",)
    if action not in ACTIONS or len(rest) != {"start": 1, "status": 1, "run": 2}[action]:
        allowed = "a file campaign.toml, status FOLDER, or run FOLDER NAME"
        raise BadInput("campaign", " ".join(given.campaign) or "nothing", allowed=allowed, fix="mdistill campaign campaign.toml")
    if action == "start":
        return start(given, Path(rest[0]), "mdistill campaign " + shlex.join(arguments[1:]))
    from mdistill.campaign.plan import open_campaign

    campaign = open_campaign(Path(rest[0]))
    return status(campaign, given) if action == "status" else one_run(campaign, rest[1], given)


def start(given: CampaignArguments, path: Path, command: str) -> int:
    """Run a campaign, or go on with it."""
    from mdistill.campaign.plan import read_campaign, write_jobs
    from mdistill.campaign.queue import run_queue
    from mdistill.interrupt import stop_on_signals
    from mdistill.notices import notify
    from mdistill.runs.lock import locked

    folder = checked_folder(given.out or Path("runs") / path.stem)
    campaign = read_campaign(path, folder, read_toml(path), _checked(path, given))
    with locked(folder), stop_on_signals(max_hours=given.max_hours, resume=command) as stop:
        others = write_jobs(campaign, path, update=given.update)
        if others:
            notify(f"{folder} holds runs that are not in {path}, and are left as they are: {', '.join(others)}")
        left = [job.name for job in campaign.jobs if given.update or not campaign.record(job.name).final]
        if given.slurm:
            return script(campaign, left, _flags(given))
        with _pool(campaign, given) as pool, _shown(campaign) as tell:
            run_queue(campaign, pool, left, stop=stop, tell=tell)
    return summary(campaign, given, command)


def _checked(path: Path, given: CampaignArguments) -> Callable[[Any], object]:
    """A check of the settings of a run, as `mdistill distill` would."""

    def check(entries: Any) -> None:
        _, default = preset_of(str(entries.get("preset", "")), path)
        made = from_entries(DistillArguments, entries, source=path, default=default)
        if not given.trust:
            for name, flag in POTENTIALS.items():
                refuse_import(getattr(made.settings, name, None) or "", source=path, flag=f"{flag} or {FLAG}")

    return check


def _flags(given: CampaignArguments) -> list[str]:
    return [*(["--update"] if given.update else []), *([FLAG] if given.trust else [])]


@contextmanager
def _pool(campaign: Campaign, given: CampaignArguments) -> Iterator[Any]:
    """Where the runs work."""
    from mdistill.campaign.queue import Here, on_dask, on_executorlib
    from mdistill.processes import usable_cores

    if given.workers.startswith(DASK):
        from mdistill.labelling.dask_executor import connected

        yield on_dask(campaign, connected(given.workers, "--workers"), _flags(given))
        return
    if given.workers.startswith(EXECUTORLIB):
        yield on_executorlib(campaign, given.workers.removeprefix(EXECUTORLIB), _flags(given))
        return
    if given.workers and not (given.workers.isdigit() and 1 <= int(given.workers) <= 4096):
        raise BadInput("--workers", given.workers, allowed="1 to 4096, dask://HOST:PORT, or executorlib:NAME", fix="--workers 2")
    yield Here(campaign, int(given.workers) if given.workers else usable_cores(), _flags(given))


def script(campaign: Campaign, names: list[str], flags: list[str]) -> int:
    """Write the script for SLURM, and say how to submit it."""
    from mdistill.campaign.slurm import write_slurm_script

    if not names:
        print("every run is done; no script was written")
        return 0
    path = write_slurm_script(campaign, names, flags)
    print(f"script of {len(names)} runs: {path}\nsubmit:  sbatch {shlex.quote(str(path))}")
    print(f"summary: mdistill campaign status {shlex.quote(str(campaign.folder))}")
    return 0


def status(campaign: Campaign, given: CampaignArguments) -> int:
    """Print the state of every run, and write the summary."""
    from rich.console import Console

    from mdistill.campaign.tables import status_table
    from mdistill.report.terminal import print_table, width_of

    console = Console()
    print_table(status_table(campaign, width=width_of(console)), console)
    return summary(
        campaign, given, f"mdistill campaign status {shlex.quote(str(campaign.folder))}", tables=("failures", "ranking")
    )


def one_run(campaign: Campaign, name: str, given: CampaignArguments) -> int:
    """Do one run."""
    from mdistill.campaign.queue import one
    from mdistill.interrupt import stop_on_signals

    names = [job.name for job in campaign.jobs]
    if name not in names:
        raise BadInput(campaign.folder, f"has no run {name}", allowed=", ".join(names), fix="name one of them")
    with stop_on_signals(max_hours=given.max_hours, resume="submit the job again") as stop:
        record = one(campaign, name, _flags(given), stop=stop)
    print(f"{name}: {record.state}" + (f", {record.reason}" if record.reason else ""))
    return record.status if record.status is not None and record.status >= 0 else 1


def summary(
    campaign: Campaign, given: CampaignArguments, command: str, *, tables: tuple[str, ...] = ("failures", "ranking", "runs")
) -> int:
    """Write results.json, the page and the CSV; print the tables of these names."""
    from dataclasses import replace

    from mdistill.campaign.tables import campaign_csv, campaign_results, exit_status
    from mdistill.io.files import write_text
    from mdistill.report.page import write_report
    from mdistill.runs.results import write_results

    results = stamped(campaign_results(campaign), {"campaign": str(campaign.folder)}, repeat=command)
    shown = replace(results, tables=[table for table in results.tables if table.name in tables])
    finish(shown, None)
    if os.access(campaign.folder, os.W_OK):
        write_text(campaign.folder / "campaign.csv", campaign_csv(campaign))
        write_results(campaign.folder, results)
        print(f"page:  {write_report(campaign.folder)}\ntable: {campaign.folder / 'campaign.csv'}")
    return exit_status(campaign, results)


@contextmanager
def _shown(campaign: Campaign) -> Iterator[Callable[[], None]]:
    """Shows the state of the runs: a table on a terminal, else a line whenever it changes."""
    from mdistill.campaign.tables import counts, status_table

    if os.environ.get("MDISTILL_QUIET") == "1":
        yield lambda: None
        return
    if not sys.stderr.isatty():
        known = {job.name: campaign.record(job.name) for job in campaign.jobs}

        def tell() -> None:
            for name, before in known.items():
                now = campaign.record(name)
                if now.state != before.state:
                    known[name] = now
                    reason = f" ({now.reason.partition(chr(10))[0]})" if now.reason else ""
                    print(f"{name}: {now.state}{reason}; {counts(list(known.values()))}", file=sys.stderr, flush=True)

        yield tell
        return
    import time

    from rich.console import Console
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

    console, last = Console(stderr=True), [0.0]

    def drawn() -> Table:
        table = status_table(campaign, width=console.width, most=max(3, console.height - 5))
        grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", title=table.title, title_justify="left")
        for heading in table.columns:
            grid.add_column(heading, no_wrap=True, overflow="ellipsis", ratio=1 if heading == "what" else None)
        for row in table.rows:
            grid.add_row(*(Text(f"{cell:.1f}" if isinstance(cell, float) else str(cell)) for cell in row))
        if table.caption:
            grid.add_row(Text(table.caption, style="dim"))
        return grid

    with Live(drawn(), console=console, auto_refresh=False) as live:

        def redraw() -> None:
            if time.monotonic() - last[0] > 1.0:
                last[0] = time.monotonic()
                live.update(drawn(), refresh=True)

        yield redraw
        live.update(drawn(), refresh=True)
