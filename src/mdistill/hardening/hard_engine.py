"""Engines of hard labels by name or file, and what of a structure they cannot label."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from mdistill.crystals.crystal import Crystal
from mdistill.data.store import INDEX, LabelStore
from mdistill.errors import BadInput
from mdistill.hardening.made_elsewhere import engine_of
from mdistill.labelling.engine import Engine
from mdistill.labelling.hard_settings import Cp2kSettings, MoleculeDftSettings
from mdistill.labelling.import_labels import import_labels
from mdistill.labelling.remembered import load_engine
from mdistill.notices import notify
from mdistill.teachers.models import STUDENT_SUFFIX


def load_hard_engine(
    name: str, *, cp2k: Cp2kSettings, pyscf: MoleculeDftSettings, subject: str, home: Path, elements: Collection[int],
    device: str = "cpu",
) -> Engine:  # fmt: skip
    """The engine of hard labels: a file or folder with labels, or what `load_engine` knows.

    Args:
        name: Path or name.
        cp2k, pyscf, subject, home, device: As for `load_engine`.
        elements: Atomic numbers that labels of a file may hold: those of the students.
    Raises:
        BadInput: As `load_engine`; or fewer than two structures with energy and forces, or another element.
    """
    path = Path(name)
    if not (path / INDEX).is_file() and (not path.is_file() or path.suffix == STUDENT_SUFFIX):
        return load_engine(name, cp2k=cp2k, pyscf=pyscf, subject=subject, device=device, home=home)
    read = LabelStore(path).read() if path.is_dir() else import_labels(path, hold_out=False).frames
    frames = [frame for frame in read if not frame.missing]
    if len(frames) < 2:
        problem = f"{len(frames)} of {len(read)} structures have energy and forces"
        raise BadInput(path, problem, allowed="two or more", fix=f"{subject} with another file")
    if len(frames) < len(read):
        notify(f"{path}: {len(read) - len(frames)} structures without energy or without forces are left out")
    engine = engine_of(frames, path.name)
    if unknown := engine.elements - set(elements):
        from ase.data import chemical_symbols

        names = ", ".join(chemical_symbols[z] for z in sorted(unknown))
        raise BadInput(path, f"holds {names}", allowed="elements of the students", fix="leave these structures out")
    return engine


def check_engine(name: str, crystal: Crystal, *, matter: str, cp2k: Cp2kSettings, pyscf: MoleculeDftSettings) -> None:
    """Refuse what the engine of hard labels would refuse after the stages before it.

    Raises:
        BadInput: PySCF for something periodic, or another charge or number of unpaired electrons than the structure states.
    """
    if name == "cp2k":
        if crystal.unpaired:
            allowed, fix = "closed shells, for cp2k", "--hard pyscf for a molecule"
            raise BadInput("--hard", f"cp2k, for {crystal.unpaired} unpaired electrons", allowed=allowed, fix=fix)
        if crystal.charge is not None and crystal.charge != cp2k.charge:
            allowed, fix = f"{crystal.charge}, as the structure states", f"--cp2k.charge {crystal.charge}"
            raise BadInput("--cp2k.charge", f"{cp2k.charge}", allowed=allowed, fix=fix)
    if name != "pyscf":
        return
    if matter != "molecule":
        allowed, fix = "a molecule, for pyscf", "--hard cp2k for periodic structures"
        raise BadInput("--hard", f"pyscf, for a {matter}", allowed=allowed, fix=fix)
    for field, told, stated in (("charge", pyscf.charge, crystal.charge), ("spin", pyscf.spin, crystal.unpaired)):
        if stated is not None and told != stated:
            allowed, fix = f"{stated}, as the structure states", f"--pyscf.{field} {stated}"
            raise BadInput(f"--pyscf.{field}", f"{told}", allowed=allowed, fix=fix)
