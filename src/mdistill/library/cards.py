"""Ready students by name. Each is NAME.mdistill, NAME.extxyz (a structure to begin with), NAME.json (its card), and where the run
is known NAME.results.gz (its results, of which the report page is made).

Those of the package lie beside this module, the user's own in `own_folder`. The card holds the sha256 of the others.
"""

from __future__ import annotations

import difflib
import gzip
import json
import math
import os
import re
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import copyfile
from typing import Any

from mdistill.errors import BadInput
from mdistill.estimates import Estimate, Gate
from mdistill.io.files import read_json, replacing, sha256, write_bytes, write_json
from mdistill.library.plain import places_in, plain_command, without_paths
from mdistill.nets.model_files import load_net, read_metadata, save_model
from mdistill.runs.folder import run_settings
from mdistill.runs.results import FORMAT, Results, parsed_results, read_results
from mdistill.runs.sealed import sealed
from mdistill.settings import from_json, to_json

SHIPPED = Path(__file__).parent
STUDENT, STRUCTURE, RESULTS = ".mdistill", ".extxyz", ".results.gz"
FAILED = "FAILED"
LARGEST = 500_000
"""Largest file of a student in the package, bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A gate as its card shows it."""

    name: str
    measured: str
    limit: str
    verdict: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What a ready student is.

    Attributes:
        name: Its name: formula-teacher.
        formula, elements: Composition that it was taught.
        teacher: Its teacher.
        temperatures_K: Lowest and highest temperature of the gates.
        taught_K: Lowest and highest temperature of its labels.
        gates: Every gate that was judged.
        labels: What it was fitted to, in words.
        command: What made it. version, created, processor: by which package, when, on what.
        citations: Keys of the references of its run.
        licence: Of the student.
        student_sha256, structure_sha256, results_sha256: Of its files; "" without results.
    """

    name: str
    formula: str
    elements: tuple[str, ...]
    teacher: str
    temperatures_K: tuple[float, ...]
    taught_K: tuple[float, ...]
    gates: tuple[Judged, ...]
    labels: str
    command: str
    version: str
    created: str
    processor: str
    citations: tuple[str, ...]
    licence: str
    student_sha256: str = ""
    structure_sha256: str = ""
    results_sha256: str = ""

    @property
    def files(self) -> dict[str, str]:
        """Endings of its files, with their sha256."""
        known = {STUDENT: self.student_sha256, STRUCTURE: self.structure_sha256}
        return known | ({RESULTS: self.results_sha256} if self.results_sha256 else {})

    @property
    def failed(self) -> list[str]:
        return [one.name for one in self.gates if one.verdict == FAILED]


def own_folder() -> Path:
    """Folder of the user's own: $MDISTILL_MODELS, else mdistill/models in the user's data folder."""
    base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return Path(os.environ.get("MDISTILL_MODELS") or base / "mdistill" / "models")


def names() -> dict[str, Path]:
    """Every name with the folder of its files; one of the user's own hides one of the package."""
    return {path.stem: folder for folder in (SHIPPED, own_folder()) for path in sorted(folder.glob("*.json"))}


def read_card(name: str) -> Card:
    """The card of a ready student.

    Raises:
        BadInput: No such name, or a card that cannot be read.
    """
    known = names()
    if name not in known:
        close = difflib.get_close_matches(name.lower(), known, n=1)
        fix = f"did you mean {close[0]}?" if close else "mdistill models lists them"
        raise BadInput("model", f"{name!r} is no ready student", allowed=", ".join(known) or "none is there", fix=fix)
    path = known[name] / f"{name}.json"
    card = from_json(Card, read_json(path), source=path)
    if card.name != name:
        raise BadInput(path, f"is the card of {card.name}", allowed=f"a card of {name}", fix=_again(name, path.parent))
    return card


def shipped() -> list[Card]:
    """The cards of the package's students, each checked against its files.

    Raises:
        BadInput: A card that cannot be read, or a file that is absent or was altered.
    """
    found = [from_json(Card, read_json(path), source=path) for path in sorted(SHIPPED.glob("*.json"))]
    for card in found:
        for suffix in card.files:
            checked(card, SHIPPED, suffix)
    return found


def student_file(name: str | Path) -> Path | None:
    """The model file of a ready student, checked against its card; None where no student has this name.

    Raises:
        BadInput: Its file is absent or was altered.
    """
    folder = names().get(str(name))
    return None if folder is None else checked(read_card(str(name)), folder, STUDENT)


def checked(card: Card, folder: Path, suffix: str) -> Path:
    """One of its files, checked against its card.

    Raises:
        BadInput: The file is absent or was altered.
    """
    path = folder / f"{card.name}{suffix}"
    if not path.is_file() or sha256(path) != card.files[suffix]:
        problem = "was altered: its sha256 is not that of its card" if path.is_file() else "is missing"
        raise BadInput(path, problem, allowed="the file of its card", fix=_again(card.name, folder))
    return path


def _again(name: str, folder: Path) -> str:
    """How to get its files again."""
    if folder == SHIPPED:
        return "install the package again"
    return f"remove {folder / name}.*, then mdistill models add RUN --name {name}"


def add(run: Path, name: str, folder: Path, *, licence: str = "", taken: Collection[str] = ()) -> Card:
    """Make the student of a run a ready one; its own evaluation is kept, the paths in its header become names.

    Args:
        run: Run folder of `mdistill distill`.
        name: Its name; "": formula-teacher.
        folder: Where its files go.
        licence: Its licence.
        taken: Names that mean something else.
    Raises:
        BadInput: No finished run, or a name that is taken or cannot be used.
    """
    results, student = read_results(run), run / "student.mdistill"
    if not student.is_file() or not results.gates:
        problem = "holds no student with gates"
        raise BadInput(run, problem, allowed="a finished run of mdistill distill", fix="mdistill distill CRYSTAL --out RUN")
    formula, teacher = (str(results.provenance.get(key, "")) for key in ("formula", "teacher"))
    name = name or f"{formula}-{teacher}".lower()
    allowed, fix = "lower-case letters, digits, dots and dashes, not yet taken", "choose another --name"
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{0,79}", name) or name in taken:
        raise BadInput("--name", name, allowed=allowed, fix=fix)
    if (folder / f"{name}.json").exists():
        raise BadInput("--name", f"{name} is taken", allowed=allowed, fix=f"{fix}, or remove {folder / name}.*")
    folder.mkdir(parents=True, exist_ok=True)
    model, structure = folder / f"{name}{STUDENT}", folder / f"{name}{STRUCTURE}"
    header = read_metadata(student)
    places = {str(run.resolve().parent), *places_in(header["provenance"]), *places_in(to_json(results))}
    save_model(model, load_net(student), without_paths(header["provenance"], places))
    _write_structure(run, structure)
    kept = _write_results(results, folder / f"{name}{RESULTS}", places)
    card = _card(name, run, results, header, licence)
    card = replace(card, student_sha256=sha256(model), structure_sha256=sha256(structure), results_sha256=sha256(kept))
    write_json(folder / f"{name}.json", to_json(card))
    return card


def _write_structure(run: Path, path: Path) -> None:
    """The first relaxed structure of the run."""
    from ase.io import read, write

    from mdistill.io.structures import STRUCTURES

    atoms = read(run / "prepare" / STRUCTURES, index=0, format="extxyz")
    with replacing(path) as partial:
        write(partial, atoms, format="extxyz")


def _write_results(results: Results, path: Path, places: Collection[str]) -> Path:
    """The results with names in place of paths, compressed."""
    line = plain_command(str(results.provenance.get("command_line", "")))
    named = replace(results, provenance=results.provenance | {"command_line": line})
    content = sealed(json.loads(json.dumps({"format": FORMAT} | without_paths(to_json(named), places))))
    write_bytes(path, gzip.compress(json.dumps(content, ensure_ascii=False).encode(), mtime=0))
    return path


def results_of(card: Card) -> Results | None:
    """The results of its run, checked; None where they are not known.

    Raises:
        BadInput: The file is absent or was altered.
    """
    if not card.results_sha256:
        return None
    path = checked(card, names()[card.name], RESULTS)
    try:
        raw = json.loads(gzip.decompress(path.read_bytes()))
    except (OSError, EOFError, zlib.error, ValueError) as error:
        problem = f"cannot be read ({type(error).__name__})"
        raise BadInput(path, problem, allowed="the results of its run", fix=_again(card.name, path.parent)) from error
    return parsed_results(raw, path)


def copy_files(card: Card, out: Path) -> list[Path]:
    """Copy the files of a ready student, checked, into a folder."""
    folder = names()[card.name]
    made = []
    for suffix in (STUDENT, STRUCTURE):
        source = checked(card, folder, suffix)
        with replacing(out / source.name) as partial:
            copyfile(source, partial)
        made.append(out / source.name)
    return made


def _card(name: str, run: Path, results: Results, header: Mapping[str, Any], licence: str) -> Card:
    from ase.data import chemical_symbols

    given, taught = run_settings(run), header["provenance"].get("taught") or {}
    sources = ", ".join(f"{count} {kind}" for kind, count in (taught.get("sources") or {}).items())
    judged = [one for one in results.gates if one.judged]
    gates = tuple(Judged(name=one.name, measured=_text(one.measured), limit=_limit(one), verdict=_verdict(one)) for one in judged)
    at, labels = sorted(given.get("temperatures") or [0.0]), sorted(taught.get("temperatures_K") or [0.0])
    return Card(
        name=name, formula=str(results.provenance.get("formula", "")),
        elements=tuple(chemical_symbols[z] for z in header["elements"]),
        teacher=str(results.provenance.get("teacher", "")), temperatures_K=(at[0], at[-1]), taught_K=(labels[0], labels[-1]),
        gates=gates, labels=sources + _hard(given), command=plain_command(str(results.provenance.get("command_line", ""))),
        version=results.version,
        created=results.created, processor=f"{results.hardware.get('processor', '')}, {results.hardware.get('instructions', '')}",
        citations=tuple(results.citations), licence=licence,
    )  # fmt: skip


def _hard(given: Mapping[str, Any]) -> str:
    """Of a run with hard labels: their number and the engine, without its folder."""
    engine = str(given.get("hard") or "")
    return f"; hard: {given.get('hard_budget', 40)} labels of {Path(engine).name}" if engine else ""


def _text(measured: Estimate) -> str:
    """A measured value ± its error as plain text, both to the first digit of the error."""
    if measured.value is None:
        return "not known"
    if not measured.error:
        return f"{measured.value:.4g} {measured.unit}".rstrip()
    digits = -math.floor(math.log10(measured.error))
    if digits > 4:
        return f"{measured.value:.1e} ± {measured.error:.0e} {measured.unit}".rstrip()
    value, error = (f"{round(x, digits):.{max(digits, 0)}f}" for x in (measured.value, measured.error))
    return f"{value} ± {error} {measured.unit}".rstrip()


def _limit(gate: Gate) -> str:
    return f"{'≤' if gate.sense == 'at most' else '≥'} {gate.limit:.3g}"


def _verdict(gate: Gate) -> str:
    """passed, FAILED, or that it is on the wrong side by less than its error allows."""
    value = gate.measured.value
    if not gate.passed or value is None:
        return FAILED
    inside = value <= gate.limit if gate.sense == "at most" else value >= gate.limit
    return "passed" if inside else "passed within its error"
