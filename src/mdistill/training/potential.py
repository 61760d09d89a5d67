"""Training of the fast potential on a teacher's labels: energies, forces, stress and curvature products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mdistill.analysis.accuracy import Accuracy, accuracy
from mdistill.derivatives import EnergyNet, energy_forces, predict
from mdistill.errors import BadInput
from mdistill.graph import build_graph
from mdistill.interrupt import NEVER, StopRequest
from mdistill.nets.spline import SplineNet
from mdistill.training.calibrate import calibrate
from mdistill.training.checkpoint import (
    Student,
    StudentSettings,
    load_model,
    load_net,
    network_of,
    read_metadata,
    save_model,
)
from mdistill.training.contacts import EVERY, attraction, contact_dimers
from mdistill.training.fit import fit
from mdistill.training.labels import Item, check_labels, curvature_labels, frames_hash, items_of, join, target_of
from mdistill.training.losses import Term, root_mean_square, total_loss
from mdistill.training.settings import TrainSettings
from mdistill.training.split import split_blocks
from mdistill.training.warm_start import begin_from_linear, is_linear_start
from mdistill.types import Graph, LabelledFrame, Potential, Prediction

MODEL = "student.mdistill"
GRADIENT_EVERY = 4
"""Steps between two looks at the energy gradient of a student with direct forces."""
_PARITY_POINTS = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingResult:
    """What training gave.

    Attributes:
        path: The model file.
        sha256: Of its weights.
        accuracy: Errors on the held-out blocks.
        curvature_error: RMS of H·v − teacher's over RMS of the teacher's on held-out frames; None without such labels.
        parity: Up to a few thousand pairs (teacher, student) per quantity: "force" eV/Å, "energy" eV/atom, "stress" eV/Å³.
        history: Rows of {step, epoch, minutes, train, validation}; measures in eV/atom, eV/Å, eV/Å³, eV/Å².
        parameters: Number of trained numbers.
        train_frames: Frames trained on.
        held_out_frames: Frames held out.
    """

    path: Path
    sha256: str
    accuracy: Accuracy
    curvature_error: float | None
    parity: dict[str, list[tuple[float, float]]]
    history: list[dict[str, Any]]
    parameters: int
    train_frames: int
    held_out_frames: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PotentialObjective:
    """Energy, forces, stress at every step; one curvature product per struct at every n-th step; now and then dimers that
    must not attract each other (`training.contacts`) and, of a student with direct forces, the gradient of its energy."""

    terms: Sequence[Term]
    curvature_every: int
    seed: int
    dimers: Graph | None = None

    def __call__(self, module: torch.nn.Module, batch: Sequence[Item], step: int) -> tuple[Tensor, dict[str, float]]:
        graph = join([item.graph for item in batch])
        frames = [item.frame for item in batch]
        curved = step >= 0 and self.curvature_every > 0 and step % self.curvature_every == 0
        curved = curved and any(frame.products is not None for frame in frames)
        target = target_of(frames, graph.system.positions)
        probes = None
        if curved:
            probe, products, known = curvature_labels(frames, np.random.default_rng([self.seed, step]), graph.system.positions)
            probes, target = probe.unsqueeze(0), replace(target, products=products, has_products=known)
        prediction, found = predict(module, graph, probes=probes, create_graph=step >= 0)  # type: ignore[arg-type]
        atoms = torch.bincount(graph.system.owner, minlength=len(batch)).to(torch.float64)
        gradient = self._energy_gradient(module, graph, step)
        loss, errors = total_loss(self.terms, prediction, found, target, atoms, gradient=gradient)
        if self.dimers is not None and step >= 0 and step % EVERY == 1:
            loss = loss + EVERY * attraction(module, self.dimers)  # type: ignore[arg-type]
        return loss, errors

    def _energy_gradient(self, module: torch.nn.Module, graph: Graph, step: int) -> Tensor | None:
        if (step >= 0 and step % GRADIENT_EVERY) or all(term.quantity != "energy gradient" for term in self.terms):
            return None
        return energy_forces(module, graph, create_graph=step >= 0)  # type: ignore[arg-type]

    def describe(self, measures: dict[str, float]) -> str:
        force, energy = (1e3 * measures.get(name, float("nan")) for name in ("forces", "energy"))
        return f"force MAE {force:.0f} meV/Å, energy {energy:.1f} meV/atom"


def train_potential(
    frames: Sequence[LabelledFrame],
    settings: TrainSettings,
    folder: Path,
    *,
    stop: StopRequest = NEVER,
    start_from: Path | None = None,
    provenance: dict[str, Any] | None = None,
) -> TrainingResult:
    """Train a potential; writes `student.mdistill`, `training.ckpt` and `history.json` into the folder, or resumes.

    Reference energies are fitted first, the core begins at the closest labels, whole time blocks are held out.

    Args:
        frames, settings: Labelled structures; how.
        folder, stop: Where; asked between steps.
        start_from: A model file of the same elements and size to start from (refit), or a closed-form student with the same
            invariants (`training.warm_start`); None to start afresh.
        provenance: Kept in the model file: teacher, commit, …
    Raises:
        BadInput: Frames that are not finite, nothing to hold out, a start_from of another size or other elements.
        MdistillError: Training diverged, or the disk is full.
        Interrupted: Stopped on request, after saving.
    """
    check_labels(frames)
    train, held_out = split_blocks(frames, held_out=settings.held_out)
    dtype = torch.float64 if settings.float64 else torch.float32
    elements = tuple(sorted({int(z) for frame in frames for z in frame.system.numbers.unique()}))
    net, linear = _start(settings.student(elements), settings.fit.seed, start_from)
    items, held_items = items_of(train, net.cutoff, dtype), items_of(held_out, net.cutoff, dtype)
    calibrate(net, items, fresh=start_from is None or linear is not None)
    if linear is not None and start_from is not None and isinstance(net, SplineNet):
        begin_from_linear(net, linear, items, path=start_from)
    terms = loss_terms(train, settings)
    objective = PotentialObjective(
        terms=terms, curvature_every=settings.curvature_every, seed=settings.fit.seed, dimers=contact_dimers(net, dtype)
    )
    begun = "" if start_from is None else read_metadata(start_from)["sha256"]
    identity = f"{settings} {frames_hash(train)} {frames_hash(held_out)} {begun}"
    how, net = settings.fit.suited(settings.net), net.in_type(dtype)
    result = fit(net, objective, items, held_items, how, folder=folder, stop=stop, identity=identity, title="train")
    path = Path(folder) / MODEL
    made_from = (provenance or {}) | {
        "train_frames": len(train),
        "held_out_frames": len(held_out),
        "steps": result.steps,
        "settings": asdict(settings),
    }
    digest = save_model(path, result.module.folded(), made_from)
    potential = load_model(path)
    predictions = evaluate(potential, held_out)
    return TrainingResult(
        path=path,
        sha256=digest,
        accuracy=accuracy(held_out, predictions),
        curvature_error=curvature_error(potential.net, held_out),
        parity=parity(held_out, predictions),
        history=result.history,
        parameters=sum(p.numel() for p in net.parameters()),
        train_frames=len(train),
        held_out_frames=len(held_out),
    )


def evaluate(potential: Potential, frames: Sequence[LabelledFrame]) -> list[Prediction]:
    """What a potential says of every frame, one by one in order; `analysis.accuracy.accuracy` compares it with the labels."""
    return [potential(build_graph(frame.system, potential.cutoff)) for frame in frames]


def curvature_error(net: EnergyNet, frames: Sequence[LabelledFrame]) -> float | None:
    """RMS of H·v − label over RMS of the labels, all frames and probes together; None where no frame has such labels."""
    wrong, size = 0.0, 0.0
    for frame in frames:
        if frame.probes is not None and frame.products is not None:
            found = predict(net, build_graph(frame.system, net.cutoff), probes=frame.probes)[1].detach()
            wrong += float((found - frame.products).square().sum())
            size += float(frame.products.square().sum())
    return None if size == 0.0 else (wrong / size) ** 0.5


def loss_terms(frames: Sequence[LabelledFrame], settings: TrainSettings) -> list[Term]:
    """The terms, each over the teacher's own scale; energies are weighed against forces through a length of 1 Å."""
    force = max(root_mean_square(torch.cat([f.target.forces for f in frames])), 1e-6)
    terms = [
        Term(quantity="forces", norm="length", weight=settings.force_weight, scale=force),
        Term(quantity="energy", norm="absolute", weight=settings.energy_weight, scale=force),
    ]
    if settings.net == "painn" and settings.painn.direct and settings.energy_gradient_weight > 0.0:
        weight = GRADIENT_EVERY * settings.energy_gradient_weight
        terms.append(Term(quantity="energy gradient", norm="length", weight=weight, scale=force))
    stress = [f.target.stress for f in frames if f.target.stress is not None]
    if stress:
        scale = max(root_mean_square(torch.cat(stress)), 1e-6)
        terms.append(Term(quantity="stress", norm="absolute", weight=settings.stress_weight, scale=scale))
    products = [f.products.flatten(0, 1) for f in frames if f.products is not None]
    if products and settings.curvature_every:
        scale = max(root_mean_square(torch.cat(products)), 1e-6)
        terms.append(Term(quantity="curvature", norm="length", weight=settings.curvature_weight, scale=scale))
    return terms


def parity(frames: Sequence[LabelledFrame], predictions: Sequence[Prediction]) -> dict[str, list[tuple[float, float]]]:
    """Pairs (label, prediction) for a parity plot, thinned evenly: "force" eV/Å, "energy" eV/atom, "stress" eV/Å³."""
    pairs: dict[str, list[Tensor]] = {"force": [], "energy": [], "stress": []}
    for frame, found in zip(frames, predictions, strict=True):
        label = frame.target
        pairs["force"].append(torch.stack([label.forces.flatten(), found.forces.flatten()], 1))
        pairs["energy"].append(torch.stack([label.energy, found.energy], 1) / frame.system.n_atoms)
        if label.stress is not None and found.stress is not None:
            pairs["stress"].append(torch.stack([label.stress.flatten(), found.stress.flatten()], 1))
    return {name: _thinned(torch.cat(rows)) for name, rows in pairs.items() if rows}


def _thinned(rows: Tensor) -> list[tuple[float, float]]:
    stride = -(-len(rows) // _PARITY_POINTS)
    return [(float(x), float(y)) for x, y in rows[::stride].tolist()]


def _start(size: StudentSettings, seed: int, start_from: Path | None) -> tuple[Student, SplineNet | None]:
    """The network to train, and the linear student it begins as, if it does."""
    if start_from is None:
        return network_of(size, seed=seed), None
    net = load_net(start_from)
    if is_linear_start(net.settings, size) and isinstance(net, SplineNet):
        return network_of(size, seed=seed), net
    if net.settings != size:
        raise BadInput(
            start_from,
            f"was trained with {net.settings}",
            allowed=f"{size}",
            fix="train afresh, or with its settings and elements",
        )
    return net, None
