"""Logs of simulations: CSV tables with a column for each quantity."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mdistill.errors import BadInput
from mdistill.io.files import replacing


def read_log(path: Path) -> dict[str, np.ndarray]:
    """Columns of a log; empty cells are NaN.

    Raises:
        BadInput: Absent or damaged.
    """
    try:
        lines = path.read_text(encoding="ascii").splitlines()
        names = lines[0].split(",")
        rows = np.array([[float(cell) if cell else np.nan for cell in line.split(",")] for line in lines[1:]], dtype=np.float64)
        return dict(zip(names, rows.reshape(-1, len(names)).T, strict=True))
    except (OSError, ValueError, IndexError) as error:
        raise BadInput(
            path, f"no usable log ({error})", allowed="a log written by mdistill", fix="choose another --out"
        ) from error


def truncate_log(path: Path, step: int) -> int:
    """Remove rows with a step above `step`. Returns the number of rows left."""
    if not path.exists():
        return 0
    lines = path.read_text(encoding="ascii").splitlines()
    rows = [line for line in lines[1:] if int(line.split(",", 1)[0]) <= step]
    if len(rows) < len(lines) - 1:
        with replacing(path) as partial:
            partial.write_text("\n".join([lines[0], *rows]) + "\n", encoding="ascii")
    return len(rows)
