"""A command line in a fork of this process."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from mdistill import cli


def run_in_fork(command: list[str], said: Path, *, before: Callable[[], None], after: Callable[[], None] = lambda: None) -> int:
    """Exit status of a command line, negative for a signal; what it says goes to the file `said`.

    Args:
        command: Arguments of `mdistill`.
        said: Receives standard output and errors.
        before: Called in the child before the command.
        after: Called in the child when the command has ended by itself.
    """
    sys.stdout.flush(), sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _run(command, said, before, after)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _run(command: list[str], said: Path, before: Callable[[], None], after: Callable[[], None]) -> None:
    """In the child; does not return."""
    status = 70
    try:
        stream = open(said, "w", encoding="utf-8", buffering=1)  # noqa: SIM115
        os.dup2(stream.fileno(), 1), os.dup2(stream.fileno(), 2)
        sys.stdout = sys.stderr = stream
        os.environ["MDISTILL_DEBUG"] = "1"
        before()
        status = cli.run(command)
        after()
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException as error:
        print(f"Traceback: {error!r}")
    finally:
        os._exit(status)
