"""Screening: σ(300 K) and motion of many structures, ranked; files that cannot be used are listed and the rest goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mdistill.errors import BadInput
from mdistill.interrupt import NEVER, StopRequest
from mdistill.io.listing import structure_files
from mdistill.notices import notify
from mdistill.progress import progress
from mdistill.runs.results import Results
from mdistill.screening.candidates import Candidate, Refusal, Usable
from mdistill.screening.read import Asked, FilesRead, structures_in
from mdistill.screening.tables import screen_results
from mdistill.transport.model import TransportModel, load_transport, shipped_model
from mdistill.transport.motion import MotionModel
from mdistill.transport.motion_file import SHIPPED, load_motion, shipped_motion, shipped_motion_sha256
from mdistill.transport.predict import RoomConductivity, predict
from mdistill.transport.settings import LEAST_K, MOST_K, ROOM_K


def screen(
    paths: Sequence[Path], *, species: str = "Li", temperatures_K: Sequence[float] = (300.0,), model: Path | None = None,
    motion: Path | None = None, kept: Path | None = None, stop: StopRequest = NEVER,
) -> Results:  # fmt: skip
    """Ranked conductivities at 300 K, and motion at other temperatures, of all structures in these files and folders.

    Args:
        paths: Files (an extended XYZ may hold many structures) and folders, which are searched with all below them.
        species: The mobile ion.
        temperatures_K: Temperatures; those within ROOM_K are asked of `model`, the others of `motion`.
        model, motion: Model files of `mdistill train transport` (default: those of the package).
        kept: File of what was read; files in it are not read again.
        stop: Checked before each file; after a request those that were read are ranked.
    Returns:
        Results with the tables "screen" (300 K), "motion" (other temperatures) and "unread".
    Raises:
        BadInput: No file, no structure that can be used, or a species that a model was not trained on.
        MissingPackage: The model of motion has nets, and the package of their features is absent.
        Interrupted: A stop was requested before any file was read.
    """
    trained, asked = _asked(species, temperatures_K, model, motion)
    files, left_out = structure_files(paths)
    usable, refused, before, read = list[Usable](), list[Refusal](), FilesRead(kept), 0
    with progress("screen", len(files), unit="file") as advance:
        for file, name in files:
            if stop.pending():
                break
            key = before.key(file, name, asked)
            if (found := before.find(key)) is None:
                if (whole := _all_in(file, name, asked, stop)) is None:
                    break
                before.keep(key, found := whole)
            for one in found:
                (usable if isinstance(one, Usable) else refused).append(one)  # type: ignore[arg-type]
            read += 1
            advance(1, f"{len(refused)} not usable" if refused else "")
    if not usable:
        stop.raise_if_pending()
        first = refused[0]
        problem = f"no structure that can be used; the first of {len(refused)}, {first.name}: {first.reason}"
        raise BadInput("files", problem, allowed=f"structures with {species} (CIF, POSCAR, extxyz)", fix=first.fix)
    if read < len(files):
        notify(f"stopped after {read} of {len(files)} files: the ranking holds these alone")
    candidates = [
        Candidate(
            name=one.name, formula=one.formula, space_group=one.material.space_group, conductivity=sigma, motion=one.motion,
            notes=one.notes if sigma is None else (*one.notes, *sigma.notes),
        )
        for one, sigma in zip(usable, _conductivities(trained, usable), strict=True)
    ]  # fmt: skip
    return screen_results(candidates, refused, trained, asked.motion, left_out=left_out)


def _all_in(file: Path, name: str, asked: Asked, stop: StopRequest) -> list[Usable | Refusal] | None:
    """What is in a file; None after a stop within it."""
    found = list[Usable | Refusal]()
    for one in structures_in(file, name, asked):
        if found and stop.pending():
            return None
        found.append(one)
    return found


def _conductivities(trained: TransportModel | None, usable: Sequence[Usable]) -> Sequence[RoomConductivity | None]:
    if trained is None:
        return [None] * len(usable)
    sites = [None if one.sites is None else np.array(one.sites) for one in usable]
    return predict(trained, [one.material for one in usable], sites)


def _asked(
    species: str, temperatures_K: Sequence[float], model: Path | None, motion: Path | None
) -> tuple[TransportModel | None, Asked]:
    """The model of 300 K where it is asked, and what is asked of each structure."""
    from ase.data import atomic_numbers

    kelvins = check_temperatures(temperatures_K)
    other, trained = tuple(kelvin for kelvin in kelvins if not ROOM_K[0] <= kelvin <= ROOM_K[1]), None
    check_used("--model", model, len(other) < len(kelvins), "300")
    check_used("--motion", motion, bool(other), "600 1000")
    if len(other) < len(kelvins):
        trained = shipped_model() if model is None else load_transport(model)
        check_species(trained, species)
    trained, correct = _correcting(trained)
    digest = "" if trained is None or trained.correction is None else trained.correction.motion[:16]
    if not other:
        return trained, Asked(mobile=atomic_numbers[species], correct=correct, digest=digest)
    from mdistill.io.files import sha256
    from mdistill.teachers.models import load
    from mdistill.transport.predict_motion import check_motion

    path = motion or SHIPPED
    moved = load_motion(path)
    check_motion(moved, species)
    teacher = load(moved.teacher, subject="--motion") if moved.predictor.nets else None
    return trained, Asked(
        mobile=atomic_numbers[species], room=trained is not None, correct=correct, motion=moved, teacher=teacher,
        temperatures_K=other, digest=f"{digest}/{sha256(path)[:16]}",
    )  # fmt: skip


def _correcting(trained: TransportModel | None) -> tuple[TransportModel | None, MotionModel | None]:
    """The model, and that of motion which its correction needs; without the correction, and with a notice, where that is not the
    one of this package."""
    if trained is None or trained.correction is None:
        return trained, None
    if (made := trained.correction.motion) == (own := shipped_motion_sha256()):
        return trained, shipped_motion()
    notify(
        f"the correction of the model for 300 K was made with another model of motion ({made[:16]}, this package has {own[:16]}):"
        " σ(300 K) is given without it. mdistill train transport makes a model that fits"
    )
    return replace(trained, correction=None), None


def check_temperatures(temperatures_K: Sequence[float] | float) -> list[float]:
    """Temperatures in ascending order, each once.

    Raises:
        BadInput: None, or one that is none.
    """
    allowed = f"numbers from {LEAST_K:g} to {MOST_K:g}, K"
    try:
        kelvins = sorted({float(kelvin) for kelvin in np.atleast_1d(np.asarray(temperatures_K, dtype=float)).tolist()})
    except (TypeError, ValueError) as error:
        raise BadInput("--temperature", repr(temperatures_K), allowed=allowed, fix="--temperature 300 600 1000") from error
    wrong = [kelvin for kelvin in kelvins if not LEAST_K <= kelvin <= MOST_K]
    if wrong or not kelvins:
        problem = f"{wrong[0]:g} K" if wrong else "none given"
        raise BadInput("--temperature", problem, allowed=allowed, fix="--temperature 300 600 1000")
    return kelvins


def check_used(flag: str, path: Path | None, used: bool, kelvins: str) -> None:
    """Refuse a model file that these temperatures do not ask for.

    Raises:
        BadInput: One is given.
    """
    if path is not None and not used:
        problem = f"{path} is not used at these temperatures"
        raise BadInput(
            flag, problem, allowed=f"with --temperature {kelvins}", fix=f"leave it out, or add --temperature {kelvins}"
        )


def check_species(model: TransportModel, species: str) -> None:
    """Reject a mobile ion that the model was not trained on.

    Raises:
        BadInput: Another species, or no element.
    """
    from ase.data import chemical_symbols

    known = chemical_symbols[model.mobile]
    if species != known:
        other = (
            f"; for other ions: mdistill distill FILE --mobile {species}, or --temperature 600 1000"
            if species in chemical_symbols[1:]
            else ""
        )
        raise BadInput(
            "--species",
            species,
            allowed=f"{known}: the model was trained on {known} conductors alone",
            fix=f"--species {known}{other}",
        )
