"""Cards of models, structures and run folders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mdistill.errors import BadInput
from mdistill.runs.folder import run_settings, stages
from mdistill.runs.ledger import flat
from mdistill.runs.results import Cell, Results, Table

STUDENT_SUFFIX = ".mdistill"


def card(path: Path) -> Results:
    """Content of a file or run folder.

    Raises:
        BadInput: No file that mdistill knows.
    """
    if path.is_dir():
        return _run(path)
    if path.suffix == STUDENT_SUFFIX:
        from mdistill.nets.model_files import read_metadata

        return _table("model", f"Model {path.name}", flat(read_metadata(path)))
    return _structure(path)


def _structure(path: Path) -> Results:
    from mdistill.io.charges import formal_charges
    from mdistill.io.structures import read_structure

    crystal = read_structure(path)
    charges = formal_charges(crystal)
    rows: list[list[Cell]] = [
        ["composition", crystal.formula],
        ["atoms", f"{crystal.n_atoms:g}"],
        ["ordered", "yes" if crystal.ordered else "no: partially occupied or mixed sites"],
        ["periodic", ", ".join("yes" if p else "no" for p in crystal.pbc)],
        ["formal charges", "unknown" if charges is None else ", ".join(f"{_symbol(z)} {q:+g}" for z, q in charges.items())],
        ["sha256", crystal.sha256],
    ]
    table = Table("structure", f"Structure {path.name}", "structure", ["what", "value"], rows)
    return Results(command="info", tables=[table], notes=list(crystal.notes))


def _symbol(number: int) -> str:
    from ase.data import chemical_symbols

    return str(chemical_symbols[number])


def _run(folder: Path) -> Results:
    settings = run_settings(folder)
    if not settings:
        allowed = "a folder made by mdistill distill, label, train or simulate"
        raise BadInput(folder, "no run of mdistill", allowed=allowed, fix="check the path")
    results = _table("settings", f"Settings of {folder.name}", flat(settings))
    rows: list[list[Cell]] = [[name, entry["state"], entry.get("seconds")] for name, entry in stages(folder).items()]
    table = Table("stages", "Stages", "settings", ["stage", "state", "time (s)"], rows)
    return Results(command="info", tables=[*([table] if rows else []), *results.tables])


def _table(name: str, title: str, values: Mapping[str, Any]) -> Results:
    rows: list[list[Cell]] = [
        [key, value if isinstance(value, (int, float, str)) else str(value)] for key, value in values.items()
    ]
    return Results(command="info", tables=[Table(name, title, "settings", ["what", "value"], rows)])
