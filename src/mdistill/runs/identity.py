"""Identity of files, structures and models: sha256 of their content."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from mdistill.io.files import sha256
from mdistill.types import Potential, System


def contents(*paths: Path) -> dict[str, str]:
    """sha256 of files by their names."""
    return {path.name: sha256(path) for path in paths}


def structure_sha256(*systems: System, decimals: int | None = None) -> str:
    """sha256 of positions, elements, cells, periodicity, and charge and unpaired electrons where they are stated; lengths are
    rounded to so many decimals of Å first."""

    def rounded(lengths: Tensor) -> Tensor:
        return lengths if decimals is None else torch.round(lengths.double(), decimals=decimals) + 0.0

    def parts(s: System) -> tuple[Tensor, ...]:
        return (rounded(s.positions), s.numbers, rounded(s.cell), s.pbc, *_stated(s))

    return tensors_sha256(*(part for s in systems for part in parts(s)))


def _stated(s: System) -> list[Tensor]:
    """Charge and unpaired electrons; the latter alone have a mark, for they are not a charge."""
    mark = [torch.tensor([*b"unpaired"])] if s.charge is None and s.unpaired is not None else []
    return [*mark, *(part for part in (s.charge, s.unpaired) if part is not None)]


def structure_digests(*systems: System) -> tuple[str, str]:
    """Identity of structures as an input of work, and that of earlier versions: of all bits, which differ in the last place with
    the processor that read them."""
    return structure_sha256(*systems, decimals=9), structure_sha256(*systems)


def tensors_sha256(*tensors: Tensor) -> str:
    """sha256 of the bytes of tensors, one after the other."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def model_id(model: Potential | torch.nn.Module) -> str:
    """sha256 of a model's weights, or its name where it has none."""
    return weights_sha256(model) or str(getattr(model, "name", type(model).__name__))


def shown_sha256(model: Potential | torch.nn.Module) -> str:
    """sha256 by which people know a model: that in the header of its file; without a file that of its weights, else ""."""
    net = model if isinstance(model, torch.nn.Module) else getattr(model, "net", None)
    header = getattr(net, "header", None) or {}
    return str(header.get("sha256") or weights_sha256(model))


def weights_sha256(model: Potential | torch.nn.Module, *, mode: str = "") -> str:
    """Identity of a model: its own `sha256` or that of its `net`, else that of its weights, else "".

    A model whose weights can be used in several ways also has a mode.
    """
    for known in (model, getattr(model, "net", None)):
        if getattr(known, "sha256", ""):
            return str(known.sha256)  # type: ignore[union-attr]
    digest, weights = hashlib.sha256(mode.encode()), weights_of(model)
    for name in sorted(weights):
        digest.update(f"{name} {weights[name].dtype} {tuple(weights[name].shape)}\n".encode())
        digest.update(_bytes(weights[name]))
    return digest.hexdigest() if weights else ""


def weights_of(model: Potential | torch.nn.Module) -> dict[str, Tensor]:
    """Tensors of a model that is a torch module or wraps one as `net`; none of any other."""
    module = model if isinstance(model, torch.nn.Module) else getattr(model, "net", None)
    return dict(module.state_dict()) if isinstance(module, torch.nn.Module) else {}


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().numpy().tobytes()
