"""Labelled frames on disk: an append-only folder that is readable after a kill at any moment.

Each append writes one shard (`labels-00000.npz`, plain arrays, never pickled), flushes it, and only then adds one line
to `labels.jsonl`: {"shard", "sha256", "key", "frames", "sources", "temperatures_K", "blocks"}. What has no line does not
exist: a shard left behind by a kill is overwritten by the next append, and a torn last line is ignored and removed.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mdistill.errors import BadInput
from mdistill.graph import make_system
from mdistill.io.files import append_line, sha256, write_bytes, write_text
from mdistill.types import LabelledFrame, Prediction

INDEX = "labels.jsonl"


@dataclass(frozen=True, slots=True)
class LabelStore:
    """A folder of labelled frames. Every call reads the index from disk.

    Attributes:
        folder: Made by the first append.
    """

    folder: Path

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
        buffer = io.BytesIO()
        np.savez(buffer, **_arrays(frames))  # type: ignore[arg-type]
        write_bytes(shard, buffer.getvalue())
        entry = {
            "shard": shard.name, "sha256": sha256(shard), "key": key, "frames": len(frames),
            "sources": sorted({frame.source for frame in frames}),
            "temperatures_K": sorted({frame.temperature_K for frame in frames}),
            "blocks": sorted({frame.block for frame in frames}),
        }  # fmt: skip
        append_line(self.folder / INDEX, json.dumps(entry))

    def read(self, where: Callable[[LabelledFrame], bool] | None = None) -> list[LabelledFrame]:
        """All frames for which `where` is true, in the order they were added.

        Raises:
            BadInput: A shard is missing or was altered since it was written (named).
        """
        self.check()
        frames: list[LabelledFrame] = []
        for entry in self.index():
            with np.load(self.folder / entry["shard"], allow_pickle=False) as arrays:
                frames += _frames(arrays)
        return frames if where is None else [frame for frame in frames if where(frame)]

    def check(self) -> None:
        """Hold every shard against its sha256.

        Raises:
            BadInput: A shard is missing or was altered since it was written (named), or the index was.
        """
        for entry in self.index():
            shard = self.folder / entry["shard"]
            if not shard.is_file() or sha256(shard) != entry["sha256"]:
                problem = "was altered since it was written" if shard.is_file() else "is missing"
                fix = f"restore it, or remove its line from {self.folder / INDEX} to lose its {entry['frames']} frames only"
                raise BadInput(shard, problem, allowed="the file with sha256 " + entry["sha256"], fix=fix)

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
        """The lines of the index, one per append; `repair` also removes a torn last line from the file.

        Raises:
            BadInput: A line that is not as it was written.
        """
        path = self.folder / INDEX
        if not path.is_file():
            return []
        text = path.read_text(encoding="utf-8", errors="replace")
        whole, torn = text[: text.rfind("\n") + 1], text[text.rfind("\n") + 1 :]
        if repair and torn:
            write_text(path, whole)
        try:
            return [_entry(line) for line in whole.splitlines()]
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput(
                path, f"a line is not as it was written ({error})", allowed="one JSON object a line", fix="restore the file"
            ) from error


def _entry(line: str) -> dict[str, Any]:
    entry = json.loads(line)
    if re.fullmatch(r"labels-\d+\.npz", entry["shard"]) is None:
        raise ValueError(f"{entry['shard']!r} is no shard of this folder")
    return {k: entry[k] for k in ("shard", "sha256", "key", "frames", "sources", "temperatures_K", "blocks")}


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
    }  # fmt: skip


def _atomic(frame: LabelledFrame) -> np.ndarray:
    """Energies of the atoms, NaN where the teacher gave none."""
    known = frame.target.atomic
    return np.full(frame.system.n_atoms, np.nan) if known is None else known.detach().cpu().numpy().astype(np.float64)


def _frames(arrays: Any) -> list[LabelledFrame]:
    held = {name: arrays[name] for name in arrays.files}
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
                system=make_system(held["positions"][atoms], held["numbers"][atoms], held["cell"][k], held["pbc"][k]),
                target=target,
                probes=torch.tensor(held["probes"][rows].reshape(-1, n, 3), dtype=torch.float64) if probed else None,
                products=torch.tensor(held["products"][rows].reshape(-1, n, 3), dtype=torch.float64) if probed else None,
                source=str(held["source"][k]),
                temperature_K=float(held["temperature_K"][k]),
                block=int(held["block"][k]),
            )
        )
    return frames
