"""The number of steps that a time budget allows, timed again as a fit goes on.

The budget is CPU time of the training thread: other work on the machine makes a fit slower, not shorter, however long it takes by
the clock. Where other work also slows each step (shared caches and cores), a floor of steps keeps the student usable; the fit
then overruns. The learning rate follows the current number of steps, which is part of the checkpoint.

A fit reaches its plateau when the held-out loss no longer falls within its noise; its learning rate then falls to the end within
a last quarter of the steps.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mdistill.training.settings import FitSettings

TIMED_FROM, TIMED_TO = 5, 25
"""Steps of the first timing: the ones before it warm up caches and compilers."""
_WINDOWS = 50
_ROWS = 8
_TAIL = 0.25
_SMALL = 1e-3
"""Relative fall of the loss from row to row that is not worth training for."""
_BUSY = 2.0
"""Wall time over budget from which a fit is reported as slow: a committee on few cores alone makes it up to this."""


@dataclass(slots=True, kw_only=True)
class Spent:
    """Time spent (minutes), its values and the step at the last timing, and whether the plateau was reached."""

    cpu: float = 0.0
    wall: float = 0.0
    timed_step: int = 0
    timed_cpu: float = 0.0
    plateau: bool = False

    def mark(self, step: int) -> None:
        """Begin a new timing here."""
        self.timed_step, self.timed_cpu = step, self.cpu


class Clock:
    """Adds the time since its last call to what is spent."""

    def __init__(self) -> None:
        self._cpu, self._wall = clocks()

    def lap(self, spent: Spent) -> None:
        cpu, wall = clocks()
        spent.cpu, spent.wall = spent.cpu + cpu - self._cpu, spent.wall + wall - self._wall
        self._cpu, self._wall = cpu, wall


def clocks() -> tuple[float, float]:
    """CPU time of this thread and wall time, minutes."""
    return time.thread_time() / 60.0, time.monotonic() / 60.0


def window(total: int) -> int:
    """Number of steps between two timings."""
    return max(TIMED_TO - TIMED_FROM, total // _WINDOWS)


def retimed(
    settings: FitSettings, step: int, total: int, spent: Spent, history: Sequence[Mapping[str, Any]], *, most: int
) -> int:
    """The number of steps of the whole fit by the speed since the last timing; a new timing begins.

    Args:
        settings: Budget and floor.
        step: Steps done.
        total: The number so far; 0 at the first timing.
        spent: Time spent.
        history: Rows with the held-out loss.
        most: Largest number of steps.
    """
    steps = max(step - spent.timed_step, 1)
    cpu = max(spent.cpu - spent.timed_cpu, 1e-12) / steps
    spent.mark(step)
    if not spent.plateau and step >= settings.least_steps and at_plateau(history):
        spent.plateau, total = True, min(total, math.ceil(step / (1.0 - _TAIL)))
    in_budget = total if spent.plateau else step + (settings.max_minutes - spent.cpu) / cpu
    wanted = min(max(in_budget, settings.least_steps), most)
    return max(round(wanted), 2 * TIMED_TO, step + 1)


def at_plateau(history: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the held-out loss fell by less than 0.1 % a row or its error, by a line through the last logarithms."""
    losses = [row["validation"]["loss"] for row in history if row.get("validation")][-_ROWS:]
    if len(losses) < _ROWS or len(history) < 2 * _ROWS - 4 or min(losses) <= 0.0:
        return False
    x, y = np.arange(_ROWS) - (_ROWS - 1) / 2.0, np.log(losses)
    slope = float(x @ y / (x @ x))
    error = math.sqrt(float(np.square(y - y.mean() - slope * x).sum()) / (_ROWS - 2) / float(x @ x))
    return slope > -max(error, _SMALL)


def ended_by(settings: FitSettings, step: int, spent: Spent, *, most: int) -> str:
    """What ended a fit: "steps" (a fixed number), "plateau", "epochs" or "budget"."""
    if settings.steps:
        return "steps"
    return "plateau" if spent.plateau else "epochs" if step >= most else "budget"


def remark(settings: FitSettings, step: int, spent: Spent) -> str:
    """A sentence where a fit is short or took much longer than its budget; "" for any other."""
    if step < settings.least_steps:
        return f"the fit had {step} steps, fewer than the {settings.least_steps} of a usable student"
    if not settings.steps and spent.wall > _BUSY * settings.max_minutes:
        took = f"{spent.wall:.2g} min for a budget of {settings.max_minutes:.2g} min of CPU time"
        return f"the fit took {took}: the machine was busy, or the fit waited for other processes; all {step} steps were done"
    return ""
