"""Campaigns: the main job on many crystals, one run for each crystal, set of temperatures and seed.

    OUT/campaign.toml    the file, as given last    OUT/jobs/NAME.json   state of a run, written by the process that starts it
    OUT/jobs/NAME.toml   settings of a run          OUT/logs/NAME.txt    what it printed
    OUT/runs/NAME/       its folder, as of `mdistill distill jobs/NAME.toml`

All state is in these files: a driver or worker that is killed loses nothing else, and any of them can be the next.
"""

from __future__ import annotations

import glob
import itertools
import math
import os
import re
import time
import tomllib
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from mdistill.errors import BadInput
from mdistill.io.files import read_json, this_host, write_json, write_text
from mdistill.io.listing import structure_files
from mdistill.runs.ledger import differences, flat
from mdistill.runs.lock import working
from mdistill.settings import from_json, to_json, to_toml

FILE = "campaign.toml"
OWN = ("structures", "seeds", "temperatures", "only", "max_hours", "attempts", "slurm")
"""Entries of a campaign file that are not settings of its runs."""
State = Literal["waiting", "running", "done", "failed", "stopped"]
_BEGINNING_S, _CLOCK_S = 120.0, 2.0
_ANEW = "run mdistill campaign campaign.toml --out FOLDER again: it is written anew"
_EXAMPLE = 'structures = ["crystals/*.cif"]'


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run of a campaign.

    Attributes:
        name: Its name, of letters, digits, dots, dashes.
        crystal: Name of its structure file, without extension.
        structure: That file.
        entries: All entries of its settings file, by dotted name.
    """

    name: str
    crystal: str
    structure: Path
    entries: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """State of a run. Times add up over its attempts.

    Attributes:
        status: Exit status of the last attempt; below zero: the signal that killed it.
        reason: What the run said when it failed.
        process, host: Of its last attempt.
    """

    state: State = "waiting"
    status: int | None = None
    reason: str = ""
    attempts: int = 0
    minutes: float = 0.0
    cpu_minutes: float = 0.0
    process: int = 0
    host: str = ""

    @property
    def final(self) -> bool:
        """Whether another attempt would end the same way."""
        return self.state == "done" or (self.state == "failed" and self.status == 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """A campaign in its folder.

    Attributes:
        max_hours: Time limit of one attempt of a run, h.
        attempts: Largest number of attempts of a run that dies, in one call.
        slurm: Lines for the head of a SLURM script.
    """

    folder: Path
    jobs: tuple[Job, ...]
    max_hours: float | None = None
    attempts: int = 2
    slurm: tuple[str, ...] = field(default=())

    def run(self, name: str) -> Path:
        return self.folder / "runs" / name

    def settings_file(self, name: str) -> Path:
        return self.folder / "jobs" / f"{name}.toml"

    def log(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.txt"

    def record(self, name: str) -> Record:
        """What is known of a run. One whose process ended without a word is stopped."""
        path = self.folder / "jobs" / f"{name}.json"
        if not path.is_file():
            return Record()
        record = from_json(Record, read_json(path), source=path)
        if record.state == "running" and working(self.run(name)) is None and not _alive(record, path):
            problem = "ended without a word (killed, or its machine went down); it resumes"
            return Record(**{**to_json(record), "state": "stopped", "reason": problem})
        return record

    def keep(self, name: str, record: Record) -> None:
        write_json(self.folder / "jobs" / f"{name}.json", to_json(record))


def _alive(record: Record, path: Path) -> bool:
    """Whether the process of a run lives; one of another machine has two minutes to lock its folder."""
    import psutil

    written = path.stat().st_mtime
    if record.host != this_host():
        return time.time() - written < _BEGINNING_S
    try:
        process = psutil.Process(record.process)
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() < written + _CLOCK_S
    except psutil.Error:
        return False


def read_campaign(path: Path, folder: Path, entries: Mapping[str, Any], check: Callable[[Mapping[str, Any]], object]) -> Campaign:
    """A campaign from its file.

    Args:
        path: The file; paths in it are relative to it.
        folder: The folder of the campaign.
        entries: Content of the file.
        check: Called with the entries of each run; it raises where they are no settings of the main job.
    Raises:
        BadInput: No structure, two of one name, an entry that is unknown or out of range.
    """
    own = {name: entries[name] for name in OWN if name in entries}
    common = {name: value for name, value in entries.items() if name not in OWN}
    for name in ("structure", "seed"):
        if name in common:
            raise BadInput(
                f"{name} in {path}", f"{common[name]!r}", allowed=f"{name}s, a list", fix=f"{name}s = [{common[name]!r}]"
            )
    files = _files(path, _list(own, "structures", path, str, fix=_EXAMPLE))
    seeds = _list(own, "seeds", path, int, usual=(0,), fix="seeds = [0, 1]")
    sets = _temperatures(own, path)
    only = _only(own, path, files)
    jobs = []
    for (crystal, file), kelvins, seed in itertools.product(files.items(), sets, seeds):
        name = crystal + (f"-{'-'.join(f'{t:g}' for t in kelvins)}K" if len(sets) > 1 else "") + (
            f"-seed{seed}" if len(seeds) > 1 else ""
        )  # fmt: skip
        given = {"structure": str(file), "seed": seed, **({"temperatures": kelvins} if kelvins else {})}
        wanted = _nested(flat(common) | given | flat(only.get(crystal, {})))
        check(wanted)
        jobs.append(Job(name=re.sub(r"[^\w.-]", "-", name), crystal=crystal, structure=file, entries=wanted))
    names = [job.name for job in jobs]
    if (twice := next((name for name in names if names.count(name) > 1), None)) is not None:
        fix = "rename a structure file, or list each set of temperatures once"
        raise BadInput(path, f"two runs are called {twice}", allowed="a name for each run", fix=fix)
    hours, attempts = own.get("max_hours"), own.get("attempts", 2)
    if hours is not None and not (_number(hours) and 0 < hours < math.inf):
        raise BadInput(f"max_hours in {path}", f"{hours!r}", allowed="hours for one run, above 0, finite", fix="max_hours = 12")
    if not (isinstance(attempts, int) and _number(attempts) and 1 <= attempts <= 100):
        raise BadInput(f"attempts in {path}", f"{attempts!r}", allowed="1 to 100", fix="attempts = 2")
    slurm = _list(own, "slurm", path, str, fix='slurm = ["--partition=long"]')
    return Campaign(folder=folder, jobs=tuple(jobs), max_hours=hours, attempts=attempts, slurm=tuple(slurm))


def _number(value: Any) -> bool:
    """Whether it is a number: true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _only(own: Mapping[str, Any], path: Path, files: Collection[str]) -> dict[str, Mapping[str, Any]]:
    """Settings of single crystals, by name."""
    only, fix = own.get("only", {}), '[only."NAME"], with the name of a file without extension'
    if not (isinstance(only, Mapping) and all(isinstance(one, Mapping) for one in only.values())):
        raise BadInput(f"only in {path}", f"{only!r}", allowed="settings of single structures, by name", fix=fix)
    if unknown := sorted(set(only) - set(files)):
        raise BadInput(path, f"only.{unknown[0]} names no structure of this campaign", allowed=", ".join(files), fix=fix)
    return dict(only)


def _list(own: Mapping[str, Any], name: str, path: Path, kind: type, *, usual: Any = (), fix: str) -> Any:
    values = own.get(name, usual)
    values = [values] if isinstance(values, kind) and not isinstance(values, bool) else values
    fits = isinstance(values, list | tuple) and all(isinstance(one, kind) and not isinstance(one, bool) for one in values)
    if not fits or (not values and usual) or len(set(values)) != len(values):
        raise BadInput(f"{name} in {path}", f"{values!r}", allowed=f"a list of {kind.__name__}, each once", fix=fix)
    return values


def _temperatures(own: Mapping[str, Any], path: Path) -> list[list[float]]:
    """Sets of temperatures; one that is empty leaves them to the settings."""
    values = own.get("temperatures", [])
    sets = values if isinstance(values, list) and values and all(isinstance(one, list) for one in values) else [values]
    if not all(isinstance(kelvins, list) and all(map(_number, kelvins)) for kelvins in sets):
        fix = "temperatures = [500, 700, 900], or a list of such lists for a run of each"
        raise BadInput(f"temperatures in {path}", f"{values!r}", allowed="numbers, K, in a list", fix=fix)
    return [[float(one) for one in kelvins] for kelvins in sets]


def _files(path: Path, patterns: list[str]) -> dict[str, Path]:
    """Structure files by name."""
    found: list[Path] = []
    for pattern in patterns:
        place = os.path.join(path.parent, pattern)
        matches = [Path(place)] if os.path.exists(place) else [Path(one) for one in sorted(glob.glob(place, recursive=True))]
        if not matches:
            raise BadInput(
                f"structures in {path}", f"{pattern!r} matches nothing", allowed="files, folders, patterns", fix=_EXAMPLE
            )
        found += [file for file, _ in structure_files(matches)[0]]
    if not found:
        raise BadInput(f"structures in {path}", "none given", allowed="files, folders, patterns", fix=_EXAMPLE)
    named: dict[str, Path] = {}
    for file in found:
        name = file.name if file.suffix.lower() not in (".cif", ".vasp", ".xyz", ".extxyz", ".poscar") else file.stem
        if named.get(name, file).resolve() != file.resolve():
            problem = f"{named[name]} and {file} have one name"
            raise BadInput(f"structures in {path}", problem, allowed="a name for each", fix=f"rename {file}")
        named[name] = file
    return named


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, value in values.items():
        *outer, last = name.split(".")
        place = made
        for part in outer:
            place = place.setdefault(part, {})
        place[last] = value
    return made


def write_jobs(campaign: Campaign, source: Path, *, update: bool) -> list[str]:
    """Write the settings of every run, and a copy of the campaign file; names of runs in the folder that are none of them.

    Raises:
        BadInput: A run that began has other settings, and `update` is not given.
    """
    texts = {job.name: _text(job, campaign.settings_file(job.name).parent) for job in campaign.jobs}
    for job in campaign.jobs:
        path = campaign.settings_file(job.name)
        if (
            update
            or not path.is_file()
            or not campaign.run(job.name).exists()
            or path.read_text(encoding="utf-8") == texts[job.name]
        ):
            continue
        changed = differences(_settings(path), tomllib.loads(texts[job.name]))
        problem = f"holds the run {job.name} with other settings:\n    " + "\n    ".join(changed)
        fix = "choose another --out, or add --update to rerun the stages that these settings affect"
        raise BadInput(campaign.folder, problem, allowed="the same settings (its runs resume), or more runs", fix=fix)
    for name, text in texts.items():
        path = campaign.settings_file(name)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)
            with suppress(FileNotFoundError):
                path.with_suffix(".json").unlink()
    facts = {"jobs": {job.name: {"crystal": job.crystal, "structure": str(job.structure.resolve())} for job in campaign.jobs}}
    facts |= {"max_hours": campaign.max_hours, "attempts": campaign.attempts, "slurm": list(campaign.slurm)}  # type: ignore[dict-item]
    write_json(campaign.folder / "campaign.json", facts)
    write_text(
        campaign.folder / FILE,
        f"# Copy of {source.name}; its paths are relative to the original.\n" + source.read_text(encoding="utf-8"),
    )
    known = set(texts)
    return sorted(path.stem for path in (campaign.folder / "jobs").glob("*.toml") if path.stem not in known)


def _text(job: Job, folder: Path) -> str:
    entries = flat(job.entries)
    entries["structure"] = os.path.relpath(job.structure.resolve(), folder.resolve())
    ordered = {name: entries[name] for name in ("preset", *entries) if name in entries}
    return to_toml(ordered, lambda _: "", head=f"Run {job.name} of a campaign: mdistill distill {job.name}.toml --out FOLDER")


def _settings(path: Path) -> dict[str, Any]:
    """The settings file of a run.

    Raises:
        BadInput: Absent, or no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadInput(path, "no such file", allowed="the settings of every run", fix=_ANEW) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(
            path, f"is no TOML ({error})", allowed="the file as it was written", fix=f"remove it, and {_ANEW}"
        ) from error


def open_campaign(folder: Path) -> Campaign:
    """The campaign of a folder, as its last driver left it.

    Raises:
        BadInput: The folder holds none, or its files are damaged.
    """
    path = folder / "campaign.json"
    if not path.is_file():
        raise BadInput(
            folder, "holds no campaign", allowed="the folder of a campaign", fix="mdistill campaign campaign.toml --out FOLDER"
        )
    facts = read_json(path)
    try:
        jobs = tuple(
            Job(name=name, crystal=one["crystal"], structure=Path(one["structure"]), entries={})
            for name, one in facts["jobs"].items()
        )
        made = Campaign(
            folder=folder, jobs=jobs, max_hours=facts["max_hours"], attempts=facts["attempts"], slurm=tuple(facts["slurm"])
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise BadInput(path, f"is not that of a campaign ({error!r})", allowed="the file as it was written", fix=_ANEW) from error
    return replace(made, jobs=tuple(replace(job, entries=_settings(made.settings_file(job.name))) for job in jobs))
