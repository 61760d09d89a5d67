"""Cards of models, structures and run folders."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mdistill.errors import BadInput
from mdistill.io.trajectories import HDF5_SUFFIXES
from mdistill.report.model_card import MOTION, TRANSPORT, model_card
from mdistill.report.run_card import overview, shown
from mdistill.runs.folder import run_settings, stages
from mdistill.runs.ledger import flat
from mdistill.runs.lock import working
from mdistill.runs.results import Cell, Results, Table

STUDENT_SUFFIX = ".mdistill"


def card(path: Path) -> Results:
    """Content of a file or run folder.

    Raises:
        BadInput: No file that mdistill knows.
    """
    if path.is_dir():
        return _run(path)
    if str(path) in (TRANSPORT, MOTION) and not path.exists():
        from mdistill.transport import model, motion_file

        return model_card((model if str(path) == TRANSPORT else motion_file).SHIPPED)
    if path.suffix == STUDENT_SUFFIX:
        return model_card(path)
    if path.suffix.lower() in HDF5_SUFFIXES and path.is_file():
        from mdistill.report.trajectory_card import trajectory_card

        return trajectory_card(path)
    return _structure(path)


def _structure(path: Path) -> Results:
    from mdistill.crystals.charges import formal_charges
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
    return Results(command="info", tables=[table], notes=[*crystal.notes, *crystal.unused])


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
    return Results(command="info", tables=[*overview(folder), *_now(folder), *([table] if rows else []), *results.tables])


def _now(folder: Path) -> list[Table]:
    """What a process that works in the folder does now, and how long that may take."""
    facts = working(folder)
    if facts is None:
        return []
    rows: list[list[Cell]] = [["process", f"{facts.get('process')} on {facts.get('host')}"], ["since", str(facts.get("time"))]]
    if facts.get("stage"):
        rows.append(["stage", f"{facts['stage']} (told {_ago(facts['stage_time'])})"])
    bar = facts.get("bar")
    if bar:
        done, total = float(bar["done"]), max(float(bar["total"]), 1e-9)
        rows.append([bar["name"], f"{done:.6g} of {total:.6g} {bar['unit']} ({min(done / total, 1.0):.0%}, {_ago(bar['time'])})"])
        if bar["left_s"] is not None:
            rows.append([f"left of {bar['name']}", _duration(max(bar["left_s"] - (time.time() - bar["time"]), 0.0))])
    return [Table("now", "Running", "settings", ["what", "value"], rows)]


def _ago(moment: float) -> str:
    return f"{_duration(max(time.time() - moment, 0.0))} ago"


def _duration(seconds: float) -> str:
    if seconds < 90.0:
        return f"{seconds:.0f} s"
    return f"{seconds / 60.0:.0f} min" if seconds < 5400.0 else f"{seconds / 3600.0:.1f} h"


def _table(name: str, title: str, values: Mapping[str, Any]) -> Results:
    rows: list[list[Cell]] = [[key, shown(value)] for key, value in values.items()]
    return Results(command="info", tables=[Table(name, title, "settings", ["what", "value"], rows)])
