"""VASP's XDATCAR, also gzipped, constant or variable cell, read in bulk."""

from __future__ import annotations

import gzip
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase.data import atomic_numbers
from jaxtyping import Float, Int

from mdistill.crystals.atom_kinds import ISOTOPE_NOTE, ISOTOPES
from mdistill.errors import BadInput

_FRAME = re.compile(r"^\s*(Direct|Cartesian)\s+configuration\s*=\s*(\d+)", re.IGNORECASE)
_ALLOWED = "XDATCAR as VASP 5 or 6 writes it"


def is_xdatcar(path: Path) -> bool:
    """Whether the first lines (after unzipping) are those of an XDATCAR."""
    try:
        with _opened(path) as handle:
            head = handle.read(4000).decode("utf-8", errors="replace").splitlines()[:9]
    except (OSError, EOFError):
        return False
    return any(_FRAME.match(line) for line in head)


def read_xdatcar(
    path: Path, *, elements: Sequence[str] = ()
) -> tuple[
    Int[np.ndarray, " atom"], Float[np.ndarray, "frame atom 3"], Float[np.ndarray, "frame 3 3"], Int[np.ndarray, " frame"],
    list[str],
]:  # fmt: skip
    """Atomic numbers, positions (Å, as in the file: wrapped), cells (Å), configuration number of each frame; and notes.

    Args:
        path: The file; a name ending in .gz is unzipped.
        elements: Symbols in the order of the counts, for files without a line of symbols (VASP 4).
    Raises:
        BadInput: Not an XDATCAR, cut off, a line that is no coordinate, atoms that change between frames.
    """
    try:
        with _opened(path) as handle:
            lines = handle.read().decode("utf-8", errors="replace").splitlines()
    except (OSError, EOFError) as error:
        raise _bad(path, f"cannot be read ({error})") from error
    starts = [k for k, line in enumerate(lines) if _FRAME.match(line)]
    if not starts:
        raise _bad(path, "no 'Direct configuration=' line")
    numbers, cell = _header(path, lines[: starts[0]], elements)
    count, cells, frames = len(numbers), [], []
    for frame, start in enumerate(starts):
        before = starts[frame - 1] + 1 + count if frame else 0
        if frame and start > before:
            other, cell = _header(path, lines[before:start], elements)
            if not np.array_equal(other, numbers):
                raise _bad(path, f"frame {frame + 1} has other atoms than the first")
        end = starts[frame + 1] if frame + 1 < len(starts) else len(lines)
        try:
            rows = np.array(" ".join(lines[start + 1 : start + 1 + count]).split(), dtype=np.float64).reshape(count, -1)[:, :3]
        except ValueError as error:
            raise _bad(
                path, f"frame {frame + 1} of {len(starts)} holds no {count} lines of coordinates (lines {start + 2} to {end})"
            ) from error
        frames.append(rows if _FRAME.match(lines[start])[1].lower() == "cartesian" else rows @ cell)  # type: ignore[index]
        cells.append(cell)
    labels = np.array([int(_FRAME.match(lines[k])[2]) for k in starts])  # type: ignore[index]
    return numbers, np.stack(frames), np.stack(cells), labels, _notes(lines[5].split(), elements)


def _notes(words: Sequence[str], elements: Sequence[str]) -> list[str]:
    notes = [ISOTOPE_NOTE.format(word) for word in words if word in ISOTOPES]
    if elements and not words[0].isdigit() and all(_symbol(word) in atomic_numbers for word in words):
        notes.append("the file names its elements: --elements is not used")
    return notes


def _symbol(word: str) -> str:
    """'Li_sv' -> 'Li', 'D' -> 'H'."""
    symbol = re.split(r"[_/\d]", word)[0]
    return ISOTOPES.get(symbol, symbol)


def _header(
    path: Path, lines: Sequence[str], elements: Sequence[str]
) -> tuple[Int[np.ndarray, " atom"], Float[np.ndarray, "3 3"]]:
    try:
        scale = float(lines[1])
        cell = np.array([[float(word) for word in lines[k].split()[:3]] for k in (2, 3, 4)])
        words = lines[5].split()
        symbols = list(elements) if words[0].isdigit() else [_symbol(word) for word in words]
        if elements and any(symbol not in atomic_numbers for symbol in symbols):
            symbols = list(elements)
        counts = [int(word) for word in (words if words[0].isdigit() else lines[6].split())]
    except (ValueError, IndexError) as error:
        raise _bad(path, f"the header cannot be read ({error})") from error
    if len(symbols) != len(counts) or any(s not in atomic_numbers for s in symbols):
        fix = "name the elements in the order of the counts (--elements Li P S Cl)"
        raise BadInput(path, f"symbols {symbols} for counts {counts}", allowed="one element symbol per count", fix=fix)
    if cell.shape != (3, 3) or not np.isfinite(cell).all():
        raise _bad(path, "the lattice vectors are not 3 × 3 finite numbers")
    length = scale if scale > 0 else (-scale / abs(np.linalg.det(cell))) ** (1 / 3)
    return np.repeat([atomic_numbers[s] for s in symbols], counts), cell * length


def _opened(path: Path):  # type: ignore[no-untyped-def]
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else open(path, "rb")


def _bad(path: Path, problem: str) -> BadInput:
    return BadInput(path, problem, allowed=_ALLOWED, fix="copy the file again from the run, or cut off the broken last frame")
