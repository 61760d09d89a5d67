"""Builds C++ sources for given sizes and loads them; built libraries stay in a cache folder.

A library is built once per source, sizes, flags, compiler and processor (a few seconds), then loaded in a millisecond. Its
sha256 is stored beside it: a damaged file is built again. The folder belongs to the user alone (mode 0700), because whoever
writes a library there runs code as the user.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from filelock import FileLock

from mdistill.errors import MdistillError
from mdistill.kernels.prebuilt import FOLDER, flags_line, prebuilt
from mdistill.notices import notify

_FLAGS = ("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-pthread", "-fPIC", "-shared")
_TRIES = (("-march=native",), ("-mcpu=native",), ())
_TIMEOUT_S = 300.0
_SCALARS = {"int32_t": ctypes.c_int32, "int64_t": ctypes.c_int64, "double": ctypes.c_double, "void": None}
_ARRAYS = {"int32_t": np.int32, "int64_t": np.int64, "double": np.float64}
_FUNCTION = re.compile(r"^([\w:]+) (\*?)(mdistill_\w+)\(([^)]*)\) \{", re.MULTILINE)
_Used = TypeVar("_Used")
_ARGUMENT = re.compile(r"(const )?([\w:]+) ?(\*?)[^,]*,?")


class NoKernel(MdistillError):
    """A kernel cannot be built here; the message names the cause and a fix."""


@dataclass(frozen=True, slots=True)
class Source:
    """The file to compile (whose functions `extern "C" mdistill_*` Python calls), then those that it includes; flags, which win
    over those for this processor."""

    files: tuple[Path, ...]
    flags: tuple[str, ...] = ()

    def library(self, **macros: str | int) -> ctypes.CDLL:
        """The functions, compiled with macros of these names (in capitals after MDISTILL_).

        Arguments `const double *` and `const int32_t *` take any array, other pointers to numbers take contiguous arrays of
        their type, other pointers take addresses (`ctypes.byref` of a struct); None is null.

        Raises:
            NoKernel: No compiler, or one that fails; a second call does not try again.
        """
        found = _library(self, tuple(macros.items()))
        if isinstance(found, NoKernel):
            raise found
        return found


def enabled() -> bool:
    """Whether kernels are used: MDISTILL_COMPILED=0 turns them off."""
    return os.environ.get("MDISTILL_COMPILED") != "0"


@cache
def compiler() -> str | None:
    """The C++ compiler: $CXX, else g++, clang++ or c++ on the path; None where there is none or kernels are turned off."""
    names = (os.environ.get("CXX"), "g++", "clang++", "c++") if enabled() else ()
    return next((path for name in names if name and (path := shutil.which(name))), None)


def cache_folder() -> Path:
    """Folder of built kernels: $MDISTILL_CACHE, else mdistill in the user's cache folder."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mdistill"
    return Path(os.environ.get("MDISTILL_CACHE") or base) / "kernels"


@cache
def _library(source: Source, macros: tuple[tuple[str, str | int], ...]) -> ctypes.CDLL | NoKernel:
    other = Path(tempfile.gettempdir()) / f"mdistill-{os.getuid() if hasattr(os, 'getuid') else 0}"
    try:
        return build(source, dict(macros), [cache_folder(), other])
    except NoKernel as error:
        return _carried(source, dict(macros)) or error


def _carried(source: Source, macros: dict[str, str | int]) -> ctypes.CDLL | None:
    """The library that came with the package, where nothing can be built."""
    path = prebuilt(source.files, macros, FOLDER) if enabled() and not source.flags else None
    return None if path is None else _declared(ctypes.CDLL(str(path)), source.files[0])


def build(source: Source, macros: dict[str, str | int], folders: Sequence[Path]) -> ctypes.CDLL:
    """The library from the first usable folder, built where it is absent or damaged.

    Raises:
        NoKernel: No compiler, one that fails, or no usable folder.
    """
    return _built(source, macros, folders, "", lambda path: _declared(ctypes.CDLL(str(path)), source.files[0]))


def built_file(source: Source, macros: dict[str, str | int], folders: Sequence[Path], *, name: str = "") -> Path:
    """The file of that library, for a program that loads it itself; its name tells what it was built of, unless one is given.

    Raises:
        NoKernel: As `build`.
    """
    return _built(source, macros, folders, name, lambda path: path)


def _built(
    source: Source, macros: dict[str, str | int], folders: Sequence[Path], name: str, use: Callable[[Path], _Used]
) -> _Used:
    if (program := compiler()) is None:
        raise NoKernel("no C++ compiler was found\n  fix: install g++, or name a compiler with the variable CXX")
    command = _command(program, source, macros)
    version = [_run([program, "--version"]).stdout, processor(), repr(_TRIES), *command]
    content = b"\0".join(["\0".join(version).encode(), *(path.read_bytes() for path in source.files)])
    name = name or f"{source.files[0].stem}-{hashlib.sha256(content).hexdigest()[:24]}.so"
    for folder in folders:
        try:
            _secure(folder)
            with FileLock(folder / f"{name}.lock", timeout=_TIMEOUT_S):
                if not _intact(folder / name):
                    compile_library(program, source, macros, folder / name)
                return use(folder / name)
        except (OSError, NotImplementedError) as error:
            notify(f"compiled kernels cannot be stored in {folder} ({error}); MDISTILL_CACHE names another folder")
    raise NoKernel("no folder can be written\n  fix: set MDISTILL_CACHE to a folder of your own that you can write")


def _command(program: str, source: Source, macros: Mapping[str, str | int]) -> list[str]:
    return [program, *_FLAGS, *source.flags, *(f"-DMDISTILL_{name.upper()}={value}" for name, value in macros.items())]


def _secure(folder: Path) -> None:
    """Make the folder, for its user alone. Files that others could have put there are removed.

    Raises:
        PermissionError: It is a link or belongs to another user.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    status = folder.lstat()
    if hasattr(os, "getuid") and (folder.is_symlink() or status.st_uid != os.getuid()):
        raise PermissionError("it is a link, or it belongs to another user")
    folder.chmod(0o700)
    for path in folder.iterdir() if status.st_mode & 0o022 else ():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _intact(path: Path) -> bool:
    """Whether the library has the sha256 stored beside it."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() == path.with_suffix(".sha256").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False


def compile_library(
    program: str, source: Source, macros: Mapping[str, str | int], path: Path, *, tries: Sequence[Sequence[str]] = _TRIES
) -> None:
    """Compile a library, with the first flags of `tries` that the compiler takes; its sha256 is written beside it.

    Raises:
        NoKernel: The compiler fails with all of them.
    """
    command, errors = [*_command(program, source, macros), str(source.files[0])], []
    for leftover in path.parent.glob(f"{path.name}.*.scratch"):  # of killed processes: the caller holds the lock of this library
        shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f"{path.name}.", suffix=".scratch") as scratch:
        built, sha256 = Path(scratch) / path.name, Path(scratch) / "sha256"
        for tried in tries:
            run = _run([command[0], *tried, *command[1:], "-o", str(built)])
            if run.returncode == 0 and built.is_file():
                sha256.write_text(hashlib.sha256(built.read_bytes()).hexdigest(), encoding="utf-8")
                for partial, final in ((built, path), (sha256, path.with_suffix(".sha256"))):
                    with open(partial, "rb") as handle:
                        os.fsync(handle.fileno())
                    partial.replace(final)
                return
            lines = [line for line in run.stderr.splitlines() if line.strip()]
            silent = [f"no library and no message, exit status {run.returncode}"]
            errors += [line for line in lines if "error" in line.lower()][:1] or lines[:1] or silent
    fix = "install g++, or name a compiler that works with the variable CXX; `mdistill doctor` tests it"
    raise NoKernel(f"the C++ compiler {command[0]} failed: {errors[0].strip()}\n  fix: {fix}")


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S, check=False)  # noqa: S603
    except (OSError, subprocess.SubprocessError) as error:
        return subprocess.CompletedProcess(command, 1, "", f"error: {error}")


def processor() -> str:
    """Identity of the processor for machine code."""
    return (flags_line() or platform.processor() + platform.node()) + platform.machine()


def _declared(library: ctypes.CDLL, source: Path) -> ctypes.CDLL:
    """The library with the types of its functions, as its source declares them."""
    for result, pointer, name, arguments in _FUNCTION.findall(source.read_text(encoding="utf-8")):
        function = getattr(library, name)
        function.restype = ctypes.c_void_p if pointer else _SCALARS[result]
        function.argtypes = [_argument(*groups) for groups in _ARGUMENT.findall(arguments)]
    return library


def _argument(const: str, kind: str, pointer: str) -> Any:
    pointer_type = _Numbers(np.dtype(_ARRAYS[kind]), converted=bool(const)) if kind in _ARRAYS else ctypes.c_void_p
    return pointer_type if pointer else _SCALARS[kind]


@dataclass(frozen=True, slots=True)
class _Numbers:
    """A pointer to numbers for ctypes; arrays that the function only reads are converted."""

    dtype: np.dtype[Any]
    converted: bool

    def from_param(self, array: np.ndarray | None) -> Any:
        if array is None:
            return None
        if self.converted:
            array = np.ascontiguousarray(array, dtype=self.dtype)
        elif array.dtype != self.dtype or not array.flags.c_contiguous:
            raise TypeError(f"an array of {array.dtype}, where contiguous {self.dtype} is needed")
        pointer = _Pointer(array.ctypes.data)
        pointer.array = array
        return pointer


class _Pointer(ctypes.c_void_p):
    array: np.ndarray  # alive as long as the pointer


def c_struct(**values: Any) -> Any:
    """A C struct: double for floats, addresses for arrays (the caller holds them), int64_t for other numbers, None as null."""
    numbers = [_number(value) for value in values.values()]
    return _struct(tuple(values), tuple(map(type, numbers)))(*numbers)


def _number(value: Any) -> float | int:
    if not isinstance(value, np.ndarray):
        return float(value) if isinstance(value, float) else value or 0
    if not value.flags.c_contiguous:
        raise ValueError("the array must be C-contiguous")
    return value.ctypes.data


@cache
def _struct(names: tuple[str, ...], kinds: tuple[type, ...]) -> type[ctypes.Structure]:
    types = [ctypes.c_double if kind is float else ctypes.c_int64 for kind in kinds]
    return type("Struct", (ctypes.Structure,), {"_fields_": list(zip(names, types, strict=True))})
