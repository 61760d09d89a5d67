"""What a screening read of each file, one line a file, so that an interrupted one resumes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mdistill import __version__
from mdistill.io.files import append_line, sha256
from mdistill.settings import to_json
from mdistill.transport.features import Material
from mdistill.transport.tables import Refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class Usable:
    """A structure that can be predicted: its name, formula, material, and notes of reading it."""

    name: str
    formula: str
    material: Material
    notes: tuple[str, ...]


@dataclass(slots=True)
class FilesRead:
    """Structures and refusals of the files that were read, by content; kept in a file where `path` is given."""

    path: Path | None = None
    known: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path is not None and self.path.is_file():
            text = self.path.read_text(encoding="utf-8", errors="replace")
            if text and not text.endswith("\n"):
                append_line(self.path, "")
            for line in text.splitlines():
                with suppress(ValueError, KeyError, TypeError):  # a torn line: its file is read again
                    entry = json.loads(line)
                    self.known[entry["key"]] = entry["found"]

    def key(self, file: Path, name: str, mobile: int) -> str:
        """What decides what is read of a file; "" where it cannot be read."""
        with suppress(OSError):
            return f"{sha256(file)}/{name}/{mobile}/{__version__}"
        return ""

    def find(self, key: str) -> list[Usable | Refusal] | None:
        """What was read of a file before."""
        with suppress(KeyError, TypeError, ValueError, AttributeError):
            return [_from_json(one) for one in self.known[key]]
        return None

    def keep(self, key: str, found: Sequence[Usable | Refusal]) -> None:
        if self.path is not None and key:
            append_line(self.path, json.dumps({"key": key, "found": to_json(list(found))}, ensure_ascii=False))


def _from_json(raw: dict[str, Any]) -> Usable | Refusal:
    if "material" not in raw:
        return Refusal(**raw)
    made, numbers = raw["material"], {int(z): float(n) for z, n in raw["material"]["composition"].items()}
    lengths = (made["lengths"][0], made["lengths"][1], made["lengths"][2])
    material = Material(**{**made, "composition": numbers, "lengths": lengths})
    return Usable(name=raw["name"], formula=raw["formula"], material=material, notes=tuple(raw["notes"]))
