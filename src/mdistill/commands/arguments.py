"""From a settings dataclass to flags: help with examples, suggestions for misspelt flags, bad values as exit status 2."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeVar

from mdistill.errors import BadInput

Arguments = TypeVar("Arguments")


def parse(kind: type[Arguments], arguments: list[str], *, program: str, description: str, default: Any = None) -> Arguments:
    """Parse a command line with tyro; the dataclass's docstrings are the help.

    Raises:
        SystemExit: After --help (0) or on a bad flag (2).
        BadInput: A value its settings class refuses.
    """
    import tyro

    extra = {} if default is None else {"default": default}
    return tyro.cli(kind, args=arguments, prog=program, description=description, **extra)


def output_folder(out: Path) -> Path:
    """The folder, checked to be writable (made if absent).

    Raises:
        BadInput: It cannot be made or written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        writable = os.access(out, os.W_OK)
    except OSError as error:
        raise BadInput(
            out, f"cannot be made ({error.strerror})", allowed="a folder you may write to", fix="choose another --out"
        ) from error
    if not writable:
        raise BadInput(out, "cannot be written", allowed="a folder you may write to", fix="choose another --out")
    return out


def use_threads(threads: int | None) -> None:
    """Limit torch to so many threads (None: all cores)."""
    import torch

    if threads is not None:
        if not 1 <= threads <= 1024:
            raise BadInput("threads", f"{threads}", allowed="1 to 1024", fix="leave it out for all cores")
        torch.set_num_threads(threads)


def finish(results: Any, out: Path | None, *, report: bool = False, sections: tuple[str, ...] = ()) -> None:
    """Print a command's tables (of these sections; all by default), its values where it has no tables, its gates and notes.

    With an output folder results.json is written there, and with `report` the page and its figures. Notices were printed when
    they were issued.
    """
    import dataclasses

    from mdistill.notices import heard
    from mdistill.report.ladder import all_tables
    from mdistill.report.terminal import print_summary, print_table
    from mdistill.runs.results import write_results

    page = None
    if out is not None:
        write_results(out, results)
    if out is not None and report:
        from mdistill.report.page import write_report
        from mdistill.report.terminal import write_svg_files

        write_svg_files(results, out)
        page = write_report(out)
    tables = [table for table in all_tables(results) if not sections or table.section in sections]
    for table in tables:
        print_table(table)
    for note in () if sections else results.notes:
        if note not in heard():
            print(f"note: {note}")
    print_summary(dataclasses.replace(results, values={} if tables else results.values), report=page)
    if out is not None:
        print(f"results: {out / 'results.json'}")


def stamped(results: Any, settings: Any, *, repeat: str = "") -> Any:
    """The results with version, commit, hardware, settings and time of writing filled in."""
    import dataclasses
    from datetime import UTC, datetime

    from mdistill.runs.hardware import code_version, hardware
    from mdistill.runs.ledger import plain

    code = code_version()
    return dataclasses.replace(
        results,
        version=code["version"],
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        settings=plain(settings),
        hardware=hardware(),
        provenance=results.provenance | {"commit": code["commit"]} | ({"command_line": repeat} if repeat else {}),
    )
