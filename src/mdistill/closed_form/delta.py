r"""The difference of two levels of theory in closed form: a teacher (or its labels) corrected by a few labels of higher accuracy.

E'(x) = (1 + s) E(x) + Σ_w w_w B_w(x) + Σ_Z n_Z e_Z

E: the teacher's energy   B: invariants of `design_matrix`   s: softening of the teacher, one number   e_Z: offset of element Z
e_Z are fitted first, by least squares, so that another zero of energy is no error. Then energies and forces of all labels are
fitted in one solve (`linear_fit.solve`): s and what is left of e_Z are free, w has a ridge whose strength maximises the
evidence, so that few labels change little. The difference is linear in the features of a linear student, so the correction is
itself a student without hidden layer and costs as little; the same numbers correct stored labels, from which a student of any
kind is refitted. It has no core repulsion: the teacher has its own.

Reference: R. Ramakrishnan et al., J. Chem. Theory Comput. 11, 2087 (2015), doi 10.1021/acs.jctc.5b00099 (Δ-learning).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mdistill.closed_form.design_matrix import Products, design, to_student
from mdistill.closed_form.linear_fit import products_of, solve
from mdistill.closed_form.ridge import NormalEquations
from mdistill.derivatives import Conservative, curvature_products
from mdistill.errors import BadInput
from mdistill.graph import build_graph, cast
from mdistill.nets.model_files import load_net, read_metadata, save_model
from mdistill.nets.network import Student
from mdistill.nets.settings import MomentSettings
from mdistill.runs.identity import model_id, tensors_sha256
from mdistill.training.labels import check_labels, items_of
from mdistill.training.settings import ClosedFormSettings, TrainSettings
from mdistill.types import Graph, LabelledFrame, Potential, Prediction, System

LEAST = {"forces": 0.05, "energy": 1e-3}
"""Smallest noise, eV/Å and eV/atom: one label could be fitted exactly by many weights."""
_AROUND = 24
"""Soft labels, over all and of largest forces, that tell how large the products are where no hard label is."""
SIZE = ClosedFormSettings(second=8, third=4, curvature_frames=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """The fitted difference.

    Attributes:
        softening: s; 0.2 where the teacher's forces are a sixth too small.
        net: w and e_Z as a student without hidden layer.
        effective: Number of weights that the labels determine.
        labels: Number of labels.
    """

    softening: float
    net: Student
    effective: float = 0.0
    labels: int = 0

    def of(self, base: Prediction, system: System) -> Prediction:
        """The corrected prediction of one struct."""
        added = Conservative(self.net)(build_graph(cast(system, dtype=torch.float64), self.net.cutoff))
        factor, stress = 1.0 + self.softening, None
        if base.stress is not None and added.stress is not None:
            stress = factor * base.stress + added.stress.to(base.stress)
        return Prediction(
            energy=factor * base.energy + added.energy.to(base.energy),
            forces=factor * base.forces + added.forces.to(base.forces), stress=stress,
        )  # fmt: skip

    def corrected(self, frame: LabelledFrame) -> LabelledFrame:
        """A labelled frame with its labels (also curvature products) corrected."""
        products = frame.products
        if products is not None and frame.probes is not None:
            products = self._curvature(frame.system, frame.probes, products)
        return replace(frame, target=self.of(frame.target, frame.system), products=products)

    @property
    def name(self) -> str:
        """Of the corrected teacher, after the teacher's."""
        return "corrected"

    @property
    def told(self) -> str:
        """The same with the number of labels."""
        return f"corrected by {self.labels} labels"

    @property
    def how(self) -> str:
        """The same in words, before the level of theory."""
        return "with the fitted difference to"

    def applied(self, teacher: Potential) -> Potential:
        """The teacher with the difference added."""
        return Corrected(teacher, self)

    def _curvature(self, system: System, probes: Tensor, products: Tensor) -> Tensor:
        system = cast(system, dtype=torch.float64)
        added = curvature_products(Conservative(self.net), system, probes.to(system.positions))
        return (1.0 + self.softening) * products + added.to(products)

    def save(self, path: Path, **provenance: Any) -> str:
        """Write a model file; returns its sha256."""
        made = {"softening": self.softening, "effective": self.effective, "labels": self.labels}
        return save_model(path, self.net, provenance | {"delta": made})


def load_delta(path: Path) -> Delta:
    """Read a difference.

    Raises:
        BadInput: Not a model file, or one of another kind.
    """
    made = read_metadata(path)["provenance"].get("delta")
    if not isinstance(made, dict):
        allowed, fix = "a file written with hard labels", "mdistill distill --hard ENGINE writes hard/delta.mdistill"
        raise BadInput(path, "holds no difference of two levels of theory", allowed=allowed, fix=fix)
    net = load_net(path).requires_grad_(False)
    return Delta(softening=float(made["softening"]), net=net, effective=float(made["effective"]), labels=int(made["labels"]))


@dataclass(frozen=True, slots=True)
class Corrected:
    """A potential with a difference added, as a `CurvedPotential`."""

    base: Potential
    delta: Delta

    @property
    def cutoff(self) -> float:
        return self.base.cutoff

    @property
    def elements(self) -> frozenset[int]:
        return self.delta.net.elements

    @property
    def name(self) -> str:
        return f"{self.base.name} + Δ"

    @property
    def sha256(self) -> str:
        """Of the potential and the difference together."""
        parts = [torch.frombuffer(bytearray(model_id(self.base).encode()), dtype=torch.uint8)]
        parts += [torch.tensor(self.delta.softening), *(value for _, value in sorted(self.delta.net.state_dict().items()))]
        return tensors_sha256(*parts)

    def __call__(self, graph: Graph) -> Prediction:
        return self.delta.of(self.base(graph), graph.system)

    def curvature(self, graph: Graph, probes: Float[Tensor, "probe atom 3"]) -> Float[Tensor, "probe atom 3"]:
        return self.delta._curvature(graph.system, probes, curvature_products(self.base, graph.system, probes))


def fit_delta(
    hard: Sequence[LabelledFrame], soft: Sequence[Prediction], settings: TrainSettings, *, around: Sequence[LabelledFrame] = (),
    size: ClosedFormSettings = SIZE,
) -> Delta:  # fmt: skip
    """Fit the difference.

    Args:
        hard: Structures with labels of higher accuracy.
        soft: The teacher's answers for the same structures, in the same order.
        settings: Its cutoff and radial functions are used.
        around: Soft labels of other structures: they set the range of the invariants and the teacher's reference energies.
        size: Number of products.
    Raises:
        BadInput: No labels, labels that are not finite, or another number of answers.
    """
    check_labels(hard)
    if len(hard) != len(soft):
        sizes = f"{len(hard)} labels and {len(soft)} answers of the teacher"
        raise BadInput("hard labels", sizes, allowed="as many", fix="ask the teacher for the same structures")
    answers = [replace(frame, target=one, probes=None, products=None) for frame, one in zip(hard, soft, strict=True)]
    known = [*around, *answers]
    elements = tuple(sorted({int(z) for frame in known for z in frame.system.numbers.unique()}))
    network = settings.network() | {"channels": 1, "hidden": 0}
    items = items_of(known, network["cutoff"], torch.float64)
    products = products_of(MomentSettings(elements=elements, **network), items, size)
    reference = products.net.reference.clone()
    products.net.reference.zero_()
    products.net.core.outer.zero_()
    first, bare = offsets(hard, soft, elements), Conservative(products.net)
    normal = {kind: NormalEquations.empty(1 + len(elements) + products.count) for kind in ("energy", "forces")}
    for frame, answer in zip(hard, soft, strict=True):
        graph = build_graph(cast(frame.system, dtype=torch.float64), products.net.cutoff)
        rows, core, atoms = design(products, graph), bare(graph), frame.system.n_atoms
        counts = torch.bincount(products.net.species(frame.system.numbers), minlength=len(elements)).double()
        if "energy" not in frame.missing:
            binding = answer.energy.double() - counts @ reference
            row = torch.cat([binding, counts, rows.energy]).unsqueeze(0) / atoms
            lacking = frame.target.energy.double() - answer.energy.double() - core.energy - counts @ first
            normal["energy"].add(row, lacking / atoms)
        if "forces" not in frame.missing:
            forces = answer.forces.double().flatten()
            row = torch.cat([forces.unsqueeze(1), forces.new_zeros((len(forces), len(elements))), rows.forces], 1)
            normal["forces"].add(row, frame.target.forces.double().flatten() - forces - core.forces.flatten())
    for one in normal.values():
        one.flush()
    usual = torch.cat([torch.zeros(1 + len(elements), dtype=torch.float64), _usual_square(products, known)])
    rows_of = {k: n for k, n in normal.items() if n.rows}
    return _delta(products, rows_of, (reference, first), len(hard), settings.fit.seed, usual=usual)


def _usual_square(products: Products, frames: Sequence[LabelledFrame]) -> Float[Tensor, " weight"]:
    """Mean square of the forces of each product with unit weight, (eV/Å)²: in frames over all, and in those of largest forces."""
    hottest = sorted(range(len(frames)), key=lambda k: -float(frames[k].target.forces.abs().max()))[:_AROUND]
    evenly = np.linspace(0, len(frames) - 1, min(_AROUND, len(frames))).astype(int).tolist()
    total, rows = torch.zeros(products.count, dtype=torch.float64), 0
    for k in {*hottest, *evenly}:
        forces = design(products, build_graph(cast(frames[k].system, dtype=torch.float64), products.net.cutoff)).forces
        total, rows = total + forces.square().sum(0), rows + len(forces)
    return total / max(rows, 1)


def _delta(
    products: Products, normal: dict[str, NormalEquations], references: tuple[Tensor, Tensor], labels: int, seed: int,
    *, usual: Float[Tensor, " column"],
) -> Delta:  # fmt: skip
    """The solve. `references`: energies per element of the teacher, and the offsets that the labels are given without."""
    elements, (reference, first) = len(references[0]), references
    fitted = solve(normal, 30, free=1 + elements, least=LEAST, usual_square=usual)
    softening, more, weights = fitted.weights.split([1, elements, products.count])
    s = float(softening[0])
    products.net.reference.copy_(first + more - s * reference)
    net = to_student(products, weights, seed=seed).requires_grad_(False)
    net.core.outer.zero_()
    return Delta(softening=s, net=net, effective=fitted.effective, labels=labels)


def offsets(hard: Sequence[LabelledFrame], soft: Sequence[Prediction], elements: Sequence[int]) -> Float[Tensor, " element"]:
    """Energy per element, eV, that is added to soft energies: least squares, the smallest change where compositions leave it
    open; zero without hard energies."""
    known = [k for k, frame in enumerate(hard) if "energy" not in frame.missing]
    if not known:
        return torch.zeros(len(elements), dtype=torch.float64)
    counts = np.array([[float((hard[k].system.numbers == z).sum()) for z in elements] for k in known])
    lacking = np.array([float(hard[k].target.energy[0]) - float(soft[k].energy[0]) for k in known])
    mean = lacking.sum() / counts.sum()
    return torch.from_numpy(mean + np.linalg.lstsq(counts, lacking - mean * counts.sum(1), rcond=1e-8)[0])
