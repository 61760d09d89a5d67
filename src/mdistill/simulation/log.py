"""Output of a simulation: trajectory, log of energies and temperatures, restart file, consistent with each other."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor

from mdistill.errors import BadInput
from mdistill.io.files import sha256
from mdistill.io.hdf5 import check_hdf5
from mdistill.io.logs import truncate_log
from mdistill.io.trajectories import HDF5_SUFFIXES, TrajectoryWriter, appending, truncate_after
from mdistill.simulation.kinetics import measured, prediction_of
from mdistill.simulation.restart import RestartPoint, save_restart
from mdistill.simulation.running_sums import element_freedom, means, no_steps
from mdistill.types import RunningSums, State
from mdistill.units import BOLTZMANN, GPA, KINETIC

_SHARE = 0.02
"""Largest share of the time spent on saving."""


@dataclass(slots=True)
class Log:
    """A CSV table of one structure's energies, temperatures, pressure and volume; rows are collected and written in blocks."""

    path: Path
    size: int | None = None
    _rows: list[str] = field(default_factory=list)
    _header: str = ""
    _kinds: _Kinds | None = None

    def add(self, step: int, state: State, since: RunningSums | None = None) -> None:
        self._kinds = self._kinds or _Kinds.of(state)
        row = log_row(step, state, since, kinds=self._kinds)
        self._header = ",".join(row)
        self._rows.append(",".join("" if value is None else repr(value) for value in row.values()))

    def flush(self) -> None:
        """Append the collected rows, all or none.

        Raises:
            MdistillError: The file cannot be written.
        """
        if not self._rows:
            return
        with appending(self.path, size=self.size) as partial:
            new = not partial.exists()
            with open(partial, "a", encoding="ascii", newline="\n") as handle:
                handle.write("\n".join([*([self._header] if new else []), *self._rows]) + "\n")
        self.size = self.path.stat().st_size
        self._rows.clear()


@dataclass(frozen=True, slots=True)
class _Kinds:
    """What rows of a log need of the atoms, which stay the same: element of each, masses, degrees of freedom of each element."""

    symbols: list[str]
    kind: np.ndarray
    masses: np.ndarray
    degrees: Tensor

    @classmethod
    def of(cls, state: State) -> _Kinds:
        from ase.data import chemical_symbols

        numbers, kind = np.unique(state.system.numbers.numpy(), return_inverse=True)
        return cls([chemical_symbols[z] for z in numbers], kind, state.masses.numpy(), element_freedom(state))


def log_row(step: int, state: State, since: RunningSums | None = None, *, kinds: _Kinds | None = None) -> dict[str, float | None]:
    """One line of the log, for one structure (equations: `kinetics`): columns by name, with T_<element>_K, and last the means
    over the steps since the row before (whose sums are `since`), mean_…; None where undefined."""
    kinds, answer = kinds or _Kinds.of(state), prediction_of(state)
    momenta, masses, many = measured(state).numpy(), kinds.masses, len(kinds.masses)
    held, volume = np.isinf(masses), abs(float(np.linalg.det(state.system.cell[0].numpy())))
    drift = momenta.sum(0) / masses.sum() if many > 1 else np.zeros(3)
    inner = KINETIC * np.square(momenta - np.where(held, 0.0, masses)[:, None] * drift).sum(1) / masses
    each, degrees = np.bincount(kinds.kind, inner), kinds.degrees.numpy()
    potential, kinetic = float(answer.energy[0]), 0.5 * KINETIC * float((np.square(momenta).sum(1) / masses).sum())
    flow = float(inner.sum()) * (1.0 if held.any() or many == 1 else many / (many - 1.0))
    squeeze = None if answer.stress is None or volume == 0.0 else (flow / volume - float(answer.stress[0].trace())) / (3.0 * GPA)
    row: dict[str, float | None] = {
        "step": step, "time_fs": state.time, "temperature_K": _kelvin(float(each.sum()), float(degrees.sum())),
        "potential_eV": potential, "kinetic_eV": kinetic, "total_eV": potential + kinetic, "pressure_GPa": squeeze,
        "volume_A3": volume if bool(state.system.pbc.all()) else None,
    }  # fmt: skip
    row |= {f"T_{one}_K": _kelvin(e, d) for one, e, d in zip(kinds.symbols, each.tolist(), degrees.tolist(), strict=True)}
    return row | means(state, since or no_steps(state.system), degrees=kinds.degrees)


def _kelvin(twice_kinetic: float, degrees: float) -> float:
    return twice_kinetic / (degrees * BOLTZMANN) if degrees else math.nan


@dataclass(slots=True)
class Recorder:
    """Collects frames and log rows, and saves everything at intervals, the restart file last.

    So trajectory and log always contain the restart point; later rows are removed when the run resumes. Saving takes at most
    about 2 % of the time: the interval grows with the time of a save.

    Attributes:
        trajectory: Writer of the frames (steps ≥ 0).
        log: Writer of the rows (all steps).
        restart: Path of the restart file.
        generator: The run's source of randomness.
        every: Steps between frames and rows.
        interval: Shortest time between saves, s.
        extras: Numbers for the restart file; called at each save.
        step: Number of the last step seen.
        since: RunningSums at the last row.
    """

    trajectory: TrajectoryWriter
    log: Log
    restart: Path
    generator: Generator
    every: int
    interval: float
    extras: Callable[[], dict[str, float]]
    step: int = 0
    frames: int = 0
    rows: int = 0
    since: RunningSums | None = None
    _due: float = field(default_factory=time.monotonic)

    def __call__(self, step: int, state: State) -> None:
        self.step = step
        if step % self.every == 0:
            self.log.add(step, state, self.since)
            self.rows, self.since = self.rows + 1, state.running_sums
            if step >= 0:
                self.trajectory.add(step, state)
                self.frames += 1
        if time.monotonic() >= self._due:
            self.save(state)

    def save(self, state: State) -> None:
        """Write everything collected so far and the restart file for this state."""
        began = time.monotonic()
        self.flush()
        extras = self.extras() | {"frames": float(self.frames), "rows": float(self.rows)}
        if self.since is not None:
            counted = [float(self.since.steps), self.since.potential, self.since.pressure, *self.since.kinetic.tolist()]
            extras |= {f"since {k}": value for k, value in enumerate(counted)} | {"evaluated": float(self.since.evaluated)}
        text = [self.log.path] if self.trajectory.path.suffix in HDF5_SUFFIXES else [self.log.path, self.trajectory.path]
        files = {path.name: (path.stat().st_size, sha256(path)) for path in text if path.exists()}
        point = RestartPoint(step=self.step, state=state, generator_state=self.generator.get_state(), extras=extras, files=files)
        save_restart(self.restart, point)
        now = time.monotonic()
        self._due = now + max(self.interval, (now - began) / _SHARE)

    def flush(self) -> None:
        """Write the collected frames and rows."""
        self.trajectory.flush()
        self.log.flush()

    def resume(self, point: RestartPoint) -> None:
        """Cut the files back to a restart point.

        Raises:
            BadInput: They hold less than at that point, or what they held then was altered.
        """
        self.step, self.frames, self.rows = point.step, int(point.extras["frames"]), int(point.extras["rows"])
        self.since = _since(point.extras)
        if not (self.frames or self.rows):
            for path in (self.trajectory.path, self.log.path):
                path.unlink(missing_ok=True)
            return
        for name, (size, digest) in point.files.items():
            _check_start(self.restart.with_name(name), size, digest)
        if self.trajectory.path.suffix in HDF5_SUFFIXES and self.trajectory.path.exists():
            check_hdf5(self.trajectory.path)
        _check_columns(self.log.path, list(log_row(point.step, point.state)))
        for path, frames, expected in (
            (self.trajectory.path, truncate_after(self.trajectory.path, point.step), self.frames),
            (self.log.path, truncate_log(self.log.path, point.step), self.rows),
        ):
            if frames != expected:
                raise BadInput(path, f"{frames} frames up to step {point.step}", allowed=f"{expected}, as when the run was saved",
                               fix="restore the file, or choose another --out and start again")  # fmt: skip


def _check_start(path: Path, size: int, digest: str) -> None:
    """Reject a file that does not begin with the bytes of this sha256."""
    held = path.read_bytes()[:size] if path.is_file() else b""
    if hashlib.sha256(held).hexdigest() != digest:
        problem = "was altered since the run was saved" if path.is_file() else "is missing"
        fix = "restore the file, or choose another --out and start again"
        raise BadInput(path, problem, allowed=f"its first {size} bytes as they were", fix=fix)


def _check_columns(path: Path, columns: list[str]) -> None:
    """Reject a log with other columns."""
    if path.exists():
        with open(path, encoding="ascii") as handle:
            names = handle.readline().rstrip("\n").split(",")
        if names != columns:
            fix = "choose another --out and start again from its last frame, or finish the run with the version that began it"
            raise BadInput(path, f"has {len(names)} columns", allowed=f"the {len(columns)} that this version writes", fix=fix)


def _since(extras: dict[str, float]) -> RunningSums | None:
    if "since 0" not in extras:
        return None
    count = sum(name.startswith("since ") for name in extras)
    steps, potential, squeeze, *kinetic = (extras[f"since {k}"] for k in range(count))
    evaluated, added = int(extras.get("evaluated", steps)), torch.tensor(kinetic, dtype=torch.float64)
    return RunningSums(steps=int(steps), evaluated=evaluated, potential=potential, pressure=squeeze, kinetic=added)
