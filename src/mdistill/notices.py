"""Notices: facts the user should know although nothing failed. The command line prints each once and writes it to `results.json`.

In Python a notice is a warning of the class `MdistillNotice`.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from mdistill.errors import MdistillNotice

_HEARD: ContextVar[list[str] | None] = ContextVar("notices heard by the running command", default=None)


def notify(text: str) -> None:
    """Issue a notice."""
    warnings.warn(text, MdistillNotice, stacklevel=3)


def heard() -> list[str]:
    """The notices issued so far inside `listening`, each once."""
    return list(_HEARD.get() or ())


@contextmanager
def listening() -> Iterator[None]:
    """Print each notice once (standard error) and keep it for `heard`; ignore the warnings of libraries."""
    texts: list[str] = []

    def show(message: Warning | str, category: type[Warning], *_args: object, **_options: object) -> None:
        text = str(message)
        if issubclass(category, MdistillNotice) and text not in texts:
            texts.append(text)
            print(f"mdistill: {text}", file=sys.stderr)

    token = _HEARD.set(texts)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", MdistillNotice)
            warnings.showwarning = show  # type: ignore[assignment]
            yield
    finally:
        _HEARD.reset(token)


@contextmanager
def noting() -> Iterator[list[str]]:
    """Within the block notices are warnings as usual, and are kept for `heard`; yields their texts."""
    texts: list[str] = []
    show = warnings.showwarning

    def showing(message: Warning | str, category: type[Warning], *arguments: Any, **options: Any) -> None:
        if issubclass(category, MdistillNotice):
            if str(message) in texts:
                return
            texts.append(str(message))
        show(message, category, *arguments, **options)

    token = _HEARD.set(texts)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("always", category=MdistillNotice, append=True)
            warnings.showwarning = showing
            yield texts
    finally:
        _HEARD.reset(token)
