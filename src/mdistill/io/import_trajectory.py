"""Trajectories of other programs (and our own) as a checked, unwrapped `Trajectory`, with notes on how it was read."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import atomic_masses, chemical_symbols
from jaxtyping import Float, Int

from mdistill.crystals.atom_kinds import lammps_names_elements, lammps_units, numbers_of_types, with_isotopes, without_isotopes
from mdistill.crystals.checks import LARGEST_UNPACKED, check_before_parsing, whole_numbers
from mdistill.errors import BadInput
from mdistill.io.amber import NETCDF_SUFFIXES, read_netcdf
from mdistill.io.trajectories import ASE_MOMENTUM, HDF5_SUFFIXES, check_masses, read_hdf5
from mdistill.io.unwrap import check_cells, check_joint, check_jumps, joint_is_doubled, order_changed, unwrap
from mdistill.io.xdatcar import is_xdatcar, read_xdatcar
from mdistill.types import Trajectory

READABLE = "extxyz, ASE .traj, vasprun.xml, XDATCAR(.gz), LAMMPS dump, AMBER NetCDF, our HDF5, or another that ASE reads"
LARGEST_SPEED = 0.1
"""Å/fs; the median atom is slower below some 10⁴ K, so a faster one means a wrong time step."""
_NOT_TRAJECTORIES = {"bundletrajectory", "mysql", "postgresql", "sqlite3", "db", "json", "png", "eps", "pov", "x3d"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """A trajectory, and notes on how it was read."""

    trajectory: Trajectory
    notes: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """The content of one file; steps and times (fs) are None where the file has none, `periodic` where only the cell tells."""

    path: Path
    numbers: Int[np.ndarray, " atom"]
    positions: Float[np.ndarray, "frame atom 3"]
    cells: Float[np.ndarray, "frame 3 3"]
    steps: Int[np.ndarray, " frame"] | None = None
    times: Float[np.ndarray, " frame"] | None = None
    momenta: Float[np.ndarray, "frame atom 3"] | None = None
    periodic: tuple[bool, bool, bool] | None = None
    notes: tuple[str, ...] = ()


def read_trajectory(
    paths: str | Path | Sequence[str | Path], *, time_step_fs: float | None = None, elements: Sequence[str] = (), stride: int = 1
) -> Imported:
    """Read one run, or several that follow each other, and unwrap the coordinates.

    Wrapped coordinates are unwrapped by the nearest image of the scaled step (toroidal view; under pressure control the
    affine motion with the cell stays in the positions: r = s·h with s continuous, as our own runs are written).

    Args:
        paths: One file or several in time order.
        time_step_fs: Time between stored frames (fs); needed where the files have no times.
        elements: Element symbols of LAMMPS types 1, 2, … or of VASP 4 counts, where the file names none.
        stride: Keep every stride-th frame (after unwrapping).
    Raises:
        BadInput: A file that is no trajectory; another number, kind or order of atoms in some frame; missing frames; moves
            too large to unwrap; runs that do not follow each other; NaN; lengths in nm or Bohr; no or impossible time step.
    Reference:
        Bullerjahn et al., J. Chem. Theory Comput. 19, 3406 (2023), doi 10.1021/acs.jctc.3c00308.
    """
    files = [Path(p) for p in ([paths] if isinstance(paths, (str, Path)) else paths)]
    if not files or stride < 1 or (time_step_fs is not None and not 0 < time_step_fs < np.inf):
        subject, value = (
            ("paths", "no file") if not files else ("stride", stride) if stride < 1 else ("--frame-time-fs", time_step_fs)
        )
        raise BadInput(subject, f"{value!r}", allowed="at least one file, stride ≥ 1, time > 0 fs", fix="correct the value")
    runs = [_without_repeats(_read_run(path, elements)) for path in files]
    told = [note for run in runs for note in _check_run(run)]
    spacing, notes = _spacing(runs, time_step_fs)
    joined, join_notes = _join(runs)
    positions, unwrap_notes = unwrap(joined.positions, joined.cells, joined.numbers, path=joined.path)
    _check_speed(positions, spacing, joined.path)
    count = len(positions)
    keep = slice(None, None, stride)
    trajectory = Trajectory(
        numbers=torch.from_numpy(joined.numbers.astype(np.int64)),
        positions=torch.from_numpy(positions[keep].copy()),
        cell=torch.from_numpy(joined.cells[keep].copy()),
        times=torch.arange(count, dtype=torch.float64)[keep] * spacing,
        momenta=None if joined.momenta is None else torch.from_numpy(joined.momenta[keep].copy()),
    )
    return Imported(trajectory=trajectory, notes=told[:1] + notes + join_notes + unwrap_notes)


def _read_run(path: Path, elements: Sequence[str]) -> _Run:
    if not path.is_file():
        raise BadInput(path, "no such file", allowed=READABLE, fix="check the path; quote it if it holds spaces")
    if path.stat().st_size == 0:
        raise BadInput(path, "empty (0 bytes)", allowed=READABLE, fix="copy the file again")
    check_before_parsing(path, LARGEST_UNPACKED)
    if path.suffix.lower() in HDF5_SUFFIXES:
        stored = read_hdf5(path)
        return _Run(
            path=path, numbers=stored.numbers.numpy(), positions=stored.positions.double().numpy(),
            cells=stored.cell.double().numpy(), times=stored.times.double().numpy(),
            momenta=None if stored.momenta is None else stored.momenta.double().numpy(),
        )  # fmt: skip
    if path.suffix.lower() in NETCDF_SUFFIXES:
        held = read_netcdf(path)
        numbers, velocities = whole_numbers(held["numbers"], path), held.get("velocities")
        return _Run(
            path=path, numbers=numbers, positions=held["positions"], cells=held["cells"], times=held.get("times"),
            periodic=held["pbc"], momenta=None if velocities is None else velocities * atomic_masses[numbers][:, None],
        )  # fmt: skip
    if is_xdatcar(path):
        numbers, positions, cells, steps, notes = read_xdatcar(path, elements=elements)
        return _Run(
            path=path, numbers=numbers, positions=positions, cells=cells, steps=steps, periodic=(True, True, True),
            notes=tuple(notes),
        )  # fmt: skip
    return _read_with_ase(path, elements)


def _without_repeats(run: _Run) -> _Run:
    """The run without frames that a restart within the file repeats: steps (or times) that go back tell."""
    labels = run.steps if run.steps is not None else run.times
    if labels is None or len(labels) < 3 or not (np.diff(labels) <= 0).any():
        return run
    later = np.minimum.accumulate(np.append(labels[1:], np.inf)[::-1])[::-1]
    stays = labels < later
    if stays[0] and (back := int(np.argmax(np.diff(labels) <= 0))) and labels[back + 1] in labels[: back + 1]:
        count = int((~stays).sum())
        note = f"{run.path}: {count} frames before its restarts are left out: steps from {labels[back + 1]:g} on stand twice"
        return replace(_frames_of(run, stays), notes=(*run.notes, note))
    return run


def _read_with_ase(path: Path, elements: Sequence[str]) -> _Run:
    from ase.io import iread
    from ase.io.formats import UnknownFileTypeError, filetype

    try:
        kind = filetype(str(path))
    except (UnknownFileTypeError, UnicodeDecodeError, OSError, EOFError) as error:
        raise BadInput(
            path, "its format is not recognised", allowed=READABLE, fix="give it the extension of its format, or convert it"
        ) from error
    if kind in _NOT_TRAJECTORIES:
        raise BadInput(path, f"of format {kind!r}", allowed=READABLE, fix="convert it with `ase convert`")
    by_type = kind.startswith("lammps-dump") and not lammps_names_elements(path, kind, elements)
    named, (source, notes) = lammps_units(path) if kind.startswith("lammps") else None, without_isotopes(path, kind)
    options = {"units": named or "metal"} if kind == "lammps-dump-text" else {}
    frames: list[Any] = []
    try:
        for atoms in iread(source, index=":", format=kind, do_not_split_by_at_sign=True, **options):
            if notes:
                with_isotopes(atoms)
            _check_same(path, frames, atoms)
            frames.append(atoms)
    except BadInput:
        raise
    except Exception as error:
        problem = f"cannot be read as {kind} beyond frame {len(frames)} ({type(error).__name__}: {str(error)[:120]})"
        fix = "check whether the file is complete; cut off a broken last frame"
        raise BadInput(path, problem, allowed=READABLE, fix=fix) from error
    if not frames:
        raise BadInput(path, "no frames", allowed=READABLE, fix="check the file")
    numbers = whole_numbers(frames[0].numbers, path)
    if elements and not by_type:
        notes.append(f"{path} names its elements: --elements is not used")
    if by_type:
        numbers = numbers_of_types(path, frames[0].arrays["type"], elements)
    if frames[0].has("masses"):
        check_masses(frames[0].get_masses(), path)
    along = frames[0].pbc
    return _Run(
        path=path, numbers=numbers, positions=np.stack([a.positions for a in frames]),
        cells=np.stack([np.array(a.cell) * np.array(a.pbc)[:, None] for a in frames]),
        steps=_labels(frames, ("step", "timestep")), times=_labels(frames, ("time_fs",)),
        momenta=np.stack([a.get_momenta() for a in frames]) / ASE_MOMENTUM if all(a.has("momenta") for a in frames) else None,
        periodic=(bool(along[0]), bool(along[1]), bool(along[2])), notes=tuple(notes),
    )  # fmt: skip


def _labels(frames: Sequence[Any], keys: Sequence[str]) -> np.ndarray | None:
    for key in keys:
        values = [atoms.info.get(key) for atoms in frames]
        if all(isinstance(v, (int, float, np.integer, np.floating)) for v in values):
            return np.array(values, dtype=np.float64)
    return None


def _check_same(path: Path, frames: Sequence[Any], atoms: Any) -> None:
    if not frames:
        return
    first, now = frames[0].numbers, atoms.numbers
    if len(first) != len(now):
        problem = f"frame {len(frames) + 1} has {len(now)} atoms, frame 1 has {len(first)}"
        fix = "analyse runs of one composition; trajectories with inserted or lost atoms cannot be used"
        raise BadInput(path, problem, allowed="the same atoms in every frame", fix=fix)
    if not np.array_equal(first, now):
        k = int(np.argmax(first != now))
        raise order_changed(
            path, len(frames) + 1, f"atom {k + 1} is {chemical_symbols[now[k]]}, {chemical_symbols[first[k]]} in frame 1"
        )


def _check_run(run: _Run) -> list[str]:
    """Check finite numbers, plausible distances (nm, Bohr, overlaps …), even steps and times; a note on what stays open."""
    from ase import Atoms

    from mdistill.crystals.checks import check_crystal, sublattice_note
    from mdistill.io.structures import from_atoms

    bad = ~(np.isfinite(run.positions).all(axis=(1, 2)) & np.isfinite(run.cells).all(axis=(1, 2)))
    if bad.any():
        problem = f"NaN or infinity in frame {int(np.argmax(bad)) + 1} ({int(bad.sum())} such frames)"
        raise BadInput(run.path, problem, allowed="finite coordinates", fix="cut the run off before it broke")
    periodic = np.linalg.norm(run.cells[0], axis=1) > 1e-6 if run.periodic is None else np.array(run.periodic)
    check_cells(run.cells, periodic, path=run.path)
    check_jumps(run.positions, run.cells, path=run.path)
    first = Atoms(numbers=run.numbers, positions=run.positions[0], cell=run.cells[0], pbc=periodic)
    crystal, alone = from_atoms(first, source=str(run.path)), len(set(run.numbers.tolist())) == 1
    check_crystal(crystal, sublattice=alone)
    for labels, what in ((run.steps, "step"), (run.times, "time")):
        if labels is None or len(labels) < 3:
            continue
        gaps = np.diff(labels)
        usual = float(np.median(gaps))
        uneven = np.flatnonzero(np.abs(gaps - usual) > 1e-3 * abs(usual))
        if len(uneven) or usual <= 0:
            k = int(uneven[0]) if len(uneven) else 0
            problem = f"{what} {labels[k]:g} (frame {k + 1}) is followed by {labels[k + 1]:g}, elsewhere they are {usual:g} apart"
            fix = "frames are missing or doubled: restore them, or analyse the pieces apart"
            raise BadInput(run.path, problem, allowed="every frame, evenly spaced", fix=fix)
    return sublattice_note(crystal) if alone else []


def _spacing(runs: Sequence[_Run], given: float | None) -> tuple[float, list[str]]:
    told = [float(np.median(np.diff(run.times))) for run in runs if run.times is not None and len(run.times) > 1]
    if not told and given is None:
        problem = "the file has no time between its frames"
        raise BadInput(runs[0].path, problem, allowed="a time in fs", fix="add it, for example --frame-time-fs 100")
    if told and max(told) - min(told) > 1e-3 * min(told):
        raise BadInput(
            "paths", f"times between frames of {told} fs", allowed="the same in all runs", fix="analyse the runs apart"
        )
    if told and given is not None and abs(told[0] - given) > 1e-3 * given:
        problem = f"{given:g} fs, but {runs[0].path} says {told[0]:g} fs"
        raise BadInput("--frame-time-fs", problem, allowed=f"{told[0]:g}", fix="leave the option out")
    return (told[0], []) if told else (float(given or 0.0), [f"time between frames: {given:g} fs, as given"])


def _join(runs: Sequence[_Run]) -> tuple[_Run, list[str]]:
    """All runs end to end. A frame stored at the end of one run and at the start of the next is used once."""
    runs, notes = _without_overlaps(runs)
    first = runs[0]
    parts = [first]
    for before, run in itertools.pairwise(runs):
        if not np.array_equal(run.numbers, first.numbers):
            problem = f"other atoms, or another order, than {first.path} ({len(run.numbers)} and {len(first.numbers)} atoms)"
            raise BadInput(run.path, problem, allowed="runs of one system", fix="give the runs of one system only")
        doubled = joint_is_doubled(before.positions, run.positions, run.cells)
        ends = np.stack([before.cells[-1], run.cells[0]])
        check_cells(ends, np.linalg.norm(ends, axis=-1).min(axis=0) > 1e-6, path=run.path, first=0)
        _check_counter(before, run, doubled=doubled)
        if not doubled:
            check_joint(before.positions, run.positions, run.cells, run.numbers, path=run.path)
        if doubled:
            notes.append(f"{run.path}: its first frame repeats the last of {before.path} and is left out")
        keep = slice(1 if doubled else 0, None)
        parts.append(
            replace(
                run,
                positions=run.positions[keep],
                cells=run.cells[keep],
                momenta=None if run.momenta is None else run.momenta[keep],
            )
        )
    if len(runs) > 1:
        notes.append(f"{len(runs)} runs joined end to end")
    momenta = [p.momenta for p in parts if p.momenta is not None]
    joined = replace(
        first, positions=np.concatenate([p.positions for p in parts]), cells=np.concatenate([p.cells for p in parts]),
        momenta=np.concatenate(momenta) if len(momenta) == len(parts) else None, steps=None, times=None,
    )  # fmt: skip
    return joined, notes


def _without_overlaps(runs: Sequence[_Run]) -> tuple[list[_Run], list[str]]:
    """The runs, each cut where the next one, restarted from an earlier checkpoint, begins; and what was cut."""
    kept, notes = list(runs), [note for run in runs for note in run.notes]
    for k in range(len(kept) - 1):
        before, run = kept[k], kept[k + 1]
        for old, new, what in ((before.steps, run.steps, "step"), (before.times, run.times, "time")):
            if old is None or new is None or not len(new) or not old[0] < new[0] <= old[-1]:
                continue
            stays = old < new[0]
            if (count := int((~stays).sum())) > 1 or new[0] != old[-1]:
                notes.append(f"{before.path}: frames from {what} {new[0]:g} on ({count}) are left out: {run.path} repeats them")
                kept[k] = _frames_of(before, stays)
            break
    return kept, notes


def _frames_of(run: _Run, chosen: np.ndarray) -> _Run:
    """A run with some of its frames."""
    parts = {name: getattr(run, name) for name in ("positions", "cells", "steps", "times", "momenta")}
    return replace(run, **{name: part[chosen] for name, part in parts.items() if part is not None})


def _check_counter(before: _Run, run: _Run, *, doubled: bool) -> None:
    """Where steps or times continue from one run to the next, no frame may be missing between them."""
    for last, now, what in ((before.steps, run.steps, "step"), (before.times, run.times, "time")):
        if last is None or now is None or len(last) < 2 or now[0] <= last[0]:
            continue
        usual = float(np.median(np.diff(last)))
        gap = float(now[0] - last[-1])
        restarted = now[0] <= last[-1] and not doubled
        if not restarted and abs(gap - (0.0 if doubled else usual)) > 1e-3 * usual:
            problem = f"begins at {what} {now[0]:g}, {before.path} ends at {last[-1]:g}; frames are {usual:g} apart"
            allowed = "runs that follow each other without a gap"
            raise BadInput(run.path, problem, allowed=allowed, fix="add the missing run, or analyse the runs apart")


def _check_speed(positions: Float[np.ndarray, "frame atom 3"], spacing: float, path: Path) -> None:
    if len(positions) < 2:
        raise BadInput(path, "a single frame", allowed="at least two frames", fix="name a trajectory, not a structure")
    speed = float(np.median(np.linalg.norm(np.diff(positions, axis=0), axis=-1))) / spacing
    if speed > LARGEST_SPEED:
        problem = f"the median atom moves at {speed:.3g} Å/fs with {spacing:g} fs between frames"
        allowed = f"at most {LARGEST_SPEED} Å/fs (10⁴ K)"
        raise BadInput(path, problem, allowed=allowed, fix="give the time between frames in fs, not ps: --frame-time-fs")
