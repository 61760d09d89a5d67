"""Numbers as text: digits of value and error match, nothing is lost but what the error makes meaningless."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdistill.estimates import Estimate, Gate
from mdistill.report import tables
from mdistill.report.tables import flat_texts, format_estimate, format_number, limit_text, show, shown_rows
from mdistill.runs.results import Table

_POWERS = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")


def read_number(text: str, power: int = 0) -> Decimal:
    return Decimal(text.replace("\u202f", "").replace("−", "-")).scaleb(power)


def read_estimate(text: str) -> tuple[Decimal, Decimal, Decimal]:
    """Value, error and step of the last digit from "12.3 ± 0.4" or "(1.2 ± 0.3) × 10⁻⁵"."""
    found = re.fullmatch(r"\(?([−\d.\u202f]+) ± ([\d.\u202f]+)\)?(?: × 10([⁻⁰-⁹¹²³]+))?", text)
    assert found, text
    power = int(found.group(3).translate(_POWERS)) if found.group(3) else 0
    decimals = [len(part.partition(".")[2]) for part in found.group(1, 2)]
    assert decimals[0] == decimals[1], f"{text}: value and error end at different digits"
    value, error = read_number(found.group(1), power), read_number(found.group(2), power)
    return value, error, Decimal(1).scaleb(power - decimals[0])


def check_digits(value: float, error: float) -> None:
    shown_value, shown_error, step = read_estimate(format_estimate(Estimate(value=value, error=error, unit="")))
    coarse = step if shown_error == 0 else Decimal(1).scaleb(shown_error.adjusted())
    assert abs(shown_value - Decimal(repr(value))) <= coarse / 2
    assert abs(shown_error - Decimal(repr(error))) <= coarse / 2
    digits = shown_error.normalize().as_tuple().digits
    assert len(digits) == 1 or (len(digits) == 2 and digits[0] == 1), f"error {shown_error} has too many digits"


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (12.3456, 0.4123, "12.3 ± 0.4"), (12.3456, 0.1423, "12.35 ± 0.14"), (152.37, 41.2, "150 ± 40"),
        (0.0, 3.1e-9, "(0 ± 3) × 10⁻⁹"),
        (3.274e-5, 2.8e-6, "(3.3 ± 0.3) × 10⁻⁵"), (-0.5, 0.25, "−0.5 ± 0.2"), (12345.0, 678.0, "12\u202f300 ± 700"),
        (9.996, 0.0996, "10.00 ± 0.10"), (1.0, 30.0, "0 ± 30"), (2.5e7, 1e5, "(2.500 ± 0.010) × 10⁷"), (-0.001, 0.5, "0.0 ± 0.5"),
    ],
)  # fmt: skip
def test_value_and_error_end_at_the_same_digit(value: float, error: float, text: str) -> None:
    assert format_estimate(Estimate(value=value, error=error, unit="")) == text


@settings(max_examples=300, deadline=None)
@given(st.floats(-1e12, 1e12).filter(lambda x: x == 0 or abs(x) > 1e-12), st.floats(1e-13, 1e12))
def test_rounding_stays_within_half_of_the_errors_digit(value: float, error: float) -> None:
    if error > abs(value) * tables.ROUNDING:
        check_digits(value, error)


@pytest.mark.planted
def test_a_wrong_last_digit_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    original = tables._matched
    monkeypatch.setattr(tables, "_matched", lambda value, error: original(value * 1.05, error))
    with pytest.raises(AssertionError):
        check_digits(683.21, 5.84)


def test_missing_error_interval_limit_and_units() -> None:
    assert format_estimate(Estimate(value=20000, error=None, unit="steps")) == "20\u202f000 steps"
    assert format_estimate(Estimate(value=0.31, error=None, unit="Å", interval=(0.2871, 0.35))) == "0.31 Å (95 %: 0.287 to 0.35)"
    wide = Estimate(value=8.1e-7, error=9e-7, unit="cm²/s", interval=(1.04e-7, 3.4e-6))
    assert format_estimate(wide) == "8.1 × 10⁻⁷ cm²/s (95 %: 1 × 10⁻⁷ to 3.4 × 10⁻⁶)"
    assert "±" in format_estimate(replace(wide, error=2e-7)) and "±" in format_estimate(replace(wide, interval=None))
    assert format_estimate(Estimate(value=1.23, error=0.11, unit="%")) == "(1.23 ± 0.11) %"
    assert format_estimate(Estimate(value=312.4, error=8.7, unit="×")) == "312 ± 9×"
    assert format_estimate(Estimate(value=2.0, error=0.0, unit="eV")) == "2 ± 0 eV"
    assert format_estimate(Estimate(value=None, error=None, unit="eV")) == "–"
    assert format_estimate(Estimate(value=1.5, error=0.2, unit="eV"), unit=False) == "1.5 ± 0.2"


def test_an_upper_limit_is_rounded_up_only() -> None:
    for limit in (1.834, 0.1001, 4.92e-8, 99.9, 1.0):
        text = format_estimate(Estimate(value=None, error=None, unit="", upper_limit=limit)).removeprefix("< ")
        mantissa, _, power = text.partition(" × 10")
        shown = read_number(mantissa, int(power.translate(_POWERS)) if power else 0)
        assert Decimal(repr(limit)) <= shown <= Decimal(repr(limit)) * Decimal("1.1")


def test_plain_numbers() -> None:
    assert [format_number(x) for x in (0.5, 1234.5678, 1e-7, 0, 7, 123456, -0.25)] == [
        "0.5", "1235", "1 × 10⁻⁷", "0", "7", "123\u202f456", "−0.25",
    ]  # fmt: skip
    assert format_number(math.nan) == "–"


def test_columns_keep_the_digits_that_tell_values_apart() -> None:
    table = Table(
        name="t", title="", section="structure", columns=["name", "E (eV)", "D (cm²/s)", "n"],
        rows=[
            ["a", -29.3412, Estimate(value=1e-5, error=2e-6, unit="cm²/s"), True],
            ["b", -29.3398, None, False],
            ["c", -29.331, "–", 3],
        ],
    )  # fmt: skip
    texts = [[cell.text for cell in row] for row in shown_rows(table)]
    assert [row[1] for row in texts] == ["−29.341", "−29.340", "−29.331"]
    assert [row[2] for row in texts] == ["(1.0 ± 0.2) × 10⁻⁵", "–", "–"]
    assert [row[3] for row in texts] == ["yes", "no", "3"]


def test_a_limit_states_its_direction_whatever_the_verdict() -> None:
    measured = Estimate(value=0.1, error=None, unit="Å")
    for passed in (True, False):
        assert limit_text(Gate(name="g", measured=measured, limit=0.2, passed=passed)) == "≤ 0.2 Å"
        assert limit_text(Gate(name="g", measured=measured, limit=0.2, passed=passed, sense="at least")) == "≥ 0.2 Å"


def test_hints_and_flattened_settings() -> None:
    assert "95 % upper limit" in show(Estimate(value=None, error=None, unit="", upper_limit=1.0)).hint
    assert show(Estimate(value=1.0, error=0.1, unit="eV", samples=7, interval=(0.8, 1.3))).hint == (
        "95 % interval 0.8 to 1.3; 7 independent samples"
    )
    nested = {"student": {"cutoff": 5.0, "wide": True}, "temperatures": [500.0, 700.0], "resume": None, "none": []}
    assert flat_texts(nested) == [
        ("student.cutoff", "5"), ("student.wide", "yes"), ("temperatures", "500, 700"), ("resume", "–"), ("none", "–"),
    ]  # fmt: skip
