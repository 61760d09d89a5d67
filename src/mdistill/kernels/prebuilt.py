"""Kernels that a wheel carries, for machines without a C++ compiler: one library per source, sizes and level of processor.

A level is a set of instructions that a compiler is told to use; the highest that the processor has is taken. The folder's
index holds the sha256 of every library. `setup.py` fills the folder when a wheel is built with MDISTILL_PREBUILD=1.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

from mdistill.notices import notify
from mdistill.processes import processor_lines

FOLDER = Path(__file__).parent / "prebuilt"
INDEX = "index.json"
_V2 = {"sse4_1", "sse4_2", "ssse3", "popcnt", "cx16"}
_V3 = _V2 | {"abm", "avx", "avx2", "fma", "bmi1", "bmi2", "f16c", "movbe"}
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
LEVELS: Mapping[str, Mapping[str, tuple[str, set[str]]]] = {
    "x86_64": {f"x86-64-v{number}": (f"-march=x86-64-v{number}", needed) for number, needed in ((4, _V4), (3, _V3), (2, _V2))},
    "aarch64": {"armv8-a": ("-march=armv8-a", {"asimd"})},
    "arm64": {"armv8-a": ("-mcpu=apple-m1", set())},
}  # fmt: skip
"""Levels by machine, highest first: flag of the compiler, features that /proc/cpuinfo must name."""


def prebuilt(files: Sequence[Path], macros: Mapping[str, str | int], folder: Path) -> Path | None:
    """The library of these sources that came with the package, for the highest level of this processor.

    None where there is none, and, with a notice, where it is damaged.
    """
    if not (folder / INDEX).is_file():
        return None
    known = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    flags = processor_flags()
    for level, (_, needed) in LEVELS.get(platform.machine(), {}).items():
        name = library_name(files, macros, level)
        if name in known and needed <= flags:
            path = folder / name
            if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != known[name]:
                notify(f"the kernel {path} is damaged and not used; install mdistill again, or a C++ compiler")
                return None
            return path
    return None


def processor_flags() -> set[str]:
    """Features of the processor as /proc/cpuinfo names them; empty where there is none."""
    return set(flags_line().split())


def flags_line() -> str:
    """The line of /proc/cpuinfo with the features of the processor; empty where there is none."""
    return next((line for line in processor_lines() if line.startswith(("flags", "Features"))), "")


def library_name(files: Sequence[Path], macros: Mapping[str, str | int], level: str) -> str:
    """File name of a library: stem, sha256 of the sources and macros, level."""
    parts = [repr(sorted(macros.items())).encode(), *(path.read_bytes() for path in files)]
    digest = hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
    return f"{files[0].stem}-{digest}-{level}.so"
