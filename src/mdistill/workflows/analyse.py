"""Structure and transport of one trajectory of any program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mdistill.analysis.msd import atoms_of
from mdistill.errors import BadInput
from mdistill.io.import_trajectory import read_trajectory
from mdistill.observables.trajectories import Runs, structure_results, transport_results
from mdistill.runs.results import Results, merge
from mdistill.types import Trajectory
from mdistill.units import PS
from mdistill.workflows.settings import AnalyseSettings


def analyse(trajectories: str | Path | Sequence[str | Path] | Trajectory, settings: AnalyseSettings) -> Results:
    """Structure and transport of one run: one file, several joined, or a `Trajectory`.

    Raises:
        BadInput: See `read_trajectory` and `diffusivity`; or no frames remain after `discard_ps`.
    """
    notes: list[str] = []
    if isinstance(trajectories, Trajectory):
        trajectory = trajectories
    else:
        imported = read_trajectory(
            trajectories, time_step_fs=settings.frame_time_fs, elements=settings.elements, stride=settings.every
        )
        trajectory, notes = imported.trajectory, imported.notes
    atoms_of(trajectory, settings.species)
    trajectory = _discarded(trajectory, settings.discard_ps)
    if settings.discard_ps:
        notes.append(f"the first {settings.discard_ps:g} ps were left out as equilibration")
    runs = [Runs(temperature_K=settings.temperature_K, trajectories=[trajectory])]
    transport = transport_results(runs, species=settings.species, charge=settings.charge, settings=settings.diffusion())
    structure = structure_results(trajectory, species=settings.species)
    return replace(merge(transport, structure), command="analyse", notes=notes + transport.notes + structure.notes)


def _discarded(trajectory: Trajectory, discard_ps: float) -> Trajectory:
    keep = trajectory.times - trajectory.times[0] >= discard_ps * PS - 1e-6
    if int(keep.sum()) < 20:
        if not discard_ps:
            allowed, fix = "at least 20", "run longer, or write frames more often"
            raise BadInput("trajectory", f"{len(keep)} frames", allowed=allowed, fix=fix)
        problem = f"{discard_ps:g} ps leaves {int(keep.sum())} of {len(keep)} frames"
        raise BadInput("discard_ps", problem, allowed="at least 20 frames", fix="discard less, or run longer")
    momenta = None if trajectory.momenta is None else trajectory.momenta[keep]
    return replace(
        trajectory, positions=trajectory.positions[keep], cell=trajectory.cell[keep], times=trajectory.times[keep],
        momenta=momenta,
    )  # fmt: skip
