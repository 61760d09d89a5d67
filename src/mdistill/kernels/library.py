"""Builds the C++ sources of this folder for one size of student and calls them; built libraries are kept in a cache folder.

A library is built once per size, compiler, processor and version of the sources (a few seconds), then loaded in a
millisecond. Where there is no C++ compiler nothing is built: students then run in torch, slower.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

SOURCES = (
    *("lanes.hpp", "neighbours.hpp", "skin_list.hpp", "edges.hpp", "spline.hpp"),
    *("motion.hpp", "dynamics.hpp", "strides.hpp", "library.cpp"),
)
_FOLDER = Path(__file__).parent
_FLAGS = ("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-fPIC", "-shared")
_TRIES = (("-march=native", "-fopenmp"), ("-mcpu=native", "-fopenmp"), ("-fopenmp",), ("-march=native",), ())
_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """What is fixed when a kernel is compiled."""

    radial: int
    degree: int
    channels: int
    hidden: int
    double: bool

    def macros(self) -> list[str]:
        real = "double" if self.double else "float"
        sizes = {"RADIAL": self.radial, "DEGREE": self.degree, "CHANNELS": self.channels, "HIDDEN": self.hidden}
        return [f"-DMDISTILL_REAL={real}", *(f"-DMDISTILL_{name}={value}" for name, value in sizes.items())]


class Plan(ctypes.Structure):
    """What one call of `mdistill_run` or `mdistill_strides_run` does; the same as `Plan` in motion.hpp."""

    _fields_ = [
        ("steps", ctypes.c_int64),
        ("first_step", ctypes.c_int64),
        ("watch_every", ctypes.c_int64),
        ("ensemble", ctypes.c_int32),
        ("whole", ctypes.c_int32),
        ("kept_every", ctypes.c_int64),
        ("kept_from", ctypes.c_int64),
        *((name, ctypes.c_double) for name in ("kept_energy", "kept_clip")),
        *((name, ctypes.c_double) for name in ("time_step", "keep", "temperature")),
        *((name, ctypes.c_double) for name in ("largest_force", "highest_temperature", "reference_energy", "energy_change")),
        *((name, ctypes.c_void_p) for name in ("keys", "normal", "others")),
    ]


class Field(ctypes.Structure):
    """A potential of a structure; the same as `Field` in strides.hpp."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("engine", "evaluate", "closest")]


class Map(ctypes.Structure):
    """A long stride; the same as `Map` in strides.hpp."""

    _fields_ = [
        ("atoms", ctypes.c_int64),
        ("species", ctypes.c_void_p),
        *((name, ctypes.c_int32) for name in ("threads", "kicks", "small_steps")),
        ("stages", ctypes.c_void_p),
        ("potential", Field),
        ("largest_force", ctypes.c_void_p),
        *((name, ctypes.c_double) for name in ("looked_at", "largest_change")),
    ]


def cache_folder() -> Path:
    """Where built kernels are kept: $MDISTILL_CACHE, else mdistill in the user's cache folder."""
    named = os.environ.get("MDISTILL_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mdistill"
    return (Path(named) if named else base) / "kernels"


@cache
def compiler() -> str | None:
    """The C++ compiler: $CXX, else g++, clang++ or c++ on the path; None where there is none or MDISTILL_COMPILED is 0."""
    if os.environ.get("MDISTILL_COMPILED") == "0":
        return None
    for name in (os.environ.get("CXX"), "g++", "clang++", "c++"):
        found = shutil.which(name) if name else None
        if found:
            return found
    return None


@cache
def library(size: Size) -> ctypes.CDLL | None:
    """The library for this size, built if it is not in the cache; None where it cannot be built (says why in a warning)."""
    found = compiler()
    if found is None:
        return None
    try:
        return _declared(ctypes.CDLL(str(_built(size, found))))
    except (OSError, subprocess.SubprocessError) as error:
        warnings.warn(f"the compiled kernel could not be built ({error}); students run in torch, slower", stacklevel=2)
        return None


def _built(size: Size, found: str) -> Path:
    version = _run([found, "--version"]).stdout
    digest = hashlib.sha256("\0".join([version, _processor(), *size.macros(), *_FLAGS]).encode())
    for name in SOURCES:
        digest.update((_FOLDER / name).read_bytes())
    name = f"spline-{digest.hexdigest()[:24]}.so"
    own = f"mdistill-{os.getuid() if hasattr(os, 'getuid') else 0}"
    for folder in (cache_folder(), Path(tempfile.gettempdir()) / own):
        path = folder / name
        if path.is_file() and _is_ours(folder):
            return path
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not _is_ours(folder):
                raise PermissionError("it belongs to another user")
            scratch = tempfile.TemporaryDirectory(dir=folder)
        except OSError as error:
            advice = "set MDISTILL_CACHE to a folder that can be written"
            warnings.warn(f"compiled kernels cannot be kept in {folder} ({error}); {advice}", stacklevel=4)
            continue
        with scratch as place:
            partial = Path(place) / name
            _compile(partial, size, found)
            os.replace(partial, path)
        return path
    raise OSError("no folder to keep it in")


def _is_ours(folder: Path) -> bool:
    """Whether no one else can have put a library there."""
    return not hasattr(os, "getuid") or folder.stat().st_uid in (os.getuid(), 0)


def _compile(path: Path, size: Size, found: str) -> None:
    message = ""
    for tried in _TRIES:
        done = _run([found, *_FLAGS, *tried, *size.macros(), str(_FOLDER / "library.cpp"), "-o", str(path)])
        if done.returncode == 0:
            return
        message = message or done.stderr.strip()[-500:]
    raise OSError(message or "the compiler failed without a message")


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)  # noqa: S603


def _processor() -> str:
    """What machine code depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next((line for line in lines if line.startswith(("flags", "Features"))), "") + platform.machine()
    except OSError:
        return platform.machine() + platform.processor() + platform.node()


def _declared(handle: ctypes.CDLL) -> ctypes.CDLL:
    """The library with the types of its functions."""
    pointer, long, integer, real = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32, ctypes.c_double
    functions: dict[str, tuple[Any, list[Any]]] = {
        "net": (pointer, [integer, pointer]),
        "net_free": (None, [pointer]),
        "limits": (None, [pointer, pointer]),
        "engine": (pointer, [pointer, long, pointer, integer, real]),
        "engine_free": (None, [pointer]),
        "graph": (real, [pointer] * 8),
        "evaluate": (real, [pointer] * 7),
        "run": (long, [pointer] * 5 + [integer] + [pointer] * 7),
        "closest": (real, [pointer]),
        "pairs": (pointer, [pointer]),
        "share": (None, [pointer, pointer]),
        "strides": (pointer, [pointer]),
        "strides_free": (None, [pointer]),
        "strides_run": (long, [pointer] * 5 + [integer] + [pointer] * 7),
        "fallbacks": (long, [pointer]),
        "counts": (None, [pointer] * 4),
        "search": (long, [long, pointer, pointer, pointer, real, integer, long, long, pointer, pointer, pointer]),
    }
    for name, (result, arguments) in functions.items():
        function = getattr(handle, f"mdistill_{name}")
        function.restype, function.argtypes = result, arguments
    return handle


def address(array: Any) -> int | None:
    """Pointer to a C-contiguous numpy array (None: null); the caller keeps the array alive during the call."""
    if array is None:
        return None
    if not array.flags.c_contiguous:
        raise ValueError("the array must be C-contiguous")
    return array.ctypes.data
