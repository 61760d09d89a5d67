"""The model file of the predictor of motion: the package's format (safetensors, JSON header, sha256), read into arrays."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch

from mdistill.errors import BadInput
from mdistill.io.files import write_bytes
from mdistill.nets.model_files import FORMAT, read_metadata, read_tensors, sealed, tensor_hash
from mdistill.transport.features import PROPERTIES, STRUCTURE_COLUMNS
from mdistill.transport.forest import FIELDS, Forest, check_forest
from mdistill.transport.ion_features import PHYSICS
from mdistill.transport.ion_rows import COLUMNS, Scales
from mdistill.transport.motion import MotionModel, Predictor
from mdistill.transport.taught import TaughtNet

KIND = "motion"
SHIPPED = Path(__file__).parent / "motion.mdistill"
"""The model of the package, made by `mdistill train transport --trajectories` from its trajectory set."""
_ALLOWED, _FIX = "a file of mdistill train transport --trajectories", "copy it again, or train again"
_SCALES = ("mean", "deviation", "bin_mean", "bin_deviation")
_CONSTANT = ("scales.deviation", "scales.bin_deviation")
"""Arrays that hold ∞ where a feature is constant."""
_NUMBERS = (
    "target", "factors", "curve", "activation", "gain", "temperatures_K", "lag_ps", "mobile", "elements", "far", "crystals",
    "groups", "teacher",
)  # fmt: skip


def save_motion(path: Path, model: MotionModel, provenance: dict[str, Any]) -> str:
    """Write the model, all or nothing, and return the sha256 of its arrays."""
    scales, nets, forest = model.predictor.scales, model.predictor.nets, model.predictor.forest
    tensors = {"fractions": model.fractions, "properties": model.predictor.properties}
    if scales is not None:
        tensors |= {f"scales.{name}": np.asarray(getattr(scales, name)) for name in _SCALES}
        tensors |= {} if scales.directions is None else {"scales.directions": scales.directions}
    for k, net in enumerate(nets):
        tensors |= {f"net.{k}.{name}": value.numpy() for name, value in net.state_dict().items()}
    tensors |= {} if forest is None else {f"forest.{name}": getattr(forest, name) for name in FIELDS}
    tensors = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    settings: dict[str, Any] = {name: getattr(model, name) for name in _NUMBERS}
    settings |= {
        "error": list(model.error.items()),
        "constant": list(model.constant.items()),
        "cubic": scales is not None and scales.cubic,
    }
    settings |= {"properties": list(PROPERTIES)} | ({"latent": nets[0].latent, "width": nets[0].width} if nets else {})
    metadata = {
        "format": FORMAT, "kind": KIND, "settings": settings, "elements": list(model.elements), "sha256": tensor_hash(tensors),
        "provenance": provenance,
    }  # fmt: skip
    write_bytes(path, safetensors.numpy.save(tensors, metadata=sealed("mdistill", json.dumps(metadata, allow_nan=False))))
    return str(metadata["sha256"])


@cache
def shipped_motion_sha256() -> str:
    """sha256 of the arrays of the model of the package."""
    return str(read_metadata(SHIPPED)["sha256"])


@cache
def shipped_motion() -> MotionModel:
    """The model of the package."""
    return load_motion(SHIPPED)


def load_motion(path: Path) -> MotionModel:
    """Read a model file.

    Raises:
        BadInput: No model file, damaged, or of another kind.
    """
    if path.is_file() and path.suffix != ".mdistill":
        raise BadInput(path, "no model file", allowed=_ALLOWED, fix="name motion.mdistill of its folder")
    header = read_metadata(path)
    if header["kind"] != KIND:
        raise BadInput(path, f"a model of kind {header['kind']!r}", allowed=_ALLOWED, fix="name motion.mdistill")
    _, tensors = read_tensors(path)
    try:
        return _model(path, header["settings"], tensors)
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
        if isinstance(error, BadInput):
            raise
        problem = f"its content cannot be read ({type(error).__name__}: {str(error)[:100]})"
        raise BadInput(path, problem, allowed=_ALLOWED, fix=_FIX) from error


def _model(path: Path, settings: dict[str, Any], tensors: dict[str, np.ndarray]) -> MotionModel:
    if settings["properties"] != list(PROPERTIES) or tensors["properties"].shape != (119, len(PROPERTIES)):
        raise BadInput(path, "its features are of another version", allowed=_ALLOWED, fix="train again with this version")
    scales = forest = None
    if nets := _nets(settings, tensors):
        scales = Scales(
            **{name: tensors[f"scales.{name}"] for name in _SCALES}, directions=tensors.get("scales.directions"),
            cubic=bool(settings["cubic"]),
        )  # fmt: skip
    if "forest.values" in tensors:
        forest = Forest(**{name: tensors[f"forest.{name}"] for name in FIELDS})
        check_forest(forest, len(COLUMNS) + 6 * len(PROPERTIES) + STRUCTURE_COLUMNS + len(PHYSICS) + 2, path)
    sound = all(np.isfinite(value).all() for name, value in tensors.items() if name not in _CONSTANT)
    sound = sound and not any(np.isnan(tensors[name]).any() for name in _CONSTANT if name in tensors)
    if not sound or (forest is None and not nets):
        raise ValueError("no predictor, or numbers that are not finite")
    kept: dict[str, Any] = {
        name: tuple(settings[name]) if isinstance(settings[name], list) else settings[name] for name in _NUMBERS
    }
    kept["factors"] = tuple(tuple(one) for one in kept["factors"])
    return MotionModel(
        predictor=Predictor(forest=forest, properties=tensors["properties"], scales=scales, nets=nets),
        fractions=tensors["fractions"], error={float(t): e for t, e in settings["error"]},
        constant={float(t): e for t, e in settings["constant"]}, **kept,
    )  # fmt: skip


def _nets(settings: dict[str, Any], tensors: dict[str, np.ndarray]) -> tuple[TaughtNet, ...]:
    nets = []
    for k in range(len({name.split(".")[1] for name in tensors if name.startswith("net.")})):
        part = f"net.{k}."
        state = {name.removeprefix(part): torch.from_numpy(value) for name, value in tensors.items() if name.startswith(part)}
        net = TaughtNet(
            state["structure.weight"].shape[1] - 4, state["trajectory.weight"].shape[1], latent=int(settings["latent"]),
            width=int(settings["width"]),
        )  # fmt: skip
        net.load_state_dict(state)
        nets.append(net.requires_grad_(False))
    return tuple(nets)
