"""Settings to flags and back: help of one screen, settings files, errors that name the flag that was typed."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import inspect
import io
import itertools
import os
import re
import sys
import textwrap
import tomllib
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import tyro

from mdistill import __version__
from mdistill.errors import BadInput
from mdistill.flags.commas import refuse_commas
from mdistill.flags.ranges import check_ranges
from mdistill.flags.trust import check_imports, refuse_typed, trusting
from mdistill.settings import BadSetting, changes, describe, from_json, hints, to_json, to_toml

Arguments = TypeVar("Arguments")
CONFIG = "run.toml"
"""Name of the settings file that every run writes."""
_WIDTH, _COLUMN = 80, 27
_PLACE = ("out", "threads", "workers", "max_hours", "dry_run", "update", "trust")
"""Flags about where and how long to run; no settings file holds them."""
Groups = Mapping[str, tuple[str, ...]]


def parse(
    kind: type[Arguments], arguments: list[str], *, program: str, description: str, default: Any = None,
    groups: Groups | None = None,
) -> Arguments:  # fmt: skip
    """Parse a command line. Flags overrule the settings file of --config, which overrules the defaults.

    Args:
        kind: A dataclass; one field of it may hold settings whose flags have no prefix (`tyro.conf.arg(name="")`).
        default: An instance to begin from; required fields of it are `tyro.MISSING`.
        groups: Flags that --help shows, by group; all others are shown by --help-all. All are shown where None.
    Raises:
        SystemExit: After --help and --version (0), or on a bad flag (2).
        BadInput: A value that a settings class rejects (the message names the flag), or a settings file that cannot be used.
    """
    if "--version" in arguments:
        print(__version__)
        raise SystemExit(0)
    if groups is not None and any(a in ("-h", "--help") for a in arguments):
        print(short_help(kind, program, description, groups))
        raise SystemExit(0)
    rest, config = split_config(arguments)
    if config is not None:
        default = from_file(kind, config, default=default)
    rest = ["--help" if argument == "--help-all" else argument for argument in rest]
    extra = {} if default is None else {"default": default}
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            made = tyro.cli(kind, args=rest, prog=program, description=description, **extra)
            check_ranges(made)
            if config is not None:
                check_imports(made, _unnamed(kind), typed=rest, config=config)
            return made
    except (SystemExit, BadInput) as end:
        refusal = _refusal(end)
        if refusal is None:
            if isinstance(end, SystemExit) and end.code:
                refuse_commas(rest, several=[flag for owner, name, flag in _flags(kind) if "tuple" in str(hints(owner)[name])])
            sys.stderr.write(said.getvalue())
            raise
        raise (refusal.called(_flag(kind, refusal, rest)) if isinstance(refusal, BadSetting) else refusal) from None


def _refusal(end: BaseException) -> BadInput | None:
    """The error of a settings class that stopped tyro."""
    cause: BaseException | None = end
    while cause is not None and not isinstance(cause, BadInput):
        cause = cause.__context__
    return cause


def split_config(arguments: list[str]) -> tuple[list[str], Path | None]:
    """The arguments without --config, and its file. A first argument that ends in .toml is such a file too."""
    rest = list(arguments)
    if rest and rest[0].endswith(".toml"):
        return rest[1:], Path(rest[0])
    for k, argument in enumerate(rest):
        if argument == "--config" and k + 1 < len(rest):
            return rest[:k] + rest[k + 2 :], Path(rest[k + 1])
        if argument.startswith("--config="):
            return rest[:k] + rest[k + 1 :], Path(argument.partition("=")[2])
    return rest, None


def read_toml(path: Path) -> dict[str, Any]:
    """A settings file.

    Raises:
        BadInput: Absent, or no TOML.
    """
    if not path.is_file():
        raise BadInput(
            path,
            "is a folder" if path.is_dir() else "no such file",
            allowed=f"a settings file such as the {CONFIG} of a run",
            fix="check the path",
        )
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(
            path, f"is no TOML ({error})", allowed="lines such as: temperatures = [500, 700]", fix="correct it"
        ) from error


def from_file(kind: type[Arguments], path: Path, *, default: Any = None) -> Arguments:
    """Arguments from a settings file."""
    return from_entries(kind, read_toml(path), source=path, default=default)


def from_entries(kind: type[Arguments], entries: Mapping[str, Any], *, source: Path, default: Any = None) -> Arguments:
    """Arguments from entries of a settings file. Missing values are the default's, or `tyro.MISSING` where there is none."""
    raw, inner = {key: value for key, value in entries.items() if key not in ("command", "preset")}, _unnamed(kind)
    default = with_missing(kind) if default is None else default
    refuse_typed(raw, source)
    if inner is None:
        return from_json(kind, raw, source=source, default=default)
    own = {key: raw.pop(key) for key in list(raw) if key in hints(kind) and key != inner}
    made = from_json(kind, own, source=source, default=default)
    settings = from_json(hints(kind)[inner], raw, source=source, default=getattr(default, inner))
    return dataclasses.replace(made, **{inner: settings})  # type: ignore[type-var]


def with_missing(kind: type[Arguments]) -> Arguments:
    """An instance, not checked, with `tyro.MISSING` for every field that has no default."""
    made, inner = object.__new__(kind), _unnamed(kind)
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        value: Any = tyro.MISSING
        if field.default is not dataclasses.MISSING:
            value = field.default
        elif field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        elif field.name == inner:
            value = with_missing(hints(kind)[inner])
        object.__setattr__(made, field.name, value)
    return made


def write_config(folder: Path, command: str, given: Any, *, default: Any = None, preset: str = "") -> Path:
    """Write `run.toml`: everything that differs from the defaults, so that the command can be repeated from it alone.

    Args:
        folder: The run folder; paths are written relative to it.
        command: What repeats it, without the file.
        given: The parsed arguments.
        default: What it is compared with; the defaults of its class where None.
        preset: Name of the preset that `default` is.
    """
    from mdistill.io.files import write_text

    kind, inner = type(given), _unnamed(type(given))
    entries: dict[str, Any] = {"preset": preset} if preset else {}
    for name, value in changes(given, default or with_missing(kind)):
        plain = name.removeprefix(f"{inner}.") if inner else name
        if plain not in _PLACE and plain != preset:
            entries[plain] = _relative(value, folder)
    head = f"Repeats this run: {command} {CONFIG}{trusting(entries.values())}\n"
    head += f"Written by mdistill {__version__}; what is not here has its default."
    path = folder / CONFIG
    write_text(path, to_toml(entries, lambda name: _text(kind, inner, name), head=head))
    return path


def short_help(kind: type, program: str, description: str, groups: Groups) -> str:
    """Help with the most used flags in groups, 80 columns wide."""
    prose, colon, examples = description.rstrip().partition("examples:")
    told = "\n\n".join(textwrap.fill(paragraph, _WIDTH) for paragraph in prose.strip().split("\n\n"))
    inner, lines = _unnamed(kind), [f"usage: {program} {_positionals(kind)}[flags]", "", told]
    lines += ["", colon + "\n".join(_folded(line) for line in examples.splitlines()), ""]
    for title, names in groups.items():
        lines.append(f"{title}:")
        for name in names:
            flag = f"  --{_spelt(kind, inner, name)} {_metavar(kind, inner, name)}".rstrip()
            text = textwrap.wrap(_text(kind, inner, name) + _usual(kind, inner, name), _WIDTH - _COLUMN)
            if len(flag) >= _COLUMN:
                lines.append(flag)
                flag = ""
            lines += [f"{flag:<{_COLUMN}}{text[0] if text else ''}", *(" " * _COLUMN + more for more in text[1:])]
    lines += ["", "--config run.toml repeats a run; flags overrule it. All flags: --help-all"] if groups else []
    return "\n".join(lines)


def _folded(example: str) -> str:
    """A command line on lines of at most 80 columns, joined by backslashes."""
    if len(example) <= _WIDTH:
        return example
    lines = textwrap.TextWrapper(_WIDTH - 2, break_on_hyphens=False, break_long_words=False)
    lines.initial_indent, lines.subsequent_indent = "  ", " " * 6
    return " \\\n".join(lines.wrap(example.strip()))


def _positionals(kind: type) -> str:
    inner = _unnamed(kind)
    kinds = [kind, *([hints(kind)[inner]] if inner else [])]
    found = []
    for one in kinds:
        for name, annotation in typing.get_type_hints(one, include_extras=True).items():
            if any("Positional" in repr(extra) for extra in getattr(annotation, "__metadata__", ())):
                found.append(name.upper())
    return "".join(f"{name} " for name in found)


def _unnamed(kind: type) -> str | None:
    """The field whose flags have no prefix."""
    for name, annotation in typing.get_type_hints(kind, include_extras=True).items():
        if any(getattr(extra, "name", None) == "" for extra in getattr(annotation, "__metadata__", ())):
            return name
    return None


def _spelt(kind: type, inner: str | None, name: str) -> str:
    """The flag of a field, which may have a name of its own."""
    annotation = typing.get_type_hints(_home(kind, inner, name), include_extras=True).get(name)
    named = (getattr(extra, "name", None) for extra in getattr(annotation, "__metadata__", ()))
    return next((one for one in named if one), name).replace("_", "-")


def _home(kind: type, inner: str | None, name: str) -> type:
    return kind if inner is None or name.partition(".")[0] in hints(kind) else hints(kind)[inner]


def _text(kind: type, inner: str | None, name: str) -> str:
    home = _home(kind, inner, name)
    return describe(home, name) or _field_docstring(home, name)


def _field_docstring(kind: type, name: str) -> str:
    """First sentence of the string below a field of a class or of those it is derived from; "" where there is none."""
    for owner in (one for one in kind.__mro__ if dataclasses.is_dataclass(one)):
        body = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0].body  # type: ignore[attr-defined]
        for field, below in itertools.pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and field.target.id == name:
                text = below.value.value if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) else ""
                return " ".join(str(text).split()).split(". ")[0].rstrip(".")
    return ""


def _leaf(kind: type, inner: str | None, name: str) -> tuple[Any, dataclasses.Field[Any]]:
    home = _home(kind, inner, name)
    *outer, last = name.split(".")
    for part in outer:
        home = hints(home)[part]
    return hints(home)[last], next(field for field in dataclasses.fields(home) if field.name == last)


def _metavar(kind: type, inner: str | None, name: str) -> str:
    annotation, field = _leaf(kind, inner, name)
    text = str(annotation)
    choices = next((one for one in (annotation, *typing.get_args(annotation)) if typing.get_origin(one) is typing.Literal), None)
    if choices is not None:
        joined = "|".join(map(str, typing.get_args(choices)))
        return joined if len(joined) < _WIDTH - _COLUMN else "|".join(map(str, typing.get_args(choices)[:3])) + "|…"
    if annotation is bool:
        return ""
    unit = field.metadata.get("range", {}).get("unit", "")
    kinds = {"Path": "PATH", "float": "X", "int": "N", "str": "NAME"}
    word = unit or next((shown for part, shown in kinds.items() if part in text), "VALUE")
    return f"{word} …" if "tuple" in text else word


def _usual(kind: type, inner: str | None, name: str) -> str:
    _, field = _leaf(kind, inner, name)
    if field.default in (dataclasses.MISSING, None, "", False, ()):
        return ""
    value = field.default
    numbers = value if isinstance(value, tuple) else (value,)
    return f" ({' '.join(f'{one:g}' if isinstance(one, float) else f'{one}' for one in numbers)})"


def _flag(kind: type, error: BadSetting, arguments: list[str]) -> str:
    """The flag of the rejected field: the one that was typed, else the first."""
    flags = [flag for owner, name, flag in _flags(kind) if owner is error.owner and name == error.name]
    flags = flags or [f"{error.owner.__name__}.{error.name}"]
    typed = {argument.partition("=")[0].replace("_", "-") for argument in arguments}
    return next((flag for flag in flags if flag in typed), flags[0])


def flags_of(kind: type) -> list[str]:
    """All flags of a class of arguments."""
    return [flag for *_, flag in _flags(kind)]


def _flags(kind: type, prefix: str = "--") -> Iterator[tuple[type, str, str]]:
    """Class, field and flag of everything that can be typed."""
    inner, annotated = _unnamed(kind), typing.get_type_hints(kind, include_extras=True)
    for name, nested in hints(kind).items():
        if dataclasses.is_dataclass(nested):
            yield from _flags(nested, prefix if name == inner else f"{prefix}{name.replace('_', '-')}.")  # type: ignore[arg-type]
        elif not any(re.search("Positional|Suppress", repr(extra)) for extra in getattr(annotated[name], "__metadata__", ())):
            yield kind, name, f"{prefix}{_spelt(kind, None, name)}"


def _relative(value: Any, folder: Path) -> Any:
    if isinstance(value, Path):
        return os.path.relpath(value, folder)
    return [_relative(one, folder) for one in value] if isinstance(value, tuple) else value


def output_folder(out: Path) -> Path:
    """The folder, checked to be writable (made if absent) and rid of unfinished files of dead processes.

    Raises:
        BadInput: It cannot be made or written.
    """
    from mdistill.runs.lock import remove_leftovers

    allowed, fix = "a folder you may write to", "choose another --out"
    try:
        out.mkdir(parents=True, exist_ok=True)
        writable = os.access(out, os.W_OK)
    except OSError as error:
        raise BadInput(out, f"cannot be made ({error.strerror})", allowed=allowed, fix=fix) from error
    if not writable:
        raise BadInput(out, "cannot be written", allowed=allowed, fix=fix)
    remove_leftovers(out, below=False)
    return out


def checked_folder(out: Path) -> Path:
    """The folder, checked to be one that can be made or written; nothing is made yet.

    Raises:
        BadInput: It cannot be made or written.
    """
    place = next((one for one in (out, *out.parents) if one.exists()), Path())
    if not place.is_dir() or not os.access(place, os.W_OK):
        problem = "cannot be written" if place.is_dir() else f"cannot be made ({place} is a file)"
        raise BadInput(out, problem, allowed="a folder you may write to", fix="choose another --out")
    return out


def use_threads(threads: int | None) -> None:
    """Limit torch to this number of threads (None: all cores)."""
    import torch

    if threads is not None:
        if not 1 <= threads <= 1024:
            raise BadInput("--threads", f"{threads}", allowed="1 to 1024", fix="leave it out for all cores")
        torch.set_num_threads(threads)


def finish(results: Any, out: Path | None, *, report: bool = False, sections: tuple[str, ...] = ()) -> None:
    """Print a command's tables (of these sections; all by default), its values where it has no tables, its gates and notes.

    With an output folder results.json is written there, and with `report` the page and its figures. Notices were printed when
    they were issued.
    """
    from mdistill.notices import heard
    from mdistill.report.ladder import all_tables
    from mdistill.report.terminal import print_summary, print_table
    from mdistill.runs.results import write_results

    page = None
    if out is not None:
        write_results(out, results)
    if out is not None and report:
        from mdistill.report.page import write_report

        page = write_report(out, figures=True)
    for table in (tables := [table for table in all_tables(results) if not sections or table.section in sections]):
        print_table(table)
    for note in () if sections else results.notes:
        if note not in heard():
            print(f"note: {note}")
    print_summary(dataclasses.replace(results, values={} if tables else results.values), report=page)
    if out is not None:
        print(f"results: {out / 'results.json'}")


def stamped(results: Any, settings: Any, *, repeat: str = "") -> Any:
    """The results with version, commit, hardware, settings and time of writing filled in."""
    from datetime import UTC, datetime

    from mdistill.runs.hardware import code_version, hardware

    code, told = code_version(), {"command_line": repeat} if repeat else {}
    return dataclasses.replace(
        results, version=code["version"], created=datetime.now(UTC).isoformat(timespec="seconds"), settings=to_json(settings),
        hardware=hardware(), provenance=results.provenance | {"commit": code["commit"]} | told,
    )  # fmt: skip
