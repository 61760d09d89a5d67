"""Curvature of student and teacher: Hessian, vibrations, displaced structures and minimum."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Generator, Tensor

from mdistill.analysis.accuracy import Accuracy, accuracy
from mdistill.analysis.phonons import Bands, phonon_bands, primitive_cell
from mdistill.analysis.vibrations import Modes, displaced, hessian_error, normal_modes
from mdistill.data.probes import draw_probes
from mdistill.data.relax import Relaxation, relax
from mdistill.derivatives import curvature_products, unit_directions
from mdistill.errors import BadInput, MissingPackage
from mdistill.graph import build_graph
from mdistill.interrupt import NEVER, StopRequest
from mdistill.io.arrays import DAMAGED, read_arrays
from mdistill.io.files import replacing
from mdistill.judge.settings import VibrationSettings
from mdistill.judge.vibration_tables import SECTION, Compared, figures, tables, values
from mdistill.progress import progress
from mdistill.runs.hardware import hardware
from mdistill.runs.identity import model_id, structure_digests, tensors_sha256
from mdistill.runs.ledger import Ledger, Work
from mdistill.runs.results import Results, in_section
from mdistill.settings import to_json
from mdistill.types import LabelledFrame, Potential, Prediction, System

CURVATURE = "teacher_curvature.npz"
_BLOCK = 24
"""Curvature products in a batch: bounds memory and the delay of a stop."""
_STEP_A = 0.01
_RELAXED_GPA = 0.02
_TEACHER_LARGEST_FORCE = 0.01


def vibrations(
    student: Potential, teacher: Potential, system: System, settings: VibrationSettings, folder: Path | None = None, *,
    stop: StopRequest = NEVER,
) -> Results:  # fmt: skip
    """Compare the curvature of a student with its teacher's at the structure the teacher relaxed.

    Args:
        student, teacher: The fast potential and the one it replaces.
        system: One struct at (or near) a minimum of the teacher's.
        settings: Numbers and limits.
        folder: Folder for the teacher's curvature, from which an interrupted comparison resumes; None: no folder.
        stop: Checked between teacher calls.
    Returns:
        Values, tables and figures of the section "vibrations".
    Raises:
        BadInput: One atom alone, several structs, or an element that one of the two does not know.
        BlowUp: The student gave a non-finite number while relaxing.
        Interrupted: A stop was requested; curvature computed so far is saved.
    """
    if system.n_structs != 1 or system.n_atoms < 2:
        size = f"{system.n_structs} structs, {system.n_atoms} atoms"
        raise BadInput("structure", size, allowed="one struct of two atoms or more", fix="repeat the cell, or choose one")
    whole = system.n_atoms <= settings.whole_up_to
    generator = torch.Generator().manual_seed(settings.seed)
    directions = unit_directions(system, range(3 * system.n_atoms))
    probes = directions if whole else draw_probes(system, settings.probes, generator)
    target = _kept_products(folder, teacher, system, probes, stop)
    ours = _products(student, system, directions, stop)
    products = ours if whole else torch.einsum("ria,pr->pia", ours, probes.reshape(len(probes), -1).to(ours))
    theirs = normal_modes(system, target) if whole else None
    modes = normal_modes(system, ours)
    rest, way = relax(
        system, student, max_steps=settings.relax_steps, largest_force=settings.largest_force, stress_GPa=_RELAXED_GPA, stop=stop
    )
    back = _teachers_way(teacher, rest, settings, stop)
    errors = _displaced_errors(student, teacher, system, theirs or modes, settings, generator, stop)
    bands, note = _bands(student, teacher, system, settings, stop)
    compared = Compared(
        system=system, whole=whole, hessian=hessian_error(products, target.to(products), whole=whole), teacher=theirs,
        student=modes, relaxed=normal_modes(rest, _products(student, rest, directions, stop)),
        largest_forces=(_largest_force(teacher, system), _largest_force(student, system), way.max_force), relaxation=way,
        moved=distance_between(system, rest),
        climb=(back[1].energy_before - float(_ask(teacher, system).energy[0])) / system.n_atoms, back=back[1],
        moved_back=distance_between(rest, back[0]), displaced=errors, bands=bands,
    )  # fmt: skip
    return _results(compared, student, teacher, settings, note)


def distance_between(first: System, second: System) -> float:
    """Root-mean-square distance (Å) between the atoms of two structures: without a common shift and the change of the cell."""
    positions = second.positions
    if bool(first.pbc.all()):
        positions = positions @ torch.linalg.inv(second.cell[0]) @ first.cell[0]
    away = positions - first.positions
    return float((away - away.mean(0)).square().sum(1).mean().sqrt())


def _products(
    potential: Potential, system: System, directions: Float[Tensor, "probe atom 3"], stop: StopRequest
) -> Float[Tensor, "probe atom 3"]:
    return _kept_products(None, potential, system, directions, stop)


def _kept_products(
    folder: Path | None, potential: Potential, system: System, directions: Float[Tensor, "probe atom 3"], stop: StopRequest,
) -> Float[Tensor, "probe atom 3"]:  # fmt: skip
    """Curvature products, saved after each block, and read where the ledger has an entry of them."""
    inputs: dict[str, str | tuple[str, ...]] = {"structure": structure_digests(system), "directions": tensors_sha256(directions)}
    work = Work(key="teacher curvature", inputs=inputs, models={"teacher": model_id(potential)})
    ledger = None if folder is None else Ledger(folder)
    done = torch.zeros(0, dtype=torch.float64)
    if ledger is not None and ledger.differences(work, may_change=("version",)) == []:
        done = _read_products(ledger.folder / CURVATURE)
    elif ledger is not None:
        (ledger.folder / CURVATURE).unlink(missing_ok=True)
        ledger.begin(work)
    step = _STEP_A * float(directions[0].square().sum(-1).mean().sqrt())
    with progress(f"curvature, {potential.name}", len(directions), unit="product", done=len(done)) as advance:
        while len(done) < len(directions):
            stop.raise_if_pending()
            part = directions[len(done) : len(done) + _BLOCK]
            new = curvature_products(potential, system, part, step=step).detach().cpu().double()
            if not bool(torch.isfinite(new).all()):
                raise BadInput(
                    potential.name, "its curvature is not finite", allowed="finite curvature", fix="check the structure"
                )
            done = torch.cat([done.reshape(-1, *new.shape[1:]), new])
            if ledger is not None:
                with replacing(ledger.folder / CURVATURE) as partial, open(partial, "wb") as handle:
                    np.savez(handle, products=done.numpy())
            advance(len(new))
    if ledger is not None:
        ledger.finish(work, [CURVATURE])
    return done


def _read_products(path: Path) -> Tensor:
    """The products in a file; none where it is absent or damaged."""
    try:
        return torch.from_numpy(read_arrays(path)["products"])
    except DAMAGED:
        return torch.zeros(0, dtype=torch.float64)


def _teachers_way(teacher: Potential, start: System, settings: VibrationSettings, stop: StopRequest) -> tuple[System, Relaxation]:
    """Relaxation of the teacher from the student's minimum."""
    with progress(f"relax, {teacher.name}", settings.teacher_steps + 1, unit="call") as advance:
        return relax(
            start, teacher, max_steps=settings.teacher_steps, largest_force=_TEACHER_LARGEST_FORCE, stress_GPa=_RELAXED_GPA,
            stop=stop, advance=advance,
        )  # fmt: skip


def _displaced_errors(  # noqa: PLR0917
    student: Potential,
    teacher: Potential,
    system: System,
    modes: Modes,
    settings: VibrationSettings,
    generator: Generator,
    stop: StopRequest,
) -> Accuracy:
    """Errors on thermally displaced structures; each counts as a block of its own."""
    structures = displaced(
        system, modes, settings.temperature_K, generator, count=settings.displaced, farthest=settings.farthest_A
    )
    frames = []
    with progress("displaced structures", len(structures), unit="call") as advance:
        for block, structure in enumerate(structures):
            stop.raise_if_pending()
            frames.append(LabelledFrame(system=structure, target=_ask(teacher, structure), source="displaced", block=block))
            advance(1)
    return accuracy(frames, [_ask(student, structure) for structure in structures])


def _bands(
    student: Potential, teacher: Potential, system: System, settings: VibrationSettings, stop: StopRequest
) -> tuple[tuple[Bands, Bands] | None, str]:
    """Bands of teacher and student where the primitive cell is small, and notes."""
    if settings.bands_up_to == 0 or not bool(system.pbc.all()):
        return None, ""
    try:
        cell = primitive_cell(system)
    except MissingPackage as missing:
        return None, f"no phonon bands: {missing}"
    if cell.n_atoms > settings.bands_up_to:
        return None, f"no phonon bands: the primitive cell has {cell.n_atoms} atoms, more than {settings.bands_up_to}"
    bands = []
    for potential in (teacher, student):
        with progress(f"bands, {potential.name}", 6 * cell.n_atoms + 1, unit="call") as advance:
            bands.append(phonon_bands(potential, cell, supercell_A=settings.supercell_A, stop=stop, advance=advance))
    return (bands[0], bands[1]), ""


def _ask(potential: Potential, system: System) -> Prediction:
    return potential(build_graph(system, potential.cutoff))


def _largest_force(potential: Potential, system: System) -> float:
    return float(_ask(potential, system).forces.norm(dim=1).max())


def _results(compared: Compared, student: Potential, teacher: Potential, settings: VibrationSettings, note: str) -> Results:
    notes = [note] if note else []
    if compared.teacher is not None and compared.teacher.imaginary:
        notes.append(
            f"the run's structure is not a minimum of the teacher: imaginary frequencies: {compared.teacher.imaginary}, "
            f"largest force {1e3 * compared.largest_forces[0]:.3g} meV/Å"
        )
    if not compared.relaxation.converged:
        notes.append(f"the student is not fully relaxed: largest force {1e3 * compared.relaxation.max_force:.3g} meV/Å")
    results = Results(
        command="vibrations", settings=to_json(settings), hardware=hardware(),
        provenance={"teacher": teacher.name, "student": student.name}, values=values(compared), tables=tables(compared, settings),
        figures=figures(compared, settings), notes=notes, citations=["mdistill", "ase", *(["phonopy"] if compared.bands else [])],
    )  # fmt: skip
    return in_section(SECTION, results)
