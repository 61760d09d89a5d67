"""Run folders: who works in them, with which settings, on which machine, and which stages are done.

A stage is a subfolder. Its fingerprint covers its settings and the contents of its declared inputs; a finished stage
holds `stage.json` with the fingerprint and the sha256 of its outputs. Equal fingerprint and intact outputs: the stage
is skipped. A stage that ran under another fingerprint is set aside (`<stage>.superseded-<n>`), never deleted.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mdistill.errors import BadInput
from mdistill.io.files import read_json, sha256, write_json

STAGE_FILE, STARTED_FILE, SETTINGS_FILE, LOCK_FILE = "stage.json", "started.json", "settings.json", ".lock"


def plain(value: Any) -> Any:
    """Settings as JSON: dataclasses become objects, tuples lists, paths text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return value if isinstance(value, (str, int, float, bool)) or value is None else str(value)


def hardware() -> dict[str, Any]:
    """What a timing was measured on."""
    import psutil
    import torch

    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    return {
        "processor": _processor(),
        "cores": psutil.cpu_count(logical=False) or os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_GiB": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": gpu,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"


def code_version() -> dict[str, str]:
    """Package version, and the commit where the package runs from a git checkout."""
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


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a second process out of a run folder; a lock left by a crash is recovered.

    Raises:
        BadInput: Another live process on this machine works in the folder.
        MdistillError: The folder cannot be written.
    """
    lock = folder / LOCK_FILE
    holder = _holder(lock)
    if holder is not None:
        raise BadInput(
            folder,
            f"process {holder} is working in this run folder",
            allowed="one process per run folder",
            fix="wait for it, stop it, or choose another folder with --out",
        )
    write_json(lock, {"process": os.getpid(), "host": platform.node()})
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)


def _holder(lock: Path) -> int | None:
    import psutil

    try:
        held = json.loads(lock.read_text(encoding="utf-8"))
        process, host = int(held["process"]), held["host"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if host != platform.node():
        return process
    return process if process != os.getpid() and psutil.pid_exists(process) else None


def keep_settings(folder: Path, command: str, settings: Any, *, update: bool = False) -> None:
    """Write `settings.json` beside a run, or check that the run there has the same settings.

    Raises:
        BadInput: The folder holds a run with other settings and `update` is not set; the message shows the difference.
    """
    path = folder / SETTINGS_FILE
    new = plain(settings)
    if path.exists() and not update:
        old = read_json(path)
        changed = differences(old.get("settings", {}), new)
        if old.get("command") != command:
            changed.insert(0, f"command: {old.get('command')} → {command}")
        if changed:
            raise BadInput(
                folder,
                "holds a run with other settings:\n    " + "\n    ".join(changed),
                allowed="the same settings (the run resumes)",
                fix="choose another --out, or add --update to rerun the stages that these settings touch",
            )
        return
    write_json(path, {"command": command, "settings": new} | code_version())


def differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Changed entries as `name: old → new`."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for key in sorted(old.keys() | new.keys())
            for line in differences(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else key)
        ]
    return [] if old == new else [f"{prefix}: {old} → {new}"]


def fingerprint(settings: Any, inputs: list[Path]) -> str:
    """Hash of a stage's settings and of the contents of its input files."""
    content = {"settings": plain(settings), "inputs": {p.name: sha256(p) for p in inputs}}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def run_stage(
    folder: Path, settings: Any, inputs: list[Path], outputs: list[str], work: Callable[[], None], *, last: Any = None
) -> bool:
    """Run `work` unless the stage is already done with these settings and inputs.

    Args:
        folder: The stage's folder; an interrupted stage finds what it left there.
        settings: All settings the stage depends on; with other ones it begins in a new folder.
        inputs: Files the stage reads.
        outputs: Names of the files in `folder` that `work` must have written.
        work: Does the stage; resumes by itself from what is in the folder.
        last: Settings of nothing but what the stage does last: with other ones it goes on in its folder, and does that again.
    Returns:
        Whether work was done (False: skipped).
    """
    begun = fingerprint(settings, inputs)
    mark = begun if last is None else fingerprint([settings, last], inputs)
    if _finished(folder, mark):
        return False
    started = folder / STARTED_FILE
    if folder.exists() and (not started.exists() or read_json(started).get("fingerprint") != begun):
        _set_aside(folder)
    (folder / STAGE_FILE).unlink(missing_ok=True)
    write_json(started, {"fingerprint": begun, "settings": plain(settings)})
    begin = time.monotonic()
    work()
    hashes = {name: sha256(folder / name) for name in outputs}
    write_json(folder / STAGE_FILE, {"fingerprint": mark, "outputs": hashes, "seconds": round(time.monotonic() - begin, 2)})
    return True


def _finished(folder: Path, mark: str) -> bool:
    stamp = folder / STAGE_FILE
    if not stamp.exists():
        return False
    try:
        done = read_json(stamp)
        intact = all((folder / n).exists() and sha256(folder / n) == h for n, h in done["outputs"].items())
        return bool(done["fingerprint"] == mark and intact)
    except (BadInput, KeyError, AttributeError):
        return False


def _set_aside(folder: Path) -> None:
    number = 1
    while (target := folder.with_name(f"{folder.name}.superseded-{number}")).exists():
        number += 1
    folder.rename(target)
