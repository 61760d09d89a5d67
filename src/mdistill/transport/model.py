"""The model file of the transport predictor: the package's format (safetensors, JSON header, sha256), read into arrays."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from jaxtyping import Float

from mdistill.errors import BadInput
from mdistill.io.files import write_bytes
from mdistill.nets.model_files import FORMAT, read_metadata, read_tensors, sealed, tensor_hash
from mdistill.transport.correction import ARRAYS, INPUTS, Correction, Ridge
from mdistill.transport.features import PROPERTIES, STRUCTURE_COLUMNS
from mdistill.transport.forest import FIELDS, Forest, check_forest

KIND = "transport"
SHIPPED = Path(__file__).parent / "transport.mdistill"
"""The model of the package, made by `mdistill train transport` from OBELiX."""
BASES = {"symmetry": "with density, lattice and space group", "composition": "composition alone"}
"""The forests, and what each is told."""
CORRECTED = "corrected"
"""Basis of what the forest "symmetry" and the correction say together."""
_ALLOWED = "a file of mdistill train transport"
_FACTS = ("factors", "error", "without", "gain", "entries", "groups", "motion")


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis:
    """One forest, the conformal factors of LEVELS, and its mean absolute error in grouped cross-validation (decades)."""

    forest: Forest
    factors: tuple[float, ...]
    error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Distances:
    """The compositions that the model was trained on.

    Attributes:
        fractions: Atomic fractions of the model's elements.
        targets: log10 of the conductivity (S/cm) of each.
        far: Distance (half the sum of absolute differences of fractions) above which a composition is far from all.
    """

    fractions: Float[np.ndarray, "entry element"]
    targets: Float[np.ndarray, " entry"]
    far: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportModel:
    """Everything a prediction needs.

    Attributes:
        mobile: Atomic number of the mobile ion.
        elements: Atomic numbers that training knew.
        properties: Of the elements, see `element_properties`.
        bases: "symmetry" uses density, lattice and space group, "composition" the composition alone.
        known: The compositions of training.
        scatter: Half width of the narrowest intervals (LEVELS), decades: how far measurements of one composition differ.
        correction: Of the forest "symmetry" by ion sites and predicted motion; None where training had no CIFs.
        header: Header of its file; {} where it was not read from one.
    """

    mobile: int
    elements: tuple[int, ...]
    properties: Float[np.ndarray, "119 property"]
    bases: Mapping[str, Basis]
    known: Distances
    scatter: tuple[float, ...]
    correction: Correction | None = None
    header: dict[str, Any] = field(default_factory=dict)


def save_transport(path: Path, model: TransportModel, provenance: dict[str, Any]) -> str:
    """Write the model, all or nothing, and return the sha256 of its arrays."""
    tensors = {f"{name}.{part}": getattr(basis.forest, part) for name, basis in model.bases.items() for part in FIELDS}
    row, column = np.nonzero(model.known.fractions)
    tensors |= {
        "properties": model.properties, "known.row": row.astype(np.int16), "known.column": column.astype(np.uint8),
        "known.fraction": model.known.fractions[row, column].astype(np.float32), "known.targets": model.known.targets,
    }  # fmt: skip
    made = model.correction
    tensors |= {} if made is None else {f"correction.{name}": getattr(made.ridge, name) for name in ARRAYS}
    tensors = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    settings = {
        "mobile": model.mobile, "properties": list(PROPERTIES), "far": model.known.far, "scatter": list(model.scatter),
        "factors": {name: list(basis.factors) for name, basis in model.bases.items()},
        "errors": {name: basis.error for name, basis in model.bases.items()},
    }  # fmt: skip
    if made is not None:
        settings["correction"] = {"inputs": list(INPUTS)} | {name: getattr(made, name) for name in _FACTS}
    digest = tensor_hash(tensors)
    metadata = {
        "format": FORMAT, "kind": KIND, "settings": settings, "elements": list(model.elements), "sha256": digest,
        "provenance": provenance,
    }  # fmt: skip
    write_bytes(path, safetensors.numpy.save(tensors, metadata=sealed("mdistill", json.dumps(metadata, allow_nan=False))))
    return digest


@cache
def shipped_model() -> TransportModel:
    """The model of the package."""
    return load_transport(SHIPPED)


def load_transport(path: Path) -> TransportModel:
    """Read a model file.

    Raises:
        BadInput: No model file, damaged, or of another kind.
    """
    header = read_metadata(path)
    if header["kind"] != KIND:
        problem = f"a model of kind {header['kind']!r}"
        raise BadInput(path, problem, allowed=_ALLOWED, fix="leave --model out for the model of the package")
    _, tensors = read_tensors(path)
    try:
        return _model(path, header, tensors)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        if isinstance(error, BadInput):
            raise
        problem = f"its content cannot be read ({type(error).__name__}: {str(error)[:100]})"
        raise BadInput(path, problem, allowed=_ALLOWED, fix="copy it again, or train again") from error


def _model(path: Path, header: dict[str, Any], tensors: dict[str, np.ndarray]) -> TransportModel:
    settings, elements, targets = header["settings"], [int(z) for z in header["elements"]], tensors["known.targets"]
    columns = len(elements) + 6 * len(PROPERTIES) + STRUCTURE_COLUMNS
    bases = {}
    for name in BASES:
        forest = Forest(**{part: tensors[f"{name}.{part}"] for part in FIELDS})
        check_forest(forest, columns - (STRUCTURE_COLUMNS if name == "composition" else 0), path)
        factors = tuple(float(one) for one in settings["factors"][name])
        bases[name] = Basis(forest=forest, factors=factors, error=float(settings["errors"][name]))
    if settings["properties"] != list(PROPERTIES) or tensors["properties"].shape != (119, len(PROPERTIES)):
        raise BadInput(path, "its features are of another version", allowed=_ALLOWED, fix="train again with this version")
    fractions = np.zeros((len(targets), len(elements)))
    fractions[tensors["known.row"], tensors["known.column"]] = tensors["known.fraction"]
    return TransportModel(
        mobile=int(settings["mobile"]), elements=tuple(elements), properties=tensors["properties"], bases=bases, header=header,
        scatter=tuple(float(one) for one in settings["scatter"]),
        correction=_correction(path, settings.get("correction"), tensors),
        known=Distances(fractions=fractions, targets=targets, far=float(settings["far"])),
    )  # fmt: skip


def _correction(path: Path, settings: dict[str, Any] | None, tensors: dict[str, np.ndarray]) -> Correction | None:
    """The correction of a file; those written before there was one have none."""
    if settings is None:
        return None
    if settings["inputs"] != list(INPUTS):
        problem = "the inputs of its correction are of another version"
        raise BadInput(path, problem, allowed=_ALLOWED, fix="train again with this version")
    ridge = Ridge(**{name: tensors[f"correction.{name}"] for name in ARRAYS})
    arrays = [getattr(ridge, name) for name in ARRAYS]
    if any(one.shape != (len(INPUTS),) or not np.isfinite(one).all() for one in arrays) or not (ridge.deviation > 0.0).all():
        raise BadInput(path, "its correction is damaged", allowed=_ALLOWED, fix="copy it again")
    facts: dict[str, Any] = {name: tuple(one) if isinstance(one := settings[name], list) else one for name in _FACTS}
    return Correction(ridge=ridge, **facts)
