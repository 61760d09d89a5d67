"""Labelled molecules in shards: one .npz for a few molecules, whole or absent, so that labelling resumes and memory stays small.

Arrays of a shard: count [structure] atoms, numbers [atom], positions [atom, 3] Å, forces [atom, 3] eV/Å, energy [structure] eV,
charge, unpaired, molecule, origin (an index of `conformers.ORIGINS`) and temperature_K (of displacements and MD, else 0)
[structure]. `molecules.json` beside them holds the settings and, once all is done, the totals.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from mdistill.direct.conformers import ORIGINS
from mdistill.errors import BadInput
from mdistill.io.arrays import DAMAGED, read_arrays
from mdistill.io.files import read_json, replacing
from mdistill.types import LabelledFrame, Prediction, System

MANIFEST = "molecules.json"
COLUMNS = ("count", "energy", "charge", "unpaired", "molecule", "origin", "temperature_K")
_ARRAYS = ("numbers", "positions", "forces")
_LATER = ("origin", "temperature_K")


def is_shards(path: Path) -> bool:
    """Whether a folder holds labelled molecules."""
    return (path / MANIFEST).is_file()


def shard(folder: Path, number: int) -> Path:
    """Path of a shard."""
    return folder / f"shard-{number:05d}.npz"


def write_shard(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a shard, all or nothing."""
    with replacing(path) as partial, open(partial, "wb") as handle:
        np.savez(handle, allow_pickle=False, **{name: arrays[name] for name in (*COLUMNS, *_ARRAYS)})


def read_shards(folder: Path, *, most: int | None = None) -> list[LabelledFrame]:
    """Labelled frames of all shards, or of the first ones up to `most` structures; molecules are blocks.

    Raises:
        BadInput: No shard, or a damaged one.
    """
    frames: list[LabelledFrame] = []
    for part, _ in _shards(folder):
        if most is not None and len(frames) >= most:
            break
        frames += part
    if not frames:
        raise BadInput(folder, "holds no shards", allowed="labelled molecules", fix=f"mdistill molecules --out {folder}")
    return frames[:most]


def read_folders(folders: Sequence[Path]) -> list[LabelledFrame]:
    """Labelled frames of folders; a molecule is one block, whichever of them hold it, so that it is held out from all.

    Raises:
        BadInput: As `read_shards`.
    """
    frames, blocks = list[LabelledFrame](), dict[str, int]()
    for folder in folders:
        smiles = read_json(folder / MANIFEST)["molecules"]
        for frame in read_shards(folder):
            frames.append(replace(frame, block=blocks.setdefault(smiles[frame.block], len(blocks))))
    return frames


def contents(folder: Path) -> dict[str, int]:
    """Numbers of structures, of molecules with one or more, and of structures by origin, in all shards.

    Raises:
        BadInput: A damaged shard.
    """
    molecules, structures, origins = set[int](), 0, Counter[str]()
    for part, made in _shards(folder):
        molecules |= {frame.block for frame in part}
        structures += len(part)
        origins.update(made)
    return {"structures": structures, "molecules": len(molecules)} | dict(origins)


def _shards(folder: Path) -> Iterator[tuple[list[LabelledFrame], list[str]]]:
    """Frames of every shard, and the origin of each; no origins in shards of earlier versions."""
    for path in sorted(folder.glob("shard-*.npz")):
        try:
            arrays = read_arrays(path)
            yield _frames(arrays), [ORIGINS[k] for k in arrays.get("origin", ())]
        except DAMAGED as error:
            problem, fix = f"is damaged ({error})", "remove it and run `mdistill molecules` again with the same flags"
            raise BadInput(path, problem, allowed="a shard of labelled molecules", fix=fix) from error


def _frames(arrays: Mapping[str, np.ndarray]) -> list[LabelledFrame]:
    held = {name: torch.from_numpy(arrays[name]) for name in (*COLUMNS, *_ARRAYS) if name not in _LATER}
    ends = held["count"].cumsum(0).tolist()
    frames = []
    for k, (end, n) in enumerate(zip(ends, held["count"].tolist(), strict=True)):
        system = System(
            positions=held["positions"][end - n : end].double(), numbers=held["numbers"][end - n : end].long(),
            cell=torch.zeros(1, 3, 3, dtype=torch.float64), pbc=torch.zeros(1, 3, dtype=torch.bool),
            owner=torch.zeros(n, dtype=torch.int64), charge=held["charge"][k : k + 1].long(),
            unpaired=held["unpaired"][k : k + 1].long(),
        )  # fmt: skip
        target = Prediction(energy=held["energy"][k : k + 1].double(), forces=held["forces"][end - n : end].double())
        frames.append(LabelledFrame(system=system, target=target, source="molecules", block=int(held["molecule"][k])))
    return frames
