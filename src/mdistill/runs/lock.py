"""One process per run folder. The operating system holds the lock and frees it when its process ends, however that happens."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdistill.errors import BadInput
from mdistill.io.files import PARTIAL, read_json, this_host, write_failure, write_json
from mdistill.progress import published
from mdistill.runs.ledger import Ledger

if TYPE_CHECKING:
    from filelock import BaseFileLock

LOCK, HOLDER, PROGRESS = ".lock", ".lock.json", ".progress.json"
_ABANDONED_SECONDS = 86_400.0
"""Age from which an unfinished file of another machine counts as left over."""
_CLOCK_SECONDS = 2.0
"""Uncertainty of a process's start time: the system counts from a boot time in whole seconds."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder against a second process, and remove unfinished files of dead processes.

    Raises:
        BadInput: Another process works in the folder, or in the run of which it is a stage; the message names its number, its
            host, its start and when it took the lock. Or the folder was moved in the meantime.
        MdistillError: The folder cannot be written.
    """
    from filelock import FileLock

    folder = Path(folder)
    lock = FileLock(folder / LOCK)
    for run in _runs_at_work(folder):
        with suppress(OSError):
            _acquire(FileLock(run / LOCK), run, subject=folder).release()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _acquire(lock, folder, subject=folder)
    except (OSError, NotImplementedError) as error:  # the latter: a file system without locks
        raise write_failure(folder / LOCK, error if isinstance(error, OSError) else OSError(f"{error}")) from error
    number = (folder / LOCK).stat().st_ino
    try:
        write_json(
            folder / HOLDER, {"process": os.getpid(), "host": this_host(), "started": _started(), "time": _told(time.time())}
        )
        (folder / PROGRESS).unlink(missing_ok=True)
        remove_leftovers(folder)
        with published(lambda facts: _tell(folder, facts)):
            yield
    except Exception as error:
        _check_place(folder, number, error)
        raise
    else:
        _check_place(folder, number, None)
    finally:
        if _in_place(folder, number):
            for name in (HOLDER, PROGRESS):
                (folder / name).unlink(missing_ok=True)
        lock.release()


def _told(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")


def _started() -> str:
    """Start of this process, as the system knows it: with the number it tells a process from a later one of the same number."""
    import psutil

    return _told(psutil.Process().create_time())


def _tell(folder: Path, facts: dict[str, Any]) -> None:
    """Write the progress of this process, unless its folder was moved away."""
    if (folder / HOLDER).exists():
        write_json(folder / PROGRESS, facts)


def working(folder: Path) -> dict[str, Any] | None:
    """Holder of a folder's lock, with the progress that it published last; None where no process works there.

    Returns:
        process, host, started, time, and where known: stage, stage_time, bar {name, done, total, unit, left_s, time}.
    """
    from filelock import FileLock, Timeout

    if not (folder / HOLDER).is_file() or not (folder / LOCK).is_file():
        return None
    try:
        with FileLock(folder / LOCK, blocking=False):
            return None
    except Timeout:
        pass
    facts: dict[str, Any] = {}
    for name in (HOLDER, PROGRESS):
        with suppress(BadInput, TypeError):
            facts |= read_json(folder / name)
    return facts


def _acquire(lock: BaseFileLock, folder: Path, *, subject: Path) -> BaseFileLock:
    from filelock import Timeout

    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        problem = f"{_holder(folder)} is working in this run folder" if folder == subject else (
            f"is part of the run {folder}, in which {_holder(folder)} is working"
        )  # fmt: skip
        allowed, fix = "one process per run folder", "wait for it, stop it, or choose another folder with --out"
        fix += f". If it has ended, as on a machine that is gone, delete {folder / LOCK}"
        raise BadInput(subject, problem, allowed=allowed, fix=fix) from error
    return lock


def _runs_at_work(folder: Path) -> Iterator[Path]:
    """Runs of which a folder is a stage, or part of one, and which a process seems to hold."""
    place = folder.absolute()
    for stage in (place, *place.parents):
        with suppress(BadInput, OSError):
            if (stage.parent / HOLDER).exists() and stage.name in Ledger(stage).entries():
                yield stage.parent


def _in_place(folder: Path, number: int) -> bool:
    """Whether the lock that was taken is still that of the folder."""
    try:
        return (folder / LOCK).stat().st_ino == number
    except OSError:
        return False


def _check_place(folder: Path, number: int, error: Exception | None) -> None:
    if not _in_place(folder, number):
        problem, allowed = "was moved or removed while this process worked in it", "a folder that stays where it is"
        fix = f"name its new place with --out: the run resumes there. Remove what is left in {folder}"
        raise BadInput(folder, problem, allowed=allowed, fix=fix) from error


def _holder(folder: Path) -> str:
    """The holder of the lock, for a message."""
    with suppress(BadInput, KeyError, TypeError):
        held = read_json(folder / HOLDER)
        return f"process {held['process']} on {held['host']} (started {held['started']}, in the folder since {held['time']})"
    return "another process"


def remove_leftovers(folder: Path, *, below: bool = True) -> list[Path]:
    """Remove the unfinished files of dead processes: those of this machine at once, others after a day. Returns their paths.

    Args:
        folder: Where to look.
        below: Whether to look in its subfolders too.
    """
    removed = []
    for path in (folder.rglob if below else folder.glob)(f".*{PARTIAL}"):
        process, _, host = path.name.removesuffix(PARTIAL).rpartition(".")[2].partition("@")
        with suppress(OSError, ValueError):
            written = path.stat().st_mtime
            here = host in ("", this_host())
            if _ended(int(process), written) if here else time.time() - written > _ABANDONED_SECONDS:
                path.unlink()
                removed.append(path)
    return removed


def _ended(process: int, written: float) -> bool:
    """Whether the process that wrote at this time has ended; a process that began later has its number by chance."""
    import psutil

    try:
        return process == os.getpid() or psutil.Process(process).create_time() > written + _CLOCK_SECONDS
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False
