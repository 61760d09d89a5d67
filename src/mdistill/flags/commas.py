"""Numbers typed with commas: `--temperatures 500,600` and `--temperature-K 0,5`."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from mdistill.errors import BadInput

_NUMBERS = re.compile(r"-?\d[\d.eE+-]*(,-?\d[\d.eE+-]*)+,?")


def refuse_commas(arguments: Sequence[str], *, several: Collection[str]) -> None:
    """Say what to type in place of numbers with commas between them.

    Args:
        arguments: The command line.
        several: Flags that take several values.
    Raises:
        BadInput: A flag is followed by numbers with commas.
    """
    flag = ""
    for argument in arguments:
        name, equals, value = argument.partition("=")
        flag = name.replace("_", "-") if argument.startswith("--") else flag
        given = value if equals else argument
        if not flag or not _NUMBERS.fullmatch(given):
            continue
        parts = given.strip(",").split(",")
        if flag in several:
            raise BadInput(flag, given, allowed="numbers with spaces between them", fix=f"{flag} {' '.join(parts)}")
        raise BadInput(flag, given, allowed="one number, with a decimal point", fix=f"{flag} {'.'.join(parts[:2])}")
