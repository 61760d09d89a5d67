"""One name or path to a potential: a student file, a known teacher, or any ASE calculator by import path."""

from __future__ import annotations

from pathlib import Path

from mdistill.errors import BadInput
from mdistill.types import Potential

STUDENT_SUFFIX = ".mdistill"


def load(name: str | Path, *, device: str = "cpu") -> Potential:
    """A potential by path or name.

    Args:
        name: A student file (`student.mdistill`), a run folder that holds one, a teacher name (`sevennet-0`), or
            `module:attribute` of an ASE calculator class or factory.
        device: "cpu" or "cuda".
    Raises:
        BadInput: No such file or teacher, or a file that is no model.
        MissingPackage: The teacher's package is not installed.
    """
    path = Path(name)
    if path.is_dir():
        path = find_student(path)
    if path.suffix == STUDENT_SUFFIX or path.is_file():
        from mdistill.training.checkpoint import load_model

        return load_model(path, device=device)
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
