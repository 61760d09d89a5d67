"""mdistill download: weights of a teacher by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from mdistill.flags.arguments import checked_folder, finish, parse, stamped


@dataclass(frozen=True, kw_only=True)
class DownloadArguments:
    """Teacher."""

    name: Annotated[str, tyro.conf.Positional] = ""
    """Name of a teacher (default: list all)."""
    address: str = ""
    """Address to fetch from, https or file (default: the public one)."""
    sha256: str = ""
    """Required sha256 of the file (default: the known one, where there is one)."""
    folder: Path | None = None
    """Folder for the file (default: $MDISTILL_WEIGHTS or the cache)."""
    out: Path | None = None
    """Folder for results.json (default: print only)."""


HELP = """\
Fetch the weights of a teacher that do not come with its package. Their sha256 is checked where it is known or given; else that
of the file fetched is kept beside it, and later loads are checked against it. Without a name: list of teachers with address,
licence and sha256. Such files hold code (pickle): fetch only what you trust.

examples:
  mdistill download
  mdistill download mace-mpa-0
  mdistill download mace-mpa-0 --address file:///mnt/mace-mpa-0-medium.model
"""
GROUPS = {"what": ("address", "sha256"), "run": ("folder", "out")}


def main(arguments: list[str]) -> int:
    """Fetch and print where the file is."""
    given = parse(DownloadArguments, arguments, program="mdistill download", description=HELP, groups=GROUPS)
    from mdistill.runs.results import Cell, Results, Table
    from mdistill.teachers.cards import TEACHERS, find_teacher
    from mdistill.teachers.weights import fetch, weights_folder

    if not given.name:
        rows: list[list[Cell]] = [
            [card.name, card.weights.licence, card.weights.sha256 or "not known: not checked when fetched", card.weights.address]
            for card in TEACHERS.values()
            if card.weights is not None
        ]
        table = Table("weights", "Weights to fetch", "settings", ["teacher", "licence", "sha256", "address"], rows)
        finish(stamped(Results(command="download", tables=[table]), given), given.out)
        return 0
    card = find_teacher(given.name, subject="name")
    path = fetch(card, checked_folder(given.folder or weights_folder()), address=given.address, digest=given.sha256)
    if card.weights is not None:
        from mdistill.io.files import sha256

        checked = (
            "the required one"
            if given.sha256
            else "the known one"
            if card.weights.sha256
            else ("not checked: none is known for these weights; later loads are checked against this one")
        )
        print(f"weights: {path}\nlicence: {card.weights.licence}\nsha256:  {sha256(path)} ({checked})")
    return 0
