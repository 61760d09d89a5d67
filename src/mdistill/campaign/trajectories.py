"""A trajectory set from structure files, smallest supercell first: one after the other, or side by side in worker processes.

Only this process writes the set. What cannot be used is listed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ase.data import atomic_numbers

from mdistill.campaign.settings import ALIKE, TrajectorySettings
from mdistill.campaign.trajectory_job import crystal_record, key_of, mobile_of
from mdistill.campaign.workers import Killed, in_workers
from mdistill.crystals.task_checks import check_conductor
from mdistill.data.prepare import plan
from mdistill.data.settings import PrepareSettings
from mdistill.errors import BadInput, Interrupted, MdistillError
from mdistill.estimates import exactly
from mdistill.interrupt import NEVER, StopRequest
from mdistill.io.files import read_json, write_json
from mdistill.io.structures import read_structure
from mdistill.progress import progress
from mdistill.runs.lock import locked
from mdistill.runs.results import Cell, Results, Table
from mdistill.settings import to_json
from mdistill.teachers.early_features import first_block
from mdistill.teachers.models import load
from mdistill.transport.trajectory_set import CrystalRecord, add_to_set, read_trajectory_set
from mdistill.types import Potential

FAILED = "failed.json"
"""Crystals for which the teacher or the student failed: they are not tried again while this file names them."""
LOG = "log.txt"
"""What a worker process said, in the folder of its crystal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Crystal:
    """A structure file, its key, name to show, and number of atoms of its supercell."""

    path: Path
    key: str
    name: str
    atoms: int


def make_trajectory_set(
    files: Sequence[tuple[Path, str]], path: Path, settings: TrajectorySettings, folder: Path, *, species: str = "",
    workers: int = 0, stop: StopRequest = NEVER,
) -> Results:  # fmt: skip
    """Add every crystal that the set does not have; the same call continues after a stop or a kill.

    Args:
        files: Structure files, with the names to show.
        path: The set; made if absent.
        settings: Teacher, temperatures, lengths.
        folder: Folder for the labels of the crystals at work, and for the list of failures.
        species: Mobile ion; by default the usual one of each crystal.
        workers: Number of one-thread processes, each at one crystal; 0: this process. The set is the same.
        stop: Checked between steps.
    Returns:
        Tables of the crystals of the set ("set") and of files that could not be used ("unread").
    Raises:
        BadInput: A set that is damaged or of other settings, no file that can be used, an unknown teacher.
        Interrupted: A stop was requested; finished crystals are in the set.
    """
    with locked(folder):
        teacher = load_featured(settings.teacher)
        before = read_trajectory_set(path) if path.exists() else []
        check_alike(before, settings, path)
        known = {one.key for one in before}
        failed: dict[str, list[str]] = read_json(folder / FAILED) if (folder / FAILED).exists() else {}
        crystals, unread = _planned(files, teacher, settings, species)
        todo = [one for one in crystals if one.key not in known and one.key not in failed]
        made_with = hashlib.sha256(json.dumps(to_json(settings), sort_keys=True).encode()).hexdigest()[:8]
        homes = [folder / "work" / f"{one.key}-{made_with}" for one in todo]
        jobs = [partial(_record, one.path, settings, home, species=species) for one, home in zip(todo, homes, strict=True)]
        with progress("trajectories", len(todo), unit="crystal") as advance:

            def tell(numbers: Sequence[int]) -> None:
                advance(0, ", ".join(f"{todo[k].name}, {todo[k].atoms} atoms" for k in numbers))

            logs = [home / LOG for home in homes]
            working = (
                in_workers(jobs, logs, workers=workers, tell=tell, stop=stop) if workers else _here(jobs, teacher, tell, stop)
            )
            with closing(working) as answers:
                for k, answer in answers:
                    if isinstance(answer, CrystalRecord):
                        add_to_set(path, answer)
                        shutil.rmtree(homes[k], ignore_errors=True)
                    elif isinstance(answer, Killed):
                        unread.append((todo[k].name, str(answer), "the same command again, with fewer --workers"))
                    else:
                        failed[todo[k].key] = [todo[k].name, str(answer)]
                        write_json(folder / FAILED, failed)
                    advance(1, "")
        unread += [(name, reason, f"remove it from {folder / FAILED} to try again") for name, reason in failed.values()]
        records = read_trajectory_set(path) if path.exists() else []
    return set_results(records, unread, "--structures")


def load_featured(name: str) -> Potential:
    """A teacher whose first block gives features.

    Raises:
        BadInput: As `teachers.models.load`; or it has no interaction blocks that can be read.
    """
    flag = "--make.teacher"
    teacher = load(name, subject=flag)
    first_block(teacher, flag=flag)
    return teacher


def _record(
    path: Path, settings: TrajectorySettings, home: Path, *, species: str, teacher: Potential | None = None,
    stop: StopRequest = NEVER,
) -> CrystalRecord:  # fmt: skip
    """The record of a crystal; a worker process loads the teacher itself."""
    teacher = load_featured(settings.teacher) if teacher is None else teacher
    return crystal_record(path, teacher, settings, home, species=species, stop=stop)


def _here(
    jobs: Sequence[Callable[..., CrystalRecord]], teacher: Potential, tell: Callable[[Sequence[int]], object], stop: StopRequest
) -> Generator[tuple[int, CrystalRecord | MdistillError]]:
    """Number and record of every crystal, one after the other in this process."""
    for k, job in enumerate(jobs):
        tell([k])
        try:
            record = job(teacher=teacher, stop=stop)
        except Interrupted:
            raise
        except MdistillError as error:
            yield k, error
        else:
            yield k, record


def check_alike(records: Sequence[CrystalRecord], settings: TrajectorySettings, path: Path) -> None:
    """Refuse to add to crystals with which new ones could not be compared."""
    asked = to_json(settings)
    for name, made in ((name, one.about.get("settings", {})) for one in records for name in ALIKE):
        if made.get(name, asked[name]) != asked[name]:
            problem = f"holds crystals of {name} {made[name]}; asked for: {asked[name]}"
            fix = f"the same --make.{name.replace('_', '-')}, or another --trajectories"
            raise BadInput(path, problem, allowed=f"one {name} in a set", fix=fix)


def _planned(
    files: Sequence[tuple[Path, str]], teacher: Potential, settings: TrajectorySettings, species: str
) -> tuple[list[_Crystal], list[tuple[str, str, str]]]:
    """Crystals by size of their supercell, and files that cannot be used with reason and fix."""
    crystals, unread = dict[str, _Crystal](), list[tuple[str, str, str]]()
    prepare = PrepareSettings(cutoff=settings.cutoff, max_atoms=settings.max_atoms)
    for path, name in files:
        try:
            crystal = read_structure(path)
            mobile = mobile_of(crystal, species)
            check_conductor(crystal, atomic_numbers[mobile])
            atoms = plan(crystal, prepare, elements=teacher.elements, subject=teacher.name).atoms
        except BadInput as error:
            unread.append((name, error.problem, error.fix))
        except MdistillError as error:
            unread.append((name, " ".join(str(error).split()), "check the file"))
        else:
            key = key_of(crystal, mobile)
            crystals.setdefault(key, _Crystal(path=path, key=key, name=name, atoms=atoms))
    return sorted(crystals.values(), key=lambda one: (one.atoms, one.name)), unread


def set_results(records: Sequence[CrystalRecord], unread: Sequence[tuple[str, str, str]], flag: str) -> Results:
    """Tables of the crystals of a set, and of files (name, reason, fix) that could not be used.

    Raises:
        BadInput: No crystal at all; `flag` is what named the files.
    """
    if not records:
        first = unread[0] if unread else ("", "no file", "name structures")
        problem = f"no crystal that can be used; the first of {len(unread)}, {first[0]}: {first[1]}"
        raise BadInput(flag, problem, allowed="bulk crystals with a mobile ion", fix=first[2])
    kelvins = sorted({float(kelvin) for one in records for kelvin in one.temperatures_K})
    moved = [f"log10 MSD {kelvin:g} K (Å²)" for kelvin in kelvins]
    columns = ["crystal", "file", "ion", "labels", "force gate", *moved, "flags"]
    rows: list[list[Cell]] = []
    for one in records:
        values = dict(zip(one.temperatures_K.tolist(), one.log_msd.tolist(), strict=True))
        flags = "; ".join(f"{kelvin} K {', '.join(these)}" for kelvin, these in one.about["flags"].items() if these)
        rows.append([
            str(one.about["formula"]), str(one.about["source"]), str(one.about["mobile"]), int(one.about["labels"]),
            "none" if "published" in one.about else "passed" if one.about["gate_passed"] else "failed",
            *(values.get(kelvin) for kelvin in kelvins), flags,
        ])  # fmt: skip
    lag = records[0].about.get("settings", {}).get("lag_ps", "?")
    caption = f"Mean square displacement of the mobile ion at a lag of {lag} ps: of two students of each crystal, or published."
    tables = [Table("set", f"Trajectory set: {len(records)} crystals", "trajectories", columns, rows, caption)]
    if unread:
        listed: list[list[Cell]] = [list(one) for one in unread]
        title = f"Not in the set: {len(unread)} files"
        tables.append(Table("unread", title, "trajectories", ["file", "reason", "fix"], listed))
    usable = sum(bool(one.usable.any()) for one in records)
    values = {"crystals": exactly(len(records)), "crystals_usable": exactly(usable), "structures_refused": exactly(len(unread))}
    return Results(command="train transport", tables=tables, values=values, citations=[])
