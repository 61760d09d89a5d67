"""The trajectory set: what teaching needs of each crystal, in one small file to which one crystal at a time is added.

An npz of plain arrays (no pickle), compressed; members are named KEY/FIELD, KEY from the sha256 of the crystal. Raw trajectories
are not kept: the same command makes them again.
"""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from mdistill.errors import BadInput
from mdistill.io.arrays import DAMAGED, read_arrays
from mdistill.io.files import write_bytes

FORCE_GATE = "force gate"
"""Flag of a temperature at which the teacher's forces on frames of the trajectory differ by more than the gate allows."""
_ABOUT = "about"
_NEEDED = ("formula", "mobile", "flags", "gate_passed")
_BY_TEMPERATURE = ("log_msd", "log_msd_error", "msd", "diffusivity", "error", "limit", "slope")
_SHORT = {"features": np.float16, "spectra": np.float16, "positions": np.float32, "cell": np.float32, "numbers": np.uint8,
          "kind": np.int16, "msd": np.float32}  # fmt: skip
"""Types on disk; others as they are."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CrystalRecord:
    """One crystal: features of its ions, and its motion at each temperature.

    Attributes:
        key: Begin of the sha256 of the crystal, and its mobile ion.
        about: formula, source, mobile (symbol), gates and flags of the best student by temperature, gate_passed (at any), log10
            MSD and force errors of all students, provenance.
        numbers, positions, cell: The ordered supercell before relaxation; Å.
        features: Invariant features of each kind of ion (`ion_features`).
        kind: Kind of each ion, in the order of the atoms.
        physics: Numbers of the network of ion sites (`ion_network`).
        temperatures_K: Temperatures.
        spectra: `displacement_spectra`; NaN where the dynamics broke, and where only D is known.
        log_msd: log10 of the mean square displacement at `lag_ps`, Å²; the mean over the students that passed.
        log_msd_error: Its standard error from their scatter; NaN where fewer than two passed.
        lags_ps, msd: Mean square displacement (Å²) at lags.
        diffusivity, error, limit: Tracer D and its standard error, or its upper limit, cm²/s; NaN for the other.
        slope: d ln MSD / d ln τ at the longest lags.
    """

    key: str
    about: dict[str, Any]
    numbers: Int[np.ndarray, " atom"]
    positions: Float[np.ndarray, "atom 3"]
    cell: Float[np.ndarray, "3 3"]
    features: Float[np.ndarray, "kind feature"]
    kind: Int[np.ndarray, " ion"]
    physics: Float[np.ndarray, " number"]
    temperatures_K: Float[np.ndarray, " temperature"]
    spectra: Float[np.ndarray, "temperature ion bin"]
    log_msd: Float[np.ndarray, " temperature"]
    log_msd_error: Float[np.ndarray, " temperature"]
    lags_ps: Float[np.ndarray, " lag"]
    msd: Float[np.ndarray, "temperature lag"]
    diffusivity: Float[np.ndarray, " temperature"]
    error: Float[np.ndarray, " temperature"]
    limit: Float[np.ndarray, " temperature"]
    slope: Float[np.ndarray, " temperature"]

    @property
    def usable(self) -> Bool[np.ndarray, " temperature"]:
        """Temperatures with a label that can teach: neither melted, drifted nor broken, and the force gate passed there."""
        flags = self.about["flags"]
        clean = teaches([flags.get(f"{kelvin:g}", ()) for kelvin in self.temperatures_K])
        known = np.isfinite(self.log_msd) | np.isfinite(self.diffusivity)
        return clean & known & bool(self.about["gate_passed"])

    @property
    def followed(self) -> bool:
        """Whether every temperature that can teach has a trajectory; of a set of structures with D none has."""
        return bool(np.isfinite(self.spectra[self.usable]).all())

    @property
    def diffusing(self) -> Bool[np.ndarray, " temperature"]:
        """Temperatures at which D has a value, not only an upper limit."""
        return np.isfinite(self.diffusivity)


def teaches(flags: Iterable[Collection[str]]) -> Bool[np.ndarray, " temperature"]:
    """Whether motion with these flags can teach, for each temperature."""
    return np.array([not {"melted", "drifted", "broken", FORCE_GATE} & set(these) for these in flags])


ARRAYS = tuple(one.name for one in fields(CrystalRecord) if one.name not in ("key", _ABOUT))


def read_trajectory_set(path: Path) -> list[CrystalRecord]:
    """All crystals of a set, in the order of the file.

    Raises:
        BadInput: No such file, damaged, or a crystal whose arrays do not fit together.
    """
    allowed, fix = "a file of mdistill train transport --structures", "restore it, or make it again"
    if not path.is_file():
        raise BadInput(path, "no such file", allowed=allowed, fix="check the path, or make a set with --structures")
    try:
        arrays = read_arrays(path, compressed=True)
        keys = [name.removesuffix(f"/{_ABOUT}") for name in arrays if name.endswith(f"/{_ABOUT}")]
        records = [_record(arrays, key) for key in keys]
    except DAMAGED as error:
        raise BadInput(path, f"cannot be read ({str(error)[:120]})", allowed=allowed, fix=fix) from error
    if len(arrays) != len(keys) * (len(ARRAYS) + 1):
        raise BadInput(path, "has arrays that belong to no crystal", allowed=allowed, fix=fix)
    return records


def _record(arrays: dict[str, np.ndarray], key: str) -> CrystalRecord:
    about = json.loads(arrays[f"{key}/{_ABOUT}"].tobytes().decode())
    missing = [name for name in _NEEDED if name not in about]
    held = {name: arrays[f"{key}/{name}"] for name in ARRAYS}
    held = {name: one.astype(np.float64 if one.dtype.kind == "f" else np.int64) for name, one in held.items()}
    many, ions = len(held["temperatures_K"]), len(held["kind"])
    wrong = [name for name in _BY_TEMPERATURE if len(held[name]) != many]
    wrong += ["spectra"] if held["spectra"].shape[:2] != (many, ions) else []
    wrong += ["kind"] if ions == 0 or held["kind"].min() < 0 or held["kind"].max() >= len(held["features"]) else []
    wrong += ["features"] if not np.isfinite(held["features"]).all() else []
    if missing or wrong:
        raise ValueError(f"crystal {key}: {', '.join([*missing, *wrong])} missing or of another size")
    return CrystalRecord(key=key, about=about, **held)


def write_trajectory_set(path: Path, records: Sequence[CrystalRecord]) -> None:
    """Write the set in the order of its keys, all or nothing."""
    members: dict[str, np.ndarray] = {}
    for one in sorted(records, key=lambda one: one.key):
        members[f"{one.key}/{_ABOUT}"] = np.frombuffer(json.dumps(one.about).encode(), dtype=np.uint8)
        for name in ARRAYS:
            values = np.asarray(getattr(one, name))
            members[f"{one.key}/{name}"] = values.astype(_SHORT.get(name, values.dtype))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **members)  # type: ignore[arg-type]
    write_bytes(path, buffer.getvalue())


def add_to_set(path: Path, record: CrystalRecord) -> None:
    """Add a crystal to the set, or replace that of its key."""
    others = read_trajectory_set(path) if path.exists() else []
    write_trajectory_set(path, [*(one for one in others if one.key != record.key), record])
