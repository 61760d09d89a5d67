"""The prepare stage as files: relaxed orderings in `structures.extxyz`, a record in `results.json`."""

from __future__ import annotations

from pathlib import Path

from mdistill.data.prepare import plan, prepare, relaxation_table
from mdistill.data.settings import PrepareSettings
from mdistill.estimates import exactly
from mdistill.interrupt import NEVER, StopRequest
from mdistill.io.crystal import Crystal
from mdistill.io.files import replacing
from mdistill.io.structures import STRUCTURES, read_systems, to_atoms
from mdistill.runs.folder import run_stage
from mdistill.runs.identity import model_id
from mdistill.runs.ledger import Work
from mdistill.runs.results import Results, read_results, write_results
from mdistill.settings import amended
from mdistill.types import Potential, System


def recorded(settings: PrepareSettings) -> dict[str, object]:
    """The settings as the ledger holds them; the number of orderings has a second entry there, always 1."""
    return amended(settings, {"disorder.orderings": 1})


def prepared_systems(
    crystal: Crystal, teacher: Potential, settings: PrepareSettings, folder: Path, *, seed: int, stop: StopRequest = NEVER
) -> tuple[list[System], Results]:
    """Order, repeat and relax in a stage folder (skipped when done); returns the structures of the file."""
    work = Work(
        key="prepare",
        settings={"prepare": recorded(settings), "seed": seed, "teacher": teacher.name},
        inputs={"structure": crystal.sha256},
        models={"teacher": model_id(teacher)},
    )
    outputs = [STRUCTURES, "results.json"]
    run_stage(folder, work, outputs, lambda: _prepare(crystal, teacher, settings, folder, seed=seed, stop=stop))
    return read_systems(folder / STRUCTURES), read_results(folder)


def _prepare(
    crystal: Crystal, teacher: Potential, settings: PrepareSettings, folder: Path, *, seed: int, stop: StopRequest
) -> None:
    from ase.io import write

    planned = plan(crystal, settings, elements=teacher.elements, subject=teacher.name)
    done = prepare(crystal, teacher, settings, seed=seed, stop=stop)
    with replacing(folder / STRUCTURES) as partial:
        write(partial, [to_atoms(system) for system in done.systems], format="extxyz")
    values = {"atoms": exactly(done.systems[0].n_atoms)}
    tables = [planned.sites, relaxation_table(done)]
    write_results(folder, Results(command="prepare", values=values, tables=tables, notes=[done.rule, *done.notes]))
