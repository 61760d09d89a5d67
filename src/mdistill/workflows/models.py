"""One name or path to a potential: a student file, a known teacher, or any ASE calculator by import path."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from mdistill.errors import BadInput
from mdistill.types import Potential

STUDENT_SUFFIX = ".mdistill"
Precision = Literal["float32", "float64"]


def load(name: str | Path, *, device: str = "cpu", precision: Precision = "float64") -> Potential:
    """A potential by path or name.

    Args:
        name: A student file (`student.mdistill`), a run folder that holds one, a teacher name (`sevennet-0`), or
            `module:attribute` of an ASE calculator class or factory.
        device: "cpu" or "cuda".
        precision: What a student computes in; energies are always summed in float64. float32 is nearly twice as fast and
            what `distill` uses for dynamics (its NVE drift gate judges it). Teachers keep their own.
    Raises:
        BadInput: No such file or teacher, or a file that is no model.
        MissingPackage: The teacher's package is not installed.
    """
    path = Path(name)
    if path.is_dir():
        path = find_student(path)
    if path.suffix == STUDENT_SUFFIX or path.is_file():
        import torch

        from mdistill.nets.compiled import compiled
        from mdistill.training.checkpoint import load_model

        return compiled(load_model(path, device=device, dtype=getattr(torch, precision)), double=precision == "float64")
    from mdistill.teachers import load_teacher

    return load_teacher(str(name), device=device)


def find_student(folder: Path) -> Path:
    """The newest student of a run folder: the one after the last on-policy round, else the first fit's.

    Raises:
        BadInput: The folder holds no student.
    """
    for pattern in ("student.mdistill", "refine/student.mdistill", "train/student.mdistill"):
        if (folder / pattern).is_file():
            return folder / pattern
    raise BadInput(
        folder,
        "holds no student.mdistill",
        allowed="a student file or a run folder made by `mdistill distill` or `mdistill train`",
        fix="check the path, or train one: mdistill train potential LABELS --out FOLDER",
    )
