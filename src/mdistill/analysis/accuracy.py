"""Mean absolute errors against the teacher's labels, by temperature and element, with errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from ase.data import chemical_symbols

from mdistill.errors import BadInput
from mdistill.estimates import Estimate, mean_of
from mdistill.types import LabelledFrame, Prediction


@dataclass(frozen=True, slots=True, kw_only=True)
class Deviation:
    """Mean absolute error of one quantity over some frames.

    Attributes:
        mean_absolute: The error (forces: over atoms and components).
        root_mean_square: The same residuals, root mean square, unit of mean_absolute.
        scale: How large the quantity itself is: mean |F| (length of the force vector) for forces, standard deviation over
            the frames for energy per atom and stress; unit of mean_absolute.
        component: Mean absolute component of the labels, which `mean_absolute` compares with; 0 where it was not computed.
    """

    mean_absolute: Estimate
    root_mean_square: float
    scale: float
    component: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Deviations by group. Keys: "all", a temperature ("600 K"), and for forces also an element ("Li").

    Forces in eV/Å, energy in eV/atom, stress in eV/Å³ (empty where there is none).
    """

    force: dict[str, Deviation]
    energy: dict[str, Deviation]
    stress: dict[str, Deviation]


def accuracy(frames: Sequence[LabelledFrame], predictions: Sequence[Prediction]) -> Accuracy:
    """Compare predictions with the labels of the same frames, in the same order.

    The error of each mean comes from the scatter between time blocks where a group holds at least two blocks, and from
    its autocorrelation along the frames otherwise.

    Raises:
        BadInput: No frames, or another number of predictions.
    """
    if not frames or len(frames) != len(predictions):
        sizes = f"{len(frames)} frames and {len(predictions)} predictions"
        raise BadInput("held-out frames", sizes, allowed="at least one of each, as many", fix="hold out a block of labels")
    everything = list(range(len(frames)))
    temperatures = sorted({frame.temperature_K for frame in frames if frame.temperature_K > 0.0})
    groups = {"all": everything} | {
        f"{kelvin:g} K": [k for k in everything if frames[k].temperature_K == kelvin] for kelvin in temperatures
    }
    blocks = np.array([frame.block for frame in frames])
    known = {name: {k for k in everything if name not in frames[k].missing} for name in ("energy", "forces")}
    labelled = {name: [k for k in mine if k in known["forces"]] for name, mine in groups.items()}
    force = {name: _force_deviation(frames, predictions, mine, blocks) for name, mine in labelled.items() if mine}
    for element in sorted({z for k in known["forces"] for z in frames[k].system.numbers.tolist()}):
        mine = [k for k in sorted(known["forces"]) if bool((frames[k].system.numbers == element).any())]
        force[chemical_symbols[element]] = _force_deviation(frames, predictions, mine, blocks, element)
    per_atom = [1.0 / frame.system.n_atoms for frame in frames]
    energies = [np.array([float(p.energy.sum()) * w]) for p, w in zip(predictions, per_atom, strict=True)]
    targets = [np.array([float(f.target.energy.sum()) * w]) for f, w in zip(frames, per_atom, strict=True)]
    labelled = {name: [k for k in mine if k in known["energy"]] for name, mine in groups.items()}
    energy = {name: _frame_deviation(energies, targets, mine, blocks, "eV/atom") for name, mine in labelled.items() if mine}
    stresses, stress_targets = [voigt(p) for p in predictions], [voigt(f.target) for f in frames]
    stress = {}
    for name, mine in groups.items():
        stressed = [k for k in mine if frames[k].target.stress is not None and predictions[k].stress is not None]
        if stressed:
            stress[name] = _frame_deviation(stresses, stress_targets, stressed, blocks, "eV/Å³")
    return Accuracy(force=force, energy=energy, stress=stress)


def voigt(prediction: Prediction) -> np.ndarray:
    """[6] stress of the first struct, eV/Å³, in the order xx, yy, zz, yz, xz, xy; NaN where there is none."""
    if prediction.stress is None:
        return np.full(6, np.nan)
    return prediction.stress[0].detach().cpu().double().numpy()[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]


def _force_deviation(
    frames: Sequence[LabelledFrame], predictions: Sequence[Prediction], mine: list[int], blocks: np.ndarray, element: int = 0
) -> Deviation:
    atoms = [frames[k].system.numbers == element if element else slice(None) for k in mine]
    labels = [frames[k].target.forces[a].detach().cpu().double().numpy() for k, a in zip(mine, atoms, strict=True)]
    predicted = [predictions[k].forces[a].detach().cpu().double().numpy() for k, a in zip(mine, atoms, strict=True)]
    every = np.concatenate(labels)
    found = _deviation(predicted, labels, blocks[mine], "eV/Å", scale=float(np.linalg.norm(every, axis=1).mean()))
    return replace(found, component=float(np.abs(every).mean()))


def _frame_deviation(
    predicted: list[np.ndarray], target: list[np.ndarray], mine: list[int], blocks: np.ndarray, unit: str
) -> Deviation:
    values = np.stack([target[k] for k in mine])
    return _deviation(
        [predicted[k] for k in mine], list(values), blocks[mine], unit, scale=float((values - values.mean(0)).std())
    )


def _deviation(
    predicted: list[np.ndarray], target: list[np.ndarray], blocks: np.ndarray, unit: str, *, scale: float
) -> Deviation:
    residuals = [np.abs(f - t) for f, t in zip(predicted, target, strict=True)]
    per_frame, weights = np.array([r.mean() for r in residuals]), np.array([r.size for r in residuals], dtype=float)
    value = float(np.average(per_frame, weights=weights))
    names, error, samples = np.unique(blocks), None, len(per_frame)
    if len(names) > 1:
        means = np.array([np.average(per_frame[blocks == b], weights=weights[blocks == b]) for b in names])
        error, samples = float(means.std(ddof=1) / np.sqrt(len(means))), len(means)
    elif len(per_frame) > 1 and np.isfinite(per_frame).all():
        along = mean_of(per_frame, unit=unit)
        error, samples = along.error, along.samples
    every = np.concatenate([r.ravel() for r in residuals])
    return Deviation(
        mean_absolute=Estimate(value=value, error=error, unit=unit, samples=samples),
        root_mean_square=float(np.sqrt((every**2).mean())),
        scale=scale,
    )
