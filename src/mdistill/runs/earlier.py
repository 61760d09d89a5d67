"""What commit ca4b391 left in folders, as ledger entries. There each kind of work had a file of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mdistill.io.files import read_json

SETTINGS = "settings.json"
_VERSION = "0.1.0"
_ROLES = {"potential": "model", "stride": "stride"}


def earlier_entries(folder: Path) -> dict[str, dict[str, Any]]:
    """Entries of a folder without a ledger: its command, stage or simulation; none where it holds none of them."""
    found = {}
    if (folder / SETTINGS).is_file():
        raw = read_json(folder / SETTINGS)
        found["command"] = _entry({"command": raw.get("command", "")} | raw.get("settings", {}))
    if (folder / "started.json").is_file():
        done = read_json(folder / "stage.json") if (folder / "stage.json").is_file() else {}
        state = {"state": "done", "outputs": done["outputs"], "seconds": done["seconds"]} if done else {}
        found[folder.name] = _entry({"settings": read_json(folder / "started.json").get("settings")}) | state
    if (folder / "run.json").is_file():
        raw = read_json(folder / "run.json")
        models = {role: raw[f"{name}_sha256"] or raw[name] for role, name in _ROLES.items() if name in raw}
        found["simulation"] = _entry(raw["settings"]) | {"inputs": {"structure": raw["structure_sha256"]}, "models": models}
    return found


def _entry(settings: dict[str, Any]) -> dict[str, Any]:
    return {"settings": settings, "inputs": {}, "models": {}, "version": _VERSION, "last": None, "state": "begun"}
