"""Writing files so that a crash, a full disk or Ctrl-C leaves the old file intact, and hashing them."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mdistill.errors import BadInput, MdistillError

PARTIAL = ".partial"
"""Suffix of unfinished files; the process and host that write them precede it."""
_NUMBERS = re.compile(r"\[\n\s*((?:(?:null|-?\d[-+.\deE]*),?\n\s*)+)\]")


def this_host() -> str:
    """The name of this machine, without dots."""
    return platform.node().replace(".", "-")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`. On success it is flushed to disk and renamed to `path`.

    On failure the temporary file is removed and the old file is intact.

    Raises:
        MdistillError: The disk is full or the folder cannot be written (names path and cause).
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}@{this_host()}{PARTIAL}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        with open(partial, "rb") as handle:
            os.fsync(handle.fileno())
        partial.replace(path)
    except OSError as error:
        _discard(partial)
        raise write_failure(path, error) from error
    except BaseException:
        _discard(partial)
        raise


def _discard(partial: Path) -> None:
    with suppress(OSError):
        partial.unlink(missing_ok=True)


def write_failure(path: Path, error: OSError) -> MdistillError:
    """The error to raise when `path` could not be written: disk full, no permission, read-only."""
    return MdistillError(
        f"{path}: could not be written ({error.strerror or error}); what was there before is intact.\n"
        "  fix: free some space or choose another folder with --out, then run the same command again: it resumes."
    )


def write_text(path: Path, text: str) -> None:
    """Write text (UTF-8), all or nothing."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes, all or nothing."""
    with replacing(path) as partial:
        partial.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    """Write JSON, all or nothing, a list of numbers on one line. NaN and infinity are rejected."""
    text = json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False)
    write_text(path, _NUMBERS.sub(lambda found: f"[{''.join(found[1].split())}]", text) + "\n")


def read_json(path: Path, *, limit_bytes: int = 200_000_000) -> Any:
    """Read JSON.

    Raises:
        BadInput: The file is absent, larger than the limit, or no JSON.
    """
    if not path.is_file():
        raise BadInput(path, "no such file", allowed="a JSON file written by mdistill", fix="check the path")
    if path.stat().st_size > limit_bytes:
        raise BadInput(path, f"{path.stat().st_size} bytes", allowed=f"at most {limit_bytes} bytes", fix="check the path")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadInput(path, f"not JSON ({error})", allowed="a JSON file", fix="remove it and run the command again") from error


def sha256(path: Path) -> str:
    """Hex sha256 of a file."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def append_line(path: Path, line: str) -> None:
    """Append one line and flush it to disk. If that fails the file keeps its old length.

    A crash can still leave a torn last line: readers tolerate one.

    Raises:
        MdistillError: The disk is full or the folder cannot be written.
    """
    content = memoryview(line.rstrip("\n").encode() + b"\n")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab", buffering=0) as handle:
            size = handle.seek(0, os.SEEK_END)
            try:
                while content:
                    content = content[handle.write(content) :]
                os.fsync(handle.fileno())
            except OSError:
                handle.truncate(size)
                raise
    except OSError as error:
        raise write_failure(path, error) from error
