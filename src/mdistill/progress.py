"""Progress bars with rate and time left, on standard error, so that standard output stays clean for results."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[..., None]
"""advance(n=1, note="", total=None) moves the bar by n, shows the note behind it, and changes the total if one is given."""


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
        yield silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task):  # type: ignore[no-untyped-def]
            speed = task.finished_speed or task.speed
            return Text("" if not speed else f"{speed:.3g} {unit}/s", style="cyan")

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _log_lines(description, total, unit, done, console.print)
        return
    columns = [
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    ]  # fmt: skip
    with Progress(*columns, console=console, transient=False) as bar:
        task = bar.add_task(description, total=total, completed=int(done), note="")

        def advance(n: float = 1, note: str = "", total: float | None = None) -> None:
            bar.update(task, advance=n, total=total)
            if note:
                bar.update(task, note=note)

        yield advance


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
