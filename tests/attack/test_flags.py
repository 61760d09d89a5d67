"""Every numeric flag of every command with NaN, inf, −1, 0 and 1e300: refused, or a finite number within its range."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any

import pytest

from attack.tally import FULL, Outcomes
from mdistill.errors import BadInput
from mdistill.flags import arguments
from mdistill.settings import hints

pytestmark = pytest.mark.slow
VALUES = ("nan", "inf", "-1", "0", "1e300")
COMMANDS = {
    "simulate": ["x.cif", "--potential", "p", "--out", "o"],
    "analyse": ["x.h5", "--species", "Li", "--out", "o"],
    "label": ["x.cif", "--teacher", "t", "--out", "o"],
    "train": ["potential", "x", "--out", "o"],
    "train_stride": ["--from", "x"],
    "test": ["a", "b"],
    "bench": ["x"],
    "vibrations": ["x"],
    "distill": ["x.cif", "--out", "o"],
}


class Parsed(Exception):
    """The command line was accepted."""


def parser(name: str, given: list[str], monkeypatch: pytest.MonkeyPatch) -> tuple[Any, dict[str, Any], list[str]]:
    """Class, options and arguments with which a command parses its command line."""
    seen: list[Any] = []

    def catch(kind: type, rest: list[str], **options: Any) -> None:
        seen.extend((kind, options, rest))
        raise Parsed

    module = importlib.import_module(f"mdistill.commands.{name}")
    with monkeypatch.context() as patched:
        patched.setattr(module, "parse", catch)
        with pytest.raises(Parsed):
            module.main(given)
    return seen[0], seen[1], seen[2]


def numbers(value: Any) -> list[float]:
    """All numbers of nested settings."""
    if isinstance(value, (bool, str)) or value is None:
        return []
    if isinstance(value, (int, float)):
        return [float(value)]
    if isinstance(value, (tuple, list)):
        return [number for one in value for number in numbers(one)]
    fields = getattr(value, "__dataclass_fields__", {})
    return [number for name in fields for number in numbers(getattr(value, name))]


def outcome(kind: type, options: dict[str, Any], rest: list[str]) -> str:
    try:
        made = arguments.parse(kind, rest, **options)
    except BadInput as error:
        return "refused" if "fix:" in str(error) else "no fix"
    except SystemExit as end:
        return "refused" if end.code == 2 else f"exit {end.code}"
    except Exception as error:
        return f"traceback: {error!r}"
    return "accepted" if all(map(math.isfinite, numbers(made))) else "silent"


@pytest.mark.timeout(1200)
def test_numeric_flags(monkeypatch: pytest.MonkeyPatch, capsys: Any, trust: Callable[..., None]) -> None:
    """A setting that several commands share is tried once, with all of them where the attack is full."""
    tally, done, flags = Outcomes(), set(), 0
    for name, given in COMMANDS.items():
        kind, options, rest = parser(name, given, monkeypatch)
        for owner, field, flag in arguments._flags(kind):
            if not any(word in str(hints(owner)[field]) for word in ("int", "float")) or ((owner, field) in done and not FULL):
                continue
            done.add((owner, field))
            flags += 1
            for value in VALUES:
                found = outcome(kind, options, [*rest, f"{flag}={value}"])
                tally.add(found.partition(":")[0], f"{name} {flag}={value}: {found}")
        capsys.readouterr()
    assert not tally.bad, f"{tally}: {tally.bad}"
    assert tally.counts["refused"] > 2 * flags, "NaN and inf of every flag, and more"
    trust(
        "A", f"{flags} numeric flags × {', '.join(VALUES)}, {len(COMMANDS)} commands", str(tally), "refused, or within the range"
    )
