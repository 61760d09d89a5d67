"""mdistill screen: conductivity at 300 K and motion at higher temperatures of many structures, ranked."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from mdistill.errors import BadInput, Interrupted, MdistillError
from mdistill.flags.arguments import finish, output_folder, parse, stamped, write_config

if TYPE_CHECKING:
    from rich.console import Console

    from mdistill.runs.results import Results

SHOWN = 20
"""Rows of a table that are printed."""
WRITES = ", which --out FOLDER writes"


@dataclass(frozen=True, kw_only=True)
class ScreenArguments:
    """Structures."""

    files: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Structures (CIF, POSCAR, extended XYZ with one or many) and folders of them."""
    species: str = "Li"
    """Mobile ion; Li at 300 K, the ions of the trajectory set (Li, Na, Ag) at other temperatures."""
    temperature: tuple[float, ...] = (300.0,)
    """Temperatures, K: 290 to 310 asks for σ as measured, others for MSD, D and σ of the ions' motion."""
    out: Path | None = None
    """Folder for screen.csv, results.json and report.html (default: print only)."""
    model: Path | None = None
    """Model file of `mdistill train transport` for 300 K (default: that of the package)."""
    motion: Path | None = None
    """Model file of `mdistill train transport --trajectories` for other temperatures (default: that of the package)."""
    then: Literal["distill"] | None = None
    """Job for the best structures (of the first ranking), one after the other, each in a folder below --out."""
    top: int = 5
    """Number of structures that --then takes, of those to which the model is applicable."""
    dry_run: bool = False
    """Plan and cost of each job of --then; it is not run."""


HELP = """\
Rank structures by their ionic conductivity at 300 K. It is predicted by statistics of measured conductivities (OBELiX) from
composition, density, lattice and space group, for new compositions corrected by ion sites and predicted motion; it is not MD.
Its mean absolute error is 1.1 to 1.2 decades: it tells a good conductor from a bad one, not two good ones apart. Each value has
68 and 95 % intervals, a probability to be below detection (10⁻⁸ S/cm), and a verdict whether the material resembles the training
set. Partial occupancies are used as they are.

Other temperatures (600 to 1200 K) give the mean square displacement in 10 ps, D and σ, from a model trained on dynamics of
students of SevenNet-0. Files that cannot be used are listed with the reason, the others are ranked, and the exit status is 2.
Ctrl-C ranks what was read; with --out the same command reads the rest.

examples:
  mdistill screen candidates/ --species Li --out runs/screen
  mdistill screen candidates/ --temperature 300 600 800 1000 1200
  mdistill screen a.cif b.cif POSCAR frames.extxyz
  mdistill screen candidates/ --out runs/screen --then distill --top 3
"""
GROUPS = {"what": ("species", "temperature", "model", "motion"), "run": ("out", "then", "top", "dry_run")}


def main(arguments: list[str]) -> int:
    """Screen; exit status 2 where a structure could not be used."""
    given = parse(ScreenArguments, arguments, program="mdistill screen", description=HELP, groups=GROUPS)
    from mdistill.interrupt import stop_on_signals
    from mdistill.runs.lock import locked
    from mdistill.screening.screen import screen

    if given.then and given.out is None:
        raise BadInput("--then", "given without --out", allowed="a folder for its runs", fix="add --out runs/screen")
    if given.top < 1:
        raise BadInput("--top", str(given.top), allowed="1 or more", fix="--top 3")
    if given.dry_run and not given.then:
        raise BadInput("--dry-run", "given without --then", allowed="with a job", fix="add --then distill")
    folder = None if given.out is None else output_folder(given.out)
    command = "mdistill screen " + shlex.join(arguments)
    with stop_on_signals(resume=command) as stop, nullcontext() if folder is None else locked(folder):
        kept = None if folder is None else folder / "read.jsonl"
        results = screen(
            given.files, species=given.species, temperatures_K=given.temperature, model=given.model, motion=given.motion,
            kept=kept, stop=stop,
        )  # fmt: skip
        results = stamped(results, given, repeat=command)
        show(results, folder)
        if folder is not None:
            from mdistill.io.files import write_text
            from mdistill.screening.tables import screen_csv

            write_config(folder, "mdistill screen", given)
            write_text(folder / "screen.csv", screen_csv(results))
            print(f"all columns: {folder / 'screen.csv'}")
        finish(results, folder, report=True, sections=("unread",))
    refused = int(results.values["structures_refused"].value or 0)
    if folder is None and stop.pending():
        raise Interrupted("stopped; the ranking holds what was read.\n  fix: with --out FOLDER the same command reads the rest")
    stop.raise_if_pending()
    status = 2 if refused else 0
    return max(status, *distill_best(given, results)) if given.then else status


def distill_best(given: ScreenArguments, results: Any) -> list[int]:
    """Run `mdistill distill` on the best structures, as its command line would; the exit status of each.

    One that fails is told, and the next one begins.
    """
    from mdistill.commands.distill import main as distill
    from mdistill.screening.tables import best_names

    statuses, names = [0], best_names(results, given.top)
    if not names:
        print("nothing to distil: the model is applicable to none of the structures")
    for name in names:
        inside = given.files[0] / name
        path = inside if given.files[0].is_dir() and inside.is_file() else Path(name)
        if not path.is_file():
            print(f"not distilled: {name} is one of several structures in a file; write it to a file of its own")
            continue
        words = [str(path), "--mobile", given.species, "--out", str(Path(given.out or ".") / "distill" / _folder_of(name))]
        words += ["--dry-run"] * given.dry_run
        print(f"mdistill distill {shlex.join(words)}")
        try:
            statuses.append(distill(words))
        except Interrupted:
            raise
        except MdistillError as error:
            print(f"mdistill distill: {error}", file=sys.stderr)
            statuses.append(error.exit_status)
    return statuses


def _folder_of(name: str) -> str:
    """A folder name that no other file of the ranking has."""
    return "-".join(part for part in Path(name).with_suffix("").parts if part not in ("/", "."))


def show(results: Results, folder: Path | None, console: Console | None = None) -> None:
    """Print the first rows of the ranking and of what was refused, where the others are, and the notes."""
    from rich.console import Console

    from mdistill.report.terminal import fitted, print_table, width_of
    from mdistill.screening.motion_tables import MOTION, kelvins_of, narrow_motion
    from mdistill.screening.tables import NAME, narrow_table

    console = console or Console()
    for table in results.tables:
        ranking, shown = table.name in (NAME, MOTION), table
        if ranking:
            shown = (narrow_table if table.name == NAME else narrow_motion)(table, width=width_of(console))
        shown = dataclasses.replace(shown, rows=shown.rows[:SHOWN])
        print_table(fitted(shown, "file", width_of(console)) if ranking else shown, console)
        if (more := len(table.rows) - SHOWN) > 0:
            file = "screen.csv" if ranking else "results.json"
            console.print(f"… and {more} more in {file}" + ("" if folder else WRITES), highlight=False)
        if table.name == MOTION:
            left_out = [f"{kelvin} K" for kelvin in kelvins_of(table) if f"{kelvin} K" not in shown.columns]
            told = ", ".join([*left_out, "D"])
            console.print(f"… {told} and σ are in screen.csv" + ("" if folder else WRITES), highlight=False)
        if more > 0 or table.name == MOTION:
            console.print()
    for note in results.notes:
        console.print(f"note: {note}", highlight=False, markup=False, emoji=False, soft_wrap=not console.is_terminal)
