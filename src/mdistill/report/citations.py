"""References of a run, as text or BibTeX, from `references.bib`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from typing import Literal

from mdistill.errors import BadInput

Work = dict[str, str]
"""Fields of one BibTeX entry, and `type` and `bibtex` (the entry without the fields that only mdistill reads)."""
_ENTRY = re.compile(r"^@(\w+)\{([^,\s]+),\n(.*?)\n\}$", re.MULTILINE | re.DOTALL)
_FIELD = re.compile(r"^ *(\w+) = \{(.*?)\},?$", re.MULTILINE)
_OURS = re.compile(r",\n *(?:why|ids|related) = \{.*\}")
_VENUES = ("journal", "booktitle", "publisher", "howpublished")


@cache
def bibliography() -> dict[str, Work]:
    """Every entry of `references.bib` by its key. One field a line, values in braces."""
    text = files("mdistill.report").joinpath("references.bib").read_text(encoding="utf-8")
    entries = {m[2]: dict(_FIELD.findall(m[3])) | {"type": m[1], "bibtex": _OURS.sub("", m[0])} for m in _ENTRY.finditer(text)}
    return {key: work | {"title": work["title"].strip("{}")} for key, work in entries.items()}


def works(keys: Iterable[str]) -> dict[str, Work]:
    """The works behind the keys, each once, in the order of the keys. A teacher's name means its papers.

    Raises:
        BadInput: Unknown key.
    """
    known = bibliography()
    names = {name: key for key, work in known.items() for name in (key, *filter(None, work.get("ids", "").split(", ")))}
    chosen: dict[str, Work] = {}
    for key in keys:
        if key.lower() not in names:
            raise BadInput("citation", f"unknown key {key!r}", allowed=", ".join(known), fix="choose one of these keys")
        work = names[key.lower()]
        together = {work, *filter(None, known[work].get("related", "").split(", "))}
        chosen |= {name: known[name] for name in known if name in together}
    return chosen


def cite(keys: Iterable[str], style: Literal["text", "bibtex"] = "text") -> str:
    """The works behind the keys as numbered text or as BibTeX entries.

    Raises:
        BadInput: Unknown key or style.
    """
    if style not in ("text", "bibtex"):
        raise BadInput("style", f"{style!r}", allowed="text, bibtex", fix="choose one of these")
    chosen = works(keys).values()
    if style == "bibtex":
        return "\n\n".join(work["bibtex"] for work in chosen)
    return "\n".join(f"[{i}] {reference(work)}" for i, work in enumerate(chosen, 1))


def reference(work: Work) -> str:
    """One work as a line: authors, title, journal volume, pages (year), doi."""
    names = [_initials(author) for author in work["author"].split(" and ") if author != "others"]
    if work["author"].endswith(" and others"):
        authors = f"{', '.join(names)} et al."
    else:
        authors = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
    venue = next((work[name] for name in _VENUES if name in work), "")
    place = ", ".join(filter(None, [f"{venue} {work.get('volume', '')}".strip(), work.get("pages", "").replace("--", "–")]))
    tail = f"{place} ({work['year']})" if place else f"({work['year']})"
    return f"{authors}, {work['title']}, {tail}" + (f", doi:{work['doi']}" if "doi" in work else "")


def _initials(author: str) -> str:
    family, _, given = author.strip("{}").partition(", ")
    initials = " ".join(f"{name[0]}." for name in given.replace("-", " ").split())
    return f"{initials} {family}".strip()
