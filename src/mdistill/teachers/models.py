"""One name or path to a potential: a student file, a known teacher, or any ASE calculator by import path."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mdistill.errors import BadInput
from mdistill.library.cards import student_file
from mdistill.settings import USUAL_TIMEOUT
from mdistill.types import Potential

if TYPE_CHECKING:
    from mdistill.nets.network import StrideMap

STUDENT_SUFFIX, STRIDE = ".mdistill", "stride.mdistill"
Precision = Literal["float32", "float64"]


def load(
    name: str | Path, *, device: str = "cpu", precision: Precision = "float64", subject: str = "teacher",
    timeout_s: float = USUAL_TIMEOUT,
) -> Potential:  # fmt: skip
    """A potential by path or name.

    Args:
        name: A student file (`student.mdistill`), a run folder that holds one, a ready student's name (`mdistill models`), a
            teacher's name (`sevennet-0`), or `module:attribute` of an ASE calculator class or factory.
        device: "cpu", "cuda", "cuda:N" or "auto".
        precision: What a student computes in; energies are always summed in float64. float32 is nearly twice as fast and
            what `distill` uses for dynamics (its NVE drift gate judges it). Teachers keep their own.
        subject: Name of the flag or argument, for messages.
        timeout_s: Longest call of an ASE calculator, s; a longer one fails.
    Raises:
        BadInput: No such file or teacher, or a file that is no model.
        MissingPackage: The teacher's package is not installed.
    """
    path = located(name)
    if os.path.isdir(path):  # False for what is too long for a path
        path = find_student(path)
    if path.suffix == STUDENT_SUFFIX or os.path.isfile(path):
        import torch

        from mdistill.nets.compiled import compiled
        from mdistill.nets.model_files import load_model
        from mdistill.teachers.devices import resolve_device
        from mdistill.teachers.tuned import is_tuned, load_tuned

        device = resolve_device(device)
        if is_tuned(path):
            return load_tuned(path, device=device)
        return compiled(load_model(path, device=device, dtype=getattr(torch, precision)), double=precision == "float64")
    from mdistill.teachers import load_teacher

    return load_teacher(str(name), device=device, subject=subject, timeout_s=timeout_s)


def located(name: str | Path) -> Path:
    """The path that a name means: itself, or the file of a ready student where nothing lies at that path."""
    ready = None if os.path.exists(name) else student_file(name)
    return Path(name) if ready is None else ready


def find_student(folder: Path) -> Path:
    """The newest student of a run folder: the one of hard labels, that after the last on-policy round, else the first fit's.

    Raises:
        BadInput: The folder holds no student.
    """
    for pattern in ("student.mdistill", "harden/student.mdistill", "refine/student.mdistill", "train/student.mdistill"):
        if (folder / pattern).is_file():
            return folder / pattern
    allowed = "a student file or a run folder made by `mdistill distill` or `mdistill train`"
    fix = "check the path, or train one: mdistill train potential LABELS --out FOLDER"
    raise BadInput(folder, "holds no student.mdistill", allowed=allowed, fix=fix)


def load_stride(path: Path, *, student: Path | None = None, precision: Precision = "float32") -> StrideMap:
    """A long-stride map from a model file or the folder that holds it, in the float type it is to compute in.

    Args:
        path: The model file or its folder.
        student: If given, the student (or its run folder) that the map must belong to.
        precision: float32 or float64.
    Raises:
        BadInput: No such file, one that holds no map, or a map of another student.
    """
    import torch

    from mdistill.nets.model_files import load_map, read_metadata

    file = path / STRIDE if path.is_dir() else path
    net = load_map(file)
    if student is not None and student.exists():
        sha256 = read_metadata(find_student(student) if student.is_dir() else student)["sha256"]
        taught = read_metadata(file)["provenance"].get("potential")
        if taught != sha256:
            problem = f"belongs to another student (sha256 {str(taught)[:12]}…, this one has {sha256[:12]}…)"
            raise BadInput(file, problem, allowed="a map and its student", fix="mdistill train stride --from RUN")
    elif student is not None:
        raise BadInput(file, f"with {student}", allowed="the student of the map", fix="name its file or run folder")
    return net.in_type(getattr(torch, precision)).requires_grad_(False)
