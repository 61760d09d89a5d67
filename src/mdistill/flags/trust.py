"""The flag --trust, of commands that can load a potential which a file names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdistill.errors import BadInput
from mdistill.runs.trust import FLAG, is_import_path, refuse_import

POTENTIALS = {"teacher": "--teacher", "potential": "--potential", "model": "MODEL", "redraw": "--redraw", "hard": "--hard",
              "engine": "--engine"}  # fmt: skip
"""Settings that name a potential, with what the user types for each."""

TYPED = {"trust": FLAG, "out": "--out FOLDER", "update": "--update"}
"""Flags that no settings file may hold, for it may be somebody else's: they run code, choose where to write, set stages aside."""


@dataclass(frozen=True, kw_only=True)
class TrustArguments:
    """Permission to run code that a file names."""

    trust: bool = False
    """Permission to run code: module:attribute of a file."""


def check_imports(made: Any, inner: str | None, *, typed: Sequence[str], config: Path) -> None:
    """Refuse import paths that a settings file names and the user did not type.

    Args:
        made: The parsed arguments.
        inner: Name of their field that holds the settings.
        typed: The arguments on the command line.
        config: The settings file.
    Raises:
        BadInput: Such a path.
    """
    for part in (made, getattr(made, inner or "", None)):
        for name, flag in POTENTIALS.items():
            value = getattr(part, name, None) or ""
            if not getattr(made, "trust", False) and not any(one == value or one.endswith(f"={value}") for one in typed):
                refuse_import(value, source=config, flag=flag)


def refuse_typed(raw: Mapping[str, Any], path: Path) -> None:
    """Refuse a settings file with a flag of `TYPED`.

    Raises:
        BadInput: Such a flag; the message shows its value.
    """
    for name, flag in TYPED.items():
        if name in raw:
            problem, allowed = f"{raw[name]!r}; a file may not decide this", f"{flag} on the command line"
            raise BadInput(f"{name} in {path}", problem, allowed=allowed, fix=f"remove that line, and type {flag} if you want it")


def trusting(values: Any) -> str:
    """The flag that a command needs to repeat settings of these values, with a space before it, or ""."""
    return f" {FLAG}" if any(isinstance(value, str) and is_import_path(value) for value in values) else ""
