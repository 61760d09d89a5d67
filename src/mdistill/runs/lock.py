"""One process per run folder. The operating system holds the lock and frees it when its process ends, however that happens."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from mdistill.errors import BadInput
from mdistill.io.files import PARTIAL, read_json, this_host, write_failure, write_json

LOCK, HOLDER = ".lock", ".lock.json"
_ABANDONED_SECONDS = 86_400.0
"""Age from which an unfinished file of another machine counts as left over."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder against a second process, and remove unfinished files of dead processes.

    Raises:
        BadInput: Another process works in the folder; the message names its number, its host and when it began.
        MdistillError: The folder cannot be written.
    """
    from filelock import FileLock, Timeout

    folder = Path(folder)
    lock = FileLock(folder / LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout as error:
        allowed, fix = "one process per run folder", "wait for it, stop it, or choose another folder with --out"
        raise BadInput(folder, f"{_holder(folder)} is working in this run folder", allowed=allowed, fix=fix) from error
    except OSError as error:
        raise write_failure(folder / LOCK, error) from error
    try:
        began = datetime.now().astimezone().isoformat(timespec="seconds")
        write_json(folder / HOLDER, {"process": os.getpid(), "host": this_host(), "time": began})
        remove_leftovers(folder)
        yield
    finally:
        (folder / HOLDER).unlink(missing_ok=True)
        lock.release()


def _holder(folder: Path) -> str:
    """The holder of the lock, for a message."""
    with suppress(BadInput, KeyError, TypeError):
        held = read_json(folder / HOLDER)
        return f"process {held['process']} on {held['host']} (since {held['time']})"
    return "another process"


def remove_leftovers(folder: Path) -> list[Path]:
    """Remove the unfinished files of dead processes: those of this machine at once, others after a day. Returns their paths."""
    import psutil

    removed = []
    for path in folder.rglob(f".*{PARTIAL}"):
        process, _, host = path.name.removesuffix(PARTIAL).rpartition(".")[2].partition("@")
        with suppress(OSError, ValueError):
            if host in ("", this_host()):
                dead = int(process) == os.getpid() or not psutil.pid_exists(int(process))
            else:
                dead = time.time() - path.stat().st_mtime > _ABANDONED_SECONDS
            if dead:
                path.unlink()
                removed.append(path)
    return removed
