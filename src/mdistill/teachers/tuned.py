r"""A foundation potential that is trained further on labels of a higher level of theory.

E'(x) = E(x; w') + Σ_Z n_Z e_Z        w': weights, all of them trained        e_Z: energy of an atom of element Z, eV

Its file (`tuned.mdistill`) has the format of model files (`nets.model_files`), with all weights and the name of the potential
that they are of. It is a teacher like any other: `--teacher runs/mine/harden/tuned.mdistill`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from jaxtyping import Float
from torch import Tensor

from mdistill.errors import BadInput
from mdistill.io.files import write_bytes
from mdistill.nets.model_files import FORMAT, read_metadata, read_tensors, sealed, tensor_hash
from mdistill.runs.identity import model_id, tensors_sha256
from mdistill.teachers import load_teacher
from mdistill.teachers.cards import card_of
from mdistill.types import CurvedPotential, Graph, Potential, Prediction

KIND = "tuned"
_AGAIN = "copy the file again, or make it again: mdistill distill --hard ENGINE"
_ALLOWED = "tuned.mdistill of a run with hard labels"


def tunable(name: str) -> bool:
    """Whether the weights of a teacher can be trained: a SevenNet model of its package, or CHGNet."""
    card = card_of(name)
    return card is not None and card.weights is None and not card.dispersion and card.package in ("sevenn", "chgnet")


def to_tune(name: str, asked: str) -> bool:
    """Whether to train a teacher further: `asked` is "tuned", "corrected", or "auto" for tuned where that can be.

    Raises:
        BadInput: It is asked for, and its weights cannot be trained.
    """
    if asked == "tuned" and not tunable(name):
        raise _fixed(name)
    return asked == "tuned" or (asked == "auto" and tunable(name))


def _fixed(name: str) -> BadInput:
    allowed, fix = "sevennet-0, sevennet-l3i5, sevennet-mf-0, chgnet", "--harden.teacher corrected, which suits every teacher"
    return BadInput("--harden.teacher tuned", f"the weights of {name} cannot be trained here", allowed=allowed, fix=fix)


class TunedNet(torch.nn.Module):
    """The energy network of a teacher, a copy with its weights as parameters, and an energy per element: an `EnergyNet`.

    Args:
        teacher: A teacher whose weights can be trained.
        reference: [120] energy by atomic number, eV.
    Raises:
        BadInput: The weights of this teacher cannot be trained here.
    """

    reference: Tensor

    def __init__(self, teacher: Potential, reference: Float[Tensor, " number"] | None = None) -> None:
        super().__init__()
        net: Any = getattr(teacher, "net", None)
        if not hasattr(net, "weights"):
            raise _fixed(teacher.name)
        self.base = net.copied()
        self.teacher, self.teacher_sha256 = teacher.name, model_id(teacher)
        for name, weight in self.base.weights().items():
            self.register_parameter(name.replace(".", "/"), weight.requires_grad_(True))
        self.register_buffer("reference", torch.zeros(120, dtype=torch.float64) if reference is None else reference.double())

    @property
    def cutoff(self) -> float:
        return float(self.base.cutoff)

    @property
    def elements(self) -> frozenset[int]:
        known: frozenset[int] = self.base.elements
        return known

    @property
    def name(self) -> str:
        return f"{self.teacher}, tuned"

    def forward(self, graph: Graph, vectors: Float[Tensor, "edge 3"]) -> Float[Tensor, " atom"]:
        energies: Tensor = self.base(graph, vectors)
        return energies + self.reference[graph.system.numbers].to(energies)

    def potential(self) -> TunedTeacher:
        """The network as a teacher, in its fastest form."""
        self.requires_grad_(False)
        digest = tensors_sha256(*(value for _, value in sorted(self.state_dict().items())))
        return TunedTeacher(base=self.base.potential(name=self.name, sha256=digest), reference=self.reference)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class TunedTeacher:
    """A tuned teacher, as a `CurvedPotential`.

    Attributes:
        base: The teacher with its new weights.
        reference: [120] energy to add by atomic number, eV.
    """

    base: CurvedPotential
    reference: Float[Tensor, " number"]

    @property
    def cutoff(self) -> float:
        return self.base.cutoff

    @property
    def elements(self) -> frozenset[int]:
        return self.base.elements

    @property
    def name(self) -> str:
        return self.base.name

    @property
    def sha256(self) -> str:
        """Of weights and reference energies."""
        return model_id(self.base)

    def __call__(self, graph: Graph) -> Prediction:
        given, system = self.base(graph), graph.system
        added = self.reference.to(given.energy.device)[system.numbers]
        energy = given.energy.index_add(0, system.owner, added.to(given.energy))
        return replace(given, energy=energy, atomic=None if given.atomic is None else given.atomic + added.to(given.atomic))

    def curvature(self, graph: Graph, probes: Float[Tensor, "probe atom 3"]) -> Float[Tensor, "probe atom 3"]:
        return self.base.curvature(graph, probes)


def save_tuned(path: Path, net: TunedNet, provenance: dict[str, Any]) -> str:
    """Write the file, all or nothing; returns the sha256 of its tensors. `provenance`: engine, number of labels, steps."""
    tensors = {name: np.ascontiguousarray(value.detach().cpu().numpy()) for name, value in net.state_dict().items()}
    metadata = {
        "format": FORMAT, "kind": KIND, "settings": {"teacher": net.teacher, "sha256": net.teacher_sha256, "cutoff": net.cutoff},
        "elements": sorted(net.elements), "sha256": tensor_hash(tensors), "provenance": provenance,
    }  # fmt: skip
    write_bytes(path, safetensors.numpy.save(tensors, metadata=sealed("mdistill", json.dumps(metadata, allow_nan=False))))
    return str(metadata["sha256"])


def is_tuned(path: Path) -> bool:
    """Whether a model file holds a tuned teacher."""
    return bool(read_metadata(path)["kind"] == KIND)


def load_tuned(path: Path, *, device: str = "cpu") -> TunedTeacher:
    """Read the file of a tuned teacher.

    Raises:
        BadInput: No such file, damaged, of another kind, or of a teacher whose weights are not those that it began from.
        MissingPackage: The teacher's package is not installed.
    """
    header, tensors = read_tensors(path)
    told = header["settings"]
    if header["kind"] != KIND or not isinstance(told, dict) or not isinstance(told.get("teacher"), str):
        raise BadInput(path, f"a model of kind {header['kind']!r}", allowed=_ALLOWED, fix="name tuned.mdistill of a run")
    if ":" in told["teacher"]:
        raise BadInput(path, f"names the code {told['teacher']!r} as its teacher", allowed="a teacher by name", fix=_AGAIN)
    net = TunedNet(load_teacher(told["teacher"], device=device, subject=f"teacher of {path}"))
    if net.teacher_sha256 != told.get("sha256"):
        problem = f"was trained from other weights of {net.teacher} than those installed"
        raise BadInput(path, problem, allowed="the version of its package that it was made with", fix=_AGAIN)
    expected = net.state_dict()
    if tensors.keys() != expected.keys() or any(tensors[name].shape != value.shape for name, value in expected.items()):
        raise BadInput(path, f"its weights are not those of {net.teacher}", allowed=_ALLOWED, fix=_AGAIN)
    if not all(np.isfinite(value).all() for value in tensors.values()):
        raise BadInput(path, "has weights that are not finite", allowed="finite numbers", fix=_AGAIN)
    net.load_state_dict({name: torch.from_numpy(value) for name, value in tensors.items()})
    return net.potential()
