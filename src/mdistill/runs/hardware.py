"""Machine, instruction set, package version and commit of a measurement."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mdistill.processes import processor_lines

_INSTRUCTIONS = {"avx512f": "avx512", "avx2": "avx2", "sse2": "sse", "asimd": "neon", "neon": "neon"}


def hardware() -> dict[str, Any]:
    """Hardware of a timing."""
    import psutil
    import torch

    return {
        "processor": next(_after(processor_lines(), "model name"), platform.processor() or "unknown"),
        "instructions": instructions(), "cores": psutil.cpu_count(logical=False) or os.cpu_count(),
        "threads": torch.get_num_threads(), "memory_GiB": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.machine()}", "python": platform.python_version(),
        "torch": str(torch.__version__),
    }  # fmt: skip


def instructions(lines: list[str] | None = None) -> str:
    """The widest vector instructions named in /proc/cpuinfo: avx512, avx2, sse, neon or ""."""
    lines = processor_lines() if lines is None else lines
    flags = set(" ".join([*_after(lines, "flags"), *_after(lines, "Features")]).split())
    return next((name for flag, name in _INSTRUCTIONS.items() if flag in flags), "")


def _after(lines: list[str], name: str) -> Iterator[str]:
    return (line.split(":", 1)[1].strip() for line in lines if line.startswith(name) and ":" in line)


def code_version() -> dict[str, str]:
    """Package version, and the commit where the package runs from its own source tree; git is called there alone."""
    from mdistill import __version__

    tree = source_tree(Path(__file__).resolve())
    return {"version": __version__, "commit": "unknown" if tree is None else _commit(tree)}


def source_tree(module: Path) -> Path | None:
    """The checkout of this package that holds this module, as `src/mdistill/ROOM/MODULE.py`.

    None where the package is installed, for example in an environment inside somebody's checkout.
    """
    source, tree = module.parents[2], module.parents[3]
    own = source.name == "src" and module.parents[1].name == "mdistill" and (tree / ".git").exists()
    try:
        return tree if own and '\nname = "mdistill"\n' in (tree / "pyproject.toml").read_text(encoding="utf-8") else None
    except (OSError, UnicodeDecodeError):
        return None


def _commit(tree: Path) -> str:
    elsewhere = {name for name in os.environ if name.startswith("GIT_")}
    try:
        done = subprocess.run(  # noqa: S603
            ["git", "-C", str(tree), "describe", "--always", "--dirty"],  # noqa: S607
            env={name: value for name, value in os.environ.items() if name not in elsewhere},
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
        return done.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
