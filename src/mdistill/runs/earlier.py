"""Folders and results of commit ca4b391 in today's form. There each kind of work had its own ledger file, and rungs, headlines
and sections follow from headings and names.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mdistill.errors import BadInput
from mdistill.io.files import read_json

SETTINGS = "settings.json"
_VERSION = "0.1.0"
_ROLES = {"potential": "model", "stride": "stride"}
_QUANTITIES = {
    "stride_speed_up": r"^stride_speed_?up",
    "speed_up": r"^speed_?up|_speed_?up",
    "conductivity": r"^(?:ionic_)?(?:conductivity|sigma)",
    "diffusivity": r"^(?:tracer_)?(?:diffusivity|diffusion)",
    "activation_energy": r"^activation_energy",
}
_TEMPERATURE = re.compile(r"(\d+(?:\.\d+)?)_?K(?:_|$)")
_ROLE = re.compile(r"\b(teacher|student|reference)\b", re.IGNORECASE)
_FIT, _LIMIT = re.compile(r"\bfit\b.*", re.IGNORECASE), re.compile(r"(95 % )?upper limit|below detection", re.IGNORECASE)
_RENAMED = {"save_every_fs": "every_fs", "spacing_fs": "every_fs", "force_cap": "largest_force", "fmax": "largest_force"}
"""Settings that have another name today."""
_SECTIONS = {"strides": "stride", "vibrations": "vibrations "}
"""Prefixes of values and gates of a section."""


def earlier_entries(folder: Path) -> dict[str, dict[str, Any]]:
    """Entries of a folder without a ledger: its command, stage or simulation; none where it holds none of them.

    Raises:
        BadInput: A file of settings that is not as an earlier version wrote it.
    """
    try:
        return _entries(folder)
    except (AttributeError, KeyError, TypeError) as error:
        allowed, fix = "settings as an earlier version of mdistill wrote them", "restore its .json files, or choose another --out"
        raise BadInput(folder, f"its settings cannot be read ({error})", allowed=allowed, fix=fix) from error


def _entries(folder: Path) -> dict[str, dict[str, Any]]:
    entries = {}
    if (folder / SETTINGS).is_file():
        raw = read_json(folder / SETTINGS)
        entries["command"] = _entry({"command": raw.get("command", "")} | raw.get("settings", {}))
    if (folder / "started.json").is_file():
        done = read_json(folder / "stage.json") if (folder / "stage.json").is_file() else {}
        state = {"state": "done", "outputs": done["outputs"], "seconds": done["seconds"]} if done else {}
        entries[folder.name] = _entry({"settings": read_json(folder / "started.json").get("settings")}) | state
    if (folder / "run.json").is_file():
        raw = read_json(folder / "run.json")
        models = {role: raw[f"{name}_sha256"] or raw[name] for role, name in _ROLES.items() if name in raw}
        entries["simulation"] = _entry(raw["settings"]) | {"inputs": {"structure": raw["structure_sha256"]}, "models": models}
    return entries


def _entry(settings: dict[str, Any]) -> dict[str, Any]:
    settings = {_RENAMED.get(name, name): value for name, value in settings.items()}
    return {"settings": settings, "inputs": {}, "models": {}, "version": _VERSION, "last": None, "state": "begun"}


def upgraded_results(raw: dict[str, Any]) -> dict[str, Any]:
    """`results.json` of format 1 as one of format 2, both as JSON."""
    ladder = next((table for table in raw["tables"] if table["section"] == "ladder" and table["rows"]), None)
    tables = [table for table in raw["tables"] if table is not ladder]
    sections = []
    for name, prefix in _SECTIONS.items():
        parts = {part: [one["name"] for one in raw[part] if one["section"] == name] for part in ("tables", "figures")}
        values = [value for value in raw["values"] if value.startswith(prefix)]
        gates = [gate["name"] for gate in raw["gates"] if gate["name"].startswith(prefix)]
        sections += [{"name": name, "values": values, "gates": gates} | parts] if any(parts.values()) else []
    if any(table["name"] == "front" for table in tables):
        values = [name for name in raw["values"] if name.startswith("front ")]
        sections.append({"name": "front", "values": values, "gates": [], "tables": ["front"], "figures": ["front"]})
    rungs = [] if ladder is None else _rungs(ladder)
    figures = [figure | {"series": _series(figure["series"])} for figure in raw["figures"]]
    upgraded = {
        "tables": tables,
        "figures": figures,
        "rungs": rungs,
        "sections": sections,
        "headlines": _headlines(raw["values"]),
    }
    return raw | upgraded


def _series(series: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Series with their subjects: labels without the words for source and kind."""
    subjects: list[str] = []
    for one in series:
        about = _LIMIT.sub("", _FIT.sub("", one["label"]))
        words = [re.sub(r"\W+", " ", text).strip() for text in (_ROLE.sub("", about), about)]
        subjects.append(words[0] or words[1] or subjects[0])
    return [
        one | {"subject": subject, "limit": bool(_LIMIT.search(one["label"]))}
        for one, subject in zip(series, subjects, strict=True)
    ]


def _headlines(values: dict[str, Any]) -> list[dict[str, Any]]:
    headlines = []
    for name in values:
        quantity = next((q for q, pattern in _QUANTITIES.items() if re.search(pattern, name)), None)
        if quantity is not None:
            at = _TEMPERATURE.search(name)
            headlines.append({"quantity": quantity, "value": name, "temperature_K": float(at.group(1)) if at else None})
    return headlines


def _rungs(table: dict[str, Any]) -> list[dict[str, Any]]:
    """The rungs of a ladder table, from its headings."""
    rungs = []
    for number, row in enumerate(table["rows"]):
        rung: dict[str, Any] = {"kind": ("teacher", "potential", "stride")[min(number, 2)], "name": str(row[0]), "errors": {}}
        rung |= {"cost": None, "speed_up": None, "note": table["caption"] if number == 1 else "", "command": "", "model": ""}
        for heading, cell in zip(table["columns"][1:], row[1:], strict=True):
            part = "cost" if "/step" in heading else "speed_up" if "speed" in heading else ""
            name, _, unit = heading.partition(" (")
            number_alone = {"value": cell, "error": None, "unit": ""} if isinstance(cell, (int, float)) else cell
            if part:
                rung[part] = number_alone
            elif number_alone is not None:
                rung["errors"][name] = number_alone | {"unit": unit.removesuffix(")")}
        rungs.append(rung)
    return rungs
