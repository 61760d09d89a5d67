"""mdistill cite: whom to cite for a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from mdistill.flags.arguments import finish, parse, stamped


@dataclass(frozen=True, kw_only=True)
class CiteArguments:
    """References to print."""

    run: Annotated[Path | None, tyro.conf.Positional] = None
    """Run folder or results.json (default: all references that mdistill knows)."""
    style: Literal["text", "bibtex"] = "text"
    """Style of the references."""
    out: Path | None = None
    """Folder for results.json (default: print only)."""


HELP = """\
References of a run: teacher, methods, libraries.

examples:
  mdistill cite runs/li6ps5cl
  mdistill cite runs/li6ps5cl --style bibtex
"""
GROUPS = {"run": ("style", "out")}


def main(arguments: list[str]) -> int:
    """Print the references."""
    settings = parse(CiteArguments, arguments, program="mdistill cite", description=HELP, groups=GROUPS)
    from mdistill.report.citations import bibliography, cite
    from mdistill.runs.results import Results, read_results

    keys = list(bibliography()) if settings.run is None else read_results(settings.run).citations
    print(cite(keys, style=settings.style))
    if settings.out is not None:
        finish(stamped(Results(command="cite", citations=keys), settings), settings.out)
    return 0
