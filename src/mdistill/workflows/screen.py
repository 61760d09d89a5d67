"""Screening: conductivity at 300 K of many structures, ranked; files that cannot be used are listed and the rest goes on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from mdistill.crystals.checks import check_crystal, check_file
from mdistill.crystals.crystal import Crystal, reduced_formula
from mdistill.errors import BadInput, MdistillError
from mdistill.interrupt import NEVER, StopRequest
from mdistill.io.structures import from_atoms, read_structure
from mdistill.notices import notify
from mdistill.progress import progress
from mdistill.runs.results import Results
from mdistill.transport.features import material_of
from mdistill.transport.model import TransportModel, load_transport, shipped_model
from mdistill.transport.predict import check_conductor, predict
from mdistill.transport.read import FilesRead, Usable
from mdistill.transport.tables import Candidate, Refusal, screen_results

SUFFIXES = (".cif", ".mcif", ".vasp", ".poscar", ".contcar", ".xyz", ".extxyz", ".traj")
"""Ends of the names of structures in a folder; POSCAR and CONTCAR begin names too. .gz, .bz2 and .xz may follow."""
_NAMES = ("poscar", "contcar")
_SEVERAL = ("extxyz", "xyz", "traj")


def screen(
    paths: Sequence[Path], *, species: str = "Li", model: Path | None = None, kept: Path | None = None, stop: StopRequest = NEVER
) -> Results:
    """Ranked conductivities at 300 K of all structures in these files and folders.

    Args:
        paths: Files (an extended XYZ may hold many structures) and folders, which are searched with all below them.
        species: The mobile ion.
        model: Model file of `mdistill train transport` (default: that of the package).
        kept: File of what was read; files in it are not read again.
        stop: Checked before each file; after a request those that were read are ranked.
    Returns:
        Results with the tables "screen" and "unread".
    Raises:
        BadInput: No file, no structure that can be used, or a species that the model was not trained on.
        Interrupted: A stop was requested before any file was read.
    """
    trained = shipped_model() if model is None else load_transport(model)
    check_species(trained, species)
    files, left_out = structure_files(paths)
    usable, refused, before, read = list[Usable](), list[Refusal](), FilesRead(kept), 0
    with progress("screen", len(files), unit="file") as advance:
        for file, name in files:
            if stop.pending():
                break
            key = before.key(file, name, trained.mobile)
            if (found := before.find(key)) is None:
                before.keep(key, found := list(_structures(file, name, trained.mobile)))
            for one in found:
                (usable if isinstance(one, Usable) else refused).append(one)  # type: ignore[arg-type]
            read += 1
            advance(1, f"{len(refused)} not usable" if refused else "")
    if not usable:
        stop.raise_if_pending()
    if not usable:
        first = refused[0]
        problem = f"no structure that can be used; the first of {len(refused)}, {first.name}: {first.reason}"
        raise BadInput("files", problem, allowed=f"structures with {species} (CIF, POSCAR, extxyz)", fix=first.fix)
    if read < len(files):
        notify(f"stopped after {read} of {len(files)} files: the ranking holds these alone")
    sigmas = predict(trained, [one.material for one in usable])
    candidates = [
        Candidate(name=one.name, formula=one.formula, space_group=one.material.space_group, conductivity=sigma, notes=one.notes)
        for one, sigma in zip(usable, sigmas, strict=True)
    ]
    return screen_results(candidates, refused, trained, left_out=left_out)


def check_species(model: TransportModel, species: str) -> None:
    """Reject a mobile ion that the model was not trained on.

    Raises:
        BadInput: Another species, or no element.
    """
    from ase.data import chemical_symbols

    known = chemical_symbols[model.mobile]
    if species != known:
        other = f"; for other ions: mdistill distill FILE --mobile {species}" if species in chemical_symbols[1:] else ""
        raise BadInput(
            "--species",
            species,
            allowed=f"{known}: the model was trained on {known} conductors alone",
            fix=f"--species {known}{other}",
        )


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


def _structures(file: Path, name: str, mobile: int) -> Iterator[Usable | Refusal]:
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
            check_conductor(crystal, mobile)
            yield Usable(
                name=shown, formula=reduced_formula(crystal.composition), material=material_of(crystal), notes=crystal.notes
            )
        except Exception as error:
            yield _refusal(shown, error)


def _frames(file: Path) -> list[object]:
    """The structure of a file, or ASE atoms where the file holds several."""
    kind = check_file(file)
    if kind in _SEVERAL:
        from ase.io import read

        frames = read(file, index=":", format=kind, do_not_split_by_at_sign=True)
        if len(frames) > 1:
            return list(frames)
    return [read_structure(file)]


def _refusal(name: str, error: Exception) -> Refusal:
    if isinstance(error, BadInput):
        return Refusal(name=name, reason=error.problem, fix=error.fix)
    reason = str(error) if isinstance(error, MdistillError) else f"unreadable ({type(error).__name__}: {str(error)[:150]})"
    return Refusal(name=name, reason=" ".join(reason.split()), fix="check the file, or export it again")
