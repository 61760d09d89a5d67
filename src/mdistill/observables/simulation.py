"""Results of one simulation: averages, energy and temperature against time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from mdistill.closed_form.posterior import POSTERIOR, load_posterior
from mdistill.derivatives import is_gradient
from mdistill.direct.diagnostics import BROKEN, LEAST_FRAMES, bonds, first_break, heating
from mdistill.errors import BadInput
from mdistill.estimates import Estimate, exactly, unknown
from mdistill.io.import_trajectory import read_trajectory
from mdistill.io.logs import read_log
from mdistill.io.position_blocks import position_blocks
from mdistill.nets.model_files import read_metadata
from mdistill.observables.barostat import barostat_notes
from mdistill.runs.identity import shown_sha256
from mdistill.runs.results import Figure, Results, Series
from mdistill.simulation.settings import SimulateSettings
from mdistill.simulation.simulate import SimulationResult
from mdistill.teachers.cards import card_of
from mdistill.teachers.models import find_student
from mdistill.types import Potential

_POINTS = 600
_EXTRAPOLATES = 3.0
_NOT_CONSERVED = (
    "The forces are not the gradient of the energy, so the total energy is no constant of motion: the guard does not check it. "
    "energy_drift holds the work of the forces and the error of the energy; heating is the slope of the temperature."
)
_METHODS = {"langevin": "baoab", "bussi": "bussi"}


def dynamics_results(done: SimulationResult, potential: Potential, settings: SimulateSettings) -> Results:
    """Averages after equilibration, and figures of temperature and energy against time.

    NVE of forces that are no gradient of an energy also has `heating`, the slope of its temperature (K/ns), and a molecule with
    such forces `bonds_held`, the time (ps) until a bond deviates by more than 0.5 Å from its first length.
    """
    log = read_log(done.log)
    time_ps = log["time_fs"] / 1000.0
    atoms = done.state.system.n_atoms
    keep = np.unique(np.linspace(0, len(time_ps) - 1, min(_POINTS, len(time_ps))).astype(int))

    def course(label: str, values: np.ndarray) -> Series:
        return Series(label=label, x=time_ps[keep].tolist(), y=values[keep].tolist())

    total = log["total_eV"] / atoms
    figures = [
        Figure(
            name="temperature", title="Temperature", section="dynamics", x_label="time (ps)", y_label="T (K)",
            series=[course("T", log["temperature_K"])],
        ),
        Figure(
            name="energy", title="Total energy, change from the start", section="dynamics", x_label="time (ps)",
            y_label="ΔE (meV/atom)", series=[course("E", 1e3 * (total - total[0]))],
        ),
    ]  # fmt: skip
    used = [] if settings.ensemble == "nve" else [_METHODS[settings.thermostat]]
    used += ["cell-rescaling"] if settings.ensemble == "npt" else []
    values, heats = done.values, list[str]()
    if settings.ensemble == "nve" and not is_gradient(potential):
        after, heats = log["time_fs"] > 0.0, [_NOT_CONSERVED]
        enough = int(after.sum()) >= LEAST_FRAMES
        values = values | {"heating": heating(log["time_fs"][after], log["temperature_K"][after]) if enough else unknown("K/ns")}
    if not is_gradient(potential) and not bool(done.state.system.pbc.any()):
        held, broken = bonds_held(done)
        values, heats = values | {"bonds_held": held}, heats + broken
    return Results(
        command="simulate", values=values, figures=figures,
        provenance={"potential": potential.name, "model_sha256": shown_sha256(potential)},
        citations=["mdistill", *_taught_by(potential), "ase", "vesin", *used],
        notes=[*(["An interrupted run was continued."] if done.resumed else []), *heats, *barostat_notes(done.log, settings)],
    )  # fmt: skip


def _taught_by(potential: Potential) -> list[str]:
    """Keys of the references of a teacher, or of the teacher of a student."""
    header = getattr(getattr(potential, "net", None), "header", {})
    card = card_of(str(header.get("provenance", {}).get("teacher") or potential.name))
    return [] if card is None else card.citations


def bonds_held(done: SimulationResult) -> tuple[Estimate, list[str]]:
    """Time (ps) until a bond of the first frame deviates by more than 0.5 Å, or that of the last frame; a note where one does.

    Unknown of a single frame, and of a trajectory that cannot be read, with a note.
    """
    pairs, lengths, frames, last = None, None, 0, 0.0
    try:
        for times, positions in position_blocks(done.trajectory):
            if pairs is None or lengths is None:
                pairs = bonds(replace(done.state.system, positions=positions[0]))
                lengths = (positions[0][pairs[:, 1]] - positions[0][pairs[:, 0]]).norm(dim=1)
            broken = first_break(positions, pairs, lengths)
            if broken is not None:
                held = float(times[broken]) / 1000.0
                note = f"A bond deviates by more than {BROKEN:g} Å from its first length after {held:.3g} ps"
                return exactly(held, "ps", samples=frames + broken + 1), [f"{note}: the molecule broke or reacted."]
            frames, last = frames + len(times), float(times[-1]) / 1000.0
    except BadInput as error:
        return unknown("ps"), [f"How long the bonds hold is not known: {str(error).splitlines()[0]}."]
    return (exactly(last, "ps", samples=frames) if frames > 1 else unknown("ps")), []


def uncertainty_results(potential: Potential, model: Path, done: SimulationResult, *, frames: int = 12) -> Results:
    """Uncertainty of a closed-form student along its own dynamics, with a warning where it leaves its training data.

    Empty without a posterior beside the student. On frames spread over the run the standard error of the forces that the
    weights give is compared with that on the training data; beyond three times that the run extrapolates.

    Raises:
        BadInput: A posterior that is damaged or of another student.
    """
    student = find_student(model) if model.is_dir() else model
    path = student.parent / POSTERIOR
    if not path.is_file():
        return Results(command="simulate")
    posterior = load_posterior(path, model=read_metadata(student)["sha256"])
    run = read_trajectory(done.trajectory).trajectory
    chosen = np.unique(np.linspace(0, len(run.times) - 1, frames).astype(int))
    errors = []
    for k in chosen:
        system = replace(done.state.system, positions=run.positions[k], cell=run.cell[k : k + 1])
        errors.append(float(posterior.weight_errors(system).square().mean()) ** 0.5)
    times = [float(run.times[k]) / 1000.0 for k in chosen]
    series = [
        Series(label="along the run", x=times, y=[1e3 * error for error in errors]),
        Series(label="on the training data", x=times, y=[1e3 * posterior.usual] * len(times), style="dashed"),
    ]
    title = "Uncertainty of the forces from that of the weights"
    figure = Figure("force_uncertainty", title, "dynamics", "time (ps)", "standard error (meV/Å)", series)
    worst = max(errors)
    more, when = worst / posterior.usual, times[errors.index(worst)]
    warning = (
        f"{potential.name} leaves its training data: at {when:.3g} ps the uncertainty of its forces is {more:.2g} times that on "
        f"its training data. Label frames of this run and fit again."
    )
    values = {"force_uncertainty": exactly(1e3 * np.mean(errors), "meV/Å", samples=len(errors))}
    notes = [warning] if worst > _EXTRAPOLATES * posterior.usual else []
    return Results(command="simulate", values=values, figures=[figure], notes=notes)
