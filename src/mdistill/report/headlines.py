"""The few numbers at the top of the page: value, interval, parts of the error, and reasons to doubt it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from mdistill.report.tables import WIDE, Shown, format_number, interval_text, show
from mdistill.runs.results import Headline, Quantity, Results, headline_parts

_SYMBOLS: dict[Quantity, str] = {
    "stride_speed_up": "speed-up by strides", "speed_up": "speed-up", "conductivity": "σ", "diffusivity": "D",
    "activation_energy": "activation energy", "density": "density", "surface_u2": "u² of the surface, normal",
    "force_mae": "force error",
    "energy_mae": "energy error",
}  # fmt: skip
"""Labels of headlines, in the order shown."""
_FROM_DYNAMICS = ("conductivity", "diffusivity", "activation_energy", "density", "surface_u2")
_MOST = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """A headline as shown.

    Attributes:
        label: Symbol and temperature.
        shown: The number.
        unit: Its unit.
        interval: 95 % interval, without unit; "" where there is none.
        parts: Parts of its error by name.
        doubts: Reasons not to trust it.
    """

    label: str
    shown: Shown
    unit: str
    interval: str = ""
    parts: dict[str, Shown] = field(default_factory=dict)
    doubts: list[str] = field(default_factory=list)


def headlines(results: Results) -> list[Tile]:
    """The most important values: speed-up, σ (else D) at each temperature, activation energy; else the first few."""
    known = [h for h in results.headlines if h.value in results.values]
    left_out = {"diffusivity"} if any(h.quantity == "conductivity" for h in known) else set()
    chosen = [
        _tile(symbol + ("" if (at := h.temperature_K) is None else f" at {at:g} K"), h, results)
        for quantity, symbol in _SYMBOLS.items()
        for h in known
        if h.quantity == quantity and quantity not in left_out
    ]
    rest = [
        Tile(label=spoken(name), shown=show(e, e.unit), unit="" if e.unit == "×" else e.unit)
        for name, e in results.values.items()
    ]
    return (chosen or rest)[:_MOST]


def doubts(headline: Headline, results: Results) -> list[str]:
    """Reasons not to trust a headline: its own, a value below detection, failed gates (of what comes from dynamics)."""
    value = results.values[headline.value]
    reasons = list(headline.doubts)
    if value.value is None and value.upper_limit is not None and not reasons:
        reasons.append("Below detection: a 95 % upper limit.")
    failed = sum(not gate.passed for gate in results.gates)
    if failed and headline.quantity in _FROM_DYNAMICS:
        reasons.append("A gate failed." if failed == 1 else f"{failed} gates failed.")
    return reasons


def spoken(name: str) -> str:
    """A value's name for reading: underscores become spaces."""
    return name.replace("_", " ")


def _tile(label: str, headline: Headline, results: Results) -> Tile:
    estimate = results.values[headline.value]
    unit = "" if estimate.unit == "×" else estimate.unit
    parts = {name: _two_digits(show(part, unit)) for name, part in headline_parts(results, headline).items()}
    wide = estimate.value and estimate.error and estimate.error > WIDE * abs(estimate.value) and estimate.interval
    shown = _two_digits(show(estimate, unit)) if wide else show(estimate, unit)
    return Tile(
        label=label, shown=shown, unit=unit, interval=interval_text(estimate), parts=parts,
        doubts=doubts(headline, results),
    )  # fmt: skip


def _two_digits(shown: Shown) -> Shown:
    """The value alone, with two digits: its interval, or the value that it is a part of, stands beside it."""
    value = None if shown.estimate is None else shown.estimate.value
    return shown if value is None else replace(shown, text=format_number(value, digits=2))
