"""Crystals of a trajectory set as rows of numbers, one for each mobile ion, on scales of the crystals that training knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mdistill.errors import BadInput
from mdistill.transport.ion_features import temperature_polynomial
from mdistill.transport.trajectory_set import CrystalRecord

Target = Literal["msd", "diffusivity"]
Expansion = Literal["pca", "cubic", "none"]
_LEAST_SPREAD = 1e-3
"""Share of the largest standard deviation below which a feature counts as constant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IonRows:
    """One crystal.

    Attributes:
        structure: Features of each ion, on the scales of `Scales`.
        weight: Share of each row in the mean over ions.
        polynomial: 1, t, t², t³ of each temperature.
        trajectory: Features of each ion's trajectory; None where it is not known.
        target: log10 of the target at each temperature; 0 where it is not `known`.
        known: Temperatures with a label.
    """

    structure: Float[Tensor, "ion feature"]
    weight: Float[Tensor, " ion"]
    polynomial: Float[Tensor, "temperature 4"]
    trajectory: Float[Tensor, "temperature ion bin"] | None
    target: Float[Tensor, " temperature"]
    known: Bool[Tensor, " temperature"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scales:
    """Mean and standard deviation of features over the crystals of training, and their leading directions.

    Attributes:
        mean, deviation: Of the structure features, those of the ion network last.
        directions: Leading directions of the scaled features; None: features as they are.
        cubic: Whether squares and cubes are added.
        bin_mean, bin_deviation: Of the spectra.
    """

    mean: Float[np.ndarray, " feature"]
    deviation: Float[np.ndarray, " feature"]
    directions: Float[np.ndarray, "feature component"] | None
    cubic: bool
    bin_mean: Float[np.ndarray, " bin"]
    bin_deviation: Float[np.ndarray, " bin"]

    def structure(self, raw: Float[np.ndarray, "ion feature"]) -> Float[np.ndarray, "ion component"]:
        """Structure features on these scales, cut at ten standard deviations."""
        scaled = np.clip((raw - self.mean) / self.deviation, -10.0, 10.0)
        scaled = scaled if self.directions is None else scaled @ self.directions
        return np.concatenate([scaled, scaled**2, scaled**3], axis=1) if self.cubic else scaled


def raw_rows(record: CrystalRecord) -> Float[np.ndarray, "kind feature"]:
    """Features of each kind of ion, and after them the numbers of the crystal's ion network."""
    return np.concatenate([record.features, np.tile(record.physics, (len(record.features), 1))], axis=1)


def scales_of(records: Sequence[CrystalRecord], *, expansion: Expansion = "pca", components: int = 16) -> Scales:
    """Scales of crystals; each crystal has the same weight.

    Raises:
        BadInput: No usable temperature in any of them.
    """
    if not any(one.usable.any() for one in records):
        raise BadInput("trajectory set", "no usable temperature", allowed="crystals whose force gate passed", fix="add crystals")
    rows = np.concatenate([raw_rows(one) for one in records])
    weight = np.concatenate([np.bincount(one.kind, minlength=len(one.features)) / len(one.kind) for one in records])
    mean, deviation = _moments(rows, weight / weight.sum())
    directions = None
    if expansion == "pca":
        scaled = np.clip((rows - mean) / deviation, -10.0, 10.0) * np.sqrt(weight / weight.sum())[:, None]
        _, values, vectors = np.linalg.svd(scaled, full_matrices=False)
        count = max(1, min(components, int((values > 1e-3 * values[0]).sum())))
        directions = vectors[:count].T / np.where(values[:count] > 1e-9, values[:count], np.inf)
    followed = [one for one in records if one.followed and one.usable.any()]
    spectra = [one.spectra[one.usable].reshape(-1, one.spectra.shape[2]) for one in followed]
    spectra = spectra or [np.zeros((1, records[0].spectra.shape[2]))]
    shares = np.concatenate([np.full(len(one), 1.0 / len(one)) for one in spectra])
    bin_mean, bin_deviation = _moments(np.concatenate(spectra), shares / shares.sum())
    return Scales(
        mean=mean, deviation=deviation, directions=directions, cubic=expansion == "cubic", bin_mean=bin_mean,
        bin_deviation=bin_deviation,
    )  # fmt: skip


def _moments(rows: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean = weight @ rows
    deviation = np.sqrt(weight @ (rows - mean) ** 2)
    return mean, np.where(deviation > _LEAST_SPREAD * max(deviation.max(), 1e-12), deviation, np.inf)


def target_of(record: CrystalRecord, target: Target) -> Float[np.ndarray, " temperature"]:
    """log10 of the mean square displacement (Å²), or of D (cm²/s); NaN where it is not known."""
    with np.errstate(invalid="ignore", divide="ignore"):
        values = record.log_msd if target == "msd" else np.log10(record.diffusivity)
    return np.where(record.usable & np.isfinite(values), values, np.nan)


def ion_rows(record: CrystalRecord, scales: Scales, *, target: Target = "msd", taught: bool = True) -> IonRows:
    """A crystal on these scales; without its trajectory unless `taught` and known: then ions of one kind share a row."""
    kinds, values = scales.structure(raw_rows(record)), target_of(record, target)
    known, taught = np.isfinite(values), taught and record.followed
    if taught:
        rows, weight = kinds[record.kind], np.full(len(record.kind), 1.0 / len(record.kind))
        spectra = np.nan_to_num((record.spectra - scales.bin_mean) / scales.bin_deviation)
    else:
        rows, weight = kinds, np.bincount(record.kind, minlength=len(kinds)) / len(record.kind)
    return IonRows(
        structure=torch.from_numpy(rows).float(), weight=torch.from_numpy(weight).float(),
        polynomial=torch.from_numpy(temperature_polynomial(record.temperatures_K)).float(),
        trajectory=torch.from_numpy(spectra).float() if taught else None,
        target=torch.from_numpy(np.nan_to_num(values)).float(), known=torch.from_numpy(known),
    )  # fmt: skip
