"""Labelled frames on disk: an append-only folder that is readable after a kill at any moment.

Each append writes one shard (`labels-00000.npz`, plain arrays with their sha256 and the key of the append, never pickled), then
adds one line to `labels.jsonl`: {"shard", "sha256", "key", "frames", "sources", "temperatures_K", "blocks", "check"}; check is
the sha256 of the line before it. A line that is lost is made again from its shard. Shards of earlier versions have no key: one
without a line is overwritten by the next append.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mdistill.errors import BadInput, MdistillError
from mdistill.graph import make_system
from mdistill.io.arrays import DAMAGED, read_arrays
from mdistill.io.files import append_line, sha256, write_bytes, write_text
from mdistill.notices import notify
from mdistill.runs.ledger import Ledger, Work
from mdistill.types import LabelledFrame, Prediction

INDEX = "labels.jsonl"
_FIELDS = ("shard", "sha256", "key", "frames", "sources", "temperatures_K", "blocks")
_MAY_MISS = ("energy", "forces")
_STATED = ("charge", "unpaired")
_STORED = "stored"
"""Entry of the ledger with the number of shards."""


@dataclass(frozen=True, slots=True)
class LabelStore:
    """A folder of labelled frames. Every call reads the index from disk.

    Attributes:
        folder: Made by the first append.
    """

    folder: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder))

    def append(self, frames: Sequence[LabelledFrame], *, key: str = "") -> None:
        """Add frames as one shard, all or nothing.

        Args:
            frames: At least one; each a System of one struct.
            key: Names this append ("system-0/md-600/3"); an append whose key is already there does nothing, so that a
                resumed run adds nothing twice. "" for no name.
        Raises:
            BadInput: No frames.
            MdistillError: The disk is full or read-only; the store stays as it was.
        """
        if not frames:
            raise BadInput("frames", "none given", allowed="at least one labelled frame", fix="label something first")
        entries = self.index(repair=True)
        if key and any(entry["key"] == key for entry in entries):
            return
        number = 1 + max((int(entry["shard"][7:-4]) for entry in entries), default=-1)
        shard = self.folder / f"labels-{number:05d}.npz"
        buffer, arrays = io.BytesIO(), _arrays(frames) | {"key": np.frombuffer(key.encode(), dtype=np.uint8)}
        np.savez(buffer, digest=np.array(_digest(arrays)), **arrays)  # type: ignore[arg-type]
        write_bytes(shard, buffer.getvalue())
        try:
            append_line(self.folder / INDEX, _line(_entry_of(shard) or {}))
        except MdistillError:
            shard.unlink()
            raise

    def read(self, where: Callable[[LabelledFrame], bool] | None = None) -> list[LabelledFrame]:
        """All frames for which `where` is true, in the order they were added.

        Raises:
            BadInput: A shard is missing or was altered since it was written (named).
        """
        self.check()
        frames: list[LabelledFrame] = []
        for entry in self.index():
            try:
                arrays = read_arrays(self.folder / entry["shard"])
                if "key" in arrays and any(entry[name] != value for name, value in _described(arrays).items()):
                    raise ValueError(f"its entry in {INDEX} is of another content")
                frames += _frames(arrays)
            except DAMAGED as error:
                allowed, fix = "labels as mdistill writes them", "label again into another folder"
                raise BadInput(self.folder / entry["shard"], f"cannot be read ({error})", allowed=allowed, fix=fix) from error
        return frames if where is None else [frame for frame in frames if where(frame)]

    def check(self) -> None:
        """Hold every shard against its sha256.

        Raises:
            BadInput: A shard is missing or was altered since it was written (named), or the index was.
        """
        entries = self.index()
        self._tell_removed(entries)
        for entry in entries:
            shard = self.folder / entry["shard"]
            if not shard.is_file() or sha256(shard) != entry["sha256"]:
                problem = "was altered since it was written" if shard.is_file() else "is missing"
                fix = (
                    f"restore it, or label again into another folder. To lose its {entry['frames']} frames, move it away and "
                    f"remove its line from {self.folder / INDEX}"
                )
                raise BadInput(shard, problem, allowed="the file with sha256 " + entry["sha256"], fix=fix)

    def finished(self) -> None:
        """Enter the number of shards in the folder's ledger: fewer of them are noticed later."""
        Ledger(self.folder).keep(Work(key=_STORED), {"shards": len(self.index())})

    def _tell_removed(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """A notice where shards were removed together with their lines."""
        numbers = {int(entry["shard"][7:-4]) for entry in entries}
        stored = (Ledger(self.folder).entries().get(_STORED, {}).get("values") or {}).get("shards")
        most = max(stored if isinstance(stored, int) else 0, max(numbers, default=-1) + 1)
        if len(entries) < most:
            gone = most - len(entries)
            notify(f"{self.folder / INDEX}: {gone} of {most} shards were removed with their lines; their labels are not used")

    @property
    def blocks(self) -> list[int]:
        """The numbers of the blocks that hold frames, ascending."""
        return sorted({block for entry in self.index() for block in entry["blocks"]})

    @property
    def keys(self) -> set[str]:
        """The names of the appends so far."""
        return {entry["key"] for entry in self.index()} - {""}

    def __len__(self) -> int:
        return sum(entry["frames"] for entry in self.index())

    def index(self, *, repair: bool = False) -> list[dict[str, Any]]:
        """The lines of the index, one per append; lost ones are made from their shards. `repair` also writes them to the file.

        Raises:
            BadInput: A line that is not as it was written, or lost lines of shards that do not describe themselves.
        """
        path = self.folder / INDEX
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        whole, torn = text[: text.rfind("\n") + 1], text[text.rfind("\n") + 1 :]
        try:
            entries = [_entry(line) for line in whole.splitlines()]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            problem, fix = (
                f"a line is not as it was written ({error})",
                "restore the file, or remove it: it is made from the shards",
            )
            raise BadInput(path, problem, allowed="one JSON object a line", fix=fix) from error
        lost = self._lost({entry["shard"] for entry in entries})
        entries += lost
        if repair and (torn or lost):
            write_text(path, whole + "".join(_line(entry) + "\n" for entry in lost))
        return entries

    def _lost(self, known: set[str]) -> list[dict[str, Any]]:
        """Entries of shards without a line."""
        shards = [path for path in sorted(self.folder.glob("labels-*.npz")) if path.name not in known]
        own = [entry for entry in map(_entry_of, shards) if entry is not None]
        if len(shards) - len(own) > 1:
            problem = f"{len(known)} entries, but there are {len(shards)} further shards (first: {shards[0].name})"
            fix = f"restore {self.folder / INDEX}, or move those shards away"
            raise BadInput(self.folder / INDEX, problem, allowed="an entry for every shard", fix=fix)
        if len(own) > 1:  # one alone is a kill between shard and line
            notify(f"{self.folder / INDEX} had lost {len(own)} of its {len(known) + len(own)} entries: read from their shards")
        return own


def _entry_of(shard: Path) -> dict[str, Any] | None:
    """The entry of a shard, from what it holds; None for one of earlier versions, without a key.

    Raises:
        BadInput: It was altered.
    """
    try:
        arrays = read_arrays(shard)
        if "key" not in arrays:
            return None
        if str(arrays.pop("digest")) != _digest(arrays):
            raise ValueError("its sha256 differs from the one stored")
        return {"shard": shard.name, "sha256": sha256(shard)} | _described(arrays)
    except DAMAGED as error:
        problem, fix = f"is damaged, and has no entry in {INDEX} ({error})", "restore it, or move it away to lose its frames"
        raise BadInput(shard, problem, allowed="labels as mdistill writes them", fix=fix) from error


def _described(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What a shard says of itself."""
    lists = {"sources": arrays["source"], "temperatures_K": arrays["temperature_K"], "blocks": arrays["block"]}
    first = {"key": arrays["key"].tobytes().decode(), "frames": len(arrays["atoms"])}
    return first | {name: sorted(set(values.tolist())) for name, values in lists.items()}


def _line(entry: Mapping[str, Any]) -> str:
    """An entry as a line with its check."""
    body = json.dumps(entry)
    return f'{body[:-1]}, "check": "{hashlib.sha256(body.encode()).hexdigest()[:16]}"}}'


def _entry(line: str) -> dict[str, Any]:
    entry = json.loads(line)
    if re.fullmatch(r"labels-\d+\.npz", entry["shard"]) is None:
        raise ValueError(f"{entry['shard']!r} is no shard of this folder")
    fields = {name: entry[name] for name in _FIELDS}
    for name, kind in zip(_FIELDS, (str, str, str, int, list, list, list), strict=True):
        if not isinstance(fields[name], kind):
            raise ValueError(f"{name} is {fields[name]!r}")
    if set(entry) != set(_FIELDS) and line != _line(fields):
        raise ValueError("its check differs")
    return fields


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype.str} {arrays[name].shape}\n".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()


def _arrays(frames: Sequence[LabelledFrame]) -> dict[str, np.ndarray]:
    """Frames as plain arrays; atoms and probes concatenated, NaN where there is no stress or no energies of atoms."""

    def joined(tensors: Sequence[Tensor | None]) -> np.ndarray:
        return np.concatenate([np.zeros((0, 3)) if t is None else t.detach().cpu().numpy().reshape(-1, 3) for t in tensors])

    none = torch.full((1, 3, 3), torch.nan)
    return {
        "atoms": np.array([f.system.n_atoms for f in frames]),
        "probes_per_frame": np.array([0 if f.probes is None else len(f.probes) for f in frames]),
        "numbers": np.concatenate([f.system.numbers.cpu().numpy() for f in frames]),
        "positions": joined([f.system.positions for f in frames]),
        "cell": np.concatenate([f.system.cell.cpu().numpy() for f in frames]),
        "pbc": np.concatenate([f.system.pbc.cpu().numpy() for f in frames]),
        "energy": np.array([float(f.target.energy[0]) for f in frames]), "forces": joined([f.target.forces for f in frames]),
        "stress": np.concatenate([(none if f.target.stress is None else f.target.stress).cpu().numpy() for f in frames]),
        "probes": joined([f.probes for f in frames]), "products": joined([f.products for f in frames]),
        "atomic": np.concatenate([_atomic(f) for f in frames]), "source": np.array([f.source for f in frames]),
        "temperature_K": np.array([f.temperature_K for f in frames]), "block": np.array([f.block for f in frames]),
        **{f"missing_{name}": np.array([name in f.missing for f in frames]) for name in _MAY_MISS},
        **{name: values for name in _STATED if np.isfinite(values := _stated(frames, name)).any()},
    }  # fmt: skip


def _stated(frames: Sequence[LabelledFrame], name: str) -> np.ndarray:
    """The charge or number of unpaired electrons of each frame, NaN where it is not stated."""
    known = [getattr(frame.system, name) for frame in frames]
    return np.array([np.nan if one is None else float(one[0]) for one in known])


def _atomic(frame: LabelledFrame) -> np.ndarray:
    """Energies of the atoms, NaN where the teacher gave none."""
    known = frame.target.atomic
    return np.full(frame.system.n_atoms, np.nan) if known is None else known.detach().cpu().numpy().astype(np.float64)


def _frames(held: Mapping[str, np.ndarray]) -> list[LabelledFrame]:
    counts, probe_counts = held["atoms"], held["probes_per_frame"]
    first = np.concatenate([[0], np.cumsum(counts)])
    first_probe = np.concatenate([[0], np.cumsum(counts * probe_counts)])
    frames = []
    for k, n in enumerate(counts):
        atoms, rows = slice(first[k], first[k + 1]), slice(first_probe[k], first_probe[k + 1])
        probed, atomic = probe_counts[k] > 0, held["atomic"][atoms] if "atomic" in held else np.array([np.nan])
        target = Prediction(
            energy=torch.tensor([held["energy"][k]], dtype=torch.float64),
            forces=torch.tensor(held["forces"][atoms], dtype=torch.float64),
            stress=None if np.isnan(held["stress"][k]).any() else torch.tensor(held["stress"][k : k + 1], dtype=torch.float64),
            atomic=None if np.isnan(atomic).any() else torch.tensor(atomic, dtype=torch.float64),
        )
        frames.append(
            LabelledFrame(
                system=replace(
                    make_system(held["positions"][atoms], held["numbers"][atoms], held["cell"][k], held["pbc"][k]),
                    **{
                        name: torch.tensor([int(held[name][k])])
                        for name in _STATED
                        if name in held and np.isfinite(held[name][k])
                    },
                ),
                target=target,
                probes=torch.tensor(held["probes"][rows].reshape(-1, n, 3), dtype=torch.float64) if probed else None,
                products=torch.tensor(held["products"][rows].reshape(-1, n, 3), dtype=torch.float64) if probed else None,
                source=str(held["source"][k]),
                temperature_K=float(held["temperature_K"][k]),
                block=int(held["block"][k]),
                missing=frozenset(name for name in _MAY_MISS if f"missing_{name}" in held and held[f"missing_{name}"][k]),
            )
        )
    return frames
