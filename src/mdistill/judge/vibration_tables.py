"""Values, tables and figures of a comparison of curvature."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mdistill.analysis.accuracy import Accuracy
from mdistill.analysis.phonons import Bands
from mdistill.analysis.vibrations import Modes, density_of_states, frequencies_between, harmonic
from mdistill.data.relax import Relaxation
from mdistill.estimates import Estimate, exactly
from mdistill.judge.settings import VibrationSettings
from mdistill.runs.results import Cell, Figure, Series, Table
from mdistill.types import System

SECTION = "vibrations"
PREFIX = "vibrations "
"""Prefix of these values in a run's results."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Curvature of student and teacher.

    Attributes:
        system: The structure that the teacher relaxed; curvature is compared there.
        whole: Whether the teacher's whole Hessian is known, or products with random directions only.
        hessian: ‖ΔH‖/‖H‖ there.
        teacher: Its vibrations; None where its Hessian is not whole.
        student: The student's vibrations there.
        relaxed: The student's vibrations at its own minimum.
        largest_forces: Of the teacher and of the student there, of the student at its own minimum, eV/Å.
        relaxation: Relaxation of the student from there.
        moved: RMSD between the two structures, Å.
        climb: The teacher's energy at the student's minimum above that at its own structure, eV/atom.
        back: Relaxation of the teacher from the student's minimum.
        moved_back: RMSD of that, Å.
        displaced: Errors on structures displaced along the modes (the teacher's, where known).
        bands: The teacher's and the student's phonon bands.
    """

    system: System
    whole: bool
    hessian: Estimate
    teacher: Modes | None
    student: Modes
    relaxed: Modes
    largest_forces: tuple[float, float, float]
    relaxation: Relaxation
    moved: float
    climb: float
    back: Relaxation
    moved_back: float
    displaced: Accuracy
    bands: tuple[Bands, Bands] | None = None


def frequency_error(modes: Modes, target: Modes) -> Estimate:
    """Mean |Δf| (THz) of frequencies in ascending order, imaginary ones negative."""
    difference = (modes.frequencies - target.frequencies).abs()
    return exactly(float(difference.mean()), "THz", samples=len(difference))


def bands_error(bands: Bands, target: Bands) -> Estimate:
    """Mean |Δf| (THz) of the bands in ascending order at each point of the path."""
    difference = abs(bands.frequencies - target.frequencies)
    return exactly(float(difference.mean()), "THz", samples=difference.size)


def values(compared: Compared) -> dict[str, Estimate]:
    """The numbers of this section by name."""
    force = compared.displaced.force["all"]
    named = {
        "hessian_error": compared.hessian,
        "displaced_force_mae": force.mean_absolute.scaled(1e3, "meV/Å"),
        "displaced_force_mean": exactly(1e3 * force.scale, "meV/Å"),
        "relaxed_rmsd": exactly(compared.moved, "Å"),
        "relaxed_energy": exactly(1e3 * compared.climb, "meV/atom"),
        "imaginary student": exactly(float(compared.student.imaginary)),
    }
    if compared.back.steps > 1:
        named["teacher_moves_on"] = exactly(compared.moved_back, "Å")
        named["teacher_gains"] = exactly(1e3 * _gain(compared), "meV/atom")
    if compared.teacher is not None:
        named["frequency_mae"] = frequency_error(compared.student, compared.teacher)
        named["imaginary teacher"] = exactly(float(compared.teacher.imaginary))
    if compared.bands is not None:
        named["bands_mae"] = bands_error(compared.bands[1], compared.bands[0])
    return {PREFIX + name: value for name, value in named.items()}


def tables(compared: Compared, settings: VibrationSettings) -> list[Table]:
    """Curvature, minimum, errors on displaced structures."""
    return [_curvature_table(compared), _minimum_table(compared), _displaced_table(compared, settings)]


def figures(compared: Compared, settings: VibrationSettings) -> list[Figure]:
    """Densities of states where the teacher's is known, bands where the crystal is small."""
    drawn = [] if compared.teacher is None else [_density_figure(compared, compared.teacher, settings)]
    return drawn if compared.bands is None else [*drawn, _bands_figure(*compared.bands)]


def _gain(compared: Compared) -> float:
    """Energy of the teacher at the student's minimum above its own nearby minimum, eV/atom."""
    return (compared.back.energy_before - compared.back.energy) / compared.system.n_atoms


def _curvature_table(compared: Compared) -> Table:
    teacher, columns = compared.teacher, (compared.teacher, compared.student, compared.relaxed)

    def row(name: str, cells: list[Cell]) -> list[Cell]:
        return [name, *cells]

    rows = [
        row("Hessian error ‖ΔH‖/‖H‖", [None, compared.hessian.scaled(100.0, "%"), None]),
        row("largest force (meV/Å)", [None if force is None else 1e3 * force for force in compared.largest_forces]),
        row("imaginary frequencies", [None if m is None else m.imaginary for m in columns]),
        row("lowest frequency (THz)", [None if m is None else float(m.frequencies[0]) for m in columns]),
        row("highest frequency (THz)", [None if m is None else float(m.frequencies[-1]) for m in columns]),
    ]
    if teacher is not None:
        rows.append(
            row("frequency MAE (THz)", [None, *(frequency_error(m, teacher).value for m in (compared.student, compared.relaxed))])
        )
    taken = "all rows" if compared.whole else f"{compared.hessian.samples} random directions (error: jackknife over them)"
    saddle = teacher is not None and teacher.imaginary > 0
    caption = (
        "The structure is the run's, which the teacher relaxed. "
        f"Hessians of its {compared.system.n_atoms} atoms from {taken}. Harmonic frequencies at Γ of the cell, free motions "
        "left out; imaginary ones count as negative. MAE: frequencies paired in ascending order."
        + (" That structure is not a minimum of the teacher." if saddle else "")
    )
    return Table(
        "curvature",
        "Curvature",
        SECTION,
        ["what", "teacher", "student, same structure", "student, its own minimum"],
        rows,
        caption,
    )


def _minimum_table(compared: Compared) -> Table:
    way, back = compared.relaxation, compared.back
    asked = back.steps > 1
    rows: list[list[Cell]] = [
        ["atoms move, RMSD (Å)", compared.moved, compared.moved_back if asked else None],
        ["volume changes (%)", 100.0 * way.strain, 100.0 * back.strain if asked else None],
        ["the teacher's energy changes (meV/atom)", 1e3 * compared.climb, -1e3 * _gain(compared) if asked else None],
        ["largest force left (meV/Å)", 1e3 * way.max_force, 1e3 * back.max_force if asked else None],
        ["force calls", way.steps, back.steps if asked else None],
    ]
    columns = ["what", "student, from the teacher's structure", "teacher, from the student's minimum"]
    caption = (
        "Relaxation of atoms and cell. RMSD without a common shift and the change of the cell. The second column is "
        "the distance from the student's minimum to the nearest one of the teacher."
    )
    return Table("minimum", "Minimum", SECTION, columns, rows, caption)


def _displaced_table(compared: Compared, settings: VibrationSettings) -> Table:
    rows: list[list[Cell]] = [
        [group, one.mean_absolute.scaled(1e3, "meV/Å"), 1e3 * one.root_mean_square, 1e3 * one.scale]
        for group, one in compared.displaced.force.items()
    ]
    whose, modes = ("student's", compared.student) if compared.teacher is None else ("teacher's", compared.teacher)
    used = int(harmonic(compared.system, modes, settings.temperature_K, farthest=settings.farthest_A).sum())
    title = "Errors on structures displaced along normal modes"
    caption = (
        f"{settings.displaced} structures, {used} of the {whose} {len(modes.frequencies)} modes displaced at once with "
        f"the classical amplitudes of {settings.temperature_K:g} K, except imaginary ones and those that would move an "
        f"atom by more than {settings.farthest_A:g} Å. Errors: scatter between the structures."
    )
    return Table("displaced", title, SECTION, ["group", "force MAE (meV/Å)", "RMSE (meV/Å)", "mean |F| (meV/Å)"], rows, caption)


def _density_figure(compared: Compared, teacher: Modes, settings: VibrationSettings) -> Figure:
    ends = [float(m.frequencies[k]) for m in (teacher, compared.student) for k in (0, -1)]
    where = frequencies_between(min(ends), max(ends), settings.width_THz)
    drawn = [
        Series(
            label=name,
            x=where.tolist(),
            y=density_of_states(modes, width=settings.width_THz, frequencies=where).y.tolist(),
            style="dashed" if name == "teacher" else "line",
        )
        for name, modes in (("teacher", teacher), ("student", compared.student))
    ]
    imaginary = min(ends) < 0.0
    title = "Vibrational density of states"
    caption = (
        f"At the structure the teacher relaxed, at Γ of the cell, broadened by {settings.width_THz:g} THz; the "
        "integral is the number of vibrations." + (" Imaginary frequencies are shown as negative." if imaginary else "")
    )
    return Figure("vibrational-density", title, SECTION, "frequency (THz)", "density of states (1/THz)", drawn, caption=caption)


def _bands_figure(teacher: Bands, student: Bands) -> Figure:
    drawn = []
    for name, bands in (("teacher", teacher), ("student", student)):
        x: list[float] = []
        y: list[float] = []
        for band in bands.frequencies.T:
            x += [*bands.distance.tolist(), bands.distance.tolist()[-1]]
            y += [*band.tolist(), math.nan]
        drawn.append(Series(label=name, x=x, y=y, style="points" if name == "teacher" else "line"))
    return Figure(
        name="phonon-bands",
        title="Phonon bands",
        section=SECTION,
        kind="bands",
        x_label="wave vector",
        y_label="frequency (THz)",
        series=drawn,
        x_ticks=teacher.ticks,
        caption=f"Finite displacements in a supercell of the primitive cell, at the structure the teacher relaxed; "
        f"mean absolute difference {bands_error(student, teacher).value:.3g} THz.",
    )
