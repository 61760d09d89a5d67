"""Checks of numbers that come from users."""

from __future__ import annotations

import math
from numbers import Real

from mdistill.errors import BadInput

LONGEST_STEP = 10.0
"""Longest time step accepted, fs: about a tenth of the period of the fastest vibrations even of heavy solids."""


def within(subject: str, value: float, low: float, high: float, *, unit: str = "", fix: str = "", open_low: bool = True) -> None:
    """Check low < value ≤ high (low ≤ value with `open_low=False`) and that it is a finite number.

    Raises:
        BadInput: It is not; names subject, value, the allowed range and the fix.
    """
    number = isinstance(value, Real) and not isinstance(value, bool)
    if number and math.isfinite(value) and value <= high and (value > low if open_low else value >= low):
        return
    bounds = f"{'above' if open_low else 'from'} {low:g} up to {high:g} {unit}".rstrip()
    raise BadInput(subject, f"{value!r} {unit}".rstrip(), allowed=bounds, fix=fix or f"give {subject} a value in this range")
