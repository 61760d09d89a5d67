"""Typed settings: ranges declared on the field, JSON and TOML both ways, random streams with names. No torch at import.

    @settings
    class DynamicsSettings:
        time_step_fs: float | None = setting(None, above=0.0, most=10.0, unit="fs")
        frames: int = setting(80, least=1)

Every number must be finite, every choice one of its `Literal`; what depends on several fields is checked in `__post_init__`.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import json
import math
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from mdistill.errors import BadInput

if TYPE_CHECKING:
    from torch import Generator

Kind = TypeVar("Kind", bound=type)
Made = TypeVar("Made")
LONGEST_STEP = 10.0
"""Longest time step accepted, fs: about a tenth of the period of the fastest vibrations even of heavy solids."""
HOTTEST = 20_000.0
"""Highest temperature accepted, K."""
SEEDS = 2**32 - 1
"""Largest seed."""
USUAL_TIMEOUT = 1800.0
"""Longest call of a teacher, s. In the ledgers of runs whatever was set: no result depends on it."""
_HINTS: dict[type, dict[str, Any]] = {}


class BadSetting(BadInput):
    """A value that a settings class refuses; the command line names the flag in its place.

    Attributes:
        owner, name: The class and the field.
    """

    def __init__(self, owner: type, name: str, value: object, *, allowed: str, fix: str, subject: str = "") -> None:
        self.owner, self.name, self.value = owner, name, value
        super().__init__(subject or f"{owner.__name__}.{name}", _spoken(value), allowed=allowed, fix=fix)

    def called(self, subject: str) -> BadSetting:
        """The same refusal under another subject: a flag, or an entry of a file."""
        return BadSetting(self.owner, self.name, self.value, allowed=self.allowed, fix=self.fix, subject=subject)


def setting(
    default: Any = dataclasses.MISSING, *, above: float | None = None, least: float | None = None, below: float | None = None,
    most: float | None = None, unit: str = "", fix: str = "",
) -> Any:  # fmt: skip
    """A field with a range; of a tuple every element must lie in it. `unit` and `fix` go into the refusal."""
    bounds = {"above": above, "least": least, "below": below, "most": most, "unit": unit, "fix": fix}
    return dataclasses.field(default=default, metadata={"range": bounds})


@typing.dataclass_transform(kw_only_default=True, frozen_default=True)
def settings(kind: Kind) -> Kind:
    """Make a frozen, slotted, keyword-only dataclass whose fields are checked at construction."""
    more = kind.__dict__.get("__post_init__")

    def __post_init__(self: Any) -> None:
        check(self)
        if more is not None:
            more(self)

    kind.__post_init__ = __post_init__  # type: ignore[attr-defined]
    return dataclasses.dataclass(frozen=True, slots=True, kw_only=True)(kind)  # type: ignore[return-value]


def check(made: Any) -> None:
    """Hold every field against its declaration.

    Raises:
        BadSetting: Of the first field that is refused.
    """
    for field in dataclasses.fields(made):
        value, kind = getattr(made, field.name), hints(type(made))[field.name]
        if isinstance(value, list) and typing.get_origin(_bare(kind)) is tuple:
            value = tuple(value)
            object.__setattr__(made, field.name, value)
        choices = typing.get_args(_bare(kind)) if typing.get_origin(_bare(kind)) is Literal else ()
        bounds = field.metadata.get("range", {})
        allowed = ", ".join(map(str, choices)) if choices else _range(bounds)
        for one in value if isinstance(value, tuple) else (value,):
            good = one in choices if choices and one is not None else _fits(one, bounds, kind)
            if not good:
                usual = "" if field.default is dataclasses.MISSING else f", {_spoken(field.default)}"
                usual = "" if field.default is None else usual
                fix = bounds.get("fix") or ("choose one of them" if choices else f"leave it out for the default{usual}")
                raise BadSetting(type(made), field.name, one, allowed=allowed, fix=fix)


def refuse(made: Any, name: str, *, allowed: str, fix: str) -> typing.NoReturn:
    """Refuse a field whose range depends on other fields."""
    raise BadSetting(type(made), name, getattr(made, name), allowed=allowed, fix=fix)


def within(subject: str, value: float, low: float, high: float, *, unit: str = "", fix: str = "", open_low: bool = True) -> None:
    """Check low < value ≤ high (low ≤ value with `open_low=False`) of a number that is no field.

    Raises:
        BadInput: It is not; names subject, value, the allowed range and the fix.
    """
    bounds = {"above" if open_low else "least": low, "most": high, "unit": unit}
    if not _fits(value, bounds, float):
        value_and_unit = f"{value!r} {unit}".rstrip()
        raise BadInput(subject, value_and_unit, allowed=_range(bounds), fix=fix or f"give {subject} a value in this range")


def hints(kind: type) -> dict[str, Any]:
    """Types of the fields of a dataclass, `Annotated` stripped."""
    if kind not in _HINTS:
        _HINTS[kind] = typing.get_type_hints(kind)
    return _HINTS[kind]


@functools.cache
def visible(kind: Any) -> frozenset[str]:
    """Names of the fields that flags and files may set. What a run derives itself, such as seeds, is suppressed."""
    full = typing.get_type_hints(kind, include_extras=True)
    return frozenset(name for name in full if "Suppress" not in repr(getattr(full[name], "__metadata__", "")))


def _bare(kind: Any) -> Any:
    """X of X | None."""
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        inner = [one for one in typing.get_args(kind) if one is not type(None)]
        return inner[0] if len(inner) == 1 else kind
    return kind


def _fits(value: Any, bounds: Mapping[str, Any], kind: Any) -> bool:
    if value is None:
        return type(None) in typing.get_args(kind)
    if kind is bool:
        return isinstance(value, bool)
    if not isinstance(value, Real) or isinstance(value, bool):
        return all(bounds.get(name) is None for name in ("above", "least", "below", "most"))
    low, high = bounds.get("least"), bounds.get("most")
    over, under = bounds.get("above"), bounds.get("below")
    return (
        math.isfinite(value)
        and (low is None or value >= low)
        and (high is None or value <= high)
        and (over is None or value > over)
        and (under is None or value < under)
    )


def _range(bounds: Mapping[str, Any]) -> str:
    words = (("above", "above"), ("at least", "least"), ("at most", "most"), ("below", "below"))
    parts = [f"{word} {_number(bounds[name])}" for word, name in words if bounds.get(name) is not None]
    return f"{', '.join(parts) or 'a finite number'} {bounds.get('unit', '')}".rstrip()


def _number(value: float) -> str:
    return f"{value}" if isinstance(value, int) else f"{value:g}"


def _spoken(value: object) -> str:
    return value if isinstance(value, str) else " ".join(map(str, value)) if isinstance(value, tuple) else f"{value}"


def to_json(value: Any) -> Any:
    """Settings and results as JSON: dataclasses become objects, tuples lists, paths text, numbers that are not finite null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int) or value is None else str(value)


def amended(made: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON, with more values by dotted name: the seeds of a piece of work, in its entry of the ledger."""
    raw: dict[str, Any] = to_json(made)
    for name, value in values.items():
        *outer, last = name.split(".")
        place = raw
        for part in outer:
            place = place[part]
        place[last] = value
    return raw


def from_json(
    kind: type[Made], raw: Mapping[str, Any], *, source: object, default: Any = None, prefix: str = "", derived: bool = False
) -> Made:
    """A settings class from its JSON or TOML form; what is left out is the default's.

    Args:
        kind: The class.
        raw: Its fields by name.
        source: The file, for messages.
        default: An instance to begin from; the class's own defaults where None.
        prefix: Where `raw` lies in the file.
        derived: Whether `raw`, as `to_json` writes it, holds what a run derives itself.
    Raises:
        BadInput: An unknown name, a value of another type, or a value out of range.
    """
    known, names = hints(kind), [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    open_to = names if derived else [name for name in names if name in visible(kind)]  # type: ignore[arg-type]
    for name in raw:
        if name not in open_to:
            close = difflib.get_close_matches(name, open_to, n=1)
            fix = f"did you mean {prefix}{close[0]}?" if close else "remove it"
            raise BadInput(f"{prefix}{name} in {source}", "is unknown", allowed=", ".join(open_to), fix=fix)
    values = {}
    for name, value in raw.items():
        inner = None if default is None else getattr(default, name)
        values[name] = _read(known[name], value, source=source, default=inner, prefix=f"{prefix}{name}", derived=derived)
    try:
        return kind(**values) if default is None else dataclasses.replace(default, **values)
    except BadSetting as error:
        raise error.called(f"{prefix}{error.name} in {source}") from error
    except TypeError as error:
        missing = f"lacks {str(error).rpartition(': ')[2]}"
        raise BadInput(f"{source}", missing, allowed="every setting that has no default", fix="add it") from error


def _read(kind: Any, value: Any, *, source: object, default: Any, prefix: str, derived: bool) -> Any:
    kind = _bare(kind)
    if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
        return from_json(kind, value, source=source, default=default, prefix=f"{prefix}.", derived=derived)  # type: ignore[arg-type]
    if value is None or typing.get_origin(kind) is Literal:
        return value
    if typing.get_origin(kind) is tuple and typing.get_args(kind)[0] is Path and isinstance(value, str):
        value = [value]
    if typing.get_origin(kind) is tuple and isinstance(value, list):
        inner = typing.get_args(kind)[0]
        return tuple(_read(inner, one, source=source, default=None, prefix=prefix, derived=derived) for one in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is Path and isinstance(value, str):
        return source.parent / value if isinstance(source, Path) else Path(value)
    if isinstance(kind, type) and isinstance(value, kind) and (kind is bool) == isinstance(value, bool):
        return value
    wanted = getattr(kind, "__name__", str(kind))
    raise BadInput(f"{prefix} in {source}", f"{value!r}", allowed=f"a value of type {wanted}", fix=_as_type(value, kind, wanted))


def _as_type(value: Any, kind: Any, wanted: str) -> str:
    """What to give instead of a value of another type; a number in quotes without them."""
    with suppress(TypeError, ValueError):
        if isinstance(value, str) and kind in (int, float):
            return f"{kind(value)!r}, without quotes"
    return f"give a value of type {wanted}"


def changes(made: Any, default: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Names (dotted) and values of the visible fields that differ from those of a default of the same class."""
    for field in (field for field in dataclasses.fields(made) if field.name in visible(type(made))):  # type: ignore[arg-type]
        value, usual = getattr(made, field.name), getattr(default, field.name)
        if dataclasses.is_dataclass(value) and type(value) is type(usual):
            yield from changes(value, usual, f"{prefix}{field.name}.")
        elif value != usual:
            yield f"{prefix}{field.name}", value


def describe(kind: type, name: str) -> str:
    """First sentence of a field's description in the class's docstring (dotted names for nested fields); "" without one."""
    first, _, rest = name.partition(".")
    if first not in hints(kind):
        return ""
    if rest:
        return describe(_bare(hints(kind)[first]), rest)
    for names, text in _attributes(kind.__doc__ or ""):
        if first in names:
            return text.split(". ")[0].rstrip(".")
    return ""


@functools.cache
def _attributes(docstring: str) -> tuple[tuple[tuple[str, ...], str], ...]:
    from docstring_parser import parse

    return tuple(
        (tuple(part.strip() for part in entry.arg_name.split(",")), " ".join((entry.description or "").split()))
        for entry in parse(docstring).params
    )


def to_toml(entries: Mapping[str, Any], comment: Callable[[str], str], *, head: str = "") -> str:
    """Dotted names and values as TOML, each with its `comment`. None, which TOML lacks, is left out."""
    lines = [f"# {line}".rstrip() for line in head.splitlines()]
    for name, value in entries.items():
        if value is not None:
            lines.append(f"{name} = {json.dumps(to_json(value), ensure_ascii=False)}  # {comment(name)}".removesuffix("  # "))
    return "\n".join(lines) + "\n"


def child_seed(seed: int, *names: str) -> int:
    """A seed of its own for each named purpose of a run: two seeds, or two names, share no random number."""
    digest = hashlib.sha256("/".join([str(seed), *names]).encode()).digest()
    return int.from_bytes(digest[:4], "little")


def stream(seed: int, *names: str) -> Generator:
    """A random generator of its own for each named purpose of a run."""
    import torch

    digest = hashlib.sha256("/".join([str(seed), *names]).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
