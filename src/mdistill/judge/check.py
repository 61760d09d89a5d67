"""Check of production: the teacher labels frames of it, at every temperature, and the gates that follow from these labels.

The other gates compare students with labels of the teacher's dynamics. These frames come from the dynamics that the answer is
computed from. Formulas: `analysis/reweighting.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from ase.data import chemical_symbols
from torch import Tensor

from mdistill.analysis.accuracy import accuracy
from mdistill.analysis.gates import diffusive_gate, overlap_gate, production_gates, softening_gate
from mdistill.analysis.reweighting import centred, energy_spread, force_slope
from mdistill.analysis.settings import GateLimits
from mdistill.data.store import LabelStore
from mdistill.errors import BadInput
from mdistill.estimates import Estimate, mean_of, unknown
from mdistill.interrupt import NEVER, StopRequest
from mdistill.judge.check_tables import Checked, Compared, check_results
from mdistill.judge.production_frames import DrawnFrame, draw_frames, production_runs
from mdistill.judge.settings import CheckSettings
from mdistill.labelling.label import label_structures
from mdistill.labelling.settings import LabelSettings
from mdistill.runs.identity import structure_sha256
from mdistill.runs.results import Results
from mdistill.training.potential import evaluate
from mdistill.types import LabelledFrame, Potential, System
from mdistill.units import BOLTZMANN

LABELS, HOPPING = "labels", "hopping ions"


def check_production(
    production: Path, students: Sequence[Potential], teacher: Potential, settings: CheckSettings, folder: Path, *,
    temperatures_K: Sequence[float], mobile: int | None, limits: GateLimits, label: LabelSettings, like: System,
    orderings: int = 1, slopes: Mapping[str, Estimate] | None = None, bounds: Collection[str] = (), workers: int = 0,
    stop: StopRequest = NEVER,
) -> Results:  # fmt: skip
    """Label frames of production with the teacher and judge the students by them. It resumes in its folder.

    Args:
        production: Folder of production; run k of a temperature was made by student (k − 1) modulo their number.
        students: The committee.
        teacher: Labels the frames.
        settings: Number and choice of frames.
        folder: Folder of the stage; the labels are in `labels/`.
        temperatures_K: Temperatures of production, K.
        mobile: Atomic number of the mobile ion; None for dynamics only.
        limits: Limits of the gates.
        label: Cap of the forces and timeout of the labels.
        like: A structure of the run: its periodicity, charge and unpaired electrons.
        orderings: Number of orderings; runs of one student and ordering have one offset of the energy.
        slopes, bounds: d ln MSD / d ln τ by temperature ("700 K"), and where D is only an upper limit.
        workers, stop: As for `label_structures`.
    Raises:
        BadInput: No frames of production in the folder.
        Interrupted, MdistillError: As `label_structures`.
    """
    runs = production_runs(production, temperatures_K)
    if not runs:
        raise BadInput(production, "holds no trajectory", allowed="a folder of production", fix="run production first")
    store, drawn = LabelStore(folder / LABELS), list[DrawnFrame]()
    for kelvin in temperatures_K:
        mine = [run for run in runs if run.temperature_K == kelvin]
        frames = draw_frames(mine, settings.frames, mobile=mobile, distance=settings.hop_distance, pbc=like.pbc[0].tolist())
        systems = [replace(frame.system, charge=like.charge, unpaired=like.unpaired) for frame in frames]
        label_structures(
            systems, teacher, store, name=f"{kelvin:g} K", settings=replace(label, probes=0),
            source="production", temperature_K=kelvin, workers=workers, stop=stop,
        )  # fmt: skip
        drawn += frames
    checked = _checked(_compared(drawn, store.read(), students, orderings))
    judged = {name: slope for name, (slope, _) in checked.slopes.items() if name != HOPPING}
    gates = production_gates(checked.force, checked.energy, limits)
    gates += [overlap_gate(checked.spreads, limits), softening_gate(judged, limits)]
    gates += [diffusive_gate(slopes or {}, limits, bounds=bounds)] if slopes or bounds else []
    return check_results(checked, gates)


def _compared(
    drawn: Sequence[DrawnFrame], labels: Sequence[LabelledFrame], students: Sequence[Potential], orderings: int
) -> list[Compared]:
    """The drawn frames that the teacher answered, with its label and the prediction of the student of their run."""
    known = {structure_sha256(frame.system): frame for frame in labels}
    found = []
    for frame in drawn:
        label = known.get(structure_sha256(frame.system))
        if label is not None:
            group = (frame.run - 1) % (len(students) * orderings)
            prediction = evaluate(students[group % len(students)], [label])[0]
            found.append(Compared(frame=frame, label=label, prediction=prediction, group=group))
    return found


def _checked(compared: list[Compared]) -> Checked:
    checked, left = Checked(compared=compared), _less_offset(compared)
    groups = np.array([one.group for one in compared])
    paired = np.array([(groups == group).sum() > 1 for group in groups], dtype=bool)
    for kelvin in sorted({one.label.temperature_K for one in compared}):
        name, mine = f"{kelvin:g} K", [one for one in compared if one.label.temperature_K == kelvin]
        for kind, hops in (("vibrations", False), ("hops", True)):
            part = [one for one in mine if bool(one.frame.hopping) is hops]
            if part:
                errors = accuracy([one.label for one in part], [one.prediction for one in part])
                checked.force[f"{name}, {kind}"] = errors.force["all"]
        here = np.array([one.label.temperature_K == kelvin for one in compared])
        checked.energy[name] = _mean_error(left[here & paired], len(groups) - len(set(groups.tolist())))
        reduced = np.array([one.difference for one in mine]) / (BOLTZMANN * kelvin)
        shares, runs = np.array([one.frame.share for one in mine]), np.array([one.group for one in mine])
        checked.spreads[name] = energy_spread(reduced, shares, runs), max(one.label.system.n_atoms for one in mine)
    everything = [torch.ones(one.label.system.n_atoms, dtype=torch.bool) for one in compared]
    checked.slopes["all"] = _slope(compared, everything)
    for z in sorted({z for one in compared for z in one.label.system.numbers.tolist()}):
        checked.slopes[chemical_symbols[z]] = _slope(compared, [one.label.system.numbers == z for one in compared])
    if any(one.frame.hopping for one in compared):
        checked.slopes[HOPPING] = _slope(compared, [_is_hopping(one) for one in compared])
    return checked


def _is_hopping(one: Compared) -> Tensor:
    return torch.isin(torch.arange(one.label.system.n_atoms), torch.tensor(one.frame.hopping, dtype=torch.int64))


def _slope(compared: Sequence[Compared], atoms: Sequence[Tensor]) -> tuple[Estimate, float | None]:
    both = [one.forces(mine) for one, mine in zip(compared, atoms, strict=True) if bool(mine.any())]
    return force_slope([teacher for teacher, _ in both], [student for _, student in both])


def _less_offset(compared: Sequence[Compared]) -> np.ndarray:
    """Energy errors (meV/atom) less the mean of each student and ordering over the temperatures.

    They are scaled by √(n/(n − 1)), n: frames of it, for the mean that was taken from them.
    """
    errors = np.array([1e3 * one.difference / one.label.system.n_atoms for one in compared])
    runs = np.array([one.group for one in compared])
    left = centred(errors, np.ones(len(errors)), runs) if len(errors) else errors
    counts = np.array([(runs == run).sum() for run in runs])
    return left * np.sqrt(counts / np.maximum(counts - 1, 1))


def _mean_error(left: np.ndarray, freedom: int) -> Estimate:
    """Mean absolute error, meV/atom; with one degree of freedom (two frames of one run are equally far from their mean) its own
    error is not known."""
    found = mean_of(np.abs(left), unit="meV/atom") if len(left) else unknown("meV/atom")
    return found if freedom > 1 else replace(found, error=None)
