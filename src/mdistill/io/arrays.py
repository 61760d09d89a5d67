"""Reading npz files without numpy's header parser, which calls Python's: in Python 3.11 that fails where two threads parse at
once (SystemError: AST constructor recursion depth mismatch). No code, no pickle; the checksum of every member is compared.
"""

from __future__ import annotations

import math
import re
import zipfile
import zlib
from pathlib import Path

import numpy as np

LARGEST = 4_000_000_000
"""Largest npz file read, bytes unpacked."""
DAMAGED = (OSError, ValueError, KeyError, TypeError, EOFError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What `read_arrays` raises on a file that is absent, altered or cut, and what making sense of its arrays may raise."""
_HEADER = re.compile(
    rb"\{'descr': '([<>|=]?[biufUS]\d+)', 'fortran_order': (True|False), 'shape': \(((?:\d+, ?)*(?:\d+)?)\), ?\}\s*"
)
_SIMPLE = np.lib.format.MAGIC_PREFIX


def read_arrays(path: Path, *, compressed: bool = False) -> dict[str, np.ndarray]:
    """All arrays of an npz file of numbers, truth values and text, by name.

    Args:
        path: The file.
        compressed: Whether it may be compressed, as files of other programs are; `LARGEST` bounds it in any case.
    Raises:
        DAMAGED: No such file, not such a file, altered, cut, or with parts larger than the file.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > (LARGEST if compressed else min(LARGEST, 2 * path.stat().st_size)):
            raise ValueError("its parts are larger than the file")
        return {member.filename.removesuffix(".npy"): _array(archive.read(member)) for member in members}


def read_member(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """One array of an open npz file; the others are not unpacked.

    Raises:
        DAMAGED: Not in it (KeyError), altered, cut, or too large.
    """
    if archive.getinfo(f"{name}.npy").file_size > LARGEST:
        raise ValueError(f"{name} has more than {LARGEST:.0e} bytes")
    return _array(archive.read(f"{name}.npy"))


def npy_header(content: bytes) -> tuple[bytes, int]:
    """The header of an npy file, and where its data begin.

    Raises:
        ValueError: Not an npy file.
    """
    if content[:6] != _SIMPLE or content[6:7] not in (b"\x01", b"\x02", b"\x03"):
        raise ValueError("a member is no npy array")
    start = 10 if content[6] == 1 else 12
    end = start + int.from_bytes(content[8:start], "little")
    return content[start:end], end


def _array(content: bytes) -> np.ndarray:
    """The array of one npy file."""
    text, end = npy_header(content)
    header = _HEADER.fullmatch(text)
    if header is None:
        raise ValueError("a member has a header that numpy does not write for plain arrays")
    kind, shape = np.dtype(header[1].decode()), tuple(int(size) for size in header[3].split(b",") if size.strip())
    if math.prod(shape) * kind.itemsize != len(content) - end:
        raise ValueError(f"a member holds {len(content) - end} bytes, its header says {shape} of {kind}")
    flat = np.frombuffer(content, kind, offset=end).copy()
    return flat.reshape(shape, order="F" if header[2] == b"True" else "C")
