"""HDF5 files: writing that survives a full disk, reading that compares every checksum."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mdistill.errors import BadInput

_VERSIONS = ("v110", "v110")
"""Format of HDF5 written: from 1.10 on its tables of contents carry checksums too."""


class _Unfailing(io.RawIOBase):
    """A file that keeps the first failure of a write instead of raising it: HDF5 crashes where it meets one."""

    def __init__(self, path: Path) -> None:
        self.handle = io.FileIO(path, "r+" if path.exists() else "w+")
        self.failure: OSError | None = None

    def write(self, content: Any) -> int:
        left = memoryview(content).cast("B")
        size = len(left)
        try:
            while left and self.failure is None:
                left = left[self.handle.write(left) :]
        except OSError as error:
            self.failure = error
        return size

    def readinto(self, target: Any) -> int:
        return self.handle.readinto(target)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.handle.seek(offset, whence)

    def tell(self) -> int:
        return self.handle.tell()

    def truncate(self, size: int | None = None) -> int:
        try:
            return self.handle.truncate(size)
        except OSError as error:
            self.failure = self.failure or error
            return size or 0

    def close(self) -> None:
        self.handle.close()
        super().close()


@contextmanager
def written(path: Path) -> Iterator[Any]:
    """An HDF5 file to write, made if absent; a full disk is the OSError that it is."""
    import h5py

    with closing(_Unfailing(path)) as target:
        try:
            with h5py.File(target, "r+" if path.stat().st_size else "w", libver=_VERSIONS) as file:
                yield file
        except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
            if target.failure is None:
                raise damaged(path, f"cannot be appended to ({str(error)[:200]})") from error
        if target.failure is not None:
            raise target.failure


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """An HDF5 file to read; any failure is `BadInput`."""
    import h5py

    if not path.is_file():
        raise BadInput(path, "no such file", allowed="an HDF5 trajectory", fix="check the path")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except BadInput:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise damaged(path, f"cannot be read ({str(error)[:200]})") from error


def dataset(file: Any, name: str, path: Path) -> np.ndarray:
    """A dataset in memory; one larger than the file can hold is rejected."""
    if name not in file:
        raise damaged(path, f"it has no {name}")
    held = file[name]
    if not hasattr(held, "shape") or held.nbytes > 100 * max(path.stat().st_size, 1_000_000):
        raise damaged(path, f"{name} is no array, or claims more than the file can hold")
    return np.asarray(held[()])


def damaged(path: Path, problem: str) -> BadInput:
    return BadInput(
        path, problem, allowed="an HDF5 trajectory with H5MD names, as mdistill writes", fix="check the file, or run again"
    )


def check_hdf5(path: Path) -> None:
    """Read everything, chunk by chunk, so that HDF5 compares its checksums.

    Raises:
        BadInput: Not such a file, or damaged.
    """
    import h5py

    def read(_: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            for part in item.iter_chunks() if item.chunks else [()]:
                item[part]

    with opened(path) as file:
        file.visititems(read)
