"""Import paths in files: `module:attribute` runs the code of that module, so no file of a run folder may name one unasked."""

from __future__ import annotations

import os
from pathlib import Path

from mdistill.errors import BadInput

FLAG = "--trust"


def is_import_path(name: str) -> bool:
    """Whether a name of a potential would import code: "module:attribute" or "./file.py:attribute", and no file or folder."""
    return ":" in name and not (os.path.isdir(name) or os.path.isfile(name))


def refuse_import(name: str, *, source: Path, flag: str) -> None:
    """Refuse the name of a potential that was read from a file and would import code. Call it unless the user gave `FLAG`.

    Args:
        name: As in the file.
        source: The file or folder that holds it.
        flag: What the user can type in its place.
    Raises:
        BadInput: An import path; the message shows it.
    """
    if is_import_path(name):
        problem = f"names {name!r}, and module:attribute runs the code of that module"
        allowed, fix = (
            "a name from `mdistill doctor`; an import path only from the command line",
            f"if you know and trust that module, add {FLAG}, or type its name for {flag}",
        )
        raise BadInput(source, problem, allowed=allowed, fix=fix)
