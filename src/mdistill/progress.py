"""Progress bars with rate and time left, on standard error, so that standard output stays clean for results."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import ProgressColumn

Advance = Callable[..., None]
"""advance(n=1, note="", total=None) moves the bar by n, shows the note behind it, and changes the total if one is given."""


NARROW, NARROWEST = 100, 60
"""Columns below which a bar shows no count and no note, and below which no rate either."""
_PUBLISH_SECONDS = 5.0
_PUBLISHED: list[tuple[Callable[[dict[str, Any]], None], dict[str, Any]]] = []
"""Who hears of the progress, innermost last, with what they heard."""


@contextmanager
def published(write: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """Within the block, write(facts) is called about every 5 s with the stage and the bar that runs, for other processes."""
    _PUBLISHED.append((write, {}))
    try:
        yield
    finally:
        _PUBLISHED.pop()


def _publish(**facts: Any) -> None:
    if _PUBLISHED:
        write, known = _PUBLISHED[-1]
        known.update(facts)
        with suppress(Exception):  # a full disk must not end the work that this tells of
            write(known)


def say_stage(text: str) -> None:
    """Print which stage begins, and publish it."""
    say(text)
    _publish(stage=text, stage_time=time.time(), bar=None)


def _publishing(advance: Advance, name: str, unit: str, total: float, done: float) -> Advance:
    """An advance function that also publishes, rarely."""
    start, last, count, end = time.monotonic(), -1e9, done, total

    def publishing(n: float = 1, note: str = "", total: float | None = None) -> None:
        nonlocal last, count, end
        count, end = count + n, total or end
        advance(n, note, total)
        now = time.monotonic()
        if now - last > _PUBLISH_SECONDS or count >= end:
            last = now
            left = (end - count) * (now - start) / (count - done) if count > done else None
            _publish(bar={"name": name, "done": count, "total": end, "unit": unit, "left_s": left, "time": time.time()})

    return publishing if _PUBLISHED else advance


def silent(_n: float = 1, _note: str = "", _total: float | None = None) -> None:
    """An advance function that shows nothing."""


def say(text: str) -> None:
    """Print a line on standard error, where progress is shown. Silent with MDISTILL_QUIET=1."""
    if os.environ.get("MDISTILL_QUIET") != "1":
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


_FORWARD: Callable[[float, float, str], None] | None = None


def forward_progress(send: Callable[[float, float, str], None]) -> None:
    """Have every bar of this process call send(done, total, note), at most twice a second, in place of being shown."""
    global _FORWARD  # noqa: PLW0603  (one terminal, one process: set once, at the start of a worker)
    _FORWARD = send


def _forwarder(send: Callable[[float, float, str], None], total: float, done: float) -> Advance:
    last, count, end = 0.0, done, total

    def advance(n: float = 1, note: str = "", total: float | None = None) -> None:
        nonlocal last, count, end
        count, end = count + n, total or end
        if time.monotonic() - last > 0.5 or count >= end:
            last = time.monotonic()
            send(count, end, note)

    return advance


@contextmanager
def progress(description: str, total: float, *, unit: str = "step", done: float = 0) -> Iterator[Advance]:
    """Show a bar while the block runs and yield its advance function. Silent with MDISTILL_QUIET=1.

    Where standard error is no terminal (a batch job's log), one line is printed about every 30 seconds instead.
    """
    if _FORWARD is not None:
        yield _forwarder(_FORWARD, total, done)
        return
    if os.environ.get("MDISTILL_QUIET") == "1" or total <= 0:
        yield _publishing(silent, description, unit, total, done) if total > 0 else silent
        return
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _publishing(_log_lines(description, total, unit, done, console.print), description, unit, total, done)
        return
    with Progress(*columns(console.width, unit), console=console, transient=False, expand=console.width < NARROW) as bar:
        task = bar.add_task(description, total=total, completed=int(done), note="")

        def advance(n: float = 1, note: str = "", total: float | None = None) -> None:
            bar.update(task, advance=n, total=total)
            if note:
                bar.update(task, note=note)

        yield _publishing(advance, description, unit, total, done)


def columns(width: int, unit: str) -> list[ProgressColumn]:
    """What a bar shows on a terminal of this many columns."""
    from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.table import Column
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task):  # type: ignore[no-untyped-def]
            speed = task.finished_speed or task.speed
            return Text("" if not speed else f"{speed:.3g} {unit}/s", style="cyan")

    if width < NARROW:
        name = TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"))
        return [name, TaskProgressColumn(), *([Rate()] if width >= NARROWEST else []), TimeRemainingColumn(compact=True)]
    note = TextColumn("{task.fields[note]}", table_column=Column(no_wrap=True, overflow="ellipsis"))
    return [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn(), note]


def _log_lines(description: str, total: float, unit: str, done: float, say: Callable[..., None]) -> Advance:
    start, last, count = time.monotonic(), time.monotonic(), done

    def advance(n: float = 1, note: str = "", new_total: float | None = None) -> None:
        nonlocal last, count, total
        count, total = count + n, new_total or total
        now = time.monotonic()
        if now - last < 30.0 and count < total:
            return
        last = now
        rate = (count - done) / max(now - start, 1e-9)
        left = max(total - count, 0) / rate if rate > 0 else float("inf")
        say(
            f"{description}: {count:g}/{total:g} {unit}  {rate:.3g} {unit}/s  {left:.0f} s left  {note}",
            highlight=False,
            soft_wrap=True,
        )

    return advance
