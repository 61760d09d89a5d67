"""mdistill doctor: versions, hardware, teachers, missing packages."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from mdistill.commands.arguments import finish, parse, stamped

PACKAGES = (
    "mdistill", "torch", "numpy", "ase", "vesin", "pymatgen", "h5py", "safetensors", "matplotlib", "sevenn", "chgnet",
    "phonopy",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DoctorArguments:
    """What to check."""

    out: Path | None = None
    """Folder for results.json (default: print only)."""


HELP = """\
Versions, hardware, threads, installed teachers, and the pip line of each missing one. Builds a tiny kernel to test
whether students run in compiled code.

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
    from mdistill.runs.results import Cell, Results, Table
    from mdistill.teachers import TEACHERS

    columns = ["package", "version"]
    packages = Table("packages", "Packages", "settings", columns, [[name, version(name) or "not installed"] for name in PACKAGES])
    rows: list[list[Cell]] = [
        [name, teacher.package, "ready" if version(teacher.package) else "missing", teacher.pip_line]
        for name, teacher in TEACHERS.items()
    ]
    teachers = Table("teachers", "Teachers", "settings", ["teacher", "package", "state", "install with"], rows)
    machine = Table(
        "machine", "Machine", "settings", ["what", "found"], [[k, "none" if v is None else str(v)] for k, v in hardware().items()]
    )
    machine.rows.append(["C++ compiler", compiler() or "none"])
    machine.rows.append(["students run", students_run()])
    machine.rows.append(["built kernels", str(cache_folder())])
    finish(stamped(Results(command="doctor", tables=[packages, teachers, machine]), settings), settings.out)
    return 0


def students_run() -> str:
    """How students run on this machine, tested with a tiny kernel."""
    from mdistill.kernels.build import enabled
    from mdistill.kernels.moment import SLOW, build_failure

    reason = build_failure() if enabled() else "MDISTILL_COMPILED=0 turns compiled code off"
    return "in compiled code" if reason is None else f"{SLOW}: {reason}"


def version(package: str) -> str | None:
    """Installed version of a package, None where it is absent."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
