"""JSON objects that hold the sha256 of their own content, so that an altered ledger or result is noticed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from mdistill.errors import BadInput

SEAL = "sha256"
"""Key of the sha256 of the rest of a JSON object that `sealed` wrote."""


def sealed(value: dict[str, Any]) -> dict[str, Any]:
    """A JSON object with the sha256 of its content."""
    return value | {SEAL: _content_sha256(value)}


def unsealed(path: Path, value: Any) -> Any:
    """A JSON object of a file without its sha256; others, and those without one, as they are.

    Raises:
        BadInput: Its content was altered.
    """
    if not isinstance(value, dict) or SEAL not in value:
        return value
    rest = {name: part for name, part in value.items() if name != SEAL}
    if value[SEAL] != _content_sha256(rest):
        fix = "restore it, or run the command again with another --out"
        raise BadInput(path, "was altered: the sha256 of its content differs", allowed="the file as mdistill wrote it", fix=fix)
    return rest


def _content_sha256(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
