"""The model file of the predictor of motion: the package's format (safetensors, JSON header, sha256), read into arrays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch

from mdistill.errors import BadInput
from mdistill.io.files import write_bytes
from mdistill.nets.model_files import FORMAT, read_metadata, read_tensors, sealed, tensor_hash
from mdistill.transport.ion_rows import Scales
from mdistill.transport.motion import MotionModel
from mdistill.transport.taught import TaughtNet

KIND = "motion"
_ALLOWED, _FIX = "a file of mdistill train transport --trajectories", "copy it again, or train again"
_SCALES = ("mean", "deviation", "bin_mean", "bin_deviation")
_NUMBERS = ("target", "factors", "curve", "gain", "temperatures_K", "elements", "far", "crystals", "groups")


def save_motion(path: Path, model: MotionModel, provenance: dict[str, Any]) -> str:
    """Write the model, all or nothing, and return the sha256 of its arrays."""
    tensors = {f"scales.{name}": np.asarray(getattr(model.scales, name)) for name in _SCALES}
    if model.scales.directions is not None:
        tensors["scales.directions"] = model.scales.directions
    for k, net in enumerate(model.nets):
        tensors |= {f"net.{k}.{name}": value.numpy() for name, value in net.state_dict().items()}
    tensors["fractions"] = model.fractions
    tensors = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    settings: dict[str, Any] = {name: getattr(model, name) for name in _NUMBERS}
    settings |= {"error": list(model.error.items()), "constant": list(model.constant.items()), "cubic": model.scales.cubic}
    settings |= {"latent": model.nets[0].latent, "width": model.nets[0].width}
    metadata = {
        "format": FORMAT, "kind": KIND, "settings": settings, "elements": list(model.elements), "sha256": tensor_hash(tensors),
        "provenance": provenance,
    }  # fmt: skip
    write_bytes(path, safetensors.numpy.save(tensors, metadata=sealed("mdistill", json.dumps(metadata, allow_nan=False))))
    return str(metadata["sha256"])


def load_motion(path: Path) -> MotionModel:
    """Read a model file.

    Raises:
        BadInput: No model file, damaged, or of another kind.
    """
    header = read_metadata(path)
    if header["kind"] != KIND:
        raise BadInput(path, f"a model of kind {header['kind']!r}", allowed=_ALLOWED, fix="name motion.mdistill")
    _, tensors = read_tensors(path)
    try:
        return _model(header["settings"], tensors)
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
        problem = f"its content cannot be read ({type(error).__name__}: {str(error)[:100]})"
        raise BadInput(path, problem, allowed=_ALLOWED, fix=_FIX) from error


def _model(settings: dict[str, Any], tensors: dict[str, np.ndarray]) -> MotionModel:
    scales = Scales(
        **{name: tensors[f"scales.{name}"] for name in _SCALES}, directions=tensors.get("scales.directions"),
        cubic=bool(settings["cubic"]),
    )  # fmt: skip
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
    if not nets or not all(np.isfinite(value).all() for name, value in tensors.items() if name != "scales.deviation"):
        raise ValueError("no predictor, or numbers that are not finite")
    kept: dict[str, Any] = {
        name: tuple(settings[name]) if isinstance(settings[name], list) else settings[name] for name in _NUMBERS
    }
    return MotionModel(
        nets=tuple(nets), scales=scales, fractions=tensors["fractions"], error={float(t): e for t, e in settings["error"]},
        constant={float(t): e for t, e in settings["constant"]}, **kept,
    )  # fmt: skip
