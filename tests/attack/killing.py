"""Commands that are killed at a chosen file operation: forked, with an audit hook that counts what they write."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from attack.forks import run_in_fork
from mdistill.io.files import PARTIAL

EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.truncate", "shutil.rmtree")
UNSTEADY = (".lock", ".progress.json")
"""Files whose number of writes depends on the clock."""
BEGIN = ("ledger.json", "run.toml", "input")
"""What the job writes into the run folder before its first stage."""


@dataclass(frozen=True)
class Kill:
    """A signal at the nth file operation of a stage ("": of all), or so many seconds after it."""

    stage: str
    event: int
    number: int = signal.SIGKILL
    delay_s: float = 0.0


@dataclass
class Watch:
    """File operations in a folder, counted by stage: its first subfolder, or "begin" and "end" for the folder's own files."""

    folder: Path
    kill: Kill | None = None
    counts: Counter[str] = field(default_factory=Counter)
    process: int = 0

    def __call__(self, event: str, found: tuple[Any, ...]) -> None:
        if event not in EVENTS or os.getpid() != self.process or not found or not isinstance(found[0], (str, os.PathLike)):
            return
        if event == "open" and not found[2] & (os.O_WRONLY | os.O_RDWR):
            return
        stage = self.stage(os.path.abspath(found[0]))
        if stage is None:
            return
        for counted in (stage, ""):
            self.counts[counted] += 1
            if self.kill is not None and counted == self.kill.stage and self.counts[counted] == self.kill.event:
                self.strike(self.kill)

    def stage(self, path: str) -> str | None:
        """The stage to which a path belongs; None outside the folder."""
        head, _, rest = path.removeprefix(f"{self.folder}/").partition("/")
        name = head.lstrip(".") if head.endswith(PARTIAL) else head
        if not path.startswith(f"{self.folder}/") or name.startswith(UNSTEADY) or f".{name}".startswith(UNSTEADY):
            return None
        if rest and head not in ("input", "figures"):
            return head.partition(".")[0]
        if (self.folder / head).is_dir() and head not in ("input", "figures"):
            return head
        return "begin" if name.startswith(BEGIN) else "end"

    def strike(self, kill: Kill) -> None:
        if not kill.delay_s:
            os.kill(self.process, kill.number)
            return
        timer = threading.Timer(kill.delay_s, os.kill, (self.process, kill.number))
        timer.daemon = True
        timer.start()


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit status, negative for a signal; what it said; where it was not killed, its file operations."""

    status: int
    said: str
    counts: dict[str, int] = field(default_factory=dict)
    modules: list[str] = field(default_factory=list)

    def import_modules(self) -> None:
        """Import what the command imported, so that the forks to come need not."""
        for name in self.modules:
            with suppress(Exception):
                import_module(name)


def run_forked(command: list[str], folder: Path, kill: Kill | None = None) -> Ended:
    """Run a command line in a fork of this process."""
    said, counted = folder.parent / f"{folder.name}.said", folder.parent / f"{folder.name}.counts"
    counted.unlink(missing_ok=True)
    watch = Watch(folder, kill)

    def listen() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        watch.process = os.getpid()
        sys.addaudithook(watch)

    def count() -> None:
        written = counted.with_suffix(".written")  # renamed when whole: a late kill may strike here too
        written.write_text(json.dumps([watch.counts, sorted(sys.modules)]))
        written.replace(counted)

    status = run_in_fork(command, said, before=listen, after=count)
    counts, modules = json.loads(counted.read_text()) if counted.exists() else ({}, [])
    return Ended(status, said.read_text(encoding="utf-8"), counts, modules)


def leftovers(folder: Path) -> list[str]:
    """Unfinished files, and signs of a process at work, in a folder where none works."""
    names = (f".*{PARTIAL}", ".lock.json", ".progress.json", "*.superseded-*")
    return sorted(str(path.relative_to(folder)) for name in names for path in folder.rglob(name))
