"""Types of what was read from JSON, against those that dataclasses declare; lengths that belong together."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from typing import Any, Literal

from mdistill.settings import hints


def check_types(value: Any, kind: Any, place: str) -> None:
    """Compare a value with a declared type, and everything in it. Numbers are finite; in lists they may be null (gaps).

    Raises:
        TypeError: Another type; the message names the place ("tables.0.columns").
    """
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(value, kind):  # type: ignore[arg-type]
        for name, inner in hints(kind).items():  # type: ignore[arg-type]
            check_types(getattr(value, name), inner, f"{place}.{name}".lstrip("."))
    elif origin in (typing.Union, types.UnionType):
        _check_union(value, parts, place)
    elif origin is list and isinstance(value, list):
        _check_list(value, parts[0], place)
    elif origin is tuple and isinstance(value, tuple) and len(value) == len(parts):
        for number, (one, inner) in enumerate(zip(value, parts, strict=True)):
            check_types(one, inner, f"{place}.{number}")
    elif origin is dict and isinstance(value, dict):
        for name, one in value.items():
            check_types(one, parts[1], f"{place}.{name}")
    elif not (kind is Any or (origin is Literal and value in parts and isinstance(value, str)) or _is_plain(value, kind)):
        raise TypeError(f"{place} is {str(value)[:40]!r}")


def _check_union(value: Any, parts: tuple[Any, ...], place: str) -> None:
    for part in parts:
        if dataclasses.is_dataclass(part) and isinstance(value, part):  # type: ignore[arg-type]
            return check_types(value, part, place)
        try:
            return check_types(value, part, place)
        except TypeError:
            continue
    raise TypeError(f"{place} is {str(value)[:40]!r}")


def _check_list(value: list[Any], kind: Any, place: str) -> None:
    for number, one in enumerate(value):
        if not (one is None and kind is float):
            check_types(one, kind, f"{place}.{number}")


def _is_plain(value: Any, kind: Any) -> bool:
    """Whether a value is text, a finite number, true or false, or null, as declared."""
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return kind in (str, bool, type(None)) and isinstance(value, kind)


def check_lengths(names: str, *parts: Any) -> None:
    """Lists, or None, that must be of one length.

    Raises:
        TypeError: They are not.
    """
    lengths = {len(part) for part in parts if part is not None}
    if len(lengths) > 1:
        raise TypeError(f"{names} have {' and '.join(map(str, sorted(lengths)))} entries")
