"""Run folders: which settings they belong to, and stages, each a subfolder, that are done once.

A stage's ledger records its settings and inputs. The same work with intact outputs is skipped; interrupted work resumes in its
folder; a stage of other work is renamed `<stage>.superseded-<n>`, never deleted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from mdistill.errors import BadInput
from mdistill.runs.earlier import SETTINGS
from mdistill.runs.ledger import LEDGER, Ledger, Work
from mdistill.settings import to_json

COMMAND = "command"
"""Key of the entry that holds a run's command and settings."""


def keep_settings(
    folder: Path, command: str, settings: Any, *, inputs: Mapping[str, str] | None = None, paths: Collection[str] = (),
    update: bool | None = None,
) -> None:  # fmt: skip
    """Enter a run's settings in its ledger, or check that the run there has the same.

    Args:
        folder: The run folder.
        command: Name of the command, without "mdistill".
        settings: All its settings.
        inputs: sha256 of its inputs, by name.
        paths: Names of settings that are paths of inputs; they may change.
        update: Whether other settings are allowed; None where the command has no --update.
    Raises:
        BadInput: The folder holds a run with other settings (the message shows the difference), or one of an earlier version.
    """
    instead = "choose another --out" + (
        "" if update is None else ", or add --update to rerun the stages that these settings affect"
    )
    if not update and not (folder / LEDGER).exists() and (folder / SETTINGS).exists():
        problem = "holds a run of an earlier version of mdistill, whose stages cannot be resumed"
        fix = instead.replace("the stages that these settings affect", "all stages (the old ones are set aside)")
        raise BadInput(folder, problem, allowed=f"a run folder with a {LEDGER}", fix=fix)
    ledger, work = Ledger(folder), Work(key=COMMAND, settings={COMMAND: command} | to_json(settings), inputs=inputs or {})
    changed = None if update else ledger.differences(work, may_change=paths)
    if changed:
        problem = "holds a run with other settings:\n    " + "\n    ".join(changed)
        raise BadInput(folder, problem, allowed="the same settings (the run resumes)", fix=instead)
    ledger.begin(work)


def run_settings(folder: Path) -> dict[str, Any]:
    """Command and settings of a folder; empty without work."""
    entries = Ledger(folder).entries()
    return dict(next(iter([e for e in (entries.get(COMMAND), *entries.values()) if e]), {"settings": {}})["settings"])


def stages(folder: Path) -> dict[str, dict[str, Any]]:
    """Ledger entries of a run's stages by name, without superseded ones."""
    folders = sorted(path for path in folder.glob("*") if path.is_dir() and ".superseded-" not in path.name)
    entries = {path.name: Ledger(path).entries().get(path.name) for path in folders}
    return {name: entry for name, entry in entries.items() if entry is not None}


def run_stage(folder: Path, work: Work, outputs: Collection[str], act: Callable[[], object]) -> bool:
    """Do the work of a stage unless it is done.

    Args:
        folder: Folder of the stage, also for resuming.
        work: Settings, inputs and models. Other ones start in a new folder.
        outputs: Names of the files in `folder` that `act` must have written.
        act: Does the work, or resumes it from the folder.
    Returns:
        Whether work was done (False: skipped).
    """
    ledger = Ledger(folder)
    if ledger.is_done(work):
        return False
    if folder.exists() and any(folder.iterdir()) and ledger.differences(work) != []:
        set_aside(folder)
    ledger.begin(work)
    begin = time.monotonic()
    act()
    ledger.finish(work, outputs, seconds=time.monotonic() - begin)
    return True


def set_aside(folder: Path) -> None:
    """Rename the folder of a stage to `<stage>.superseded-<n>`."""
    number = 1
    while (target := folder.with_name(f"{folder.name}.superseded-{number}")).exists():
        number += 1
    folder.rename(target)
