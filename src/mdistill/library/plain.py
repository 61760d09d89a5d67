"""Names in place of paths, for what leaves the machine that made it: cards, headers and results of ready students."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

_ABSOLUTE = re.compile(r"(?:(?<=[\s\"'(\[=,])|^)(?:~|\.{1,2})?/(?:[^\s/\"'()]+/)+(?=[^\s/\"'()])")
"""An absolute path, or one from the home folder or a dot, up to its last name; a unit such as eV/Å is none."""


def plain_command(line: str) -> str:
    """A command line with the last name of every path; a SMILES keeps its slashes."""
    try:
        words = shlex.split(line)
    except ValueError:
        words = line.split()
    return shlex.join(_word(word, before) for before, word in zip(["", *words], words, strict=False))


def _word(word: str, before: str) -> str:
    flag, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    if "/" not in value or "--smiles" in (before, flag):
        return word
    return flag + equals + PurePath(value).name


def places_in(value: Any) -> Iterator[str]:
    """The folders of all absolute paths among strings, at any depth."""
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from places_in(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from places_in(inner)
    elif isinstance(value, str) and value.startswith("/"):
        yield str(PurePath(value).parent)


def without_paths(value: Any, places: Collection[str] = ()) -> Any:
    """Strings at any depth without the folders of paths.

    Args:
        value: JSON.
        places: Folders to take out first, which may have spaces in their names.
    """
    places = sorted({*places, str(Path.home()), str(Path.cwd())} - {"/"}, key=len, reverse=True)

    def plain(inner: Any) -> Any:
        if isinstance(inner, Mapping):
            return {key: plain(one) for key, one in inner.items()}
        if isinstance(inner, (list, tuple)):
            return [plain(one) for one in inner]
        if not isinstance(inner, str) or "/" not in inner:
            return inner
        for place in places:
            inner = inner.replace(f"{place}/", "")
        return _ABSOLUTE.sub("", inner)

    return plain(value)
