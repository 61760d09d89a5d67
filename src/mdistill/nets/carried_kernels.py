"""Kernels that a wheel carries: of students of four sizes, their light kicks, SevenNet's convolutions, attention."""

from __future__ import annotations

import hashlib
import json
import platform
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from mdistill.kernels.build import NoKernel, Source, compile_library, compiler
from mdistill.kernels.convolution import SOURCE as CONVOLUTION
from mdistill.kernels.edge_attention import SOURCE as ATTENTION
from mdistill.kernels.moment import SOURCE as MOMENT
from mdistill.kernels.prebuilt import INDEX, LEVELS, library_name
from mdistill.nets.settings import LIGHT, SIZES

_MACROS = ("radial", "degree", "channels", "hidden")


def carried_kernels() -> list[tuple[Source, dict[str, str | int]]]:
    """Source and macros of each, in both precisions."""
    full = [{name: int(size[name]) for name in _MACROS} for size in SIZES.values()]
    light = [{name: min(size[name], LIGHT[name]) for name in _MACROS} for size in full]
    sizes = list({tuple(size.items()): size for size in (*full, *light)}.values())
    moments = [(MOMENT, {**size, "real": real}) for size in sizes for real in ("float", "double")]
    return [*moments, (CONVOLUTION, {}), *((ATTENTION, {"width": 16, "real": real}) for real in ("float", "double"))]


def prebuild(wanted: Iterable[tuple[Source, Mapping[str, str | int]]], folder: Path) -> list[Path]:
    """Compile every source with its macros for every level of this kind of machine, and write the index of the folder.

    Raises:
        NoKernel: No compiler, or one that fails.
    """
    if (program := compiler()) is None:
        raise NoKernel("no C++ compiler was found\n  fix: install g++, or name a compiler with the variable CXX")
    folder.mkdir(parents=True, exist_ok=True)
    static = ("-static-libstdc++", "-static-libgcc") if platform.system() == "Linux" else ()
    made: dict[str, str] = {}
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        for source, macros in wanted:
            for level, (flag, _) in LEVELS.get(platform.machine(), {}).items():
                name = library_name(source.files, macros, level)
                compile_library(program, source, macros, Path(scratch) / name, tries=((flag, *static),))
                (Path(scratch) / name).replace(folder / name)
                made[name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / INDEX).write_text(json.dumps(made, indent=1, sort_keys=True), encoding="utf-8")
    return [folder / name for name in made]
