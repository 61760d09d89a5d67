"""Numbers as text: value ± error with matching digits, and the cells and key–value lists that page and terminal show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Decimal
from typing import Any

from mdistill.estimates import Estimate, Gate, exactly
from mdistill.runs.ledger import flat
from mdistill.runs.results import Cell, Table

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
ROUNDING = 1e-9
"""An error smaller than this share of its value is that of rounding; it is not shown."""
BELOW_DETECTION = "below detection"
WIDE = 0.3
"""An error above this share of its value is shown as the 95 % interval, where there is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A cell as shown: its text, the estimate or number behind it, and whether it is set as a number."""

    text: str
    estimate: Estimate | None = None
    numeric: bool = False
    hint: str = ""


def format_estimate(estimate: Estimate, *, unit: bool = True) -> str:
    """Value ± one standard error, the error with one significant digit (two where it starts with 1), both to the same digit.

    A value below detection reads "< 0.13 mS/cm", its 95 % upper limit rounded up to two digits; an estimate without error
    is shown with four significant digits, followed by its 95 % interval where it has one; no value at all is "–". The interval
    replaces an error above 30 % of the value too: it is not symmetric.
    """
    suffix = f" {estimate.unit}" if unit and estimate.unit else ""
    if unit and estimate.unit == "×":
        suffix = "×"
    if estimate.value is None:
        limit = estimate.upper_limit
        return "–" if limit is None else f"< {_rounded(limit, digits=2, rounding=ROUND_CEILING)}{suffix}"
    if estimate.error is None or not math.isfinite(estimate.error):
        return f"{format_number(estimate.value)}{suffix}{_interval(estimate)}"
    if abs(estimate.error) <= ROUNDING * abs(estimate.value) or estimate.error == 0:
        return f"{format_number(estimate.value)}{' ± 0' if estimate.error == 0 else ''}{suffix}"
    if estimate.interval is not None and estimate.error > WIDE * abs(estimate.value):
        return f"{format_number(estimate.value, digits=2)}{suffix}{_interval(estimate, digits=2)}"
    value, error, power = _matched(estimate.value, estimate.error)
    if power:
        return f"({value} ± {error}) × {power_of_ten(power)}{suffix}"
    return f"({value} ± {error}) %" if suffix == " %" else f"{value} ± {error}{suffix}"


def interval_text(estimate: Estimate) -> str:
    """Its 95 % interval (value ± 1.96 errors where it has none of its own) to two digits of its width; "" without one. Where one
    end is more than ten times the other each has its own two digits."""
    if estimate.value is None or (estimate.interval is None and not estimate.error):
        return ""
    spread = 1.96 * (estimate.error or 0.0)
    low, high = estimate.interval or (estimate.value - spread, estimate.value + spread)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        return ""
    if low > 0.0 and high > 10.0 * low:
        return f"{format_number(low, digits=2)} to {format_number(high, digits=2)}"
    first, last, power = _matched_to(low, high, _last_digit((high - low) / 2.0, two_from=5))
    return f"({first} to {last}) × {power_of_ten(power)}" if power else f"{first} to {last}"


def format_number(number: float, *, digits: int = 4) -> str:
    """A number with `digits` significant digits, without trailing zeros up to four; integers in full, in groups of three."""
    if isinstance(number, int):
        return _typeset(Decimal(number))
    return _rounded(number, digits=digits, rounding=ROUND_HALF_EVEN)


def power_of_ten(power: int) -> str:
    """10⁻⁵ and the like."""
    return f"10{str(power).translate(_SUPERSCRIPTS)}"


def _rounded(number: float, *, digits: int, rounding: str) -> str:
    if number == 0 or not math.isfinite(number):
        return "0" if number == 0 else "–"
    exact = Decimal(repr(float(number)))
    rounded = exact.quantize(Decimal(1).scaleb(exact.adjusted() - digits + 1), rounding=rounding)
    power = rounded.adjusted() if not -4 <= rounded.adjusted() <= 5 else 0
    text = _typeset(rounded.scaleb(-power))
    text = text.rstrip("0").rstrip(".") if "." in text and digits <= 4 else text
    return f"{text} × {power_of_ten(power)}" if power else text


def _matched(value: float, error: float) -> tuple[str, str, int]:
    """Mantissas of value and error, rounded to the same digit, and their common power of ten."""
    return _matched_to(value, abs(error), _last_digit(error))


def _last_digit(error: float, *, two_from: int = 1) -> int:
    """Power of ten of the last digit that an error leaves: of its second digit where the first is at most `two_from`."""
    leading = Decimal(f"{Decimal(repr(float(abs(error)))):.1e}")
    return leading.adjusted() - (1 if leading.as_tuple().digits[0] <= two_from else 0)


def _matched_to(first: float, second: float, last: int) -> tuple[str, str, int]:
    """Mantissas of two numbers down to one digit, and their common power of ten."""
    both = [Decimal(repr(float(x))) for x in (first, second)]
    scale = max(x.adjusted() for x in both if x)
    power = scale if not -4 <= scale <= 5 else 0
    texts = [_typeset(x.quantize(Decimal(1).scaleb(last)).scaleb(-power)) for x in both]
    return texts[0], texts[1], power


def _typeset(number: Decimal) -> str:
    number = number or abs(number)
    text = f"{number:,f}" if abs(number) >= 10_000 else f"{number:f}"
    return text.replace(",", "\u202f").replace("-", "−")


def _interval(estimate: Estimate, *, digits: int = 3) -> str:
    if estimate.interval is None:
        return ""
    low, high = (format_number(float(x), digits=digits) for x in estimate.interval)
    return f" (95 %: {low} to {high})"


def show(cell: Cell, heading: str = "") -> Shown:
    """A table cell as shown; the unit is left out where the heading already names it."""
    if isinstance(cell, Estimate):
        bare = bool(cell.unit) and cell.unit in heading
        return Shown(text=format_estimate(cell, unit=not bare), estimate=cell, numeric=True, hint=_hint(cell))
    if isinstance(cell, bool):
        return Shown(text="yes" if cell else "no")
    if isinstance(cell, (int, float)):
        plain = exactly(cell)
        return Shown(text=format_number(cell), estimate=plain, numeric=True)
    return Shown(text="–" if cell is None else cell, numeric=cell is None)


def _hint(estimate: Estimate) -> str:
    parts = []
    if estimate.value is None and estimate.upper_limit is not None:
        parts.append(f"{BELOW_DETECTION}: 95 % upper limit")
    if estimate.interval is not None:
        parts.append("95 % interval {} to {}".format(*(format_number(float(x)) for x in estimate.interval)))
    if estimate.samples > 1:
        parts.append(f"{estimate.samples} independent samples")
    return "; ".join(parts)


def shown_rows(table: Table) -> list[list[Shown]]:
    """All cells of a table as shown; floats have enough digits to distinguish the values of their column."""
    digits = [_column_digits(column) for column in zip(*table.rows, strict=True)]
    rows = [[show(cell, heading) for cell, heading in zip(row, table.columns, strict=True)] for row in table.rows]
    return [
        [_with_digits(shown, cell, n) for shown, cell, n in zip(shown_row, row, digits, strict=True)]
        for shown_row, row in zip(rows, table.rows, strict=True)
    ]


def _column_digits(column: Sequence[Cell]) -> int:
    distinct = {x for x in column if isinstance(x, float)}
    return next((n for n in range(4, 9) if len({format_number(x, digits=n) for x in distinct}) == len(distinct)), 9)


def _with_digits(shown: Shown, cell: Cell, digits: int) -> Shown:
    return replace(shown, text=format_number(cell, digits=digits)) if isinstance(cell, float) else shown


def limit_text(gate: Gate, *, unit: bool = True) -> str:
    """The limit with the sign that passing means: "≤ 30 meV/Å"."""
    sign = {"at most": "≤ ", "at least": "≥ "}[gate.sense]
    return sign + format_estimate(exactly(gate.limit, gate.measured.unit), unit=unit)


def flat_texts(mapping: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Nested settings as (dotted name, text) in the order given."""
    return [(name, _plain_text(value)) for name, value in flat(mapping).items()]


def _plain_text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_plain_text(v) if not isinstance(v, Mapping) else str(dict(v)) for v in value) or "–"
    return str(value)
