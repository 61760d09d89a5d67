"""Crystals of a trajectory set from published data on this disk: LiFlow's universal set, or structures with known D.

LiFlow's universal set: `io.liflow`. The structure is the first frame at the lowest temperature, as in the code of arXiv
2605.09311 (github.com/jykim-git/MD). MACE-MP-0 made the trajectories: there is no force gate, and drift is not known.

Structures with D: the layout of the files of the amorphous set (figshare.com/s/30601968f9244d8dffaa) cannot be told from public
sources. Instead any extended XYZ file is read whose frames have in their comment line

    temperature_K=1500 diffusivity_cm2_s=2.1e-5 mobile=Li      D = slope of the mean square displacement / 6
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.data import atomic_numbers
from jaxtyping import Float

from mdistill import __version__
from mdistill.campaign.settings import ALIKE, TrajectorySettings
from mdistill.campaign.trajectories import check_alike, load_featured, set_results
from mdistill.campaign.trajectory_job import measured, mobile_of, unmeasured
from mdistill.crystals.checks import check_crystal
from mdistill.crystals.crystal import reduced_formula
from mdistill.crystals.task_checks import check_conductor, check_elements
from mdistill.errors import BadInput
from mdistill.interrupt import NEVER, StopRequest
from mdistill.io.liflow import SPACING_FS, open_liflow
from mdistill.io.structures import from_atoms, to_system
from mdistill.io.unwrap import check_jumps, unwrap
from mdistill.progress import progress
from mdistill.runs.identity import model_id
from mdistill.runs.lock import locked
from mdistill.runs.results import Results
from mdistill.settings import to_json
from mdistill.transport.ion_features import ion_features, ion_network, kinds_of
from mdistill.transport.trajectory_set import CrystalRecord, read_trajectory_set, write_trajectory_set
from mdistill.types import Potential, Trajectory
from mdistill.units import PS

LARGEST_D = 1e-2
"""D above which another unit is meant, cm²/s: 1 Å²/ps is 1e-4 cm²/s, a hot melt has 1e-3."""
COLUMNS = ("temperature_K", "diffusivity_cm2_s", "mobile")
_LIFLOW, _TABLE = "LiFlow universal set, doi 10.5281/zenodo.14889658", "structures with D"
_BATCH = 200
"""Crystals after which the set is written: each time the whole file is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """A crystal that may be added: key in the set, name to show, and what makes its record (raises BadInput)."""

    key: str
    name: str
    make: Callable[[], CrystalRecord]


def add_published(
    data: Path, path: Path, settings: TrajectorySettings, folder: Path, *, species: str = "", stop: StopRequest = NEVER
) -> Results:
    """Add every crystal of a published set that the trajectory set does not have; the same call continues after a stop.

    Args:
        data: Folder of LiFlow's universal set, or of extended XYZ files; see the head of this file.
        path: The trajectory set; made if absent.
        settings: Teacher of the features; temperatures, length, spacing and lag of the trajectories.
        folder: Locked while at work.
        species: Mobile ion (default: Li of LiFlow's set, the column `mobile` of structures).
        stop: Checked between crystals.
    Raises:
        BadInput: A folder without such files or with a damaged index, a set of other settings, no crystal that can be used.
        Interrupted: A stop was requested; finished crystals are in the set.
    """
    with locked(folder):
        before = read_trajectory_set(path) if path.exists() else []
        check_alike(before, settings, path)
        teacher, known = load_featured(settings.teacher), {one.key for one in before}
        entries, unread = _entries(data, teacher, settings, species)
        todo, made = {one.key: one for one in entries if one.key not in known}, list[CrystalRecord]()
        try:
            with progress("published crystals", len(todo), unit="crystal") as advance:
                for one in todo.values():
                    stop.raise_if_pending()
                    try:
                        made.append(one.make())
                    except BadInput as error:
                        unread.append((one.name, error.problem, error.fix))
                    if len(made) == _BATCH:
                        _add(path, made)
                    advance(1, one.name)
        finally:
            _add(path, made)
        records = read_trajectory_set(path) if path.exists() else []
    return set_results(records, unread, "--published")


def _add(path: Path, made: list[CrystalRecord]) -> None:
    """Write these records to the set, and empty the list."""
    if made:
        write_trajectory_set(path, [*(read_trajectory_set(path) if path.exists() else []), *made])
        made.clear()


def _entries(
    data: Path, teacher: Potential, settings: TrajectorySettings, species: str
) -> tuple[list[_Entry], list[tuple[str, str, str]]]:
    """What the folder holds, and files that cannot be read."""
    for place in (data, data / "universal", data / "data" / "universal"):
        if (place / "lattice.npy").is_file():
            return _liflow(place, teacher, settings, species or "Li"), []
    files = sorted(data.glob("*.extxyz"))
    if not files:
        problem = "no lattice.npy and no *.extxyz in it" if data.is_dir() else "no such folder"
        allowed = "the unpacked data/universal of LiFlow, or extended XYZ files of structures with D"
        raise BadInput(data, problem, allowed=allowed, fix="see the page on trajectory sets for where to get it")
    found, unread = list[_Entry](), list[tuple[str, str, str]]()
    for file in files:
        found += _table(file, teacher, settings, species, unread)
    return found, unread


def _liflow(place: Path, teacher: Potential, settings: TrajectorySettings, species: str) -> list[_Entry]:
    """The crystals of LiFlow's universal set, by name."""
    every = round(settings.every_fs / SPACING_FS)
    if every < 1 or abs(settings.every_fs - every * SPACING_FS) > 1e-9:
        allowed = f"a multiple of {SPACING_FS:g} fs, the spacing of the published frames"
        raise BadInput("--make.every-fs", f"{settings.every_fs:g}", allowed=allowed, fix=f"--make.every-fs {SPACING_FS:g}")
    files = open_liflow(place, settings.temperatures)

    def make(name: str, key: str) -> CrystalRecord:
        (numbers, cell), subject = files.structure(name), f"{place}: {name}"
        runs = {kelvin: files.positions(name, kelvin) for kelvin in settings.temperatures}
        least = (round(settings.time_ps * PS / settings.every_fs) - 1) * every + 1
        for kelvin, frames in ((kelvin, len(run)) for kelvin, run in runs.items()):
            if frames < least:
                problem, allowed = f"{frames * SPACING_FS / PS:g} ps at {kelvin:g} K", f"--make.time-ps, {settings.time_ps:g} ps"
                raise BadInput(subject, problem, allowed=f"at least {allowed}", fix="a shorter --make.time-ps")
        atoms = Atoms(numbers=numbers, positions=runs[settings.temperatures[0]][0], cell=cell, pbc=True)
        return _record(key, atoms, teacher, settings, species, source=name, published=_LIFLOW, runs=runs)

    keys = {name: f"liflow-{name}-{species}" for name in files.names}
    return [_Entry(key=key, name=name, make=partial(make, name, key)) for name, key in keys.items()]


def _table(
    file: Path, teacher: Potential, settings: TrajectorySettings, species: str, unread: list[tuple[str, str, str]]
) -> list[_Entry]:
    """Frames of an extended XYZ file; where it cannot be read to its end, that is added to `unread`."""
    from ase.io import iread

    found = list[_Entry]()
    try:
        for number, atoms in enumerate(iread(file, index=":", format="extxyz", do_not_split_by_at_sign=True), 1):
            name = f"{file.name}, frame {number}"
            told = repr([atoms.info.get(one) for one in COLUMNS]).encode()
            parts = (atoms.numbers.tobytes(), atoms.positions.tobytes(), atoms.cell.array.tobytes(), told)
            key = f"{hashlib.sha256(b''.join(parts)).hexdigest()[:16]}-D"
            make = partial(_record, key, atoms, teacher, settings, species, source=name, published=_TABLE, runs={})
            found.append(_Entry(key=key, name=name, make=make))
    except Exception as error:
        problem = f"cannot be read after frame {len(found)} ({type(error).__name__}: {str(error)[:120]})"
        unread.append((file.name, problem, "check that the file is complete"))
    return found


def _record(
    key: str, atoms: Atoms, teacher: Potential, settings: TrajectorySettings, species: str, *, source: str, published: str,
    runs: Mapping[float, Float[np.ndarray, "frame atom 3"]],
) -> CrystalRecord:  # fmt: skip
    """One crystal: features of its structure; motion from trajectories, or where there is none D from `atoms.info`."""
    known = {} if runs else _stated(atoms, settings, source, species)
    crystal = from_atoms(atoms, source=source)
    check_crystal(crystal)
    mobile = mobile_of(crystal, species or known["mobile"])
    check_conductor(crystal, atomic_numbers[mobile])
    check_elements(crystal, teacher.elements, teacher.name)
    system = to_system(crystal)
    features, kind = kinds_of(ion_features([system], teacher, mobile=atomic_numbers[mobile])[0])
    motion, lags = unmeasured(settings, len(kind))
    flags: dict[str, list[str]] = {f"{kelvin:g}": [] for kelvin in settings.temperatures}
    for k, kelvin in enumerate(settings.temperatures):
        values = measured(_trajectory(atoms, runs[kelvin], settings, source), mobile, lags, settings) if runs else {}
        flags[f"{kelvin:g}"] = values.pop("flags", [])
        for name, value in values.items():
            motion[name][k] = value
    if known:
        motion["diffusivity"][known["place"]] = known["diffusivity"]
    asked = to_json(settings)
    about = {
        "formula": reduced_formula(crystal.composition), "source": source, "published": published, "mobile": mobile,
        "atoms": system.n_atoms, "ordered": True, "labels": 0, "gate_passed": True, "flags": flags, "teacher": teacher.name,
        "teacher_id": model_id(teacher), "settings": {name: asked[name] for name in ALIKE}, "version": __version__,
    }  # fmt: skip
    return CrystalRecord(
        key=key, about=about, numbers=system.numbers.numpy(), positions=system.positions.numpy(), cell=system.cell[0].numpy(),
        features=features, kind=kind, physics=ion_network(crystal, mobile=atomic_numbers[mobile]),
        temperatures_K=np.array(settings.temperatures), log_msd_error=np.full(len(flags), np.nan), **motion,
    )  # fmt: skip


def _stated(atoms: Atoms, settings: TrajectorySettings, source: str, species: str) -> dict[str, Any]:
    """D (cm²/s), the place of its temperature among those of the set, and the mobile ion, as the comment line says."""
    missing = [name for name in COLUMNS if name not in atoms.info]
    if missing:
        allowed, fix = "temperature_K=1500 diffusivity_cm2_s=2.1e-5 mobile=Li", "write them into the comment line of each frame"
        raise BadInput(source, f"no {', '.join(missing)}", allowed=allowed, fix=fix)
    if species not in ("", mobile := str(atoms.info["mobile"])):
        raise BadInput(source, f"mobile={mobile}", allowed=f"--species, {species}", fix="leave --species out")
    kelvin, d = (np.asarray(atoms.info[name]) for name in COLUMNS[:2])
    if d.dtype.kind not in "iuf" or d.ndim or not 0.0 < float(d) < LARGEST_D:
        allowed, fix = f"above 0 and below {LARGEST_D:g} cm²/s", "1 Å²/ps is 1e-4 cm²/s; leave out what does not diffuse"
        raise BadInput(source, f"diffusivity_cm2_s is {atoms.info[COLUMNS[1]]}", allowed=allowed, fix=fix)
    number = kelvin.ndim == 0 and kelvin.dtype.kind in "iuf"
    places = [k for k, one in enumerate(settings.temperatures) if number and abs(float(kelvin) - one) < 0.5]
    if not places:
        allowed = ", ".join(f"{one:g}" for one in settings.temperatures) + " K"
        problem, fix = f"temperature_K is {atoms.info[COLUMNS[0]]}", "--make.temperatures with all temperatures of the set"
        raise BadInput(source, problem, allowed=allowed, fix=fix)
    return {"place": places[0], "diffusivity": float(d), "mobile": mobile}


def _trajectory(
    atoms: Atoms, positions: Float[np.ndarray, "frame atom 3"], settings: TrajectorySettings, source: str
) -> Trajectory:
    """The frames that were asked for; where the file wraps them after all, unwrapped before some are left out."""
    cells = np.broadcast_to(atoms.cell.array, (len(positions), 3, 3))
    check_jumps(positions, cells, path=Path(source))
    whole, _ = unwrap(positions, cells, atoms.numbers, path=Path(source))
    frames, every = round(settings.time_ps * PS / settings.every_fs), round(settings.every_fs / SPACING_FS)
    return Trajectory(
        numbers=torch.from_numpy(atoms.numbers.astype(np.int64)), positions=torch.from_numpy(whole[::every][:frames].copy()),
        cell=torch.from_numpy(cells[:frames].copy()), times=torch.arange(frames, dtype=torch.float64) * settings.every_fs,
    )  # fmt: skip
