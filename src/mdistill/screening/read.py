"""What a screening reads of each file and predicts of its motion, kept as one line a file, so that an interrupted one resumes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mdistill import __version__
from mdistill.crystals.checks import check_crystal, check_file
from mdistill.crystals.crystal import Crystal, reduced_formula
from mdistill.crystals.task_checks import check_conductor
from mdistill.errors import BadInput, MdistillError
from mdistill.io.files import append_line, sha256
from mdistill.io.structures import from_atoms, read_structure, unreadable
from mdistill.screening.candidates import Refusal, Usable
from mdistill.settings import to_json
from mdistill.transport.correction import correction_inputs
from mdistill.transport.features import Material, material_of
from mdistill.transport.ion_rows import ion_structure
from mdistill.transport.motion import MotionModel
from mdistill.transport.predict_motion import Motion, StructureMotion, predict_motion
from mdistill.types import Potential

_SEVERAL = ("extxyz", "xyz", "traj")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is asked of each structure.

    Attributes:
        mobile: Atomic number of the mobile ion.
        room: Whether σ(300 K).
        correct: Model of motion whose predictions correct it.
        motion, temperatures_K: Motion at temperatures, by a model.
        teacher: Foundation model of the features of its nets, where it has some.
        digest: What tells these models from others.
    """

    mobile: int
    room: bool = True
    correct: MotionModel | None = None
    motion: MotionModel | None = None
    teacher: Potential | None = None
    temperatures_K: tuple[float, ...] = ()
    digest: str = ""


@dataclass(slots=True)
class FilesRead:
    """Structures and refusals of the files that were read, by content; kept in a file where `path` is given."""

    path: Path | None = None
    known: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path is not None and self.path.is_file():
            text = self.path.read_text(encoding="utf-8", errors="replace")
            if text and not text.endswith("\n"):
                append_line(self.path, "")
            for line in text.splitlines():
                with suppress(ValueError, KeyError, TypeError):  # a torn line: its file is read again
                    entry = json.loads(line)
                    self.known[entry["key"]] = entry["found"]

    def key(self, file: Path, name: str, asked: Asked) -> str:
        """What decides what is read of a file; "" where it cannot be read."""
        motion = f"/{asked.room}/{asked.temperatures_K}" if asked.motion is not None else ""
        with suppress(OSError):
            return f"{sha256(file)}/{name}/{asked.mobile}/{__version__}/{asked.digest}{motion}"
        return ""

    def find(self, key: str) -> list[Usable | Refusal] | None:
        """What was read of a file before."""
        with suppress(KeyError, TypeError, ValueError, AttributeError):
            return [_from_json(one) for one in self.known[key]]
        return None

    def keep(self, key: str, found: Sequence[Usable | Refusal]) -> None:
        """Keep what was read, unless a failure that may pass is in it."""
        lasting = not any(isinstance(one, Refusal) and one.passing for one in found)
        if self.path is not None and key and lasting:
            append_line(self.path, json.dumps({"key": key, "found": to_json(list(found))}, ensure_ascii=False))


def _from_json(raw: dict[str, Any]) -> Usable | Refusal:
    if "material" not in raw:
        return Refusal(**raw)
    made, numbers = raw["material"], {int(z): float(n) for z, n in raw["material"]["composition"].items()}
    lengths = (made["lengths"][0], made["lengths"][1], made["lengths"][2])
    material = Material(**{**made, "composition": numbers, "lengths": lengths})
    return Usable(
        name=raw["name"], formula=raw["formula"], material=material, notes=tuple(raw["notes"]),
        sites=None if raw["sites"] is None else tuple(raw["sites"]),
        motion=None if raw["motion"] is None else _motion(raw["motion"]),
    )  # fmt: skip


def _motion(raw: dict[str, Any]) -> StructureMotion:
    motions = []
    for one in raw["motions"]:
        kept: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in one.items()}
        motions.append(Motion(**kept))
    return StructureMotion(
        motions=tuple(motions), activation=raw["activation"], activation_error=tuple(raw["activation_error"]),
        distance=raw["distance"], doubts=tuple(raw["doubts"]),
    )  # fmt: skip


def structures_in(file: Path, name: str, asked: Asked) -> Iterator[Usable | Refusal]:
    """Every structure of a file, or the reason why it cannot be used. One bad structure never stops the others."""
    try:
        frames = _frames(file)
    except Exception as error:
        yield _refusal(name, error)
        return
    for number, frame in enumerate(frames):
        shown = name if len(frames) == 1 else f"{name}#{number + 1}"
        try:
            crystal = frame if isinstance(frame, Crystal) else from_atoms(frame, source=shown)
            if not isinstance(frame, Crystal):
                check_crystal(crystal)
            check_conductor(crystal, asked.mobile)
            yield _usable(crystal, shown, asked)
        except Exception as error:
            yield _refusal(shown, error)


def _usable(crystal: Crystal, name: str, asked: Asked) -> Usable:
    """What is predicted from; a structure without motion is still good for σ(300 K), where that is asked for.

    Raises:
        BadInput: No motion, and nothing else asked for.
    """
    motion, sites, notes, material = None, None, crystal.notes, material_of(crystal)
    if asked.correct is not None and material.symmetry_known:
        sites = tuple(correction_inputs(crystal, asked.correct, mobile=asked.mobile).tolist())
    if asked.motion is not None:
        try:
            motion = predict_motion(
                asked.motion, ion_structure(crystal, asked.teacher, mobile=asked.mobile), asked.temperatures_K
            )
        except MdistillError as error:
            if not asked.room:
                raise
            notes = (*notes, f"no motion: {error.problem if isinstance(error, BadInput) else error}")
    return Usable(
        name=name, formula=reduced_formula(crystal.composition), material=material, notes=notes, sites=sites, motion=motion
    )


def _frames(file: Path) -> list[object]:
    """The structure of a file, or ASE atoms where the file holds several."""
    kind = check_file(file)
    if kind in _SEVERAL:
        from ase.io import read

        try:
            frames = read(file, index=":", format=kind, do_not_split_by_at_sign=True)
        except (KeyError, ValueError) as error:
            raise unreadable(file, kind, error, ":") from error
        if len(frames) > 1:
            return list(frames)
    return [read_structure(file)]


def _refusal(name: str, error: Exception) -> Refusal:
    if isinstance(error, BadInput):
        return Refusal(name=name, reason=error.problem, fix=error.fix)
    reason = str(error) if isinstance(error, MdistillError) else f"unreadable ({type(error).__name__}: {str(error)[:150]})"
    return Refusal(name=name, reason=" ".join(reason.split()), fix="check the file, or export it again", passing=True)
