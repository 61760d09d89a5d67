"""mdistill doctor: versions, hardware, teachers, missing packages."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from mdistill.flags.arguments import finish, parse, stamped

if TYPE_CHECKING:
    from mdistill.runs.results import Cell
    from mdistill.teachers.cards import Teacher

PACKAGES = (
    "mdistill", "torch", "numpy", "ase", "vesin", "pymatgen", "h5py", "safetensors", "matplotlib", "e3nn", "sevenn",
    "chgnet", "mace-torch", "orb-models", "mattersim", "upet", "phonopy",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DoctorArguments:
    """What to check."""

    out: Path | None = None
    """Folder for results.json (default: print only)."""


HELP = """\
Versions, hardware, threads; teachers with what each lacks (package, weights, other versions) and where weights are looked
for. Builds a tiny kernel to test whether students run in compiled code.

examples:
  mdistill doctor
  mdistill doctor --out runs/doctor
"""
GROUPS = {"run": ("out",)}


def main(arguments: list[str]) -> int:
    """Print the check-up; 0 also when an optional teacher is missing."""
    settings = parse(DoctorArguments, arguments, program="mdistill doctor", description=HELP, groups=GROUPS)
    from mdistill.kernels.build import cache_folder, compiler
    from mdistill.runs.hardware import hardware
    from mdistill.runs.results import Results, Table
    from mdistill.teachers.cards import TEACHERS
    from mdistill.teachers.dispersion import PIP
    from mdistill.teachers.weights import places

    columns = ["package", "version"]
    packages = Table("packages", "Packages", "settings", columns, [[name, version(name) or "not installed"] for name in PACKAGES])
    teachers = Table(
        "teachers", "Teachers", "settings", ["teacher", "state", "next"], [teacher_row(card) for card in TEACHERS.values()]
    )
    teachers.rows.append(["dispersion, sevennet-0+d3", *(["ready", ""] if version("dftd3") else ["package missing", PIP])])
    looked: list[list[Cell]] = [[card.name, " or ".join(map(str, places(card)))] for card in TEACHERS.values() if card.weights]
    weights = Table("weights", "Where weights are looked for", "settings", ["teacher", "file"], looked)
    machine = Table(
        "machine", "Machine", "settings", ["what", "found"], [[k, "none" if v is None else str(v)] for k, v in hardware().items()]
    )
    machine.rows.append(["C++ compiler", compiler() or "none"])
    machine.rows.append(["students run", students_run()])
    machine.rows.append(["built kernels", str(cache_folder())])
    finish(stamped(Results(command="doctor", tables=[packages, teachers, weights, machine]), settings), settings.out)
    return 0


def teacher_row(card: Teacher) -> list[Cell]:
    """Its name, whether it is ready, and what to type where it is not."""
    from mdistill.errors import BadInput
    from mdistill.teachers.weights import conflicts, find_weights

    wrong = "; ".join(conflicts(card))
    if not version(card.package):
        return [card.name, "package missing", f"{card.pip_line}{f' (conflict: {wrong})' if wrong else ''}"]
    try:
        here = card.weights is None or find_weights(card) is not None
    except BadInput as damaged:
        return [card.name, "weights damaged", f"{damaged.subject}: {damaged.fix}"]
    if not here:
        return [card.name, "weights missing", f"mdistill download {card.name}"]
    return [card.name, "conflict", wrong] if wrong else [card.name, "ready", ""]


def students_run() -> str:
    """How students run on this machine, tested with a tiny kernel."""
    from mdistill.kernels.build import enabled
    from mdistill.kernels.moment import SLOW, build_failure
    from mdistill.kernels.prebuilt import FOLDER, INDEX

    reason = build_failure() if enabled() else "MDISTILL_COMPILED=0 turns compiled code off"
    if reason is not None and enabled() and (FOLDER / INDEX).is_file():
        return f"in compiled code of the package, usual sizes alone: {reason}"
    return "in compiled code" if reason is None else f"{SLOW}: {reason}"


def version(package: str) -> str | None:
    """Installed version of a package, None where it is absent."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
