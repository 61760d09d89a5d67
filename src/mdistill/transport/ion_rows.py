"""Crystals as rows of numbers, one for each mobile ion, on scales of the crystals that training knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from ase.data import atomic_numbers
from jaxtyping import Bool, Float
from torch import Tensor

from mdistill.crystals.crystal import Crystal
from mdistill.data.disorder import order
from mdistill.data.settings import DisorderSettings
from mdistill.errors import BadInput
from mdistill.io.structures import to_system
from mdistill.transport.features import Material, features
from mdistill.transport.ion_features import ion_features, ion_network, kinds_of, temperature_polynomial
from mdistill.transport.trajectory_set import CrystalRecord
from mdistill.types import Potential

Target = Literal["msd", "diffusivity"]
Expansion = Literal["pca", "cubic", "none"]
_LEAST_SPREAD = 1e-3
"""Share of the largest standard deviation below which a feature counts as constant."""
LIGHT = DisorderSettings(enumerate_up_to=500, anneals=1, like_factor=0.5, unlike_factor=0.5)
"""Search for one ordering whose features are needed: 0.05 to 0.3 s, with energies as low as those of the usual search."""
COLUMNS = tuple(range(1, 95))
"""Elements whose fractions the trees see."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class IonStructure:
    """What a predictor of motion knows of a crystal.

    Attributes:
        mobile: Atomic number of the mobile ion.
        composition, volume: Atoms of each element in a cell, and its volume (Å³).
        features: Invariant features of each kind of ion (`ion_features`); without columns where no net asks for them.
        share: Share of each kind among the ions.
        physics: Numbers of the network of ion sites (`ion_network`).
    """

    mobile: int
    composition: dict[int, float]
    volume: float
    features: Float[np.ndarray, "kind feature"]
    share: Float[np.ndarray, " kind"]
    physics: Float[np.ndarray, " number"]


def ion_structure(crystal: Crystal, teacher: Potential | None, *, mobile: int, seed: int = 0) -> IonStructure:
    """What is known of a crystal as read; features only with a SevenNet model, of partial occupancies those of one ordering.

    Raises:
        BadInput: No mobile ion, an element that the SevenNet model does not know, or no ordering.
    """
    found, kind = np.zeros((1, 0)), np.zeros(1, dtype=np.int64)
    if teacher is not None:
        whole = crystal if crystal.ordered else order(crystal, count=1, settings=LIGHT, seed=seed)[0].crystal
        found, kind = kinds_of(ion_features([to_system(whole)], teacher, mobile=mobile)[0])
    return IonStructure(
        mobile=mobile, composition=crystal.composition, volume=crystal.volume, features=found,
        share=np.bincount(kind) / len(kind), physics=ion_network(crystal, mobile=mobile),
    )  # fmt: skip


def recorded_structure(record: CrystalRecord) -> IonStructure:
    """What is known of a crystal of a set without its trajectories."""
    numbers, counts = np.unique(record.numbers, return_counts=True)
    return IonStructure(
        mobile=atomic_numbers[str(record.about["mobile"])], volume=float(abs(np.linalg.det(record.cell))),
        composition={int(z): float(n) for z, n in zip(numbers, counts, strict=True)}, features=record.features,
        share=np.bincount(record.kind, minlength=len(record.features)) / len(record.kind), physics=record.physics,
    )  # fmt: skip


def tree_columns(
    structures: Sequence[IonStructure], temperatures_K: Sequence[float], properties: Float[np.ndarray, "119 property"]
) -> Float[np.ndarray, "row column"]:
    """Composition, density, ion network, mobile ion and temperature: a row for each temperature of each structure, float32."""
    rows = []
    for one in structures:
        material = Material(composition=one.composition, volume=one.volume)
        known = features([material], COLUMNS, properties, mobile=one.mobile)[0]
        rows += [np.r_[known, one.physics, one.mobile, kelvin] for kelvin in temperatures_K]
    return np.array(rows, dtype=np.float32)


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


def raw_rows(one: CrystalRecord | IonStructure) -> Float[np.ndarray, "kind feature"]:
    """Features of each kind of ion, and after them the numbers of the crystal's ion network."""
    return np.concatenate([one.features, np.tile(one.physics, (len(one.features), 1))], axis=1)


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


def ion_rows(record: CrystalRecord, scales: Scales, *, target: Target = "msd") -> IonRows:
    """A crystal of a set on these scales, with its trajectories where it has them: a row for each ion."""
    values = target_of(record, target)
    spectra = np.nan_to_num((record.spectra - scales.bin_mean) / scales.bin_deviation)
    return IonRows(
        structure=torch.from_numpy(scales.structure(raw_rows(record))[record.kind]).float(),
        weight=torch.full((len(record.kind),), 1.0 / len(record.kind)),
        polynomial=torch.from_numpy(temperature_polynomial(record.temperatures_K)).float(),
        trajectory=torch.from_numpy(spectra).float() if record.followed else None,
        target=torch.from_numpy(np.nan_to_num(values)).float(),
        known=torch.from_numpy(np.isfinite(values)),
    )  # fmt: skip


def untaught_rows(structure: IonStructure, scales: Scales, temperatures_K: Sequence[float]) -> IonRows:
    """A structure alone on these scales: a row for each kind of ion, no labels."""
    many = len(temperatures_K)
    return IonRows(
        structure=torch.from_numpy(scales.structure(raw_rows(structure))).float(),
        weight=torch.from_numpy(structure.share).float(),
        polynomial=torch.from_numpy(temperature_polynomial(np.asarray(temperatures_K))).float(), trajectory=None,
        target=torch.zeros(many), known=torch.zeros(many, dtype=torch.bool),
    )  # fmt: skip
