"""The files of LiFlow's universal set: molecular dynamics of lithium compounds with MACE-MP-0 at four temperatures.

    lattice.npy, atomic_numbers.npy    pickled dictionaries: name → [3, 3] Å, rows are vectors; name → [atom]
    positions_600K.npz, _800K, …       name → [frame, atom, 3] Å, not wrapped, a frame every 10 fs (100 of them are 1 ps there)

This layout is that of README, `liflow/data/dataset.py` and `liflow/utils/analysis.py` of github.com/learningmatter-mit/liflow;
the data: doi 10.5281/zenodo.14889658. The CSV files beside them are not needed.
"""

from __future__ import annotations

import codecs
import io
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from mdistill.errors import BadInput
from mdistill.io.arrays import DAMAGED, npy_header, read_member

SPACING_FS = 10.0
"""Time between frames, fs."""
_LAST = 118
"""Largest atomic number."""
_AGAIN = "download the archive again"
_DAMAGED = (*DAMAGED, pickle.UnpicklingError, AttributeError, IndexError)
_PLAIN: dict[str, Any] = {
    "ndarray": np.ndarray, "dtype": np.dtype, "encode": codecs.encode, "_reconstruct": np.zeros(1).__reduce__()[0],
    "scalar": np.float64(0.0).__reduce__()[0], "_frombuffer": np.zeros(1).__reduce_ex__(5)[0],  # type: ignore[index]
}  # fmt: skip
"""What a pickle may ask for: arrays and numbers of numpy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiFlowFiles:
    """Lattices and atomic numbers by name, and open archives of trajectories by temperature (K)."""

    lattices: Mapping[str, Any]
    numbers: Mapping[str, Any]
    archives: Mapping[float, zipfile.ZipFile]

    @property
    def names(self) -> list[str]:
        return sorted(self.lattices.keys() | self.numbers.keys())

    def structure(self, name: str) -> tuple[Int[np.ndarray, " atom"], Float[np.ndarray, "3 3"]]:
        """Atomic numbers and cell (Å).

        Raises:
            BadInput: Missing, or something else.
        """
        cell, numbers = np.asarray(self.lattices.get(name)), np.asarray(self.numbers.get(name))
        whole = numbers.ndim == 1 and numbers.dtype.kind in "iu" and len(numbers) > 0
        if cell.shape != (3, 3) or cell.dtype.kind not in "iuf" or not whole or numbers.min() < 1 or numbers.max() > _LAST:
            problem = f"lattice {cell.dtype}{list(cell.shape)}, atomic numbers {numbers.tolist()}"[:120]
            raise BadInput(name, problem, allowed=f"[3, 3] numbers, and atomic numbers from 1 to {_LAST}", fix=_AGAIN)
        return numbers.astype(np.int64), cell.astype(np.float64)

    def positions(self, name: str, kelvin: float) -> Float[np.ndarray, "frame atom 3"]:
        """All frames of a trajectory, Å, as they are stored.

        Raises:
            BadInput: No such trajectory, damaged, of other atoms, or not finite.
        """
        archive, atoms = self.archives[kelvin], len(self.structure(name)[0])
        subject = f"{archive.filename}: {name}"
        try:
            found = read_member(archive, name)
        except KeyError as error:
            allowed = "a trajectory at each of --make.temperatures"
            raise BadInput(subject, f"no trajectory at {kelvin:g} K", allowed=allowed, fix="other temperatures") from error
        except DAMAGED as error:
            raise _broken(subject, error, f"the trajectory at {kelvin:g} K ") from error
        if found.dtype.kind != "f" or found.shape[1:] != (atoms, 3) or not np.isfinite(found).all():
            problem = f"positions at {kelvin:g} K are {found.dtype}{list(found.shape)}, or not finite"
            raise BadInput(subject, problem, allowed=f"finite numbers [frame, {atoms}, 3]", fix=_AGAIN)
        return found.astype(np.float64)


def open_liflow(place: Path, temperatures_K: Sequence[float]) -> LiFlowFiles:
    """The files of a folder; trajectories are read one by one.

    Raises:
        BadInput: A file is missing or damaged.
    """
    archives = dict[float, zipfile.ZipFile]()
    for kelvin in temperatures_K:
        path = place / f"positions_{kelvin:g}K.npz"
        try:
            archives[kelvin] = zipfile.ZipFile(path)
        except FileNotFoundError as error:
            allowed, fix = "a file for each of --make.temperatures", "unpack the whole archive, or choose other temperatures"
            raise BadInput(path, "no such file", allowed=allowed, fix=fix) from error
        except DAMAGED as error:
            raise _broken(path, error) from error
    lattices, numbers = (_dictionary(place / f"{name}.npy") for name in ("lattice", "atomic_numbers"))
    return LiFlowFiles(lattices=lattices, numbers=numbers, archives=archives)


def _dictionary(path: Path) -> dict[str, Any]:
    """A dictionary that numpy pickled. Of classes, numpy's arrays alone are made: no code of the file runs."""
    try:
        content = path.read_bytes()
        held = _Arrays(io.BytesIO(content[npy_header(content)[1] :])).load()
        found = held.item() if isinstance(held, np.ndarray) else held
    except _DAMAGED as error:
        raise _broken(path, error) from error
    if not isinstance(found, dict) or not found or not all(isinstance(name, str) for name in found):
        raise BadInput(path, f"holds a {type(found).__name__}", allowed="a dictionary by name of structure", fix=_AGAIN)
    return found


class _Arrays(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] in ("numpy", "_codecs") and name in _PLAIN:
            return _PLAIN[name]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _broken(subject: object, error: BaseException, what: str = "") -> BadInput:
    told = str(error)[:120] or type(error).__name__
    return BadInput(subject, f"{what}cannot be read ({told})", allowed="the files as published", fix=_AGAIN)
