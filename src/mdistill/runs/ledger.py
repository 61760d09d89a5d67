"""`ledger.json`, one in every work folder: its pieces of work with their settings, inputs and outputs.

Schema (format 1): {format, work: {key: entry}}. An entry is one piece of work, such as a stage, a simulation, a training.

    settings   all settings that affect its result      last      settings of its last part only
    inputs     name → sha256 of its input               models    part → sha256 of the weights of its potentials
    version    of the package                           state     "begun", "done" or "kept" (in its values)
    outputs    name → sha256 of its files               seconds, values: its time, and small results

Work with the same settings, inputs, models and version is the same work: it resumes, or is skipped if it is done. Identity is by
content, not by path, so a folder can be moved.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mdistill import __version__
from mdistill.errors import BadInput
from mdistill.io.files import read_json, sha256, write_json
from mdistill.runs.earlier import earlier_entries
from mdistill.runs.sealed import sealed, unsealed
from mdistill.settings import to_json

LEDGER, FORMAT = "ledger.json", 1
BEGUN = "begun"
"""State of work that is not finished."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One piece of work, before it is done.

    Attributes:
        key: Its name in its folder.
        settings: All settings that affect its result: a settings class, or a mapping of them by name.
        inputs: sha256 of its inputs, by name (`identity.contents` for files). Of several, the first is entered, and entries with
            another, by an earlier definition, are of the same work.
        models: Identity of its potentials, by their part in it (`identity.model_id`).
        last: Settings of its last part only; where only they differ, that part runs again.
    """

    key: str
    settings: Any = None
    inputs: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    models: Mapping[str, str] = field(default_factory=dict)
    last: Any = None

    def identity(self) -> dict[str, Any]:
        """Identity of the work, as JSON."""
        inputs = {name: one if isinstance(one, str) else one[0] for name, one in self.inputs.items()}
        content = {"settings": self.settings or {}, "inputs": inputs, "models": self.models}
        return to_json(content) | {"version": __version__}

    def fingerprint(self) -> str:
        """sha256 of its identity."""
        return hashlib.sha256(json.dumps([self.key, self.identity()], sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Ledger:
    """The ledger of one folder."""

    folder: Path

    def entries(self) -> dict[str, dict[str, Any]]:
        """All entries by key, also of folders of earlier versions; empty without any.

        Raises:
            BadInput: A ledger that cannot be read.
        """
        path = self.folder / LEDGER
        if not path.exists():
            return earlier_entries(self.folder)
        raw = unsealed(path, read_json(path))
        if not isinstance(raw, dict) or raw.get("format") != FORMAT or not isinstance(raw.get("work"), dict):
            raise BadInput(path, "is no ledger of this version", allowed=f"format {FORMAT}", fix="choose another --out")
        for key, entry in raw["work"].items():
            if not _is_entry(entry):
                problem, allowed = f"its entry {key!r} cannot be read", "entries as mdistill writes them"
                raise BadInput(path, problem, allowed=allowed, fix="restore the file, or choose another --out")
        return dict(raw["work"])

    def differences(self, work: Work, *, may_change: Collection[str] = ()) -> list[str] | None:
        """Differences of the entry of this key, as `name: there → now`; None without an entry.

        Args:
            work: The work to do now.
            may_change: Names of settings that are not compared; "version" for that of the package.
        """
        entry = self.entries().get(work.key)
        if entry is None:
            return None
        now = work.identity()
        there: dict[str, Any] = {name: entry.get(name) for name in now}
        for part in (there, now):
            part["settings"] = {k: v for k, v in part["settings"].items() if k not in may_change}
            part["version"] = "" if "version" in may_change else part["version"]
        same = {name: now["inputs"][name] for name, one in (there["inputs"] or {}).items() if one in work.inputs.get(name, ())}
        there["inputs"] = {**(there["inputs"] or {}), **same}
        return [line.removeprefix("settings.") for line in differences(there, now)]

    def begun(self, work: Work, *, holds: str, may_change: Collection[str] = (), files: Collection[str] = ()) -> bool:
        """Whether this work began here and can resume.

        Args:
            work: The work to do now.
            holds: Content of the folder, for the message ("labels", "a simulation").
            may_change: As for `differences`.
            files: Patterns of files of the work; without an entry none of them may exist.
        Raises:
            BadInput: The folder holds other work of this key (the message lists the differences), or files without an entry.
        """
        changed = self.differences(work, may_change=may_change)
        if changed:
            problem = f"holds {holds} with other settings or inputs:\n    " + "\n    ".join(changed)
            raise BadInput(self.folder, problem, allowed="the same ones (the work resumes)", fix="choose another --out")
        strange = sorted(path.name for pattern in files for path in self.folder.glob(pattern)) if changed is None else []
        if strange:
            problem, fix = f"holds {', '.join(strange)}, but no {LEDGER} with their settings", "choose another --out"
            raise BadInput(self.folder, problem, allowed=f"{holds} of this version of mdistill, or an empty folder", fix=fix)
        return changed is not None

    def resumes(self, work: Work, *, holds: str, may_change: Collection[str] = (), files: Collection[str] = ()) -> bool:
        """As `begun`; new work is entered now."""
        known = self.begun(work, holds=holds, may_change=may_change, files=files)
        if not known:
            self.begin(work)
        return known

    def begin(self, work: Work) -> None:
        """Enter work as begun; its earlier entry is removed."""
        self._enter(work, {"state": BEGUN})

    def finish(self, work: Work, outputs: Collection[str] = (), *, seconds: float = 0.0) -> None:
        """Enter work as done, with the sha256 of its output files (names in the folder)."""
        hashes = {name: sha256(self.folder / name) for name in outputs}
        self._enter(work, {"state": "done", "outputs": hashes, "seconds": round(seconds, 2)})

    def is_done(self, work: Work) -> bool:
        """Whether this work is done and its outputs are intact."""
        entry = self.entries().get(work.key)
        if entry is None or entry.get("state") != "done" or self.differences(work) or entry.get("last") != to_json(work.last):
            return False
        return all((self.folder / n).is_file() and sha256(self.folder / n) == h for n, h in entry["outputs"].items())

    def check_outputs(self, key: str) -> None:
        """Compare the output files of finished work with their sha256.

        Raises:
            BadInput: One is missing or was altered since (named).
        """
        entry = self.entries().get(key, {}) if (self.folder / LEDGER).exists() else {}
        for name, digest in (entry.get("outputs") or {}).items():
            path = self.folder / name
            if not path.is_file() or sha256(path) != digest:
                problem = "was altered since its run finished" if path.is_file() else "is missing, though its run finished"
                raise BadInput(
                    path, problem, allowed=f"the file with sha256 {digest}", fix="restore it, or run again with another --out"
                )

    def kept(self, work: Work) -> dict[str, Any] | None:
        """Small results of this work, as JSON; None where the ledger has none."""
        entry = self.entries().get(work.key)
        return dict(entry["values"]) if entry is not None and entry["state"] == "kept" and not self.differences(work) else None

    def keep(self, work: Work, values: Any) -> None:
        """Enter small results of work."""
        self._enter(work, {"state": "kept", "values": to_json(values)})

    def _enter(self, work: Work, state: dict[str, Any]) -> None:
        entries, entry = self.entries(), work.identity() | {"last": to_json(work.last)} | state
        if entries.get(work.key) != entry:
            write_json(self.folder / LEDGER, sealed({"format": FORMAT, "work": entries | {work.key: entry}}))


def _is_entry(entry: Any) -> bool:
    """Whether the parts of an entry have their types; parts may be missing."""
    kinds = {"settings": dict, "inputs": dict, "models": dict, "outputs": dict, "state": str}
    return isinstance(entry, dict) and all(isinstance(entry.get(name) or kind(), kind) for name, kind in kinds.items())


def differences(old: Any, new: Any) -> list[str]:
    """Changed entries as `name: old → new`."""
    there, now = flat(old), flat(new)
    return [f"{k}: {there.get(k)} → {now.get(k)}" for k in sorted(there | now) if there.get(k) != now.get(k)]


def flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted names."""
    if not isinstance(values, Mapping):
        return {prefix: values}
    return {k: v for name, inner in values.items() for k, v in flat(inner, f"{prefix}.{name}".lstrip(".")).items()}
