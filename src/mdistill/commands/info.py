"""mdistill info: content of a model, a structure a run folder, "transport" or "motion": predictors of `mdistill screen`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from mdistill.flags.arguments import finish, parse, stamped


@dataclass(frozen=True, kw_only=True)
class InfoArguments:
    """File or folder."""

    path: Annotated[Path, tyro.conf.Positional]
    """student.mdistill, a structure, a trajectory (.h5), a run folder, "transport" or "motion" (models of `mdistill screen`)."""
    out: Path | None = None
    """Folder for results.json (default: print only)."""


HELP = """\
Elements, cutoff, size, teacher and hash of a model (transport, motion: those of `mdistill screen`); sites and disorder of a
structure; atoms, frames and temperature of a trajectory (.h5); or status, inputs and values of a run.

examples:
  mdistill info runs/li6ps5cl/student.mdistill
  mdistill info crystal.cif
  mdistill info transport
  mdistill info runs/li6ps5cl
"""
GROUPS = {"run": ("out",)}


def main(arguments: list[str]) -> int:
    """Print the card."""
    given = parse(InfoArguments, arguments, program="mdistill info", description=HELP, groups=GROUPS)
    from mdistill.report.cards import card

    results: Any = card(given.path)
    finish(stamped(results, given), given.out)
    return 0
