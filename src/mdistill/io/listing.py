"""Structure files by name: those of folders, with all below them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mdistill.errors import BadInput

SUFFIXES = (".cif", ".mcif", ".vasp", ".poscar", ".contcar", ".xyz", ".extxyz", ".traj")
"""Ends of the names of structures in a folder; POSCAR and CONTCAR begin names too. .gz, .bz2 and .xz may follow."""
_NAMES = ("poscar", "contcar")


def structure_files(paths: Sequence[Path]) -> tuple[list[tuple[Path, str]], int]:
    """Files with the names to show, and how many files of folders were left out for their names.

    Raises:
        BadInput: No path, a path that does not exist, or no structure in a folder.
    """
    found, left_out = dict[Path, str](), 0
    for path in paths:
        if not path.is_dir():
            found.setdefault(path, str(path))
            continue
        inside = sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))
        chosen = [file for file in inside if _named_like_structure(file)]
        left_out += len(inside) - len(chosen)
        for file in chosen:
            found.setdefault(file, str(file.relative_to(path)) if len(paths) == 1 else str(file))
        if not chosen:
            fix = "name the files themselves, or give them the extension of their format"
            raise BadInput(path, "no structure in this folder", allowed=", ".join((*SUFFIXES, "POSCAR*", "CONTCAR*")), fix=fix)
    if not found:
        raise BadInput("files", "none given", allowed="structure files and folders", fix="mdistill screen FOLDER --species Li")
    return list(found.items()), left_out


def _named_like_structure(file: Path) -> bool:
    name = file.name.lower()
    for packed in (".gz", ".bz2", ".xz"):
        name = name.removesuffix(packed)
    return name.endswith(SUFFIXES) or name.startswith(_NAMES)
