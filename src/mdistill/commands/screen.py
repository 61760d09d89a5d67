"""mdistill screen: conductivity at 300 K of many structures from the statistics of measured ones."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from mdistill.commands.arguments import finish, output_folder, parse, stamped, write_config

SHOWN = 25
"""Rows printed where a file holds them all."""


@dataclass(frozen=True, kw_only=True)
class ScreenArguments:
    """Structures."""

    files: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Structures (CIF, POSCAR, extended XYZ with one or many) and folders of them."""
    species: str = "Li"
    """Mobile ion; the model of the package knows Li."""
    out: Path | None = None
    """Folder for screen.csv, results.json and report.html (default: print only)."""
    model: Path | None = None
    """Model file of `mdistill train transport` (default: that of the package)."""


HELP = """\
Rank structures by their ionic conductivity at 300 K. It is predicted by statistics of measured conductivities (OBELiX) from
composition, density, lattice and space group; it is not MD. Its mean absolute error is 1.1 to 1.3 decades: it tells a good
conductor from a bad one, not two good ones apart. Each value has 68 and 95 % intervals, a probability to be below detection
(10⁻⁸ S/cm), and a verdict whether the material resembles the training set. Partial occupancies are used as they are.
Diffusivities and other temperatures are not predicted. Files that cannot be used are listed with the reason, the others are
ranked, and the exit status is 2.

examples:
  mdistill screen candidates/ --species Li --out runs/screen
  mdistill screen a.cif b.cif POSCAR frames.extxyz
"""
GROUPS = {"what": ("species", "model"), "run": ("out",)}


def main(arguments: list[str]) -> int:
    """Screen; exit status 2 where a structure could not be used."""
    given = parse(ScreenArguments, arguments, program="mdistill screen", description=HELP, groups=GROUPS)
    from mdistill.workflows.screen import screen

    folder = None if given.out is None else output_folder(given.out)
    results = screen(given.files, species=given.species, model=given.model)
    results = stamped(results, given, repeat="mdistill screen " + shlex.join(arguments))
    refused = int(results.values["structures_refused"].value or 0)
    show(results, most=None if folder is None else SHOWN)
    if folder is not None:
        from mdistill.io.files import write_text
        from mdistill.transport.tables import screen_csv

        write_config(folder, "mdistill screen", given)
        write_text(folder / "screen.csv", screen_csv(results))
        print(f"all columns: {folder / 'screen.csv'}")
    finish(results, folder, report=True, sections=("unread",))
    return 2 if refused else 0


def show(results, *, most: int | None) -> None:  # type: ignore[no-untyped-def]
    """Print the first rows, what was refused, and the notes."""
    from rich.console import Console

    from mdistill.report.terminal import print_table
    from mdistill.transport.tables import NAME, narrow_table

    console = Console()
    print_table(narrow_table(results, width=console.width, most=most), console)
    rows = len(next(table for table in results.tables if table.name == NAME).rows)
    if most is not None and rows > most:
        print(f"… and {rows - most} more\n")
    for table in (one for one in results.tables if one.name != NAME):
        print_table(table, console)
    for note in results.notes:
        print(f"note: {note}")
