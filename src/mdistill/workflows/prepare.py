"""The prepare stage as files: relaxed orderings in `structures.extxyz`, a record in `results.json`."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

from mdistill.crystals.crystal import Crystal
from mdistill.data.prepare import plan, prepare, relaxation_table
from mdistill.data.relax import NotRelaxed
from mdistill.data.settings import PrepareSettings
from mdistill.errors import MdistillError
from mdistill.estimates import exactly
from mdistill.interrupt import NEVER, StopRequest
from mdistill.io.structures import STRUCTURES, read_systems, write_systems
from mdistill.labelling.engine import as_engine
from mdistill.labelling.executor import AskedPotential, executor
from mdistill.runs.folder import run_stage
from mdistill.runs.identity import model_id
from mdistill.runs.ledger import Work
from mdistill.runs.results import Results, read_results, write_results
from mdistill.settings import USUAL_TIMEOUT, amended
from mdistill.types import Potential, System


def recorded(settings: PrepareSettings) -> dict[str, object]:
    """The settings as the ledger holds them; the number of orderings has a second entry there, always 1."""
    return amended(settings, {"disorder.orderings": 1})


def prepared_systems(
    crystal: Crystal, teacher: Potential, settings: PrepareSettings, folder: Path, *, seed: int,
    timeout_s: float = USUAL_TIMEOUT, workers: int = 0, stop: StopRequest = NEVER,
) -> tuple[list[System], Results]:  # fmt: skip
    """Order, repeat and relax in a stage folder (skipped when done); returns the structures of the file.

    Args:
        crystal: As read.
        teacher: The teacher.
        settings: Cutoff, orderings, relaxation.
        folder: Folder of the stage.
        seed: Seed of the search for orderings.
        timeout_s: Longest teacher call, s.
        workers: 0: the teacher is called in this process. Otherwise one worker process calls it, which can be killed.
        stop: Checked between relaxation steps.
    Raises:
        BadInput: As `prepare`.
        MdistillError: The teacher failed twice on a structure, which is in `folder/broken`.
        Interrupted: A stop was requested.
    """
    work = Work(
        key="prepare",
        settings={"prepare": recorded(settings), "seed": seed, "teacher": teacher.name},
        inputs={"structure": crystal.sha256},
        models={"teacher": model_id(teacher)},
    )
    outputs = [STRUCTURES, "results.json"]

    def act() -> None:
        asked = executor(as_engine(teacher), workers=min(workers, 1), seconds=timeout_s, folder=folder / "engine")
        with closing(asked):
            _prepare(crystal, AskedPotential(asked), settings, folder, seed=seed, stop=stop)

    run_stage(folder, work, outputs, act)
    return read_systems(folder / STRUCTURES), read_results(folder)


def _prepare(
    crystal: Crystal, teacher: Potential, settings: PrepareSettings, folder: Path, *, seed: int, stop: StopRequest
) -> None:
    planned = plan(crystal, settings, elements=teacher.elements, subject=teacher.name)
    try:
        done = prepare(crystal, teacher, settings, seed=seed, stop=stop)
    except NotRelaxed as error:
        broken = folder / "broken" / "relaxation.extxyz"
        write_systems(broken, [error.system])
        raise MdistillError(
            f"{error}\n  saved: the structure in {broken}\n  fix: run the teacher on that structure to find the cause, or "
            "raise the longest time of a call (--timeout-s; in distill --label.timeout-s); then run the same command again"
        ) from error
    write_systems(folder / STRUCTURES, done.systems)
    values = {"atoms": exactly(done.systems[0].n_atoms)}
    tables = [replace(planned.sites, caption=done.rule), relaxation_table(done)]
    write_results(folder, Results(command="prepare", values=values, tables=tables, notes=[done.rule, *done.notes]))
