"""npz files are read without Python's parser, which fails in threads; what numpy writes comes back, what is altered is refused."""

from __future__ import annotations

import ast
import gc
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from mdistill.io.arrays import DAMAGED, read_arrays

ARRAYS = {
    "numbers": np.arange(6).reshape(2, 3), "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)), "empty": np.zeros((0, 3)),
    "truth": np.array([True, False]), "text": np.array(["md", "on-policy é"]), "one": np.array(2.5), "bytes": np.arange(3, dtype=np.uint8),
    "single": np.ones(3, dtype=np.float32), "big end": np.arange(3, dtype=">i4"),
}  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Path:
    np.savez(tmp_path / "arrays.npz", **ARRAYS)
    return tmp_path / "arrays.npz"


def same(found: dict[str, np.ndarray]) -> bool:
    return found.keys() == ARRAYS.keys() and all(
        found[name].dtype == array.dtype and np.array_equal(found[name], array) for name, array in ARRAYS.items()
    )


def test_what_numpy_writes_comes_back(file: Path) -> None:
    found = read_arrays(file)
    assert same(found) and all(array.flags.writeable for array in found.values())


def test_the_parser_of_python_is_not_called(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("Python's parser was called")

    for name in ("parse", "literal_eval"):
        monkeypatch.setattr(ast, name, refuse)
    assert same(read_arrays(file))
    with pytest.raises(AssertionError), np.load(file) as held:
        held["numbers"]


def test_eight_threads_read_at_once(file: Path) -> None:
    """With the collector running at almost every allocation, and threads that change places often."""
    good: list[bool] = []
    threads = [threading.Thread(target=lambda: good.extend(same(read_arrays(file)) for _ in range(10))) for _ in range(8)]
    threshold, interval = gc.get_threshold(), sys.getswitchinterval()
    gc.set_threshold(10)
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        gc.set_threshold(*threshold)
        sys.setswitchinterval(interval)
    assert good == [True] * 80


def test_objects_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.array([print], dtype=object))
    with pytest.raises(ValueError, match="plain arrays"):
        read_arrays(tmp_path / "a.npz")


def test_cut_and_flipped_files_give_the_same_arrays_or_none(file: Path) -> None:
    whole, refused = file.read_bytes(), 0
    for cut in range(0, len(whole), 97):
        file.write_bytes(whole[:cut])
        with pytest.raises(DAMAGED):
            read_arrays(file)
    for place in range(0, 8 * len(whole), 131):
        content = bytearray(whole)
        content[place // 8] ^= 1 << place % 8
        file.write_bytes(content)
        try:
            found = read_arrays(file)
        except DAMAGED:
            refused += 1
        else:
            assert same(found) or found.keys() != ARRAYS.keys()
    assert refused > 50
