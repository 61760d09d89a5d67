"""mdistill report: one HTML page from a run's results.json."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from mdistill.flags.arguments import parse


@dataclass(frozen=True, kw_only=True)
class ReportArguments:
    """Run."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder that holds results.json."""
    out: Path | None = None
    """Folder for report.html and figures/ (default: the run folder)."""


HELP = """\
Write report.html (one self-contained page) and each figure as a file from a run's results.json.

examples:
  mdistill report runs/li6ps5cl
  mdistill report runs/li6ps5cl --out somewhere/else
"""
GROUPS = {"run": ("out",)}


def main(arguments: list[str]) -> int:
    """Write the page and print where it is."""
    settings = parse(ReportArguments, arguments, program="mdistill report", description=HELP, groups=GROUPS)
    from mdistill.report.page import write_report
    from mdistill.report.terminal import print_summary
    from mdistill.runs.results import read_results, write_results

    results = read_results(settings.run)
    folder = settings.out or (settings.run if settings.run.is_dir() else settings.run.parent)
    if settings.out is not None:
        write_results(folder, results)
    page = write_report(folder, figures=True)
    print_summary(results)
    print(f"report:  {page}")
    return 0
