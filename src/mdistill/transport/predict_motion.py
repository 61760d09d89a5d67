r"""Predicted motion of one structure: log10 MSD, D, σ and activation energy with intervals, and when not to trust them.

    D = MSD(τ)/(6 τ)      σ = N q² D/(V k_B T)      ln D = ln D₀ − E_a/(k_B T)

τ: lag of training   N/V: ions per volume   q: e. Where ions only vibrate, D is an upper limit. σ is that of independent ions
(Haven ratio 1), charged by one e.
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
from mdistill.transport.motion import MotionModel, activation_energy, values_of
from mdistill.transport.obelix import fractions_of
from mdistill.transport.settings import SPREAD
from mdistill.units import BOLTZMANN, CONDUCTIVITY_MS_CM, DIFFUSIVITY_CM2_S, PS

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Motion:
    """A prediction at one temperature.

    Attributes:
        temperature_K: The temperature.
        value: log10 of the target: mean square displacement (Å²) at the lag of training, or D (cm²/s).
        interval_68, interval_95: Conformal intervals of the value; those of D and σ are as wide.
        diffusivity: log10 of D, cm²/s.
        conductivity: log10 of σ, S/cm.
        not_diffusing: Probability that ions only vibrate; None where training does not tell.
        doubts: Reasons not to trust it.
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
    """Motion of one structure at some temperatures, and its activation energy (eV) with the half widths of its intervals.

    The activation energy is that of the temperatures of training at which ions diffuse more likely than not; None for fewer than
    two of them.
    """

    motions: tuple[Motion, ...]
    activation: float | None
    activation_error: tuple[float, ...]


def check_motion(model: MotionModel, species: str) -> None:
    """Refuse an ion that the model was not trained on, and a model of D.

    Raises:
        BadInput: Either of them.
    """
    known = [chemical_symbols[z] for z in model.mobile]
    if species not in known:
        allowed = f"{', '.join(known)}: ions of the trajectory set"
        raise BadInput("--species", species, allowed=allowed, fix="--temperature 300, or mdistill distill FILE")
    if model.target != "msd":
        raise BadInput("--motion", f"a model of log10 {model.target}", allowed="one of msd", fix="train with --motion.target msd")


def predict_motion(model: MotionModel, structure: IonStructure, temperatures_K: Sequence[float]) -> StructureMotion:
    """Motion of one structure; a temperature outside those of training is predicted with a doubt."""
    (values,), (spreads,) = values_of(model.predictor, [structure], temperatures_K)
    low, high = min(model.temperatures_K), max(model.temperatures_K)
    found, doubts = list[Motion](), _doubts(model, structure)
    for kelvin, value, spread in zip(temperatures_K, values.tolist(), spreads.tolist(), strict=True):
        a, b = (cast(Interval, (value - q * (spread + SPREAD), value + q * (spread + SPREAD))) for q in model.factors)
        outside = () if low <= kelvin <= high else (f"{kelvin:g} K is outside training, {low:g} to {high:g} K",)
        diffusivity = value if model.target == "diffusivity" else value + np.log10(DIFFUSIVITY_CM2_S / (6.0 * PS * model.lag_ps))
        found.append(Motion(
            temperature_K=float(kelvin), value=value, interval_68=a, interval_95=b, diffusivity=float(diffusivity),
            conductivity=float(diffusivity) + _log_conductivity(structure, kelvin), not_diffusing=_still(model, value),
            doubts=(*doubts, *outside),
        ))  # fmt: skip
    moving = [one for one in found if low <= one.temperature_K <= high and (one.not_diffusing or 0.0) <= 0.5]
    energy = activation_energy(np.array([one.value for one in moving]), np.array([one.temperature_K for one in moving]))
    return StructureMotion(
        motions=tuple(found), activation=energy if np.isfinite(energy) else None, activation_error=model.activation
    )


def _still(model: MotionModel, value: float) -> float | None:
    steep, middle = model.curve
    return None if steep == 0.0 else float(1.0 / (1.0 + np.exp(np.clip(steep * (value - middle), -30, 30))))


def _log_conductivity(structure: IonStructure, kelvin: float) -> float:
    """log10 of σ (S/cm) for D = 1 cm²/s."""
    density = structure.composition[structure.mobile] / structure.volume
    return float(np.log10(1e-3 * CONDUCTIVITY_MS_CM * density / DIFFUSIVITY_CM2_S / (BOLTZMANN * kelvin)))


def _doubts(model: MotionModel, structure: IonStructure) -> tuple[str, ...]:
    """Reasons why training says little about a composition, or why the model says little at all."""
    unseen = [chemical_symbols[z] for z in structure.composition if z not in model.elements]
    nearest = float(0.5 * cdist(fractions_of([structure.composition]), model.fractions, "cityblock").min())
    found = [f"{', '.join(unseen)} not in the trajectory set"] if unseen else []
    if nearest > model.far:
        found.append(f"composition is far from the trajectory set ({nearest:.2f}, usual up to {model.far:.2f})")
    found += ["the predictor of motion is no better than a constant"] * (not model.honest)
    return tuple(found)
