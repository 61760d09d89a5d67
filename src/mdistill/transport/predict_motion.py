r"""Predicted motion of one structure: log10 MSD, D, σ and activation energy with intervals, and when not to trust them.

    D = MSD(τ)/(6 τ)      σ = N q² D/(V k_B T)      ln D = ln D₀ − E_a/(k_B T)

τ: lag of training   N/V: ions per volume   q: e. Where ions only vibrate, D is an upper limit. σ is that of independent ions
(Haven ratio 1) of charge e.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from ase.data import chemical_symbols
from scipy.spatial.distance import cdist

from mdistill.errors import BadInput
from mdistill.transport.ion_rows import IonStructure
from mdistill.transport.motion import MotionModel, activation_energy, moving, values_of
from mdistill.transport.obelix import fractions_of
from mdistill.transport.settings import SPREAD
from mdistill.units import BOLTZMANN, CONDUCTIVITY_MS_CM, DIFFUSIVITY_CM2_S, PS

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Motion:
    """A prediction at one temperature.

    Attributes:
        temperature_K: The temperature.
        value: log10 of the mean square displacement (Å²) at the lag of training.
        interval_68, interval_95: Conformal intervals of the value; those of D and σ are as wide.
        diffusivity: log10 of D, cm²/s.
        conductivity: log10 of σ, S/cm.
        not_diffusing: Probability that ions only vibrate; None where training does not tell.
        doubts: Reasons that belong to this temperature not to trust it.
    """

    temperature_K: float
    value: float
    interval_68: Interval
    interval_95: Interval
    diffusivity: float
    conductivity: float
    not_diffusing: float | None
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StructureMotion:
    """Motion of one structure at some temperatures.

    Attributes:
        motions: A prediction at each temperature.
        activation: Activation energy, eV, over the temperatures of training at which ions diffuse more likely than not; None for
            fewer than two of them, or where training shows no skill.
        activation_error: Half widths of its 68 and 95 % intervals.
        distance: To the nearest composition of training (0 equal, 1 no element in common).
        doubts: Reasons not to trust any of it; none: applicable.
    """

    motions: tuple[Motion, ...]
    activation: float | None
    activation_error: tuple[float, ...]
    distance: float
    doubts: tuple[str, ...] = ()


def check_motion(model: MotionModel, species: str) -> None:
    """Refuse an ion that the model was not trained on, and a model of D.

    Raises:
        BadInput: Either of them.
    """
    known = [chemical_symbols[z] for z in model.mobile]
    if species not in known:
        fix = f"mdistill distill FILE --mobile {species}" if species in chemical_symbols[1:] else f"--species {known[0]}"
        raise BadInput("--species", species, allowed=f"{', '.join(known)}: ions of the trajectory set", fix=fix)
    if model.target != "msd":
        raise BadInput("--motion", f"a model of log10 {model.target}", allowed="one of msd", fix="train with --motion.target msd")


def predict_motion(model: MotionModel, structure: IonStructure, temperatures_K: Sequence[float]) -> StructureMotion:
    """Motion of one structure by a model of log10 MSD; a temperature outside training, or without skill there, is doubted."""
    grid = np.array(model.temperatures_K)
    (values,), (spreads,) = values_of(model.predictor, [structure], [*temperatures_K, *model.temperatures_K])
    found, count = list[Motion](), len(temperatures_K)
    for kelvin, value, spread in zip(temperatures_K, values[:count].tolist(), spreads[:count].tolist(), strict=True):
        factors = [float(np.interp(kelvin, grid, column)) for column in np.transpose(model.factors)]
        a, b = (cast(Interval, (value - q * (spread + SPREAD), value + q * (spread + SPREAD))) for q in factors)
        diffusivity = float(value + np.log10(DIFFUSIVITY_CM2_S / (6.0 * PS * model.lag_ps)))
        found.append(Motion(
            temperature_K=float(kelvin), value=value, interval_68=a, interval_95=b, diffusivity=diffusivity,
            conductivity=diffusivity + _log_conductivity(structure, kelvin), not_diffusing=_still(model, value),
            doubts=_doubts_at(model, kelvin),
        ))  # fmt: skip
    at, energy = moving(values[count:], model.curve), None
    if model.activation and at.sum() >= 2:
        energy = activation_energy(values[count:][at], grid[at])
    distance = float(0.5 * cdist(fractions_of([structure.composition]), model.fractions, "cityblock").min())
    return StructureMotion(
        motions=tuple(found), activation=energy, activation_error=model.activation, distance=distance,
        doubts=_doubts(model, structure, distance),
    )  # fmt: skip


def _still(model: MotionModel, value: float) -> float | None:
    steep, middle = model.curve
    return None if steep == 0.0 else float(1.0 / (1.0 + np.exp(np.clip(steep * (value - middle), -30, 30))))


def _log_conductivity(structure: IonStructure, kelvin: float) -> float:
    """log10 of σ (S/cm) for D = 1 cm²/s."""
    density = structure.composition[structure.mobile] / structure.volume
    return float(np.log10(1e-3 * CONDUCTIVITY_MS_CM * density / DIFFUSIVITY_CM2_S / (BOLTZMANN * kelvin)))


def _doubts_at(model: MotionModel, kelvin: float) -> tuple[str, ...]:
    """Reasons why training says little about a temperature."""
    low, high = min(model.temperatures_K), max(model.temperatures_K)
    found = [] if low <= kelvin <= high else [f"{kelvin:g} K is outside training, {low:g} to {high:g} K"]
    error, flat = (np.interp(kelvin, list(one), list(one.values())) for one in (model.error, model.constant))
    return (*found, f"{kelvin:g} K: no better than a constant") if error >= flat else tuple(found)


def _doubts(model: MotionModel, structure: IonStructure, distance: float) -> tuple[str, ...]:
    """Reasons why training says little about a composition, or why the model has no skill."""
    unseen = [chemical_symbols[z] for z in sorted(structure.composition) if z not in model.elements]
    found = [f"{', '.join(unseen)} not in the trajectory set"] if unseen else []
    if distance > model.far:
        found.append(f"composition is far from the trajectory set ({distance:.2f}, usual up to {model.far:.2f})")
    found += ["the predictor of motion is no better than a constant"] * (not model.honest)
    return tuple(found)
