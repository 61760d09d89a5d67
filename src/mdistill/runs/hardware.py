"""Machine, instruction set, package version and commit of a measurement."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_INSTRUCTIONS = {"avx512f": "avx512", "avx2": "avx2", "sse2": "sse", "asimd": "neon", "neon": "neon"}


def hardware() -> dict[str, Any]:
    """Hardware of a timing."""
    import psutil
    import torch

    return {
        "processor": next(_after(_processor_lines(), "model name"), platform.processor() or "unknown"),
        "instructions": instructions(), "cores": psutil.cpu_count(logical=False) or os.cpu_count(),
        "threads": torch.get_num_threads(), "memory_GiB": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.machine()}", "python": platform.python_version(),
        "torch": str(torch.__version__),
    }  # fmt: skip


def instructions(lines: list[str] | None = None) -> str:
    """The widest vector instructions named in /proc/cpuinfo: avx512, avx2, sse, neon or ""."""
    lines = _processor_lines() if lines is None else lines
    flags = set(" ".join([*_after(lines, "flags"), *_after(lines, "Features")]).split())
    return next((name for flag, name in _INSTRUCTIONS.items() if flag in flags), "")


def _processor_lines() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def _after(lines: list[str], name: str) -> Iterator[str]:
    return (line.split(":", 1)[1].strip() for line in lines if line.startswith(name) and ":" in line)


def code_version() -> dict[str, str]:
    """Package version, and in a git checkout the commit."""
    from mdistill import __version__

    try:
        done = subprocess.run(  # noqa: S603
            ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"],  # noqa: S607
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
        return {"version": __version__, "commit": done.stdout.strip()}
    except (OSError, subprocess.SubprocessError):
        return {"version": __version__, "commit": "unknown"}
