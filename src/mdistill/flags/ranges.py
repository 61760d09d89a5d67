"""Ranges of the numbers that commands take themselves, beside those of settings classes."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from mdistill.errors import BadInput
from mdistill.settings import SEEDS

_RANGES = {
    "threads": (1, 1024, "1 to 1024", "leave it out for all cores"),
    "workers": (0, 1024, "0 to 1024", "--workers 0 uses this process"),
    "repeat": (1, 1000, "three numbers of at least 1", "--repeat 2 2 2"),
    "seed": (0, SEEDS, f"0 to {SEEDS}", "leave it out for the default"),
    "max_hours": (0.0, 1e5, "0 to 100000 h", "leave it out for no limit"),
    "timeout_s": (1e-3, 1e7, "0.001 to 1e+07 s", "leave it out for 1800 s"),
    "frame_time_fs": (1e-9, 1e6, "above 0 fs, at most 1e+06 fs", "give the time between two stored frames"),
}


def check_ranges(given: Any) -> None:
    """Check the numbers among the arguments of a command.

    Raises:
        BadInput: One is not finite or out of its range; the message names the flag.
    """
    for field in dataclasses.fields(given):
        value = getattr(given, field.name)
        numbers = [one for one in (value if isinstance(value, tuple) else (value,)) if isinstance(one, (int, float))]
        low, high, allowed, fix = _RANGES.get(field.name, (-math.inf, math.inf, "finite numbers", "correct it"))
        if not all(math.isfinite(number) and low <= number <= high for number in numbers):
            shown = " ".join(map(str, numbers))
            raise BadInput(f"--{field.name.replace('_', '-')}", shown, allowed=allowed, fix=fix)
