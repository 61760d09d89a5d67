"""Model files: safetensors with a JSON header that describes the model, checked byte for byte before use.

Layout (format 3): one safetensors file `student.mdistill`. Its `__metadata__` holds "mdistill": a line
with the sha256 of the JSON below it, {format, kind, settings, elements, sha256, provenance}. sha256 is over name, type, shape and
bytes of every tensor. So every flipped bit is noticed, and equal models are equal files. No pickle is ever written or read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch

from mdistill.derivatives import Conservative, Direct, potential_of
from mdistill.errors import BadInput
from mdistill.io.files import write_bytes
from mdistill.nets.catalogue import MAPS, POTENTIALS, kind_of, resolve
from mdistill.nets.network import Network, StrideMap, Student
from mdistill.settings import from_json

FORMAT = 3
"""The format written; older ones are upgraded on reading."""
HEADER_LIMIT = 10_000_000
"""Largest header read, bytes."""
FILE_LIMIT = 2_000_000_000
"""Largest model file read, bytes."""
LARGEST_WEIGHT = 1e12
"""Largest weight read; those of students are below 1e6, and squares of larger ones leave the range of float32."""
SEAL = "sha256:"
"""Before the sha256 of the JSON header, in the line above it; files before format 3 have none."""

_KINDS_1 = {"spline": "moment", "composition": "splitting", "direct": "one_step", "attention": "one_step_attention"}
_FIELDS_1 = {
    "direct": {"reach": "cutoff", "rounds": "layers"},
    "attention": {"reach": "cutoff", "layers": "attention_layers", "rounds": "layers"},
}
_POTENTIAL_1 = ("elements", "cutoff", "channels", "radial", "degree", "hidden")
Header = dict[str, Any]


def _from_format_1(metadata: Header) -> Header:
    """Kinds and fields get other names; the size of a map's potential becomes a block of its settings."""
    kind, settings = metadata.get("kind"), metadata.get("settings")
    if not isinstance(kind, str) or not isinstance(settings, dict):
        return metadata | {"format": 2}
    if kind in ("composition", "direct"):
        potential = {name: settings[name] for name in _POTENTIAL_1 if name in settings}
        settings = {name: value for name, value in settings.items() if name not in potential} | {"potential": potential}
    names = _FIELDS_1.get(kind, {})
    settings = {names.get(name, name): value for name, value in settings.items()}
    return metadata | {"format": 2, "kind": _KINDS_1.get(kind, kind), "settings": settings}


def _from_format_2(metadata: Header) -> Header:
    """The same header, without a sha256 of its own."""
    return metadata | {"format": 3}


UPGRADES: dict[int, Callable[[Header], Header]] = {1: _from_format_1, 2: _from_format_2}
"""format n → function that turns its metadata into that of format n + 1."""
_ALLOWED = "a model file written by mdistill (student.mdistill)"
_AGAIN = "copy the file again from where it was made, or train again"


def save_model(path: Path, net: Network, provenance: Header | None = None) -> str:
    """Write a network as a model file, all or nothing, and return the sha256 of its tensors.

    Args:
        path: Usually `student.mdistill`.
        net: The network; floating tensors are stored as float64 or as they are.
        provenance: Its origin (teacher, frames, commit …), JSON values.
    """
    tensors = {name: value.detach().cpu().contiguous().numpy() for name, value in net.state_dict().items()}
    digest = tensor_hash(tensors)
    metadata = {
        "format": FORMAT, "kind": net.kind, "settings": dataclasses.asdict(net.settings), "elements": sorted(net.elements),
        "sha256": digest, "provenance": provenance or {},
    }  # fmt: skip
    text = json.dumps(metadata, allow_nan=False)
    write_bytes(path, safetensors.numpy.save(tensors, metadata=sealed("mdistill", text)))
    return digest


def load_model(path: Path, *, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu") -> Conservative | Direct:
    """Read a model file as a potential.

    Args:
        path: The model file.
        dtype: Float type it computes in: float64 for checks, float32 for speed (energies are summed in float64 anyway).
        device: Where its tensors go.
    Raises:
        BadInput: Not a model file, damaged, of a newer format, of another kind, or with weights that are not finite.
    """
    net = load_net(path)
    net.header = read_metadata(path)
    return potential_of(net.in_type(dtype).to(device).requires_grad_(False))


def load_net(path: Path) -> Student:
    """Read the network of a model file, float64, trainable. Raises as `load_model`."""
    net: Student = _load(Path(path), POTENTIALS)
    return net


def load_map(path: Path) -> StrideMap:
    """Read the long-stride map of a model file, float64, trainable.

    Raises:
        BadInput: As `load_model`, and where the file holds a potential.
    """
    net: StrideMap = _load(Path(path), MAPS)
    return net


def _load(path: Path, kinds: Mapping[str, Any]) -> Any:
    metadata, tensors = read_tensors(path)
    if metadata["kind"] not in kinds:
        problem, allowed = f"a model of kind {metadata['kind']!r}", ", ".join(kinds)
        known = metadata["kind"] in POTENTIALS.keys() | MAPS.keys()
        fix = "name the other of the two model files" if known else "use a model of these kinds, or a newer mdistill"
        raise BadInput(path, problem, allowed=allowed, fix=fix)
    kind = kinds[metadata["kind"]]
    settings = _settings(path, resolve(kind.settings), metadata["settings"])
    if list(settings.elements) != metadata["elements"]:
        problem = f"header lists elements {metadata['elements']}, settings {list(settings.elements)}"
        raise BadInput(path, problem, allowed="the same elements", fix=_AGAIN)
    _check_size(path, settings, tensors)
    net = resolve(kind.net)(settings)
    _check_tensors(path, net.state_dict(), tensors)
    net.load_state_dict({name: torch.from_numpy(value.astype(np.float64)) for name, value in tensors.items()})
    return net


def network_of(settings: Any, *, seed: int = 0) -> Any:
    """A network of this size with random weights."""
    return resolve(kind_of(settings.kind).net)(settings, seed=seed)


def read_metadata(path: Path) -> Header:
    """Header of a model file: format, kind, settings, elements, sha256 of the weights, provenance.

    Raises:
        BadInput: Not a model file, too large a header, or a newer format.
    """
    return _upgraded(Path(path), read_header(Path(path), "mdistill"))


def sealed(key: str, text: str) -> dict[str, str]:
    """A JSON text below its sha256, as the metadata of a safetensors file: one entry, for the order of several is random."""
    return {key: f"{SEAL}{hashlib.sha256(text.encode()).hexdigest()}\n{text}"}


def read_header(path: Path, key: str) -> Any:
    """The JSON under `key` in the header of a safetensors file, read without the tensors.

    Raises:
        BadInput: No file, larger than FILE_LIMIT, a header larger than HEADER_LIMIT or the file, no such JSON in it, or one whose
            sha256 differs (files of before format 3 have none).
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "no such file"
        raise BadInput(path, what, allowed=_ALLOWED, fix="name the file student.mdistill of a run")
    size = path.stat().st_size
    if size > FILE_LIMIT:
        raise BadInput(path, f"{size} bytes", allowed=f"at most {FILE_LIMIT} bytes", fix="check the path")
    with open(path, "rb") as handle:
        start = handle.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else -1
        if not 2 <= length <= min(HEADER_LIMIT, size - 8):
            raise BadInput(
                path, f"no readable header ({size} bytes, header of {length} bytes announced)", allowed=_ALLOWED, fix=_AGAIN
            )
        raw = handle.read(length)
    try:
        held = json.loads(raw)["__metadata__"]
        text = held[key].partition("\n")[2] if held[key].startswith(SEAL) else held[key]
        metadata, intact = json.loads(text), held in (sealed(key, text), {key: text})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadInput(path, f"its header cannot be read ({type(error).__name__})", allowed=_ALLOWED, fix=_AGAIN) from error
    if not intact:
        raise BadInput(path, "its header was altered: its sha256 differs", allowed="an unaltered file", fix=_AGAIN)
    return metadata


def tensor_hash(tensors: dict[str, np.ndarray]) -> str:
    """sha256 over name, type, shape and bytes of every tensor, in the order of names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = np.ascontiguousarray(tensors[name])
        digest.update(f"{name} {value.dtype.str} {value.shape}\n".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def _upgraded(path: Path, metadata: Any) -> Header:
    fields = {"format": int, "kind": str, "settings": dict, "elements": list, "sha256": str, "provenance": dict}
    if not isinstance(metadata, dict) or not isinstance(metadata.get("format"), int):
        raise BadInput(path, "its header names no format", allowed=_ALLOWED, fix=_AGAIN)
    if metadata["format"] > FORMAT:
        raise BadInput(
            path, f"format {metadata['format']}", allowed=f"format 1 to {FORMAT}", fix="pip install --upgrade mdistill"
        )
    while metadata["format"] in UPGRADES:
        metadata = UPGRADES[metadata["format"]](metadata)
    if metadata["format"] != FORMAT:
        raise BadInput(path, f"format {metadata['format']}", allowed=f"format 1 to {FORMAT}", fix=_AGAIN)
    for name, kind in fields.items():
        if not isinstance(metadata.get(name), kind):
            raise BadInput(path, f"its header has no {name}", allowed=_ALLOWED, fix=_AGAIN)
    _check_cutoff(path, metadata)
    return metadata


def _check_cutoff(path: Path, metadata: Header) -> None:
    """Reject a header, such as one without a sha256, whose cutoff is not that of the training it names."""
    trained, cutoff = metadata["provenance"].get("settings"), metadata["settings"].get("cutoff")
    asked = trained.get("cutoff") if isinstance(trained, dict) and not metadata["provenance"].get("start") else None
    if isinstance(asked, (int, float)) and cutoff is not None and asked != cutoff:
        allowed = f"the cutoff of its training, {asked:g} Å"
        raise BadInput(path, f"its header has a cutoff of {cutoff} Å", allowed=allowed, fix=_AGAIN)


def read_tensors(path: Path) -> tuple[Header, dict[str, np.ndarray]]:
    """Header and tensors of a model file of any kind, compared with their sha256.

    Raises:
        BadInput: Not a model file, damaged, or of a newer format.
    """
    metadata = read_metadata(path)
    try:
        tensors = safetensors.numpy.load(path.read_bytes())
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, OSError) as error:
        raise BadInput(path, f"is damaged ({error})", allowed=_ALLOWED, fix=_AGAIN) from error
    digest = tensor_hash(tensors)
    if digest != metadata["sha256"]:
        problem = f"the sha256 of its weights is {digest[:12]}…, its header says {metadata['sha256'][:12]}…"
        raise BadInput(path, problem, allowed="an unaltered file", fix=_AGAIN)
    return metadata, tensors


def _settings(path: Path, make: type[Any], raw: Header) -> Any:
    try:
        return from_json(make, raw, source=path, derived=True)
    except BadInput as error:
        raise BadInput(
            path, f"its settings are invalid: {error.subject} {error.problem}", allowed=error.allowed, fix=_AGAIN
        ) from error
    except (KeyError, TypeError) as error:
        raise BadInput(path, f"its settings cannot be read ({error})", allowed=_ALLOWED, fix=_AGAIN) from error


def _check_size(path: Path, settings: Any, tensors: dict[str, np.ndarray]) -> None:
    """Reject settings of a larger network than the file holds, before that network is built."""
    for name, shape in settings.shapes().items():
        stored = tensors[name].shape if name in tensors else None
        if stored != shape:
            raise BadInput(path, f"tensor {name} has shape {stored}", allowed=f"{shape} by its settings", fix=_AGAIN)


def _check_tensors(path: Path, expected: dict[str, torch.Tensor], tensors: dict[str, np.ndarray]) -> None:
    missing, extra = sorted(set(expected) - set(tensors)), sorted(set(tensors) - set(expected))
    if missing or extra:
        raise BadInput(path, f"tensors missing: {missing}, unknown: {extra}", allowed=_ALLOWED, fix=_AGAIN)
    for name, value in tensors.items():
        if value.shape != tuple(expected[name].shape) or value.dtype.kind != "f":
            raise BadInput(
                path, f"tensor {name} is {value.dtype} {value.shape}", allowed=f"float {tuple(expected[name].shape)}", fix=_AGAIN
            )
        largest = float(np.abs(value).max(initial=0.0))
        if not largest <= LARGEST_WEIGHT:
            problem, allowed = f"tensor {name} has a value of {largest:g}", f"finite weights, at most {LARGEST_WEIGHT:g}"
            raise BadInput(path, problem, allowed=allowed, fix="use an earlier checkpoint")
